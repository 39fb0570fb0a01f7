"""The documents are held to what exists: commands, options, links, the table, the help texts."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
import tomllib

from bench.cli import VERBS, app
from bench.report import markdown
from bench.store import read_records, run_files

ROOT = Path(__file__).parent.parent
FOLDERS = ("*", "bench/*", "tests/examples/*")
DOCUMENTS = [ROOT / "README.md", *sorted(found for folder in FOLDERS for found in ROOT.glob(f"{folder}/README.md"))]
COMMANDS = [
    pytest.param(document, line, id=f"{document.parent.name}: {line[:60]}")
    for document in DOCUMENTS
    for block in re.findall(r"```(?:console|sh|bash)\n(.*?)```", document.read_text(), re.DOTALL)
    for line in block.splitlines()
    if line.startswith("deploybench ")
]


def every_command(group, path=()):
    for name in group.list_commands(click.Context(group)):
        found = group.get_command(click.Context(group), name)
        if isinstance(found, click.Group):
            yield from every_command(found, (*path, name))
        yield (*path, name), found


EVERY = dict(every_command(app))


@pytest.mark.parametrize(("document", "line"), COMMANDS)
def test_documented_commands_exist(document, line):
    words = shlex.split(line.split("|")[0], comments=True)[1:]
    command = app
    while isinstance(command, click.Group):
        command = command.get_command(click.Context(command), words.pop(0))
        assert command is not None, line
    known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("-") and not re.fullmatch(r"-?[\d.]+", word):
            assert word.split("=")[0] in known, f"{line}: there is no {word}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.parent.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document}: {target}"
    for name, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", document.read_text()):
        if "//" not in name:
            assert anchor in anchors(document.parent / name if name else document), f"{document}: {name}#{anchor}"


def anchors(document):
    """What can be linked to: headings as GitHub names them, and what says its own name."""
    text = document.read_text()
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    named = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return named | set(re.findall(r'id="([^"]+)"', text))


def test_every_verb_is_in_the_readme():
    text = (ROOT / "README.md").read_text()
    assert [v for v in VERBS if f"deploybench {v}" not in text and v not in ("cache", "conformance")] == []


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_every_command_and_option_has_help(path):
    command = EVERY[path]
    assert command.help
    for parameter in command.params:
        assert isinstance(parameter, click.Argument) or parameter.help, parameter.name


@pytest.mark.parametrize("path", [p for p in EVERY if len(p) == 1 and p != ("cache",)], ids=" ".join)
def test_every_verb_has_examples_that_exist(path):
    examples = [
        line.strip() for line in (EVERY[path].epilog or "").splitlines() if line.strip().startswith("deploybench")
    ]
    assert examples or path == ("completion",)
    for line in examples:
        words = shlex.split(line.split("|")[0].split("#")[0])
        known = {flag for p in EVERY[(words[1],)].params for flag in (*p.opts, *p.secondary_opts)}
        assert [w for w in words[2:] if w.startswith("-") and w not in known] == [], line


def test_the_readme_shows_the_table_of_the_records():
    text = (ROOT / "README.md").read_text()
    shown = text.split(markdown.BEGIN)[1].split(markdown.END)[0].strip()
    records = [r for path in run_files([ROOT / "results" / "records"]) for r in read_records(path)]
    assert shown == markdown.document(records).strip(), "run: deploybench report --update README.md"


def test_every_dependency_has_its_reason():
    text = (ROOT / "pyproject.toml").read_text()
    core = text.split("\ndependencies = [")[1].split("\n]")[0]
    assert [line for line in core.splitlines() if line.strip() and "#" not in line] == []


def test_every_extra_is_in_the_readme():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "README.md").read_text()
    assert [e for e in project["optional-dependencies"] if f"`{e}`" not in text and e != "dev"] == []


def test_constraints_pin_what_the_package_depends_on():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [
        *project["dependencies"],
        *(r for e in ("cpu", "ncnn", "mnn", "torch", "sklearn", "dev") for r in extras[e]),
    ]
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    names = {re.split(r"[<>=\[ ]", r)[0].lower().replace("_", "-") for r in wanted}
    assert names <= pinned


def test_no_path_of_the_machine_and_no_package_host_is_tracked():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    home = f"{Path.home()}/"
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.is_file() and path.suffix in (".py", ".md", ".toml", ".txt", ".jsonl", ".json"):
            assert home not in path.read_text(), name
