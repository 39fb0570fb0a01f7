"""Journal lines and records as JSON. Samples are packed in lines, plain in records."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import msgspec
import numpy as np

from bench.errors import RecordError
from bench.record.case import CaseLine
from bench.record.trial import EndLine, SliceLine, TrialLine

SCHEMA = 1
Line = CaseLine | TrialLine | SliceLine | EndLine


def encode_line(line: Line) -> bytes:
    """A journal line without its newline. Samples are stored as int64 deltas, deflated, in base64."""
    data = msgspec.to_builtins(line)
    if "bins" in data:
        data["bins"] = _packed_bins(data["bins"])
    for series in data.get("series", ()):
        samples = np.array(series.pop("samples_ns"), dtype="<i8")
        deltas = np.diff(samples, prepend=np.int64(0))
        series["n"] = int(samples.size)
        series["delta_zlib_base64"] = _packed(deltas)
    return encode(data)


def _packed(values: Any) -> str:
    return base64.b64encode(zlib.compress(np.asarray(values, "<i8").tobytes(), 6)).decode()


def _packed_bins(bins: dict[str, list[int]]) -> dict[str, Any]:
    """The differences of the keys, from 0 on, and behind them the counts."""
    keys = np.array(bins["keys"], "<i8")
    deltas = np.diff(keys, prepend=np.int64(0))
    return {"n": len(keys), "delta_zlib_base64": _packed([*deltas.tolist(), *bins["counts"]])}


def encode(data: Any) -> bytes:
    """JSON. Bytes that are no text (a file's name, a log) became lone surrogates on the way in; JSON has none."""
    try:
        return msgspec.json.encode(data)
    except UnicodeEncodeError:
        return msgspec.json.encode(_as_text(data))


def _as_text(data: Any) -> Any:
    if isinstance(data, str):
        return data.encode("utf-8", "replace").decode()
    if isinstance(data, dict):
        return {_as_text(key): _as_text(value) for key, value in data.items()}
    return [_as_text(value) for value in data] if isinstance(data, (list, tuple)) else data


def decode_line(text: bytes) -> Line:
    """The inverse of `encode_line`.

    Raises:
        RecordError: not a line of this schema; the message says what is wrong with it.
    """
    data = decode(text, dict, "a journal line")
    check_schema(data, "a journal line")
    try:
        for series in data.get("series", ()):
            series["samples_ns"] = _samples(series.pop("delta_zlib_base64"), series.pop("n"))
        if "bins" in data:
            data["bins"] = _bins(data["bins"]["delta_zlib_base64"], data["bins"]["n"])
    except (KeyError, TypeError, AttributeError, ValueError, zlib.error) as error:
        raise RecordError(f"a journal line's samples cannot be read: {error!r}") from error
    try:
        return msgspec.convert(data, Line)  # type: ignore[no-any-return]
    except msgspec.ValidationError as error:
        raise RecordError(f"a journal line cannot be read: {error}") from error


def _unpacked(text: str) -> Any:
    return np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), dtype="<i8")


def _bins(text: str, count: int) -> dict[str, list[int]]:
    values = _unpacked(text)
    if not 0 <= count <= values.size:
        raise ValueError(f"{values.size} numbers, {count} bins expected")
    return {"keys": np.cumsum(values[:count]).tolist(), "counts": values[count:].tolist()}


def _samples(text: str, count: int) -> list[int]:
    deltas = _unpacked(text)
    if deltas.size != count:
        raise ValueError(f"{deltas.size} samples, {count} expected")
    return np.cumsum(deltas).tolist()  # type: ignore[no-any-return]


def check_schema(data: dict[str, Any], what: str) -> None:
    """Raises:
    RecordError: it is of another schema; the hint says what to do.
    """
    schema = data.get("schema")
    if isinstance(schema, bool) or schema != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        hint = "use a newer deploybench" if newer else "it was not written by deploybench"
        raise RecordError(f"{what} has the schema {schema!r}, this version reads {SCHEMA}", hint)


def decode(data: bytes, kind: Any, what: str) -> Any:
    """JSON as a `kind`.

    Raises:
        RecordError: it is none.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise RecordError(f"{what} cannot be read: {error}") from error
