"""`deploybench run --scenario` through its front door, on the fake backend."""

from __future__ import annotations

import json

import pytest

FAST = ("--trials", "1", "--min-time", "0.05", "--max-time", "5", "--max-foreign-cpu", "1")


@pytest.fixture
def run(cli, mlp_path, tmp_path):
    """The record and the table of one case."""

    def run(*argv, backend="fake", results=tmp_path, code=0):
        given = ("--batch", "1", "-b", backend, *FAST, "--results", str(results), "--json", *argv)
        result = cli("run", str(mlp_path), *given)
        assert result.code == code, result.stderr
        assert "Traceback" not in result.stderr
        return json.loads(result.stdout), cli("report", str(results)).stdout

    return run


def test_offline_sweeps_and_measures_throughput(run):
    record, table = run("--scenario", "offline", "-o", "latency_us=1500")
    assert record["status"] == "ok"
    assert record["latency"] is None
    found = record["throughput"]
    assert found["per_s"] == pytest.approx(found["inferences"] / found["seconds"])
    assert [s["streams"] for s in found["sweep"]][:2] == [1, 2]
    assert found["streams"] in [s["streams"] for s in found["sweep"]]
    assert found["inferences"] >= 64 * found["streams"]
    assert found["per_s"] <= found["streams"] / 1.5e-3
    assert record["case"]["options"]["scenario"] == "offline"
    assert "**Throughput**" in table
    assert f"{found['streams']} stream" in table


def test_streams_in_processes_where_the_runtime_holds_the_lock(run):
    record, _ = run("--scenario", "offline", "--streams", "2", backend="reference")
    assert record["status"] == "ok"
    assert (record["throughput"]["streams"], record["throughput"]["sweep"]) == (2, [])


def test_multi_stream_has_a_p99_of_queries(run):
    record, table = run("--scenario", "multi-stream", "--samples-per-query", "3", "--streams", "2")
    assert record["status"] == "ok"
    assert record["latency"]["n"] >= 662
    assert record["throughput"]["inferences"] == 3 * record["latency"]["n"]
    assert next(p["ns"] for p in record["latency"]["percentiles"] if p["q"] == 0.99)
    assert "of a query of 3 samples" in table


def test_a_server_counts_from_the_scheduled_arrival(run):
    record, table = run("--scenario", "server", "--rate", "2000", "-o", "latency_us=100", "--streams", "1")
    assert record["status"] == "ok"
    assert record["server"]["scheduled"] == 662
    assert min(record["latency"]["samples_ns"]) >= 100_000
    assert record["case"]["options"]["rate"] == 2000
    assert "at 2000 queries per second" in table


def test_an_overloaded_server_has_no_latency(run):
    record, table = run("--scenario", "server", "--rate", "100000", "-o", "latency_us=1500", "--streams", "1")
    assert record["server"]["overloaded"]
    assert record["throughput"]["per_s"] < 1000
    assert "overloaded: answers" in table


def test_the_highest_rate_is_found_and_the_case_can_be_run_again(run, cli, mlp_path, tmp_path):
    record, table = run("--scenario", "server", "--latency-bound", "1s", "-o", "latency_us=200", "--streams", "2")
    assert record["status"] == "ok"
    held = [p["rate"] for p in record["server"]["probes"] if p["held"]]
    assert record["server"]["rate"] == max(held)
    assert "**Highest rate**" in table
    again = cli("rerun", record["id"], str(mlp_path), *FAST, "--results", str(tmp_path), "--json")
    assert json.loads(again.stdout)["cell"] == record["cell"]


def test_an_impossible_bound_is_held_at_no_rate(run):
    record, table = run("--scenario", "server", "--latency-bound", "50us", "-o", "latency_us=200")
    assert record["status"] == "ok"
    assert record["server"]["rate"] is None
    assert "none: no rate holds the bound" in table


def test_every_stream_is_judged(run):
    record, _ = run("--scenario", "offline", "--streams", "2", "-o", "fault=drift", "-o", "fault_after=9", code=1)
    assert record["status"] == "wrong"
    assert record["parity"]["at"] == "verify"


def test_a_crash_under_load_is_a_record(run):
    fault = ("-o", "fault=crash", "-o", "fault_at=measure", "-o", "fault_after=9")
    record, _ = run("--scenario", "server", "--rate", "1000", *fault, code=1)
    assert (record["status"], record["error"]["phase"]) == ("crashed", "measure")


@pytest.mark.parametrize(
    ("argv", "says"),
    [(("--scenario", "sever"), "did you mean server"), (("--scenario", "server", "--rate", "0"), "--rate 0")],
)
def test_impossible_requests_run_nothing(cli, mlp_path, tmp_path, argv, says):
    result = cli("run", str(mlp_path), "--batch", "1", "-b", "fake", *argv, "--results", str(tmp_path / "out"))
    assert result.code == 2
    assert says in result.stderr
    assert not (tmp_path / "out").exists()
