"""What the shell offers behind a verb."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from bench.cli import VERBS, app
from bench.store import read_records

GOLDEN = Path(__file__).parent.parent / "golden" / "schema-1.jsonl"


def offered(*words):
    """The words that may stand in place of the last of these."""
    *before, begun = words
    items = ShellComplete(app, {}, "deploybench", "_DEPLOYBENCH_COMPLETE").get_completions(before, begun)
    return [item.value for item in items if item.type != "file"]


@pytest.fixture
def results(tmp_path):
    """Two runs."""
    for run in ("20260101T020000Z-0000000a", "20260102T020000Z-0000000b"):
        path = tmp_path / "nights" / "records" / "board" / f"{run}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(GOLDEN, path)
    return str(tmp_path / "nights")


def test_verbs_models_and_backends():
    assert offered("") == list(VERBS)
    assert "tiny_mlp" in offered("run", "tiny_m")
    assert offered("run", "tiny_mlp", "--backend", "nc") == ["ncnn", "ncnn-vulkan"]
    assert offered("history", "squee") == ["squeezenet"]
    assert offered("history", "squeezenet", "mn") == ["mnn"]
    assert offered("run", "tiny_mlp", "--scenario", "s") == ["single-stream", "server"]


def test_runs_and_records(results):
    runs = ["20260102T020000Z-0000000b", "20260101T020000Z-0000000a"]
    assert offered("compare", "--results", results, "2026") == runs
    assert offered("compare", "--results", results, runs[1], "20260102") == runs[:1]
    identity = read_records(GOLDEN)[0].id
    assert set(offered("rerun", "--results", results, identity[:6])) == {identity}


def test_without_records_there_are_none(tmp_path):
    assert offered("compare", "--results", str(tmp_path), "2") == []
    assert offered("rerun", "--results", str(tmp_path), "") == []
