"""Run files: whole or not at all, torn only at the end, and never shared."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest

from bench.errors import BenchError, RecordError
from bench.record import CaseLine, EndLine, TrialLine
from bench.scan import by_id
from bench.store import RunFile, new_run, read_lines, read_records, run_files

GOLDEN = Path(__file__).parent / "golden" / "schema-1.jsonl"
LINES = list(read_lines(GOLDEN))
CASE = next(line for line in LINES if isinstance(line, CaseLine))
TRIAL = next(line for line in LINES if isinstance(line, TrialLine))
replace = msgspec.structs.replace
# Root may write anywhere; on a full or read-only file system it may not.
AS_ROOT = os.geteuid() == 0


def write(path, *lines):
    with RunFile(path.parents[2], path.parent.name, path.stem) as file:
        for line in lines:
            file.append(line)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "records" / "machine" / "run.jsonl"


def test_what_is_appended_is_read_back(path):
    write(path, *LINES)
    assert list(read_lines(path)) == LINES
    assert read_records(path) == read_records(GOLDEN)


def test_each_line_is_on_the_disk_when_append_returns(tmp_path, path):
    with RunFile(tmp_path, "machine", "run") as file:
        for count, line in enumerate(LINES, start=1):
            file.append(line)
            assert len(list(read_lines(path))) == count


@pytest.mark.parametrize("cut", [1, 2, 100, -1, -2])
def test_a_torn_last_line_is_left_out(path, cut):
    write(path, *LINES)
    data = path.read_bytes()
    start = data.rstrip(b"\n").rindex(b"\n") + 1
    path.write_bytes(data[: start + cut] if cut > 0 else data[:cut])
    assert list(read_lines(path)) == LINES[:-1]


def test_zeros_after_a_power_loss_are_left_out(path):
    write(path, *LINES)
    path.write_bytes(path.read_bytes() + b"\0" * 512)
    assert list(read_lines(path)) == LINES


@pytest.mark.parametrize(
    "bad",
    [
        b"not json",
        b"{}",
        b'{"type":"end","schema":1',
        b"\xff\xfe",
        b'{"type":"end","schema":9,"id":"x","stopped_by":""}',
    ],
)
def test_a_broken_line_is_named_with_its_file(path, bad):
    lines = GOLDEN.read_bytes().splitlines()
    lines[2] = bad
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(RecordError) as caught:
        read_records(path)
    assert f"{path}, line 3" in caught.value.message
    assert ("newer" in caught.value.hint) is (b'"schema":9' in bad)


def test_empty_lines_are_passed_over(path):
    path.parent.mkdir(parents=True)
    path.write_bytes(GOLDEN.read_bytes().replace(b"\n", b"\n\n"))
    assert list(read_lines(path)) == LINES


def test_a_trial_without_its_case_is_an_error(path):
    write(path, TRIAL)
    with pytest.raises(RecordError, match=TRIAL.id):
        read_records(path)


def test_an_empty_file_has_no_records(path):
    path.parent.mkdir(parents=True)
    path.touch()
    assert read_records(path) == []


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(parents=True)])
def test_a_file_that_cannot_be_read(path, make):
    make(path)
    with pytest.raises(RecordError, match="cannot be read"):
        list(read_lines(path))


FULL = """
    import resource, signal, sys
    from pathlib import Path
    from bench.errors import BenchError
    from bench.store import RunFile, read_lines

    lines = list(read_lines(Path(sys.argv[1])))
    file = RunFile(Path(sys.argv[2]), "machine", "run")
    file.append(lines[0])
    size = file.path.stat().st_size
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, resource.RLIM_INFINITY))
    try:
        file.append(lines[1])
    except BenchError as error:
        print(error)
    assert file.path.stat().st_size == size
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    file.append(lines[2])
    file.close()
    assert list(read_lines(file.path)) == [lines[0], lines[2]]
