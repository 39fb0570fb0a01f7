"""`deploybench conformance`: what it prints, how it ends, and what `backends/README.md` says of it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from backends.fake.faults import FAULTS
from bench.conformance import checks
from bench.interface import Backend

ROOT = Path(__file__).resolve().parents[1]
THIRD_PARTY = {"PYTHONPATH": str(ROOT / "tests" / "third_party")}
EXAMPLE = ROOT / "tests" / "third_party" / "example_backend"
README = (ROOT / "backends" / "README.md").read_text()
NAMES = [check.name for check in checks()]


def only(*names):
    return [word for name in names for word in ("--check", name)]


def test_a_backend_that_keeps_the_rules(cli):
    result = cli("conformance", "fake")
    assert result.code == 0, result.stdout
    *skipped, summary = result.stdout.splitlines()
    assert summary == f"fake: {len(NAMES) - len(skipped)} passed, {len(skipped)} skipped, 0 failed"
    assert all(line.startswith("fake: ") and " skipped: " in line for line in skipped)
    assert "checking fake" in result.stderr


def test_a_failed_check_is_told_with_its_rule(cli):
    argv = ("--spec", "bad_backend:TenPercentOff", *only("values_batch", "name", "options"))
    result = cli("conformance", *argv, env=THIRD_PARTY)
    line, summary = result.stdout.splitlines()
    assert result.code == 1
    assert line.startswith(
        "bad_backend:TenPercentOff: values_batch failed: model 'batch', seed 1: output 'y' is off by"
    )
    assert "A batch of two gives both answers" in line
    assert summary == "bad_backend:TenPercentOff: 2 passed, 0 skipped, 1 failed"


def test_a_crash_and_a_hang_are_failed_checks(cli):
    specs = ("--spec", "bad_backend:Crashes", "--spec", "bad_backend:HangsInProbe", "--limit", "1")
    result = cli("conformance", *specs, *only("probe", "load", "repeatable"), env=THIRD_PARTY)
    assert result.code == 1
    assert "repeatable failed: died by SIGSEGV" in result.stdout
    assert "bad_backend:Crashes: 2 passed, 0 skipped, 1 failed" in result.stdout
    assert result.stdout.count("did not end within 1 s") == 3


def test_json_is_one_object_per_outcome(cli):
    argv = ("fake", "--spec", "bad_backend:BadName", *only("name", "measure_fits"), "--json")
    result = cli("conformance", *argv, env=THIRD_PARTY)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(each["backend"], each["check"], each["status"]) for each in found] == [
        ("fake", "name", "passed"),
        ("fake", "measure_fits", "skipped"),
        ("bad_backend:BadName", "name", "failed"),
        ("bad_backend:BadName", "measure_fits", "skipped"),
    ]
    assert all(each["rule"] for each in found)
    assert result.code == 1
    assert "0 passed, 1 skipped, 1 failed" in result.stderr


def test_nothing_but_skips_is_told_from_success(cli):
    assert cli("conformance", "fake", "--check", "measure_fits").code == 3


def test_a_tool_that_cannot_be_fetched_skips_what_needs_it(cli, tmp_path):
    pytest.importorskip("ncnn", reason='needs ncnn: pip install "deploybench[ncnn]"')
    argv = ("conformance", "ncnn", *only("name", "load"), "--cache", str(tmp_path / "empty"))
    result = cli(*argv)
    assert result.code == 0
    assert "ncnn: load skipped: the tool 'pnnx' was not given: --tool pnnx=PATH" in result.stdout
    assert "could not be fetched" in result.stderr
    result = cli(*argv, "--tool", "pnnx=/bin/false")
    assert result.code == 1
    assert "ncnn: load failed: raised PrepareError" in result.stdout


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["nccn"], "no backend 'nccn'; did you mean ncnn"),
        (["fake", "--check", "value_mlp"], "no check 'value_mlp'; did you mean values_mlp"),
        (["--spec", "no_such_module:Thing"], "MODULE:CLASS"),
        (["fake", "--tool", "pnnx"], "--tool NAME=PATH"),
        (["fake", "--tool", "pnnx=/nowhere/pnnx"], "no file /nowhere/pnnx"),
        (["fake", "--limit", "0"], "--limit"),
    ],
)
def test_usage_errors(cli, argv, words):
    result = cli("conformance", *argv)
    assert (result.code, result.stdout) == (2, "")
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_list_tells_every_rule(cli):
    lines = cli("conformance", "--list").stdout.splitlines()[1:]
    assert [tuple(line.split("\t")) for line in lines] == [(check.name, check.rule) for check in checks()]
    objects = cli("conformance", "--list", "--json").stdout.splitlines()
    assert [json.loads(line)["check"] for line in objects] == NAMES


def test_help_has_examples(cli):
    assert "deploybench conformance --spec" in cli("conformance", "--help").stdout


# --- the README


def test_the_readme_s_commands_run(cli, tmp_path):
    """In a folder that holds the example, as after writing it."""
    (tmp_path / "numpy_mlp.py").write_text((EXAMPLE / "numpy_mlp.py").read_text())
    commands = [shlex.split(line) for line in re.findall(r"^deploybench (conformance .*)$", README, re.MULTILINE)]
    assert len(commands) > 2
    for argv in commands:
        if "numpy-mlp" not in argv:  # that one is for the installed package
            result = cli(*argv)
            assert result.code == 0, result.stdout + result.stderr


def test_the_readme_shows_the_example_as_it_is():
    blocks = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
    assert ("python", (EXAMPLE / "numpy_mlp.py").read_text()) in blocks
    assert ("toml", (EXAMPLE / "pyproject.toml").read_text()) in blocks


def rows(head):
    """The rows of the README's table whose first column is headed so."""
    (table,) = re.findall(rf"^\| {head} \|.*\n((?:\|.*\n)+)", README, re.MULTILINE)
    return dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", table, re.MULTILINE))


def test_the_readme_lists_every_rule_fault_and_attribute():
    assert rows("check") == {check.name: " ".join(check.rule.split()) for check in checks()}
    assert rows("fault") == dict(FAULTS)
    declared = {name for name, kind in Backend.__annotations__.items() if kind.startswith("ClassVar")}
    assert set(rows("attribute")) == declared
