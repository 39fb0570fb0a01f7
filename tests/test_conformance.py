"""The conformance kit over every backend, and the kit itself on backends that break one rule each."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from backends.fake import Fake
from backends.fake.faults import FAULTS
from backends.reference import Reference
from bench import conformance
from bench.errors import UsageError
from bench.interface import ValueSpec

ROOT = Path(__file__).resolve().parents[1]
THIRD_PARTY = ROOT / "tests" / "third_party"
EXAMPLE = THIRD_PARTY / "example_backend" / "numpy_mlp.py"
NAMES = [check.name for check in conformance.checks()]
# A runtime's own faults, if any: (spec, check) -> reason. Strict: one that is repaired fails the suite.
KNOWN_FAILURES: dict[tuple[str, str], str] = {}

# Test modules are imported without their folder on the path; the third parties' are, as if installed.
sys.path[:0] = [str(path) for path in (THIRD_PARTY, EXAMPLE.parent) if str(path) not in sys.path]
bad_backend = importlib.import_module("bad_backend")
numpy_mlp = importlib.import_module("numpy_mlp")


def failures(outcomes):
    return {outcome.name: outcome.message for outcome in outcomes if outcome.status == "failed"}


# --- every backend of ours


@pytest.fixture(scope="module")
def tools():
    """The tools that the host has: pnnx where DEPLOYBENCH_PNNX says, or where its wheel is installed."""
    found = importlib.util.find_spec("pnnx")
    installed = Path(found.origin).parent / "pnnx" if found and found.origin else None
    binary = Path(os.environ["DEPLOYBENCH_PNNX"]) if "DEPLOYBENCH_PNNX" in os.environ else installed
    return {"pnnx": binary} if binary and binary.is_file() else {}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, tools):
    """The outcomes of a backend's checks by name, each backend put through them once."""
    made = {}

    def of(spec):
        if spec not in made:
            work = tmp_path_factory.mktemp("kit")
            found = conformance.isolated_checks(spec, NAMES, workdir=work, tools=tools, limit_s=60)
            made[spec] = {outcome.name: outcome for outcome in found}
        return made[spec]

    return of


def cases():
    for spec in ("backends.ort:OrtCpu", "backends.ncnn:Ncnn", "backends.mnn:Mnn"):
        for name in NAMES:
            reason = KNOWN_FAILURES.get((spec, name))
            marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
            yield pytest.param(spec, name, marks=marks, id=f"{spec.partition(':')[2]}-{name}")


@pytest.mark.parametrize(("spec", "name"), list(cases()))
def test_runtime_keeps_the_contract(outcomes, spec, name):
    try:
        conformance.resolve(spec)
    except UsageError as error:
        pytest.skip(str(error))
    outcome = outcomes(spec)[name]
    if outcome.status == "skipped":
        pytest.skip(outcome.message.replace("--tool pnnx=PATH", "set DEPLOYBENCH_PNNX to its binary"))
    assert outcome.status == "passed", outcome.message


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", [Fake, Reference, numpy_mlp.NumpyMlp])
def test_backend_without_runtime_keeps_the_contract(tmp_path, backend, name):
    outcome = conformance.run_check(conformance.Subject(backend, tmp_path), name)
    assert outcome.status != "failed", outcome.message


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("measure")])
def test_a_session_with_its_own_clock_keeps_the_contract(tmp_path, name):
    subject = conformance.Subject(Fake, tmp_path, extra={"clock": "device"})
    assert conformance.run_check(subject, name).status == "passed"


# --- the kit itself


@pytest.mark.parametrize("bad", list(bad_backend.BREAKS), ids=lambda bad: bad.__name__)
def test_a_broken_rule_fails_its_check_and_no_other(tmp_path, bad):
    found = failures(conformance.check_backend(bad, tmp_path))
    assert set(found) == bad_backend.BREAKS[bad], found
    assert all(len(message) > 20 for message in found.values()), found


def test_every_check_has_a_backend_that_fails_it():
    # conv: the fake, from which the bad ones are made, has no convolution; the arithmetic is values_mlp's.
    assert set(NAMES) - set.union(*bad_backend.BREAKS.values()) == {"values_conv"}


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
        ("Hangs", "values_mlp", "did not end within 3 s"),
        ("HangsInProbe", "probe", "did not end within 3 s"),
    ],
)
def test_a_death_is_a_failed_check(tmp_path, bad, check, message):
    outcome = conformance.isolated(f"bad_backend:{bad}", check, workdir=tmp_path, limit_s=3)
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


def test_what_a_runtime_prints_does_not_reach_the_outcomes(tmp_path):
    outcome = conformance.isolated("bad_backend:PrintsInProbe", "probe", workdir=tmp_path, limit_s=30)
    assert outcome.status == "passed", outcome.message


def test_command_line_prints_one_object(tmp_path):
    argv = [sys.executable, "-m", "bench.conformance", "backends.fake:Fake", "values_mlp", "--workdir", str(tmp_path)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "passed"


def test_unknown_check_and_class_are_usage_errors(tmp_path):
    subject = conformance.Subject(Fake, tmp_path)
    with pytest.raises(UsageError, match="values_mlp"):
        conformance.run_check(subject, "no_such_check")
    for spec in ("no_such_module:Thing", "backends.fake:Nothing", "backends.fake:FAULTS", "backends.fake"):
        with pytest.raises(UsageError):
            conformance.resolve(spec)


def test_a_tool_that_hangs_is_killed_with_its_children(tmp_path):
    tools = conformance.BoundedTools(lambda name: Path(name), limit_s=1)
    note = tmp_path / "child"
    with pytest.raises(conformance.Timeout):
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
    with pytest.raises(conformance.Crashed) as caught:
        tools.run(["sh", "-c", "kill -SEGV $$"], cwd=tmp_path)
    assert caught.value.signal == "SIGSEGV"


# --- the README


def test_readme_s_command_runs(tmp_path):
    text = (ROOT / "backends" / "README.md").read_text()
    (command,) = re.findall(r"^python (-m bench\.conformance .*)$", text, re.MULTILINE)
    path = os.pathsep.join([str(ROOT), str(EXAMPLE.parent)])
    argv = [sys.executable, *shlex.split(command)]
    done = subprocess.run(argv, cwd=tmp_path, env={"PYTHONPATH": path}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["status"] for line in done.stdout.splitlines()] == ["passed", "passed"]


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


def test_readme_shows_the_example_as_it_is():
    text = (ROOT / "backends" / "README.md").read_text()
    blocks = re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)
    assert ("python", EXAMPLE.read_text()) in blocks
    assert ("toml", (EXAMPLE.parent / "pyproject.toml").read_text()) in blocks


def test_readme_lists_every_rule_and_every_fault():
    text = (ROOT / "backends" / "README.md").read_text()
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", text, re.MULTILINE))
    wanted = {check.name: " ".join(check.rule.split()) for check in conformance.checks()} | dict(FAULTS)
    assert {name: rows.get(name) for name in wanted} == wanted
