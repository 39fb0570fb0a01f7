"""Who is fastest: only what lies apart for sure is called so."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.record import ServerFacts, ThroughputFacts
from bench.report import leaders
from bench.report.figure import Figure, fastest, figure
from bench.report.markdown import document
from bench.report.sections import sections

KIND = ("end_to_end", "host", "fp32")


def board(*records):
    """Rows of the one leader board: backend, fastest, tied, slower, no number, ratio."""
    (section,) = sections(records)
    (table,) = leaders.board(section)
    return [list(row) for row in table.rows]


def test_the_faster_one_wins_and_by_how_much(make, near):
    records = [
        *(make(m, "ncnn", *near(ms)) for m, ms in (("a", 4), ("b", 10))),
        *(make(m, "mnn", *near(ms)) for m, ms in (("a", 8), ("b", 20))),
    ]
    assert board(*records) == [
        ["ncnn", "2", "0", "0", "0", "×1.00"],
        ["mnn", "0", "0", "2", "0", "×2.00 (×1.98–×2.02)"],
    ]


def test_overlapping_intervals_are_a_tie(make, near):
    rows = board(make("a", "ncnn", *near(10)), make("a", "mnn", *near(10.05)))
    assert [row[1:4] for row in rows] == [["0", "1", "0"], ["0", "1", "0"]]
    assert rows[1][5].endswith("a tie)")


def test_few_trials_win_nothing(make, near):
    """Three of one and three of another lie apart by chance alone one time in ten."""
    for trials, wins in ((1, "0"), (3, "0"), (4, "1")):
        rows = board(make("a", "ncnn", *near(10, trials)), make("a", "mnn", *near(20, trials)))
        assert rows[0][1] == wins
        assert rows[1][5].endswith("of few trials)") == (wins == "0")


def test_a_mean_is_over_the_models_that_all_have(make, near):
    records = [
        make("a", "ncnn", *near(10)),
        make("a", "mnn", *near(20)),
        make("a", "ort-cpu", *near(30)),
        make("only", "ort-cpu", *near(1)),
        make("only", "ncnn"),
        make("only", "mnn", *near(100)),
    ]
    rows = {row[0]: row[1:] for row in board(*records)}
    assert rows["ncnn"] == ["1", "0", "0", "1", "×1.00"]
    assert rows["mnn"][:4] == ["0", "0", "2", "0"]
    assert rows["ort-cpu"][:3] == ["1", "0", "1"]
    (table,) = leaders.board(sections(records)[0])
    assert table.head[5] == "slower, 1 model that all have"


def test_no_board_where_nobody_competes(make, near):
    for records in ([make("a", "ncnn", *near(1))], [make("a", "ncnn", *near(1)), make("b", "mnn", *near(1))]):
        assert leaders.board(sections(records)[0]) == []


def test_bold_is_what_the_board_counts(make, near):
    text = document([make("a", "ncnn", *near(10)), make("a", "mnn", *near(10.01)), make("a", "ort-cpu", *near(20))])
    row = next(line for line in text.splitlines() if line.startswith("| a "))
    assert [cell.strip().startswith("**") for cell in row.split("|")[2:-1]] == [True, True, False]
    assert "**Bold**: the fastest" in text
    tied = document([make("a", "ncnn", *near(10)), make("a", "mnn", *near(10.01))])
    assert "**Bold**" not in tied


def test_a_number_with_noise_or_a_wider_tolerance_never_beats_a_clean_one(make, near):
    clean = make("a", "ncnn", *near(10))
    fast = make("a", "mnn", *near(1))
    noisy = msgspec.structs.replace(fast, evidence=msgspec.structs.replace(fast.evidence, foreign_cpu=0.5))
    assert figure(noisy) is None
    tolerance = msgspec.structs.replace(fast.parity.tolerance, name="fp16", relaxed=True)
    relaxed = msgspec.structs.replace(fast, parity=msgspec.structs.replace(fast.parity, tolerance=tolerance))
    for other in (noisy, relaxed, make("a", "mnn")):
        assert leaders.board(sections([clean, other])[0]) == []


def test_what_the_cpu_was_faster_by_wins_nothing(make, near):
    """One measured on a quiet night, the other beside a busy neighbour or at a lower clock."""

    def at(record, core_ns, numpy="2.4.6"):
        evidence = msgspec.structs.replace(record.evidence, core_ns=core_ns)
        return msgspec.structs.replace(record, evidence=evidence, environment={"numpy": numpy})

    fast, slow = make("a", "ncnn", *near(10)), make("a", "mnn", *near(12))
    for cores, beaten in (((2800, 2800), True), ((2800, 3000), True), ((2800, 3500), False), ((3500, 2800), True)):
        first, second = (figure(at(record, ns)) for record, ns in zip((fast, slow), cores, strict=True))
        assert first.beats(second) == beaten
        text = document([at(fast, cores[0]), at(slow, cores[1])])
        assert ("**Bold**" in text) == beaten
    (_, *rows) = board(at(fast, 2800), at(slow, 3500))
    assert any("tie" in cell for row in rows for cell in row)
    assert figure(at(fast, 2800)).beats(figure(at(slow, 3500, "2.5.0")))  # another numpy: nobody knows
    assert figure(at(fast, 2800)).beats(figure(slow))
    of_device = [
        msgspec.structs.replace(r, latency=msgspec.structs.replace(r.latency, clock="device")) for r in (fast, slow)
    ]
    assert figure(at(of_device[0], 2800)).beats(figure(at(of_device[1], 3500)))  # its clock, its speed


figures = st.builds(
    lambda value, below, above, trials, core: Figure(value, value - below, value + above, trials, KIND, core),
    st.floats(10, 100),
    st.floats(0, 5),
    st.floats(0, 5),
    st.integers(1, 13),
    st.none() | st.tuples(st.sampled_from(["2.4.6", "2.5.0"]), st.integers(2800, 3600)),
)


@given(figures, figures)
def test_two_cannot_both_win(a, b):
    assert not (a.beats(b) and b.beats(a))
    assert not a.beats(a)


@given(st.dictionaries(st.integers(), figures, max_size=6))
def test_the_fastest_beats_everyone_else_or_nobody_is(found):
    best = fastest(found)
    assert best <= set(found)
    if best:
        first = min(found, key=lambda k: found[k].value)
        assert first in best
        assert all(found[first].beats(found[k]) for k in set(found) - best)
        assert best != set(found)


@pytest.mark.parametrize("scenario", ["offline", "server"])
def test_more_per_second_is_better(make, near, scenario):
    def loaded(backend, rate):
        rates = [rate * (1 + 0.001 * i) for i in range(6)]
        throughput = ThroughputFacts(
            per_s=rates[2], batch=1, streams=2, seconds=1, inferences=9, sweep=[], trial_per_s=rates
        )
        server = ServerFacts(
            rate=rates[0], scheduled=9, overloaded=False, late_ns=None, seed=0, trial_rates=[*rates], stopped_by=""
        )
        options = {"scenario": scenario, "latency_bound_ns": 10_000_000 if scenario == "server" else None}
        made = make("a", backend, *near(1), options=options)
        return msgspec.structs.replace(made, throughput=throughput, server=server if scenario == "server" else None)

    rows = board(loaded("slow", 100), loaded("fast", 200))
    assert [row[:2] for row in rows] == [["fast", "1"], ["slow", "0"]]
    assert rows[1][5].startswith("×2.00")
