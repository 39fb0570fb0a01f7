"""The shapes that an engine takes: optimization profiles, from the option `profile` and from the model.

A profile is three shapes per input: the smallest, the one to be fastest at, the largest. Pure: no runtime is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.errors import PrepareError, UnsupportedModel, UsageError
from bench.interface import ValueSpec

FORM = "write profile=INPUT=1x3x224x224:8x3x224x224:32x3x224x224 or profile=SYMBOL=1:8:32, several joined by ;"
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """What one input may look like; `names` are the symbols of the dimensions that the model leaves open."""

    least: Shape
    usual: Shape
    most: Shape

    @property
    def fixed(self) -> bool:
        """Whether it is one shape."""
        return self.least == self.most

    def open_shape(self) -> Shape:
        """The shape as a network has it: -1 where it varies."""
        return tuple(a if a == b else -1 for a, b in zip(self.least, self.most, strict=True))

    def holds(self, shape: Sequence[int]) -> bool:
        """Whether an engine with this profile takes the shape."""
        return len(shape) == len(self.least) and all(
            a <= size <= b for a, size, b in zip(self.least, shape, self.most, strict=True)
        )


def parse(text: str) -> dict[str, Range]:
    """`NAME=LEAST:USUAL:MOST`, joined by `;`, by name. Names are inputs, or symbols of the model's open dimensions.

    Raises:
        UsageError: another form, or sizes that are not in order.
    """
    found: dict[str, Range] = {}
    for part in filter(None, (p.strip() for p in text.split(";"))):
        name, _, shapes = part.rpartition("=")
        try:
            sizes = [tuple(int(size) for size in shape.split("x")) for shape in shapes.split(":")]
        except ValueError:
            sizes = []
        if not name or len(sizes) != 3 or len({len(s) for s in sizes}) != 1 or any(n < 1 for s in sizes for n in s):
            raise UsageError(f"the profile {part!r} cannot be read", FORM)
        if any(not a <= b <= c for a, b, c in zip(*sizes, strict=True)):
            raise UsageError(f"the profile {part!r} is not in order", "smallest, usual and largest, each no smaller")
        found[name] = Range(*sizes)
    return found


def ranges(
    specs: Sequence[ValueSpec], symbols: Mapping[str, Sequence[str]], given: Mapping[str, Range]
) -> dict[str, Range]:
    """What every input of a model may look like.

    `specs`: as the case has them; sizes, or None where the case leaves them open. `symbols`: per input and axis the
    name of an open dimension, or empty.

    Raises:
        UsageError: a profile for what the model does not have, or of another rank.
        PrepareError: the profile leaves out the shape that is to be run.
        UnsupportedModel: a dimension is open, and nothing says in which range.
    """
    known = {spec.name for spec in specs} | {name for names in symbols.values() for name in names if name}
    if unknown := sorted(set(given) - known):
        raise UsageError(f"the profile names {unknown[0]!r}, which the model does not have", f"it has {sorted(known)}")
    found = {}
    for spec in specs:
        if spec.shape is None:
            raise UnsupportedModel(f"input {spec.name!r} has no rank, and an engine takes tensors of a known one")
        found[spec.name] = _range(spec.name, spec.shape, symbols.get(spec.name, ()), given)
    return found


def _range(name: str, shape: tuple[int | None, ...], symbols: Sequence[str], given: Mapping[str, Range]) -> Range:
    if (whole := given.get(name)) is not None:
        if len(whole.least) != len(shape):
            raise UsageError(f"the profile of {name!r} has {len(whole.least)} dimensions, the input {len(shape)}", FORM)
        return _checked(name, shape, whole)
    columns = []
    for axis, size in enumerate(shape):
        symbol = symbols[axis] if axis < len(symbols) else ""
        if symbol in given:
            columns.append((*given[symbol].least, *given[symbol].usual, *given[symbol].most))
        elif size is not None:
            columns.append((size, size, size))
        else:
            what = f" ({symbol})" if symbol else ""
            raise UnsupportedModel(
                f"dimension {axis}{what} of input {name!r} is open, and an engine takes a range", FORM
            )
        if len(columns[-1]) != 3:
            raise UsageError(f"the symbol {symbol!r} is one dimension", FORM)
    least, usual, most = zip(*columns, strict=True) if columns else ((), (), ())
    return _checked(name, shape, Range(least, usual, most))


def _checked(name: str, shape: tuple[int | None, ...], found: Range) -> Range:
    sizes = tuple(usual if size is None else size for size, usual in zip(shape, found.usual, strict=True))
    if not found.holds(sizes):
        said = f"{words(found.least)} to {words(found.most)}"
        raise PrepareError(
            f"the profile takes {name!r} from {said}, and {words(sizes)} is to be run", "widen the profile"
        )
    return found


def words(shape: Sequence[int]) -> str:
    """`1x3x224x224`; `scalar` without dimensions."""
    return "x".join(str(size) for size in shape) or "scalar"
