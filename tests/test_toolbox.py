"""Tools out of wheels: fetched alone and once, by their hash. No network: pip looks into a folder."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import zipfile

import pytest

from bench.cache import Cache
from bench.errors import BackendUnavailable
from bench.interface import Tool
from bench.toolbox import fetch

METADATA = b"Metadata-Version: 2.1\nName: toy\nVersion: 1.0\nRequires-Dist: no-such-package\n"
SCRIPT = b"#!/bin/sh\necho hello\n"


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder of wheels that pip takes for the whole world."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


@pytest.fixture
def wheel(shelf):
    """The tool in a real wheel that wants a package which is nowhere, as pnnx's wants torch."""
    path = shelf / "toy-1.0-py3-none-any.whl"
    files = {
        "toy/bin/toy": SCRIPT,
        "toy-1.0.dist-info/METADATA": METADATA,
        "toy-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in files.items()]
    record = "\n".join([*rows, "toy-1.0.dist-info/RECORD,,", ""])
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in [*files.items(), ("toy-1.0.dist-info/RECORD", record)]:
            archive.writestr(name, data)
    return path


def _digest(data):
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def toy(*digests, requirement="toy==1.0", binary="toy/bin/toy"):
    return Tool("toy", requirement, binary, digests)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_tool_is_fetched_alone_once_and_runs(tmp_path, wheel):
    said = []
    tool, cache = toy("0" * 64, sha256(wheel)), Cache(tmp_path / "cache")
    path = fetch(tool, cache, said.append)
    assert subprocess.run([path], capture_output=True, check=True).stdout == b"hello\n"
    assert said == ["fetching toy==1.0 (once)"]
    wheel.unlink()
    assert fetch(tool, cache, said.append) == path
    assert len(said) == 1


def test_a_damaged_tool_is_fetched_again(tmp_path, wheel):
    tool, cache = toy(sha256(wheel)), Cache(tmp_path / "cache")
    path = fetch(tool, cache, print)
    path.write_bytes(b"#!/bin/sh\necho changed\n")
    assert fetch(tool, cache, print).read_bytes() == SCRIPT


def test_a_wheel_of_another_hash_is_refused(tmp_path, wheel):
    cache = Cache(tmp_path / "cache")
    with pytest.raises(BackendUnavailable, match=r"the wheel of toy==1\.0 is not the one that is pinned"):
        fetch(toy("1" * 64), cache, print)
    assert cache.list() == []


def test_a_requirement_that_is_nowhere(tmp_path, shelf):
    tool = toy("1" * 64, requirement="no-such-tool==7.0")
    with pytest.raises(BackendUnavailable, match=r"no-such-tool==7\.0 could not be fetched: .*no-such-tool") as caught:
        fetch(tool, Cache(tmp_path / "cache"), print)
    assert "run again with a network" in caught.value.hint


def test_a_wheel_without_the_binary(tmp_path, wheel):
    with pytest.raises(BackendUnavailable, match=r"holds no toy/bin/other"):
        fetch(toy(sha256(wheel), binary="toy/bin/other"), Cache(tmp_path / "cache"), print)


def test_a_python_without_pip(tmp_path, monkeypatch, shelf):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(BackendUnavailable, match="could not be fetched") as caught:
        fetch(toy("1" * 64), Cache(tmp_path / "cache"), print)
    assert "with pip" in caught.value.hint
