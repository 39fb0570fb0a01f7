"""The supervisor: holds the link, owns the child process, and tells how the child ended.

It starts no runtime. While the child measures it sleeps in `poll`, woken once a second at most, and then reads a few
small files: clocks, heat, energy. The child lives in a process group of its own, which is killed on a phase's time
limit, on end of input, on a silent link, and on the supervisor's own end. Standard library only, Python 3.10.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NoReturn

from bench.evidence.boot import boot_id
from bench.evidence.quiet import Quiet
from bench.evidence.watch import Watch
from bench.scratch import Scratch
from bench.worker.bootstrap import bootstrap
from bench.worker.child_process import LAST_BREATH_S, ChildProcess, error, kill_orphans
from bench.worker.frames import Frame, ProtocolError, parts
from bench.worker.lease import Lease
from bench.worker.libc import adopt_orphans
from bench.worker.pipe import Pipe

TICK_S = 1.0


@dataclass(frozen=True, slots=True)
class _Request:
    id: int
    phase: str
    limit_s: float
    deadline: float


class Supervisor:
    """Serves one client until it says `quit`, goes away or falls silent.

    `machine`: root of the file system that tells of clocks and heat; tests and benchmarks make up their own.
    """

    def __init__(
        self, link: tuple[int, int], child_command: Sequence[str], silence_s: float, machine: str = "/"
    ) -> None:
        self._client = Pipe(*link)
        self._child_command = child_command
        self._silence_s = silence_s
        self._machine = machine
        self._scratch = Scratch()
        self._child: ChildProcess | None = None
        self._sink: Pipe | None = None
        """Who takes the body of the last request."""
        self._death = error("Crashed", "no worker process has been started", kind="protocol")
        self._request: _Request | None = None
        self._lease: Lease | None = None
        self._quiet: Quiet | None = None
        self._watch: Watch | None = None
        self._observed: dict[str, Any] = {}
        self._running = True

    def serve(self) -> None:
        """Until the client is done. Leaves no process and no file behind."""
        last_heard = time.monotonic()
        try:
            self._client.send(parts({"hello": {"python": sys.version.split()[0], "pid": os.getpid()}}))
            while self._running:
                heard = self._wait()
                now = time.monotonic()
                if heard:
                    last_heard = now
                elif now - last_heard > self._silence_s:
                    break
                self._look(now)
                self._check_limit(now)
        except ProtocolError as problem:
            print(problem, file=sys.stderr)  # the client is not who we took it for: end as if it had gone
        finally:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)  # what follows is the answer to them
            self._end_child()
            if self._lease:
                self._lease.release()
            self._scratch.remove()

    def _wait(self) -> bool:
        """Sleep until something happens, move what can be moved; whether the client spoke."""
        poll = select.poll()
        blocked = self._sink is not None and self._client.blocked
        waits = self._child is not None and self._child.pipe.blocked
        poll.register(self._client.read_fd, 0 if blocked else select.POLLIN)
        if waits or self._client.pending:
            poll.register(self._client.write_fd, select.POLLOUT)
        if self._child:
            if not waits:
                poll.register(self._child.pipe.read_fd, select.POLLIN)
            if blocked or self._child.pipe.pending:
                poll.register(self._child.pipe.write_fd, select.POLLOUT)
        if self._lease and not self._lease.held:
            poll.register(self._lease.ready_fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(self._sleep_s() * 1000)}
        if not self._client.flush():
            self._running = False
        if self._lease and not self._lease.held and self._lease.ready_fd in ready:
            self._lease.take()
            self._answer({"boot": boot_id(self._machine)})
        if self._child:
            self._child.pipe.flush()
            if waits or self._child.pipe.read_fd in ready or self._child.ended():
                self._from_child(self._child)
        if blocked and self._client.read_fd in ready:  # nothing was asked of it, so it has gone
            self._running = False
            return False
        if blocked or self._client.read_fd in ready:
            return self._from_client() or blocked  # it is not silent while what it said waits here
        return False

    def _sleep_s(self) -> float:
        now = time.monotonic()
        left = self._request.deadline - now if self._request else TICK_S
        quiet = self._quiet.left_s(now) if self._quiet else TICK_S
        return min(TICK_S, self._silence_s, quiet, max(0.0, left))

    def _look(self, now: float) -> None:
        """What is done once a second while others work: look how the machine is."""
        if self._watch:
            self._watch.look(now)
        if self._quiet and (waited := self._quiet.look(now)):
            self._quiet = None
            self._answer(asdict(waited))

    def _from_client(self) -> bool:
        moved = self._pass_on(self._client, self._sink)
        frames, heard = self._client.receive()
        for frame in frames:
            self._on_request(frame)
        moved = self._pass_on(self._client, self._sink) or moved
        if self._client.ended:
            self._running = False
        return heard or moved

    def _pass_on(self, source: Pipe, sink: Pipe | None) -> bool:
        """Move what is here of a body; whether anything was. The way of a body does not count against a limit."""
        moved = source.pass_on(sink)
        if moved and self._request:
            self._request = replace(self._request, deadline=time.monotonic() + self._request.limit_s)
        return moved

    def _on_request(self, frame: Frame) -> None:
        self._sink = None
        header = frame.header
        verb = header.get("verb")
        if verb == "beat":
            passing = self._child is not None and self._child.pipe.follows > 0
            if not passing and not self._client.pending:  # else it hears from us anyway
                self._client.send(parts({"beat": True}))
            return
        if verb == "quit":
            self._running = False
            return
        try:
            limit_s = float(header["limit_s"])
            self._request = _Request(header["id"], str(header["phase"]), limit_s, time.monotonic() + limit_s)
            self._do(str(verb), header["args"], frame)
        except (KeyError, TypeError, ValueError) as problem:
            raise ProtocolError(f"a request that is none: {problem!r}") from problem
        except OSError as problem:
            self._answer_error(error("HostError", f"the worker cannot {verb}: {problem}"))

    def _do(self, verb: str, args: Mapping[str, Any], frame: Frame) -> None:
        if verb == "lease":
            if self._lease:
                self._lease.release()
                self._lease = None
            self._lease = Lease(str(args["folder"]), str(args["holder"]), self._machine)
            if self._lease.held:
                self._answer({"boot": boot_id(self._machine)})
            return
        if verb == "quiet":
            limits = float(args["wait_s"]), float(args["max_foreign_cpu"]), args["max_temperature_c"]
            self._quiet = Quiet(*limits, root=self._machine)
            return
        if verb == "start":
            self._end_child()
            self._child = ChildProcess(self._child_command, self._scratch.path)
        if self._child is None:
            self._answer_error(self._death)
        else:
            if verb == "measure":
                self._watch = Watch(self._child.pid, self._machine)
            self._sink = self._child.pipe
            self._sink.send(parts(frame.header, follows=frame.follows))

    def _from_child(self, child: ChildProcess) -> None:
        dead = child.ended()  # asked first: what a dead child wrote is all there to read
        while True:
            try:
                self._pass_on(child.pipe, self._client)
                frames, _ = child.pipe.receive()
            except ProtocolError as problem:
                message = "the worker process wrote to a pipe that is ours"
                self._lose_child(error("Crashed", message, problem.hint, kind="protocol"))
                return
            if not frames:
                break
            for frame in frames:
                self._relay(child, frame)
        if child.pipe.blocked:
            return
        if not (dead or child.pipe.ended):
            return
        if child.ends_within(LAST_BREATH_S):
            self._lose_child(None)
        else:
            message, hint = "the worker process closed its pipe and lived on", "the runtime closes files not its own"
            self._lose_child(error("Crashed", message, hint, kind="protocol"))

    def _relay(self, child: ChildProcess, frame: Frame) -> None:
        """Pass the child's answer on, with what only the supervisor knows."""
        header = frame.header
        if "said" in header:  # how far it is; the answer is still to come
            self._client.send(parts(header))
            return
        if self._watch:
            self._observed, self._watch = asdict(self._watch.end()), None
        if "carries" not in header:  # else the answer comes behind what belongs to it
            if self._observed and "ok" in header:
                header["ok"]["observed"] = self._observed
            if "error" in header and self._request:
                header["error"] |= {"phase": self._request.phase, "log_tail": child.log_tail(), "peak_rss_bytes": 0}
            self._request, self._observed = None, {}
        self._client.send(parts(header, follows=frame.follows))

    def _check_limit(self, now: float) -> None:
        request = self._request
        if request is None or now < request.deadline:
            return
        if self._lease and not self._lease.held:
            holder = self._lease.holder()
            self._lease.release()
            self._lease = None
            message = f"the machine is busy: {holder} holds it"
            self._answer_error(error("Timeout", message, "wait for it to end, or raise the limit", kind="lease"))
            return
        message = f"the phase {request.phase} took longer than its limit of {request.limit_s:g} s"
        hint = "raise the limit with --limit, or look for a hang in the log's tail"
        self._lose_child(error("Timeout", message, hint))

    def _lose_child(self, reason: dict[str, Any] | None) -> None:
        """End what is left of the child, and answer the request that waits for it with the reason, or how it died."""
        if self._child:
            self._kill(self._child)
            self._death = reason or self._child.death()
        self._answer_error(reason or self._death)
        self._end_child()

    def _answer(self, result: Mapping[str, Any]) -> None:
        if self._request:
            self._client.send(parts({"id": self._request.id, "ok": dict(result)}))
            self._request = None

    def _answer_error(self, facts: dict[str, Any]) -> None:
        self._quiet = None
        if self._request:
            tail = self._child.log_tail() if self._child else ""
            peak = self._child.peak_rss_bytes if self._child else 0
            facts = {**facts, "phase": self._request.phase, "log_tail": tail, "peak_rss_bytes": peak}
            self._client.send(parts({"id": self._request.id, "error": facts}))
            self._request = None

    def _end_child(self) -> None:
        self._watch = self._sink = None
        if self._child:
            self._kill(self._child)
            self._child.pipe.close()
            self._child = None

    def _kill(self, child: ChildProcess) -> None:
        """End it, dead or not: whatever it started goes with it."""
        child.kill()
        kill_orphans(spare=0 if child.ended() else child.pid)
        child.pipe.make_up(self._client)


def _leave(number: int, frame: object) -> NoReturn:
    sys.exit(0)


def main(code: str, silence_s: str, machine: str = "/", *packages: str) -> None:
    """Entry point, called by the program that the client sends: move the link away, then serve it.

    `machine` is another than `/` in tests and benchmarks alone.
    """
    link = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _leave)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored by whoever started us, it would hide how the child ended
    adopt_orphans()
    command = [sys.executable, "-I", "-c", bootstrap("bench.worker.child", code, packages)]
    Supervisor(link, command, float(silence_s), machine).serve()
