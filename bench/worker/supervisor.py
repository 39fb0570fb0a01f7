"""The supervisor: holds the link, owns the child process, and tells how the child ended.

It starts no runtime and does no work of its own while the child measures: it sleeps in `select`, woken once a second at
most. The child lives in a process group of its own, which is killed on a phase's time limit, on end of input, on a silent
link, and on the supervisor's own end. Standard library and numpy only, Python 3.10.
"""

from __future__ import annotations

import fcntl
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.evidence.environment import boot_id
from bench.worker.protocol import Decoder, Frame, ProtocolError, encode

TICK_S = 1.0
LOG_TAIL_BYTES = 4096
READ_BYTES = 1 << 20
# Variables that change a runtime's speed behind the record's back. What should hold is an option, and recorded.
SCRUBBED = ("PYTHON", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "BLIS_", "NUMEXPR_", "ORT_", "NCNN_", "MNN_")
SIGNAL_HINTS = {
    "SIGSEGV": "the runtime read memory that is not its own; a smaller model or another version tells whose fault it is",
    "SIGFPE": "the runtime divided by zero or overflowed an integer",
    "SIGILL": "the runtime used an instruction that this CPU lacks; it was built for a newer one",
    "SIGABRT": "the runtime gave up by itself; the log's tail usually says why",
    "SIGBUS": "a mapped file was cut short, or the memory behind it is gone",
    "SIGKILL": "somebody killed it: the kernel when memory ran out, or a person",
}
SCRATCH_PREFIX = "deploybench-"


@dataclass(slots=True)
class _Request:
    id: int
    phase: str
    deadline: float


