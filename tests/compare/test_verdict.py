"""Verdicts on records with known truth: every word, and what may not be compared."""

from __future__ import annotations

import json
import re

import msgspec
import numpy as np
import pytest

from bench import record as r
from bench.compare import cells, told, verdict
from bench.compare.speed import speed
from bench.report import blocks, causes

replace = msgspec.structs.replace


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def judged(nights, rng):
    """The verdicts on NEW after 20 steady nights, with a re-run of the same where `again` is given."""

    def call(new, again=None, history=None, threshold=verdict.THRESHOLD):
        history = nights.steady(20, rng) if history is None else history
        more = [] if again is None else [again]
        return verdict.judge(cells.pairs(history, [new, *more]), threshold)

    return call


def words(verdicts):
    return [v.word for v in verdicts]


def look(nights, rng, factor, *, again_of=None, number=20, **more):
    """A record in the 21st night, or the re-run that is to confirm it."""
    medians = nights.trials(6.5 * factor, rng)
    if again_of is not None:
        more |= {"confirms": again_of.id, "seconds": 600, "id": f"again-{again_of.id}"}
    return nights.record(medians, number, **more)


def test_the_same_is_the_same(nights, rng, judged):
    (found,) = judged(look(nights, rng, 1.0))
    assert found.word == "same"
    assert not found.regression
    assert 0.01 <= found.floor < 0.05


@pytest.mark.parametrize(("factor", "word"), [(1.08, "slower"), (0.92, "faster")])
def test_a_change_that_the_rerun_shows_is_one(nights, rng, judged, factor, word):
    new = look(nights, rng, factor)
    (found,) = judged(new, look(nights, rng, factor, again_of=new))
    assert found.word == word
    assert found.regression == (word == "slower")
    assert all(e == pytest.approx(factor - 1, abs=0.02) for e in found.effects)
    assert found.levels[1] / found.levels[0] == pytest.approx(factor, abs=0.02)


def test_without_a_rerun_it_is_suspected_and_asks_for_one(nights, rng, judged):
    found = judged(look(nights, rng, 1.08))
    assert words(found) == ["suspected"]
    assert not found[0].regression
    assert verdict.worth_another_look(found) == [found[0].pair]


def test_a_rerun_that_does_not_show_it_makes_it_the_same(nights, rng, judged):
    new = look(nights, rng, 1.08)
    found = judged(new, look(nights, rng, 1.0, again_of=new))
    assert words(found) == ["same"]
    assert "again" in found[0].detail
    assert verdict.worth_another_look(found) == []


def test_a_rerun_that_was_cut_short_does_not_count(nights, rng, judged):
    new = look(nights, rng, 1.08)
    again = nights.record(nights.trials(6.5 * 1.08, rng, count=2), 20, confirms=new.id, seconds=600, id="again")
    (found,) = judged(new, again)
    assert found.word == "suspected"
    assert "cut short after 2 trials" in found.detail
    assert verdict.worth_another_look([found]) == [found.pair]


def test_fewer_trials_than_usual_must_lie_farther_off(nights, rng, judged):
    history = nights.steady(20, rng)
    (pairs,) = zip(*(cells.pairs(history, [nights.record([6.5] * count, 20)]) for count in (6, 3, 2)), strict=True)
    spreads = [speed(pair, 0.01).noise.spread for pair in pairs]
    assert spreads == sorted(spreads)
    assert spreads[0] < 0.8 * spreads[2]


@pytest.mark.parametrize(
    ("factor", "core_ns", "word"),
    [
        (1.25, 3500, "cannot tell"),  # the CPU explains it
        (1.15, 3500, "cannot tell"),
        (1.40, 3500, "slower"),  # more than it explains
        (1.00, 3500, "same"),
        (0.80, 3500, "faster"),
        (0.85, 2380, "cannot tell"),
        (1.08, 2860, "slower"),  # within 3 % it is as fast
        (1.08, 2380, "slower"),
        (1.25, None, "slower"),  # nobody knows
    ],
)
def test_what_the_cpu_was_slower_by_is_no_change_of_the_cell(nights, rng, judged, factor, core_ns, word):
    """A host that was busy all night, on a machine that is fresh every night: it looks like a slower machine."""
    more = {"core_ns": core_ns} if core_ns else {}
    new = look(nights, rng, factor, **more)
    (found,) = judged(
        new, look(nights, rng, factor, again_of=new, **more), history=nights.steady(20, rng, core_ns=2800)
    )
    assert found.word == word
    assert found.regression == (word == "slower")
    assert found.effects[0] == pytest.approx(factor - 1, abs=0.02)
    if word == "cannot tell":
        how = "slower" if factor > 1 else "faster"
        assert re.search(rf"but the CPU was \d+% {how} \(a neighbour, or its clock\)", found.detail)
        assert verdict.worth_another_look(judged(new, history=nights.steady(20, rng, core_ns=2800))) == []
    elif core_ns == 3500 and word != "same":
        assert "the CPU was 25% slower (a neighbour, or its clock)" in found.causes


