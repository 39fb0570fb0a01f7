"""Parity: the verdict on outputs, against a naive loop, and the rules that no tolerance may bend."""

from __future__ import annotations

import math
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bench.interface import Packed
from bench.parity import compare as parity
from bench.parity import distance
from bench.parity.compare import (
    TOLERANCES,
    Tolerance,
    compare,
    parse_tolerance,
)
from bench.parity.numbers import Numbers
from bench.parity.precision import bits_above, looks_like
from bench.parity.sense import empty_of_proof, movement, not_finite

FP32 = TOLERANCES["fp32"]
NOTHING = Tolerance("none", 0.0, 0.0, "nothing is allowed")
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
DTYPES = st.sampled_from([np.float16, np.float32, np.float64, np.complex64, np.complex128])
TOLERANCE = st.builds(lambda r, a: Tolerance("t", r, a, ""), st.floats(0, 0.5), st.floats(0, 0.5))
PLAIN = st.floats(-1e3, 1e3, allow_subnormal=False)
WILD = st.one_of(PLAIN, st.floats(allow_nan=True, allow_infinity=True))


def verdict(expected, got, tolerance=FP32):
    return compare({"y": expected}, {"y": got}, tolerance)


def one(expected, got, tolerance=FP32):
    return verdict(expected, got, tolerance).outputs[0]


def f32(*values):
    return np.array(values, np.float32)


@st.composite
def pairs(draw, elements=WILD, dtype=np.float64):
    """Two arrays of one shape, the second often near the first."""
    shape = draw(SHAPES)
    first = draw(hnp.arrays(dtype, shape, elements=elements))
    if draw(st.booleans()):
        return first, draw(hnp.arrays(dtype, shape, elements=elements))
    factors = draw(hnp.arrays(np.float64, shape, elements=st.floats(0.99, 1.01)))
    with np.errstate(all="ignore"):
        return first, np.asarray(first * factors).astype(dtype)


def naive(expected, got, tolerance):
    """|got - ref| <= rtol |ref| + atol max|ref| in plain Python; NaN and Inf only where the reference has them."""
    expected, got = [float(v) for v in expected.ravel()], [float(v) for v in got.ravel()]
    scale = max((abs(e) for e in expected if math.isfinite(e)), default=0.0)
    for e, g in zip(expected, got, strict=True):
        if math.isnan(e) or math.isnan(g):
            if not (math.isnan(e) and math.isnan(g)):
                return False
        elif math.isinf(e) or math.isinf(g):
            if e != g:
                return False
        elif abs(g - e) > tolerance.rtol * abs(e) + tolerance.atol_of_scale * scale:
            return False
    return True


@given(st.data(), DTYPES)
def test_identical_passes_even_where_nothing_is_allowed(data, dtype):
    array = data.draw(hnp.arrays(dtype, SHAPES))
    result = verdict(array, array.copy(), NOTHING)
    assert result.passed
    assert result.grade == "fp32"
    assert result.outputs[0].exceed == 0


@given(pairs(elements=PLAIN), TOLERANCE)
def test_the_verdict_is_the_naive_one(pair, tolerance):
    expected, got = pair
    scale = float(np.abs(expected).max(initial=0.0))
    for e, g in zip(expected.ravel(), got.ravel(), strict=True):  # where rounding decides, neither is wrong
        allowed = tolerance.rtol * abs(e) + tolerance.atol_of_scale * scale
        if abs(abs(g - e) - allowed) <= 1e-12 * (abs(e) + abs(g) + allowed) and g != e:
            return
    assert verdict(expected, got, tolerance).passed == naive(expected, got, tolerance)


@given(pairs(), TOLERANCE)
def test_figures_are_numbers_or_absent_and_exceed_agrees_with_the_verdict(pair, tolerance):
    result = one(*pair, tolerance)
    figures = [getattr(result, name) for name in ("max_abs", "max_rel_scale", "rms", "cosine", "exceed", "share_out")]
    assert all(f is None or math.isfinite(f) for f in figures)
    assert result.passed == (result.exceed is not None and result.exceed <= 1)
    assert bool(result.problem) is not result.passed
    assert result.cosine is None or abs(result.cosine) <= 1 + 1e-9