class _Pipe:
    """One direction pair of a link: bytes in become frames, frames out wait here until the far side takes them."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd, self.write_fd = read_fd, write_fd
        self.decoder = Decoder()
        self.pending: list[memoryview] = []
        self.ended = False
        for fd in (read_fd, write_fd):
            os.set_blocking(fd, False)

    def receive(self) -> list[Frame]:
        """Everything that has arrived. `ended` says whether more can come."""
        frames: list[Frame] = []
        while not self.ended:
            try:
                data = os.read(self.read_fd, READ_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            self.ended = not data
            frames += self.decoder.feed(data)
        return frames

    def send(self, data: bytes) -> None:
        self.pending.append(memoryview(data))
        self.flush()

    def flush(self) -> bool:
        """Write what the far side takes now; False when it is gone."""
        while self.pending:
            try:
                written = os.write(self.write_fd, self.pending[0][:READ_BYTES])
            except BlockingIOError:
                return True
            except OSError:
                self.pending.clear()
                return False
            self.pending[0] = self.pending[0][written:]
            if not self.pending[0]:
                self.pending.pop(0)
        return True

    def close(self) -> None:
        for fd in {self.read_fd, self.write_fd}:
            os.close(fd)


class _Child:
    """The only process that loads a runtime, with its log and what is known of its end."""

    def __init__(self, command: Sequence[str], scratch: Path) -> None:
        to_child, from_client = os.pipe()
        to_client, from_child = os.pipe()
        self.log = scratch / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, str(to_child), str(from_child)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=scratch,
                env=child_environment(os.environ, scratch),
                pass_fds=(to_child, from_child),
                start_new_session=True,
            )
        os.close(to_child)
        os.close(from_child)
        self.pipe = _Pipe(to_client, from_client)
        self.status: int | None = None
        self.peak_rss_bytes = 0
        self.out_of_memory_kills = _out_of_memory_kills()

    def reap(self) -> bool:
        """Whether it has ended; its status and peak memory are known from then on."""
        if self.status is None:
            try:
                pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status, usage = self.process.pid, 0, None
            if pid:
                self.status = self.process.returncode = os.waitstatus_to_exitcode(status)
                self.peak_rss_bytes = usage.ru_maxrss * 1024 if usage else 0
        return self.status is not None

    def kill(self) -> None:
        """End it and everything it started, and wait for it."""
        _kill_group(self.process.pid)
        end = time.monotonic() + 10
        while not self.reap() and time.monotonic() < end:
            time.sleep(0.005)

    def death(self) -> dict[str, Any]:
        """The error that tells how it ended without being asked to."""
        status = self.status or 0
        if status >= 0:
            message = f"the worker process ended by itself with exit code {status}"
            return _error("Crashed", message, "the log's tail may say why", kind="exit")
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        if name == "SIGKILL" and _out_of_memory_kills() > self.out_of_memory_kills:
            hint = "the kernel killed it because memory ran out; use a smaller batch or model, or a bigger machine"
            return _error("Crashed", "the worker process was killed: out of memory", hint, kind="out of memory", signal=name)
        return _error("Crashed", f"the worker process died of {name}", SIGNAL_HINTS.get(name, ""), signal=name)

    def log_tail(self) -> str:
        try:
            with self.log.open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - LOG_TAIL_BYTES))
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""


class Supervisor:
    """Serves one client until it says `quit`, goes away or falls silent."""

    def __init__(self, link: tuple[int, int], child_command: Sequence[str], silence_s: float) -> None:
        self._client = _Pipe(*link)
        self._child_command = child_command
        self._silence_s = silence_s
        self._scratch = _scratch_folder()
        self._child: _Child | None = None
        self._death = _error("Crashed", "no worker process has been started", kind="protocol")
        self._request: _Request | None = None
        self._lease: _Lease | None = None
        self._running = True

    def serve(self) -> None:
        """Until the client is done. Leaves no process and no file behind."""
        last_heard = time.monotonic()
        try:
            while self._running:
                heard = self._wait()
                now = time.monotonic()
                if heard:
                    last_heard = now
                elif now - last_heard > self._silence_s:
                    break
                self._check_limits(now)
        except ProtocolError:
            pass  # the client is not who we took it for: end as if it had gone
        finally:
            self._end_child()
            if self._lease:
                self._lease.release()
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _wait(self) -> bool:
        """Sleep until something happens, move what can be moved; whether the client spoke."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._client.read_fd, selectors.EVENT_READ, "client")
            if self._client.pending:
                selector.register(self._client.write_fd, selectors.EVENT_WRITE, "client out")
            if self._child:
                selector.register(self._child.pipe.read_fd, selectors.EVENT_READ, "child")
                if self._child.pipe.pending:
                    selector.register(self._child.pipe.write_fd, selectors.EVENT_WRITE, "child out")
            ready = {key.data for key, _ in selector.select(self._sleep_s())}
        if not self._client.flush():
            self._running = False
        if self._child:
            self._child.pipe.flush()
        if "child" in ready or (self._child and self._child.reap()):
            self._from_child()
        return "client" in ready and self._from_client()

    def _sleep_s(self) -> float:
        if self._lease and not self._lease.held:
            return 0.1
        if not self._request:
            return TICK_S
        return min(TICK_S, max(0.0, self._request.deadline - time.monotonic()))

    def _from_client(self) -> bool:
        frames = self._client.receive()
        for frame in frames:
            self._on_request(frame)
        if self._client.ended:
            self._running = False
        return bool(frames)

    def _on_request(self, frame: Frame) -> None:
        verb = frame.header.get("verb")
        if verb == "beat":
            return
        if verb == "quit":
            self._running = False
            return
        limit_s = float(frame.header.get("limit_s", 60.0))
        self._request = _Request(frame.header["id"], frame.header.get("phase", str(verb)), time.monotonic() + limit_s)
        if verb == "lease":
            self._lease = _Lease(str(frame.header["args"]["folder"]), str(frame.header["args"]["holder"]))
            self._try_lease()
        elif verb == "start":
            self._end_child()
            self._child = _Child(self._child_command, self._scratch)
            self._forward(frame)
        elif self._child is None:
            self._answer_error(self._death)
        else:
            self._forward(frame)

    def _forward(self, frame: Frame) -> None:
        assert self._child is not None
        self._child.pipe.send(encode(frame.header, (frame.body,)))

    def _from_child(self) -> None:
        child = self._child
        if child is None:
            return
        dead = child.reap()  # asked first: what a dead child wrote is all there to read
        for frame in child.pipe.receive():
            self._relay(frame)
        if dead or child.pipe.ended:
            child.kill()  # it has ended or closed its pipe; whatever it started goes with it
            self._death = child.death()
            self._answer_error(self._death)
            self._drop_child()

    def _relay(self, frame: Frame) -> None:
        """Pass the child's answer on; an error gets what only the supervisor knows."""
        header = frame.header
        if "error" in header and self._request and self._child:
            header["error"] |= {"phase": self._request.phase, "log_tail": self._child.log_tail(), "peak_rss_bytes": 0}
        self._request = None
        self._client.send(encode(header, (frame.body,)))

    def _check_limits(self, now: float) -> None:
        self._try_lease()
        request = self._request
        if request is None or now < request.deadline:
            return
        if self._lease and not self._lease.held:
            holder = self._lease.holder()
            self._lease = None
            self._answer_error(
                _error("Timeout", f"the machine is busy: {holder} holds it", "wait for it to end, or raise the limit", kind="lease")
            )
            return
        if self._child:
            self._child.kill()
        message = f"the phase {request.phase} took longer than its limit"
        self._answer_error(_error("Timeout", message, "raise the limit with --limit, or look for a hang in the log's tail"))
        self._drop_child()

    def _try_lease(self) -> None:
        if self._lease and not self._lease.held and self._lease.acquire() and self._request:
            self._answer({})

    def _answer(self, result: Mapping[str, Any]) -> None:
        assert self._request is not None
        self._client.send(encode({"id": self._request.id, "ok": dict(result)}))
        self._request = None

    def _answer_error(self, error: dict[str, Any]) -> None:
        if self._request is None:
            return
        tail = self._child.log_tail() if self._child else ""
        peak = self._child.peak_rss_bytes if self._child else 0
        error = {**error, "phase": self._request.phase, "log_tail": tail, "peak_rss_bytes": peak}
        self._client.send(encode({"id": self._request.id, "error": error}))
        self._request = None

    def _end_child(self) -> None:
        if self._child:
            self._child.kill()
            self._drop_child()

    def _drop_child(self) -> None:
        if self._child:
            self._child.pipe.close()
            self._child = None


