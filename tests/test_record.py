"""Records: lines and records survive their files whole, verdicts follow from facts, and nothing in them is private."""

from __future__ import annotations

import base64
import json
import random
import re
import typing
import zlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import fold as folds
from bench import record as r
from bench.errors import RecordError
from bench.report import words
from bench.store import read_lines, read_records

HERE = Path(__file__).parent
GOLDEN = HERE / "golden" / "schema-1.jsonl"
README = HERE.parent / "results" / "README.md"
LINES = list(read_lines(GOLDEN))
CASE = next(line for line in LINES if isinstance(line, r.CaseLine))
TRIAL = next(line for line in LINES if isinstance(line, r.TrialLine))
END = r.EndLine(schema=1, id=CASE.id, stopped_by="enough trials")
replace = msgspec.structs.replace

TEXT = st.text(max_size=12)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
INT64 = st.integers(-(2**63), 2**63 - 1)


def strategy(kind: typing.Any) -> st.SearchStrategy:
    """Values of a struct's field, from its annotation."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is typing.Any:
        return st.one_of(st.none(), TEXT, INT64, FLOAT)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind)
        fields = {f: strategy(hints[f]) for f in kind.__struct_fields__}
        if "schema" in fields:
            fields["schema"] = st.just(r.SCHEMA)
        return st.builds(kind, **fields)
    if origin is typing.Literal:
        return st.sampled_from(args)
    if origin is list:
        return st.lists(strategy(args[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(TEXT, strategy(args[1]), max_size=3)
    if origin is tuple:
        return st.tuples(*(strategy(a) for a in args))
    if args:
        return st.one_of(*(strategy(a) for a in args))
    return {str: TEXT, int: INT64, float: FLOAT, bool: st.booleans(), type(None): st.none()}[kind]


SERIES = st.builds(r.Series, scope=TEXT, clock=TEXT, samples_ns=st.lists(INT64, max_size=40))


@settings(max_examples=60)
@given(st.one_of(*(strategy(kind) for kind in typing.get_args(r.Line))))
def test_every_line_comes_back_from_its_bytes(line):
    data = r.encode_line(line)
    assert b"\n" not in data
    assert r.decode_line(data) == line


@given(st.lists(SERIES, max_size=3))
def test_samples_come_back_exactly(series):
    line = replace(TRIAL, series=series)
    assert r.decode_line(r.encode_line(line)).series == series


@pytest.mark.parametrize("samples", [[], [0], [2**63 - 1, -(2**63), 2**63 - 1], [-(2**63)], [5] * 1000])
def test_samples_at_the_ends_of_int64(samples):
    line = replace(TRIAL, series=[r.Series(scope="end_to_end", clock="host", samples_ns=samples)])
    assert r.decode_line(r.encode_line(line)) == line


@settings(max_examples=60)
@given(strategy(r.Record))
def test_every_record_comes_back_from_its_json(record):
    data = record.to_json()
    assert b"\n" not in data
    assert r.Record.from_json(data) == record


def test_bytes_that_are_no_text_do_not_stop_a_line():
    """A file's name need not be UTF-8; Python hands such bytes on as lone surrogates, which JSON lacks."""
    line = replace(CASE, source="caf\udce9.onnx", notes=["\udce9"])
    assert r.decode_line(r.encode_line(line)).source == "caf?.onnx"
    record = folds.fold(line, [TRIAL], END)
    assert r.Record.from_json(record.to_json()).notes == ["?"]


def changed(**series):
    data = json.loads(r.encode_line(TRIAL))
    data["series"][0] |= series
    return json.dumps(data).encode()


def packed(raw):
    return base64.b64encode(zlib.compress(raw)).decode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"3",
        b"\xff\xfe",
        b'{"type": "trial"}',
        b'{"type": "other", "schema": 1}',
        b'{"type": "end", "schema": 1}',
        b'{"type": "end", "schema": 1, "id": 7, "stopped_by": ""}',
        b'{"type": "trial", "schema": 1, "series": 5}',
        b'{"type": "trial", "schema": 1, "series": ["x"]}',
        b'{"type": "trial", "schema": 1, "series": [{}]}',
        changed(n=1),
        changed(n="many"),
        changed(delta_zlib_base64="not base64!"),
        changed(delta_zlib_base64=7),
        changed(delta_zlib_base64=base64.b64encode(b"not deflated").decode()),
        changed(delta_zlib_base64=packed(b"1234567"), n=0),
    ],
)
def test_a_bad_line_is_a_record_error(data):
    with pytest.raises(RecordError):
        r.decode_line(data)


