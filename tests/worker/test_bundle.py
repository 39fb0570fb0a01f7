"""What travels to a worker: all of it, nothing else, and it runs on Python 3.10 with numpy alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import backends
import bench
from bench.cache import Cache
from bench.errors import BackendUnavailable
from bench.registry import installed
from bench.worker import bundle

BENCH = Path(bench.__file__).parent
BACKENDS = Path(backends.__file__).parent


def written(folder, spec="backends.fake:Fake"):
    for name, data in bundle.files(spec).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def imported(folder, *modules):
    """Where every module that these imports load comes from, in a fresh isolated interpreter."""
    program = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); import importlib; before = set(sys.modules)\n"
        f"for name in {list(modules)!r}: importlib.import_module(name)\n"
        "import json\n"
        "print(json.dumps({n: getattr(m, '__file__', None) or '' for n, m in sys.modules.items() if n not in before}))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def third_party(found):
    roots = {name.partition(".")[0] for name in found}
    return {name for name in roots if name not in sys.stdlib_module_names and not name.startswith("_")}


def module_name(file):
    return f"bench/{file}".removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")


def test_the_bundle_is_closed_under_imports(tmp_path):
    folder = written(tmp_path)
    names = [module_name(file) for file in bundle.WORKER_FILES]
    found = imported(folder, *names)
    ours = {name: file for name, file in found.items() if name.partition(".")[0] == "bench"}
    assert set(ours) == set(names)
    assert all(Path(file).is_relative_to(folder) for file in ours.values())
    assert third_party(found) == {"bench", "numpy"}


def test_the_supervisors_part_needs_no_numpy(tmp_path):
    assert third_party(imported(written(tmp_path), "bench.worker.supervisor")) == {"bench"}


@pytest.mark.parametrize("name", list(installed()))
def test_a_backends_module_loads_from_the_bundle_without_its_runtime(tmp_path, name):
    spec = installed()[name].spec
    folder = written(tmp_path, spec)
    found = imported(folder, spec.partition(":")[0])
    ours = {n: file for n, file in found.items() if n.partition(".")[0] in ("bench", "backends") and file}
    assert all(Path(file).is_relative_to(folder) for file in ours.values())
    assert third_party(found) <= {"bench", "numpy", spec.partition(".")[0]}


def test_what_runs_in_a_worker_runs_on_python_3_10():
    files = [str(BENCH / name) for name in bundle.WORKER_FILES] + [str(p) for p in BACKENDS.rglob("*.py")]
    # --eval-annotations would count what `from __future__ import annotations` never evaluates
    vermin = [sys.executable, "-c", "from vermin import main; main()"]
    command = [*vermin, "-t=3.10-", "--no-eval-annotations", "--violations", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_worker_file_is_there_and_none_is_forgotten():
    names = {str(path.relative_to(BENCH)) for path in (BENCH / "worker").glob("*.py")}
    near_side = {"worker/client.py", "worker/bundle.py"}
    assert names - near_side == {name for name in bundle.WORKER_FILES if name.startswith("worker/")}


# --- the key


def key(cache, spec="backends.fake:Fake"):
    return bundle.make(spec, cache)[1]


def test_the_key_changes_with_the_content_only(tmp_path, monkeypatch):
    package = tmp_path / "keyed_backend"
    package.mkdir()
    (package / "__init__.py").write_text("class B: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    cache = Cache(tmp_path / "cache")
    first = key(cache, "keyed_backend:B")
    (package / "__init__.py").touch()
    (package / "__pycache__").mkdir(exist_ok=True)
    (package / "__pycache__" / "x.cpython-311.pyc").write_bytes(b"compiled")
    assert key(cache, "keyed_backend:B") == first
    (package / "__init__.py").write_text("class B: pass  # changed\n")
    second = key(cache, "keyed_backend:B")
    assert second != first
    (package / "table.bin").write_bytes(b"\xff\x00")
    assert key(cache, "keyed_backend:B") not in (first, second)


def test_the_folder_is_what_was_made(tmp_path):
    cache = Cache(tmp_path)
    folder, _ = bundle.make("backends.fake:Fake", cache)
    for name, data in bundle.files("backends.fake:Fake").items():
        assert (folder / name).read_bytes() == data
    again, _ = bundle.make("backends.fake:Fake", cache)
    assert again == folder


def test_what_python_compiles_beside_it_does_not_spoil_it(tmp_path):
    cache = Cache(tmp_path)
    folder, _ = bundle.make("backends.fake:Fake", cache)
    imported(folder, "bench.errors")
    assert list((folder / "bench").glob("__pycache__/*"))
    bundle.make("backends.fake:Fake", cache)
    assert list((folder / "bench").glob("__pycache__/*")), "it was not made anew"


# --- third parties


def test_a_backend_in_a_single_module(tmp_path, monkeypatch):
    (tmp_path / "lone_backend.py").write_text("class B: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = {name for name in bundle.files("lone_backend:B") if not name.startswith("bench/")}
    assert found == {"lone_backend.py"}


def test_a_backend_in_a_package_comes_whole(tmp_path, monkeypatch):
    for name in ("whole_backend/__init__.py", "whole_backend/deep/__init__.py", "whole_backend/deep/a.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("from . import deep\n" if name.count("/") == 1 else "")
    (tmp_path / "whole_backend/table.json").write_text("{}")
    monkeypatch.syspath_prepend(tmp_path)
    found = {name for name in bundle.files("whole_backend:B") if not name.startswith("bench/")}
    assert found == {f"whole_backend/{n}" for n in ("__init__.py", "table.json", "deep/__init__.py", "deep/a.py")}
    code = written(tmp_path / "code", "whole_backend:B")
    assert "whole_backend.deep" in imported(code, "whole_backend")


@pytest.mark.parametrize("regular", [True, False])
def test_a_backend_inside_a_larger_package(tmp_path, monkeypatch, regular):
    """Only it, and the packages around it: their other modules may be large and need what a board lacks."""
    root = f"acme_{regular}".lower()
    (tmp_path / root / "deploy").mkdir(parents=True)
    (tmp_path / root / "deploy" / "mine.py").write_text("class B: pass\n")
    (tmp_path / root / "deploy" / "other.py").write_text("")
    if regular:
        for folder in (root, f"{root}/deploy"):
            (tmp_path / folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    found = {name for name in bundle.files(f"{root}.deploy.mine:B") if not name.startswith("bench/")}
    packages = {f"{root}/__init__.py", f"{root}/deploy/__init__.py"} if regular else set()
    assert found == {f"{root}/deploy/mine.py"} | packages
    assert f"{root}.deploy.mine" in imported(written(tmp_path / "code", f"{root}.deploy.mine:B"), f"{root}.deploy.mine")


@pytest.mark.parametrize("spec", ["absent_module:B", "absent_package.module:B", "math:B", "json.absent:B", "hollow:B"])
def test_a_backend_without_source(tmp_path, monkeypatch, spec):
    (tmp_path / "hollow").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendUnavailable, match=r"cannot be found"):
        bundle.files(spec)
    shutil.rmtree(tmp_path / "hollow")
