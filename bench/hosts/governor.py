"""Holds a machine's governor for as long as it is measured. The far side is `govern.py`."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.errors import HostError, Unreachable
from bench.hosts.base import Host, Link

WORD = b"DEPLOYBENCH "
ANSWER_S = 30.0
BEAT_S = 5.0


@contextmanager
def governed(host: Host, wanted: str, files: str = "") -> Iterator[None]:
    """With this governor on every CPU; what was there before is set again, also when we or the link break off.

    `files`: a pattern of the files to write, in tests.

    Raises:
        HostError: it cannot be set there; the message says why.
    """
    program = (Path(__file__).parent / "govern.py").read_text()
    link = host.start([host.python, "-I", "-c", program, wanted, *([files] if files else [])])
    over = threading.Event()
    beat = threading.Thread(target=_beat, args=(link, over), daemon=True)
    try:
        _check(link, wanted)
        beat.start()
        yield
    finally:
        over.set()
        if beat.ident:
            beat.join()
        link.close()  # the end of its input: it sets back what was, and we wait for that


def _check(link: Link, wanted: str) -> None:
    said = b""
    while WORD not in said or not said.endswith(b"\n"):
        if not select.select([link.read_fd], [], [], ANSWER_S)[0]:
            raise Unreachable(f"the governor {wanted} could not be set: no answer", link.said())
        data = os.read(link.read_fd, 4096)
        if not data:
            raise HostError(f"the governor {wanted} could not be set", link.said())
        said += data
    word = said.rpartition(WORD)[2].decode("utf-8", "replace").strip()
    if word != "set":
        raise HostError(
            f"the governor {wanted} could not be set: {word.removeprefix('error ')}", "leave out --governor"
        )


def _beat(link: Link, over: threading.Event) -> None:
    while not over.wait(BEAT_S):
        try:
            os.write(link.write_fd, b".")
        except OSError:
            return  # the measurement finds out, and says so