@pytest.mark.parametrize(
    ("schema", "hint"),
    [(2, "newer"), (0, "not written"), (None, "not written"), ("1", "not written"), (True, "not written")],
)
def test_another_schema_says_what_to_do(schema, hint):
    data = json.loads(r.encode_line(END)) | {"schema": schema}
    with pytest.raises(RecordError, match=hint):
        r.decode_line(json.dumps(data).encode())
    record = json.loads(folds.fold(CASE, [TRIAL], END).to_json()) | {"schema": schema}
    with pytest.raises(RecordError, match=hint):
        r.Record.from_json(json.dumps(record).encode())


def test_fields_of_a_later_version_are_passed_over():
    data = json.loads(r.encode_line(END)) | {"colour": "green"}
    assert r.decode_line(json.dumps(data).encode()) == END


def test_the_golden_file_folds_to_the_golden_records():
    """A run file of schema 1 as it was written. Never change it; the records may gain fields, and no more."""
    wanted = [json.loads(line) for line in GOLDEN.with_name("schema-1.records.json").read_text().splitlines()]
    assert [json.loads(record.to_json()) for record in read_records(GOLDEN)] == wanted
    assert [w["status"] for w in wanted] == ["ok", "ok", "wrong", "crashed", "unsupported"]


# What becomes of a case.


def trial(index=0, *, foreign=0.0, series=True, parity=True, fits=True, error=None, samples=(5, 6, 7)):
    """A trial as it may have gone. `parity`: passed, failed, or None for no reference; `foreign` None: not known."""
    judged = None if parity is None else replace(TRIAL.parity, passed=parity, problem="" if parity else "y: off")
    made = [r.Series(scope="end_to_end", clock="host", samples_ns=list(samples))] if series else []
    return replace(
        TRIAL,
        index=index,
        error=error,
        series=made,
        fits=fits if series else None,
        parity=judged,
        load=replace(TRIAL.load, foreign_cpu=foreign, reason="" if foreign is not None else "no /proc/stat")
        if series
        else None,
    )


def failure(error, phase="load"):
    return r.ErrorFacts(phase=phase, kind="x", error=error, message="what happened")


def ended(stopped_by="enough trials", error=None):
    return replace(END, stopped_by=stopped_by, error=error)


QUIET = replace(CASE, max_foreign_cpu=0.03, trials_wanted=3)
BUSY = 0.5
OK3 = [trial(0), trial(1), trial(2)]


@pytest.mark.parametrize(
    ("status", "trials", "end"),
    [
        ("ok", OK3, ended()),
        ("ok", OK3[:1], ended("the budget is spent")),
        ("ok", OK3[:2], None),
        ("wrong", [trial(0, parity=False)], ended("its answers are wrong")),
        ("wrong", [trial(0), trial(1, parity=False)], ended()),
        ("wrong", [trial(0, parity=False, foreign=BUSY)], ended()),
        ("wrong", [trial(0, parity=False, fits=False)], ended()),
        ("wrong", [trial(0, parity=False, series=False, error=failure("Crashed"))], ended()),
        ("wrong", [trial(0, parity=False), trial(1, series=False, error=failure("Timeout"))], None),
        ("unavailable", [], ended(error=failure("BackendUnavailable"))),
        ("unsupported", [], ended(error=failure("UnsupportedModel"))),
        ("unsupported", [trial(0, series=False, parity=None, error=failure("UnsupportedModel"))], ended()),
        ("failed", [], ended(error=failure("PrepareError"))),
        ("failed", [trial(0, series=False, error=failure("LoadError"))], ended()),
        ("failed", [trial(0, error=failure("BenchError"))], ended()),
        ("failed", [trial(0, series=False, error=failure("SomethingNew"))], ended()),
        ("crashed", [trial(0), trial(1, series=False, error=failure("Crashed"))], ended("a trial failed")),
        ("crashed", [trial(0, foreign=BUSY), trial(1, series=False, error=failure("Crashed"))], None),
        ("timeout", [trial(0, series=False, parity=None, error=failure("Timeout"))], ended()),
        ("skipped", [], ended("the budget is spent")),
        ("skipped", [], None),
        ("failed", [trial(0, parity=None)], ended()),
        ("failed", [trial(0), trial(1, parity=None)], ended()),
        ("failed", [trial(0, series=False)], ended()),
        ("failed", [trial(0), trial(1, samples=())], ended()),
        ("implausible", [trial(0), trial(1, fits=False)], ended()),
        ("implausible", [trial(0, fits=None)], ended()),
        ("implausible", [trial(0, fits=False, foreign=BUSY)], ended()),
        ("noisy", [trial(i, foreign=BUSY) for i in range(6)], ended("the machine stayed busy")),
        ("noisy", [trial(0, foreign=None)], ended()),
        ("noisy", [trial(0, foreign=BUSY), trial(1, foreign=BUSY), trial(2)], None),
        ("noisy", [trial(i, foreign=BUSY if i else 0.0) for i in range(6)], ended("the machine stayed busy")),
        ("ok", [trial(0, foreign=BUSY), trial(1), trial(2), trial(3)], ended()),
        ("ok", [trial(0, foreign=BUSY), trial(1)], ended("the budget is spent")),
    ],
)
def test_the_status_of_a_case(status, trials, end):
    record = folds.fold(QUIET, trials, end)
    assert record.status == status
    assert bool(record.why) is (status != "ok")
    assert words.published(record) is (status == "ok")
    assert record.evidence.complete is (end is not None)
    assert (record.status in r.FAILING) is (status in ("wrong", "failed", "crashed", "timeout", "implausible"))


