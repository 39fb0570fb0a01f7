"""JUnit XML as build servers read it."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import msgspec
import pytest

from bench.record import FAILING
from bench.report import junit

replace = msgspec.structs.replace
STATUSES = ["ok", "wrong", "unsupported", "unavailable", "failed", "crashed", "timeout", "noisy", "implausible"]


@pytest.mark.parametrize("status", STATUSES)
def test_each_status_has_its_verdict(make, near, status):
    record = replace(make("net", "ncnn", *near(5)), status=status, why="" if status == "ok" else "because <&> of it")
    root = ET.fromstring(junit.document([record]).encode())
    (suite,) = root
    (case,) = suite
    assert (case.get("name"), case.get("classname")) == ("net on ncnn", "board-4c-0000.local")
    kinds = [child.tag for child in case]
    expected = "system-out" if status == "ok" else "failure" if status in FAILING else "skipped"
    assert kinds == [expected]
    assert suite.get("failures") == str(int(status in FAILING))
    assert suite.get("skipped") == str(int(expected == "skipped"))
    if status == "ok":
        assert case[0].text.startswith("5.0")
    else:
        assert "because <&> of it" in case[0].get("message")
        assert "5.0" not in ET.tostring(case, encoding="unicode")


def test_control_characters_and_markdown_do_not_reach_it(make):
    record = make("a|b", "ncnn")
    record = replace(record, error=replace(record.error, log_tail="\x1b[1mred\x00 \ufffe ok"), why="x\x07y")
    root = ET.fromstring(junit.document([record]).encode())
    (case,) = root[0]
    assert case.get("name") == "a|b on ncnn"
    assert "ok" in case[0].text


def test_no_records_make_an_empty_file():
    assert list(ET.fromstring(junit.document([]).encode())) == []
