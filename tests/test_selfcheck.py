"""`deploybench selfcheck`: what it measures, what it concludes, what it advises."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
from dataclasses import replace

import pytest

from bench import cpus, selfcheck
from bench.record import LoadFacts, Series, TrialLine
from bench.selfcheck import MachineFacts, NoiseFloor, advice, smallest_difference, student_t, summary, verdict

STILL = MachineFacts(
    foreign_cpu=0.0, steal=0.0, busiest=(), cores=8, governor="performance", turbo=False, smt=False,
    frequency_mhz=(3000, 3000), temperature_c=40.0, isolated="", virtual=False,
)  # fmt: skip


# --- the noise floor


@pytest.mark.parametrize(("degrees", "value"), [(2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042)])
def test_students_quantiles(degrees, value):
    """Source: any table of Student's distribution, 97.5 %."""
    assert student_t(degrees) == pytest.approx(value, rel=0.02)


@pytest.mark.parametrize("pairs", [3, 6, 20])
def test_a_difference_called_visible_is_seldom_seen_where_there_is_none(pairs):
    """Simulated: the difference of two means of six equal cases exceeds the stated one 5 times in 100."""
    generator = random.Random(pairs)
    exceeded, rounds = 0, 3000
    for _ in range(rounds):
        ratios = [generator.lognormvariate(0, 0.01) / generator.lognormvariate(0, 0.01) for _ in range(pairs)]
        bound = smallest_difference(ratios, trials=6)
        means = [statistics.fmean(generator.lognormvariate(0, 0.01) for _ in range(6)) for _ in range(2)]
        exceeded += abs(means[0] / means[1] - 1) > bound
    assert 0.035 < exceeded / rounds < 0.065


def line(median_ns, foreign=0.0):
    load = LoadFacts(wall_s=0.6, foreign_cpu=foreign, steal=0.0, involuntary_switches=0, major_faults=0)
    series = [Series(scope="end_to_end", clock="host", samples_ns=[median_ns] * 5)]
    return TrialLine(schema=1, id="c", index=0, started_at="", environment={}, runtimes={}, load=load, series=series)


def test_pairs_that_agree_show_a_quiet_machine():
    floor = summary("w", [(line(1000 + n), line(1001 - n)) for n in (0, 1, 0, 1)])
    assert floor.smallest < 0.01
    assert floor.p50_ns == pytest.approx(1000, abs=2)
    assert "can be seen here." in verdict([floor])


def test_pairs_that_disagree_show_a_noisy_one():
    floor = summary("w", [(line(1000), line(1100)), (line(1100), line(1000)), (line(1050), line(1000))])
    assert floor.smallest > 0.01
    assert "cannot be seen here" in verdict([floor, NoiseFloor("other", smallest=0.0001, foreign_cpu=0.0)])


def test_noisy_pairs_are_left_out_where_enough_others_are_left():
    quiet = [(line(1000), line(1000 + n)) for n in range(3)]
    busy = [(line(1000), line(5000, foreign=0.5))]
    floor = summary("w", quiet + busy)
    assert (len(floor.ratios), floor.left_out, floor.foreign_cpu) == (3, 1, 0.0)
    all_of_it = summary("w", quiet[:2] + busy)
    assert (len(all_of_it.ratios), all_of_it.left_out, all_of_it.foreign_cpu) == (3, 0, 0.5)
    assert "busy as it is" in verdict([all_of_it])


def test_nothing_measured_is_no_verdict():
    assert verdict([]) == verdict([NoiseFloor("w", problem="probe: not installed")]) == ""


# --- advice


def test_a_machine_that_is_quiet_needs_no_advice():
    assert advice(STILL) == []


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"foreign_cpu": 0.4, "busiest": (("rustc", 0.35), ("sshd", 0.001))}, "rustc (35%)"),
        ({"foreign_cpu": 0.4, "busiest": (("rustc", 0.05),)}, "rustc (5%), processes that come and go"),
        ({"steal": 0.1}, "dedicated cores"),
        ({"governor": "powersave"}, "cpupower frequency-set -g performance"),
        ({"turbo": True}, "no_turbo"),
        ({"smt": True}, "--cpus"),
        ({"isolated": "2-3"}, "--cpus 2-3"),
    ],
)
def test_advice_is_given_where_it_applies(facts, words):
    (found,) = advice(replace(STILL, **facts))
    assert words in found
    assert "sshd" not in found


def test_what_cannot_be_told_is_not_advised_on():
    unknown = replace(STILL, foreign_cpu=None, steal=None, governor=None, turbo=None, smt=None, frequency_mhz=None)
    assert advice(unknown) == []


def test_isolating_cpus_is_advised_where_1_percent_cannot_be_seen_and_there_are_some_to_spare():
    coarse = [NoiseFloor("w", ratios=(1.0, 1.1), smallest=0.1)]
    assert "isolcpus=6,7" in advice(STILL, coarse)[0]
    assert advice(replace(STILL, cores=2), coarse) == []
    assert "virtual" in advice(replace(STILL, cores=2, virtual=True), coarse)[0]


# --- measuring


def test_the_clock_has_steps_and_a_cost():
    found = selfcheck.clock(count=2000)
    assert found.resolution_ns >= 1
    assert found.cost_ns > 0


