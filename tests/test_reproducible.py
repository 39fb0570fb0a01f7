"""Artefacts are made twice: what differs is told, wherever it lies."""

from __future__ import annotations

import pytest

from bench.interface import Artifact, Signature
from bench.reproducible import BLOCK_BYTES, difference, made_again
from bench.worker.client import Failure, WorkerError

NOTHING = Signature((), ())


def artefact(folder, files):
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return Artifact(folder, tuple(files), NOTHING)


@pytest.fixture
def first(tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    return artefact(folder, {"net.param": b"abcd", "net.bin": bytes(BLOCK_BYTES + 10)})


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"net.param": b"abcd", "net.bin": bytes(BLOCK_BYTES + 10)}, ""),
        (
            {"net.param": b"axcy", "net.bin": bytes(BLOCK_BYTES + 10)},
            "2 of 4 bytes of net.param are others",
        ),
        (
            {"net.param": b"abcd", "net.bin": b"\x01" + bytes(BLOCK_BYTES) + b"\x02" + bytes(8)},
            f"made again, 2 of {BLOCK_BYTES + 10} bytes of net.bin are others",
        ),
        (
            {"net.param": b"abcx", "net.bin": b"short"},
            f"1 of 4 bytes of net.param are others and net.bin has 5 bytes and not {BLOCK_BYTES + 10}",
        ),
        ({"net.param": b"abcd"}, "not reproducible: made again, it is net.param"),
    ],
)
def test_what_differs_is_told(first, files, says):
    found = made_again(first, lambda folder: artefact(folder, files))
    assert found.endswith(says)
    assert found.startswith("not reproducible: ") == bool(says)
    assert sorted(path.name for path in first.root.iterdir()) == ["net.bin", "net.param"]


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (
            Failure("prepare", "error", "the converter made nothing\nand more"),
            "not reproducible: made again, it failed: the converter made nothing",
        ),
        (Failure("prepare", "timeout", "prepare took longer than 900 s"), ""),
        (Failure("prepare", "link", "the link was lost"), ""),
        (Failure("prepare", "crash", "the converter pnnx died of SIGKILL", signal="SIGKILL"), ""),
    ],
)
def test_a_second_making_that_fails_leaves_nothing_and_is_told_where_it_says_something(first, failure, says):
    def make(folder):
        (folder / "draft").touch()
        raise WorkerError(failure)

    assert made_again(first, make) == says
    assert sorted(path.name for path in first.root.iterdir()) == ["net.bin", "net.param"]


def test_the_last_block_counts(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(bytes(2 * BLOCK_BYTES))
    other.write_bytes(bytes(2 * BLOCK_BYTES - 1) + b"x")
    assert difference(one, other) == f"1 of {2 * BLOCK_BYTES} bytes of one are others"