@given(pairs(), TOLERANCE, st.floats(1, 10), st.floats(1, 10))
def test_what_passes_passes_at_every_wider_tolerance(pair, tolerance, more_r, more_a):
    wider = Tolerance("wider", tolerance.rtol * more_r, tolerance.atol_of_scale * more_a, "")
    if verdict(*pair, tolerance).passed:
        assert verdict(*pair, wider).passed


@given(pairs(), TOLERANCE)
def test_the_grade_is_the_tightest_that_passes(pair, tolerance):
    passing = [t.name for t in TOLERANCES.values() if verdict(*pair, t).passed]
    assert verdict(*pair, tolerance).grade == (passing[0] if passing else "wrong")


@given(pairs(elements=PLAIN), st.integers(-900, 900), TOLERANCE)
def test_scale_changes_no_verdict(pair, exponent, tolerance):
    expected, got = pair
    if (np.abs(np.concatenate([expected.ravel(), got.ravel()])) < 1e-30).any():
        return  # what would leave the range of a double is another number afterwards
    scaled = verdict(np.ldexp(expected, exponent // 2), np.ldexp(got, exponent // 2), tolerance)
    plain = verdict(expected, got, tolerance)
    assert (scaled.passed, scaled.grade) == (plain.passed, plain.grade)
    assert scaled.outputs[0].exceed == plain.outputs[0].exceed
    assert scaled.outputs[0].worst == plain.outputs[0].worst


@pytest.mark.parametrize("factor", [1e-20, 1.0, 1e20, 1e-150, 1e150, 1e-300, 1e300])
@pytest.mark.parametrize(("off", "passes"), [(1e-4, True), (1e-2, False)])
def test_neither_tiny_nor_huge_outputs_are_judged_by_accident(factor, off, passes):
    expected = np.random.default_rng(0).standard_normal(64) * factor
    assert verdict(expected, expected * (1 + off)).passed is passes


@given(pairs(elements=PLAIN))
def test_distance_and_cosine_do_not_know_which_side_is_the_reference(pair):
    a, b = one(*pair), one(*reversed(pair))
    if not pair[0].size:
        return
    assert a.max_abs == pytest.approx(b.max_abs, rel=1e-12)
    assert a.rms == pytest.approx(b.rms, rel=1e-12)
    assert (a.cosine is None) == (b.cosine is None)
    assert a.cosine is None or a.cosine == pytest.approx(b.cosine, abs=1e-9)


@given(hnp.arrays(np.float64, st.integers(1, 40), elements=PLAIN), st.data())
def test_the_worst_element_is_where_it_is(expected, data):
    at = data.draw(st.integers(0, expected.size - 1))
    got = expected.copy()
    got[at] += 1 + 2 * np.abs(expected).max()
    result = one(expected, got)
    assert result.worst == (at,)
    assert result.worst_got == got[at]
    assert result.worst_expected == expected[at]
    assert result.share_out == 1 / expected.size


def test_the_worst_of_many_chunks_has_its_own_index():
    expected = np.ones((3, parity._CHUNK), np.float32)
    got = expected.copy()
    got[2, 7] = 1.5
    got[0, 5] = 1.1
    assert one(expected, got).worst == (2, 7)
    got[1, 9] = np.nan
    result = one(expected, got)
    assert result.worst == (1, 9)
    assert result.worst_got is None
    assert result.share_out == pytest.approx(3 / expected.size)


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("expected", "got", "passes"),
    [
        ([NAN, 1], [NAN, 1], True),
        ([NAN, 1], [0, 1], False),
        ([2, 1], [NAN, 1], False),
        ([INF, -INF, 1], [INF, -INF, 1], True),
        ([INF, 1], [-INF, 1], False),
        ([INF, 1], [3e38, 1], False),
        ([1, 1], [INF, 1], False),
        ([NAN, INF], [NAN, INF], True),
        ([NAN], [INF], False),
        ([NAN, 1], [NAN, 2], False),
    ],
)
def test_nan_and_infinity(expected, got, passes):
    report = verdict(f32(*expected), f32(*got), TOLERANCES["int8"])
    assert report.passed is passes
    assert (report.grade == "wrong") is not passes
    if not passes and report.outputs[0].nan:
        assert "NaN or infinite on one side only" in report.problem


def test_an_overflow_of_half_precision_fails():
    with np.errstate(over="ignore"):
        got = np.array([70000.0, 1.0]).astype(np.float16)
    report = verdict(np.array([65504.0, 1.0], np.float16), got, TOLERANCES["fp16"])
    assert not report.passed
    assert "is inf, not 65504" in report.problem


def test_figures_beside_a_nan_are_of_the_other_elements():
    result = one(f32(1, 2, NAN), f32(1, 4, NAN))
    assert result.max_abs == 2
    assert result.max_rel_scale == 1
    assert result.nan == 0


def test_an_output_127_times_too_large_fails_although_it_points_the_same_way():
    expected = np.random.default_rng(1).standard_normal((1, 1000)).astype(np.float32)
    report = verdict(expected, expected * 127, TOLERANCES["int8"])
    assert report.outputs[0].cosine == pytest.approx(1)
    assert not report.passed
    assert report.grade == "wrong"


def test_an_all_zero_reference_takes_zeros_and_nothing_else():
    assert verdict(np.zeros(4), np.zeros(4), NOTHING).passed
    assert verdict(np.zeros(4), -np.zeros(4), NOTHING).passed
    report = verdict(np.zeros(4), np.array([0, 0, 1e-30, 0]), TOLERANCES["int8"])
    assert not report.passed
    assert report.outputs[0].worst == (2,)
    assert report.outputs[0].exceed is None
    assert "zero everywhere" in report.problem


@pytest.mark.parametrize("value", [5e-324, 1e-310, 1.7e308, np.finfo(np.float64).max])
def test_the_ends_of_the_range(value):
    expected = np.array([value, -value, 0.0])
    assert verdict(expected, expected.copy(), NOTHING).passed
    flipped = one(expected, -expected, TOLERANCES["int8"])
    assert not flipped.passed
    assert flipped.max_rel_scale == 2
    assert flipped.cosine == pytest.approx(-1)
    assert flipped.exceed == pytest.approx(10)


def test_huge_against_tiny_is_wrong_without_a_warning():
    assert not verdict(np.array([1e-300, 1e-300]), np.array([1e300, -1e300])).passed
    assert not verdict(np.zeros(2), np.array([1e300, -1.7e308])).passed
    assert not verdict(np.array([1e-320]), np.array([1.7e308])).passed


@pytest.mark.parametrize(
    "got",
    [
        np.zeros((2, 3), np.float32),
        np.zeros((3, 2), np.float64),
        np.zeros(6, np.float32),
        np.zeros((3, 2), np.int32),
        np.zeros((1, 3, 2), np.float32),
        [np.zeros((3, 2), np.float32)],
        {"a": 1.0},
        None,
        Packed("bfloat16", np.zeros((3, 2), np.uint16)),
    ],
)
def test_another_shape_type_or_kind_is_a_verdict_and_no_exception(got):
    report = verdict(np.zeros((3, 2), np.float32), got, TOLERANCES["int8"])
    assert not report.passed
    assert report.grade == "wrong"
    assert not report.outputs[0].shape_ok
    assert report.problem.startswith("y: it")


def test_missing_outputs_fail_and_others_are_ignored():
    report = compare({"a": f32(1), "b": f32(1)}, {"a": f32(1), "c": f32(9)}, FP32)
    assert [o.passed for o in report.outputs] == [True, False]
    assert report.problem == "b: it is missing"
    assert report.grade == "wrong"


def test_no_outputs_are_no_proof():
    report = compare({}, {"y": f32(1)}, FP32)
    assert not report.passed
    assert report.grade == "wrong"
    assert report.problem


def test_the_worst_output_decides():
    report = compare({"a": f32(1, 2), "b": f32(1, 2)}, {"a": f32(1, 2.001), "b": f32(1, 2.01)}, TOLERANCES["fp16"])
    assert report.passed
    assert report.grade == "fp16"
    assert report.max_rel_scale == pytest.approx(0.005, rel=1e-3)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool, np.complex64])