def test_a_record_keeps_the_error_beside_the_verdict():
    record = folds.fold(QUIET, [trial(0, parity=False, series=False, error=failure("Crashed"))], ended())
    assert record.status == "wrong"
    assert record.error.error == "Crashed"
    assert record.why == "y: off"


def test_answers_that_are_always_the_same_prove_nothing():
    case = replace(QUIET, reference=replace(QUIET.reference, constant=True))
    record = folds.fold(case, OK3, ended())
    assert record.status == "implausible"
    assert "the same for every input" in record.why
    assert folds.fold(case, [trial(0, parity=False)], ended()).status == "wrong"


def test_without_a_reference_nothing_is_ok():
    assert folds.fold(replace(QUIET, reference=None), OK3, ended()).status == "failed"


def test_any_load_is_accepted_where_all_was_asked_for():
    case = replace(QUIET, max_foreign_cpu=1.0)
    record = folds.fold(case, [trial(0, foreign=0.9), trial(1, foreign=None), trial(2)], ended())
    assert record.status == "ok"
    assert record.evidence.foreign_cpu is None
    assert record.evidence.load_reason == "no /proc/stat"
    assert "ᶜ" in words.marks_of(record)


def test_latency_is_of_the_quiet_trials_alone():
    noisy = trial(0, foreign=BUSY, samples=[1000] * 40)
    record = folds.fold(QUIET, [noisy, trial(1, samples=[5, 6]), trial(2, samples=[7])], ended())
    assert record.latency.samples_ns == [5, 6, 7]
    assert record.latency.trial_p50_ns == [5, 7]
    assert record.evidence.trials_noisy == 1
    assert record.evidence.foreign_cpu == 0
    busy = folds.fold(QUIET, [noisy], ended())
    assert busy.latency.n == 40
    assert busy.status == "noisy"


def test_every_scope_is_kept_and_the_first_leads():
    series = [r.Series(scope=s, clock=c, samples_ns=[1, 2]) for s, c in (("end_to_end", "host"), ("compute", "device"))]
    record = folds.fold(QUIET, [replace(t, series=series) for t in OK3], ended())
    assert [(x.scope, x.clock, x.n) for x in record.latencies] == [("end_to_end", "host", 6), ("compute", "device", 6)]
    assert record.latency == record.latencies[0]


TRIALS = st.lists(
    st.builds(
        trial,
        foreign=st.sampled_from([0.0, 0.02, 0.5, None]),
        series=st.booleans(),
        parity=st.sampled_from([True, True, False, None]),
        fits=st.sampled_from([True, True, False, None]),
        error=st.sampled_from([None, None, failure("Crashed"), failure("Timeout"), failure("LoadError")]),
        samples=st.lists(st.integers(1, 10**9), max_size=5),
    ),
    max_size=5,
).map(lambda trials: [replace(t, index=i) for i, t in enumerate(trials)])
ENDS = st.sampled_from([None, ended(), ended(error=failure("UnsupportedModel"))])


@settings(max_examples=300)
@given(TRIALS, ENDS, st.randoms(use_true_random=False))
def test_the_order_of_lines_does_not_matter(trials, end, shuffler):
    shuffled = list(trials)
    shuffler.shuffle(shuffled)
    assert folds.fold(QUIET, shuffled, end) == folds.fold(QUIET, trials, end)


@settings(max_examples=300)
@given(TRIALS, ENDS)
def test_ok_says_all_that_it_promises(trials, end):
    record = folds.fold(QUIET, trials, end)
    assert r.Record.from_json(record.to_json()) == record
    if record.status != "ok":
        assert record.why
        return
    assert record.error is None
    assert record.parity.passed
    assert record.latency.n == len(record.latency.samples_ns) > 0
    for t in trials:
        assert t.series
        assert t.parity.passed
        assert t.fits
        assert not t.error


