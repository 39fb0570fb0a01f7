"""The workflows and the nightly script: well-formed by GitHub's own schema, pinned, bounded, and run here on `fake`.

Every `run` step is executed as GitHub would, in a clone, with stubs for what only GitHub has: secrets, `gh`, and an
environment that is made from the package index. What the nightly script does with git is tested with a `deploybench`
that only leaves files, as `matrix`, `report` and `compare` do.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bench import catalog
from bench.matrix import file as matrix
from bench.matrix.cells import cells
from bench.place import Limits
from bench.registry import find

yaml = pytest.importorskip("ruamel.yaml", reason='not installed: pip install "deploybench[dev]"')

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MATRIX = """
[matrix]
model = ["tiny_mlp"]
backend = ["fake"]
[backend.fake.options]
latency_us = 300.0
[measure]
trials = 1
min_time = 0.02
max_time = 0.05
target = "none"
max_foreign_cpu = 1.0
"""
# Leaves what the real one leaves, at once. $VERDICT: what `compare` says, and then it exits with 1.
STUB = """
word=$1; shift; results=results; pages=; summary=
while [ $# -gt 0 ]; do
    case $1 in --results) results=$2 ;; --pages) pages=$2 ;; --summary) summary=$2 ;; esac; shift
done
case $word in
matrix) mkdir -p "$results/records/board"; echo '{}' > "$results/records/board/$(date +%s%N).jsonl" ;;
report) [ -z "$pages" ] || { mkdir -p "$pages"; ls "$results"/records/* > "$pages/README.md"; }
        [ -z "$summary" ] || echo '## deploybench' >> "$summary" ;;
compare) [ -z "$VERDICT" ] || { echo "$VERDICT"; echo > "$results/records/board/again.jsonl"; exit 1; } ;;
esac
"""


def load(path):
    return yaml.YAML(typ="safe").load(path.read_text())


def steps(path):
    return [step for job in load(path)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_github_would_take_it(path):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_it_is_bounded_pinned_and_asks_for_no_more_than_it_needs(path):
    workflow = load(path)
    assert workflow["permissions"]
    assert workflow["concurrency"]["group"]
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 400
    for step in steps(path):
        if "uses" in step:
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step["uses"]), "an action is pinned by its commit"
        else:
            assert "${{" not in step["run"], "what comes from outside reaches a shell by environment alone"
    if "pull_request" in workflow["on"]:
        assert workflow["permissions"] == {"contents": "read"}
        assert "secrets." not in path.read_text()


def test_every_script_of_the_workflows_exists_and_can_be_run():
    named = {name for path in WORKFLOWS for name in re.findall(r"\.ci/[\w-]+(?!\S*\.toml)\b", path.read_text())}
    for name in {n for n in named if not (ROOT / f"{n}.toml").exists()}:
        assert os.access(ROOT / name, os.X_OK), name


@pytest.mark.parametrize("name", ["gpu", "arm"])
def test_the_matrix_files_name_what_there_is(name):
    """Their devices are elsewhere; models, backends, words and rules are checked here."""
    file = matrix.read(ROOT / ".ci" / f"{name}.toml", Limits.__slots__)
    found = cells(file, lambda backend: frozenset(o.name for o in find(backend).create().options))
    assert {cell["model"] for cell in found} <= set(catalog.load())
    assert len(found) >= 10


@pytest.fixture
def clone(cli, tmp_path):
    """A repository with our scripts and a matrix, and a bare one that it is pushed to; `Runner` runs things in it."""
    return Runner(cli, tmp_path)


class Runner:
    """GitHub's runner, as far as our steps need one."""

    def __init__(self, cli, folder):
        self.folder = folder / "clone"
        self.remote = folder / "remote.git"
        self.temp = folder / "temp"
        self.temp.mkdir()
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.log = folder / "stubs.log"
        self.summary = folder / "summary.md"
        self.environment = {
            **cli.environment,
            "PATH": f"{self.bin}:{cli.environment['PATH']}",
            "HOME": str(folder / "nobody"),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "RUNNER_TEMP": str(self.temp),
        }
        (folder / "nobody").mkdir()
        shutil.copytree(ROOT / ".ci", self.folder / ".ci")
        (self.folder / "make.py").write_text("")
        (self.folder / "constraints.txt").write_text("")
        (self.folder / "night.toml").write_text(MATRIX)
        self.git("init", "--quiet", "--initial-branch", "main", ".")
        self.git("init", "--quiet", "--bare", str(self.remote))
        self.git("remote", "add", "origin", str(self.remote))
        (self.folder / ".gitignore").write_text(".venv/\n")
        self.git("add", "--all")
        self.git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "all")
        self.git("push", "--quiet", "origin", "main")
        self.deploybench = self.script("deploybench", f'exec {" ".join(map(shell, cli.command))} "$@"')
        self.stub = self.script("stub", STUB)
        self.script("gh", f'echo "gh $*" >> {self.log}')
        # What makes an environment makes one that runs this very code, and says what it was asked to install.
        made = f'mkdir -p .venv/bin; cp {self.deploybench} .venv/bin/; cp "$0" .venv/bin/python'
        self.script("python3", f'echo "python $*" >> {self.log}; [ "$2" != venv ] || {{ {made}; }}')

    def script(self, name, text):
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def git(self, *argv):
        done = subprocess.run(
            ["git", *argv], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def bash(self, text, timeout=120, **more):
        return subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", text],
            cwd=self.folder,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def night(self, command=None, **more):
        return self.bash(".ci/nightly night.toml", DEPLOYBENCH=str(command or self.stub), **more)

    def published(self, branch="results"):
        return subprocess.run(
            ["git", "ls-tree", "-r", "--name-only", branch],
            cwd=self.remote,
            capture_output=True,
            text=True,
            check=False,
        ).stdout.split()


def shell(word):
    return "'" + str(word).replace("'", "'\\''") + "'"


def test_two_nights_without_github(clone, tmp_path):
    summary, issue = tmp_path / "summary", tmp_path / "issue"
    for night in (1, 2):
        done = clone.night(clone.deploybench, SUMMARY=str(summary), ISSUE=str(issue))
        assert done.returncode == 0, done.stdout + done.stderr
        names = clone.published()
        assert sum(name.endswith(".jsonl") for name in names) == night
        assert "results/tables/README.md" in names
        assert "results/tables/models/tiny_mlp.md" in names
        assert not [n for n in names if not n.startswith("results/")]
    text = summary.read_text()
    assert text.count("## deploybench") == 2
    assert "1 cases: 1 ok." in text
    assert not issue.exists()
    assert clone.git("status", "--porcelain") == ""
    assert clone.git("rev-parse", "--abbrev-ref", "HEAD").strip() == "main"
    log = subprocess.run(
        ["git", "log", "--format=%an %ae %s", "results"], cwd=clone.remote, capture_output=True, text=True, check=True
    )
    assert re.match(r"deploybench deploybench@localhost Night of \d{4}-\d\d-\d\d: night\n", log.stdout)


def test_without_a_remote_the_branch_is_a_local_one(clone):
    for night in (1, 2):
        assert clone.night(RESULTS_REMOTE="", RESULTS_BRANCH="nights").returncode == 0
        names = clone.git("ls-tree", "-r", "--name-only", "nights").split()
        assert sum(name.endswith(".jsonl") for name in names) == night
    assert clone.published() == []


def test_what_could_not_be_published_is_published_by_the_next_night(clone):
    away = clone.remote.with_name("away.git")
    clone.remote.rename(away)
    done = clone.night()
    assert done.returncode == 4
    assert "not published" in done.stderr
    away.rename(clone.remote)
    assert clone.night().returncode == 0
    assert sum(name.endswith(".jsonl") for name in clone.published()) == 2


def test_two_machines_publish_to_one_branch(clone, tmp_path):
    """The other one pushes between our fetch and our push."""
    other = tmp_path / "other"
    push = f"""
        git clone --quiet --branch results {clone.remote} {other}
        mkdir -p {other}/results/records/other && echo > {other}/results/records/other/x.jsonl
        cd {other} && git add --all && git -c user.name=b -c user.email=b@c commit --quiet -m other
        git push --quiet origin results
    """
    assert clone.night().returncode == 0
    hook = clone.folder / ".git" / "hooks" / "pre-push"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\n[ ! -e {other} ] || exit 0\nunset GIT_DIR\n{push}")
    hook.chmod(0o755)
    done = clone.night()
    assert done.returncode == 0, done.stderr
    assert other.exists()
    names = clone.published()
    assert "results/records/other/x.jsonl" in names
    assert sum(name.endswith(".jsonl") for name in names) == 3


@pytest.mark.parametrize(
    "private",
    ["/home/somebody/model.onnx", "-----BEGIN OPENSSH PRIVATE KEY-----", "HOST", "/".join(("", "root", ".ssh"))],
)
def test_nothing_private_is_published(clone, private):
    """Records are free of it when they are written; should one slip through, the night stops before the branch."""
    host = socket.gethostname()
    if private == "HOST" and len(host) <= 5:
        pytest.skip("this machine's name is too short to be told from a word")
    folder = clone.folder / ".git" / "deploybench-night" / "results" / "records" / "board"
    folder.mkdir(parents=True)
    (folder / "x.jsonl").write_text(f'{{"log_tail":"{private.replace("HOST", host)}"}}\n')
    done = clone.night()
    assert done.returncode == 4, done.stderr
    assert "would say whose machine this is" in done.stderr
    assert clone.published() == []


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("", "give one matrix file"),
        ("nowhere.toml", "cannot be read"),
        ("a.toml b.toml", "give one matrix file"),
    ],
)
def test_bad_input_of_the_script(clone, argv, words):
    done = clone.bash(f".ci/nightly {argv}", DEPLOYBENCH=str(clone.deploybench))
    assert done.returncode == 2
    assert words in done.stderr


def test_a_broken_matrix_file_publishes_nothing(clone):
    (clone.folder / "night.toml").write_text("[matrix]\nmodel = ['tiny_mlp']\nbackend = ['fale']\n")
    done = clone.night(clone.deploybench)
    assert done.returncode == 2
    assert "fake" in done.stderr
    assert clone.published() == []


def test_one_night_at_a_time(clone):
    own = clone.folder / ".git" / "deploybench-night"
    own.mkdir()
    done = clone.bash(f"exec 8>{own}/lock; flock 8; .ci/nightly night.toml", DEPLOYBENCH=str(clone.deploybench))
    assert done.returncode == 2
    assert "another night is running" in done.stderr


def test_a_regression_makes_an_issue_and_a_failed_night(clone, tmp_path):
    """What `compare` says becomes the issue's text; that it says so for good reason is tested where it is made."""
    issue, summary = tmp_path / "issue.md", tmp_path / "summary.md"
    done = clone.night(ISSUE=str(issue), SUMMARY=str(summary), VERDICT="**slower**: tiny_mlp")
    assert done.returncode == 1, done.stderr
    assert issue.read_text().startswith("Found by the night of 20")
    assert "**slower**: tiny_mlp" in issue.read_text()
    assert "**slower**: tiny_mlp" in summary.read_text()
    assert "results/records/board/again.jsonl" in clone.published(), "re-runs are records too"
    done = clone.bash(f".ci/open-issue {issue} 'It got slower' https://example.org/run")
    assert done.returncode == 0, done.stderr
    assert "gh issue create --title It got slower --body-file" in clone.log.read_text()


def keys(folder):
    """A key pair made for this test, and a line of known hosts."""
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    public = " ".join(key.with_suffix(".pub").read_text().split()[:2])
    return key.read_text(), f"board.example {public}"


@pytest.mark.parametrize("path", [p for p in WORKFLOWS if p.name != "tests.yml"], ids=lambda p: p.name)
@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is missing: install the OpenSSH client")
def test_the_steps_of_a_night_run(clone, tmp_path, path):
    key, known = keys(tmp_path)
    secrets = {
        "BOARDS_SSH_KEY": key,
        "BOARDS_KNOWN_HOSTS": known,
        "BOARDS_DEVICES_TOML": '[board]\nssh = "nobody@board.example"\nssh_config = "ssh_config"\n',
    }
    environment = values(load(path)["env"], secrets, clone.temp)
    assert environment["MATRIX"] == "night.toml"
    for step in steps(path):
        if "run" in step:
            done = clone.bash(step["run"], **environment, **values(step.get("env", {}), secrets, clone.temp))
            assert done.returncode == 0, f"{step['name']}: {done.stdout} {done.stderr}"
            assert key.splitlines()[1] not in done.stdout + done.stderr
            if step["name"] == "Keys of the boards":
                assert_pinned(clone.temp / "boards" / "deploybench")
    assert "1 cases: 1 ok." in clone.summary.read_text()
    assert any(name.endswith(".jsonl") for name in clone.published())
    assert "install --quiet --constraint constraints.txt --editable" in clone.log.read_text()
    assert "gh" not in clone.log.read_text().replace("github", "")
    assert not (clone.temp / "boards").exists()


def assert_pinned(folder):
    assert {p.name: oct(p.stat().st_mode & 0o777) for p in folder.iterdir()} == dict.fromkeys(
        ("key", "known_hosts", "devices.toml", "ssh_config"), "0o600"
    )
    shown = subprocess.run(
        ["ssh", "-G", "-F", str(folder / "ssh_config"), "board.example"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for line in ("stricthostkeychecking true", "batchmode yes", f"userknownhostsfile {folder}/known_hosts"):
        assert line in shown
    from bench import devices

    (device,) = devices.load([folder / "devices.toml"]).values()
    assert device.ssh_config == str(folder / "ssh_config")


def values(given, secrets, temp):
    """An `env` as GitHub would fill it in."""

    def fill(match):
        name = match[1].strip()
        if name.startswith("secrets."):
            return secrets[name.removeprefix("secrets.")]
        if name.startswith("vars."):
            variable, _, default = name.partition(" || ")
            return "night.toml" if "MATRIX" in variable else default.strip("'")
        return {"runner.temp": str(temp)}.get(name, f"<{name}>")

    return {name: re.sub(r"\$\{\{(.*?)\}\}", fill, str(text)) for name, text in given.items()}


@pytest.mark.parametrize("lacking", ["SSH_KEY", "KNOWN_HOSTS", "DEVICES", "none", "wrong key", "wrong host"])
@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is missing: install the OpenSSH client")
def test_keys_that_are_none_are_refused_without_being_shown(clone, tmp_path, lacking):
    key, known = keys(tmp_path)
    given = {"SSH_KEY": key, "KNOWN_HOSTS": known, "DEVICES": "[board]\n"}
    given |= {lacking: ""} if lacking in given else {}
    given |= {"SSH_KEY": "hunter2"} if lacking == "wrong key" else {}
    given |= {"KNOWN_HOSTS": "hunter2"} if lacking == "wrong host" else {}
    done = clone.bash('.ci/board-keys "$RUNNER_TEMP/keys"', **given)
    assert done.returncode == (0 if lacking == "none" else 2), done.stderr
    assert "hunter2" not in done.stderr
    assert key.splitlines()[1] not in done.stderr


def test_pull_requests_run_the_command_of_the_readme(clone):
    (step,) = [s for s in steps(ROOT / ".github" / "workflows" / "tests.yml") if "run" in s]
    assert clone.bash(step["run"]).returncode == 0
    assert clone.log.read_text() == "python make.py test\n"
    assert f"{step['run']} " in (ROOT / "README.md").read_text()