def test_only_the_same_arithmetic_tells_how_fast_the_cpu_was(nights, rng, judged):
    new = look(nights, rng, 1.25, core_ns=3500, environment={"numpy": "2.5.0"})
    again = look(nights, rng, 1.25, again_of=new, core_ns=3500, environment={"numpy": "2.5.0"})
    history = nights.steady(20, rng, core_ns=2800, environment={"numpy": "2.4.6"})
    assert words(judged(new, again, history=history)) == ["slower"]


@pytest.mark.parametrize("more", [{"foreign": 0.5}, {"runtimes": {"onnxruntime": "1.32"}}, {"scope": "compute"}])
def test_a_rerun_of_something_else_does_not_count(nights, rng, judged, more):
    new = look(nights, rng, 1.08)
    (found,) = judged(new, look(nights, rng, 1.08, again_of=new, **more))
    assert found.word == "suspected"
    assert "not confirmed" in found.detail


def test_a_rerun_is_no_night(nights, rng, judged):
    history = nights.steady(20, rng)
    again = look(nights, rng, 1.5, again_of=history[-1], number=19)
    (found,) = judged(look(nights, rng, 1.0), history=[*history, again])
    assert found.word == "same"
    assert len(found.pair.nights) == 20


def test_a_change_below_the_threshold_is_none(nights, rng, judged):
    new = look(nights, rng, 1.08)
    assert words(judged(new, look(nights, rng, 1.08, again_of=new), threshold=0.10)) == ["same"]


def test_what_the_cell_always_did_is_no_change(nights, rng, judged):
    """Nights of two modes, 4 % apart: neither is news."""
    history = [nights.record(nights.trials(6.5 * (1.04 if n % 4 == 0 else 1.0), rng, 0.002), n) for n in range(20)]
    new = look(nights, rng, 1.04)
    assert words(judged(new, look(nights, rng, 1.04, again_of=new), history=history)) == ["same"]


def test_without_history_a_small_change_is_none_and_a_large_one_among_few_is(nights, rng, judged):
    old = [nights.record(nights.trials(6.5, rng, 0.002), 0)]
    for factor, word in ((1.03, "same"), (1.30, "slower")):
        new = nights.record(nights.trials(6.5 * factor, rng, 0.002), 1)
        again = nights.record(nights.trials(6.5 * factor, rng, 0.002), 1, confirms=new.id, seconds=9, id="again")
        assert words(judged(new, again, history=old)) == [word]


def test_without_history_nothing_can_be_told_of_one_among_many(nights, rng):
    old = [nights.record(nights.trials(6.5, rng), 0, model=f"net{i}") for i in range(200)]
    new = [nights.record(nights.trials(6.5, rng), 1, model=f"net{i}") for i in range(200)]
    found = verdict.judge(cells.pairs(old, new))
    assert {v.word for v in found} == {"cannot tell"}
    assert all(re.search(r"needs \d+ more night", v.detail) for v in found)


def test_nights_of_other_versions_say_how_noisy_it_is_but_not_where_it_lies(nights, rng, judged):
    """A version made it 30 % slower, was accepted, and from then on a new change is seen at once."""
    before = [nights.record(nights.trials(5.0, rng), n, runtimes={"onnxruntime": "1.30"}) for n in range(17)]
    since = [nights.record(nights.trials(6.5, rng), n) for n in range(17, 20)]
    assert words(judged(look(nights, rng, 1.0), history=[*before, *since])) == ["same"]
    new = look(nights, rng, 1.08)
    (found,) = judged(new, look(nights, rng, 1.08, again_of=new), history=[*before, *since])
    assert found.word == "slower"
    assert found.levels[0] == pytest.approx(6.5, rel=0.02)


def test_what_changed_is_the_likely_cause(nights, rng, judged):
    more = {"runtimes": {"onnxruntime": "1.32"}, "environment": {"kernel": "Linux 6.2", "boot": "b"}, "foreign": 0.02}
    new = look(nights, rng, 1.08, **more)
    (found,) = judged(new, look(nights, rng, 1.08, again_of=new, **more))
    assert found.word == "slower"
    assert list(found.causes) == [
        "kernel Linux 6.1 → Linux 6.2",
        "onnxruntime 1.31.1 → 1.32",
        "others used up to 2.0% of the CPU",
    ]


@pytest.mark.parametrize("status", ["noisy", "skipped"])
def test_what_was_not_measured_in_peace_has_no_speed(nights, rng, judged, status):
    if status == "noisy":
        new = look(nights, rng, 2.0, foreign=0.5)
    else:
        new = nights.record([], 20)
    assert new.status == status
    (found,) = judged(new)
    assert found.word == "cannot tell"
    assert found.about == "run"
    assert found.detail.startswith(status)


