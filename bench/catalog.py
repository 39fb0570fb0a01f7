"""The catalogue: names of models, and the recipes that make them."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import bench
from bench.cache import Cache, key_of
from bench.errors import BenchError, UsageError

RECIPE_LIMIT_S = 600.0
FEWEST_INPUTS = 2


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One model by name, and how it is made."""

    name: str
    summary: str
    recipe: tuple[str, ...]
    seed: int
    args: tuple[tuple[str, str], ...]
    needs: tuple[str, ...]
    extra: str

    def missing(self) -> tuple[str, ...]:
        """What the recipe imports and this Python lacks."""
        return tuple(name for name in self.needs if importlib.util.find_spec(name) is None)


def folder() -> Path:
    """Where the catalogue lies: in the installed package, or in the checkout it runs from. Never the current folder."""
    package = Path(bench.__file__).parent
    carried = package / "_models"
    return carried if carried.is_dir() else package.parent / "models"


def load() -> Mapping[str, CatalogEntry]:
    """Every entry by name."""
    path = folder() / "catalog.toml"
    try:
        data = tomllib.loads(path.read_text())
    except OSError as error:
        raise BenchError(f"the catalogue {path} cannot be read: {error.strerror}", "reinstall deploybench") from error
    return {name: _entry(name, table) for name, table in data.items()}


def _entry(name: str, table: dict[str, object]) -> CatalogEntry:
    def texts(key: str) -> tuple[str, ...]:
        value = table.get(key, ())
        return tuple(str(v) for v in value) if isinstance(value, list) else ()

    args = table.get("args", {})
    pairs = tuple(sorted((str(k), str(v)) for k, v in args.items())) if isinstance(args, dict) else ()
    seed = table.get("seed", 0)
    return CatalogEntry(
        name=name,
        summary=str(table.get("summary", "")),
        recipe=texts("recipe"),
        seed=int(seed) if isinstance(seed, int) else 0,
        args=pairs,
        needs=texts("needs"),
        extra=str(table.get("extra", "")),
    )


def make(entry: CatalogEntry, cache: Cache, say: Callable[[str], None], inputs: int = FEWEST_INPUTS) -> Path:
    """The model folder (`model.onnx`, `test_data_set_*`, `provenance.json`), made by its recipe on first need.

    Raises:
        UsageError: the recipe needs an extra that is not installed.
        BenchError: the recipe refused or failed; its last words are the message.
    """
    if lacking := entry.missing():
        hint = f'pip install "deploybench[{entry.extra}]"' if entry.extra else f"pip install {' '.join(lacking)}"
        raise UsageError(f"the recipe of {entry.name!r} needs {', '.join(lacking)}", hint)
    scripts = [folder() / "recipes" / name for name in entry.recipe]
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in scripts]

    def build(target: Path) -> dict[str, str]:
        say(f"making {entry.name} from its recipe (once)")
        flags = [text for key, value in entry.args for text in (f"--{key}", value)]
        flags += ["--inputs", str(inputs)] if inputs != FEWEST_INPUTS else []
        argv = [sys.executable, "-I", "-B", str(scripts[0]), str(target), "--seed", str(entry.seed), *flags]
        _run(argv, target, entry.name)
        return {"recipe": entry.recipe[0], "recipe_sha256": hashes[0]}

    more = [inputs] if inputs != FEWEST_INPUTS else []
    key = key_of([entry.name, hashes, entry.seed, entry.args, _versions(entry), *more])
    return cache.get("models", key, build, summary=entry.name, on_wait=say).path


def _versions(entry: CatalogEntry) -> dict[str, str]:
    """What a recipe's bytes depend on besides itself: the versions of what it imports."""
    from importlib.metadata import PackageNotFoundError, packages_distributions, version

    found = {}
    for name in ("numpy", "onnx", *entry.needs):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # sklearn is of scikit-learn; asking for all such names takes a while
            found[name] = ", ".join(sorted(f"{d} {version(d)}" for d in packages_distributions().get(name, ())))
    return found


def _run(argv: list[str], target: Path, name: str) -> None:
    try:
        done = subprocess.run(
            argv,
            cwd=target,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RECIPE_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"the recipe of {name!r} took longer than {RECIPE_LIMIT_S:g} s") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        why = lines[-1] if lines else f"it ended with {done.returncode}"
        raise BenchError(f"the recipe of {name!r} refused: {why}", "see models/README.md for what a recipe must keep")
