"""The conformance kit over every backend, and the kit itself on backends that break one rule each."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from backends.fake import Fake
from backends.reference import Reference
from bench import conformance
from bench.errors import Crashed, Timeout, UsageError
from bench.interface import ValueSpec
from bench.registry import installed

ROOT = Path(__file__).resolve().parents[1]
THIRD_PARTY = ROOT / "tests" / "third_party"
EXAMPLE = THIRD_PARTY / "example_backend"
NAMES = [check.name for check in conformance.checks()]
RUNTIMES = {"ort-cpu": "onnxruntime", "ncnn": "ncnn", "mnn": "MNN"}
# A runtime's own faults, if any: (backend, check) -> reason. Strict: one that is repaired fails the suite.
KNOWN_FAILURES: dict[tuple[str, str], str] = {}
# What does not apply: the runtimes are there, no session brings a clock of its own, and two know few operators.
ALWAYS_SKIPPED = {"unavailable", "measure_samples", "measure_fits", "measure_outputs", "device_series"}
SKIPPED = {
    "Fake": {"values_conv"},
    "NumpyMlp": {"values_conv", "values_two_inputs", "values_flatten", "outputs_are_not_feeds"},
}

# Test modules are imported without their folder on the path; the third parties' are, as if installed.
sys.path[:0] = [str(path) for path in (THIRD_PARTY, EXAMPLE) if str(path) not in sys.path]
bad_backend = importlib.import_module("bad_backend")
numpy_mlp = importlib.import_module("numpy_mlp")


# --- every backend of ours


@pytest.fixture(scope="session")
def outcomes(request, tmp_path_factory):
    """A backend's outcomes by name: each is put through all checks once, a runtime in a process of its own."""
    made = {}

    def try_all(backend, work):
        if not isinstance(backend, str):
            return conformance.check_backend(backend, work)
        tools = {"pnnx": request.getfixturevalue("pnnx")} if backend == "ncnn" else {}
        return conformance.isolated_checks(installed()[backend].spec, workdir=work, tools=tools)

    def of(backend):
        if backend in RUNTIMES:
            pytest.importorskip(RUNTIMES[backend], reason=f"needs it: {installed()[backend].create().install}")
        if backend not in made:
            made[backend] = {each.name: each for each in try_all(backend, tmp_path_factory.mktemp("kit"))}
        return made[backend]

    return of


def cases():
    for backend in (*RUNTIMES, Fake, Reference, numpy_mlp.NumpyMlp):
        label = backend if isinstance(backend, str) else backend.__name__
        for name in NAMES:
            reason = KNOWN_FAILURES.get((label, name))
            marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
            yield pytest.param(backend, name, marks=marks, id=f"{label}-{name}")


@pytest.mark.parametrize(("backend", "name"), list(cases()))
def test_a_backend_keeps_the_contract(outcomes, backend, name):
    outcome = outcomes(backend)[name]
    skipped = name in ALWAYS_SKIPPED | SKIPPED.get(getattr(backend, "__name__", backend), set())
    assert outcome.status == ("skipped" if skipped else "passed"), outcome.message


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("measure")])
def test_a_session_with_its_own_clock_keeps_the_contract(tmp_path, name):
    subject = conformance.Subject(Fake, tmp_path, extra={"clock": "device"})
    assert conformance.run_check(subject, name).status == "passed"


def test_every_backend_is_registered_under_its_own_name():
    assert {name: registered.create().name for name, registered in installed().items()} == {n: n for n in installed()}


# --- the kit itself


# It starts a process, and looks at the module, which is the same for nearly all of them.
SLOW_CHECK = "import_is_light"


@pytest.mark.parametrize("bad", list(bad_backend.BREAKS), ids=lambda bad: bad.__name__)
def test_a_broken_rule_fails_its_check_and_no_other(tmp_path, bad):
    wanted = bad_backend.BREAKS[bad]
    subject = conformance.Subject(bad, tmp_path)
    tried = [conformance.run_check(subject, name) for name in NAMES if name != SLOW_CHECK or name in wanted]
    found = {outcome.name: outcome.message for outcome in tried if outcome.status == "failed"}
    assert set(found) == wanted, found
    assert all(len(message) > 20 for message in found.values()), found


def test_every_check_has_a_backend_that_fails_it():
    # conv: the fake, from which the bad ones are made, has no convolution; the arithmetic is values_mlp's.
    assert set(NAMES) - set.union(*bad_backend.BREAKS.values()) == {"values_conv"}


def test_check_backend_tries_every_check(tmp_path):
    assert [outcome.name for outcome in conformance.check_backend(Fake, tmp_path)] == NAMES


def test_checks_state_a_rule_each():
    rules = [check.rule for check in conformance.checks()]
    assert all(rule.endswith(".") and len(rule) > 20 for rule in rules)
    assert len(set(rules)) == len(rules)


@pytest.mark.parametrize(
    ("bad", "check", "message"),
    [
        ("Crashes", "values_mlp", "died by SIGSEGV"),
        ("CrashesAtClose", "close_twice", "died by SIGABRT"),
        ("Exits", "values_mlp", "code 3"),
        ("Hangs", "values_mlp", "did not end within 1 s"),
        ("HangsInProbe", "probe", "did not end within 1 s"),
    ],
)
def test_a_death_is_a_failed_check(tmp_path, bad, check, message):
    limit_s = 1 if bad.startswith("Hangs") else 60
    outcome = conformance.isolated(f"bad_backend:{bad}", check, workdir=tmp_path, limit_s=limit_s)
    assert (outcome.status, outcome.name) == ("failed", check)
    assert message in outcome.message


