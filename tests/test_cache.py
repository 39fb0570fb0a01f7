"""The cache: entries appear whole or not at all, are built once, checked on every use, and give way to a limit."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench import cache as cache_module
from bench.cache import KEEP_S, Cache, key_of
from bench.errors import BenchError, Timeout

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def builder(text="content", calls=None, **facts):
    def build(folder):
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text(text)
        (folder / "other").write_text("other")
        if calls is not None:
            calls.append(folder)
        return facts

    return build


def tree(root):
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def test_an_entry_is_built_once(cache):
    calls = []
    first = cache.get("kind", "k", builder(calls=calls, pair=(1, 2)), summary="words")
    again = cache.get("kind", "k", builder(calls=calls))
    assert len(calls) == 1
    assert (first.hit, again.hit) == (False, True)
    assert again.seconds == 0.0
    assert first.path == again.path
    assert tree(first.path) == ["deep/file", "other"]
    assert first.facts == again.facts == {"pair": [1, 2]}, "facts are JSON, on a miss as on a hit"
    assert (first.sha256, first.size_bytes) == (again.sha256, again.size_bytes) == (first.sha256, 12)


def test_the_hash_of_an_entry_is_that_of_its_files(cache):
    one = cache.get("kind", "a", builder(), summary="one")
    same = cache.get("other", "b", builder(more="facts"), summary="two")
    different = cache.get("kind", "c", builder("contenT"))
    assert one.sha256 == same.sha256 != different.sha256


def test_keys_depend_on_facts_not_on_their_order():
    assert key_of({"a": 1, "b": [2]}) == key_of({"b": [2], "a": 1}) != key_of({"a": 1, "b": [3]})


def replace_byte(entry):
    (entry / "content" / "other").write_text("otheR")


def change_size(entry):
    (entry / "content" / "other").write_text("other and more")


def remove_file(entry):
    (entry / "content" / "other").unlink()


def add_file(entry):
    (entry / "content" / "deep" / "extra").write_text("x")


def truncate_manifest(entry):
    text = (entry / "manifest.json").read_text()
    (entry / "manifest.json").write_text(text[: len(text) // 2])


def manifest_of(value):
    def change(entry):
        (entry / "manifest.json").write_text(json.dumps(value))

    return change


def remove_manifest(entry):
    (entry / "manifest.json").unlink()


DAMAGE = {
    "byte": replace_byte,
    "size": change_size,
    "missing": remove_file,
    "extra": add_file,
    "half a manifest": truncate_manifest,
    "no manifest": remove_manifest,
    "a list": manifest_of([]),
    "no facts": manifest_of({"files": {}, "summary": ""}),
    "odd files": manifest_of({"files": {"other": 3}, "summary": "", "facts": {}}),
    "odd names": manifest_of({"files": [["other"]], "summary": "", "facts": {}}),
    "none": manifest_of(None),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_built_again(cache, damage):
    entry = cache.get("kind", "k", builder())
    DAMAGE[damage](entry.path.parent)
    cache.list()
    again = cache.get("kind", "k", builder("anew"))
    assert not again.hit
    assert tree(again.path) == ["deep/file", "other"]
    assert (again.path / "deep" / "file").read_text() == "anew"
    assert cache.get("kind", "k", builder()).hit


class Odd(Exception):
    pass


@pytest.mark.parametrize(
    "problem", [Odd("x"), KeyboardInterrupt(), BenchError("b"), FileNotFoundError(2, "no", "/etc/x")]
)
def test_a_failed_build_leaves_nothing_and_says_what_it_said(cache, problem):
    def build(folder):
        (folder / "half").write_text("half")
        raise problem

    with pytest.raises(type(problem)) as caught:
        cache.get("kind", "k", build)
    assert caught.value is problem
    assert tree(cache.root) == []
    assert not cache.get("kind", "k", builder()).hit


def test_facts_that_are_no_json_are_the_builders_fault(cache):
    with pytest.raises(TypeError):
        cache.get("kind", "k", builder(fact=object()))
    assert tree(cache.root) == []


# --- several processes

BUILD = """
import os, sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from bench.cache import Cache
def build(folder):
    with open({log!r}, "a") as log:
        log.write("built\\n")
    (folder / "part").write_text("part")
    print("building", flush=True)
    time.sleep({seconds})
    (folder / "rest").write_text("rest")
    return {{}}
