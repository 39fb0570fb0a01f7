"""Hosts: this machine, and this machine behind a link with faults."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path, PurePosixPath

import pytest

from bench.errors import Timeout, Unreachable, UsageError
from bench.hosts.fake import BANNER, FakeHost, Faults, parse_faults
from bench.hosts.local import STDERR_TAIL_BYTES, LocalHost


@pytest.fixture
def host(tmp_path):
    return LocalHost(tmp_path)


def sh(script):
    return ["/bin/sh", "-c", script]


def read_all(fd):
    found = b""
    while data := os.read(fd, 4096):
        found += data
    return found


def gone(pid):
    """Whether the process has ended; it may be a zombie that its new parent has yet to reap."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_a_command(host):
    done = host.run(sh("cat; echo err >&2; exit 3"), stdin=b"in\0\xff", timeout_s=30)
    assert (done.code, done.stdout, done.stderr) == (3, b"in\0\xff", "err\n")


def test_arguments_are_not_for_a_shell(host):
    argument = "a b'c\"d $HOME; `x` \\ *\n"
    done = host.run([sys.executable, "-c", "import sys; print(ascii(sys.argv[1]))", argument], timeout_s=30)
    assert done.stdout.decode().strip() == ascii(argument)


def test_only_the_end_of_what_a_command_complains_is_kept(host):
    done = host.run(sh("yes | head -c 20000 >&2; printf end >&2"), timeout_s=30)
    assert len(done.stderr) == STDERR_TAIL_BYTES
    assert done.stderr.endswith("end")


def test_a_command_that_takes_too_long_ends_with_all_that_it_started(host, tmp_path):
    script = f"sleep 600 & echo $! > {tmp_path}/pid; sleep 600"
    with pytest.raises(Timeout, match=r"longer than 0.5 s"):
        host.run(sh(script), timeout_s=0.5)
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_command_that_is_not_there(host):
    with pytest.raises(Unreachable, match="No such file"):
        host.run(["/nonexistent"], timeout_s=1)
    with pytest.raises(Unreachable, match="No such file"):
        host.start(["/nonexistent"])
    with pytest.raises(Unreachable, match="Permission denied"):
        host.start(["/etc/passwd"])


def test_a_live_pipe(host):
    link = host.start(sh("echo warn >&2; cat"))
    os.write(link.write_fd, b"there and back")
    assert os.read(link.read_fd, 100) == b"there and back"
    assert link.said() == "warn"
    link.close()
    link.close()
    assert link.said() == ""


def test_a_pipe_whose_command_does_not_end(host, monkeypatch):
    monkeypatch.setattr("bench.hosts.local.CLOSE_LIMIT_S", 0.2)
    link = host.start(sh("echo; trap '' TERM; while :; do sleep 0.1; done"))
    os.read(link.read_fd, 1)
    link.close()
    assert gone(link.pid)


def test_links_leave_no_descriptors(host):
    before = set(os.listdir("/proc/self/fd"))
    for faults in ("", "banner", "garbage", "cut=3"):
        link = FakeHost(host, parse_faults(faults)).start(sh("echo hello; cat"))
        os.read(link.read_fd, 1)
        link.close()
        link.close()
    with pytest.raises(Unreachable):
        host.start(["/nonexistent"])
    assert set(os.listdir("/proc/self/fd")) == before


def test_what_is_here_is_there(host, tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    assert host.put(file, "key") == PurePosixPath(file)
    assert host.workspace == PurePosixPath(tmp_path)
    assert host.python == sys.executable


def test_getting_files_and_folders(host, tmp_path):
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "file").write_text("x")
    host.get(PurePosixPath(source), tmp_path / "folder")
    host.get(PurePosixPath(source / "deep" / "file"), tmp_path / "file")
    assert (tmp_path / "folder" / "deep" / "file").read_text() == (tmp_path / "file").read_text() == "x"
    host.get(PurePosixPath(source), source)
    with pytest.raises(FileNotFoundError):
        host.get(PurePosixPath(tmp_path / "absent"), tmp_path / "target")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder", "source"], "nothing half-copied is left"


# --- the fake device


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("", Faults()),
        ("banner", Faults(banner=True)),
        ("cut=0", Faults(cut_bytes=0)),
        ("banner,cut=12,", Faults(banner=True, cut_bytes=12)),
        ("refuse,garbage", Faults(refuse=True, garbage=True)),
        ("machine=pi_5-a,banner", Faults(machine="pi_5-a", banner=True)),
    ],
)
def test_names_of_faults(text, faults):
    assert parse_faults(text) == faults


@pytest.mark.parametrize(
    "text", ["slow", "cut", "cut=", "cut=x", "cut=-1", "banner=1", "Banner", "machine=", "machine=../x", "machine=a/b"]
)
def test_faults_that_are_none(text):
    with pytest.raises(UsageError) as caught:
        parse_faults(text)
    assert "cut=BYTES" in caught.value.hint


def test_a_refusal(host, tmp_path):
    fake = FakeHost(host, Faults(refuse=True))
    for call in (lambda: fake.run(["true"], timeout_s=1), lambda: fake.start(["true"])):
        with pytest.raises(Unreachable, match="refused"):
            call()


@pytest.mark.parametrize(
    ("faults", "seen"),
    [
        ("", b"hello world"),
        ("banner", BANNER + b"hello world"),
        ("garbage", bytes(11)),
        ("cut=0", b""),
        ("cut=5", b"hello"),
        ("cut=11", b"hello world"),
        ("cut=500", b"hello world"),
    ],
)
def test_what_comes_through(host, faults, seen):
    link = FakeHost(host, parse_faults(faults)).start(sh("printf 'hello '; sleep 0.1; printf world"))
    assert read_all(link.read_fd) == seen
    link.close()


def test_a_fake_link_closes_while_its_buffers_are_full(host):
    threads = threading.active_count()
    link = FakeHost(host, Faults()).start(sh("yes"))
    os.read(link.read_fd, 10)
    time.sleep(0.2)
    link.close()
    assert threading.active_count() == threads
    assert link.said() == ""


def test_a_good_fake_device_is_this_machine(host, tmp_path):
    fake = FakeHost(host, Faults())
    (tmp_path / "file").write_text("x")
    assert fake.run(["cat"], stdin=b"in", timeout_s=30).stdout == b"in"
    assert fake.put(tmp_path / "file", "k") == PurePosixPath(tmp_path / "file")
    fake.get(PurePosixPath(tmp_path / "file"), tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "x"
    assert (fake.python, fake.workspace) == (host.python, host.workspace)