def test_after_a_death_the_other_checks_still_run(tmp_path):
    names = ["name", "values_mlp", "options", "close_twice"]
    found = list(conformance.isolated_checks("bad_backend:Crashes", names, workdir=tmp_path, limit_s=30))
    assert [(outcome.name, outcome.status) for outcome in found] == [
        ("name", "passed"),
        ("values_mlp", "failed"),
        ("options", "passed"),
        ("close_twice", "passed"),
    ]


def test_outcomes_come_while_later_checks_still_run(tmp_path):
    found = conformance.isolated_checks("bad_backend:Hangs", ["name", "values_mlp"], workdir=tmp_path, limit_s=10**6)
    assert next(found).name == "name"
    found.close()  # and the process, which hangs, is gone: nothing warns of it


def test_a_module_that_dies_at_import_fails_every_check_at_once(tmp_path, monkeypatch):
    (tmp_path / "dies_at_import.py").write_text("import os\nos._exit(7)\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = list(conformance.isolated_checks("dies_at_import:Nothing", ["name", "probe", "load"], workdir=tmp_path))
    assert [outcome.name for outcome in found] == ["name", "probe", "load"]
    assert all("before the first check" in outcome.message and "code 7" in outcome.message for outcome in found)


def test_what_a_runtime_prints_does_not_reach_the_outcomes(tmp_path):
    outcome = conformance.isolated("bad_backend:PrintsInProbe", "probe", workdir=tmp_path, limit_s=30)
    assert outcome.status == "passed", outcome.message


def test_unknown_check_and_class_are_usage_errors(tmp_path):
    subject = conformance.Subject(Fake, tmp_path)
    with pytest.raises(UsageError, match="did you mean values_mlp"):
        conformance.run_check(subject, "value_mlp")
    for spec in ("no_such_module:Thing", "backends.fake:Nothing", "backends.fake:FAULTS", "backends.fake"):
        with pytest.raises(UsageError):
            conformance.resolve(spec)


def test_a_tool_that_hangs_is_killed_with_its_children(tmp_path):
    tools = conformance.BoundedTools(lambda name: Path(name), limit_s=0.5)
    note = tmp_path / "child"
    with pytest.raises(Timeout):
        tools.run(["sh", "-c", f"sleep 60 & echo $! > {note}; wait"], cwd=tmp_path)
    child = int(note.read_text())
    until = time.monotonic() + 10
    while _alive(child) and time.monotonic() < until:
        time.sleep(0.01)
    assert not _alive(child)


def _alive(pid):
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_a_tool_tells_how_it_ended(tmp_path):
    tools = conformance.BoundedTools(lambda name: Path(name))
    finished = tools.run(["sh", "-c", "echo out; echo err >&2; exit 4"], cwd=tmp_path)
    assert (finished.code, sorted(finished.output.split())) == (4, ["err", "out"])
    with pytest.raises(Crashed) as caught:
        tools.run(["sh", "-c", "kill -SEGV $$"], cwd=tmp_path)
    assert caught.value.signal == "SIGSEGV"


@pytest.mark.parametrize(
    ("arguments", "code", "statuses"),
    [
        (["backends.fake:Fake", "values_mlp", "measure_fits"], 0, ["passed", "skipped"]),
        (["backends.fake:Fake", "measure_fits", "--option", '{"clock": "device"}'], 0, ["passed"]),
        (["bad_backend:BadName", "name", "options"], 1, ["failed", "passed"]),
        (["backends.fake:Nothing", "name"], 2, []),
    ],
)
def test_the_module_prints_one_object_per_check(tmp_path, arguments, code, statuses):
    argv = [sys.executable, "-m", "bench.conformance", *arguments, "--workdir", str(tmp_path)]
    environment = {"PYTHONPATH": f"{ROOT}:{THIRD_PARTY}"}
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    assert [json.loads(line)["status"] for line in done.stdout.splitlines()] == statuses
    assert "Traceback" not in done.stderr


# --- the example of backends/README.md


def test_example_answers_like_the_evaluator(tmp_path):
    # The kit has no MatMul, Add or Softmax in a dense net: what the README's example claims is tried here.
    rng = np.random.default_rng(5)
    weights = {"w": rng.standard_normal((6, 4)).astype(np.float32), "b": rng.standard_normal(4).astype(np.float32)}
    nodes = (
        ("MatMul", ("x", "w"), ("m",), {}),
        ("Add", ("m", "b"), ("s",), {}),
        ("Softmax", ("s",), ("y",), {"axis": 1}),
    )
    specs = ValueSpec("x", "float32", (3, 6)), ValueSpec("y", "float32", (3, 4))
    kit = conformance.KitModel("dense", specs[:1], specs[1:], nodes, lambda feeds: {}, weights)
    wanted = conformance.Subject(Reference, tmp_path).fresh(kit, 1)
    got = conformance.Subject(numpy_mlp.NumpyMlp, tmp_path).fresh(kit, 1)
    np.testing.assert_allclose(got["y"], wanted["y"], rtol=1e-5)
