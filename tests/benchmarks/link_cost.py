"""What a link costs: uploads beside scp, a tensor through a worker beside `ssh cat`, and a case's fixed cost.

    python tests/benchmarks/link_cost.py

Side by side over the same shared connection to a native sshd on loopback, interleaved, medians. Exit code 1
where an upload reaches less than 0.9 x scp, an echo less than 0.7 x `ssh cat`, or a case costs more than a second.

`cat` gives back while it still receives; a worker has to have all of a tensor first. So a far side that does no more
than that stands beside them. `cat` takes 1.5 ms on one connection and 2 on the next: the ratio is the median of
several.
"""

from __future__ import annotations

import os
import select
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "devices"))

import numpy as np
from device_rig import PYTHON, Sshd, scratch, without_sshd

from bench.cache import Cache
from bench.hosts.base import Link
from bench.hosts.local import LocalHost
from bench.hosts.ssh import Login, SshHost
from bench.interface import Artifact, Options, Signature, ValueSpec
from bench.place import Place, started
from bench.registry import Registered, find
from bench.worker import wire
from bench.worker.client import Worker
from bench.worker.protocol import Unpacker, pack

UPLOAD_MIB = 200
ROUNDS = 9
TENSOR_BYTES = 602_112  # float32[1, 3, 224, 224]
# Echoes of either kind come in runs, each as it goes on its own: the first of a run find the other's in the caches.
CONNECTIONS, RUNS, ECHOES, FIRST = 7, 12, 20, 3
STORE = f"""
import os
room = memoryview(bytearray({TENSOR_BYTES}))
while True:
    at = 0
    while at < len(room):
        size = os.readv(0, [room[at:]])
        if not size:
            raise SystemExit
        at += size
    at = 0
    while at < len(room):
        at += os.write(1, room[at:])
"""


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def upload(host: SshHost, config: Path, folder: Path) -> float:
    """Our rate as a share of scp's: both over the host's shared connection, each first in every other round.

    What was written is on the disk before the next begins, and a ratio is taken within its round.
    """
    source = folder / "blob"
    source.write_bytes(os.urandom(UPLOAD_MIB << 20))
    host.survey()
    ours, theirs = [], []
    scp = ["scp", "-q", "-F", config, "-o", f"ControlPath={host._socket}", source, f"loop:{folder}/copy"]

    def our_way(number: int) -> None:
        os.sync()
        ours.append(seconds(lambda: host.put(source, f"blob{number}")))
        shutil.rmtree(folder / "board" / "objects" / f"blob{number}")

    def their_way(number: int) -> None:
        os.sync()
        theirs.append(seconds(lambda: subprocess.run(scp, check=True)))
        (folder / "copy").unlink()

    for number in range(ROUNDS):
        for way in (our_way, their_way) if number % 2 else (their_way, our_way):
            way(number)
    ratio = statistics.median(t / o for o, t in zip(ours, theirs, strict=True))
    rate = UPLOAD_MIB / statistics.median(ours)
    print(f"upload of {UPLOAD_MIB} MiB: {rate:.0f} MiB/s, {ratio:.2f} x scp (at least 0.9)")
    return ratio


def echo(config: Path, cache: Cache, folder: Path) -> float:
    """Our rate as a share of `ssh cat`'s: a tensor through supervisor and child, an inference that gives it back."""
    found = []
    for _ in range(CONNECTIONS):
        host = SshHost(Login("loop", "loop", str(config)), python=PYTHON, cache=str(folder / "board"))
        try:
            found.append(_echoed(host, cache, folder))
        finally:
            host.close()
    mine, cat, store = (statistics.median(each) for each in zip(*found, strict=True))
    ratios = sorted(one[1] / one[0] for one in found)
    of_store = statistics.median(one[1] / one[2] for one in found)
    print(f"echo of {TENSOR_BYTES} bytes through a worker: {mine * 1e3:.2f} ms, ssh cat {cat * 1e3:.2f} ms: "
          f"{statistics.median(ratios):.2f} x (at least 0.7; {ratios[0]:.2f} to {ratios[-1]:.2f} on {CONNECTIONS} "
          f"connections); what reads all of it first {store * 1e3:.2f} ms: {of_store:.2f} x")  # fmt: skip
    return statistics.median(ratios)


