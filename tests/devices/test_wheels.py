"""Which wheels fit a board, and what is said where none does."""

from __future__ import annotations

import http.server
import os
import subprocess
import threading
from functools import partial

import pytest
from device_rig import sha256_of, toy_wheel

from bench.cache import Cache
from bench.errors import BackendUnavailable
from bench.provision import wheels
from bench.provision.tags import tags, target

PI5 = tags("aarch64", "glibc 2.36", "3.11.2", "cp311")


def test_tags_of_a_board_with_glibc():
    assert PI5.platforms[0] == "manylinux_2_36_aarch64"
    assert PI5.platforms[-2:] == ("manylinux_2_17_aarch64", "manylinux2014_aarch64")
    assert (PI5.python, PI5.abis) == ("3.11", ("cp311", "abi3", "none"))
    assert target(PI5).libc == "manylinux_2_36"
    assert target(PI5).python == "cp311"


def test_tags_agree_with_the_packaging_library():
    from packaging import tags as packaging

    ours = tags("x86_64", "glibc 2.36", "3.11.7", "cp311")
    theirs = {t.platform for t in packaging.cpython_tags((3, 11), ["cp311"], ours.platforms)}
    assert set(ours.platforms) <= theirs | {"manylinux1_x86_64"}
    assert "manylinux_2_5_x86_64" in ours.platforms
    assert "manylinux1_x86_64" in ours.platforms


def test_tags_of_musl_and_of_free_threads():
    alpine = tags("aarch64", "musl 1.2", "3.13.1", "cp313t")
    assert alpine.platforms == ("musllinux_1_2_aarch64", "musllinux_1_1_aarch64")
    assert alpine.abis == ("cp313t", "none")


@pytest.mark.parametrize("libc", ["", "glibc", "uClibc 1.0", "glibc two"])
def test_a_library_that_nobody_builds_for(libc, tmp_path):
    unknown = tags("aarch64", libc, "3.11.2", "cp311")
    assert unknown.platforms == ()
    with pytest.raises(BackendUnavailable, match="C library is unknown"):
        wheels.fetch("ncnn==1", unknown, Cache(tmp_path), lambda message: None)


def test_an_older_python_gets_the_newest_numpy_that_there_is_for_it():
    assert wheels.numpy_for(tags("aarch64", "glibc 2.35", "3.10.12", "cp310")) == "numpy==2.2.6"
    assert wheels.numpy_for(PI5) == wheels.NUMPY_NOW


def pip_says(monkeypatch, code, stdout="", stderr=""):
    def run(argv, **settings):
        return subprocess.CompletedProcess(argv, code, stdout, stderr)

    monkeypatch.setattr(subprocess, "run", run)


def test_no_wheel_names_what_was_wanted_and_what_is_offered(monkeypatch, tmp_path):
    link = (
        "  Skipping link: none of the wheel's tags ({}) are compatible (run pip debug): https://x/{}#sha256=0 (from z)"
    )
    offered = [
        link.format("cp310-cp310-manylinux_2_28_aarch64", "ncnn-1.0-cp310-cp310-manylinux_2_28_aarch64.whl"),
        link.format("cp311-cp311-win_amd64", "ncnn-1.0-cp311-cp311-win_amd64.whl"),
        link.format("cp311-cp311-manylinux_2_17_aarch64", "ncnn-0.9-cp311-cp311-manylinux_2_17_aarch64.whl"),
    ]
    pip_says(monkeypatch, 1, "\n".join(offered), "ERROR: No matching distribution found for ncnn==1.0")
    with pytest.raises(BackendUnavailable) as caught:
        wheels.fetch("ncnn==1.0", PI5, Cache(tmp_path), lambda message: None)
    assert "wanted cp311, manylinux_2_36_aarch64" in caught.value.message
    assert caught.value.message.endswith("offered cp310-cp310-manylinux_2_28_aarch64")


def test_no_network_is_not_a_missing_wheel(monkeypatch, tmp_path):
    pip_says(monkeypatch, 1, "", "ERROR: Could not find a version that satisfies the requirement ncnn==1.0")
    with pytest.raises(BackendUnavailable) as caught:
        wheels.fetch("ncnn==1.0", PI5, Cache(tmp_path), lambda message: None)
    assert "could not be fetched" in caught.value.message
    assert "run again with a network" in caught.value.hint


class Index(http.server.SimpleHTTPRequestHandler):
    """A package index in a folder; it says nothing on standard error."""

    def log_message(self, format, *args):
        pass


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Makes pip's package index one that has a wheel and says that its SHA-256 is this; the wheel."""
    folder = tmp_path / "index"
    (folder / "toy").mkdir(parents=True)
    wheel = toy_wheel(folder, {"toy/__init__.py": b""})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Index, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def says(sha256):
        link = f'<!DOCTYPE html><a href="/{wheel.name}#sha256={sha256}">{wheel.name}</a>'
        (folder / "toy" / "index.html").write_text(link)
        return wheel

    yield says
    server.shutdown()
    server.server_close()


def test_a_wheel_is_the_one_that_the_index_has_the_hash_of(index, tmp_path):
    wheel = index("0" * 64)
    cache = Cache(tmp_path / "cache")
    with pytest.raises(BackendUnavailable) as caught:
        wheels.fetch("toy==1.0", PI5, cache, lambda message: None)
    assert "not the one that the package index has the SHA-256 of" in caught.value.message
    assert cache.list() == []
    index(sha256_of(wheel))
    fetched = wheels.fetch("toy==1.0", PI5, cache, lambda message: None)
    assert fetched.sha256 == sha256_of(wheel) == sha256_of(fetched.path)


def test_a_wheel_that_was_changed_in_the_cache_is_fetched_again(index, tmp_path):
    wheel = index("0" * 64)
    index(sha256_of(wheel))
    cache = Cache(tmp_path / "cache")
    path = wheels.fetch("toy==1.0", PI5, cache, lambda message: None).path
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert sha256_of(wheels.fetch("toy==1.0", PI5, cache, lambda message: None).path) == sha256_of(wheel)