def test_noisy_nights_are_no_history(nights, rng, judged):
    history = [look(nights, rng, 2.0, foreign=0.5, number=n) for n in range(20)]
    (found,) = judged(look(nights, rng, 1.0), history=history)
    assert found.word == "cannot tell"
    assert not found.effects


# What may not be compared.


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"machine": "other"}, "another machine"),
        ({"environment": {"cpu": "Slow CPU"}}, "another cpu"),
        ({"environment": {"cores": 2}}, "another cores"),
        ({"scope": "compute"}, "another figure"),
        ({"threads": 4}, "threads 1, now 4"),
    ],
)
def test_what_differs_in_more_than_versions_is_not_compared(nights, rng, judged, more, why):
    (found,) = judged(look(nights, rng, 2.0, **more))
    assert found.word == "not comparable"
    assert why in found.detail
    assert not found.effects
    assert not found.regression


def test_another_model_under_the_same_name_is_not_compared(nights, rng):
    old, new = nights.record([6.5] * 6, 0), nights.record([9.5] * 6, 1)
    model = replace(new.case.model, sha256="f" * 64)
    new = replace(new, cell="other", case=replace(new.case, model=model))
    (found,) = verdict.judge(cells.pairs([old], [new]))
    assert found.word == "not comparable"
    assert found.detail.startswith("the model is another")


def test_new_and_missing_cells(nights, judged, rng):
    new = nights.record([5.0] * 6, 20, model="resnet50")
    found = judged(new)
    assert words(found) == ["missing", "new cell"]
    assert not any(v.regression for v in found)


# Failing, parity, memory.


def crash(nights, number=20, **more):
    error = r.ErrorFacts(phase="load", kind="SIGSEGV", error="Crashed", message="killed by SIGSEGV", signal="SIGSEGV")
    return nights.record([1.0], number, error=error, **more)


def test_newly_failing_says_why(nights, judged):
    (found,) = judged(crash(nights))
    assert found.word == "newly failing"
    assert found.regression
    assert "crashed: load: killed by SIGSEGV" in found.detail
    assert len(verdict.worth_another_look([found])) == 1


def test_failing_twice_is_failing_and_once_is_suspected(nights, rng, judged):
    new = crash(nights)
    twice = crash(nights, confirms=new.id, seconds=60, id="again")
    (found,) = judged(new, twice)
    assert found.word == "newly failing"
    assert "too" in found.detail
    (found,) = judged(new, look(nights, rng, 1.0, again_of=new))
    assert found.word == "suspected"


def test_still_failing_and_newly_working(nights, rng, judged):
    (found,) = judged(crash(nights), history=[crash(nights, 3)])
    assert found.word == "still failing"
    (found,) = judged(look(nights, rng, 1.0), history=[crash(nights, 3)])
    assert found.word == "newly working"
    assert not found.regression


def parity(grade="fp32", error=1e-6, exceed=0.005, passed=True):
    base = nights_parity()
    output = replace(
        base.outputs[0], max_rel_scale=error, exceed=exceed, passed=passed, problem="" if passed else "off"
    )
    return replace(base, grade=grade, passed=passed, problem=output.problem, outputs=[output])


def nights_parity():
    from pathlib import Path

    from bench.store import read_lines

    lines = read_lines(Path(__file__).parent.parent / "golden" / "schema-1.jsonl")
    return next(line.parity for line in lines if isinstance(line, r.TrialLine) and line.parity and line.parity.passed)


@pytest.mark.parametrize(
    ("worse", "why"),
    [
        ({"grade": "fp16", "error": 5e-3, "exceed": 0.9}, "passes fp16 now, passed fp32 before"),
        ({"error": 5e-5, "exceed": 0.25}, "5.0e-05 of the output's scale, was at most 1.0e-06"),
        ({"grade": "wrong", "passed": False, "error": 0.5, "exceed": 90.0}, "fails now"),
    ],
)
def test_worse_parity_is_a_regression(nights, rng, judged, worse, why):
    history = nights.steady(20, rng, parity=parity())
    new = look(nights, rng, 1.0, parity=parity(**worse))
    again = look(nights, rng, 1.0, parity=parity(**worse), again_of=new)
    for looks in ([new], [new, again]):
        found = next(v for v in judged(*looks, history=history) if v.word != "same")
        assert found.word == "parity worse"
        assert found.regression
        assert why in found.detail
    found = judged(new, look(nights, rng, 1.0, parity=parity(), again_of=new), history=history)
    assert "suspected" in words(found)
    assert not any(v.regression for v in found)


