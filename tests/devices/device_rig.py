"""Machines to test against: a real sshd on loopback, an emulated ARM board, and a relay that does to a link what
networks do. Used by the tests beside it and by `tests/benchmarks/link_*.py`.
"""

from __future__ import annotations

import ctypes
import getpass
import hashlib
import json
import os
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from datetime import datetime
from pathlib import Path

SCRIPT = Path(__file__).parent / "armboard.sh"
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
SFTP = "/usr/lib/openssh/sftp-server"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def without_sshd() -> str:
    """Why no native sshd can be had, or empty."""
    if SSHD is None or shutil.which("ssh") is None:
        return "no sshd here: apt install openssh-server"
    return ""


def without_armboard() -> str:
    """Why no emulated board can be had, or empty."""
    if os.geteuid() != 0:
        return "an emulated ARM board takes root"
    if not Path("/usr/bin/qemu-aarch64-static").exists():
        return "no qemu here: apt install qemu-user-static"
    if not Path("/proc/sys/fs/binfmt_misc").exists():
        return "this kernel has no binfmt_misc"
    return _without_packages() or without_sshd()


def without_arm_vm() -> str:
    """Why no whole emulated machine can be had, or empty."""
    if os.geteuid() != 0:
        return "the disk of an emulated ARM machine is made as root"
    for program, package in (("qemu-system-aarch64", "qemu-system-arm"), ("cpio", "cpio"), ("mke2fs", "e2fsprogs")):
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
            return f"no {program} here: apt install {package}"
    return _without_packages() or without_sshd()


def _without_packages() -> str:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return "the board is made of Debian's packages: no apt-get here"
    return ""


class Sshd:
    """An sshd of our own on loopback, for the user that runs it; strict host keys, one key that may log in."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("hostkey", "otherkey", "id", "stranger"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        (folder / "allowed").write_text((folder / "id.pub").read_text())
        (folder / "allowed").chmod(0o600)
        self._write()
        self.process: subprocess.Popen | None = None
        self.start()

    def _write(self) -> None:
        (self.folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder}/hostkey\nUsePAM no\nPidFile none\n"
            f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nStrictModes no\nMaxStartups 100\n"
            f"AuthorizedKeysFile {self.folder}/allowed\nSubsystem sftp {SFTP}\n"
        )

    def start(self) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", self.folder / "sshd_config"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, preexec_fn=_die_with_us,
        )  # fmt: skip
        log.close()
        wait_for_port(self.port)

    def stop(self) -> None:
        """No more logins; those that are stay."""
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def config(self, name: str, port: int | None = None, *, key: str = "id", host_key: str = "hostkey") -> Path:
        """An ssh configuration in which `name` is this machine, perhaps by another port, key or known host key."""
        port = port or self.port
        known = self.folder / f"known_{name}"
        known.write_text(f"[127.0.0.1]:{port} {' '.join((self.folder / f'{host_key}.pub').read_text().split()[:2])}\n")
        path = self.folder / f"config_{name}"
        path.write_text(
            f"Host {name}\n HostName 127.0.0.1\n Port {port}\n User {getpass.getuser()}\n IdentitiesOnly yes\n"
            f" IdentityFile {self.folder}/{key}\n UserKnownHostsFile {known}\n GlobalKnownHostsFile /dev/null\n"
            " StrictHostKeyChecking yes\n"
        )
        return path


class ArmBoard:
    """The emulated board, bare: Debian's arm64 python3 and sshd."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "hostkey").exists():
            subprocess.run([SCRIPT, "setup", folder], check=True, timeout=240, stdin=subprocess.DEVNULL)
        self.port = 0

    def start(self, cpu: str) -> Path:
        """Boot it with this CPU; the ssh configuration in which `armboard` is it."""
        self.port = free_port()
        subprocess.run([SCRIPT, "start", self.folder, str(self.port), cpu], check=True, timeout=60)
        return self.folder / "ssh_config"

    def stop(self) -> None:
        if self.port:
            subprocess.run([SCRIPT, "stop", self.folder], check=True, timeout=60)
            self.port = 0


