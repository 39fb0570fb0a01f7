"""Tables: what a reader sees, that markdown takes it as it is, and that no number stands where none may."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bench
from bench import fold as folds
from bench import record as r
from bench.errors import UsageError
from bench.parity.compare import Tolerance, compare, parse_tolerance
from bench.report import files, markdown, sections, words
from bench.store import read_lines, read_records

GOLDEN = Path(__file__).parent / "golden"
LINES = list(read_lines(GOLDEN / "schema-1.jsonl"))
CASE = next(line for line in LINES if isinstance(line, r.CaseLine))
TRIAL = next(line for line in LINES if isinstance(line, r.TrialLine))
replace = msgspec.structs.replace
MS = 1_000_000


def case(
    model="squeezenet",
    backend="ort-cpu",
    *,
    sha="a" * 64,
    shape=(1, 3, 224, 224),
    machine="board",
    device="local",
    **more,
):
    """A case line; `more` are its own fields, options' fields, or options of the backend."""
    facts = CASE.case
    options = {f: more.pop(f) for f in ("threads", "batch", "precision", "cpus") if f in more}
    extra = more.pop("extra", {})
    line = replace(
        CASE,
        id=f"{model}-{backend}-{sorted(extra.items())}-{machine}",
        cell=repr((model, backend, sha, shape, machine, device, sorted(options.items()), sorted(extra.items()))),
        machine=machine,
        max_foreign_cpu=r.MAX_FOREIGN_CPU,
        trials_wanted=3,
        started_at="2026-11-20T10:00:00Z",
        reference=replace(CASE.reference, producer="torch", version="2.13.0"),
        prepare=replace(CASE.prepare, converter={}),
        case=replace(
            facts,
            model=replace(facts.model, name=model, sha256=sha, shapes={"x": list(shape)}),
            backend=backend,
            device=device,
            options=replace(facts.options, **{"batch": None, **options}, extra=extra),
        ),
    )
    return replace(line, **more)


def trials(*medians, foreign=0.001, parity=None, **more):
    """Trials of 64 samples each, with these medians in milliseconds."""
    environment = {
        "machine": "board",
        "cpu": "Fast CPU",
        "cores": 4,
        "memory_bytes": 8 << 30,
        "os": "Linux 12",
        "kernel": "Linux 6.1",
        "python": "3.11.7",
    }
    made = []
    for index, ms in enumerate(medians):
        samples = [int(ms * MS) + i * 1000 for i in range(-31, 33)]
        facts = {
            "index": index,
            "environment": environment,
            "runtimes": {"onnxruntime": "1.31.1"},
            "series": [r.Series(scope="end_to_end", clock="host", samples_ns=samples)],
            "load": replace(TRIAL.load, foreign_cpu=foreign, reason=""),
            "memory": replace(TRIAL.memory, peak_rss_bytes=100 << 20),
            "cold": replace(TRIAL.cold, load_s=0.0123, first_run_s=0.00871),
            "parity": parity or TRIAL.parity,
        }
        made.append(replace(TRIAL, **{**facts, **more}))
    return made


END = r.EndLine(schema=1, id="", stopped_by="enough trials")


def ok(*args, medians=(6.5, 6.41, 6.62), **more):
    return folds.fold(case(*args, **more), trials(*medians), END)


def failed(error, message, hint="", *args, **more):
    facts = r.ErrorFacts(phase="prepare", kind="x", error=error, message=message, hint=hint)
    return folds.fold(case(*args, **more), [], replace(END, stopped_by="it could not be prepared", error=facts))


def wrong(exceed=20.3, grade="fp16", **output):
    facts = replace(TRIAL.parity.outputs[0], passed=False, exceed=exceed, problem="off", **output)
    judged = replace(TRIAL.parity, passed=False, grade=grade, problem="y: off by 0.01 of its scale", outputs=[facts])
    return folds.fold(case(backend="ncnn"), trials(5, parity=judged), END)


def everything():
    """Records of every kind that a table has to show."""
    noisy = folds.fold(case(backend="mnn"), trials(9, 30, 99, foreign=0.31), END)
    return [
        ok(),
        wrong(),
        noisy,
        failed("UnsupportedModel", "layer Gather | not\nregistered <here>", "export it *again*", "bert", "ncnn"),
        failed("BackendUnavailable", "onnxruntime is not installed", 'pip install "deploybench[cpu]"', "bert"),
        ok("bert", "mnn", medians=(0.0541,)),
        ok("net|pipe", sha="b" * 64, medians=(1234.5, 1200, 1300, 1250, 1260, 1270)),
        ok("twin", sha="c" * 64),
        ok("twin", sha="d" * 64, medians=(0.000012, 0.000013, 0.000014)),
        ok("squeezenet", threads=2, extra={"spinning": True}),
        ok("squeezenet", threads=2, extra={"spinning": False}),
        ok(machine="other", device="ssh:pi"),
    ]


