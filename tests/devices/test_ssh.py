"""A machine behind ssh, on a real sshd: words arrive as they are, files arrive whole, and what fails is said."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path, PurePosixPath

import pytest
from device_rig import PYTHON, board_processes, processes
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bench.errors import HostError, Timeout, Unreachable
from bench.hosts import ssh, upload
from bench.hosts.ssh import explain

SHOW = "import sys; sys.stdout.buffer.write('\\0'.join(sys.argv[1:]).encode('utf-8', 'surrogateescape'))"


@pytest.fixture
def quickly(monkeypatch):
    """A silent link is noticed after seconds."""
    short = ("ServerAliveInterval=1", "ServerAliveCountMax=2", "ConnectTimeout=3")
    names = {o.partition("=")[0] for o in short}
    monkeypatch.setattr(ssh, "OPTIONS", (*(o for o in ssh.OPTIONS if o.partition("=")[0] not in names), *short))
    monkeypatch.setattr(ssh, "CONNECT_S", 3)


def test_a_command(ssh_host):
    done = ssh_host().run([PYTHON, "-c", "import sys; print(sys.stdin.read()); sys.exit(3)"], stdin=b"in", timeout_s=30)
    assert (done.code, done.stdout) == (3, b"in\n")


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])), min_size=1, max_size=4))
@example(["$(touch pwned)", "`touch pwned`", "; touch pwned", "a\nb", "-x", "'", '"', "\\", "!", "", " "])
def test_every_word_arrives_as_it_is(ssh_host, words):
    host = getattr(test_every_word_arrives_as_it_is, "host", None)
    if host is None or host.login.label != "words" or not os.path.isdir(host._folder):
        host = test_every_word_arrives_as_it_is.host = ssh_host(name="words")
    done = host.run([PYTHON, "-c", SHOW, *words], timeout_s=30)
    assert done.stdout.decode().split("\0") == words


def test_one_connection_is_shared(ssh_host, relay):
    host = ssh_host(relay.port)
    for _ in range(3):
        host.run(["true"], timeout_s=30)
    assert len(relay._pairs) == 1


def test_variables_of_a_device_reach_its_programs(ssh_host, sshd):
    host = ssh.SshHost(ssh.Login("v", "v", str(sshd.config("v"))), environment={"A_B": "x y'$(z)"})
    try:
        assert host.run(["printenv", "A_B"], timeout_s=30).stdout == b"x y'$(z)\n"
    finally:
        host.close()


def test_a_command_that_takes_too_long(ssh_host):
    with pytest.raises(Timeout, match="on loop took longer"):
        ssh_host().run(["sleep", "60"], timeout_s=1)


# --- files


def tree(folder, **files):
    for name, data in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def test_a_folder_arrives_whole_and_once(ssh_host, tmp_path, board_cache):
    source = tree(tmp_path / "s", a=b"1" * 3_000_000, deep__b=b"", deep__c=b"\0\xff")
    host = ssh_host()
    there = host.put(source, "key")
    assert there == PurePosixPath(board_cache / "objects" / "key")
    assert {p: (board_cache / "objects/key" / p).read_bytes() for p in ("a", "deep/b", "deep/c")} == {
        p: (source / p).read_bytes() for p in ("a", "deep/b", "deep/c")
    }
    assert host.sent_bytes == 3_000_002
    assert host.put(source, "key") == there
    again = ssh_host(name="again")
    assert again.put(source, "key") == there
    assert again.sent_bytes == 0, "what is there is not sent again, in another process neither"


def test_of_a_users_folder_only_the_model_is_sent(ssh_host, tmp_path, board_cache):
    source = tree(tmp_path / "s", model=b"m", secret=b"s")
    there = ssh_host().put(source, "k", ["model"])
    assert [p.name for p in (board_cache / "objects" / there.name).iterdir()] == ["model"]


def test_a_file_keeps_its_name(ssh_host, tmp_path, board_cache):
    (tmp_path / "it's $(x).bin").write_bytes(b"x")
    there = ssh_host().put(tmp_path / "it's $(x).bin", "k")
    assert (board_cache / "objects/k" / there.name).read_bytes() == b"x"


def test_a_key_does_not_lead_out_of_the_folder(ssh_host, tmp_path, board_cache):
    (tmp_path / "f").write_bytes(b"x")
    there = ssh_host().put(tmp_path / "f", "../../$(x)/y")
    assert there.parent.parent == PurePosixPath(board_cache / "objects")


def test_an_upload_goes_on_where_it_was_cut(ssh_host, relay, tmp_path, board_cache, monkeypatch):
    source = tree(tmp_path / "s", a=os.urandom(1 << 20), b=os.urandom(40 << 20))
    host = ssh_host(relay.port)
    host.survey()

    def cut():
        while relay.carried_bytes < (15 << 20):
            time.sleep(0.001)
        relay.kill()

    cutter = threading.Thread(target=cut)
    cutter.start()
    with pytest.raises(Unreachable, match="lost while a was sent"):
        host.put(source, "k")
    cutter.join()
    assert not (board_cache / "objects/k").exists(), "half an object is none"
    host.put(source, "k")
    assert 0 < host.sent_bytes < (40 << 20), "what had arrived was not sent again"
    assert (board_cache / "objects/k/b").read_bytes() == (source / "b").read_bytes()
    assert list((board_cache / "incoming").iterdir()) == []


def test_what_was_spoilt_in_between_is_sent_again(ssh_host, tmp_path, board_cache):
    source = tree(tmp_path / "s", a=b"12345678")
    part = board_cache / "incoming" / "k" / "a.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"1x34")
    host = ssh_host()
    host.put(source, "k")
    assert host.sent_bytes == 8
    assert (board_cache / "objects/k/a").read_bytes() == b"12345678"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: os.truncate(path, 1 << 20), "became shorter"),
        (lambda path: path.write_bytes(bytes(8 << 20)), "was written to"),
    ],
)
def test_a_file_that_changes_while_it_is_sent_does_not_arrive(
    ssh_host, tmp_path, board_cache, monkeypatch, change, said
):
    source = tree(tmp_path / "s", a=bytes(8 << 20))
    send = upload.Upload._move

    def once(*args):
        monkeypatch.setattr(upload.Upload, "_move", send)
        moved = send(*args)
        change(source / "a")
        return moved

    monkeypatch.setattr(upload.Upload, "_move", once)
    with pytest.raises(HostError, match=said):
        ssh_host().put(source, "k")
    assert not (board_cache / "objects/k").exists()


def test_where_the_kernel_moves_no_files_they_are_copied(ssh_host, tmp_path, board_cache, monkeypatch):
    def cannot(*args):
        raise OSError(errno.EINVAL, "")

    monkeypatch.setattr(upload.os, "sendfile", cannot)
    source = tree(tmp_path / "s", a=os.urandom(3 << 20))
    ssh_host().put(source, "k")
    assert (board_cache / "objects/k/a").read_bytes() == (source / "a").read_bytes()


def test_a_link_that_cannot_be_spliced_is_copied_from(tmp_path):
    data = os.urandom(3 << 20)
    header = json.dumps({"key": "k", "files": [["a", len(data), 0o644]], "sha256": "", "content": []}).encode()
    (tmp_path / "link").write_bytes(b"%010d" % len(header) + header + data + b".")
    program = Path(ssh.__file__).with_name("receive.py")
    with (tmp_path / "link").open("rb") as link:
        subprocess.run([sys.executable, "-I", program, tmp_path / "board"], stdin=link, check=True, timeout=60)
    assert (tmp_path / "board/objects/k/a").read_bytes() == data


def test_files_come_back(ssh_host, tmp_path):
    source = tree(tmp_path / "s", a=b"1", deep__b=b"2")
    ssh_host().get(PurePosixPath(source), tmp_path / "copy")
    assert (tmp_path / "copy/deep/b").read_bytes() == b"2"
    with pytest.raises(HostError, match="could not be fetched"):
        ssh_host().get(PurePosixPath(tmp_path / "absent"), tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system takes root")
def test_a_full_disk(ssh_host, tmp_path, board_cache):
    board_cache.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", board_cache], check=True)
    try:
        with pytest.raises(HostError, match="no space left on loop") as caught:
            ssh_host().put(tree(tmp_path / "s", a=bytes(5 << 20)), "k")
        assert "devices clean" in caught.value.hint
        assert list((board_cache / "incoming").iterdir()) == [], "what did not fit is gone"
    finally:
        subprocess.run(["umount", board_cache], check=True)


# --- what fails


def test_a_refused_connection(ssh_host, relay):
    relay.close()
    with pytest.raises(Unreachable, match="loop refused the connection"):
        ssh_host(relay.port).run(["true"], timeout_s=30)


def test_a_changed_host_key_is_never_accepted(ssh_host):
    with pytest.raises(HostError, match="the host key of loop has changed") as caught:
        ssh_host(host_key="otherkey").run(["true"], timeout_s=30)
    assert not isinstance(caught.value, Unreachable), "trying again would not help"


def test_an_unknown_host_key_is_never_accepted(ssh_host, sshd):
    host = ssh_host(name="unknown")
    (sshd.folder / "known_unknown").write_text("")
    with pytest.raises(HostError, match="the host key of unknown is not known"):
        host.run(["true"], timeout_s=30)
    assert (sshd.folder / "known_unknown").read_text() == ""


def test_a_key_that_is_not_let_in(ssh_host):
    with pytest.raises(HostError, match="loop did not let us in") as caught:
        ssh_host(key="stranger").run(["true"], timeout_s=30)
    assert "ssh-copy-id" in caught.value.hint


def test_no_python_there(ssh_host):
    with pytest.raises(HostError, match="loop has no python9") as caught:
        ssh_host(python="python9").survey()
    assert "devices.toml" in caught.value.hint


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"python": "3.8.10", "abi": "cp38"}, "has Python 3.8.10, a worker needs 3.10"),
        ({"bits": 32, "arch": "armv7l"}, "runs a 32-bit system"),
        ({"system": "Darwin"}, "only Linux"),
        ({"writable": False}, "cannot be written to"),
    ],
)
def test_machines_that_cannot_be_used(ssh_host, changed, said):
    from dataclasses import replace

    with pytest.raises(HostError) as caught:
        ssh.require(replace(ssh_host().survey(), **changed), "loop")
    assert said in str(caught.value)


def test_an_old_python_can_say_that_it_is_one(ssh_host):
    old = next((p for p in ("python3.8", "python3.7", "python3.6") if _runs(p)), None)
    if old is None:
        pytest.skip("no Python older than 3.10 here")
    assert ssh_host(python=old).survey().python.startswith("3.")


def _runs(name):
    try:
        return subprocess.run([name, "-c", ""], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def test_a_link_that_falls_silent_is_noticed(ssh_host, relay, quickly):
    host = ssh_host(relay.port)
    link = host.start([PYTHON, "-c", "import sys; print(1, end='', flush=True); sys.stdin.read()"])
    assert os.read(link.read_fd, 1) == b"1"
    relay.drop()
    begin = time.monotonic()
    assert os.read(link.read_fd, 1) == b""
    assert time.monotonic() - begin < 30
    link.close()
    assert host.run(["echo", "back"], timeout_s=30).stdout == b"back\n", "a new connection is made"


def test_what_runs_there_ends_when_its_link_is_gone(ssh_host, relay, board_cache, quickly):
    host = ssh_host(relay.port)
    mark = f"marked-{os.getpid()}"
    link = host.start([PYTHON, "-I", "-c", "import sys; print(1, end='', flush=True); sys.stdin.read()", mark])
    assert os.read(link.read_fd, 1) == b"1"
    assert len(board_processes(mark)) == 1
    relay.kill()
    end = time.monotonic() + 20
    while board_processes(mark) and time.monotonic() < end:
        time.sleep(0.05)
    assert board_processes(mark) == []
    link.close()


def test_closing_leaves_nothing(ssh_host):
    host = ssh_host(name="closing")
    host.run(["true"], timeout_s=30)
    folder = str(host._folder)
    host.close()
    host.close()
    assert not os.path.exists(folder)
    end = time.monotonic() + 10
    while processes(folder) and time.monotonic() < end:
        time.sleep(0.05)
    assert processes(folder) == []


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        ("ssh: connect to host x port 22: No route to host", Unreachable, "does not answer"),
        ("ssh: connect to host x port 22: Connection timed out", Unreachable, "does not answer"),
        ("kex_exchange_identification: read: Connection reset by peer", Unreachable, "was lost"),
        ("Timeout, server x not responding.", Unreachable, "was lost"),
        ("ssh: Could not resolve hostname x: Name or service not known", HostError, "ssh does not know it"),
        ("pi@x: Permission denied (publickey).", HostError, "did not let us in"),
        (
            "/c: line 3: Bad configuration option: foo\n/c: terminating, 1 bad configuration options",
            HostError,
            "accept",
        ),
        ("", Unreachable, "failed"),
        ("something new", Unreachable, "failed"),
    ],
)
def test_what_ssh_says(said, kind, message):
    found = explain(said, "pi5")
    assert type(found) is kind
    assert message in found.message
    assert "pi5" in found.message
    assert found.hint
