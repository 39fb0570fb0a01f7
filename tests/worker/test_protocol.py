"""Frames and value trees: whatever is sent comes back, however the bytes are cut; whatever else comes is refused."""

from __future__ import annotations

import json
import math
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bench.interface import Packed
from bench.worker.frames import MAGIC, MAX_SKIPPED_BYTES, PREFIX_BYTES, Decoder, ProtocolError, encode, parts
from bench.worker.protocol import Unpacker, pack

DTYPES = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16"]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
# Any unicode, lone surrogates and zero characters too.
TEXT = st.text(st.characters(), max_size=8)
quick = settings(max_examples=50, deadline=None, derandomize=True)


@st.composite
def string_arrays(draw):
    shape = draw(SHAPES)
    array = np.empty(math.prod(shape), dtype=object)
    array[:] = draw(st.lists(TEXT, min_size=array.size, max_size=array.size))
    return array.reshape(shape)


TENSORS = st.sampled_from(DTYPES).flatmap(lambda name: hnp.arrays(name, SHAPES))
PACKED = st.one_of(
    hnp.arrays("u2", SHAPES).map(lambda bits: Packed("bfloat16", bits)),
    hnp.arrays("u1", SHAPES).map(lambda bits: Packed("float8e4m3fn", bits)),
)
SCALARS = st.one_of(st.booleans(), st.integers(), st.floats(), TEXT)
KEYS = st.one_of(st.lists(st.integers(-(2**63), 2**63 - 1), unique=True), st.lists(TEXT, unique=True))


def maps(values):
    return KEYS.flatmap(lambda keys: st.fixed_dictionaries(dict.fromkeys(keys[:4], values)))


VALUES = st.recursive(
    st.one_of(st.none(), TENSORS, string_arrays(), PACKED, SCALARS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), maps(inner)),
    max_leaves=8,
)


def same(a, b):
    if isinstance(a, np.ndarray):
        if a.dtype == object:
            return b.dtype == object and a.shape == b.shape and a.ravel().tolist() == b.ravel().tolist()
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, Packed):
        return isinstance(b, Packed) and a.dtype == b.dtype and same(a.bits, b.bits)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and (a == b or (a != a and b != b))


def sent(value, cut=1 << 20):
    """The value after a journey in pieces of `cut` bytes."""
    buffers = []
    data = encode({"tree": pack(value, buffers)}, buffers)
    decoder = Decoder()
    frames = [frame for at in range(0, len(data), cut) for frame in decoder.feed(data[at : at + cut])]
    assert len(frames) == 1
    assert not decoder.incomplete
    return Unpacker(frames[0].body).value(frames[0].header["tree"])


@quick
@given(VALUES, st.integers(1, 60))
def test_every_value_comes_back_as_it_was(value, cut):
    assert same(value, sent(value, cut))


@pytest.mark.parametrize("name", DTYPES)
def test_every_type_survives_with_its_extremes(name):
    dtype = np.dtype(name)
    if dtype.kind in "iu":
        values = [np.iinfo(dtype).min, np.iinfo(dtype).max, 0]
    elif dtype.kind == "b":
        values = [True, False, True]
    else:
        values = [np.nan, -np.inf, np.finfo(dtype).tiny]
    assert same(np.array(values, dtype), sent(np.array(values, dtype)))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype="f4").reshape(2, 3, 4).transpose(2, 0, 1),
        np.arange(24, dtype="i8")[::-3],
        np.broadcast_to(np.float32(3), (4, 5)),
        np.asfortranarray(np.eye(3)),
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.array(["a", "bc"]),
        np.array([b"a", b"\xc3\xa9"]),
    ],
)
def test_layout_and_byte_order_of_the_sender_do_not_matter(array):
    back = sent(array)
    texts = {"U": str, "S": bytes.decode}.get(array.dtype.kind)
    assert back.tolist() == ([texts(t) for t in array.tolist()] if texts else array.tolist())


def test_a_map_as_zipmap_gives_it():
    value = [{0: 0.25, 1: math.nan, -7: math.inf}, {np.int64(5): np.float32(0.5)}, {"cat": -math.inf}]
    back = sent(value)
    assert same(value[0], back[0])
    assert list(back[1]) == [5]
    assert type(next(iter(back[1]))) is int
    assert back[1][5] == np.float32(0.5)
    assert same(value[2], back[2])