def rows(text):
    """The cells of every table, by GitHub's rules: a pipe that is not escaped parts them."""
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]


def tables(text):
    found = []
    for before, line in zip(["", *text.splitlines()], text.splitlines(), strict=False):
        if line.startswith("|"):
            found.append([]) if not before.startswith("|") else None
            found[-1].append(re.split(r"(?<!\\)\|", line)[1:-1])
    return found


def test_the_golden_table():
    """Every kind of record in one page. If it changes on purpose, read it as a stranger would, and write it anew."""
    text = markdown.document(everything()).replace(f"deploybench {bench.__version__}", "deploybench VERSION")
    path = GOLDEN / "table.md"
    assert text == path.read_text(encoding="utf-8")


def test_every_table_has_as_many_cells_in_each_row():
    for table in tables(markdown.document(everything())):
        assert len({len(row) for row in table}) == 1
        assert all(set(cell.strip()) <= set("-:") and cell.strip() for cell in table[1])
        assert len(table) > 2


def test_p99_9_has_a_column_where_any_case_has_samples_enough():
    """MLPerf's rule takes 6636 of them: 64 in each of 104 trials are."""
    (timed,) = [
        t for t in tables(markdown.document([ok("long", medians=[6.5] * 104), ok("short")])) if "p99" in str(t[0])
    ]
    heads = [head.strip() for head in timed[0]]
    figures = {row[0].strip(): dict(zip(heads, (cell.strip() for cell in row), strict=True)) for row in timed[2:]}
    assert (figures["long"]["p99.9"], figures["short"]["p99.9"]) == ("6.53", "–")
    assert "p99.9" not in markdown.document([ok("short")])


def test_a_golden_run_makes_tables():
    text = markdown.document(read_records(GOLDEN / "schema-1.jsonl"))
    assert text.count("| model") == 4
    assert "SIGSEGV" in text


def test_no_records_make_no_table():
    assert markdown.document([]) == ""


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (None, "–"),
        (0, "0"),
        (1, "0.00000100"),
        (12, "0.0000120"),
        (999, "0.000999"),
        (5_540, "0.00554"),
        (9_996, "0.0100"),
        (10_000, "0.0100"),
        (999_600, "1.00"),
        (1_000_000, "1.00"),
        (3_456_789, "3.46"),
        (12_345_678, "12.3"),
        (99_960_000, "100"),
        (123_456_789, "123"),
        (1_234_567_890, "1235"),
        (100_000_000_000, "100000"),
    ],
)
def test_milliseconds(ns, text):
    assert words.milliseconds(ns) == text


@given(st.integers(1, 10**13))
def test_milliseconds_keep_three_digits(ns):
    text = words.milliseconds(ns)
    assert "e" not in text
    assert float(text) == pytest.approx(ns / 1e6, rel=0.005001)


@pytest.mark.parametrize("record", [r_ for r_ in everything() if r_.status != "ok"], ids=lambda x: x.status)
def test_only_ok_has_a_number(record):
    """A record that is not ok may hold samples; no table, cell or line shows them."""
    text = markdown.document([record])
    assert not words.published(record)
    assert words.cell(record).startswith(f"{record.status}: ")
    assert "p50" not in text
    if record.latency:
        for ns in (record.latency.p50_ns, *record.latency.trial_p50_ns):
            assert words.milliseconds(ns) not in text


@settings(max_examples=100)
@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_keeps_the_table_whole(name, message):
    text = markdown.document([ok(name), failed("LoadError", message, message, name, "mnn"), ok(backend=name)])
    assert {len(row) for row in tables(text)[0]} == {len(tables(text)[0][0])}
    for line in rows(text):
        assert all("\n" not in cell for cell in line)
    assert "\r" not in text


@given(st.text(st.sampled_from("\\|<*`~_& a1;#[](x)\n\t"), max_size=40))
def test_escaped_text_has_no_markdown_left(text):
    escaped = words.escape(text)
    assert "\n" not in escaped
    assert re.sub(r"\\([\\|<*`~_&\]])", r"\1", escaped) == " ".join(text.split())
    bare = re.sub(r"\\.", "", escaped)
    assert not set(bare) & set("|<*`~")
    assert "](" not in bare


