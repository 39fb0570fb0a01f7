"""`deploybench run` through its front door, on the fake backend: what is printed, what is written, how it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

from bench.report.words import MARKS

FAST = ("--trials", "1", "--min-time", "0.05", "--max-time", "0.3", "--min-count", "8", "--max-foreign-cpu", "1")


def fake(cli, results, model, *options, trials=FAST, **more):
    flags = [text for option in options for text in ("-o", option)]
    return cli(
        "run", str(model), "--batch", "1", "-b", "fake", *trials, "--results", str(results), "--json", *flags, **more
    )


def records(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_right_answer_is_published(cli, mlp_path, tmp_path):
    result = fake(cli, tmp_path, mlp_path)
    (record,) = records(result)
    assert result.code == 0
    assert record["status"] == "ok"
    assert record["parity"]["passed"]
    assert record["latency"]["n"] == len(record["latency"]["samples_ns"]) >= 8


def test_the_latency_is_the_one_that_was_set(cli, mlp_path, tmp_path):
    (record,) = records(fake(cli, tmp_path, mlp_path, "latency_us=2000"))
    assert min(record["latency"]["samples_ns"]) >= 2_000_000


@pytest.mark.parametrize(
    ("fault", "status", "phase", "signal_name"),
    [
        ("crash", "crashed", "load", "SIGSEGV"),
        ("fpe", "crashed", "load", "SIGFPE"),
        ("ill", "crashed", "load", "SIGILL"),
        ("abort", "crashed", "load", "SIGABRT"),
        ("oom-kill", "crashed", "load", "SIGKILL"),
        ("exit", "crashed", "load", None),
        ("raise", "failed", "load", None),
        ("unexpected", "failed", "load", None),
        ("unsupported", "unsupported", "load", None),
    ],
)
def test_a_death_is_a_record(cli, mlp_path, tmp_path, fault, status, phase, signal_name):
    result = fake(cli, tmp_path, mlp_path, f"fault={fault}", f"fault_at={phase}")
    (record,) = records(result)
    assert record["status"] == status
    assert record["error"]["phase"] == phase
    assert record["error"]["signal"] == signal_name
    assert record["latency"] is None
    assert result.code == (0 if status == "unsupported" else 1)
    assert "Traceback" not in result.stderr


def test_strict_counts_everything_that_is_not_ok(cli, mlp_path, tmp_path):
    result = cli(
        "run", str(mlp_path), "--batch", "1", "-b", "fake", *FAST, "--results", str(tmp_path), "--strict",
        "-o", "fault=unsupported", "-o", "fault_at=load",
    )  # fmt: skip
    assert result.code == 1
    assert "unsupported" in result.stdout


@pytest.mark.parametrize(
    "fault", ["nan", "wrong_shape", "wrong_dtype", "missing_output", "stale", "input_blind", "zeros", "drift"]
)
def test_a_wrong_answer_has_no_number(cli, mlp_path, tmp_path, fault):
    result = fake(cli, tmp_path, mlp_path, f"fault={fault}", "fault_after=3")
    (record,) = records(result)
    assert result.code == 1
    assert record["status"] == "wrong"
    assert record["why"]
    table = cli("report", str(tmp_path)).stdout
    assert "[wrong](#cell-" in table
    assert "Timing in ms" not in table


def test_an_answer_that_drifts_is_caught_after_the_loop(cli, mlp_path, tmp_path):
    (record,) = records(fake(cli, tmp_path, mlp_path, "fault=drift", "fault_after=3"))
    assert record["parity"]["at"] == "verify"


def test_a_wrong_answer_says_how_far_off_and_what_it_would_take(cli, mlp_path, tmp_path):
    fake(cli, tmp_path, mlp_path, "error=0.005")
    table = cli("report", str(tmp_path)).stdout
    assert "off by 0.005 of its scale" in table
    assert "--tolerance fp16" in table


def test_less_can_be_accepted_and_is_marked(cli, mlp_path, tmp_path):
    result = cli(
        "run",
        str(mlp_path),
        "--batch",
        "1",
        "-b",
        "fake",
        *FAST,
        "-o",
        "error=0.005",
        "--tolerance",
        "fp16",
        "--results",
        str(tmp_path),
    )
    assert result.code == 0
    assert "a wider tolerance than its precision's own was accepted" in result.stdout


PRECISION = ("--trials", "6", "--min-time", "0.01", "--max-time", "0.02", "--min-count", "8", "--max-foreign-cpu", "1")


def test_more_trials_where_the_interval_is_too_wide(cli, mlp_path, tmp_path):
    trials = (*PRECISION, "--max-trials", "8", "--target", "0.00001%")
    (record,) = records(fake(cli, tmp_path, mlp_path, "latency_us=500", "jitter=0.5", trials=trials))
    assert record["evidence"]["trials"] == 8
    assert record["evidence"]["trials_wanted"] == 6
    assert record["evidence"]["target"] == pytest.approx(1e-7)
    assert "wider than the target" in record["evidence"]["stopped_by"]
    assert record["latency"]["p50_ci_relative"] > 1e-7
    medians = record["latency"]["trial_p50_ns"]
    assert record["latency"]["p50_ci_ns"] == [min(medians), max(medians)], "eight, after a look at six"
    assert f"{record['latency']['p50_ns'] / 1e6:.3f} ±" in cli("report", str(tmp_path)).stdout


@pytest.mark.parametrize(("target", "why"), [("50%", "precise enough"), ("none", "enough trials")])
def test_no_more_trials_where_it_is_not(cli, mlp_path, tmp_path, target, why):
    trials = (*PRECISION, "--target", target)
    (record,) = records(fake(cli, tmp_path, mlp_path, "latency_us=500", trials=trials))
    assert record["evidence"]["trials"] == 6
    assert record["evidence"]["stopped_by"] == why


def test_fewer_than_six_trials_have_no_interval_over_processes(cli, mlp_path, tmp_path):
    (record,) = records(fake(cli, tmp_path, mlp_path, trials=(*FAST, "--trials", "5", "--target", "0.1%")))
    latency = record["latency"]
    assert record["evidence"]["trials"] == 5
    assert latency["p50_ci_ns"] is latency["p50_ci_relative"] is None
    assert "5 trials" in latency["p50_ci_reason"]
    # What one process says of itself stands apart, where its samples (drifting, on a busy machine) are worth enough.
    within = latency["within_process_ci_ns"]
    assert within is None or within[0] <= latency["p50_ns"] <= within[1]
    assert "±" not in cli("report", str(tmp_path)).stdout.splitlines()[4]


def test_how_warming_up_ended_is_recorded(cli, mlp_path, tmp_path):
    fake(cli, tmp_path, mlp_path)
    (journal,) = (tmp_path / "records").rglob("*.jsonl")
    (trial,) = (t for t in map(json.loads, journal.read_text().splitlines()) if t["type"] == "trial")
    assert trial["warmup_ended_by"] in ("steady", "limit")
    assert trial["warmup_count"] >= 6


def test_impossible_samples_are_implausible(cli, mlp_path, tmp_path):
    result = fake(cli, tmp_path, mlp_path, "clock=device", "fault=implausible")
    assert result.code == 1
    assert records(result)[0]["status"] == "implausible"


def test_an_artefact_that_is_another_each_time_is_marked(cli, mlp_path, tmp_path):
    """Its answers are right, and so is its latency: of this artefact, which `export` gives."""
    result = fake(cli, tmp_path, mlp_path, "fault=restless")
    (record,) = records(result)
    assert record["status"] == "ok", result.stderr
    (note,) = record["notes"]
    assert re.fullmatch(r"not reproducible: made again, \d+ of \d+ bytes of program.json are others", note)
    table = cli("report", "--results", str(tmp_path)).stdout
    assert MARKS["ˡ"] in table
    made = cli(
        "export", str(mlp_path), "--batch", "1", "-b", "fake", "-o", "fault=restless", "--output", "made", "--json"
    )
    assert note in made.stderr
    assert json.loads(made.stdout)["doubt"] == note
    wrong = fake(cli, tmp_path, mlp_path, "fault=restless", "error=0.1")
    assert f"; {note}" in cli("report", "--results", str(tmp_path)).stdout, wrong.stderr


def test_a_silent_fallback_to_another_device_fails(cli, mlp_path, tmp_path):
    result = fake(cli, tmp_path, mlp_path, "fault=fallback")
    (record,) = records(result)
    assert result.code == 1
    assert record["status"] == "failed"
    assert record["error"]["kind"] == "mismatch"
    assert "was asked for" in record["why"]


def test_a_hang_ends_at_its_limit(cli, mlp_path, tmp_path):
    options = ("fault=hang", "fault_at=run")
    result = fake(cli, tmp_path, mlp_path, *options, trials=(*FAST, "--limit", "first_run=1"))
    (record,) = records(result)
    assert record["status"] == "timeout"
    assert record["error"]["phase"] == "first_run"


def test_unknown_noise_is_not_published(cli, mlp_path, tmp_path):
    # The longest time bounds the warm-up as well, which on a busy machine would go on until there is enough to tell.
    trials = ("--trials", "1", "--min-time", "0.05", "--max-time", "0.05", "--min-count", "8")
    for _ in range(10):  # it is measured for longer where a neighbour of this machine makes what was timed void
        (record,) = records(fake(cli, tmp_path, mlp_path, trials=trials))
        if record["evidence"]["waited_s"] == 0:
            break
    else:
        pytest.skip("a neighbour of this machine made what was timed void, ten times in a row")
    assert record["status"] == "noisy"
    assert "too short to tell" in record["why"]


def test_trials_show_that_a_neighbour_was_there_when_the_peaks_were_measured(cli, mlp_path, tmp_path):
    def run(number):
        fake(cli, tmp_path / str(number), mlp_path, env={"DEPLOYBENCH_CACHE": str(tmp_path / "cache")})
        (journal,) = (tmp_path / str(number) / "records").rglob("*.jsonl")
        peaks = json.loads(journal.read_text().splitlines()[0])["peaks"]
        if peaks["reason"]:
            pytest.skip(f"{peaks['reason']}, so it is not kept")
        return peaks

    first = run(1)
    if not first["virtual"]:
        pytest.skip("not a virtual machine: its kernel sees all neighbours")
    for manifest in (tmp_path / "cache" / "peaks").rglob("*.json"):
        entry = json.loads(manifest.read_text())
        entry["facts"]["core_ns"] = 10 * first["core_ns"]  # what the trials taught, too
        manifest.write_text(json.dumps(entry))
    slow = run(2)["core_ns"]  # what is kept is believed until trials know better
    measured_anew = run(3)
    assert measured_anew["core_ns"] < slow / 2
    assert run(4) == measured_anew


def test_one_broken_case_does_not_cost_the_others(cli, mlp_path, tmp_path):
    result = cli(
        "run", str(mlp_path), "--batch", "1", "-b", "fake", "-b", "reference", "-o", "fake:fault=crash", *FAST,
        "--results", str(tmp_path), "--json",
    )  # fmt: skip
    assert [r["status"] for r in records(result)] == ["crashed", "ok"]


def test_no_time_is_said_to_be_left_when_the_budget_is_spent(cli, mlp_path, tmp_path):
    trials = ("--trials", "100", *FAST[2:], "--budget", "2", "-b", "reference")
    result = fake(cli, tmp_path, mlp_path, trials=trials)
    assert {r["status"] for r in records(result)} == {"ok"}
    ended = [line for line in result.stderr.splitlines() if "of scale" in line]
    assert len(ended) == 2
    assert not any("left" in line for line in ended)


def test_a_spent_budget_is_skipped_and_nothing_ran(cli, mlp_path, tmp_path):
    result = fake(cli, tmp_path, mlp_path, trials=(*FAST, "--budget", "0.000001"))
    assert records(result)[0]["status"] == "skipped"
    assert result.code == 3


def test_the_table_is_written_beside_the_records(cli, mlp_path, tmp_path):
    fake(cli, tmp_path, mlp_path)
    (table,) = (tmp_path / "tables").rglob("*.md")
    (journal,) = (tmp_path / "records").rglob("*.jsonl")
    assert "latency in ms" in table.read_text()
    assert [json.loads(line)["type"] for line in journal.read_text().splitlines()] == ["case", "trial", "end"]


def test_the_records_hold_no_path(cli, mlp_path, tmp_path):
    fake(cli, tmp_path, mlp_path, "fault=unexpected", "fault_at=load")
    (journal,) = (tmp_path / "records").rglob("*.jsonl")
    text = journal.read_text()
    assert str(tmp_path) not in text
    assert str(mlp_path.parent) not in text
    assert str(Path.home()) + "/" not in text


def test_rerun_measures_the_same_cell(cli, mlp_path, tmp_path):
    (record,) = records(fake(cli, tmp_path, mlp_path, "latency_us=500"))
    result = cli("rerun", record["id"][:8], str(mlp_path), *FAST, "--results", str(tmp_path), "--json")
    (again,) = records(result)
    assert result.code == 0, result.stderr
    assert again["cell"] == record["cell"]
    assert again["id"] != record["id"]


def test_rerun_measures_as_thoroughly_as_then_but_for_what_is_said(cli, mlp_path, tmp_path):
    asked = ("--trials", "2", "--target", "none", "--min-time", "0.03", "--max-time", "0.2", "--min-count", "9")
    asked = (*asked, "--spread", "0.5s")
    asked = (*asked, "--max-trials", "2", "--max-foreign-cpu", "1", "--tolerance", "0.01,0.02")
    (record,) = records(fake(cli, tmp_path, mlp_path, trials=asked))
    assert record["evidence"]["plan"] == {"min_count": 9, "min_s": 0.03, "max_s": 0.2, "spread_s": 0.5}
    (again,) = records(cli("rerun", record["id"], str(mlp_path), "--results", str(tmp_path), "--json"))
    for name in ("plan", "trials_wanted", "trials_max", "target", "max_foreign_cpu"):
        assert again["evidence"][name] == record["evidence"][name]
    assert again["parity"]["tolerance"] == record["parity"]["tolerance"]
    more = ("--trials", "3", "--min-count", "5", "--results", str(tmp_path), "--json")
    (other,) = records(cli("rerun", record["id"], str(mlp_path), *more))
    assert other["evidence"]["plan"] == {"min_count": 5, "min_s": 0.03, "max_s": 0.2, "spread_s": 0.5}
    assert other["evidence"]["trials_wanted"] == 3


def test_rerun_needs_the_path_of_a_model_outside_the_catalogue(cli, mlp_path, tmp_path):
    (record,) = records(fake(cli, tmp_path, mlp_path))
    result = cli("rerun", record["id"], *FAST, "--results", str(tmp_path))
    assert result.code == 2
    assert "give the model's path" in result.stderr


def test_a_catalogue_model_is_rerun_by_its_name(cli, tmp_path):
    first = cli("run", "tiny_dynamic", "--batch", "1", "-b", "fake", *FAST, "--results", str(tmp_path), "--json")
    result = cli("rerun", records(first)[0]["id"], *FAST, "--results", str(tmp_path), "--json")
    assert result.code == 0, result.stderr


def test_export_gives_the_artefact_that_was_measured(cli, mlp_path, tmp_path):
    (record,) = records(fake(cli, tmp_path / "results", mlp_path))
    out = tmp_path / "out"
    result = cli("export", str(mlp_path), "--batch", "1", "-b", "fake", "--output", str(out), "--json")
    assert result.code == 0, result.stderr
    facts = json.loads((out / "artefact.json").read_text())
    assert facts["artefact_sha256"] == record["prepare"]["artefact_sha256"]
    assert all((out / name).is_file() for name in facts["files"])


@pytest.mark.parametrize("device", ["fake:", "fake:banner"])
def test_a_link_that_prints_a_banner_is_no_trouble(cli, mlp_path, tmp_path, device):
    result = fake(cli, tmp_path, mlp_path, trials=(*FAST, "--device", device))
    assert result.code == 0, result.stderr


@pytest.mark.parametrize("device", ["fake:refuse", "fake:garbage", "fake:cut=3000"])
def test_a_lost_link_is_a_record(cli, mlp_path, tmp_path, device):
    cli("run", str(mlp_path), "--batch", "1", "-b", "fake", *FAST, "--results", str(tmp_path / "local"))
    result = fake(cli, tmp_path, mlp_path, trials=(*FAST, "--device", device, "--limit", "connect=2"))
    assert result.code == 1
    assert records(result)[0]["status"] == "failed"
    assert "Traceback" not in result.stderr


def processes_of(marker):
    """The processes whose command line or environment holds a text that only this test uses."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return set(found) - {os.getpid()}


