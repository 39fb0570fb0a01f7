"""The shapes that an engine takes, from text and from the model. Needs no runtime."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.tensorrt import profiles
from backends.tensorrt.profiles import Range
from bench.errors import PrepareError, UnsupportedModel, UsageError
from bench.interface import ValueSpec

X = ValueSpec("x", "float32", (1, 3, 8, 8))
OPEN = ValueSpec("x", "float32", (None, 3, None, 8))


def test_without_a_profile_an_engine_is_for_the_shape_of_the_case():
    (found,) = profiles.ranges([X], {}, {}).values()
    assert found == Range((1, 3, 8, 8), (1, 3, 8, 8), (1, 3, 8, 8))
    assert found.fixed
    assert found.open_shape() == (1, 3, 8, 8)


def test_a_profile_names_inputs_or_the_model_s_symbols():
    named = profiles.parse("x=1x3x8x8:2x3x8x8:4x3x16x8")
    assert profiles.ranges([X], {}, named)["x"].open_shape() == (-1, 3, -1, 8)
    symbols = profiles.parse("N=1:2:4; H=8:8:16")
    found = profiles.ranges([OPEN], {"x": ["N", "", "H", ""]}, symbols)["x"]
    assert found == Range((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 16, 8))


def test_a_scalar_has_no_dimensions():
    assert profiles.ranges([ValueSpec("n", "int64", ())], {}, {})["n"] == Range((), (), ())


@pytest.mark.parametrize(
    "text",
    ["x", "x=1", "x=1:2", "x=1:2:3:4", "x=1:2:b", "x=0:1:2", "x=-1:1:2", "x=1x2:1x2:1", "=1:2:3", "x=3:2:1", "x=1:5:4"],
)
def test_a_profile_that_is_none_is_refused_with_the_form(text):
    with pytest.raises(UsageError) as raised:
        profiles.parse(text)
    assert raised.value.hint


@pytest.mark.parametrize(
    ("specs", "text", "kind", "said"),
    [
        ([X], "y=1:2:3", UsageError, "does not have"),
        ([X], "x=1x3:1x3:1x3", UsageError, "2 dimensions, the input 4"),
        ([X], "x=2x3x8x8:2x3x8x8:4x3x8x8", PrepareError, "2x3x8x8 to 4x3x8x8, and 1x3x8x8 is to be run"),
        ([OPEN], "", UnsupportedModel, "dimension 0 (N) of input 'x' is open"),
        ([OPEN], "N=1:2:4", UnsupportedModel, "dimension 2 (H)"),
        ([OPEN], "N=1x2:1x2:1x2;H=1:1:1", UsageError, "is one dimension"),
        ([ValueSpec("x", "float32", None)], "", UnsupportedModel, "no rank"),
    ],
)
def test_a_profile_that_does_not_fit_says_why(specs, text, kind, said):
    with pytest.raises(kind) as raised:
        profiles.ranges(specs, {"x": ["N", "", "H", ""]}, profiles.parse(text))
    assert said in str(raised.value)


sizes = st.lists(st.integers(1, 64), min_size=1, max_size=4)


@given(st.data())
def test_what_was_written_is_read_and_holds_its_own_shapes(data):
    least = data.draw(sizes)
    usual = [n + data.draw(st.integers(0, 9)) for n in least]
    most = [n + data.draw(st.integers(0, 9)) for n in usual]
    text = "in:put=" + ":".join(profiles.words(shape) for shape in (least, usual, most))
    (found,) = profiles.parse(text).values()
    assert (found.least, found.usual, found.most) == (tuple(least), tuple(usual), tuple(most))
    assert found.holds(least)
    assert found.holds(usual)
    assert found.holds(most)
    assert not found.holds([n + 1 for n in most])
    assert not found.holds([*most, 1])
