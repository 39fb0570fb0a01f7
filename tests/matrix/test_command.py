"""`deploybench matrix` through its front door, on the fake backend: runs, kills, resumes, refuses."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from bench.matrix import journal
from bench.store import read_lines

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("matrix_kills", ROOT / "tests" / "benchmarks" / "matrix_kills.py")

LONG = "[measure]\ntrials = 2\nmin_time = 1\nmax_time = 1\nmax_foreign_cpu = 1\n"


def start(matrix, *flags):
    """The command, running, in a group of its own."""
    return subprocess.Popen(
        [*matrix.cli.command, "matrix", str(matrix.path), "--results", str(matrix.results), *flags],
        env=matrix.cli.environment,
        cwd=matrix.cli.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(found, seconds=200):
    """Until there is something, looked for again and again."""
    end = time.monotonic() + seconds
    while not (what := found()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return what


def test_a_matrix_runs_and_prints_its_table(matrix):
    m = matrix(latencies=(10, 2000), devices=("local", "fake:banner"))
    result = m()
    assert result.code == 0, result.stderr
    assert result.stdout.count("**Median latency in ms**") == 2
    (table,) = re.findall(r"how each was measured: (.*)", result.stderr)
    assert "Timing in ms" not in result.stdout
    assert Path(table).read_text().count("Timing in ms") == 2
    assert "fake (latency_us=2000.0)" in result.stdout or "fake (latency_us=2000)" in result.stdout
    assert "[2 of 2 on fake:banner" in result.stderr
    assert Counter((r.case.device, r.status) for r in m.records()) == {("local", "ok"): 2, ("fake:banner", "ok"): 2}
    (plan,) = [journal.read(path) for path in (m.results / "matrix").glob("*.json")]
    assert {c.cell for c in plan.cells} == {r.cell for r in m.records()}
    again = m("--resume", "--json", "--quiet")
    assert [json.loads(line)["cell"] for line in again.stdout.splitlines()] == [c.cell for c in plan.cells]
    assert again.stderr == ""
    assert len(m.records()) == 4


def test_a_broken_device_and_a_broken_backend_cost_the_others_nothing(matrix, mlp_path):
    more = (
        f"[[include]]\nmodel = {json.dumps(str(mlp_path))}\nbackend = 'fake'\nbatch = 1\n"
        "options = { fault = ['crash', 'unsupported'], fault_at = 'load' }\n[retry]\ntimes = 1\nwait = 0\n"
    )
    m = matrix(latencies=(10,), devices=("local", "fake:refuse"), more=more)
    result = m()
    assert result.code == 1
    assert "Traceback" not in result.stderr
    assert "the fake device refused the connection; trying again in 0 s" in result.stderr
    found = Counter((r.case.device, r.status) for r in m.records())
    assert found == {
        ("local", "ok"): 1,
        ("local", "crashed"): 1,
        ("local", "unsupported"): 1,
        ("fake:refuse", "failed"): 1,
    }


def test_a_dry_run_runs_nothing(matrix):
    m = matrix(latencies=(10, 20), devices=("local", "fake:banner"))
    result = m("--dry-run")
    assert result.code == 0
    assert len(result.stdout.splitlines()) == 5
    assert result.stdout.count("plan") == 4
    assert "4 cells on 2 devices" in result.stderr
    assert not m.results.exists()
    assert m("--shard", "1/2").code == 0
    lines = [json.loads(line) for line in m("--dry-run", "--json").stdout.splitlines()]
    assert Counter(line["recorded"] for line in lines) == {True: 2, False: 2}
    assert {line["line"] for line in lines} == {2}
    assert "by their last records" in m("--dry-run").stderr


def test_trials_are_spread_and_how_long_that_takes_is_foreseen(matrix):
    measure = "[measure]\ntrials = 2\nspread = '3s'\ntarget = 'none'\nmax_time = 0.05\nmax_foreign_cpu = 1\n"
    m = matrix(latencies=(10, 20), devices=("local", "fake:banner"), measure=measure)
    assert m().code == 0
    found = m.records()
    assert len(found) == 4
    assert {r.evidence.plan.spread_s for r in found} == {3.0}
    assert all(2 <= r.evidence.trials_over_s <= 30 for r in found)
    lines = [json.loads(line) for line in m("--dry-run", "--json").stdout.splitlines()]
    assert all(line["recorded"] and line["expected_s"] >= 1.5 for line in lines)


def test_ctrl_c_says_how_to_go_on_and_that_does(matrix):
    m = matrix(latencies=(10, 20, 30), measure=LONG.replace("trials = 2", "trials = 3"))
    running = start(m)
    wait_for(lambda: '"type":"trial"' in "".join(p.read_text() for p in (m.results / "records").rglob("*.jsonl")))
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=30)
    assert running.returncode == 130
    assert f"to go on: deploybench matrix {m.path} --resume --results {m.results}" in stderr
    assert "Traceback" not in stderr
    m.path.write_text(m.path.read_text().replace("min_time = 1\n", "min_time = 1.0\n"))  # the same in other words
    result = m("--resume")
    assert result.code == 0, result.stderr
    assert Counter(r.status for r in m.records()) == {"ok": 3}
    assert any("measured again: the run was interrupted" in r.notes for r in m.records())
    assert all(r.evidence.trials == 3 for r in m.records())


def test_a_kill_loses_nothing_that_had_ended(matrix):
    m = matrix(latencies=range(10, 22))
    running = start(m)

    def ended():
        lines = [line for p in (m.results / "records").rglob("*.jsonl") for line in read_lines(p)]
        return [line.id for line in lines if type(line).__name__ == "EndLine"][2:]

    wait_for(ended)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    before = set(ended())
    (file,) = (m.results / "records").rglob("*.jsonl")
    with file.open("ab") as torn:
        torn.write(b'{"type":"trial","sch')  # what a power loss leaves
    result = m("--resume")
    assert result.code == 0, result.stderr
    assert "had been cut" in result.stderr
    assert "are done" in result.stderr
    assert len(list(file.parent.glob("*.cut"))) == 1
    records = m.records()
    assert Counter(r.cell for r in records).most_common(1)[0][1] == 1
    assert len(records) == 12
    assert all(r.evidence.complete for r in records)
    assert before <= {r.id for r in records}


def test_two_runs_on_one_results_folder(matrix):
    m = matrix(latencies=(10, 20), measure=LONG)
    running = start(m)
    wait_for(lambda: list((m.results / "matrix").glob("*.json")))
    second = m()
    assert second.code == 2
    assert f"another matrix run works on {m.results}: m.toml, process {running.pid}" in second.stderr
    assert "wait until it ends" in second.stderr
    _, stderr = running.communicate(timeout=200)
    assert running.returncode == 0, stderr
    assert Counter(r.status for r in m.records()) == {"ok": 2}


def test_what_is_spent_is_skipped_and_resumed(matrix):
    m = matrix(latencies=(10, 20), more="[budget]\ntotal = 0.000001\n")
    result = m()
    assert result.code == 3
    assert [r.status for r in m.records()] == ["skipped"] * 2
    m.path.write_text(m.path.read_text().replace("0.000001", "1000"))
    result = m("--resume")
    assert result.code == 0, result.stderr
    assert [r.status for r in m.records()] == ["ok"] * 2


def test_another_matrix_is_not_resumed(matrix):
    m = matrix(latencies=(10, 20), more="[budget]\ntotal = 0.000001\n")
    m()
    m.path.write_text(m.path.read_text().replace("10.0, 20.0", "10.0, 30.0, 40.0"))
    result = m("--resume")
    assert result.code == 2
    assert "has 2 of 2 cells left, but m.toml is not the matrix of that run any more: 2 cells are new" in result.stderr
    assert "and 1 cell is gone" in result.stderr
    m.path.write_text(m.path.read_text().replace("10.0, 30.0, 40.0", "10.0, 20.0").replace("trials = 1", "trials = 2"))
    assert "[measure] says otherwise" in m("--resume").stderr
    assert "this is a new run" in m().stderr


def test_nothing_to_resume_begins(matrix):
    result = matrix(latencies=(10,))("--resume")
    assert result.code == 0
    assert "there is no run of this matrix to take up: a new one begins" in result.stderr


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("mlp.onnx", "none.onnx", "line 2: there is no file"),
        ("'fake'", "'fkae'", "line 3: there is no backend 'fkae'; did you mean fake?"),
        ('"local"', '"fake:slow"', "line 5: the fake device knows no fault 'slow'"),
        ("10.0", '"soon"', "line 6: option latency_us of fake takes a number (float), not 'soon'"),
        ("latency_us", "latency", "line 6: none of fake has an option 'latency'; did you mean latency_us?"),
        ("batch = 1", "batch = 1\nscenario = 'server'", "line 5: --scenario server takes --rate or --latency-bound"),
        ("batch = 1", "batch = 1\ncpus = '4096'", "line 5: this machine has no CPU 4096"),
        ("batch = 1", "batch = 1\nshapes = { z = [1] }", "line 2: "),
        ("trials = 1", "trials = 5\nmax_trials = 2", "line 8: [measure] --max-trials 2 is less than --trials 5"),
        ("trials = 1", "trials = 1\ntolerance = 'lax'", "line 9: [measure] --tolerance 'lax' cannot be read"),
        ("trials = 1", "trials = 1\ntarget = '200%'", "line 9: [measure] --target '200%' is not between"),
        ("trials = 1", "trials = 1\nspread = '10m'", "line 8: [measure] --spread means nothing with --trials 1"),
        ("trials = 1", "trials = 2\nspread = '10'", "line 9: [measure] --spread 10 is no time"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_runs(matrix, old, new, says):
    m = matrix(latencies=(10,))
    text = m.path.read_text()
    assert old in text
    m.path.write_text(text.replace(old, new, 1))
    result = m()
    assert result.code == 2, result.stderr
    assert f"m.toml, {says}" in result.stderr
    assert not m.results.exists()


def test_the_same_model_by_two_names_is_a_duplicate(matrix, mlp_path):
    m = matrix(latencies=(10,))
    there = json.dumps(str(mlp_path))
    other = json.dumps(str(mlp_path.parent / ".." / mlp_path.parent.name / mlp_path.name))
    m.path.write_text(m.path.read_text().replace(f"model = {there}", f"model = [\n{there},\n{other}]"))
    result = m()
    assert result.code == 2
    assert "m.toml, line 4: duplicated cell" in result.stderr
    assert "of line 3; the same model, backend, device and options" in result.stderr


def test_without_a_file(cli, tmp_path):
    assert "no matrix file was given" in cli("matrix").stderr
    assert "cannot be read" in cli("matrix", tmp_path / "none.toml").stderr
    assert cli("matrix", tmp_path / "none.toml", "--shard", "3/2").code == 2


def test_the_example_is_a_good_file(cli, tmp_path, read, expand):
    from bench.matrix import cells

    text = cli("matrix", "--example").stdout
    known = {"ort-cpu": frozenset({"optimization", "spinning"}), "ncnn": frozenset(), "mnn": frozenset()}
    found = cells.cells(read(text), known.__getitem__)
    assert len(found) == 2 * (4 + 1 + 1) + 2


def test_shards_are_joined(matrix, tmp_path):
    m = matrix(latencies=(10, 20, 30), devices=("local", "fake:banner"))
    for part in (1, 2):
        result = m.cli("matrix", m.path, "--shard", f"{part}/2", "--results", tmp_path / f"s{part}", "--quiet")
        assert result.code == 0, result.stderr
    one = m.cli("merge", tmp_path / "s1", "--results", tmp_path / "one")
    assert one.code == 1
    assert one.stderr.count("shard 2 was not given") == 3
    assert "3 of 6 cells are missing" in one.stderr
    for _ in range(2):  # again is no harm
        both = m.cli("merge", tmp_path / "s2", tmp_path / "s1", "--results", m.results, "--json")
        assert both.code == 0, both.stderr
        assert len({json.loads(line)["cell"] for line in both.stdout.splitlines()}) == 6
        assert len(m.records()) == 6
    twice = m.cli("merge", tmp_path / "s1", tmp_path / "s1", "--results", tmp_path / "one")
    assert twice.code == 1  # the same folder counts once


def test_what_cannot_be_joined(matrix, tmp_path):
    m = matrix(latencies=(10, 20))
    for name in ("a", "b"):
        assert m.cli("matrix", m.path, "--shard", "1/2", "--results", tmp_path / name).code == 0
    twice = m.cli("merge", tmp_path / "a", tmp_path / "b", "--results", m.results)
    assert twice.code == 2
    assert "shard 1 is there twice" in twice.stderr
    m.path.write_text(m.path.read_text().replace("20.0", "40.0"))
    assert m.cli("matrix", m.path, "--shard", "2/2", "--results", tmp_path / "c").code == 0
    other = m.cli("merge", tmp_path / "a", tmp_path / "c", "--results", m.results)
    assert other.code == 2
    assert "are not of the same matrix; in the former 1 cell is new" in other.stderr
    (tmp_path / "empty").mkdir()
    assert "there is no matrix run in" in m.cli("merge", tmp_path / "empty").stderr
    assert not m.results.exists()


def test_killed_again_and_again_every_cell_is_recorded_once(tmp_path, monkeypatch):
    """`tests/benchmarks/matrix_kills.py` at a twentieth of its size."""
    kills = importlib.util.module_from_spec(SPEC)
    monkeypatch.setitem(sys.modules, SPEC.name, kills)
    SPEC.loader.exec_module(kills)
    file = kills.matrix_file(tmp_path, kills.model_file(tmp_path), 50, 5)
    calm = kills.undisturbed(file, tmp_path)
    assert calm.once
    found = kills.disturbed(file, tmp_path, kills=3, seed=7)
    assert found.once
    assert found.lost == 0
    assert 1 <= found.kills <= 3
