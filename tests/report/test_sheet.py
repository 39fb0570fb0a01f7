"""CSV: as many columns in each row, read back as they were, and nothing that was timed unless it is published."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.report import sheet

replace = msgspec.structs.replace


def read(records):
    return list(csv.DictReader(io.StringIO("".join(sheet.rows(records)), newline="")))


def test_a_row_says_what_the_record_says(make, near):
    record = make("net", "ncnn", *near(10))
    (row,) = read([record])
    assert (row["model"], row["backend"], row["status"], row["published"]) == ("net", "ncnn", "ok", "true")
    assert int(row["p50_ns"]) == record.latency.p50_ns
    assert [int(row["p50_lo_ns"]), int(row["p50_hi_ns"])] == list(record.latency.p50_ci_ns)
    assert int(row["peak_rss_bytes"]) == 100 << 20
    assert row["versions"] == "runtime==1.0"
    assert float(row["start_s"]) == record.cold_start.start_s.median


@pytest.mark.parametrize("status", ["noisy", "implausible", "wrong"])
def test_what_is_not_published_has_no_figure(make, near, status):
    (row,) = read([replace(make("net", "ncnn", *near(10)), status=status, why="why")])
    assert {row[name] for name in sheet.MEASURED} == {""}
    assert (row["status"], row["why"], row["published"]) == (status, "why", "false")


def test_what_is_not_known_is_empty(make):
    (row,) = read([make("net", "ncnn")])
    assert row["p50_ns"] == row["grade"] == "" or row["grade"]
    assert row["p50_ns"] == ""


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_any_name_comes_back(make, name):
    (row,) = read([make(name, "ncnn")])
    assert row["model"] in (name, f"'{name}")
    assert row["model"][:1] not in ("=", "+", "-", "@", "\t", "\r")


def test_every_column_is_documented():
    text = (Path(__file__).parents[2] / "results" / "README.md").read_text()
    documented = text.partition("### CSV columns")[2].partition("\n## ")[0]
    names = [n for cell in re.findall(r"^\| (`.*?) \|", documented, re.MULTILINE) for n in re.findall(r"`(\w+)`", cell)]
    assert names == list(sheet.COLUMNS)
    assert set(sheet.COLUMNS) >= sheet.MEASURED