def test_any_rank_and_no_elements(shape, dtype):
    array = np.ones(shape, dtype)
    report = verdict(array, array.copy(), NOTHING)
    assert report.passed
    assert report.outputs[0].exceed == 0
    if array.size:
        wrong = verdict(array, np.zeros(shape, dtype))
        assert not wrong.passed
        assert wrong.outputs[0].worst == (0,) * len(shape)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.uint64, bool])
def test_whole_numbers_are_exact(dtype):
    expected = np.array([0, 1, 1, 0], dtype)
    got = expected.copy()
    got[2] = 0
    report = verdict(expected, got, TOLERANCES["int8"])
    assert not report.passed
    assert report.grade == "wrong"
    assert report.outputs[0].worst == (2,)
    assert report.outputs[0].share_out == 0.25
    assert "1 of 4 elements differ, the first at [2]" in report.problem


def test_int64_beyond_a_double_is_exact():
    assert not verdict(np.array([2**62 + 1]), np.array([2**62])).passed


def texts(*values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


def test_texts_are_exact_however_numpy_holds_them():
    assert verdict(texts("a", "bcd"), texts("a", "bcd")).passed
    assert verdict(texts("a", "bcd"), np.array(["a", "bcd"])).passed
    report = verdict(texts("a", "b" * 500), texts("a", "c" * 500))
    assert not report.passed
    assert len(report.problem) < 160


def bfloat16(*values):
    return Packed("bfloat16", (np.array(values, np.float32).view(np.uint32) >> 16).astype(np.uint16))


def test_bfloat16_is_judged_as_numbers_and_float8_as_bits():
    assert verdict(bfloat16(1, 2), bfloat16(1, 2)).passed
    assert verdict(bfloat16(1, 2), bfloat16(1.0078125, 2), TOLERANCES["bf16"]).passed
    assert not verdict(bfloat16(1, 2), bfloat16(1.5, 2), TOLERANCES["bf16"]).passed
    scalar = Packed("bfloat16", np.array(0x3F80, np.uint16))
    assert verdict(scalar, scalar, NOTHING).passed
    bits = np.array([1, 2], np.uint8)
    assert verdict(Packed("float8e4m3fn", bits), Packed("float8e4m3fn", bits.copy())).passed
    assert not verdict(Packed("float8e4m3fn", bits), Packed("float8e4m3fn", bits + 1), TOLERANCES["int8"]).passed


def test_a_packed_tensor_is_its_type():
    bits = np.array([1, 2], np.uint8)
    assert "float8e5m2" in verdict(Packed("float8e4m3fn", bits), Packed("float8e5m2", bits)).problem
    assert not verdict(Packed("float8e4m3fn", bits), bits).passed
    assert not verdict(bfloat16(1, 2), f32(1, 2)).passed


CLASSES = [{0: 0.25, 1: 0.75}, {0: 0.5, 1: 0.5}]


@pytest.mark.parametrize(
    ("got", "passes"),
    [
        ([{0: 0.25, 1: 0.75}, {0: 0.5, 1: 0.5}], True),
        ([{1: 0.75, 0: 0.25}, {1: 0.5, 0: 0.5}], True),
        ([{0: 0.25, 1: 0.7500001}, {0: 0.5, 1: 0.5}], True),
        ([{0: 0.75, 1: 0.25}, {0: 0.5, 1: 0.5}], False),
        ([{0: 0.25, 2: 0.75}, {0: 0.5, 1: 0.5}], False),
        ([{0: 0.25, 1: math.nan}, {0: 0.5, 1: 0.5}], False),
        ([{0: 0.25, 1: 0.75}], False),
        ([[0.25, 0.75], [0.5, 0.5]], False),
        ([{0: 0.25, 1: "0.75"}, {0: 0.5, 1: 0.5}], False),
        ([{0: 0.25, 1: np.array([0.75])}, {0: 0.5, 1: 0.5}], False),
        ([], False),
    ],
)
def test_sequences_of_maps(got, passes):
    assert verdict(CLASSES, got).passed is passes


def test_sequences_and_absent_values():
    assert verdict([], []).passed
    assert verdict({}, {}).passed
    assert verdict(None, None).passed
    assert not verdict(None, f32(1)).passed
    assert not verdict(None, []).passed
    assert verdict([f32(1), None, [f32(2)]], [f32(1), None, [f32(2)]]).passed
    assert not verdict([f32(1), f32(1, 2)], [f32(1), f32(1, 3)]).passed
    assert verdict(["a", "b"], ["a", "b"]).passed
    assert not verdict(["a", "b"], ["a", "bb"]).passed


def test_the_worst_item_of_a_sequence_stands_for_it():
    report = verdict([f32(NAN), f32(1), f32(1)], [f32(NAN), f32(1.0005), f32(1)], FP32)
    assert report.passed
    assert report.outputs[0].max_abs == pytest.approx(0.0005, rel=1e-3)


def test_millions_of_elements_take_little_memory():
    expected = np.ones(3_000_000, np.float32)
    got = expected.copy()
    got[-1] = 3
    tracemalloc.start()
    try:
        report = verdict(expected, got)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert report.outputs[0].worst == (2_999_999,)
    assert peak < 40 * 2**20


@pytest.mark.parametrize("name", [*TOLERANCES, "tf32"])
def test_tolerances_have_names(name):
    assert parse_tolerance(name) is TOLERANCES["fp16" if name == "tf32" else name]


@pytest.mark.parametrize("text", ["0.01,0.02", "1e-2, 2e-2"])
def test_a_tolerance_can_be_two_numbers(text):
    found = parse_tolerance(text)
    assert (found.rtol, found.atol_of_scale) == (0.01, 0.02)


@pytest.mark.parametrize("text", ["", "fp64", "1", "1,2,3", "a,b", "nan,0", "inf,0", "-1,0", "0,-1"])
def test_other_tolerances_are_refused(text):
    with pytest.raises(ValueError, match="tolerance"):
        parse_tolerance(text)


def test_named_tolerances_widen_from_one_to_the_next():
    widths = [(t.rtol, t.atol_of_scale) for t in TOLERANCES.values()]
    assert widths == sorted(widths)
    assert all(t.reason for t in TOLERANCES.values())


@settings(max_examples=50)
@given(hnp.arrays(np.float64, 8, elements=PLAIN), st.integers(-500, 500))
def test_movement_is_a_share_of_the_norm(array, exponent):
    assert movement({"y": array}, {"y": array.copy()}) == 0
    if (np.abs(array) > 1e-3).any():
        moved = movement({"y": np.ldexp(array, exponent)}, {"y": np.ldexp(array * 1.5, exponent)})
        assert moved == pytest.approx(0.5, rel=1e-6)


def test_movement_where_nothing_can_be_said():
    assert movement({"y": f32(NAN)}, {"y": f32(1)}) is None
    assert movement({"y": None}, {"y": None}) is None
    assert movement({"y": []}, {"y": []}) is None
    assert movement({"y": f32(1)}, {}) is None
    assert movement({"y": f32(1)}, {"y": f32(1, 2)}) is None
    assert movement({}, {}) is None
    assert movement({"y": f32(0, 0)}, {"y": f32(0, 1)}) == 1
    assert movement({"y": np.array([1e-300])}, {"y": np.array([1.7e308])}) == 1
    assert movement({"y": np.array([3, 4])}, {"y": np.array([3, 4])}) == 0


def test_nothing_goes_on_when_the_verdict_is_there():
    """The threads of a linear-algebra library spin after their work: beside a timed loop that is noise of our own."""
    program = """
import time
import numpy as np
from bench.parity.compare import TOLERANCES, compare
from bench.parity.sense import movement
time.sleep(0.3)  # numpy's own threads spin for an eighth of a second when it is imported
a = {"y": np.random.default_rng(0).standard_normal(1 << 20).astype(np.float32)}
compare(a, a, TOLERANCES["fp32"])
movement(a, {"y": -a["y"]})
begin = time.process_time()
time.sleep(0.3)
print(time.process_time() - begin)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.02


def test_what_is_not_finite_is_named():
    fine, odd = np.ones(3, np.float32), np.array([1, np.inf], np.float32)
    assert not_finite([{"a": fine, "b": odd, "c": np.arange(3)}, {"a": fine, "b": fine, "c": None}]) == ["b"]
    assert not_finite([]) == []


# The quick way and the careful one.

SINGLE = st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
DOUBLE = st.floats(-1e3, 1e3, allow_subnormal=False)


@given(pairs(elements=SINGLE, dtype=np.float32) | pairs(elements=DOUBLE, dtype=np.float64), TOLERANCE)
def test_the_quick_way_finds_what_the_careful_one_finds(pair, tolerance):
    expected, got = pair
    bounds = [(tolerance.rtol, tolerance.atol_of_scale), (1e-3, 2e-4)]
    with np.errstate(all="ignore"):
        quick = distance._quick(Numbers(expected), Numbers(got), bounds) if expected.size else None
        careful = distance._careful(Numbers(expected), Numbers(got), bounds)
    if quick is None:
        return
    assert quick.exceed == pytest.approx(careful.exceed, rel=1e-12)
    assert quick.max_abs == careful.max_abs
    assert quick.relative == careful.relative
    assert (quick.out > 0) == (careful.out > 0)
    assert quick.rms == pytest.approx(careful.rms, rel=1e-5)
    assert quick.cosine == pytest.approx(careful.cosine, abs=1e-6)
    if math.isfinite(careful.snr_db):
        assert quick.snr_db == pytest.approx(careful.snr_db, abs=1e-3)


@pytest.mark.parametrize("number", [np.float32, np.float64])
def test_many_chunks_are_looked_at_the_quick_way(number):
    rng = np.random.default_rng(3)
    expected = rng.standard_normal((4, distance._QUICK_CHUNK - 5)).astype(number)
    got = expected + rng.standard_normal(expected.shape).astype(number) * number(0.01)
    bounds = [(1e-3, 2e-4), (1e-2, 1e-2)]
    quick = distance._quick(Numbers(expected), Numbers(got), bounds)
    careful = distance._careful(Numbers(expected), Numbers(got), bounds)
    assert quick.out == pytest.approx(careful.out, abs=2)
    assert (quick.worst, quick.exceed, quick.largest) == (careful.worst, careful.exceed, careful.largest)
    assert quick.snr_db == pytest.approx(careful.snr_db, abs=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64, bool, object])
def test_no_comparison_takes_memory_that_grows_with_the_output(dtype):
    peaks = []
    for size in (1 << 20, 1 << 22):
        expected = np.ones(size, dtype)
        got = expected.copy()
        tracemalloc.start()
        try:
            verdict(expected, got)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] <= 1.1 * peaks[0] + (1 << 16)


# Types that numpy lacks.


@pytest.mark.parametrize("name", ["float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz", "bfloat16"])
def test_the_numbers_of_a_packed_type_are_those_of_ml_dtypes(name):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    bits = np.arange(256, dtype=np.uint8) if name != "bfloat16" else np.arange(65536, dtype=np.uint16)
    known = {"float8e4m3fn": "float8_e4m3fn", "float8e4m3fnuz": "float8_e4m3fnuz", "float8e5m2": "float8_e5m2"}
    known |= {"float8e5m2fnuz": "float8_e5m2fnuz", "bfloat16": "bfloat16"}
    with np.errstate(all="ignore"):
        wanted = bits.view(getattr(ml_dtypes, known[name])).astype(np.float32)
    np.testing.assert_array_equal(Numbers(Packed(name, bits)).part(0, bits.size), wanted)


def test_one_step_of_the_outputs_own_type_is_always_allowed():
    """Rounding to bf16 may go either way at a tie, whoever computes: a neighbour is no error, two steps are."""
    one = np.array([0x3F80, 0x4000, 0x3F90], np.uint16)
    assert verdict(Packed("bfloat16", one), Packed("bfloat16", one + 1)).passed
    assert not verdict(Packed("bfloat16", one), Packed("bfloat16", one + 2)).passed
    eighth = np.array([0x38, 0x40], np.uint8)
    assert verdict(Packed("float8e4m3fn", eighth), Packed("float8e4m3fn", eighth + 1)).passed
    assert not verdict(Packed("float8e4m3fn", eighth), Packed("float8e4m3fn", eighth + 2)).passed


# Figures beside the verdict.


def test_snr_is_what_it_says():
    expected = np.array([3.0, 4.0], np.float32)
    result = one(expected, expected + np.array([0.0, 0.05], np.float32), TOLERANCES["int8"])
    assert result.snr_db == pytest.approx(20 * math.log10(5 / 0.05), abs=1e-3)
    assert one(expected, expected.copy()).snr_db is None
    assert one(np.zeros(3), np.ones(3)).snr_db is None


@pytest.mark.parametrize("factor", [1e-200, 1e-30, 1.0, 1e30, 1e200])
def test_snr_does_not_know_the_scale(factor):
    expected = np.random.default_rng(5).standard_normal(100) * factor
    assert one(expected, expected * 1.001, TOLERANCES["int8"]).snr_db == pytest.approx(60, abs=1e-6)


def test_rankings():
    logits = np.array([[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]], np.float32)
    swapped = logits.copy()
    swapped[0, [4, 5]] = 6, 5
    result = one(logits, swapped, TOLERANCES["int8"])
    assert (result.top1, result.top5) == (0.5, 1.0)
    assert (one(logits, logits.copy()).top1, one(logits, logits.copy()).top5) == (1.0, 1.0)
    four = one(logits.reshape(2, 6, 1, 1), -logits.reshape(2, 6, 1, 1))
    assert four.top1 == 0
    assert four.top5 == pytest.approx(0.8)


def test_classes_that_are_equally_good_are_all_the_best():
    expected = np.array([[1, 1, 0, 0, 0, 0, 0]], np.float32)
    got = np.array([[1, 1.0001, 0, 0, 0, 0, 0]], np.float32)
    assert one(expected, got).top1 == 1
    assert one(expected, got[:, ::-1].copy()).top1 == 0


@pytest.mark.parametrize(
    "array",
    [
        np.ones(9, np.float32),
        np.ones((2, 4), np.float32),
        np.ones((1, 9, 2), np.float32),
        np.array([[1, 2, 3, 4, 5, math.nan]]),
        np.ones((2, 9), np.complex64),
        np.ones((2, 9), np.int64),
    ],
)
def test_what_ranks_nothing(array):
    assert one(array, array.copy()).top1 is None


def test_what_proves_nothing_is_named():
    full, zeros, empty = np.ones(3, np.float32), np.zeros(3, np.float32), np.ones((0, 4), np.float32)
    sets = [{"a": full, "b": zeros, "c": empty, "d": None, "e": [{1: 0.5}]}] * 2
    assert empty_of_proof(sets) == ["b", "c", "d"]
    assert empty_of_proof([{"a": zeros}, {"a": full}]) == []
    assert not_finite([{"m": [{0: math.nan, 1: 1.0}]}]) == ["m"]


# Which precision an error looks like.


@pytest.mark.parametrize(
    ("noise", "snr", "like"),
    [
        (120, 115, "fp32"),
        (120, None, "fp32"),
        (400, 140, "fp32"),
        (108, 62.6, "fp16"),
        (107, 43, "fp16"),
        (145, 72, "fp16"),
        (119, 34, "bf16"),
        (132, 45, "bf16"),
        (132, 20, "int8"),
    ],
)
def test_an_error_looks_like_the_precision_that_made_it(noise, snr, like):
    """The pairs are from the zoo: ncnn in fp32, fp16 and bf16, MNN's Winograd convolutions."""
    assert looks_like(bits_above(noise, snr)) == like


@pytest.mark.parametrize(("digits", "like"), [(23, "fp32"), (10, "fp16"), (7, "bf16")])
def test_a_net_in_less_precision_is_seen(digits, like):
    """Dense layers, every product's operands and every sum rounded to so many bits of mantissa."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((64, 64)) / 8 for _ in range(6)]

    def rounded(x, digits):
        mantissa, exponent = np.frexp(x)
        return np.ldexp(np.round(mantissa * 2.0 ** (digits + 1)) / 2.0 ** (digits + 1), exponent)

    def net(digits, order):
        x = rounded(np.random.default_rng(1).standard_normal((8, 64)), digits)
        for w in weights:
            x = rounded(np.tanh(x[:, order] @ rounded(w, digits)[order]), digits)
        return x

    plain, turned = np.arange(64), np.arange(63, -1, -1)
    exact = net(52, plain)
    noise = one(exact, net(23, plain), TOLERANCES["int8"]).snr_db
    error = one(exact, net(digits, turned), TOLERANCES["int8"]).snr_db
    assert looks_like(bits_above(noise, error)) == like