@pytest.mark.parametrize(
    "text",
    [
        "test_data_set_0 has no input 'x'",
        "its shape is [1, 3, 224, 224], not [1, 3]",
        "pip install deploybench[cpu]",
        "a & b, R&D",
    ],
)
def test_plain_text_stays_plain(text):
    assert words.escape(text) == text


def test_a_cell_is_short_and_the_list_has_all():
    message = "the converter left the operator Gather of node /emb/Gather unsupported " * 3
    record = failed("UnsupportedModel", message, "export it again")
    assert len(words.cell(record)) < 70
    assert " ".join(message.split()) in markdown.document([record])
    assert "; export it again" in markdown.document([record])


@pytest.mark.parametrize(
    ("mark", "line", "trial"),
    [
        ("ᵃ", {"reference": replace(CASE.reference, producer="onnxruntime")}, {}),
        ("ᵇ", {"tolerance": replace(CASE.tolerance, relaxed=True)}, {}),
        ("ᶜ", {"max_foreign_cpu": 1.0}, {"foreign": 0.4}),
        ("ᶜ", {"max_foreign_cpu": 1.0}, {"foreign": None}),
        ("ᵈ", {"trials_wanted": 9}, {}),
        ("ᵉ", {"reference": replace(CASE.reference, producer="as supplied")}, {}),
        ("ᵉ", {"reference": replace(CASE.reference, producer="as supplied and torch")}, {}),
        ("ᶠ", {"notes": ["input-blind: it moves by 0.1 %"]}, {}),
        ("ᵍ", {"notes": ["not finite: the reference output y"]}, {}),
    ],
)
def test_a_number_that_needs_a_footnote_has_it(mark, line, trial):
    record = folds.fold(case(**line), trials(5, 6, 7, **trial), END)
    assert record.status == "ok"
    text = markdown.document([record])
    assert f"){mark} |" in text
    assert f"\n{mark} {words.MARKS[mark]}" in text
    assert [m for m in words.MARKS if m in text] == [mark]


@pytest.mark.parametrize(
    ("producer", "version", "says"),
    [
        ("torch", "2.13", "torch 2.13"),
        ("as supplied", "", "as supplied"),
        ("as supplied and torch", "2.13", "as supplied and torch 2.13"),
        ("onnxruntime and torch", "1.31 and 2.13", "onnxruntime 1.31 and torch 2.13"),
    ],
)
def test_every_judge_is_named_with_its_own_version(producer, version, says):
    assert words.judges(replace(CASE.reference, producer=producer, version=version)) == says


def test_a_number_without_reservations_has_no_footnote():
    assert not any(mark in markdown.document([ok()]) for mark in words.MARKS)


def test_an_interrupted_run_has_its_mark():
    record = folds.fold(case(), trials(5, 6), None)
    assert "ᵈ" in words.cell(record)


def test_models_of_one_name_are_told_apart():
    text = markdown.document([ok("net", sha="a" * 64), ok("net", sha="b" * 64)])
    assert "| net (aaaaaaaa) |" in text
    assert "| net (bbbbbbbb) |" in text
    text = markdown.document([ok("net", shape=(1, 3)), ok("net", shape=(1, 5))])
    assert "| net 1x3 |" in text
    assert "| net 1x5 |" in text


def test_options_that_differ_stand_in_the_column_and_others_do_not():
    extras = [
        {"spinning": True, "level": 1, "lib": None},
        {"spinning": False, "level": 1, "lib": "ops.so sha256:" + "0123456789" * 6},
    ]
    head = rows(markdown.document([ok(extra=e) for e in extras]))[0]
    assert [c.strip() for c in head[1:]] == [
        "ort-cpu (spinning=on, lib=None)",
        "ort-cpu (spinning=off, lib=ops.so 01234567)",
    ]
    assert [c.strip() for c in rows(markdown.document([ok(extra=extras[0])]))[0][1:]] == ["ort-cpu"]


def test_another_scope_or_clock_stands_in_the_column():
    series = [r.Series(scope="compute", clock="device", samples_ns=[MS] * 64)]
    record = folds.fold(case(backend="tensorrt"), [replace(t, series=series) for t in trials(1, 1, 1)], END)
    head = rows(markdown.document([ok(), record]))[0]
    assert [c.strip() for c in head[1:]] == ["ort-cpu", "tensorrt (compute, device clock)"]


