"""The code that a worker runs, as one folder named by its content: part of `bench`, and one backend's module.

The same bytes run here and on devices. Running from a copy makes a trial immune to edits of the source during a run, and
to whatever `bench/`, `backends/` or `numpy.py` lies in the folder it is started from.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import bench
from bench.cache import Cache, key_of
from bench.errors import BackendUnavailable

# Closed under imports; a test holds it to that.
WORKER_FILES = (
    "__init__.py",
    "errors.py",
    "interface.py",
    "evidence/__init__.py",
    "evidence/environment.py",
    "evidence/load.py",
    "measure/__init__.py",
    "measure/loop.py",
    "worker/__init__.py",
    "worker/child.py",
    "worker/protocol.py",
    "worker/supervisor.py",
    "worker/wire.py",
)


def files(backend_spec: str) -> dict[str, bytes]:
    """Every file of the bundle by its path inside it.

    Raises:
        BackendUnavailable: the backend's module has no source to send.
    """
    root = Path(bench.__file__).parent
    found = {f"bench/{name}": (root / name).read_bytes() for name in WORKER_FILES}
    return found | _module_files(backend_spec.partition(":")[0])


def _module_files(module: str) -> dict[str, bytes]:
    """The module's source and the `__init__.py` of the packages around it; a package comes whole."""
    found: dict[str, bytes] = {}
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        spec = importlib.util.find_spec(".".join(parts[:depth]))
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            raise BackendUnavailable(f"the source of {module} cannot be found", "a backend is a Python module or package")
        source, base = Path(spec.origin), "/".join(parts[:depth])
        if source.name != "__init__.py":
            found[f"{base}.py"] = source.read_bytes()
        elif depth < len(parts):
            found[f"{base}/__init__.py"] = source.read_bytes()
        else:
            inside = source.parent.rglob("*.py")
            found |= {f"{base}/{p.relative_to(source.parent)}": p.read_bytes() for p in inside}
    return found


def make(backend_spec: str, cache: Cache) -> tuple[Path, str]:
    """The bundle as a folder of the cache, and the key that names its content."""
    content = files(backend_spec)
    key = key_of(sorted((name, key_of(data.decode("utf-8"))) for name, data in content.items()))

    def build(folder: Path) -> dict[str, str]:
        for name, data in content.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return {}

    return cache.get("code", key, build, summary=f"worker code with {backend_spec}").path, key