@settings(max_examples=200)
@given(TRIALS, st.data())
def test_one_bad_trial_more_never_makes_a_case_ok(trials, data):
    bad = data.draw(
        st.sampled_from(
            [trial(9, parity=False), trial(9, fits=False), trial(9, series=False, error=failure("Crashed"))]
        )
    )
    assert folds.fold(QUIET, [*trials, bad], ended()).status != "ok"


def test_a_worse_parity_stands_for_the_case():
    mild, bad = (replace(TRIAL.parity, outputs=[replace(TRIAL.parity.outputs[0], exceed=e)]) for e in (0.1, 0.9))
    trials = [replace(t, parity=p) for t, p in zip(OK3, (mild, bad, mild), strict=True)]
    assert folds.fold(QUIET, trials, ended()).parity.outputs[0].exceed == 0.9


@pytest.mark.parametrize(
    ("producer", "runtimes", "independent"),
    [
        ("onnxruntime", {"ncnn": "1"}, True),
        ("onnxruntime", {"onnxruntime": "1.20"}, False),
        ("onnxruntime", {"onnxruntime-gpu": "1.20"}, False),
        ("onnxruntime and torch", {"onnxruntime": "1.20"}, False),
        ("torch", {"onnxruntime": "1.20"}, True),
        ("onnx", {"onnxruntime": "1.20"}, True),
    ],
)
def test_a_runtime_is_not_judged_by_itself_unseen(producer, runtimes, independent):
    case = replace(QUIET, reference=replace(CASE.reference, producer=producer))
    record = folds.fold(case, [replace(t, runtimes=runtimes) for t in OK3], ended())
    assert record.parity.independent is independent
    assert ("ᵃ" in words.marks_of(record)) is not independent


def test_a_trial_that_died_early_does_not_hide_the_environment():
    early = replace(
        trial(3, series=False, parity=None, error=failure("Timeout", "connect")), environment={}, runtimes={}
    )
    record = folds.fold(QUIET, [*OK3, early], ended())
    assert record.environment["cpu"] == TRIAL.environment["cpu"]
    assert record.environment["runtimes"] == TRIAL.runtimes


# The page that explains it all.


def structs():
    return [k for k in vars(r).values() if isinstance(k, type) and issubclass(k, msgspec.Struct)]


def sections():
    """The page's field tables: `Struct` in a heading, its fields in the first column below it."""
    found = {}
    name = None
    for line in README.read_text().splitlines():
        if heading := re.match(r"#+ .*`(\w+)`", line):
            name = heading[1]
        elif line.startswith("#"):
            name = None
        elif name and (row := re.match(r"\| ((?:`\w+`(?:, )?)+) \|", line)):
            found.setdefault(name, []).extend(re.findall(r"`(\w+)`", row[1]))
    return found


@pytest.mark.parametrize("kind", structs(), ids=lambda k: k.__name__)
def test_the_page_names_every_field_and_no_other(kind):
    assert sorted(sections()[kind.__name__]) == sorted(kind.__struct_fields__)


def test_the_page_knows_no_other_struct():
    assert set(sections()) == {k.__name__ for k in structs()}


def test_the_page_names_every_status_and_its_exit_code():
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d) \|", README.read_text(), re.MULTILINE))
    assert set(rows) == set(typing.get_args(r.Status))
    assert {status for status, code in rows.items() if code == "1"} == r.FAILING


def test_the_page_s_snippet_reads_samples(tmp_path, capsys):
    (snippet,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(snippet.splitlines()) <= 8
    folder = tmp_path / "results" / "records" / "machine"
    folder.mkdir(parents=True)
    (folder / "run.jsonl").write_bytes(GOLDEN.read_bytes())
    names: dict[str, typing.Any] = {}
    code = snippet.replace('"results/', f'"{tmp_path}/results/')
    assert code != snippet
    exec(compile(code, "snippet", "exec"), names)
    wanted = [s.samples_ns for line in LINES if isinstance(line, r.TrialLine) for s in line.series]
    assert [list(s) for s in names["samples"]] == wanted
    capsys.readouterr()


def test_a_shuffled_file_of_lines_folds_alike(tmp_path):
    lines = GOLDEN.read_bytes().splitlines(keepends=True)
    random.Random(3).shuffle(lines)
    (tmp_path / "run.jsonl").write_bytes(b"".join(lines))
    assert {x.id: x for x in read_records(tmp_path / "run.jsonl")} == {x.id: x for x in read_records(GOLDEN)}