def _echoed(host: SshHost, cache: Cache, folder: Path) -> tuple[float, float, float]:
    """Seconds of an echo on one connection: through a worker, by cat, by what reads all of it first."""
    home = Place("local", LocalHost(folder / "work"), cache, lease_folder=str(folder))
    place = Place("loop", host, cache, home=home, lease_folder=str(folder))
    tensor = np.frombuffer(os.urandom(TENSOR_BYTES), np.float32)
    data = tensor.tobytes()
    links = {"cat": host.start(["cat"]), "store": host.start([PYTHON, "-I", "-c", STORE])}
    taken: dict[str, list[float]] = {"ours": [], "cat": [], "store": []}
    try:
        with started(place, Registered("echo", "echo_backend:Echo", "this benchmark"), purpose="cost") as ready:
            ask = _echoing(ready.worker)
            ways = {"ours": partial(ask, tensor)} | {k: partial(_there_and_back, v, data) for k, v in links.items()}
            for number in range(RUNS):
                for name in list(ways)[:: 1 if number % 2 else -1]:
                    taken[name] += [seconds(ways[name]) for _ in range(ECHOES)][FIRST:]
    finally:
        for link in links.values():
            link.close()
    return statistics.median(taken["ours"]), statistics.median(taken["cat"]), statistics.median(taken["store"])


def _echoing(worker: Worker) -> Callable[[np.ndarray], None]:
    """What sends a tensor to a loaded child and takes it back as an array."""
    spec = ValueSpec("x", "float32", (None,)), ValueSpec("y", "float32", (None,))
    artifact = wire.plain(Artifact(Path("/"), (), Signature(spec[:1], spec[1:])))
    worker.ask("load", {"artifact": artifact, "options": wire.plain(Options())})

    def ask(tensor: np.ndarray) -> None:
        buffers: list[bytes | memoryview] = []
        feeds = {"x": pack(tensor, buffers)}
        answer, body = worker.ask("run", {"feeds": feeds, "keep": False}, buffers)
        got = Unpacker(body).value(answer["outputs"]["y"])
        assert got.nbytes == tensor.nbytes

    return ask


def _there_and_back(link: Link, data: bytes) -> None:
    """Write and read at once: neither side's pipe takes all of it."""
    write, read = link.write_fd, link.read_fd
    os.set_blocking(write, False)
    room = bytearray(1 << 20)
    sent = got = 0
    poll = select.poll()
    poll.register(read, select.POLLIN)
    poll.register(write, select.POLLOUT)
    while got < len(data):
        for fd, _ in poll.poll():
            if fd == write:
                sent += os.write(write, memoryview(data)[sent : sent + (1 << 20)]) if sent < len(data) else 0
                if sent == len(data):
                    poll.unregister(write)
            else:
                got += os.readv(read, [room])


def fixed_cost(host: SshHost, cache: Cache, folder: Path) -> float:
    """Seconds from nothing to a worker that has a backend loaded and is closed again, over a warm connection."""
    home = Place("local", LocalHost(folder / "work"), cache, lease_folder=str(folder))
    place = Place("loop", host, cache, home=home, lease_folder=str(folder))

    def case() -> None:
        with started(place, find("fake"), purpose="cost") as ready:
            ready.worker.ask("close", limit_s=30)

    case()
    taken = [seconds(case) for _ in range(ROUNDS)]
    print(f"fixed cost of a case: {statistics.median(taken):.2f} s (at most 1.0), fastest {min(taken):.2f} s")
    return statistics.median(taken)


def main() -> int:
    if reason := without_sshd():
        print(reason, file=sys.stderr)
        return 2
    folder = scratch()
    sshd = Sshd(folder / "sshd")
    config = sshd.config("loop")
    host = SshHost(Login("loop", "loop", str(config)), python=PYTHON, cache=str(folder / "board"))
    try:
        cache = Cache(folder / "cache")
        good = [
            upload(host, config, folder) >= 0.9,
            echo(config, cache, folder) >= 0.7,
            fixed_cost(host, cache, folder) <= 1.0,
        ]
        return 0 if all(good) else 1
    finally:
        host.close()
        sshd.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
