"""`deploybench run --soak` through its front door, on the fake backend."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

LOOSE = ("--max-foreign-cpu", "1")


def argv(model, results, *more, soak="3s"):
    return ["run", str(model), "--batch", "1", "-b", "fake", "--soak", soak, *LOOSE, "--results", str(results), *more]


@pytest.fixture
def run(cli, mlp_path, tmp_path):
    """The record of one soak, and how the command ended."""

    def run(*more, code=0, **kept):
        done = cli(*argv(mlp_path, tmp_path, "--json", *more, **kept))
        assert done.code == code, done.stderr
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout), done

    return run


def lines(results):
    (journal,) = Path(results, "records").rglob("*.jsonl")
    return [json.loads(text) for text in journal.read_text().splitlines()]


def test_a_soak_is_told_over_time(run, cli, mlp_path, tmp_path):
    record, done = run("-o", "latency_us=2000")
    soak = record["soak"]
    assert (record["status"], record["latency"], record["throughput"]) == ("ok", None, None)
    assert (record["case"]["options"]["scenario"], record["case"]["options"]["soak_s"]) == ("soak", 3.0)
    assert 3.0 <= soak["measured_s"] < 4.5
    assert soak["n"] == sum(s["n"] for s in soak["spans"]) > 100
    assert min(s["p50_ns"] for s in soak["spans"]) >= 2_000_000 * (1 - 1 / 1024)
    assert record["evidence"]["trials"] == record["evidence"]["trials_wanted"] == 1
    assert "soak: 3 of 3 s" in done.stderr
    (page,) = Path(tmp_path, "tables").rglob("*-soak-*.md")
    assert str(page) in done.stderr
    slices = [one for one in lines(tmp_path) if one["type"] == "slice"]
    assert all(one["core_ns"] > 0 for one in slices)
    (trial,) = (one for one in lines(tmp_path) if one["type"] == "trial")
    assert len(trial["core"]["readings_ns"]) > 2 * len(slices)
    told = [span["core_slowed"] is not None for span in soak["spans"]]
    assert told == [record["work"]["peaks"]["virtual"]] * len(slices)
    (table,) = (p for p in page.parent.glob("*.md") if p != page)
    assert "**Sustained load**" in table.read_text()
    again = tmp_path / "again"
    assert cli("report", "--soaks", str(again), "--results", str(tmp_path)).code == 0
    (made,) = again.rglob("*.md")
    assert made.read_text() == page.read_text()
    assert [p.read_bytes() for p in again.rglob("*.svg")] == [p.read_bytes() for p in page.parent.glob("*.svg")]
    rerun = cli("rerun", record["id"], str(mlp_path), *LOOSE, "--results", str(tmp_path), "--json")
    assert json.loads(rerun.stdout)["cell"] == record["cell"]


@pytest.mark.slow
def test_memory_that_grows_shows(run):
    record, _ = run("-o", "latency_us=20000", "-o", "fault=leak", "-o", "leak_mib=1", "-o", "fault_at=measure")
    rss = [s["rss_bytes"] for s in record["soak"]["spans"]]
    assert rss[-1] - rss[0] > 50 << 20


def test_wrong_answers_end_a_soak(run):
    record, _ = run("-o", "fault=drift", "-o", "fault_after=200", "-o", "latency_us=2000", code=1, soak="60s")
    assert record["status"] == "wrong"
    assert record["parity"]["at"] == "verify"
    assert record["soak"]["measured_s"] < 10


def test_a_crash_keeps_what_was_measured(run, cli, tmp_path):
    fault = ("-o", "fault=crash", "-o", "fault_at=measure", "-o", "fault_after=800", "-o", "latency_us=2000")
    record, _ = run(*fault, code=1, soak="60s")
    assert (record["status"], record["error"]["signal"]) == ("crashed", "SIGSEGV")
    assert 1 <= len(record["soak"]["spans"]) <= 3
    assert "Not published" in cli("report", str(tmp_path)).stdout
    assert not list(tmp_path.rglob("*-soak-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_soak_that_is_killed_keeps_what_was_measured(cli, mlp_path, tmp_path, number):
    process = subprocess.Popen(
        [*cli.command, *argv(mlp_path, tmp_path, "-o", "latency_us=2000", soak="100s")],
        env=cli.environment, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end and not any(
            b'{"type":"slice"' in p.read_bytes() for p in tmp_path.rglob("*.jsonl")
        ):
            time.sleep(0.1)
    finally:
        os.kill(process.pid, number)
        process.wait(30)
    (record,) = map(json.loads, cli("report", "--json", "--results", str(tmp_path)).stdout.splitlines())
    assert record["status"] == "skipped"
    assert record["soak"]["n"] > 0
    assert "of 100 s" in record["why"]
    assert "not published" in cli("report", "--results", str(tmp_path)).stdout.lower()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--soak", "10"), "with its unit"),
        (("--soak", "soon"), "with its unit"),
        (("--soak", "0s"), "3s or more"),
        (("--soak", "400h"), "a week"),
        (("--soak", "10s", "--scenario", "offline"), "means nothing with --scenario offline"),
        (("--soak", "10s", "--trials", "3"), "--trials means nothing with --soak"),
        (("--soak", "10s", "--target", "1%"), "--target means nothing with --soak"),
        (("--soak", "10s", "--percentile", "p99.9"), "--percentile means nothing with --soak"),
        (("--soak", "10s", "--rate", "5"), "--rate means nothing"),
    ],
)
def test_impossible_soaks_run_nothing(cli, tmp_path, words, says):
    """Told before anything is looked for: the model is not even there."""
    done = cli("run", "nowhere.onnx", "-b", "fake", *words, "--results", str(tmp_path / "out"))
    assert done.code == 2
    assert says in done.stderr
    assert not (tmp_path / "out").exists()
