"""`deploybench report` as a user runs it."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import subprocess
import xml.etree.ElementTree as ET

import pytest

from bench.report.markdown import BEGIN, END


def test_every_form_from_one_history(cli, history):
    plain = cli("report", "--results", history)
    assert plain.code == 0
    assert "| model-c |" in plain.stdout
    assert cli("report", "--results", history, "--format", "markdown").stdout == plain.stdout
    rows = list(csv.DictReader(io.StringIO(cli("report", "--results", history, "--format", "csv").stdout, newline="")))
    lines = cli("report", "--results", history, "--json").stdout
    assert cli("report", "--results", history, "--format", "json").stdout == lines
    ids = [json.loads(line)["id"] for line in lines.splitlines()]
    assert [row["id"] for row in rows] == ids == ["a0", "b0", "c0", "b1", "a1", "b2", "a2"]
    root = ET.fromstring(cli("report", "--results", history, "--format", "junit").stdout)
    assert len(root.findall("testsuite/testcase")) == 3


def test_everything_at_once_twice_makes_the_same_bytes(cli, history, tmp_path):
    (tmp_path / "README.md").write_text(f"{BEGIN}\n{END}\n")
    asked = ["report", "--results", history, "--update", "README.md", "--pages", "pages", "--format", "junit"]
    found = []
    for _ in range(2):
        done = cli(*asked, "--output", "junit.xml", "--summary", "summary.md")
        assert (done.code, done.stdout) == (0, "")
        found.append({p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != "summary.md"})
    assert found[0] == found[1]
    assert "5 pages in pages" in done.stderr
    summary = (tmp_path / "summary.md").read_text()
    assert summary.count("## deploybench") == 2
    assert "model-a" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["--format", "xlsx"], "is not one of 'markdown', 'csv', 'junit', 'json'"),
        (["--json", "--format", "csv"], "--json and --format csv contradict each other"),
        (["--output", "missing.jsonl"], "is a name of records, which are never written over"),
        (["--summary", ""], "cannot be written"),
        (["--summary", "no/where.md"], "cannot be written: No such file or directory"),
        (["--update", "nothing.md"], "has no place for the table"),
        (["--pages", "/proc/nowhere"], "cannot be written"),
        (["nowhere"], "there is no nowhere"),
    ],
)
def test_bad_input_is_refused_in_words(cli, history, asked, words):
    done = cli("report", "--results", history, *asked)
    assert done.code in (1, 2)
    assert words in " ".join(re.sub(r"[│╭╮╰╯─]", " ", done.stderr).split())
    assert "Traceback" not in done.stderr


def test_records_are_never_written_over(cli, history):
    path = sorted(history.rglob("*.jsonl"))[0]
    before = path.read_bytes()
    for option in ("--output", "--summary", "--update"):
        assert cli("report", "--results", history, option, path).code != 0
    assert path.read_bytes() == before


def test_no_records_are_said(cli, tmp_path):
    (tmp_path / "results" / "records").mkdir(parents=True)
    for form in ("markdown", "csv", "junit", "json"):
        done = cli("report", "--format", form)
        assert (done.code, done.stdout) == (1, "")
        assert "there are no records; `deploybench run` makes some" in done.stderr


def test_a_cut_last_line_is_reported_and_fatal_to_nothing(cli, history):
    last = sorted(history.rglob("*.jsonl"))[-1]
    whole = cli("report", "--results", history).stdout
    last.write_bytes(last.read_bytes() + b'{"type":"tri')
    done = cli("report", "--results", history)
    assert (done.code, done.stdout) == (0, whole)
    assert "the last line was cut after 12 bytes and is passed over" in done.stderr


def test_an_old_file_keeps_its_mode_and_a_link_stays_one(cli, history, tmp_path):
    table, link = tmp_path / "table.md", tmp_path / "link.md"
    table.write_text("old")
    table.chmod(0o640)
    link.symlink_to(table)
    assert cli("report", "--results", history, "--output", link).code == 0
    assert link.is_symlink()
    assert table.stat().st_mode & 0o777 == 0o640
    assert table.read_text().startswith("**Median latency")
    assert cli("report", "--results", history, "--output", "/dev/stdout").stdout == table.read_text()


@pytest.mark.parametrize("columns", [30, 50, 80, 200])
def test_on_a_terminal_it_is_no_wider_than_that(cli, history, columns):
    """No mark of markdown is left, and no number is cut."""
    master, slave = pty.openpty()
    environment = {**cli.environment, "COLUMNS": str(columns), "TERM": "xterm"}
    done = subprocess.Popen(
        [*cli.command, "report", "--results", str(history)], stdout=slave, env=environment, cwd=cli.folder
    )
    os.close(slave)
    text = b""
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:
            break
        if not data:
            break
        text += data
    os.close(master)
    assert done.wait(60) == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text.decode()).replace("\r", "").split("\n")
    assert max(len(line.rstrip()) for line in lines) <= columns
    assert not [line for line in lines if "|" in line or "](" in line or "**" in line]
    squeezed = "".join("".join(line.split()) for line in lines)
    assert "samples" in squeezed
    assert "model-a" in squeezed
