"""The child as the supervisor sees it: a process in a group of its own, its log, and what is known of its end.

Standard library only, Python 3.10.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.worker.pipe import Pipe

LOG_TAIL_BYTES = 4096
# How long a process may take to be gone after its pipe ended, and after it was killed.
LAST_BREATH_S = 2.0
KILL_LIMIT_S = 10.0
# Variables that change a runtime's speed or numbers behind the record's back. What should hold is an option.
SCRUBBED = (
    "PYTHON", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "GOTO_", "BLIS_", "NUMEXPR_", "ONEDNN_", "DNNL_", "ORT_",
    "NCNN_", "MNN_", "CUBLAS_", "CUDNN_", "NVIDIA_TF32_OVERRIDE", "CUDA_LAUNCH_BLOCKING",
)  # fmt: skip
SIGNAL_HINTS = {
    "SIGSEGV": "the runtime read memory not its own; a smaller model or another version tells whose fault it is",
    "SIGFPE": "the runtime divided by zero or overflowed an integer",
    "SIGILL": "the runtime used an instruction that this CPU lacks; it was built for a newer one",
    "SIGABRT": "the runtime gave up by itself; the log's tail usually says why",
    "SIGBUS": "a mapped file was cut short, or the memory behind it is gone",
    "SIGKILL": "somebody killed it: the kernel when memory ran out, or a person",
}


class ChildProcess:
    """The only process that loads a runtime."""

    def __init__(self, command: Sequence[str], scratch: Path) -> None:
        to_child, from_client = os.pipe()
        to_client, from_child = os.pipe()
        self._log = scratch / "log"
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [*command, str(to_child), str(from_child)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=scratch,
                    env=child_environment(os.environ, scratch),
                    pass_fds=(to_child, from_child),
                    start_new_session=True,
                )
        except OSError:
            os.close(from_client)
            os.close(to_client)
            raise
        finally:
            os.close(to_child)
            os.close(from_child)
        self.pipe = Pipe(to_client, from_client)
        self.pid = self._process.pid
        self.peak_rss_bytes = 0
        self._status: int | None = None
        self._out_of_memory_kills = out_of_memory_kills()

    def ended(self) -> bool:
        """Whether it has ended. Until `kill` reaps it, its number, and its group's, cannot become another's."""
        if self._status is not None:
            return True
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def ends_within(self, seconds: float) -> bool:
        """Wait for it to end by itself. A dying process's pipe ends a moment before the process does."""
        end = time.monotonic() + seconds
        while not self.ended() and time.monotonic() < end:
            time.sleep(0.001)
        return self.ended()

    def kill(self) -> None:
        """End it and its group, wait for it, and learn its status. What left its group is for `kill_orphans`."""
        if self._status is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass  # it has not come so far as to have a group, or all of it has ended
            if self.ends_within(KILL_LIMIT_S):
                _, status, usage = os.wait4(self._process.pid, 0)
                self._status = self._process.returncode = os.waitstatus_to_exitcode(status)
                self.peak_rss_bytes = usage.ru_maxrss * 1024

    def death(self) -> dict[str, Any]:
        """The error that tells how it ended without being asked to, once `kill` has swept up."""
        status = self._status or 0
        if status >= 0:
            message = f"the worker process ended by itself with exit code {status}"
            return error("Crashed", message, "the log's tail may say why", kind="exit")
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        if name == "SIGKILL" and out_of_memory_kills() > self._out_of_memory_kills:
            message = "the worker process was killed: out of memory"
            hint = "the kernel killed it because memory ran out; use a smaller batch or model, or a bigger machine"
            return error("Crashed", message, hint, kind="out of memory", signal=name)
        return error("Crashed", f"the worker process died of {name}", SIGNAL_HINTS.get(name, ""), signal=name)

    def log_tail(self) -> str:
        """The last that it, its runtime and its tools printed."""
        try:
            with self._log.open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - LOG_TAIL_BYTES))
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""


def error(name: str, message: str, hint: str = "", **more: Any) -> dict[str, Any]:
    """An error as it travels: the class's name and the facts."""
    return {"class": name, "message": message, "hint": hint, "kind": None, "signal": None, **more}


def child_environment(environment: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """The child's environment: nothing that changes a runtime's speed or Python's path, temporary files in scratch."""
    kept = {k: v for k, v in environment.items() if not k.startswith(SCRUBBED)}
    return {**kept, "TMPDIR": str(scratch)}


def out_of_memory_kills() -> int:
    """How many processes the kernel has killed since boot because memory ran out."""
    try:
        with open("/proc/vmstat") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0


def kill_orphans(spare: int = 0) -> None:
    """End and reap all our children: those that the child left behind, and theirs as they come to us.

    For a process that adopts orphans and has no other children.
    """
    end = time.monotonic() + LAST_BREATH_S
    while _has_children() and (left := [pid for pid in _children() if pid != spare]) and time.monotonic() < end:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)
            except (ProcessLookupError, ChildProcessError, PermissionError):
                pass  # it has just gone, or it is not ours to end
        time.sleep(0.005)


def _has_children() -> bool:
    """Asked of the kernel, which knows at once; who they are takes a look at every process of the machine."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _children() -> list[int]:
    """The processes whose parent we are, zombies included."""
    found = []
    for entry in os.scandir("/proc") if os.path.isdir("/proc/self") else ():
        if entry.name.isdigit():
            try:
                with open(f"/proc/{entry.name}/stat") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue  # it ended while we looked
            if parent == os.getpid():
                found.append(int(entry.name))
    return found