@quick
@given(st.one_of(TENSORS, string_arrays()), st.sampled_from([bytes, bytearray]))
def test_unpacked_arrays_are_the_receivers_own(array, kind):
    buffers = []
    tree = pack([array, np.int8(1), array], buffers)  # whatever lies before it in the body, it is aligned
    first, _, second = Unpacker(kind(b"".join(buffers))).value(tree)
    for back in (first, second):
        assert back.flags.writeable
        assert back.flags.aligned
        assert back.flags.c_contiguous
    assert not np.shares_memory(first, second)


def test_an_array_that_is_most_of_a_body_is_not_copied_and_a_small_one_does_not_keep_a_body():
    buffers = []
    tree = pack([np.arange(100.0), np.arange(9.0)], buffers)
    large, small = Unpacker(bytearray(b"".join(buffers))).value(tree)
    assert not large.flags.owndata
    assert small.base is None or small.base.nbytes == small.nbytes
    assert [large.tolist(), small.tolist()] == [list(range(100)), list(range(9))]


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1.5: 2},
        {b"k": 1},
        {1, 2},
        np.array([object()]),
        np.array([1, None], object),
        np.array(["2026-01-01"], "M8[D]"),
        np.zeros(2, np.longdouble),
        np.zeros(2, [("a", "f4")]),
    ],
)
def test_what_onnx_does_not_know_is_refused_at_the_sender(value):
    with pytest.raises(TypeError):
        pack(value, [])


@pytest.mark.parametrize("header", [{"a": math.nan}, {"a": object()}, {"a": np.float32(1)}, {"a": b""}])
def test_a_header_that_is_not_json_is_refused_at_the_sender(header):
    with pytest.raises(ProtocolError):
        parts(header)


def test_a_header_too_deep_is_refused_on_both_sides():
    deep = []
    for _ in range(200_000):
        deep = [deep]
    with pytest.raises(ProtocolError):
        parts({"a": deep})
    text = b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    with pytest.raises(ProtocolError):
        list(Decoder().feed(MAGIC + struct.pack("<IQ", len(text), 0) + text))


# --- streams

HEADERS = st.dictionaries(TEXT, st.one_of(st.integers(), TEXT, st.none(), st.lists(st.booleans())), max_size=3)
MESSAGES = st.lists(st.tuples(HEADERS, st.lists(st.binary(max_size=40), max_size=3)), min_size=1, max_size=4)


