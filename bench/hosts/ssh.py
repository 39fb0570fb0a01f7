"""A machine reached by the system's OpenSSH client: its configuration, keys, agent, jump hosts and known hosts hold.

One shared connection per host, made first and closed last. What we add to the user's own settings only makes failures
seen: no questions are asked, a silent link is noticed. How host keys are checked is never touched.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bench.archive import unpack
from bench.errors import BackendUnavailable, HostError, Timeout, Unreachable
from bench.hosts.base import Completed, Host, Link
from bench.hosts.local import LocalHost, PipeLink
from bench.hosts.upload import Inventory, Upload, inventory
from bench.scratch import Scratch

CONNECT_S = 15
# A link that says nothing is given up after three times this.
ALIVE_S = 5
# The shared connection outlives us by so much at most, when we are killed.
PERSIST_S = 30
SURVEY_LIMIT_S = 60.0
LOST = 255
WORD = "DEPLOYBENCH "
OPTIONS = (
    "BatchMode=yes", f"ConnectTimeout={CONNECT_S}", f"ServerAliveInterval={ALIVE_S}", "ServerAliveCountMax=3",
    "ClearAllForwardings=yes", "ForwardAgent=no", "ForwardX11=no", "RequestTTY=no", "RemoteCommand=none",
    "PermitLocalCommand=no", "EscapeChar=none",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Login:
    """How a host is reached: what ssh is told, its configuration file if not the usual one, and our name for it."""

    destination: str
    label: str
    config: str = ""


@dataclass(frozen=True, slots=True)
class Survey:
    """What `survey.py` found there. `objects`: the bytes of each that is there."""

    arch: str
    bits: int
    python: str
    implementation: str
    abi: str
    executable: str
    libc: str
    cache: str
    free_bytes: int | None
    writable: bool
    objects: Mapping[str, int]
    boot: str
    time_s: float
    system: str


class SshHost(Host):
    """One machine behind ssh. Used by several threads; `close` ends the shared connection."""

    name = "ssh"

    def __init__(
        self,
        login: Login,
        *,
        python: str = "python3",
        cache: str = "",
        environment: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.login, self._python, self._cache, self._say = login, python, cache, say
        self._environment = dict(environment or {})
        self._scratch = Scratch("dbssh-", _short_folder())
        self._folder = self._scratch.path
        self._socket = self._folder / "s"
        self._making = threading.RLock()
        self._survey: Survey | None = None
        self._there: set[str] = set()
        self.sent_bytes = 0

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float) -> Completed:
        self._connect()
        try:
            done = LocalHost(self._folder).run(self._command(argv), stdin=stdin, timeout_s=timeout_s)
        except Timeout as error:
            raise Timeout(f"{argv[0]} on {self.login.label} took longer than {timeout_s:g} s") from error
        if done.code == LOST:
            raise self._explained(done.stderr)
        return done

    def start(self, argv: Sequence[str]) -> Link:
        self._connect()
        return PipeLink(self._command(argv))

    def put(self, source: Path, key: str, files: Sequence[str] = ()) -> PurePosixPath:
        return self._put(source, key, files)

    def put_wheel(self, source: Path, sha256: str) -> PurePosixPath:
        """The folder, there, of a wheel's content.

        The wheel is checked there before it is unpacked, and its unpacked files before they are used again.
        """
        return self._put(source, f"wheel-{sha256}", (), sha256)

    def get(self, path: PurePosixPath, target: Path) -> None:
        program = "import sys, tarfile; t = tarfile.open(fileobj=sys.stdout.buffer, mode='w|'); t.add(sys.argv[1], 'x')"
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
            done = self.run([self._python, "-I", "-c", f"{program}; t.close()", str(path)], timeout_s=600)
            if done.code:
                raise HostError(f"{path.name} could not be fetched from {self.login.label}", done.stderr.strip())
            try:
                unpack(done.stdout, Path(folder))
            except tarfile.TarError as error:
                raise HostError(f"what came back is no archive: {error}") from error
            Path(folder, "x").rename(target)

    @property
    def python(self) -> str:
        return self._python

    @property
    def workspace(self) -> PurePosixPath:
        return PurePosixPath(self.survey().cache, "work")

    def survey(self) -> Survey:
        """What the machine is, asked once.

        Raises:
            HostError: it cannot be reached, or it has no Python that could say.
        """
        with self._making:
            if self._survey is None:
                self._survey = self._asked()
            return self._survey

    def forget(self) -> None:
        """Ask again what is there: it was cleaned, or it may have been another machine's since."""
        with self._making:
            self._survey, self._there = None, set()

    def close(self) -> None:
        """End the shared connection. Calling it again does nothing."""
        self._ssh("-O", "exit", limit_s=5)
        self._scratch.remove()

    def _asked(self) -> Survey:
        program = (Path(__file__).parent / "survey.py").read_text()
        done = self.run([self._python, "-I", "-c", program, self._cache], timeout_s=SURVEY_LIMIT_S)
        where = self.login.label
        if done.code in (126, 127):
            message = f"{where} has no {self._python}"
            raise HostError(message, "install Python 3.10 or newer there, or name one in devices.toml: python = ...")
        lines = [line for line in done.stdout.decode("utf-8", "replace").splitlines() if line.startswith(WORD)]
        if not lines:
            raise HostError(f"{self._python} on {where} did not answer", done.stderr.strip()[-500:])
        facts: dict[str, Any] = json.loads(lines[-1].removeprefix(WORD))
        return Survey(**facts)

    def _put(self, source: Path, key: str, files: Sequence[str], sha256: str = "") -> PurePosixPath:
        self._connect()
        survey = require(self.survey(), self.login.label)
        root = PurePosixPath(survey.cache)
        # What we put there and what we are told is there lie in a folder of their own, named by kind of content.
        key = re.sub(r"[^A-Za-z0-9._-]", "_", key)
        there = root / "objects" / key
        found = inventory(source, files)
        with self._making:
            # A power cut may leave files without their ends there: what is shorter than it should be, is not there.
            whole = not sha256 and survey.objects.get(key) == sum(size for _, size, _ in found)
            if key not in self._there and not whole:
                program = (Path(__file__).parent / "receive.py").read_text()
                link = self.start([self._python, "-I", "-c", program, str(root)])
                upload = Upload(link, self.login.label, source, _what(source, found), self._say)
                self.sent_bytes += upload.send(key, found, sha256=sha256)
            self._there.add(key)
        return there / found[0][0] if source.is_file() and not sha256 else there

    def _connect(self) -> None:
        """Make the shared connection, unless it is there. Behind a new one may be a machine that was started anew."""
        with self._making:
            if self._socket.exists():
                return
            self.forget()
            done = self._ssh("-M", "-N", "-f", limit_s=CONNECT_S * 3)
            if done is None or done.code:
                raise self._explained(done.stderr if done else "Connection timed out")

    def _ssh(self, *words: str, limit_s: float) -> Completed | None:
        """The client itself, which may go on in the background: so its words go to a file, not to a pipe."""
        with tempfile.TemporaryFile() as said:
            argv = [*self._client(), "-o", f"ControlPersist={PERSIST_S}", *words, "--", self.login.destination]
            try:
                process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
                )
            except OSError as error:
                raise BackendUnavailable("there is no ssh here", "install OpenSSH's client") from error
            try:
                code = process.wait(limit_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return None
            said.seek(0)
            return Completed(code, b"", said.read()[-4096:].decode("utf-8", "replace"))

    def _client(self) -> list[str]:
        config = ["-F", self.login.config] if self.login.config else []
        return ["ssh", *config, "-S", str(self._socket), *(w for option in OPTIONS for w in ("-o", option))]

    def _command(self, argv: Sequence[str]) -> list[str]:
        """The client's arguments that run a command there. A shell reads it there: every word is quoted for it."""
        variables = [f"{name}={value}" for name, value in self._environment.items()]
        words = ["env", *variables, *argv] if variables else list(argv)
        return [*self._client(), "-o", "ControlMaster=no", "--", self.login.destination, f"exec {shlex.join(words)}"]

    def _explained(self, said: str) -> HostError:
        return explain(said, self.login.label)


def require(survey: Survey, label: str) -> Survey:
    """The survey of a machine on which workers can run.

    Raises:
        HostError: they cannot; the hint says what would help.
    """
    version = tuple(int(part) for part in survey.python.split(".")[:2])
    if survey.bits == 32:
        message = f"{label} runs a 32-bit system ({survey.arch})"
        raise HostError(message, "no runtime publishes wheels for it: install a 64-bit system, most boards can run one")
    if version < (3, 10):
        message = f"{label} has Python {survey.python}, a worker needs 3.10 or newer"
        raise HostError(message, "install one beside it and name it in devices.toml: python = ...")
    if survey.system != "Linux":
        raise HostError(f"{label} runs {survey.system}", "only Linux is supported")
    if not survey.writable:
        message = f"{label}: {survey.cache} cannot be written to"
        raise HostError(message, "name another folder in devices.toml: cache = ...")
    return survey


# What ssh prints, what it means, and what would help. The first that fits. Those of the first class pass by themselves.
# Source: OpenSSH 9.2, ssh(1) and sshconnect.c.
_SAYINGS: tuple[tuple[str, type[HostError], str, str], ...] = (
    (r"REMOTE HOST IDENTIFICATION HAS CHANGED|host key for .* has changed", HostError, "the host key of {} has changed",
     "if it was set up anew: remove the old key with ssh-keygen -R, and log in once by hand to see the new one; "
     "if not, somebody may be listening"),
    (r"Host key verification failed|No .* host key is known", HostError, "the host key of {} is not known",
     "log in once by hand, with `ssh`, to see and accept it"),
    (r"Permission denied|Too many authentication failures|no mutual signature|passphrase", HostError,
     "{} did not let us in", "`ssh` must work there without a question: ssh-copy-id, or ssh-add for a key with a "
     "passphrase"),
    (r"Could not resolve hostname|Name or service not known", HostError, "there is no device {}: ssh does not know it",
     "`local` is this machine; others: `deploybench devices`, and every name that ssh takes"),
    (r"Bad configuration option|terminating, .* bad configuration|Can't open user config|hostname contains invalid",
     HostError, "ssh does not accept how {} is configured", ""),
    (r"Connection refused", Unreachable, "{} refused the connection", "is it up, and does its ssh server run?"),
    (r"timed out|No route to host|Network is (unreachable|down)|Host is down", Unreachable, "{} does not answer",
     "is it switched on, and on this network?"),
    (r"Connection (reset|closed)|closed by remote|Broken pipe|lost connection|kex_exchange|mux_client|not responding",
     Unreachable, "the link to {} was lost", "it was switched off, restarted, or its network failed"),
)  # fmt: skip


def explain(said: str, label: str) -> HostError:
    """What ssh's own words mean. `Unreachable` where trying again may help."""
    last = next((line for line in reversed(said.strip().splitlines()) if line.strip()), "")
    for pattern, kind, message, hint in _SAYINGS:
        if re.search(pattern, said, re.IGNORECASE):
            return kind(message.format(label), hint or f"ssh said: {last}")
    return Unreachable(f"the link to {label} failed", f"ssh said: {last}" if last else "ssh did not say why")


def _short_folder() -> str | None:
    """Where a socket's path stays short: the kernel takes no more than 107 bytes of it."""
    usual = tempfile.gettempdir()
    return usual if len(usual) < 60 else "/tmp"


def _what(source: Path, files: Inventory) -> str:
    """What a person calls it: a wheel is its name and version, a folder its first file."""
    name = source.name if source.is_file() else files[0][0] if files else source.name
    return " ".join(name.split("-")[:2]) if name.endswith(".whl") else name