entry = Cache(Path({cache!r})).get("kind", "k", build, on_wait=lambda message: print("waiting", flush=True))
print(sorted(os.listdir(entry.path)), entry.hit, flush=True)
"""


@pytest.fixture
def process(cache, tmp_path):
    started = []

    def start(seconds):
        program = BUILD.format(root=str(ROOT), log=str(tmp_path / "log"), cache=str(cache.root), seconds=seconds)
        started.append(subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.wait()
        each.stdout.close()


def test_of_two_processes_one_builds(process, tmp_path):
    both = [process(0.5), process(0.5)]
    said = [each.communicate(timeout=60)[0] for each in both]
    assert (tmp_path / "log").read_text() == "built\n"
    assert sorted(text.splitlines()[-1] for text in said) == ["['part', 'rest'] False", "['part', 'rest'] True"]
    assert "waiting" in "".join(said)


def test_a_builder_that_is_killed_leaves_nothing_that_counts(process, cache):
    builder_process = process(60)
    assert builder_process.stdout.readline() == "building\n"
    assert cache.list() == []
    builder_process.send_signal(signal.SIGKILL)
    builder_process.wait()
    assert cache.list() == []
    assert tree(cache.root / "making"), "it was killed in the middle"
    cache.get("other", "unrelated", builder())
    assert tree(cache.root / "making") == [], "whoever builds next tidies up"
    entry = cache.get("kind", "k", builder())
    assert not entry.hit
    assert tree(entry.path) == ["deep/file", "other"]


def test_what_is_being_built_is_left_alone(process, cache):
    builder_process = process(1.5)
    assert builder_process.stdout.readline() == "building\n"
    cache.get("other", "unrelated", builder())
    cache.clean()
    said, _ = builder_process.communicate(timeout=60)
    assert said == "['part', 'rest'] False\n"


def test_of_many_threads_one_builds(cache):
    calls, entries = [], []
    build = builder(calls=calls)
    threads = [threading.Thread(target=lambda: entries.append(cache.get("kind", "k", build))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(entries) == 6


def test_different_entries_do_not_wait_for_each_other(cache):
    def outer(folder):
        inner = cache.get("kind", "inner", builder())
        (folder / "copy").write_text((inner.path / "other").read_text())
        return {}

    assert tree(cache.get("kind", "outer", outer).path) == ["copy"]


def test_a_wait_without_end_is_not_waited(cache, monkeypatch):
    monkeypatch.setattr(cache_module, "LOCK_LIMIT_S", 0.2)
    messages = []

    def outer(folder):
        cache.get("kind", "k", builder(), on_wait=messages.append)

    with pytest.raises(Timeout, match="kind/k"):
        cache.get("kind", "k", outer)
    assert len(messages) == 1


def test_locks_do_not_pile_up(cache):
    for index in range(20):
        cache.get("kind", str(index), builder())
        cache.get("kind", str(index), builder())
    assert list((cache.root / "locks").iterdir()) == []


def test_no_file_stays_open(cache):
    cache.get("kind", "k", builder())
    before = len(os.listdir("/proc/self/fd"))
    for index in range(10):
        cache.get("kind", str(index), builder())
    cache.clean()
    assert len(os.listdir("/proc/self/fd")) == before


# --- room


def used(cache, key, ago_s):
    stamp = time.time() - ago_s
    os.utime(cache.root / "kind" / key / "manifest.json", (stamp, stamp))


def keys(cache):
    return [entry.key for entry in cache.list()]


def test_a_listing(cache):
    assert cache.list() == []
    for key, ago_s in [("a", 300), ("b", 100), ("c", 200)]:
        cache.get("kind", key, builder(), summary=f"entry {key}")
        used(cache, key, ago_s)
    assert [(e.kind, e.key, e.size_bytes, e.summary) for e in cache.list()] == [
        ("kind", key, 12, f"entry {key}") for key in "bca"
    ]


def test_using_an_entry_makes_it_young(cache):
    for key in "ab":
        cache.get("kind", key, builder())
        used(cache, key, 1000)
    cache.get("kind", "a", builder())
    assert keys(cache) == ["a", "b"]


def test_the_limit_takes_what_was_not_used_for_longest(cache):
    assert cache.limit_bytes is None
    for index, key in enumerate("abcd"):
        cache.get("kind", key, builder())
        used(cache, key, KEEP_S * 2 + index)
    cache.set_limit(30)
    assert cache.limit_bytes == 30
    assert keys(cache) == ["a", "b"]
    cache.get("kind", "new", builder())
    assert keys(cache) == ["new", "a"], "building keeps the limit too"
    cache.set_limit(None)
    assert cache.limit_bytes is None
    cache.get("kind", "b", builder())
    assert len(keys(cache)) == 3


def test_the_limit_does_not_take_what_may_be_in_use(cache):
    for key in "ab":
        cache.get("kind", key, builder())
    cache.set_limit(1)
    assert len(keys(cache)) == 2
    used(cache, "a", KEEP_S + 1)
    cache.set_limit(1)
    assert keys(cache) == ["b"]


def test_a_limit_that_a_person_wrote(cache):
    cache.set_limit(5)
    (cache.root / "limit").write_text("1000\n")
    assert cache.limit_bytes == 1000


def test_an_entry_is_removed(cache):
    for key in "ab":
        cache.get("kind", key, builder())
    (entry,) = [e for e in cache.list() if e.key == "a"]
    cache.remove(entry)
    assert keys(cache) == ["b"]
    cache.remove(entry)
    assert not cache.get("kind", "a", builder()).hit


def test_cleaning_removes_everything(cache):
    for key in "abc":
        cache.get("kind", key, builder())
    remove_manifest(cache.get("kind", "c", builder()).path.parent)
    assert cache.clean() == 24
    assert cache.list() == []
    assert cache.clean() == 0


# --- disks


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(cache, number):
    def build(folder):
        (folder / "half").write_text("half")
        raise OSError(number, os.strerror(number))

    with pytest.raises(BenchError, match="no space left") as caught:
        cache.get("kind", "k", build)
    assert "deploybench cache clean" in caught.value.hint
    assert tree(cache.root) == []


FULL = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from bench.cache import Cache
from bench.errors import BenchError
cache = Cache(Path({folder!r}) / "cache")
def build(folder):
    for index in range(64):
        (folder / str(index)).write_bytes(bytes(1 << 16))
    return {{}}
try:
    cache.get("kind", "k", build)
except BenchError as error:
    print("no space left" in error.message, "cache clean" in error.hint)
print([p for p in cache.root.rglob("*") if p.is_file()])
print(cache.get("kind", "small", lambda folder: {{}}).hit)
"""


