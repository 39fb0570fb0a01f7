"""Workers for tests: with the `fake` backend, and with one that runs whatever code a test gives it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from bench.hosts.local import LocalHost
from bench.interface import Artifact, Options, Signature, ValueSpec
from bench.worker import bundle, wire
from bench.worker.client import Worker
from bench.worker.protocol import Unpacker, pack

# A backend whose prepare, load and run are the test's own lines. It echoes its feed as `y` when they set nothing else.
ODD = """
from bench.interface import Artifact, Backend, Placement, Probe, Session

class Odd(Backend):
    name = "odd"
    def probe(self):
        return Probe(True, "1", ("cpu",))
    def prepare(self, model, options, workdir, tools):
        exec(options.extra["prepare"], {"tools": tools, "workdir": workdir})
        return Artifact(workdir, ("made",), model.signature)
    def load(self, artifact, options):
        exec(options.extra.get("load", ""), {})
        return OddSession(options.extra.get("run", ""))

class OddSession(Session):
    def __init__(self, code):
        self.code = compile(code, "odd", "exec")
        self.scope = {"count": 0}
    def run(self, feeds):
        self.scope |= {"feeds": feeds, "outputs": dict(y=feeds["x"]), "count": self.scope["count"] + 1}
        exec(self.code, self.scope)
        return self.scope["outputs"]
    def measure(self, feeds, plan):
        return self.scope.get("samples")
    def placement(self):
        return self.scope.get("placement") or Placement("cpu", "model")
"""
FEED = np.arange(4, dtype=np.float32)
SIGNATURE = Signature((ValueSpec("x", "float32", (None,)),), (ValueSpec("y", "float32", (None,)),))


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """Where supervisors put their folders in this test."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture(scope="session")
def code(tmp_path_factory):
    """The bundle, as a worker finds it."""
    folder = tmp_path_factory.mktemp("code")
    for name, data in {**bundle.files("backends.fake:Fake"), "odd.py": ODD.encode()}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def host(tmp_path):
    return LocalHost(tmp_path)


@pytest.fixture
def start(host, code):
    """Starts workers, and ends those that a test leaves."""
    started = []

    def make(on=host, **settings):
        started.append(Odd(on, str(code), **settings))
        return started[-1]

    yield make
    for worker in started:
        worker.close()


class Odd(Worker):
    """A worker with words for what these tests ask of it."""

    def __init__(self, host, code, **settings):
        super().__init__(host, code, **settings)
        self.pid = getattr(self._link, "pid", None)

    def child(self):
        """The process number of its child."""
        return next(pid for pid, parent in parents().items() if parent == self.pid)

    def begin(self, run="", load="", backend="odd:Odd", limit_s=30.0):
        """Start a child with these lines, and load."""
        self.ask("start", {"backend": backend, "cpus": []}, limit_s=limit_s)
        artifact = wire.plain(Artifact(Path("/nowhere"), ("x",), SIGNATURE))
        options = wire.plain(Options(extra={"run": run, "load": load}))
        self.ask("load", {"artifact": artifact, "options": options}, limit_s=limit_s)
        return self

    def prepare(self, lines, workdir, limit_s=30.0):
        """Run these lines where a converter would be run."""
        self.ask("start", {"backend": "odd:Odd", "cpus": []})
        model = {"name": "m", "root": "/", "files": ["m"], "sha256": "", "opset": 1, "signature": wire.plain(SIGNATURE)}
        options = wire.plain(Options(extra={"prepare": lines}))
        return self.ask(
            "prepare", {"model": model, "options": options, "workdir": str(workdir), "tools": {}}, limit_s=limit_s
        )

    def run(self, feed=FEED, limit_s=30.0):
        """One inference."""
        buffers = []
        tree = pack(feed, buffers)
        answer, body = self.ask("run", {"feeds": {"x": tree}}, buffers, limit_s=limit_s)
        return Unpacker(body).value(answer["outputs"]["y"])

    def measure(self, limit_s=60.0, **plan):
        """A timed loop."""
        return self.ask("measure", {"plan": plan}, limit_s=limit_s)[0]


def parents():
    """Every process that lives, with its parent."""
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                state, parent = Path(entry.path, "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z":
                found[int(entry.name)] = int(parent)
    return found


@pytest.fixture
def alive():
    return lambda pid: pid in parents()


@pytest.fixture
def eventually():
    """Waits until something is so; it may take a while on a busy machine, never for ever."""

    def wait(condition, limit_s=20.0):
        end = time.monotonic() + limit_s
        while not condition() and time.monotonic() < end:
            time.sleep(0.02)
        return condition()

    return wait
