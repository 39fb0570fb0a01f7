"""A whole ARM machine that qemu imitates: its own kernel, processors, memory and disk. What happens to boards happens.

    pytest -m arm_vm

Ten minutes, most of them imitated work. Needs root, a network for Debian's packages and the wheels, and
`apt install --no-install-recommends qemu-system-arm cpio openssh-server`; where one of these is missing, the tests are
skipped and say which. They are not run unless they are asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import threading
import time

import pytest
from device_rig import assert_right_in_fp32, eventually, records, sha256_of, spans, toy_wheel

from bench.evidence.boot import boot_id
from bench.hosts.ssh import Login, SshHost

pytestmark = [pytest.mark.arm_vm, pytest.mark.timeout(900)]

FAST = ("--trials", "1", "--max-time", "0.5", "--min-time", "0.1", "--min-count", "3", "--max-foreign-cpu", "1")
# Imitated, an interpreter with numpy takes ten seconds to start.
SLOW = ("--limit", "start=120", "--limit", "probe=120", "--limit", "connect=120")


@pytest.fixture
def machine(cli, arm_vm):
    """The machine, switched on, as device `arm` of the command; what it was given before stays on its disk."""
    config = arm_vm.boot() if not arm_vm.on else arm_vm.folder / "ssh_config"
    cli.folder.joinpath("devices.toml").write_text(f'[arm]\nssh = "armboard"\nssh_config = "{config}"\n')
    return arm_vm


@pytest.fixture
def run(cli, machine):
    """`run` on devices; how it ended."""

    def of(*words, devices=("arm",)):
        named = [word for device in devices for word in ("--device", device)]
        done = cli("run", *words, "--batch", "1", *named, *SLOW, env={"PIP_NO_INDEX": "0"}, timeout=600)
        if "could not be fetched" in done.stdout + done.stderr:
            pytest.skip("the package index cannot be reached, and the wheels are not in the cache")
        return done

    return of


def there(machine, *words):
    """What a command prints on the machine."""
    ssh = ("ssh", "-F", machine.folder / "ssh_config", "armboard", *words)
    return subprocess.run(ssh, capture_output=True, text=True, timeout=120, check=True).stdout.strip()


def test_from_a_bare_machine_to_a_table(run, cli, machine, mlp_path, pnnx, command_cache):
    there(machine, "rm", "-rf", ".cache")
    done = run(mlp_path, "-b", "ncnn", "-b", "mnn", *FAST)
    assert done.code == 0, done.stdout + done.stderr
    found = records(cli)
    assert {r["case"]["backend"] for r in found} == {"ncnn", "mnn"}
    for record in found:
        assert_right_in_fp32(record)
        assert "qemu-system" in record["evidence"]["emulated"]
        environment = record["environment"]
        assert environment["arch"] == "aarch64"
        assert environment["kernel"] == f"Linux {there(machine, 'uname', '-r')}"
        assert environment["boot"] not in ("unknown", boot_id())
        assert {name.lower() for name in environment["wheels"]} == {"numpy", record["case"]["backend"]}
        assert {len(sha256) for sha256 in environment["wheels"].values()} == {64}
    assert done.stdout.count("emulated") > 3, "in every table"
    again = run(mlp_path, "-b", "ncnn", "-b", "mnn", *FAST)
    assert again.code == 0, again.stderr
    assert "sending" not in again.stderr, "no byte of an artefact travels twice"


def test_check_tells_of_the_machine_itself(cli, machine):
    done = cli("devices", "check", "arm", "--json")
    (found,) = (json.loads(line) for line in done.stdout.splitlines())
    assert found["missing"] == [], done.stderr
    environment = found["environment"]
    assert environment["kernel"] == f"Linux {there(machine, 'uname', '-r')}"
    assert environment["boot"] == found["boot"] != boot_id()
    assert 900 << 20 < environment["memory_bytes"] <= 1 << 30
    assert environment["clusters"] == [{"cpus": [0, 1], "core": "Cortex-A72", "mhz_max": None}]
    assert "62.5 MHz" in environment["emulated"]
    assert "device tree" in found["virtual"]
    assert 0 < found["free_bytes"] < 2 << 30
    assert "times say nothing of a real machine" in cli("devices", "check", "arm").stdout


def test_it_and_this_machine_measure_at_once(run, cli, mlp_path, command_cache):
    """Unlike a board that borrows this machine's kernel, whose lease is this machine's."""
    run(mlp_path, "-b", "fake", *FAST)  # what it needs is there then, so that the two begin together
    long = (
        "--trials",
        "2",
        "--min-time",
        "30",
        "--max-time",
        "30",
        "--max-foreign-cpu",
        "1",
        "-o",
        "latency_us=100000",
    )
    done = run(mlp_path, "-b", "fake", *long, devices=("local", "arm"))
    assert done.code == 0, done.stdout + done.stderr
    assert len({r["environment"]["boot"] for r in records(cli)}) == 2
    first, second = (trials[-2:] for trials in spans(cli, ("local", "arm")).values())
    assert max(first[0][0], second[0][0]) + 1 < min(first[-1][1], second[-1][1])


def test_power_that_is_cut_in_the_middle_of_a_measurement(run, cli, machine, mlp_path, command_cache):
    before = there(machine, "cat", "/proc/sys/kernel/random/boot_id")
    cut = []

    def power():
        if eventually(lambda: _oldest_child_s(machine) > 45, 300):
            machine.cut_power()
            cut.append(machine.boot())

    thread = threading.Thread(target=power)
    thread.start()
    long = (
        "--trials",
        "1",
        "--min-time",
        "60",
        "--max-time",
        "60",
        "--max-foreign-cpu",
        "1",
        "-o",
        "latency_us=500000",
    )
    done = run(mlp_path, "-b", "fake", *long)
    thread.join()
    assert cut, "the power was cut while it was measured"
    (record,) = records(cli)
    assert record["status"] == "ok" or record["error"]["hint"], record
    assert there(machine, "cat", "/proc/sys/kernel/random/boot_id") != before
    done = run(mlp_path, "-b", "fake", *FAST)
    assert done.code == 0, done.stdout + done.stderr
    assert {r["status"] for r in records(cli) if r["id"] != record["id"]} == {"ok"}


def _oldest_child_s(machine):
    """For how long a child of ours has been running there, in seconds: it takes 20 until its timed loop begins."""
    lines = [line.split(None, 1) for line in there(machine, "ps", "-eo", "etimes,args").splitlines()]
    return max((int(age) for age, words in lines if "bench.worker.child" in words), default=0)


def test_a_wheel_that_was_unpacked_just_before_the_power_was_cut(machine, tmp_path):
    """The disk knows of the file, but has nothing of what was in it: that is noticed, and it is sent again."""
    data = os.urandom(4 << 20)
    wheel = toy_wheel(tmp_path, {"toy/data": data})
    login = Login("armboard", "arm", str(machine.folder / "ssh_config"))
    host = SshHost(login, cache="/home/pi/cut")
    try:
        path = host.put_wheel(wheel, sha256_of(wheel)) / "toy/data"
        time.sleep(8)  # Source: ext4(5): its journal is written every 5 s, the bytes of new files when 30 s have passed
    finally:
        host.close()
    machine.cut_power()
    machine.boot()
    assert int(there(machine, "stat", "-c", "%s", str(path))) < len(data)
    again = SshHost(login, cache="/home/pi/cut")
    try:
        again.put_wheel(wheel, sha256_of(wheel))
        assert again.sent_bytes == wheel.stat().st_size
        assert there(machine, "sha256sum", str(path)).split()[0] == hashlib.sha256(data).hexdigest()
    finally:
        again.close()


def test_a_machine_that_stays_off(run, cli, machine, mlp_path, command_cache):
    machine.cut_power()
    done = run(mlp_path, "-b", "fake", *FAST)
    assert done.code == 1
    (record,) = records(cli)
    assert (record["status"], record["error"]["phase"]) == ("failed", "connect")
    assert "refused the connection" in record["why"]
    assert "is it up" in record["error"]["hint"]


def test_out_of_memory(run, cli, mlp_path, command_cache):
    """The machine's own kernel ends the child, which is the one that it shall take."""
    run(mlp_path, "-b", "fake", *FAST, "-o", "fault=leak", "-o", "leak_mib=256")
    (record,) = records(cli)
    assert record["status"] == "crashed", record["why"]
    assert record["error"]["signal"] == "SIGKILL"
    assert "out of memory" in record["error"]["message"]
    done = run(mlp_path, "-b", "fake", *FAST)
    assert done.code == 0, done.stderr
