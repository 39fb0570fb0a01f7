"""Artefacts that are made on the device that runs them: their key, their site, why they are made anew."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path, PurePosixPath

import onnx
import pytest
from onnx import TensorProto, helper

from bench.artifacts import prepare
from bench.building import why_anew
from bench.cache import Cache
from bench.errors import BenchError
from bench.hosts.local import LocalHost
from bench.interface import Options
from bench.models import resolve
from bench.registry import Registered
from bench.trial import Place

SOURCE = """
import json
from pathlib import Path
from bench.interface import Artifact, Backend, Option, Probe, Session

MACHINE = Path({machine!r})

class Builder(Backend):
    name = "builder"
    prepares = "device"
    options = (
        Option("plugins", "a library", None, kind="file", artefact=True),
        Option("level", "", 3, kind="int", artefact=True),
    )

    def probe(self):
        told = json.loads((MACHINE / "machine.json").read_text())
        return Probe(told["runs"], "1", ("gpu",), reason="no GPU", remedy="buy one", runtimes=told["runtimes"],
                     builds=told["builds"])

    def prepare(self, model, options, workdir, tools):
        with (MACHINE / "built").open("a") as file:
            file.write(f"{{model.path}}|{{workdir}}|{{options.extra['plugins']}}\\n")
        tools.say("half way there")
        (workdir / "engine").write_bytes(model.path.read_bytes()[::-1])
        (workdir / "draft").write_text("left behind")
        return Artifact(workdir, ("engine",), model.signature, {{"level": options.extra["level"]}})

    def load(self, artifact, options):
        raise NotImplementedError
