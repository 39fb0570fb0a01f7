"""A board with Python 3.10, the oldest that a worker runs on: the newest wheels that exist for it are brought along."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from device_rig import FAST, records

pytestmark = pytest.mark.slow


def python310():
    """A Python 3.10 of this machine, without what is installed beside it, or None."""
    for name in ("python3.10", *Path.home().glob(".pyenv/versions/3.10.*/bin/python3.10")):
        try:
            done = subprocess.run(
                [name, "-I", "-c", "import sys; print(sys.executable)"], capture_output=True, text=True, check=False
            )
        except OSError:
            continue
        if done.returncode == 0:
            return done.stdout.strip()
    return None


@pytest.mark.timeout(400)
def test_a_board_with_python_310(cli, sshd, mlp_path, pnnx, board_cache):
    python = python310()
    if python is None:
        pytest.skip("no Python 3.10 here: pyenv install 3.10")
    entry = f'ssh_config = "{sshd.config("old")}"\npython = "{python}"\ncache = "{board_cache}"\n'
    cli.folder.joinpath("devices.toml").write_text(f"[old]\n{entry}")
    backends = ("-b", "ncnn", "-b", "mnn", "-b", "ort-cpu")
    done = cli("run", mlp_path, "--batch", "1", "--device", "old", *backends, *FAST,
               env={"PIP_NO_INDEX": "0"}, timeout=360)  # fmt: skip
    if "could not be fetched" in done.stdout + done.stderr:
        pytest.skip("the package index cannot be reached, and the wheels are not in the cache")
    assert done.code == 0, done.stdout + done.stderr
    found = {record["case"]["backend"]: record for record in records(cli)}
    assert {name: record["status"] for name, record in found.items()} == dict.fromkeys(("ncnn", "mnn", "ort-cpu"), "ok")
    for record in found.values():
        assert record["environment"]["python"].startswith("3.10.")
        assert record["environment"]["numpy"] == "2.2.6"
        assert max(output["max_rel_scale"] for output in record["parity"]["outputs"]) <= 1e-5
    # The newest that has wheels for this Python, which is not the newest that there is.
    assert found["ort-cpu"]["environment"]["runtimes"]["onnxruntime"] == "1.23.2"