def test_rounding_that_moves_a_little_is_no_news(nights, rng, judged):
    history = nights.steady(20, rng, parity=parity())
    new = look(nights, rng, 1.0, parity=parity(error=1.8e-6, exceed=0.3))
    assert words(judged(new, history=history)) == ["same"]
    new = look(nights, rng, 1.0, parity=parity(error=9e-6, exceed=0.05))
    assert words(judged(new, history=history)) == ["same"]


@pytest.mark.parametrize(("mib", "word"), [(120, "memory grown"), (80, "memory shrunk"), (104, None)])
def test_memory(nights, rng, judged, mib, word):
    new = look(nights, rng, 1.0, rss_mib=mib)
    found = judged(new, look(nights, rng, 1.0, rss_mib=mib, again_of=new))
    assert words(found) == ([word, "same"] if word else ["same"])
    if word:
        assert found[0].regression == (word == "memory grown")
        assert words(judged(new)) == ["suspected", "same"]
        assert words(judged(new, look(nights, rng, 1.0, again_of=new))) == ["suspected", "same"]


def test_memory_has_grown_only_if_every_process_has(nights, rng, judged):
    """Not by one large process, and of one night among few as surely as of one among many."""
    grown, one = [120, 118, 117, 121, 119, 125], [100, 100, 101, 100, 150, 100]
    for mib, expected in ((grown, ["memory grown", "same"]), (one, ["same"]), ([99, *grown[1:]], ["same"])):
        new = look(nights, rng, 1.0, rss_mib=mib)
        again = look(nights, rng, 1.0, rss_mib=mib, again_of=new)
        assert words(judged(new, again)) == expected
        assert words(judged(new, again, history=nights.steady(1, rng)))[:-1] == expected[:-1]


def test_so_few_processes_say_nothing_of_memory_for_sure(nights, rng, judged):
    def record(number, mib, **more):
        return nights.record([6.5], number, rss_mib=mib, **more)

    new = record(20, 120)
    again = record(20, 120, confirms=new.id, seconds=600, id="again")
    found = judged(new, again, history=[record(19, 100)])
    assert found[0].word == "suspected"
    assert "by chance" in found[0].detail


# In words.


def test_the_page_and_the_lines_say_the_same_and_are_the_same_every_time(nights, rng):
    history = [record for model in ("a|b", "net") for record in nights.steady(20, rng, model=model)]
    new = look(nights, rng, 1.2, model="a|b", runtimes={"onnxruntime": "1.32"})
    again = look(nights, rng, 1.2, model="a|b", runtimes={"onnxruntime": "1.32"}, again_of=new)
    pairs = cells.pairs(history, [new, again, look(nights, rng, 1.0, model="net"), crash(nights, backend="mnn")])
    texts = {blocks.markdown(told.page(verdict.judge(order), "v1 → v2")) for order in (pairs, pairs[::-1])}
    (text,) = texts
    assert "**v1 → v2**: 1 slower, 1 new cell, 1 same." in text
    assert r"| **slower** | a\|b  | ort-cpu |" in text
    assert "onnxruntime 1.31.1 → 1.32" in text
    assert "New: squeezenet on mnn (crashed)." in text
    lines = [json.loads(told.as_json(v)) for v in verdict.judge(pairs)]
    assert [line["verdict"] for line in lines] == ["slower", "new cell", "same"]
    assert [line["regression"] for line in lines] == [True, False, False]
    assert lines[0]["effect"] == pytest.approx(0.2, abs=0.02)
    assert lines[0]["again"] == again.id


def test_another_wheel_of_the_same_version_is_a_cause(nights):
    """As of two boards, or of one whose Python was replaced."""
    environment = {"runtimes": {"ncnn": "1.0"}}
    old, new = (
        replace(nights.record([6.5], 0), environment={**environment, "wheels": {"ncnn": digit * 64}}) for digit in "ab"
    )
    assert causes.versions_changed(old, new) == ["wheel of ncnn aaaaaaaaaaaa → bbbbbbbbbbbb"]


def test_conditions_are_causes_too(nights, rng):
    old, new = nights.record([6.5], 0), nights.record([6.5], 1)
    seen = r.ObservedFacts(
        seconds=1.0, frequency_mhz=(3000, 3100), governor="performance", turbo=True, temperature_c=50.0,
        temperature_of="cpu", throttled=False, throttle="", energy_j=None, timeline=[], not_available={},
    )  # fmt: skip
    hot = replace(seen, frequency_mhz=(2000, 3100), governor="powersave", turbo=False, temperature_c=80.0)
    old, new = (
        replace(x, evidence=replace(x.evidence, observed=o))
        for x, o in ((old, seen), (new, replace(hot, throttled=True)))
    )
    assert causes.changed(old, new) == [
        "governor performance → powersave",
        "turbo off",
        "50 → 80 C",
        "lowest clock 3000 → 2000 MHz",
        "throttled ()",
    ]