class _Lease:
    """The machine, for one measurement at a time. The kernel gives it back when the holder dies, so it is never stale."""

    def __init__(self, folder: str, holder: str) -> None:
        self._holder = holder
        self._fd = _open_shared(f"{folder}/{SCRATCH_PREFIX}lease-{boot_id()}")
        self.held = False

    def acquire(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        self.held = True
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, self._holder.encode(), 0)
        return True

    def holder(self) -> str:
        return os.pread(self._fd, 4096, 0).decode("utf-8", "replace").strip() or "another deploybench"

    def release(self) -> None:
        os.close(self._fd)


def _open_shared(path: str) -> int:
    """Open a lock file that every user of the machine may hold. Not O_CREAT first: sticky folders forbid that on others' files."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        if os.fstat(fd).st_uid == os.getuid():
            os.fchmod(fd, 0o666)
        return fd


def child_environment(environment: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """The child's environment: without what changes a runtime's speed or Python's path, temporary files in our scratch."""
    kept = {k: v for k, v in environment.items() if not k.startswith(SCRUBBED)}
    return {**kept, "TMPDIR": str(scratch)}


def _error(kind_of_error: str, message: str, hint: str = "", **more: Any) -> dict[str, Any]:
    return {"class": kind_of_error, "message": message, "hint": hint, "kind": None, "signal": None, **more}


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def _out_of_memory_kills() -> int:
    try:
        with open("/proc/vmstat") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0


def _scratch_folder() -> Path:
    """A private folder; those of supervisors that were killed are removed on the way."""
    base = Path(tempfile.gettempdir())
    for left in base.glob(f"{SCRATCH_PREFIX}[0-9]*-*"):
        pid = left.name[len(SCRATCH_PREFIX) :].split("-")[0]
        if not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{SCRATCH_PREFIX}{os.getpid()}-"))


def main(code: str, silence_s: str) -> None:
    """Entry point, called by the bootstrap that the client sends: move the link away, then serve it."""
    link = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    command = [sys.executable, "-I", "-c", bootstrap("bench.worker.child", code)]
    Supervisor(link, command, float(silence_s)).serve()


def bootstrap(module: str, code: str) -> str:
    """The program for `python -I -c` that runs a module's `main` on argv, with our code first on the path and no other folder."""
    return f"import sys; sys.path.insert(0, {code!r}); from {module} import main; main(*sys.argv[1:])"
