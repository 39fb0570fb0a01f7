"""The picture of a search: the same for the same search, and with room for names as exporters write them."""

from __future__ import annotations

import warnings

import pytest

from bench.localize import picture
from bench.localize.located import Located, Point, Subject
from bench.localize.probe import Outcome
from bench.localize.search import Finding
from bench.onnxfile.graph import Node

pytest.importorskip("matplotlib", reason='run: pip install "deploybench[pictures]"')

SUBJECT = Subject(
    "net", "00", 17, 3, "ncnn", "local", {}, "model", "fp32", 0, {"ncnn": "1"}, {"cpu": "one"}, "ort-cpu", "0.1.0"
)  # fmt: skip


def located(name):
    nodes = tuple(Node(index, f"{name}_{index}", "LayerNormalization", "", ("x",), ("y",)) for index in range(2))
    points = [Point(place, "t", "n", "measured", 0.1 * place) for place in (1, 2, 3)]
    found = Finding("together", 1, 3, nodes, Outcome(2.0))
    return Located("located", "wrong", SUBJECT, Outcome(2.0), [found], points)


def test_names_of_any_length_leave_room_for_the_picture():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = picture.draw(located("/model/encoder/layer.0/attention/" + 20 * "output/"))
    assert drawn == picture.draw(located("/model/encoder/layer.0/attention/" + 20 * "output/"))
    for end in ("_0'", "_1'"):
        assert end in drawn
    assert "…" in drawn


def test_short_names_are_whole():
    assert "culprit 1: LayerNormalization 'norm_0' + LayerNormalization 'norm_1'" in picture.draw(located("norm"))


def test_nothing_measured_is_no_picture():
    nothing = Located("agrees", "it agrees", SUBJECT, Outcome())
    assert picture.draw(nothing) is None