def test_machines_devices_and_settings_have_their_own_sections():
    records = [
        ok(),
        ok(machine="other"),
        ok(device="ssh:pi"),
        ok(threads=4),
        ok(batch=8),
        ok(precision="fp16"),
        ok(cpus=[0, 1]),
    ]
    text = markdown.document(records)
    assert text.count("**Median latency in ms**") == len(records)
    for words_ in ("Device ssh:pi", "4 threads", "batch 8", "precision fp16", "CPUs 0,1"):
        assert text.count(words_) == 1


def test_the_newest_record_of_a_cell_counts():
    old = ok(medians=(9, 9, 9))
    new = replace(ok(medians=(5, 5, 5)), started_at="2026-11-21T00:00:00Z")
    for order in ([old, new], [new, old]):
        text = markdown.document(order)
        assert "5.00" in text
        assert "9.00" not in text
    assert sections.latest([old, replace(old, run="again")])[0].run == "again"


def test_trials_that_were_left_out_are_counted():
    record = folds.fold(case(), [*trials(5, 6, 7), *(replace(t, index=3) for t in trials(90, foreign=0.5))], END)
    assert "| 3 of 4 |" in markdown.document([record])


def test_the_time_over_which_trials_were_spread_stands_beside_them():
    begun = ("2026-11-20T02:59:00Z", "2026-11-20T03:00:00Z", "2026-11-20T03:09:30Z")
    lines = [replace(t, started_at=at) for t, at in zip(trials(5, 6, 7), begun, strict=True)]
    assert "| 3 in 10 min 30 s |" in markdown.document([folds.fold(case(), lines, END)])


def test_an_environment_that_says_little_makes_no_table_fail():
    record = replace(ok(), environment={"machine": "board"})
    assert "Measured: 2026-11-20" in markdown.document([record])
    assert "Machine: board" in markdown.document([replace(ok(), environment={})])


# What a wrong case would have needed.


def test_a_wrong_case_names_the_tolerance_that_it_would_pass():
    assert words.needed(wrong()) == "it would pass with --tolerance fp16"
    assert words.needed(wrong(grade="wrong", exceed=None)) == "no tolerance would do"
    assert words.needed(wrong(grade="wrong", nan=3)) == "no tolerance would do"
    assert words.needed(wrong(grade="wrong", shape_ok=False)) == "no tolerance would do"
    assert words.needed(wrong(grade="wrong", exceed=1e6)) == "no sensible tolerance would do"


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=6), st.lists(st.floats(-0.5, 0.5), min_size=6, max_size=6))
def test_the_tolerance_that_is_advised_passes(expected, off):
    import numpy as np

    reference = np.array([1.0, *expected])
    got = reference + np.array([0.0, *off[: len(expected)]])
    narrow = Tolerance("narrow", 1e-4, 1e-4, "")
    report = compare({"y": reference}, {"y": got}, narrow)
    if report.passed:
        return
    (output,) = report.outputs
    facts = r.OutputFacts(
        **{f: getattr(output, f) for f in r.OutputFacts.__struct_fields__ if f != "worst"}, worst=None
    )
    judged = replace(TRIAL.parity, passed=False, grade="wrong", problem="y: off", outputs=[facts])
    tolerance = replace(CASE.tolerance, rtol=1e-4, atol_of_scale=1e-4)
    record = folds.fold(case(tolerance=tolerance), trials(5, parity=judged), END)
    advice = words.needed(record)
    if "--tolerance" in advice:
        assert compare({"y": reference}, {"y": got}, parse_tolerance(advice.rpartition(" ")[2])).passed


# The table in a file.


def test_a_table_is_put_between_its_marks(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"before é\n{markdown.BEGIN}\nold\n{markdown.END}\nafter\n", encoding="utf-8")
    for text in ("new –\n", "newer\n", "newer\n"):
        files.insert(path, text)
    assert path.read_text(encoding="utf-8") == f"before é\n{markdown.BEGIN}\nnewer\n{markdown.END}\nafter\n"


@pytest.mark.parametrize(
    "text",
    [None, "", markdown.BEGIN, f"{markdown.END}{markdown.BEGIN}", f"{markdown.BEGIN}{markdown.BEGIN}{markdown.END}"],
)
def test_a_file_without_the_marks_is_left_alone(tmp_path, text):
    path = tmp_path / "README.md"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match="no place for the table"):
        files.insert(path, "table")
    assert (path.read_text() if path.exists() else None) == text