def children_of(pid):
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition, limit_s=30):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


@pytest.mark.parametrize("victim", ["command", "supervisor", "child"])
def test_kill_9_leaves_the_finished_trials_and_no_process(cli, mlp_path, tmp_path, victim):
    marker = f"KILL_TEST_{tmp_path.name}"
    argv = [
        "run",
        str(mlp_path),
        "--batch",
        "1",
        "-b",
        "fake",
        "--trials",
        "9",
        "--min-time",
        "0.3",
        "--max-time",
        "0.3",
        "--results",
        str(tmp_path / "results"),
    ]
    process = subprocess.Popen(
        [*cli.command, *argv, "--max-foreign-cpu", "1", "--cache", str(tmp_path / "cache")],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**cli.environment, marker: "1"},
    )  # fmt: skip

    def trials():
        return sum(f.read_text().count('"type":"trial"') for f in (tmp_path / "results").rglob("*.jsonl"))

    wait_for(lambda: trials() >= 2)
    target = process.pid
    for _ in range({"command": 0, "supervisor": 1, "child": 2}[victim]):
        wait_for(lambda: children_of(target))  # noqa: B023
        target = children_of(target)[0]
    os.kill(target, signal.SIGKILL)
    process.communicate(timeout=60)
    wait_for(lambda: not processes_of(marker))
    report = cli("report", str(tmp_path / "results"), "--json")
    (record,) = records(report)
    assert report.code == 0
    if victim == "command":
        assert record["status"] == "ok"
        assert record["evidence"]["complete"] is False
        assert "cut short" in cli("report", str(tmp_path / "results")).stdout
    else:
        assert record["status"] in ("crashed", "failed")
    assert fake(cli, tmp_path / "next", mlp_path).code == 0


