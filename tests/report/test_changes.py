"""The list of changes: what moved beyond its intervals, what stopped or began to work, and what else is different."""

from __future__ import annotations

from bench.report import changes

LATER = "2026-11-21T02:00:00Z"


def texts(new, old):
    return [(c.worse, c.text) for c in changes.changed(new, old)]


def test_slower_comes_first_with_what_else_changed(make, near):
    old = [make("a", "ncnn", *near(10)), make("b", "ncnn", *near(10), versions={"ncnn": "1"})]
    new = [
        make("a", "ncnn", *near(8), started_at=LATER),
        make("b", "ncnn", *near(12), started_at=LATER, versions={"ncnn": "2"}),
    ]
    (block,) = changes.listed(new, old)
    slower, faster = block.splitlines()
    assert slower.startswith("- b on ncnn (local of board-4c-0000): ")
    assert "×1.20 slower (with ncnn 1 → 2)" in slower
    assert "×1.25 faster" in faster
    assert "(with" not in faster


def test_what_overlaps_is_no_change(make, near):
    assert texts([make("a", "b", *near(10.05), started_at=LATER)], [make("a", "b", *near(10))]) == []
    assert changes.listed([make("a", "b", *near(10), started_at=LATER)], [make("a", "b", *near(10))]) == [
        changes.NOTHING
    ]


def test_failing_is_worse_and_working_is_not(make, near):
    works, fails = make("a", "b", *near(10)), make("a", "b", started_at=LATER)
    ((worse, text),) = texts([fails], [works])
    assert worse
    assert text.endswith("→ unsupported: prepare: no Gather")
    ((worse, _),) = texts([make("a", "b", *near(10), started_at=LATER)], [make("a", "b")])
    assert not worse


def test_memory_and_grade_are_changes_too(make, near):
    ((worse, text),) = texts([make("a", "b", *near(10), peak_mib=150, started_at=LATER)], [make("a", "b", *near(10))])
    assert worse
    assert "peak memory 100 → 150 MiB" in text


def test_cells_that_were_not_measured_last_night_are_no_news(make, near):
    old = [make("gone", "b", *near(10), started_at="2026-01-01T00:00:00Z"), make("a", "b", *near(10))]
    new = [make("gone", "b", *near(20), started_at="2026-01-02T00:00:00Z"), make("a", "b", *near(20), started_at=LATER)]
    assert [text.split()[0] for _, text in texts(new, old)] == ["a"]


def test_nothing_before(make, near):
    assert changes.listed([make("a", "b", *near(1))], []) == ["There is no run before to compare with."]