"""
H200 = {"trt": "11.4", "nvidia driver": "580.95", "gpu": "NVIDIA H200, sm_90"}


class Board(LocalHost):
    """A machine with a file system of its own: what is put there is a copy, in other folders."""

    def put(self, source, key, files=()):
        there = Path(self.workspace) / "objects" / key
        there.parent.mkdir(parents=True, exist_ok=True)
        if source.is_file():
            shutil.copy(source, there)
        elif not there.exists():
            wanted = set(files)
            shutil.copytree(
                source, there, ignore=lambda folder, names: [n for n in names if wanted and n not in wanted]
            )
        return PurePosixPath(there)


class World:
    """A backend that builds on its machine, and the harness beside it."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.said = folder, []
        (folder / "code").mkdir()
        name = f"builder_of_{folder.name}"  # a module is imported once
        self.code = folder / "code" / f"{name}.py"
        self.code.write_text(SOURCE.format(machine=str(folder)))
        monkeypatch.syspath_prepend(str(folder / "code"))
        self.backend = Registered("builder", f"{name}:Builder", "a test")
        self.place = Place("local", LocalHost(folder / "work"), Cache(folder / "cache"), say=self.said.append)
        self.is_(runtimes=H200)
        value = helper.make_tensor_value_info
        node = helper.make_node("Relu", ["x"], ["y"])
        graph = helper.make_graph(
            [node], "g", [value("x", TensorProto.FLOAT, [1, 3])], [value("y", TensorProto.FLOAT, [1, 3])]
        )
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "m.onnx"
        )
        self.model = resolve(str(folder / "m.onnx"), self.place.cache, shapes={}, say=lambda message: None).model

    def is_(self, *, runs=True, builds=False, runtimes=H200):
        (self.folder / "machine.json").write_text(json.dumps({"runs": runs, "builds": builds, "runtimes": runtimes}))

    def board(self):
        """The same behind a link."""
        return Place(
            "board", Board(self.folder / "far"), self.place.cache, say=self.said.append, home=self.place,
            lease_folder=self.place.lease_folder,
        )  # fmt: skip

    def prepare(self, place=None, to_run=True, **extra):
        options = Options(extra={"plugins": None, "level": 3} | extra)
        self.said.clear()
        return prepare(place or self.place, self.backend, self.model, options, to_run=to_run)

    @property
    def built(self):
        file = self.folder / "built"
        return [line.split("|") for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


def test_it_is_built_once_and_then_found(world):
    first, said = world.prepare(), list(world.said)
    second = world.prepare()
    assert (first.cache, second.cache) == ("miss", "hit")
    assert said == ["preparing m for builder (once)", "half way there"]
    assert world.said == []
    assert first.artifact.path.read_bytes() == (world.folder / "m.onnx").read_bytes()[::-1]
    assert not (first.artifact.root / "draft").exists()
    assert len(world.built) == 1


def test_another_machine_or_version_builds_anew_and_says_why(world):
    world.prepare()
    world.is_(runtimes=H200 | {"nvidia driver": "590.10", "gpu": "NVIDIA A100, sm_80"})
    assert world.prepare(level=3).cache == "miss"
    said = "nvidia driver was 580.95, is 590.10; gpu was NVIDIA H200, sm_90, is NVIDIA A100, sm_80"
    assert world.said[0] == f"preparing m for builder ({said})"
    world.is_()
    assert world.prepare().cache == "hit"


def test_a_damaged_engine_is_built_again(world):
    made = world.prepare()
    made.artifact.path.write_bytes(b"half of it")
    assert world.prepare().cache == "miss"
    assert world.said[0] == "preparing m for builder (the one in the cache is damaged)"


def test_where_it_cannot_run_it_is_built_only_for_itself(world):
    world.is_(runs=False, builds=True)
    with pytest.raises(BenchError, match="no GPU") as raised:
        world.prepare()
    assert raised.value.hint == "buy one"
    assert world.prepare(to_run=False).cache == "miss"
    world.is_(runs=False, builds=False)
    with pytest.raises(BenchError, match="no GPU"):
        world.prepare(to_run=False)


def test_behind_a_link_it_is_built_there_and_fetched(world):
    library = world.folder / "libplugins.so"
    library.write_bytes(b"a library")
    made = world.prepare(world.board(), plugins=str(library))
    far = str(world.folder / "far")
    ((model, workdir, plugins),) = world.built
    assert all(path.startswith(far) for path in (model, workdir, plugins))
    assert not Path(workdir).exists()
    assert made.artifact.path.read_bytes() == (world.folder / "m.onnx").read_bytes()[::-1]
    assert [p.name for p in made.artifact.root.iterdir()] == ["engine"]
    assert "half way there" in world.said


def test_a_failure_there_leaves_nothing_here_and_nothing_there(world):
    world.code.write_text(world.code.read_text().replace('tools.say("half way there")', "1 / 0"))
    with pytest.raises(BenchError, match="division by zero"):
        world.prepare(world.board())
    assert list(world.place.cache.root.glob("artifacts/*")) == []
    assert list((world.folder / "far").glob("making-*")) == []


def test_two_builders_at_once_build_one(world):
    made = []
    threads = [threading.Thread(target=lambda: made.append(world.prepare())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(m.cache for m in made) == ["hit", "miss"]
    assert len(world.built) == 1


def test_the_nearest_of_several_is_told():
    old = [
        {"made_from": {"model": "a", "options": {"level": 3}, "built_on": {"gpu": "A", "driver": "1"}, "code": "x"}},
        {"made_from": {"model": "a", "options": {"level": 3}, "built_on": {"gpu": "B", "driver": "1"}, "code": "x"}},
        {"made_from": {"model": "b", "options": {"level": 3}, "built_on": {"gpu": "B", "driver": "2"}, "code": "x"}},
    ]
    now = {"model": "a", "options": {"level": 3}, "built_on": {"gpu": "B", "driver": "2"}, "code": "x"}
    assert why_anew(old, now) == "driver was 1, is 2"
    assert why_anew(old[:1], now) == "gpu was A, is B; driver was 1, is 2"
    assert why_anew(old[:1], {**now, "options": {"level": 4}}) == ""
    assert why_anew([], now) == ""
    assert (
        why_anew(old[1:2], {**now, "built_on": {"gpu": "B", "driver": "1"}, "code": "y"})
        == "the backend's code has changed"
    )
