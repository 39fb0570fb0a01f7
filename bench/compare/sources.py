"""What OLD and NEW stand for: files, folders, runs, git revisions; and the earlier nights of their cells."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import scan
from bench.compare import revisions
from bench.compare.cells import in_order
from bench.errors import RecordError, UsageError
from bench.record import Record
from bench.registry import nearest
from bench.store import run_files

LAST = 20
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sides:
    """The records to compare, and what else is known of their cells; `title` says what was compared."""

    old: tuple[Record, ...]
    new: tuple[Record, ...]
    history: tuple[Record, ...]
    title: str


def sides(given: Sequence[str], results: Path, last: int, say: Say) -> Sides:
    """OLD and NEW; of one, NEW, against the nights before; of none, the newest run against the nights before it.

    Raises:
        UsageError: nothing is found, or the same twice, or a file that was asked for cannot be read.
    """
    if len(given) > 2:
        raise UsageError(f"{len(given)} things cannot be compared at once", "give OLD and NEW")
    pool = _Pool(results, last, _once(say))
    new_name = given[-1] if given else pool.newest_run()
    new = tuple(pool.resolve(new_name))
    if len(given) == 2:
        seen = tuple(pool.resolve(given[0]))
        both = {r.id for r in seen}
        fresh = tuple(r for r in new if r.id not in both)
        if not fresh:
            raise UsageError(
                f"{given[0]} and {new_name} are the same: nothing in the second is not in the first too",
                "give two different runs",
            )
        return Sides(seen, fresh, tuple(pool.around(seen)), f"{_told(given[0])} → {_told(new_name)}")
    known = pool.around(new)
    first = min(r.started_at for r in new)
    ours = {r.id for r in new}
    earlier = [r for r in known if r.started_at <= first and r.id not in ours]
    if not earlier:
        raise UsageError(
            f"there is no earlier night of any cell of {new_name} in {results}", "measure again, then compare"
        )
    old = in_order([*earlier, *pool.run_before(new)])
    return Sides(tuple(old), new, tuple(known), f"the last {last} nights → {_told(new_name)}")


def _once(say: Say) -> Say:
    """Files are looked at several times; what is wrong with one is said once."""
    said: set[str] = set()

    def first(message: str) -> None:
        if message not in said:
            said.add(message)
            say(message)

    return first


def _told(name: str) -> str:
    """A path by its last part: what is printed may become public."""
    return Path(name).name or name


class _Pool:
    """The run files of a results folder, read no more than is needed."""

    def __init__(self, results: Path, last: int, say: Say) -> None:
        self._results, self._last, self._say = results, last, say
        folder = results / "records"
        self._files = run_files([folder]) if folder.is_dir() else []

    def newest_run(self) -> str:
        """The name of the newest run that is no re-run alone."""
        for path in reversed(self._files):
            if not all(one.confirms for one in _find([path], self._say)):
                return path.stem
        raise UsageError(f"there are no records in {self._results}", "`deploybench run` makes some")

    def resolve(self, text: str) -> list[Record]:
        """The newest records of every cell of a file, a folder, a run or a revision."""
        path = Path(text)
        if path.exists():
            return self._named(run_files([path]), text)
        names = sorted({p.stem for p in self._files if p.stem.startswith(text)})
        if text in names:
            names = [text]
        if len(names) > 1:
            raise UsageError(f"{len(names)} runs begin with {text!r}", f"give more of one: {', '.join(names[:5])}")
        if names:
            return self._named([p for p in self._files if p.stem == names[0]], text)
        if sha := revisions.commit(text, self._results):
            with tempfile.TemporaryDirectory() as folder:
                return self._named(run_files([revisions.extract(sha, self._results, Path(folder))]), text)
        hint = nearest(text, [p.stem for p in self._files]) if self._files else "`deploybench run` makes records"
        raise UsageError(f"there is no file, no run in {self._results}/records and no git revision {text!r}", hint)

    def _named(self, files: Sequence[Path], text: str) -> list[Record]:
        found = _find(files, self._say)
        if not found:
            raise UsageError(f"{text} holds no records", "`deploybench run` makes some")
        return _records(one for of_cell in _by_cell(found).values() for one in self._enough(of_cell))

    def _enough(self, of_cell: Sequence[scan.Found], before: str = "9") -> list[scan.Found]:
        """Of a cell's records the newest up to a time, as many as there may be nights besides; and every re-run."""
        own = [one for one in of_cell if not one.confirms and one.started_at <= before]
        return own[-self._last - 1 :] + [one for one in of_cell if one.confirms]

    def around(self, records: Iterable[Record]) -> list[Record]:
        """What else the results folder has of these records' cells: nights before, and re-runs after."""
        begun: dict[tuple[str, str], str] = {}
        for record in records:
            key = (record.machine, record.cell)
            begun[key] = max(begun.get(key, ""), record.started_at)
        found = [one for path in self._files for one in _found(path, self._say) if (one.machine, one.cell) in begun]
        return _records(
            one for key, of_cell in _by_cell(found).items() for one in self._enough(of_cell, before=begun[key])
        )

    def run_before(self, new: Sequence[Record]) -> list[Record]:
        """The run before, on the machines of these records: what it had and they have not is missing."""
        runs, machines = {r.run for r in new}, {r.machine for r in new}
        begun = min(runs)
        for path in reversed(self._files):
            if path.stem < begun and path.parent.name in machines:
                own = [one for one in _found(path, lambda message: None) if not one.confirms]
                if own:
                    return _records(own)
        return []


def _by_cell(found: Iterable[scan.Found]) -> dict[tuple[str, str], list[scan.Found]]:
    cells: dict[tuple[str, str], list[scan.Found]] = {}
    for one in sorted(found):
        cells.setdefault((one.machine, one.cell), []).append(one)
    return cells


def _find(files: Sequence[Path], say: Say) -> list[scan.Found]:
    """The records of files that were asked for.

    Raises:
        UsageError: one cannot be read.
    """
    try:
        return scan.find(files, say)
    except RecordError as error:
        raise UsageError(error.message, error.hint) from error


def _found(path: Path, say: Say) -> list[scan.Found]:
    """The records of a file that nobody named: one that cannot be read is said, and left out."""
    try:
        return scan.find([path], say)
    except RecordError as error:
        say(f"left out: {error}")
        return []


def _records(wanted: Iterable[scan.Found]) -> list[Record]:
    """Oldest first. What is cut off was said when they were found."""
    by_path: dict[Path, set[str]] = {}
    for one in wanted:
        by_path.setdefault(one.path, set()).add(one.id)
    try:
        return in_order(record for path, ids in by_path.items() for record in scan.read(path, ids))
    except RecordError as error:
        raise UsageError(error.message, error.hint) from error
