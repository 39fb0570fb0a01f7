"""From a bare ARM board to a table, through a real sshd: emulated, so what is timed says nothing of a real one."""

from __future__ import annotations

import json

import pytest
from device_rig import assert_right_in_fp32

pytestmark = [pytest.mark.arm, pytest.mark.slow]

FAST = ("--trials", "1", "--max-time", "0.5", "--min-time", "0.1", "--min-count", "3", "--max-foreign-cpu", "1")


@pytest.fixture
def on_board(cli, arm, command_cache):
    """Runs a model on a bare board with this CPU; the records, and what was said."""

    def run(cpu, model, *more):
        config, name, emulated = arm(cpu)
        cli.folder.joinpath("devices.toml").write_text(f'[arm]\nssh = "{name}"\nssh_config = "{config}"\n')
        words = ("run", model, "--batch", "1", "--device", "arm", *FAST, *more)
        done = cli(*words, env={"PIP_NO_INDEX": "0"}, timeout=280)
        if "could not be fetched" in done.stdout + done.stderr:
            pytest.skip("the package index cannot be reached, and the wheels are not in the cache")
        found = [json.loads(line) for line in cli("report", "--json").stdout.splitlines()]
        return found, done, emulated

    return run


@pytest.mark.timeout(600)
def test_from_a_bare_board_to_a_table(on_board, mlp_path, pnnx):
    found, done, emulated = on_board("cortex-a72", mlp_path, "-b", "ncnn", "-b", "mnn")
    assert done.code == 0, done.stdout + done.stderr
    assert {r["case"]["backend"] for r in found} == {"ncnn", "mnn"}
    for record in found:
        assert_right_in_fp32(record)
        assert {name.lower() for name in record["environment"]["wheels"]} == {"numpy", record["case"]["backend"]}
        assert record["environment"]["arch"] == ("aarch64" if emulated else record["environment"]["arch"])
        assert bool(record["evidence"]["emulated"]) is emulated
    if emulated:
        assert done.stdout.count("emulated") > 3, "in every table"
        assert found[0]["environment"]["clusters"][0]["core"] == "Cortex-A72"
    again, second, _ = on_board("cortex-a72", mlp_path, "-b", "ncnn", "-b", "mnn")
    assert len(again) == 4
    assert "sending" not in second.stderr, "no byte of an artefact travels twice"


@pytest.mark.timeout(600)
def test_half_precision_where_the_cpu_has_it(on_board, mlp_path, pnnx):
    """On a CPU with asimdhp ncnn computes in fp16 by itself: only where it is asked to, here, and then it is said."""
    found, done, _ = on_board("cortex-a76", mlp_path, "-b", "ncnn", "--precision", "fp16")
    assert done.code == 0, done.stdout + done.stderr
    (half,) = found
    assert half["evidence"]["placement"]["precision"] == "fp16"
    assert half["parity"]["tolerance"]["name"] == "fp16"
    found, done, _ = on_board("cortex-a76", mlp_path, "-b", "ncnn")
    assert done.code == 0, done.stdout + done.stderr
    full = next(r for r in found if r["id"] != half["id"])
    error = {r["id"]: max(o["max_rel_scale"] for o in r["parity"]["outputs"]) for r in (half, full)}
    assert error[full["id"]] <= 1e-5 < error[half["id"]]
