"""The link to a device is cut at random moments: `tests/benchmarks/link_cuts.py`, at a twentieth of its size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "link_cuts.py"


@pytest.mark.slow
def test_cuts_lose_nothing_and_leave_nothing(sshd):
    """In a process of its own: it shortens the limits of the link."""
    done = subprocess.run(
        [sys.executable, SCRIPT, "--cuts", "10"], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
