"""What all tests share: the command as a user runs it, a tiny model, the tools of backends, `--slow`, `-m arm_vm`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper

from bench.cache import Cache
from bench.errors import BackendUnavailable
from bench.toolbox import fetch

pytest_plugins = ("pytester",)
# A suite to copy: tests/plugin runs it as its user would, in a folder of its own.
collect_ignore = ["examples"]

# A shell lets what it starts in the background ignore Ctrl-C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples every time, however slow the machine is.
settings.register_profile("fixed", deadline=None, derandomize=True, database=None)
settings.load_profile("fixed")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")


def pytest_collection_modifyitems(config, items):
    unasked = [item for item in items if item.get_closest_marker("arm_vm")]
    if unasked and "arm_vm" not in config.getoption("markexpr"):
        config.hook.pytest_deselected(items=unasked)
        items[:] = [item for item in items if item not in unasked]
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --slow")
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(skip)


@dataclass(frozen=True)
class Done:
    """How the command ended."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Cli:
    """`deploybench` in a process of its own; `command` and `environment` are for tests that start it themselves."""

    command: tuple[str, ...]
    environment: dict[str, str]
    folder: Path

    def __call__(self, *argv, env=None, cwd=None, timeout=120) -> Done:
        """Run it to its end. Records go to `results` in the test's own folder unless `--results` says otherwise."""
        done = subprocess.run(
            [*self.command, *map(str, argv)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**self.environment, **(env or {})},
            cwd=cwd or self.folder,
            timeout=timeout,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def cli(tmp_path, command_cache):
    """The command, with the session's cache, without colours and without a package index."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    ours = {"DEPLOYBENCH_CACHE": str(command_cache), "NO_COLOR": "1", "COLUMNS": "120", "PIP_NO_INDEX": "1"}
    # As the console script does it: no folder of ours is on the path.
    command = (sys.executable, "-P", "-c", "from bench.cli import main; main()")
    return Cli(command, {**kept, **ours}, tmp_path)


@pytest.fixture(scope="session")
def tools_cache(request, tmp_path_factory):
    """The cache that tools are fetched into: kept from session to session where pytest keeps anything."""
    kept = getattr(request.config, "cache", None)
    return Cache(Path(kept.mkdir("deploybench")) if kept else tmp_path_factory.mktemp("tools"))


@pytest.fixture(scope="session")
def command_cache(tools_cache, tmp_path_factory):
    """The folder of the command's cache: of this session alone, but with the tools that are kept."""
    folder = tmp_path_factory.mktemp("cache")
    (tools_cache.root / "tools").mkdir(exist_ok=True)
    (folder / "tools").symlink_to(tools_cache.root / "tools")
    return folder


@pytest.fixture(scope="session")
def pnnx(tools_cache):
    """The path of the pinned pnnx; whatever needs it is skipped where it cannot be fetched."""
    from backends.ncnn import Ncnn

    (tool,) = Ncnn.tools
    try:
        return fetch(tool, tools_cache, lambda message: None)
    except BackendUnavailable as error:
        pytest.skip(f"{error}; run once with a network, it is kept in pytest's cache")


@pytest.fixture(scope="session")
def mlp_path(tmp_path_factory):
    """An .onnx file: float32[N, 16] x to float32[N, 4] y, two dense layers."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (16, 32), "b1": (32,), "w2": (32, 4), "b2": (4,)}
    weights = [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), name) for name, s in shapes.items()]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], name="second"),
    ]
    ends = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name, size in (("x", 16), ("y", 4)))
    taken, given = ends
    graph = helper.make_graph(nodes, "mlp", [taken], [given], weights)
    path = tmp_path_factory.mktemp("models") / "mlp.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
