"""Binds the open dimensions of a model's inputs. Nothing is guessed."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx
from onnx import helper

from bench.errors import UsageError
from bench.onnxfile.file import Dims, OnnxFile, carry, fed


def bindings(
    file: OnnxFile,
    shapes: Mapping[str, tuple[int, ...]],
    batch: int | None,
    example: Callable[[], Mapping[str, tuple[int, ...]]] = dict,
) -> dict[str, tuple[int, ...]]:
    """The shape of every input once the options are applied. Nothing is guessed.

    `batch` is the first dimension of every input that leaves it open; where none does, it must be what the file has.
    `example` is asked for shapes to propose where dimensions are left open: those of the model's own data.

    Raises:
        UsageError: an unknown input, a shape that contradicts the file, or a dimension left open.
    """
    declared = file.open_dims
    for name in shapes:
        if name not in declared:
            raise UsageError(f"the model has no input {name!r}", f"its inputs: {describe(declared)}")
    bound: dict[str, Dims | None] = {}
    for name, dims in declared.items():
        bound[name] = _given(name, dims, shapes[name]) if name in shapes else dims
    if batch is not None:
        bound |= _batched({name: dims for name, dims in bound.items() if name not in shapes}, batch)
    symbols = _symbols(declared, bound)
    closed = {name: _closed(dims, symbols) for name, dims in bound.items()}
    open_ = {name: dims for name, dims in closed.items() if dims is None or not all(_is_size(d) for d in dims)}
    if open_:
        raise UsageError(f"the model leaves dimensions open: {describe(open_)}", _how_to_close(open_, example()))
    return {name: tuple(int(d) for d in dims or () if d is not None) for name, dims in closed.items()}


def _is_size(dim: int | str | None) -> bool:
    """Some exporters write 0 or -1 where they mean unknown."""
    return isinstance(dim, int) and dim > 0


def _given(name: str, dims: Dims | None, wanted: tuple[int, ...]) -> Dims:
    if dims is None:
        return wanted
    if len(wanted) != len(dims):
        message = f"input {name!r} has {len(dims)} dimensions, {len(wanted)} were given"
        raise UsageError(message, f"it is {describe({name: dims})}")
    if any(_is_size(dim) and want != dim for want, dim in zip(wanted, dims, strict=True)):
        message = f"input {name!r} is fixed to {list(dims)} in the file, {list(wanted)} was asked for"
        raise UsageError(message, "export the model again with that shape, or with a symbolic dimension")
    return wanted


def _batched(inputs: Mapping[str, Dims | None], batch: int) -> dict[str, Dims]:
    ranked = {name: dims for name, dims in inputs.items() if dims}
    found = {name: (batch, *dims[1:]) for name, dims in ranked.items() if not _is_size(dims[0])}
    if not found and any(dims[0] != batch for dims in ranked.values()):
        message = f"no input leaves its batch open, {batch} was asked for: {describe(ranked)}"
        raise UsageError(message, "export the model again with a symbolic batch dimension")
    return found


def _symbols(declared: Mapping[str, Dims | None], bound: Mapping[str, Dims | None]) -> dict[str, int]:
    """The size of each symbol, by the inputs that got a size where they had it."""
    symbols: dict[str, int] = {}
    for name, dims in declared.items():
        for dim, size in zip(dims or (), bound[name] or (), strict=dims is not None):
            if isinstance(dim, str) and isinstance(size, int) and symbols.setdefault(dim, size) != size:
                raise UsageError(
                    f"the symbol {dim!r} cannot be both {symbols[dim]} and {size}", f"inputs: {describe(declared)}"
                )
    return symbols


def _closed(dims: Dims | None, symbols: Mapping[str, int]) -> Dims | None:
    return None if dims is None else tuple(symbols.get(d, d) if isinstance(d, str) else d for d in dims)


def _how_to_close(shapes: Mapping[str, Dims | None], example: Mapping[str, tuple[int, ...]]) -> str:
    """The options to give, as they are typed: the example's sizes, or 1 where there is none and any would do."""
    usable = {name: sizes for name, sizes in example.items() if all(sizes)}  # of size 0 none can be asked for
    proposed = []
    for name, dims in shapes.items():
        sizes = usable.get(name) or [d if _is_size(d) else 1 for d in dims or ()]
        text = ",".join(map(str, sizes)) or "SIZE,..."
        proposed.append(f"--shape {shlex.quote(f'{name}={text}')}")
    if usable.keys() >= shapes.keys():
        return f"give their sizes, those of its test data for example: {' '.join(proposed)}"
    batch = all(dims and not _is_size(dims[0]) and all(_is_size(d) for d in dims[1:]) for dims in shapes.values())
    return f"give their sizes, for example: {' '.join(proposed)}{', or --batch 1' if batch else ''}"


def describe(shapes: Mapping[str, Dims | None]) -> str:
    """Shapes in words: `input[N,3,224,224]`; an unknown dimension is `?`, an unknown number of them `...`."""
    return ", ".join(
        f"{name}[{'...' if dims is None else ','.join('?' if d is None else str(d) for d in dims)}]"
        for name, dims in shapes.items()
    )


def bind(file: OnnxFile, shapes: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Write the model with these input shapes into a folder, its external data beside it."""
    proto = onnx.ModelProto()
    proto.CopyFrom(file.proto)
    symbols = {
        dim: size
        for name, dims in file.open_dims.items()
        for dim, size in zip(dims or (), shapes[name], strict=False)
        if isinstance(dim, str)
    }
    for info in fed(proto):
        if info.name in shapes:
            elem = info.type.tensor_type.elem_type
            info.type.CopyFrom(helper.make_tensor_type_proto(elem, shapes[info.name]))
    for info in (*proto.graph.output, *proto.graph.value_info):
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param in symbols:
                dim.dim_value = symbols[dim.dim_param]
    onnx.save(proto, folder / file.files[0])
    carry(file, file.files[1:], folder)