"""


def test_a_full_disk_leaves_whole_lines(tmp_path):
    """A line that fits only in part is taken back, says so, and the next one is whole."""
    assert hasattr(resource, "RLIMIT_FSIZE")
    assert hasattr(signal, "SIGXFSZ")
    program = [sys.executable, "-c", textwrap.dedent(FULL), GOLDEN, tmp_path]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "cannot be written" in done.stdout
    assert "what was written before is kept" in done.stdout


@pytest.mark.skipif(AS_ROOT, reason="root may write everywhere; run the tests as another user")
def test_a_folder_that_may_not_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(BenchError, match="--results"):
        RunFile(tmp_path / "results", "machine", "run")


@pytest.mark.parametrize("below", ["results", "results/deeper"])
def test_a_file_where_the_results_folder_should_be(tmp_path, below):
    (tmp_path / "results").write_text("mine")
    with pytest.raises(BenchError, match="--results"):
        RunFile(tmp_path / below, "machine", "run")
    assert (tmp_path / "results").read_text() == "mine"


def test_two_runs_never_share_a_file(path):
    write(path, *LINES)
    before = path.read_bytes()
    with pytest.raises(BenchError, match="exists already"):
        write(path, CASE)
    assert path.read_bytes() == before


def test_runs_of_the_same_second_have_their_own_names():
    names = [new_run() for _ in range(200)]
    assert len(set(names)) == 200
    assert sorted(names, key=lambda n: n[:16]) == names


def test_a_file_that_holds_nothing_goes(path):
    file = RunFile(path.parents[2], "machine", "run")
    file.close()
    file.close()
    assert not path.exists()


def test_a_thousand_lines(path):
    trials = [replace(TRIAL, index=i) for i in range(1000)]
    path.parent.mkdir(parents=True)
    from bench.record import encode_line

    path.write_bytes(b"".join(encode_line(line) + b"\n" for line in (CASE, *trials)))
    (record,) = read_records(path)
    assert record.evidence.trials == 1000
    assert record.latency.n == 1000 * len(TRIAL.series[0].samples_ns)


def test_files_are_found_in_folders_and_by_name_once(tmp_path):
    first, second = tmp_path / "a" / "2.jsonl", tmp_path / "b" / "c" / "1.jsonl"
    for file in (first, second):
        file.parent.mkdir(parents=True)
        file.touch()
    (tmp_path / "a" / "notes.txt").touch()
    assert run_files([tmp_path, first]) == [second, first]
    assert run_files([first]) == [first]
    with pytest.raises(RecordError, match="there is no"):
        run_files([tmp_path / "none"])


def case(identity):
    return [replace(CASE, id=identity), replace(TRIAL, id=identity), EndLine(schema=1, id=identity, stopped_by="done")]


@pytest.fixture
def results(tmp_path):
    write(tmp_path / "records" / "m" / "1.jsonl", *case("abc1"), *case("abd2"))
    write(tmp_path / "records" / "m" / "2.jsonl", *case("ff00"))
    return tmp_path


@pytest.mark.parametrize(("identity", "wanted"), [("abc1", "abc1"), ("abc", "abc1"), ("f", "ff00")])
def test_a_record_is_found_by_the_beginning_of_its_id(results, identity, wanted):
    assert by_id(identity, results).id == wanted


def test_an_id_that_nothing_or_too_much_begins_with(results):
    with pytest.raises(RecordError, match="no record"):
        by_id("zz", results)
    with pytest.raises(RecordError, match=r"2 records begin with 'ab'; give more of one: abc1, abd2"):
        by_id("ab", results)
    with pytest.raises(RecordError, match="there is no"):
        by_id("ab", results / "nowhere")


@pytest.mark.parametrize("tail", [b'{"type":"trial","sch', b"\0" * 700, b"\0" * 700 + b"\n", b'{"a":\0\0}\n'])
def test_a_cut_end_is_kept_beside_a_file_that_is_taken_up_again(path, tail):
    write(path, *LINES[:2])
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    said = []
    assert list(read_lines(path, said.append)) == LINES[:2]
    (message,) = said
    assert f"cut after {len(tail)} bytes" in message
    cuts = []
    for _ in range(2):
        with RunFile(path.parents[2], path.parent.name, path.stem, resume=True) as file:
            cuts.append(file.cut)
            file.append(LINES[2])
    assert cuts[0].read_bytes() == tail
    assert cuts[1] is None  # there was nothing to take off any more
    assert list(read_lines(path, pytest.fail)) == [*LINES[:2], LINES[2], LINES[2]]


def test_taking_off_a_cut_end_can_be_interrupted_anywhere(path, monkeypatch):
    write(path, CASE)
    path.write_bytes(path.read_bytes() + b"half")

    def dies(*args):
        raise KeyboardInterrupt

    for step in ("ftruncate", "fsync"):
        monkeypatch.setattr(os, step, dies)
        with pytest.raises(KeyboardInterrupt):
            RunFile(path.parents[2], path.parent.name, path.stem, resume=True)
        monkeypatch.undo()
    with RunFile(path.parents[2], path.parent.name, path.stem, resume=True) as file:
        assert file.cut.read_bytes() == b"half"
    assert list(read_lines(path, pytest.fail)) == [CASE]


def test_what_was_measured_again_is_no_record(path):
    first, second, third = (case(name) for name in ("a", "b", "c"))
    second[0] = replace(second[0], replaces="a")
    third[0] = replace(third[0], replaces="b")
    write(path, *first[:2], *second, *third)
    assert [r.id for r in read_records(path)] == ["c"]


def test_lines_of_many_threads_are_whole(path):
    import threading

    count = 30
    with RunFile(path.parents[2], path.parent.name, path.stem) as file:
        file.append(CASE)

        def many(number):
            for index in range(count):
                file.append(replace(TRIAL, index=number * count + index))

        threads = [threading.Thread(target=many, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = [line.index for line in read_lines(path, pytest.fail) if isinstance(line, TrialLine)]
    assert sorted(found) == list(range(4 * count))


def test_a_closed_file_takes_no_line(path):
    file = RunFile(path.parents[2], path.parent.name, path.stem)
    file.append(CASE)
    file.close()
    with pytest.raises(BenchError, match="is closed"):
        file.append(TRIAL)
    assert list(read_lines(path)) == [CASE]
