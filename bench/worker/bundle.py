"""The code that a worker runs, as one folder named by its content: part of `bench`, and one backend's module.

The same bytes run here and on devices. Running from a copy makes a trial immune to edits of the source during a run,
and to whatever `bench/`, `backends/` or `numpy.py` lies in the folder it is started from.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import bench
from bench.cache import Cache, key_of
from bench.errors import BackendUnavailable

# Closed under imports; a test holds it to that.
WORKER_FILES = (
    "__init__.py",
    "cuda_driver.py",
    "errors.py",
    "interface.py",
    "evidence/__init__.py",
    "evidence/boot.py",
    "evidence/clocks.py",
    "evidence/cores.py",
    "evidence/environment.py",
    "evidence/gpu.py",
    "evidence/load.py",
    "evidence/peaks.py",
    "evidence/quiet.py",
    "evidence/standing.py",
    "evidence/watch.py",
    "evidence/yardstick.py",
    "measure/__init__.py",
    "measure/loop.py",
    "measure/scenarios.py",
    "measure/server.py",
    "measure/soak.py",
    "measure/stats.py",
    "measure/steady.py",
    "measure/streams.py",
    "scratch.py",
    "worker/__init__.py",
    "worker/bootstrap.py",
    "worker/child.py",
    "worker/child_process.py",
    "worker/frames.py",
    "worker/lease.py",
    "worker/libc.py",
    "worker/loaded.py",
    "worker/pipe.py",
    "worker/protocol.py",
    "worker/supervisor.py",
    "worker/tools.py",
    "worker/wire.py",
)


def files(backend_spec: str) -> dict[str, bytes]:
    """Every file of the bundle by its path inside it; without a backend, the harness's part alone.

    Raises:
        BackendUnavailable: the backend's module has no source to send.
    """
    root = Path(bench.__file__).parent
    found = {f"bench/{name}": (root / name).read_bytes() for name in WORKER_FILES}
    return found | (_module_files(backend_spec.partition(":")[0]) if backend_spec else {})


def _module_files(module: str) -> dict[str, bytes]:
    """The module's source and the `__init__.py` of the packages around it; a package comes whole, its data too."""
    found: dict[str, bytes] = {}
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        base, last = "/".join(parts[:depth]), depth == len(parts)
        origin = _origin(module, ".".join(parts[:depth]), may_be_namespace=not last)
        if origin is None:
            continue
        if origin.name != "__init__.py":
            found[f"{base}.py"] = origin.read_bytes()
        elif last:
            inside = (p for p in origin.parent.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
            found |= {f"{base}/{p.relative_to(origin.parent)}": p.read_bytes() for p in inside}
        else:
            found[f"{base}/__init__.py"] = origin.read_bytes()
    return found


def _origin(module: str, name: str, *, may_be_namespace: bool) -> Path | None:
    """The source file of a module or of a package around it; None for a package without one, where that may be."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec and spec.origin and spec.origin.endswith(".py"):
        return Path(spec.origin)
    if spec and spec.submodule_search_locations and may_be_namespace:
        return None
    raise BackendUnavailable(f"the source of {module} cannot be found", "a backend is a Python module or package")


def make(backend_spec: str, cache: Cache) -> tuple[Path, str]:
    """The bundle as a folder of the cache, and the key that names its content."""
    content = files(backend_spec)
    key = key_of(sorted((name, hashlib.sha256(data).hexdigest()) for name, data in content.items()))

    def build(folder: Path) -> dict[str, str]:
        for name, data in content.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return {}

    return cache.get("code", key, build, summary=f"worker code with {backend_spec or 'no backend'}").path, key
