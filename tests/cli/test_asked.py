"""What is asked of a measurement: percentiles, new shapes, and the impossible."""

from __future__ import annotations

import json

import pytest

FAST = ("--min-time", "0.05", "--max-time", "3", "--max-foreign-cpu", "1")


@pytest.fixture
def run(cli, mlp_path, tmp_path):
    """The record of one case, and what was said meanwhile."""

    def run(*more, backend="fake", shape=("--batch", "2"), code=0):
        done = cli("run", str(mlp_path), *shape, "-b", backend, *FAST, "--results", str(tmp_path), "--json", *more)
        assert done.code == code, done.stderr
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout), done.stderr

    return run


# --- percentiles


@pytest.mark.parametrize(("words", "trials", "least"), [("p99", 2, 331), ("99.9", 1, 6636)])
def test_a_percentile_is_measured_as_often_as_it_takes(run, words, trials, least):
    record, said = run("--percentile", words, "--trials", trials, "--target", "none")
    at = {p["q"]: p["ns"] for p in record["latency"]["percentiles"]}
    assert at[{"p99": 0.99, "99.9": 0.999}[words]]
    assert record["latency"]["n"] >= trials * least
    assert "takes" not in said


def test_a_percentile_that_there_was_no_time_for_is_said(run):
    record, said = run("--percentile", "p99", "--trials", "1", "-o", "latency_us=20000")
    assert {p["q"]: p["ns"] for p in record["latency"]["percentiles"]}[0.99] is None
    assert f"p99 takes 662 samples, there was time for {record['latency']['n']}; raise --max-time" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--percentile", "p99.9", "--min-count", "50", "--trials", "1"), "p99.9 takes 6636 samples"),
        (("--percentile", "p42"), "known: p50, p90"),
        (("--percentile", "much"), "is not recorded"),
        (("--percentile", "p99", "--scenario", "offline"), "measures throughput, not latency"),
        (("--percentile", "p99.9", "--trials", "1", "--max-time", "0.0001", "--min-time", "0.0001"), "do not fit into"),
        (("--budget", "0"), "--budget"),
        (("--cpus", "900"), "no CPU 900"),
        (("--scenario", "server", "--rate", "0"), "--rate 0"),
        (("--new-shapes", "0"), "--new-shapes"),
        (("--spread", "10"), "--spread 10 is no time; write it with its unit"),
        (("--spread", "0s"), "--spread 0s is not possible"),
        (("--spread", "25h"), "at most a day"),
        (("--spread", "10m", "--trials", "1"), "--spread means nothing with --trials 1"),
        (("--spread", "10m", "--budget", "600"), "--budget 600 is over before trials spread over 600 s are"),
        (("--spread", "10m", "--soak", "5s"), "--spread means nothing with --soak"),
    ],
)
def test_the_impossible_is_refused_before_anything_runs(cli, mlp_path, tmp_path, words, says):
    done = cli("run", str(mlp_path), "--batch", "1", "-b", "fake", *words, "--results", str(tmp_path / "out"))
    assert done.code == 2
    assert says in done.stderr
    assert not (tmp_path / "out").exists()


# --- trials that are spread over a time


def test_trials_that_are_spread_begin_as_far_apart(run):
    record, said = run("--trials", "2", "--spread", "3s", "--min-time", "0.01", "--target", "none")
    assert 2 <= record["evidence"]["trials_over_s"] <= 30
    assert "for round 2: the trials are to be spread" in said


# --- what a new input shape costs


def test_the_cost_of_a_new_shape_is_the_one_that_was_set(run):
    record, _ = run("--new-shapes", "3", "--trials", "1", "-o", "new_shape_us=40000")
    found = record["new_shapes"]
    assert found["shapes"] == [{"x": [3, 16]}, {"x": [4, 16]}, {"x": [5, 16]}]
    assert found["reason"] == ""
    assert found["extra_s"]["n"] == 3
    assert found["first_s"]["low"] >= 0.04
    assert found["extra_s"]["high"] <= found["first_s"]["high"]
    assert record["case"]["model"]["shapes"] == {"x": [2, 16]}


def test_a_wrong_answer_at_a_new_shape_has_no_cost(run):
    """A session that goes wrong after 13 runs: the case needs fewer, the session of the new shapes more."""
    few = ("--trials", "1", "--min-count", "1", "--max-time", "0.05", "--target", "none", "-o", "latency_us=20000")
    record, _ = run("--new-shapes", "8", *few, "-o", "fault=drift", "-o", "fault_after=13")
    assert record["status"] == "ok"
    assert record["new_shapes"]["first_s"] is None
    assert record["new_shapes"]["reason"].startswith("not available: wrong at x[")


def test_a_model_that_leaves_nothing_open_has_no_new_shapes(cli, tmp_path):
    done = cli("run", "tiny_mlp", "-b", "fake", *FAST, "--trials", "1", "--new-shapes", "2", "--results", str(tmp_path),
               "--json")  # fmt: skip
    assert json.loads(done.stdout)["new_shapes"]["reason"] == "not available: the model leaves no dimension open"


def test_a_case_that_is_not_ok_has_no_new_shapes(run):
    record, _ = run("--new-shapes", "2", "--trials", "1", "-o", "error=0.5", code=1)
    assert (record["status"], record["new_shapes"]) == ("wrong", None)


# --- cold start


def test_cold_start_is_told_over_trials(run):
    record, _ = run("--trials", "3", "--max-trials", "3", "-o", "fault=slow_load", "-o", "slow_load_s=0.1")
    found = record["cold_start"]
    assert record["new_shapes"] is None, "nobody asked for it"
    assert {name: found[name]["n"] for name in found} == dict.fromkeys(
        ("start_s", "import_s", "load_s", "first_run_s"), 3
    )
    assert 0.1 <= found["load_s"]["low"] <= found["load_s"]["median"] <= found["load_s"]["high"]
    assert found["load_s"]["low"] <= record["cold"]["load_s"] <= found["load_s"]["high"]
