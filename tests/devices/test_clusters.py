"""Cores of several kinds: told apart as the kernel tells of them, chosen by `--cpus big|little`, each kind watched."""

from __future__ import annotations

import os

import pytest
from device_rig import fake, records

from bench.evidence import cores, standing

A55, A76, X1 = 0xD05, 0xD0B, 0xD44


def board(root, parts, capacities=(), mhz=()):
    """A made-up machine: by CPU its core's part number, what the kernel thinks that it can do, its highest clock."""
    blocks = [f"processor\t: {cpu}\nCPU implementer\t: 0x41\nCPU part\t: {part:#x}\n" for cpu, part in parts.items()]
    files = {"proc/cpuinfo": "\n".join(blocks), f"{cores.CPU}/online": ",".join(str(cpu) for cpu in parts)}
    for cpu, capacity in zip(parts, capacities, strict=False):
        files[f"{cores.CPU}/cpu{cpu}/cpu_capacity"] = str(capacity)
    for cpu, most in zip(parts, mhz, strict=False):
        folder = f"{cores.CPU}/cpu{cpu}/cpufreq"
        files |= {f"{folder}/cpuinfo_max_freq": f"{most}000", f"{folder}/scaling_cur_freq": f"{most - 100}000"}
        files[f"{folder}/scaling_governor"] = "performance" if most > 2000 else "schedutil"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def kinds(root):
    return [(kind.cpus, kind.core, kind.mhz_max) for kind in cores.clusters(str(root))]


def test_kinds_come_from_the_slowest_to_the_fastest(tmp_path):
    parts = {cpu: A55 if cpu < 4 else A76 for cpu in range(8)}
    board(tmp_path, parts, [446] * 4 + [1024] * 4, [1800] * 4 + [2400] * 4)
    assert kinds(tmp_path) == [((0, 1, 2, 3), "Cortex-A55", 1800), ((4, 5, 6, 7), "Cortex-A76", 2400)]


def test_big_cores_may_have_the_lower_numbers(tmp_path):
    board(tmp_path, {0: A76, 1: A76, 2: A55, 3: A55}, [1024, 1024, 414, 414])
    assert [kind[:2] for kind in kinds(tmp_path)] == [((2, 3), "Cortex-A55"), ((0, 1), "Cortex-A76")]


def test_three_kinds(tmp_path):
    board(tmp_path, {0: A55, 1: A55, 2: A76, 3: X1}, [250, 250, 760, 1024])
    assert [kind[0] for kind in kinds(tmp_path)] == [(0, 1), (2,), (3,)]


def test_where_the_kernel_knows_no_capacity_the_clock_tells(tmp_path):
    board(tmp_path, {0: A76, 1: A55}, mhz=[2300, 1800])
    assert [kind[1] for kind in kinds(tmp_path)] == ["Cortex-A55", "Cortex-A76"]


def test_all_alike_are_one_kind(tmp_path):
    board(tmp_path, dict.fromkeys(range(4), A76))
    assert kinds(tmp_path) == [((0, 1, 2, 3), "Cortex-A76", None)]


def test_a_core_that_nobody_has_named_has_its_numbers(tmp_path):
    board(tmp_path, {0: 0xFFF})
    assert kinds(tmp_path) == [((0,), "implementer 0x41, part 0xfff", None)]


def test_kinds_on_x86(tmp_path):
    board(tmp_path, {})
    for name, text in (("cpu_core", "0-3"), ("cpu_atom", "4-5")):
        (tmp_path / "sys/devices" / name).mkdir(parents=True)
        (tmp_path / "sys/devices" / name / "cpus").write_text(text)
    (tmp_path / cores.CPU / "online").write_text("0-5")
    assert sorted(kind[:2] for kind in kinds(tmp_path)) == [
        ((0, 1, 2, 3), "performance core"),
        ((4, 5), "efficiency core"),
    ]


def test_what_a_device_says_of_itself_names_them(tmp_path):
    board(tmp_path, {0: A55, 1: A76}, [446, 1024])
    assert [kind.core for kind in standing.look(str(tmp_path)).environment.clusters] == ["Cortex-A55", "Cortex-A76"]


@pytest.fixture
def two_kinds(command_cache):
    """A fake device with a little and a big core, which are two CPUs of this machine; their numbers."""
    if len(usable := sorted(os.sched_getaffinity(0))) < 2:
        pytest.skip("two kinds of cores take two CPUs")
    little, big = usable[:2]
    board(command_cache / "work/machines/biglittle", {little: A55, big: A76}, [446, 1024], [1800, 2400])
    return little, big


def test_big_and_little_are_other_cases(cli, mlp_path, two_kinds):
    little, big = two_kinds
    for word in ("big", "little"):
        done = fake(cli, mlp_path, "fake:machine=biglittle", "--cpus", word)
        assert done.code == 0, done.stderr
        assert f"CPUs {big if word == 'big' else little}" in done.stdout
    by_cpus = {tuple(r["case"]["options"]["cpus"]): r for r in records(cli)}
    assert set(by_cpus) == {(little,), (big,)}
    assert len({r["cell"] for r in by_cpus.values()}) == 2
    for cpus, record in by_cpus.items():
        assert tuple(record["evidence"]["placement"]["affinity"]) == cpus
        assert [kind["core"] for kind in record["environment"]["clusters"]] == ["Cortex-A55", "Cortex-A76"]
        assert record["evidence"]["observed"]["governor"] == ("performance" if cpus == (big,) else "schedutil")
        assert record["evidence"]["observed"]["clusters"] == [
            {"cpus": [little], "core": "Cortex-A55", "frequency_mhz": [1700, 1700], "governor": "schedutil"},
            {"cpus": [big], "core": "Cortex-A76", "frequency_mhz": [2300, 2300], "governor": "performance"},
        ]


def test_where_all_are_alike_none_is_big(cli, mlp_path, command_cache):
    usable = sorted(os.sched_getaffinity(0))
    board(command_cache / "work/machines/alike", dict.fromkeys(usable, A76))
    done = fake(cli, mlp_path, "fake:machine=alike", "--cpus", "big")
    assert done.code == 2
    assert "of one kind: none is big" in done.stderr
