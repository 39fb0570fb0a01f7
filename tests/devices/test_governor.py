"""The governor is what was asked for while it is measured, and what it was before afterwards, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.errors import HostError
from bench.hosts import governor
from bench.hosts.governor import governed
from bench.hosts.local import LocalHost

PROGRAM = (Path(governor.__file__).parent / "govern.py").read_text()


@pytest.fixture
def policies(tmp_path):
    """Files like the kernel's."""
    found = [tmp_path / f"policy{n}" for n in (0, 4)]
    for path, was in zip(found, ("schedutil", "powersave"), strict=True):
        path.write_text(f"{was}\n")
    return found


def now(policies):
    return [path.read_text().strip() for path in policies]


def eventually(policies, wanted):
    end = time.monotonic() + 20
    while now(policies) != wanted and time.monotonic() < end:
        time.sleep(0.05)
    return now(policies) == wanted


def test_it_holds_for_as_long_as_it_is_wanted(policies, tmp_path):
    with governed(LocalHost(tmp_path), "performance", str(tmp_path / "policy*")):
        assert now(policies) == ["performance", "performance"]
    assert now(policies) == ["schedutil", "powersave"]


def test_an_error_inside_sets_it_back(policies, tmp_path):
    with pytest.raises(ZeroDivisionError), governed(LocalHost(tmp_path), "performance", str(tmp_path / "policy*")):
        raise ZeroDivisionError
    assert now(policies) == ["schedutil", "powersave"]


@pytest.mark.parametrize("end", ["kill", "link"])
def test_a_crash_and_a_lost_link_set_it_back(policies, tmp_path, end):
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", PROGRAM, "performance", str(tmp_path / "policy*")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == b"DEPLOYBENCH set\n"
    assert now(policies) == ["performance", "performance"]
    if end == "kill":
        os.kill(process.pid, signal.SIGKILL)
    process.stdin.close()
    process.wait()
    process.stdout.close()
    assert eventually(policies, ["schedutil", "powersave"])


def test_where_there_is_none_that_is_said(tmp_path):
    with pytest.raises(HostError, match="has no cpufreq"), governed(LocalHost(tmp_path), "x", str(tmp_path / "none*")):
        pass
