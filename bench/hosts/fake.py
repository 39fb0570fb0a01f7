"""This machine behind a link with faults, for tests of everything that a real link can do to us. A fake, and called so.

Device names: `fake:` alone is a good link; `fake:refuse` cannot be reached; `fake:banner` prints like a login shell;
`fake:cut=N` is lost after N bytes came back; `fake:garbage` answers with something else.

`fake:machine=NAME` is a machine of its own: it has its own lease, so two of them measure at once, as two real ones do,
and their processes see what they do to each other as others' load. What its system tells of itself lies in
`machines/NAME` below the workspace, where tests put more of it: clocks, kinds of cores, another boot.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bench.errors import Unreachable, UsageError
from bench.hosts.base import Completed, Host, Link

BOOT = "proc/sys/kernel/random/boot_id"
BANNER = b"Welcome to fakeOS 1.0\n\x93DBENC is not yet the magic\nLast login: never\n"
RELAY_BYTES = 1 << 16
RELAY_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Faults:
    """What the link does wrong."""

    refuse: bool = False
    banner: bool = False
    garbage: bool = False
    cut_bytes: int | None = None
    machine: str = ""


def parse_faults(text: str) -> Faults:
    """The faults in a device's name, separated by commas.

    Raises:
        UsageError: an unknown one.
    """
    known: dict[str, object] = {}
    for word in filter(None, text.split(",")):
        name, _, value = word.partition("=")
        if name in ("refuse", "banner", "garbage") and not value:
            known[name] = True
        elif name == "cut" and value.isdigit():
            known["cut_bytes"] = int(value)
        elif name == "machine" and re.fullmatch(r"[A-Za-z0-9_-]{1,40}", value):
            known["machine"] = value
        else:
            known_words = "known: refuse, banner, garbage, cut=BYTES, machine=NAME"
            raise UsageError(f"the fake device knows no fault {word!r}", known_words)
    return Faults(**known)  # type: ignore[arg-type]


class FakeHost(Host):
    """Another host, with faults in between."""

    name = "fake"

    def __init__(self, inner: Host, faults: Faults) -> None:
        self._inner, self._faults = inner, faults

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float) -> Completed:
        self._refuse()
        return self._inner.run(argv, stdin=stdin, timeout_s=timeout_s)

    def start(self, argv: Sequence[str]) -> Link:
        self._refuse()
        return FaultyLink(self._inner.start(argv), self._faults)

    def put(self, source: Path, key: str, files: Sequence[str] = ()) -> PurePosixPath:
        return self._inner.put(source, key, files)

    def get(self, path: PurePosixPath, target: Path) -> None:
        self._inner.get(path, target)

    @property
    def root(self) -> str:
        name = self._faults.machine
        if not name:
            return self._inner.root
        root = Path(self.workspace).absolute() / "machines" / name
        identity = hashlib.sha256(name.encode()).hexdigest()[:32]
        for path, text in ((root / BOOT, str(uuid.UUID(identity))), (root / "etc/machine-id", identity)):
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{text}\n")
        return str(root)

    @property
    def python(self) -> str:
        return self._inner.python

    @property
    def workspace(self) -> PurePosixPath:
        return self._inner.workspace

    def _refuse(self) -> None:
        if self._faults.refuse:
            raise Unreachable("the fake device refused the connection", "use another device")


class FaultyLink:
    """Relays what comes back, with a banner before it, garbage instead of it, or only so much of it."""

    def __init__(self, inner: Link, faults: Faults) -> None:
        self._inner, self._faults = inner, faults
        self.read_fd, relay_fd = os.pipe()
        self.write_fd = os.dup(inner.write_fd)
        # The thread has ends of its own: nobody closes under its hands what may be another file a moment later.
        ends = os.dup(inner.read_fd), relay_fd
        self._relay = threading.Thread(target=self._carry, args=ends, daemon=True)
        self._relay.start()

    def _carry(self, source: int, sink: int) -> None:
        left = self._faults.cut_bytes
        try:
            if self._faults.banner:
                os.write(sink, BANNER)
            while data := os.read(source, RELAY_BYTES):
                data = bytes(len(data)) if self._faults.garbage else data
                os.write(sink, data if left is None else data[:left])
                left = None if left is None else left - len(data)
                if left is not None and left <= 0:
                    break
        except OSError:
            pass  # either side has gone; closing ours tells the reader
        finally:
            os.close(source)
            os.close(sink)

    def close(self) -> None:
        if self.write_fd >= 0:
            os.close(self.write_fd)
            os.close(self.read_fd)
            self.write_fd = self.read_fd = -1
            self._inner.close()
            self._relay.join(RELAY_LIMIT_S)

    def said(self) -> str:
        return self._inner.said()