def test_ctrl_c_is_one_line_and_leaves_no_process(cli, mlp_path, tmp_path):
    marker = f"INT_TEST_{tmp_path.name}"
    process = subprocess.Popen(
        [*cli.command, "run", str(mlp_path), "--batch", "1", "-b", "fake", "--trials", "9",
         "--results", str(tmp_path / "results")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**cli.environment, marker: "1"},
    )  # fmt: skip
    wait_for(lambda: any('"type":"trial"' in f.read_text() for f in (tmp_path / "results").rglob("*.jsonl")))
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in error
    assert "Traceback" not in error
    wait_for(lambda: not processes_of(marker))


def test_paths_may_be_relative(cli, mlp_path, tmp_path):
    """Workers run in folders of their own: every path must be one from there too."""
    shutil.copy(mlp_path, tmp_path / "net.onnx")
    argv = ("run", "net.onnx", "--shape", "x=1,16", "-b", "fake", "-b", "reference", *FAST)
    result = cli(*argv, "--results", "out", "--cache", "kept", cwd=tmp_path)
    assert result.code == 0, result.stderr
    static = onnx.load(tmp_path / "net.onnx")
    for value in (*static.graph.input, *static.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(static, tmp_path / "static.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    result = cli("run", "static.onnx", "-b", "fake", "-b", "ort-cpu", *FAST, "--results", "out", cwd=tmp_path)
    assert result.code == 0, result.stdout + result.stderr


def test_what_lies_in_the_current_folder_changes_nothing(cli, mlp_path, tmp_path):
    for name in ("bench", "backends", "models"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('shadowed')")
    for name in ("numpy.py", "onnx.py", "click.py", "tiny_dynamic.py"):
        (tmp_path / name).write_text("raise SystemExit('shadowed')")
    (tmp_path / "tiny_dynamic").mkdir()
    result = cli(
        "run", "tiny_dynamic", "--batch", "1", "-b", "fake", "-b", "reference", *FAST, "--results", "out", cwd=tmp_path
    )
    assert result.code == 0, result.stderr


def test_help_names_every_verb_and_imports_no_more_than_click():
    program = (
        "import sys; sys.argv = ['deploybench', '--help']\n"
        "from bench.cli import main\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        "print([m for m in ('numpy', 'onnx', 'rich', 'msgspec', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    for verb in ("run", "rerun", "export", "models", "backends", "report", "cache", "conformance", "completion"):
        assert f"\n  {verb} " in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