@pytest.mark.skipif(os.getuid() != 0 or not Path("/usr/bin/unshare").exists(), reason="needs root and unshare")
def test_a_disk_that_is_really_full(tmp_path):
    (tmp_path / "disk").mkdir()
    program = tmp_path / "program.py"
    program.write_text(FULL.format(root=str(ROOT), folder=str(tmp_path / "disk")))
    disk, python, own = (shlex.quote(str(path)) for path in (tmp_path / "disk", sys.executable, program))
    script = f"mount -t tmpfs -o size=1m none {disk} && exec {python} {own}"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True)
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip(f"needs to mount a small disk: {done.stderr.strip()}")
    assert done.stdout.splitlines() == ["True True", "[]", "False"], done.stderr


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere; run as another user")
def test_a_folder_that_may_not_be_written(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(BenchError, match="cannot be used: Permission denied"):
            Cache(tmp_path / "cache").get("kind", "k", builder())
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize("deeper", ["", "below"])
def test_a_folder_that_is_a_file(tmp_path, deeper):
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="cannot be used") as caught:
        Cache(tmp_path / "file" / deeper).get("kind", "k", builder())
    assert "--cache" in caught.value.hint


def test_a_denial_elsewhere_is_not_blamed_on_the_cache(cache):
    def build(folder):
        raise PermissionError(errno.EACCES, "Permission denied", "/somewhere/else")

    with pytest.raises(PermissionError):
        cache.get("kind", "k", build)
