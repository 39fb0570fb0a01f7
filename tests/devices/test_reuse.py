"""What lies on a board is held against what it should be before it is used again: its power may have been cut."""

from __future__ import annotations

import pytest
from device_rig import sha256_of, toy_wheel

from bench.errors import Unreachable
from bench.evidence import environment

FILES = {"toy/__init__.py": b"x = 1\n", "toy/data": b"0123456789", "toy-1.0.data/platlib/toy/more": b"more"}


@pytest.fixture
def wheel(tmp_path):
    return toy_wheel(tmp_path, FILES)


def test_an_object_that_lost_its_end_is_sent_again(ssh_host, tmp_path, board_cache):
    (tmp_path / "a").write_bytes(b"12345678")
    ssh_host().put(tmp_path / "a", "k")
    (board_cache / "objects/k/a").write_bytes(b"")
    again = ssh_host(name="again")
    again.put(tmp_path / "a", "k")
    assert (board_cache / "objects/k/a").read_bytes() == b"12345678"
    assert again.sent_bytes == 8


def test_a_file_that_is_gone_is_sent_again(ssh_host, tmp_path, board_cache):
    for name in ("a", "b"):
        (tmp_path / "s").mkdir(exist_ok=True)
        (tmp_path / "s" / name).write_bytes(b"1")
    ssh_host().put(tmp_path / "s", "k")
    (board_cache / "objects/k/a").unlink()
    ssh_host(name="again").put(tmp_path / "s", "k")
    assert (board_cache / "objects/k/a").read_bytes() == b"1"


def test_a_wheel_is_unpacked_and_not_sent_twice(ssh_host, wheel, board_cache):
    there = ssh_host().put_wheel(wheel, sha256_of(wheel))
    assert there.name == f"wheel-{sha256_of(wheel)}"
    unpacked = board_cache / "objects" / there.name
    assert (unpacked / "toy/data").read_bytes() == b"0123456789"
    assert (unpacked / "toy/more").read_bytes() == b"more"
    (unpacked / "toy/__pycache__").mkdir()
    (unpacked / "toy/__pycache__/x.pyc").write_bytes(b"what Python compiled there")
    again = ssh_host(name="again")
    assert again.put_wheel(wheel, sha256_of(wheel)) == there
    assert again.sent_bytes == 0
    assert (unpacked / "toy/__pycache__/x.pyc").exists()
    assert environment.brought(["/usr/lib", str(unpacked)]) == {"toy": sha256_of(wheel)}


@pytest.mark.parametrize("name", ["toy/data", "toy/more", "toy-1.0.dist-info/METADATA"])
def test_an_unpacked_wheel_is_whole_before_it_is_used_again(ssh_host, wheel, board_cache, name):
    path = board_cache / "objects" / ssh_host().put_wheel(wheel, sha256_of(wheel)).name / name
    was = path.read_bytes()
    path.write_bytes(was[:-1] + b"?")
    again = ssh_host(name="again")
    again.put_wheel(wheel, sha256_of(wheel))
    assert path.read_bytes() == was
    assert again.sent_bytes == wheel.stat().st_size


def test_a_wheel_of_another_hash_is_not_unpacked(ssh_host, wheel, board_cache):
    with pytest.raises(Unreachable, match="arrived damaged"):
        ssh_host().put_wheel(wheel, "0" * 64)
    assert list((board_cache / "objects").iterdir()) == []