def test_a_sleep_is_never_too_short():
    found = selfcheck.sleep(count=3)
    assert 0 <= found.overshoot_us <= found.worst_us


def test_our_loop_and_a_bare_one():
    found = selfcheck.loop_cost(rounds=1, calls=200)
    assert found.bare_ns > 0
    assert found.added_ns == found.ours_ns - found.bare_ns


BUSY = "import time; print(flush=True)\nwhile True: pass"


def test_a_busy_process_is_named():
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) as hog:
        try:
            hog.stdout.readline()
            found = selfcheck.machine(look_s=0.6)
        finally:
            hog.kill()
    name = os.path.basename(os.path.realpath(sys.executable))[:15]
    assert any(name.startswith(who[:6]) or who.startswith("python") for who, _ in found.busiest)
    assert found.foreign_cpu > 0.03


# --- CPUs


STEADY = [3.91, 3.92, 3.90, 3.93, 3.92, 3.91]


def test_a_cpu_with_a_neighbour_is_told():
    found = cpus.judged({0: STEADY, 1: [4.12, 4.20, 4.00, 4.49, 3.97, 4.33]})
    assert found.worse == (1,)
    assert found.best.cpu == 0
    (told,) = advice(STILL, cpus=found)
    assert "slows CPU 1, not CPU 0" in told
    assert "--cpus 0" in told


def test_one_that_is_as_fast_but_not_as_steady_is_told():
    assert cpus.judged({0: STEADY, 1: [3.88, 3.97, 3.89, 3.96, 3.86, 3.98]}).worse == (1,)


def test_cpus_that_are_alike_give_no_advice():
    found = cpus.judged({0: STEADY, 1: [3.93, 3.90, 3.92, 3.92, 3.94, 3.91]})
    assert found.worse == ()
    assert advice(STILL, cpus=found) == []


@pytest.mark.parametrize("trials", [6, 12])
@pytest.mark.parametrize("spread", [0.002, 0.005])
def test_cpus_that_are_alike_are_seldom_accused(trials, spread):
    rng = random.Random(trials)
    nights = 1000
    wrong = sum(
        bool(cpus.judged({c: [rng.gauss(1, spread) for _ in range(trials)] for c in range(2)}).worse)
        for _ in range(nights)
    )
    assert wrong <= 0.05 * nights


def test_how_long_others_were_on_a_core_is_told_of_each_cpu():
    found = cpus.judged({0: STEADY, 1: STEADY}, {0: [1000, 1005, 1001, 1010], 1: [1110, 1004, 1120, 1003]})
    assert [c.shared for c in found.cpus] == [0.0, 0.5]
    assert [c.shared for c in cpus.judged({0: STEADY, 1: STEADY}, {0: [1000], 1: []}).cpus] == [0.0, None]
    assert [c.shared for c in cpus.judged({0: STEADY, 1: STEADY}).cpus] == [None, None]


def test_one_cpu_alone_is_not_compared(tmp_path):
    assert cpus.alike(None, [0], None, 1.0, print).problem == "there is one CPU only"


# --- the verb


def test_the_verb(cli):
    done = cli("selfcheck", "--seconds", "1", "--json")
    assert done.code == 0, done.stderr
    found = json.loads(done.stdout)
    assert [len(f["ratios"]) >= 3 or f["problem"] for f in found["noise_floor"]]
    assert len(found["noise_floor"][0]["ratios"]) >= 3
    assert found["verdict"]
    assert found["loop"]["added_ns"] == found["loop"]["ours_ns"] - found["loop"]["bare_ns"]
    assert "pair 1" in done.stderr
    assert found["cpus"]["problem"] or [len(c["p50_ns"]) >= 6 for c in found["cpus"]["cpus"]]


def test_what_it_prints_in_words(capsys):
    from bench.cli.selfcheck import _print

    facts = {
        "clock": selfcheck.ClockFacts(20, 40.0),
        "sleep": selfcheck.SleepFacts(60.0, 90.0, None),
        "loop": selfcheck.LoopFacts(100.0, 109.0),
    }
    unknown = replace(STILL, foreign_cpu=None, steal=None, governor=None, turbo=None, smt=None, frequency_mhz=None)
    floors = [NoiseFloor("a", 990_000, (0.99, 1.01, 1.0), 0.02, 0.01), NoiseFloor("b", problem="probe: not installed")]
    medians = {0: [3.90e6, 3.91e6, 3.90e6, 3.92e6], 3: [4.3e6, 3.9e6, 4.4e6, 4.1e6]}
    seen = cpus.judged(medians, {3: [1000, 1110, 1110, 1110]})
    _print(facts, replace(unknown, temperature_c=None), floors, seen, ["do this"], verdict(floors))
    text = capsys.readouterr().out
    assert "adds 9 ns per inference" in text
    assert "frequency not available; governor not available, turbo not available, SMT not available" in text
    assert "0.990 ms: ratio 1.0000 (0.9900 to 1.0100, 3 pairs, others used up to 1.0%)" in text
    assert "b: not available: probe: not installed" in text
    assert "3.91 ms ±0.25 % on 0, 4.17 ms ±5.3 % on 3 (somebody else on its core for 75% of the time)" in text
    assert "- do this" in text
    assert "Verdict: differences of 1% cannot be seen here" in text