@quick
@given(MESSAGES, st.binary(max_size=60).filter(lambda banner: MAGIC not in banner), st.data())
def test_a_stream_may_be_cut_anywhere_and_begin_with_a_banner(messages, banner, data):
    stream = banner + b"".join(encode(header, buffers) for header, buffers in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    decoder, frames = Decoder(), []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        frames += decoder.feed(stream[begin:end])
    assert [frame.header for frame in frames] == [header for header, _ in messages]
    assert [frame.body for frame in frames] == [b"".join(buffers) for _, buffers in messages]
    assert decoder.banner == banner


@pytest.mark.parametrize("size", range(1, len(MAGIC)))
@pytest.mark.parametrize("step", [1, 1000])
def test_a_banner_that_looks_like_a_beginning(size, step):
    stream = b"hello\n" + MAGIC[:size] * 3 + encode({"id": 1}, [b"xyz"])
    decoder, frames = Decoder(), []
    for at in range(0, len(stream), step):
        frames += decoder.feed(stream[at : at + step])
    assert [(frame.header, frame.body) for frame in frames] == [({"id": 1}, b"xyz")]
    assert decoder.banner.startswith(b"hello")


def test_bytes_between_frames_are_not_a_banner():
    decoder, frames = Decoder(), []
    with pytest.raises(ProtocolError, match="not ours"):
        frames.extend(decoder.feed(encode({"id": 1}) + b"W" + encode({"id": 2})))
    assert [frame.header for frame in frames] == [{"id": 1}], "what came before the bad bytes is not lost"


def test_bytes_are_taken_in_even_when_nobody_looks_at_the_frames():
    decoder = Decoder()
    data = encode({"id": 1})
    decoder.feed(data[:9])
    assert [frame.header for frame in decoder.feed(data[9:])] == [{"id": 1}]


@quick
@given(MESSAGES, st.integers(1, 200))
def test_room_that_is_used_again_changes_no_frame(messages, step):
    """What is read next overwrites what was read last: frames keep their own."""
    stream, decoder, frames = b"".join(encode(header, buffers) for header, buffers in messages), Decoder(), []
    room = bytearray(step)
    for at in range(0, len(stream), step):
        size = len(part := stream[at : at + step])
        room[:size] = part
        frames += decoder.feed(memoryview(room)[:size])
        room[:] = bytes(len(room))
    assert [(frame.header, frame.body) for frame in frames] == [(h, b"".join(b)) for h, b in messages]
    assert not decoder.incomplete


def test_endless_printing_is_not_a_banner():
    decoder = Decoder()
    with pytest.raises(ProtocolError, match="does not speak our protocol") as caught:
        [list(decoder.feed(b"y\n" * 500)) for _ in range(MAX_SKIPPED_BYTES // 1000 + 2)]
    assert "it printed: 'y" in caught.value.hint or "it printed: '\\n" in caught.value.hint


@pytest.mark.parametrize(
    ("header_bytes", "body_bytes"), [(2**32 - 1, 0), (0, 2**64 - 1), (10, 2**36 + 1), (2**26 + 1, 0)]
)
def test_absurd_lengths_are_refused_at_once(header_bytes, body_bytes):
    with pytest.raises(ProtocolError, match="beyond every bound"):
        list(Decoder().feed(MAGIC + struct.pack("<IQ", header_bytes, body_bytes)))


def test_a_claim_of_gigabytes_takes_no_memory_before_they_come():
    decoder = Decoder()
    tracemalloc.start()
    try:
        assert list(decoder.feed(MAGIC + struct.pack("<IQ", 2, 2**35) + b"{}" + bytes(1000))) == []
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert decoder.incomplete


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b'"\xf0\x28"', b"{'a': 1}", b"9" * 5000]
)
def test_headers_that_are_no_objects(text):
    with pytest.raises(ProtocolError):
        list(Decoder().feed(MAGIC + struct.pack("<IQ", len(text), 0) + text))


@quick
@given(st.binary(max_size=200), st.booleans())
def test_garbage_is_an_error_or_nothing_yet(garbage, after_a_frame):
    decoder = Decoder()
    if after_a_frame:
        list(decoder.feed(encode({})))
    try:
        assert all(isinstance(frame.header, dict) for frame in decoder.feed(garbage))
    except ProtocolError:
        pass


@quick
@given(VALUES, st.data())
def test_a_body_that_is_too_short_is_refused(value, data):
    buffers = []
    tree = pack(value, buffers)
    body = b"".join(buffers)
    if body:
        with pytest.raises(ProtocolError):
            Unpacker(body[: data.draw(st.integers(0, len(body) - 1))]).value(tree)


JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)
FIELDS = ("items", "keys", "value", "text", "dtype", "shape", "lengths", "packed")
TREES = st.builds(
    lambda kind, dtype, rest: {"kind": kind, "dtype": dtype, **rest},
    st.sampled_from(["none", "sequence", "map", "scalar", "tensor"]),
    st.one_of(st.sampled_from(["string", "float32", "complex128", "object", "V8", "f4,f4", "datetime64"]), JUNK),
    st.dictionaries(st.sampled_from(FIELDS), JUNK, max_size=6),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.one_of(TREES, JUNK))
def test_a_tree_from_elsewhere_is_a_value_or_a_protocol_error(tree):
    try:
        Unpacker(bytes(64)).value(tree)
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    "shape", [[-1, 4], [-1, -4], [2**62, 2**62], [10**30], [0, -1], [2**62, 0, 2**62], [1.5e300], ["x"], None]
)
def test_impossible_shapes(shape):
    with pytest.raises(ProtocolError):
        Unpacker(bytes(64)).value({"kind": "tensor", "dtype": "float32", "shape": shape})


def test_a_tree_too_deep_is_a_protocol_error():
    tree = {"kind": "none"}
    for _ in range(100_000):
        tree = {"kind": "sequence", "items": [tree]}
    with pytest.raises(ProtocolError):
        Unpacker(b"").value(tree)


def test_the_format_is_what_it_was():
    """The reference outputs that an earlier version left in the cache are read too."""
    data = encode({"id": 1, "t": pack(np.array([[1, -2]], "i2"), buffers := [])}, buffers)
    text = json.dumps({"id": 1, "t": {"kind": "tensor", "dtype": "int16", "shape": [1, 2]}}, separators=(",", ":"))
    assert data[:PREFIX_BYTES] == b"\x93DBENCH\x01" + struct.pack("<IQ", len(text), 4)
    assert data[PREFIX_BYTES:] == text.encode() + b"\x01\x00\xfe\xff"
