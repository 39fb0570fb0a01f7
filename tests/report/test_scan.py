"""Records found by their case lines alone are the ones that reading everything finds."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from bench import scan
from bench.errors import RecordError
from bench.record import decode_line, encode_line
from bench.report.sections import latest
from bench.store import read_records, run_files


def everything(results):
    return [r for path in run_files([results]) for r in read_records(path)]


def test_the_newest_are_those_of_reading_everything(history):
    newest, before = scan.newest(run_files([history]), before=True)
    assert newest == latest(everything(history))
    assert [(r.cell, r.id) for r in newest] == [("a", "a2"), ("b", "b2"), ("c", "c0")]
    assert [(r.cell, r.id) for r in before] == [("a", "a1"), ("b", "b1")]
    assert scan.newest(run_files([history])) == (newest, [])


def test_each_record_is_that_of_reading_everything(history):
    for path in run_files([history]):
        assert list(scan.read(path)) == read_records(path)
        assert [r.id for r in scan.read(path, {read_records(path)[1].id})] == [read_records(path)[1].id]


def test_of_one_second_the_later_line_is_newer(history):
    first, second, *_ = run_files([history])
    text = second.read_bytes().replace(b"2026-01-02T02:00:00Z", b"2026-01-01T02:00:00Z")
    second.write_bytes(text)
    newest, _ = scan.newest([first, second])
    assert {r.cell: r.id for r in newest} == {"a": "a1", "b": "b1", "c": "c0"}


def test_lines_whose_fields_were_put_in_another_order_are_found(history):
    for path in run_files([history]):
        lines = [json.dumps(dict(sorted(json.loads(line).items()))) for line in path.read_text().splitlines()]
        path.write_text("\n".join(lines) + "\n\n")
    assert scan.newest(run_files([history]))[0] == latest(everything(history))


def test_only_what_is_shown_has_to_be_readable(history):
    """A damaged line of an old night is named by who asks for that night."""
    oldest = run_files([history])[0]
    lines = oldest.read_bytes().splitlines(keepends=True)
    damaged = b'{"type":"trial","schema":1,"id":"a0","index":0,"series":[{"n":7}]}\n'
    oldest.write_bytes(b"".join([lines[0], damaged, *lines[2:]]))
    assert len(scan.newest(run_files([history]))[0]) == 3
    with pytest.raises(RecordError, match=r"jsonl, line 2: a journal line's samples cannot be read"):
        list(scan.read(oldest))
    oldest.write_bytes(b"".join([lines[0], lines[1][:40] + b"\n", *lines[2:]]))
    with pytest.raises(RecordError, match="jsonl, line 2: a journal line cannot be read"):
        list(scan.read(oldest))


@pytest.mark.parametrize("end", [b'{"type":"trial","sch', b"\0\0\0\0\n", b"{"])
def test_a_cut_last_line_is_passed_over_and_said(history, end):
    newest, _ = scan.newest(run_files([history]))
    last = run_files([history])[-1]
    last.write_bytes(last.read_bytes() + end)
    said = []
    assert scan.newest(run_files([history]), said.append)[0] == newest
    assert len(said) == 1
    assert "the last line was cut" in said[0]


def test_a_newer_schema_is_refused_by_name(history):
    last = run_files([history])[-1]
    lines = last.read_bytes().splitlines(keepends=True)
    last.write_bytes(b"".join([lines[0].replace(b'"schema":1', b'"schema":2'), *lines[1:]]))
    with pytest.raises(RecordError, match="line 1: a journal line has the schema 2") as caught:
        scan.newest(run_files([history]))
    assert "use a newer deploybench" in str(caught.value)


def test_lines_without_their_case_are_refused(history):
    last = run_files([history])[-1]
    last.write_bytes(b"".join(last.read_bytes().splitlines(keepends=True)[1:]))
    with pytest.raises(RecordError, match="but not its first"):
        list(scan.read(last))


def test_what_was_measured_again_does_not_count(history):
    import msgspec

    last = run_files([history])[-1]
    lines = [decode_line(line) for line in last.read_bytes().splitlines()]
    again = [msgspec.structs.replace(line, id="again") for line in lines if line.id == "a2"]
    again[0] = msgspec.structs.replace(again[0], replaces="a2")
    last.write_bytes(last.read_bytes() + b"".join(encode_line(line) + b"\n" for line in again))
    newest, before = scan.newest(run_files([history]), before=True)
    assert newest[0].id == "again"
    assert before[0].id == "a1"
    assert [r.id for r in scan.read(last)] == ["b2", "again"]


def test_memory_does_not_grow_with_the_file(tmp_path, history):
    """Record after record: a file twenty times as long takes less than twice as much."""
    text = run_files([history])[-1].read_bytes()
    peaks = []
    for times in (5, 100):
        path = tmp_path / f"{times}.jsonl"
        path.write_bytes(b"".join(text.replace(b'2","', b'2-%d","' % i) for i in range(times)))
        assert len(list(scan.read(path))) == 2 * times
        tracemalloc.start()
        for _ in scan.read(path):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0] + 100_000
