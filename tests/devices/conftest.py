"""Devices for tests: a native sshd, and an emulated ARM board. Where the board cannot be had, that is said loudly."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import device_rig
from device_rig import PYTHON

from bench.hosts.ssh import Login, SshHost


def pytest_terminal_summary(terminalreporter, config):
    """Loudly: tests that were meant for an ARM board and saw none."""
    if reason := getattr(config, "no_armboard", ""):
        terminalreporter.section("NO ARM BOARD", sep="!", red=True)
        terminalreporter.line(f"Tests for an emulated ARM board ran on this machine's own processor: {reason}")


@pytest.fixture(scope="session")
def sshd(tmp_path_factory):
    """A native sshd on loopback."""
    if reason := device_rig.without_sshd():
        pytest.skip(f"{reason}; without it nothing is reached over ssh")
    server = device_rig.Sshd(tmp_path_factory.mktemp("sshd"))
    yield server
    server.stop()


@pytest.fixture
def relay(sshd):
    """A relay in front of it that can cut."""
    made = device_rig.Relay(sshd.port)
    yield made
    made.close()


@pytest.fixture
def board_cache(tmp_path):
    """Our folder on the native board; nothing of ours may run there in the end."""
    return tmp_path / "board" / "cache"


@pytest.fixture
def ssh_host(sshd, board_cache):
    """Makes hosts of the native sshd: by another port, key, interpreter."""
    made = []

    def make(port=None, *, python=PYTHON, name="loop", say=lambda message: None, **config):
        login = Login(name, name, str(sshd.config(name, port, **config)))
        made.append(SshHost(login, python=python, cache=str(board_cache), say=say))
        return made[-1]

    yield make
    for host in made:
        host.close()


@pytest.fixture
def project(cli, sshd, relay, board_cache):
    """devices.toml of the test's own folder: a native board with this interpreter, and ways in which it fails."""
    entries = {
        "board": f'ssh_config = "{sshd.config("board")}"',
        "behind": f'ssh_config = "{sshd.config("behind", relay.port)}"',
        "changed": f'ssh_config = "{sshd.config("changed", host_key="otherkey")}"',
        "stranger": f'ssh_config = "{sshd.config("stranger", key="stranger")}"',
    }
    common = f'python = "{PYTHON}"\nprovision = false\ncache = "{board_cache}"\n[NAME.cpus]\nfirst = "0"\n'
    text = "".join(f"[{name}]\n{line}\n{common.replace('NAME', name)}" for name, line in entries.items())
    cli.folder.joinpath("devices.toml").write_text(text)
    return cli


@pytest.fixture
def arm(request, tmp_path_factory, sshd):
    """Starts a bare board with a CPU and gives its ssh configuration and the name in it; natively where it must be."""
    if reason := device_rig.without_armboard():
        request.config.no_armboard = reason

        def native(cpu):
            return sshd.config("armboard"), "armboard", False

        yield native
        return
    board = getattr(request.config, "armboard", None)
    if board is None:
        board = request.config.armboard = device_rig.ArmBoard(tmp_path_factory.mktemp("armboard") / "it")

    def emulated(cpu):
        board.stop()
        return board.start(cpu), "armboard", True

    yield emulated
    board.stop()


@pytest.fixture(scope="session")
def arm_vm(tmp_path_factory):
    """A whole emulated ARM machine, bare; switched on by who needs it."""
    if reason := device_rig.without_arm_vm():
        pytest.skip(f"no emulated ARM machine: {reason}")
    machine = device_rig.ArmVm(tmp_path_factory.mktemp("arm_vm"))
    yield machine
    machine.cut_power()