class ArmVm:
    """A whole emulated machine from the same root: its own kernel, processors, memory and disk. By qemu, never KVM."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.on = folder, free_port(), False
        for step in ("setup", "disk"):
            subprocess.run([SCRIPT, step, folder], check=True, timeout=240, stdin=subprocess.DEVNULL)

    def boot(self) -> Path:
        """Switch it on, always on the same port; the ssh configuration in which `armboard` is it."""
        self.on = True
        subprocess.run([SCRIPT, "boot", self.folder, str(self.port), "cortex-a72"], check=True, timeout=300)
        return self.folder / "ssh_config"

    def cut_power(self) -> None:
        """At once, whatever it is doing: what its kernel has not written to the disk is lost."""
        if self.on:
            subprocess.run([SCRIPT, "halt", self.folder], check=True, timeout=60)
            self.on = False


def _die_with_us() -> None:
    """A test session that is killed leaves no server behind (Linux: PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def wait_for_port(port: int, limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"nobody listens on port {port}")


class Relay:
    """Carries connections to a port. `kill` resets them, `drop` silences them for good, `freeze` for a while."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._pairs: list[tuple[socket.socket, socket.socket, threading.Event]] = []
        self._changing = threading.Lock()
        self.carried_bytes = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def kill(self) -> None:
        with self._changing:
            pairs, self._pairs = self._pairs, []
        for near, far, _ in pairs:
            for end in (near, far):
                _reset(end)

    def drop(self) -> None:
        """Nothing comes through any more, and nobody is told; connections that come later are fine."""
        with self._changing:
            pairs, self._pairs = self._pairs, []
        for _, _, goes in pairs:
            goes.clear()

    def freeze(self, seconds: float) -> None:
        with self._changing:
            pairs = list(self._pairs)
        for _, _, goes in pairs:
            goes.clear()
        time.sleep(seconds)
        for _, _, goes in pairs:
            goes.set()

    def close(self) -> None:
        if self._listener.fileno() >= 0:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept, and keeps the port open
            self._listener.close()
        self.kill()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # closed
            try:
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                _reset(near)
                continue
            goes = threading.Event()
            goes.set()
            with self._changing:
                self._pairs.append((near, far, goes))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, sink, goes), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, goes: threading.Event) -> None:
        try:
            while data := source.recv(1 << 16):
                goes.wait()
                sink.sendall(data)
                self.carried_bytes += len(data)
            goes.wait()
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def _reset(end: socket.socket) -> None:
    try:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    end.close()


def processes(mark: str) -> list[int]:
    """Processes, other than zombies and ourselves, whose command line holds this text."""
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = Path(entry.path, "cmdline").read_bytes()
            state = Path(entry.path, "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if mark.encode() in words and state != "Z":
            found.append(int(entry.name))
    return found


def board_processes(mark: str | Path) -> list[int]:
    """What of ours runs on a board of this machine: programs of a bare interpreter that name its cache, say.

    The near side's ssh, and the test that made it, name it as well.
    """
    return [pid for pid in processes(str(mark)) if _program(pid) == "python" and _is_ours(pid)]


def _program(pid: int) -> str:
    try:
        name = Path(os.readlink(f"/proc/{pid}/exe")).name
    except OSError:
        return ""
    return "python" if name.startswith(("python", "qemu-aarch64")) else name


def _is_ours(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"-I" in words and b"-c" in words


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def scratch() -> Path:
    return Path(tempfile.mkdtemp(prefix="db-rig-"))


PYTHON = shlex.quote(sys.executable)  # for scripts: a checkout may lie in a folder with a space in its name
# One short trial, whoever else is busy.
FAST = ("--trials", "1", "--max-time", "0.2", "--min-time", "0.05", "--max-foreign-cpu", "1")


def records(cli):
    """All records of the test's own folder."""
    return [json.loads(line) for line in cli("report", "--json").stdout.splitlines()]


def eventually(true, limit_s=30.0):
    """Whether it comes true in time."""
    end = time.monotonic() + limit_s
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(true())


def assert_right_in_fp32(record):
    """The promise of a record from a board: ONNX Runtime's answers, made here, at fp32's tolerances."""
    assert record["status"] == "ok", record["why"]
    parity = record["parity"]
    assert parity["passed"]
    assert parity["tolerance"]["name"] == "fp32"
    assert parity["reference"]["producer"] == "onnxruntime"
    assert max(o["max_rel_scale"] for o in parity["outputs"]) <= 1e-5


def spans(cli, of):
    """By device when its trials began, and for how long they surely went on, in seconds."""
    found = {}
    for path in cli.folder.glob("results/records/*/*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        devices = {line["id"]: line["case"]["device"] for line in lines if "case" in line}
        for line in lines:
            if "index" in line and "observed" in line:
                begin = datetime.fromisoformat(line["started_at"]).timestamp()
                found.setdefault(devices[line["id"]], []).append((begin, begin + line["observed"]["seconds"]))
    return {device: sorted(found[device]) for device in of}


def fake(cli, model, device, *more):
    """`run` of a model on `fake` on a device."""
    return cli("run", model, "--batch", "1", "-b", "fake", "--device", device, *FAST, *more)


class MemoryLimit:
    """A control group of the kernel whose processes get no more memory; takes root."""

    def __init__(self, limit_bytes: int) -> None:
        one, two = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
        root, name, swap = (
            (one, "memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
            if one.is_dir()
            else (two, "memory.max", "memory.swap.max")
        )
        self.folder = root / f"db-rig-{os.getpid()}-{time.monotonic_ns()}"
        self.folder.mkdir()
        (self.folder / name).write_text(str(limit_bytes))
        if (self.folder / swap).exists():
            (self.folder / swap).write_text(str(limit_bytes) if one.is_dir() else "0")

    def python(self, folder: Path) -> Path:
        """An interpreter that runs in it, as a board's."""
        return script(
            folder / "python-in-a-small-memory", f"echo $$ > {self.folder}/cgroup.procs", f'exec {PYTHON} "$@"'
        )

    def close(self) -> None:
        self.folder.rmdir()


def without_memory_limit() -> str:
    """Why no memory can be limited, or empty."""
    if os.geteuid() != 0:
        return "limiting memory takes root"
    one = Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")
    two = Path("/sys/fs/cgroup/cgroup.controllers")
    return "" if one.exists() or (two.exists() and "memory" in two.read_text().split()) else "no memory control groups"


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def toy_wheel(folder: Path, files: dict[str, bytes]) -> Path:
    """A wheel of a package `toy`, for every machine."""
    path = folder / "toy-1.0-py3-none-any.whl"
    info = {
        "toy-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n",
        "toy-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (files | info).items():
            archive.writestr(name, data)
    return path


def script(path: Path, *lines: str) -> Path:
    """A program of the shell."""
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


# Runs what a bare interpreter is given with `-I -c`, by a clock that is years behind and jumps at every look.
CLOCK = """
import sys, time
sys.executable, program, sys.argv = sys.argv[1], sys.argv[4], ["-c", *sys.argv[5:]]
real, looks = time.time, [0]
def jumping():
    looks[0] += 1
    return real() - 20 * 365 * 86400 + 86400 * (looks[0] % 3)
time.time = jumping
exec(compile(program, "program", "exec"), {"__name__": "__main__"})
"""


def wrong_clock(folder: Path) -> Path:
    """An interpreter of a machine whose clock is wrong, for it and for all that it starts."""
    (folder / "clock.py").write_text(CLOCK)
    path = folder / "python-with-a-wrong-clock"
    return script(path, f'exec {PYTHON} -I {shlex.quote(str(folder / "clock.py"))} {shlex.quote(str(path))} "$@"')
