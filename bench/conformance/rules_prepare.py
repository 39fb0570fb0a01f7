"""Rules about `prepare` and the artefacts that it makes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from bench.conformance.kit import Skip, Subject, Violation, require_same
from bench.conformance.models import UNKNOWN
from bench.conformance.rules_declaration import require_json
from bench.errors import BenchError, UnsupportedModel
from bench.interface import Artifact, Signature
from bench.reproducible import difference


def check_prepare_stays_in_workdir(subject: Subject) -> None:
    """`prepare` writes below its workdir only: not beside the model, not into the current folder."""
    kit = subject.working()
    around, current = subject.folder("around"), subject.folder("current")
    model, workdir = kit.write(around / "model"), around / "workdir"
    workdir.mkdir()
    before = _listing(around)
    with _inside(current):
        artifact = subject.backend().prepare(model, subject.options(), workdir, subject.tools)
    after = {name: digest for name, digest in _listing(around).items() if not name.startswith("workdir/")}
    changed = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    changed += [f"(current folder)/{name}" for name in _listing(current)]
    if changed:
        raise Violation(f"prepare wrote outside its workdir, or changed the model: {', '.join(changed)}")
    home = model.root if artifact.root == model.root else workdir
    for name in artifact.files:
        path = (artifact.root / name).resolve()
        if not path.is_file() or home.resolve() not in path.parents:
            raise Violation(f"the artefact lists {name!r}, which is not a file below {home.name}/")


def _listing(folder: Path) -> dict[str, str]:
    """Every file below `folder` by its relative path, with its hash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    previous = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(previous)


def check_prepare_repeats(subject: Subject) -> None:
    """Preparing the same model again gives the same files, if on the host to the byte, and the same answers."""
    kit = subject.working()
    first, second = subject.artifact(kit), subject.prepare(kit)
    if first.files != second.files:
        raise Violation(f"the first prepare listed {first.files}, the second {second.files}")
    for name in first.files if subject.backend_class.prepares == "host" else ():
        if found := difference(first.root / name, second.root / name):
            raise Violation(f"prepared again, {found}; a random name or a date can be replaced")
    wanted = subject.fresh(kit, 1)
    with subject.session(kit, second) as session:
        require_same(session.run(kit.feeds(1)), wanted, "the second artefact answers differently")


def check_meta(subject: Subject) -> None:
    """The artefact's `meta` is JSON and survives being written and read."""
    require_json(dict(subject.artifact(subject.working()).meta), "the artefact's meta")


def check_signature(subject: Subject) -> None:
    """The artefact carries the ONNX model's signature: the same names, types and shapes in the same order."""
    kit = subject.working()
    found = subject.artifact(kit).signature
    if found != Signature(kit.inputs, kit.outputs):
        raise Violation(f"the artefact's signature is not the model's: {found}")


def check_artifact_moves(subject: Subject) -> None:
    """An artefact is its listed files and its meta: copied to another folder, it loads and answers the same."""
    kit = subject.working()
    wanted = subject.fresh(kit, 1)
    made = subject.prepare(kit)
    moved = _moved(made, subject.folder("moved"))
    shutil.rmtree(made.root)
    try:
        with subject.session(kit, moved) as session:
            outputs = session.run(kit.feeds(1))
    except (BenchError, OSError, Skip) as error:
        raise Violation(f"the artefact does not work once it was moved: {error}") from error
    require_same(outputs, wanted, "the moved artefact answers differently")


def _moved(artifact: Artifact, folder: Path) -> Artifact:
    for name in artifact.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(artifact.root / name, folder / name)
    return Artifact(folder, artifact.files, artifact.signature, artifact.meta)


def check_unsupported_operator(subject: Subject) -> None:
    """An operator that the backend does not know raises UnsupportedModel, in prepare or in load."""
    try:
        artifact = subject.prepare(UNKNOWN)
        subject.backend().load(artifact, subject.options()).close()
    except UnsupportedModel:
        return
    except BenchError as error:
        raise Violation(f"an unknown operator raised {type(error).__name__} ({error}), not UnsupportedModel") from error
    raise Violation("a model with an operator of the unknown domain org.example.unknown was prepared and loaded")


def check_unknown_precision(subject: Subject) -> None:
    """A precision that the backend does not have is refused with a BenchError, never ignored."""
    kit = subject.working()
    options = subject.options(precision="no-such-precision")
    try:
        artifact = subject.prepare(kit, options)
        subject.backend().load(artifact, options).close()
    except BenchError:
        return
    raise Violation("the precision 'no-such-precision' was accepted without a word")


_DAMAGES: dict[str, Callable[[Path], None]] = {
    "gone": lambda path: path.unlink(),
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "overwritten": lambda path: _scribble(path),
}


def check_damaged_artifact(subject: Subject) -> None:
    """An artefact whose files are cut short, overwritten or gone raises a BenchError at load."""
    kit = subject.working()
    made = subject.artifact(kit)
    for how, damage in _DAMAGES.items():
        damaged = _moved(made, subject.folder("damaged"))
        for name in damaged.files:
            damage(damaged.root / name)
        try:
            subject.backend().load(damaged, subject.options()).close()
        except BenchError:
            continue
        except Exception as error:
            raise Violation(f"with its files {how}, load raised a bare {type(error).__name__}: {error}") from error
        raise Violation(f"with its files {how}, the artefact still loaded")


def _scribble(path: Path) -> None:
    path.write_bytes(np.random.default_rng(3).bytes(path.stat().st_size))
