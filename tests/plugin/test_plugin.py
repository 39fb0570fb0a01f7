"""The pytest plugin, as a suite of its users meets it: what is selected, what passes, what fails and in which words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.pytest_plugin import suite as _loaded  # noqa: F401 - pytester forgets what is first imported under it
from bench.store import read_records, run_files

HEAD = """
import pytest

def ask(*args, **kwargs):
    fast = dict(max_foreign_cpu=1, min_time=0.02, max_time=0.1, min_count=8, target=None)
    return pytest.mark.deploybench(*args, **{**fast, **kwargs})

"""
MEASURES = """
@ask("tiny_mlp", backends="fake", options={options})
def test_it(deploybench, benchmark):
    deploybench.measure(benchmark)
"""
PROVES = """
@ask("tiny_mlp", backends="fake", options={options})
def test_it(deploybench):
    deploybench.assert_parity()
"""


class Suite:
    """A suite of one file in a folder of its own, run by a pytest inside this one."""

    def __init__(self, pytester, cache):
        self._pytester, self._cache = pytester, cache
        self.folder = pytester.path

    def __call__(self, text, *args, head=HEAD):
        if text:
            self._pytester.makepyfile(test_it=head + text)
        ours = ("-p", "no:randomly", "-p", "no:cacheprovider", f"--deploybench-cache={self._cache}")
        return self._pytester.runpytest_inprocess(*ours, *map(str, args))

    def collect(self, text, *args):
        """The ids of its tests."""
        found = self(text, "--collect-only", "-q", *args)
        return [line.partition("::")[2] for line in found.outlines if "::" in line]

    def records(self):
        folder = self.folder / "results"
        return [r for path in run_files([folder] if folder.exists() else []) for r in read_records(path)]

    def json(self, path="out.json"):
        return json.loads((self.folder / path).read_text())


@pytest.fixture
def suite(pytester, command_cache, monkeypatch):
    def of(peaks, backend, options):
        raise BenchError("left out of these tests: it takes seconds")

    monkeypatch.setattr("bench.plausible.peaks.Peaks.of", of)
    return Suite(pytester, command_cache)


def test_samples_of_the_worker_are_what_pytest_benchmark_shows(suite):
    done = suite(MEASURES.format(options={"latency_us": 500}), "--benchmark-json=out.json")
    done.assert_outcomes(passed=1)
    (record,) = suite.records()
    (shown,) = suite.json()["benchmarks"]
    assert record.status == "ok"
    assert shown["stats"]["data"] == [ns / 1e9 for ns in record.latency.samples_ns]
    assert shown["stats"]["iterations"] == 1
    assert shown["options"]["timer"] == "deploybench"
    facts = shown["extra_info"]["deploybench"]
    assert (facts["record"], facts["status"], facts["cell"]) == (record.id, "ok", record.cell)
    assert facts["parity"]["passed"]
    assert facts["versions"]["deploybench"]
    assert facts["p50_ns"] == record.latency.p50_ns >= 500_000
    assert shown["params"]["deploybench"]["backend"] == "fake"
    done.stdout.fnmatch_lines(["*test_it?fake?*", "*- deploybench -*", "1 record in results/records/*.jsonl"])


def test_a_real_runtime(suite):
    done = suite(MEASURES.replace('"fake"', '"ort-cpu"').format(options={"spinning": False}))
    if done.parseoutcomes().get("skipped"):
        pytest.skip('onnxruntime is not installed: pip install "deploybench[cpu]"')
    done.assert_outcomes(passed=1)
    (record,) = suite.records()
    assert record.status == "ok"
    assert record.case.options.extra["spinning"] is False
    assert "onnxruntime" in record.environment["runtimes"]


def test_each_case_of_a_marker_is_a_test_with_an_id(suite):
    found = suite.collect("""
@ask("tiny_mlp", backends=["fake", "reference"], threads=[1, 2])
def test_it(deploybench): pass
""")
    assert found == ["test_it[fake-threads1]", "test_it[fake-threads2]"] + [
        f"test_it[reference-threads{n}]" for n in (1, 2)
    ]


def test_without_backends_every_installed_one_that_is_not_opt_in_is_tried(suite):
    found = suite.collect("""
@ask("tiny_mlp")
def test_it(deploybench): pass
""")
    assert {"test_it[ncnn]", "test_it[mnn]", "test_it[ort-cpu]"} <= set(found)
    assert "test_it[fake]" not in found


def test_models_devices_and_precisions_are_in_the_id_where_they_differ(suite):
    found = suite.collect("""
@ask(["tiny_mlp", "sub/my_net.onnx"], backends="fake", devices=["local", "fake:"], precision=["model", "fp16"])
def test_it(deploybench): pass
""")
    assert len(found) == 8
    assert {"test_it[tiny_mlp-fake-local-model]", "test_it[my_net-fake-fake:-fp16]"} <= set(found)


def test_markers_of_module_and_class_fill_in_what_closer_ones_leave_out(suite):
    found = suite.collect("""
pytestmark = pytest.mark.deploybench("tiny_cnn", backends="fake", threads=[1, 2])

@pytest.mark.deploybench(threads=[4, 8])
class TestIt:
    def test_far(self, deploybench): pass

    @pytest.mark.deploybench("tiny_mlp", backends=["fake", "reference"])
    def test_near(self, deploybench): pass
""")
    assert [f.partition("::")[2] for f in found] == [
        "test_far[fake-threads4]",
        "test_far[fake-threads8]",
        *(f"test_near[{b}-threads{n}]" for b in ("fake", "reference") for n in (4, 8)),
    ]


TWO = """
@ask("tiny_mlp", backends=["fake", "reference"])
def test_listed(deploybench): pass

@ask("tiny_mlp")
def test_open(deploybench): pass
"""


def test_the_command_line_selects_backends(suite):
    assert suite.collect(TWO, "--deploybench-backend", "fake") == ["test_listed[fake]", "test_open[fake]"]
    done = suite("", "--deploybench-backend", "mnn", "-rs", "-k", "listed")
    done.assert_outcomes(skipped=1, deselected=1)
    done.stdout.fnmatch_lines(["SKIPPED * not for mnn"])


def test_settings_select_backends_and_the_command_line_overrides_them(suite):
    (suite.folder / "pytest.ini").write_text("[pytest]\ndeploybench_backend = reference\n")
    assert suite.collect(TWO) == ["test_listed[reference]", "test_open[reference]"]
    assert suite.collect("", "--deploybench-backend", "fake") == ["test_listed[fake]", "test_open[fake]"]


def test_settings_say_where_records_go(suite):
    (suite.folder / "pytest.ini").write_text("[pytest]\ndeploybench_results = elsewhere\n")
    suite(MEASURES.format(options={})).assert_outcomes(passed=1)
    assert len(run_files([suite.folder / "elsewhere"])) == 1
    suite("", "--deploybench-results", "third").assert_outcomes(passed=1)
    assert len(run_files([suite.folder / "third"])) == 1


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--deploybench-backend=ort-cup", ["*there is no backend 'ort-cup'; did you mean ort-cpu?*"]),
        ("--deploybench-device=fake:fuse", ["*the fake device knows no fault 'fuse'*"]),
    ],
)
def test_an_unknown_name_on_the_command_line_is_a_usage_error(suite, option, words):
    done = suite(TWO, option)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(words)
    assert "Traceback" not in done.stderr.str()


@pytest.mark.parametrize(
    ("marker", "words"),
    [
        ('"tiny_mlp", backends="ort-cup"', "there is no backend 'ort-cup'; did you mean ort-cpu*"),
        ('"tiny_mlp", backend="fake"', "it knows no 'backend'; did you mean backends*"),
        ('"tiny_mlp", backends="fake", threads=0', "threads=0 is not possible*"),
        ('"tiny_mlp", backends="fake", trials=True', "trials=True is not possible*"),
        ('"tiny_mlp", backends="fake", max_foreign_cpu=3', "max_foreign_cpu=3 is not possible; give a number from 0*"),
        ('"tiny_mlp", backends="fake", options={"latency": 3}', "*no*option 'latency'; did you mean latency_us?"),
        ('"tiny_mlp", backends="fake", options={"latency_us": "soon"}', "*latency_us of fake takes a number*'soon'"),
        ('"tiny_mlp", backends="fake", options="latency_us=3"', "options is a mapping, not 'latency_us=3'*"),
        ('"tiny_mlp", backends="fake", shapes={"x": "many"}', "*x=many* cannot be read*"),
        ('"tiny_mlp", backends="fake", tolerance="fp18"', "tolerance='fp18' cannot be read: a tolerance is one of*"),
        ('"tiny_mlp", backends="fake", target=2', "*is not between 0 and 100 %*"),
        ('"tiny_mlp", backends="fake", limits={"lode": 3}', "*names no phase; did you mean load*"),
        ('"tiny_mlp", "tiny_cnn", backends="fake"', "takes one model, or a list of them"),
    ],
)
def test_a_wrong_marker_is_refused_at_collection(suite, marker, words):
    done = suite(f"""
@pytest.mark.deploybench({marker})
def test_it(deploybench): pass
""")
    assert done.ret == pytest.ExitCode.INTERRUPTED
    done.stdout.fnmatch_lines([f"*@pytest.mark.deploybench*{words}"])
    assert "bench/pytest_plugin" not in done.stdout.str(), "a user's mistake is told without our frames"


@pytest.mark.parametrize(
    ("marker", "words"),
    [
        ('"tiny_mpl", backends="fake"', "there is no model 'tiny_mpl'; *did you mean tiny_mlp*"),
        ('"no/such.onnx", backends="fake"', "there is no file */no/such.onnx"),
        ('backends="fake"', "no model: name one in *"),
    ],
)
def test_a_wrong_model_fails_its_test_alone(suite, marker, words):
    text = f"@ask({marker})\ndef test_bad(deploybench): pass\n" + PROVES.format(options={})
    done = suite(text)
    done.assert_outcomes(errors=1, passed=1)
    done.stdout.fnmatch_lines([words])


def test_the_fixture_needs_the_marker(suite):
    done = suite("def test_it(deploybench): pass\n")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*the fixture `deploybench` needs the marker: @pytest.mark.deploybench(MODEL, ...)"])


def test_a_model_may_come_from_a_fixture_or_lie_beside_the_test(suite, mlp_path):
    (suite.folder / "net.onnx").write_bytes(mlp_path.read_bytes())
    done = suite("""
import pathlib

@pytest.fixture
def deploybench_model(tmp_path):
    made = tmp_path / "mine.onnx"
    made.write_bytes((pathlib.Path(__file__).parent / "net.onnx").read_bytes())
    return made

@ask(backends="fake", batch=2)
def test_made(deploybench):
    assert deploybench.inputs[0]["x"].shape == (2, 16)
    deploybench.assert_parity()

@ask("net.onnx", backends="fake", shapes={"x": [3, 16]})
def test_beside(deploybench):
    assert deploybench.run(deploybench.inputs[1])["y"].shape == (3, 4)
""")
    done.assert_outcomes(passed=2)


def test_models_of_a_fixture_with_params_are_tests_of_their_own_and_a_named_model_is_none_of_them(suite, mlp_path):
    for name in ("a", "b"):
        (suite.folder / f"{name}.onnx").write_bytes(mlp_path.read_bytes())
    done = suite(
        """
@pytest.fixture(params=["a.onnx", "b.onnx"])
def deploybench_model(request):
    return request.param

@ask(backends="fake", batch=[2, 3])
def test_any(deploybench):
    deploybench.assert_parity()

@ask("a.onnx", backends="fake", batch=2)
def test_one(deploybench):
    deploybench.assert_parity()
""",
        "-v",
    )
    done.assert_outcomes(passed=5)
    done.stdout.fnmatch_lines(["*test_any*b.onnx*", "*test_one*"])


def test_a_backend_that_is_not_there_skips_with_reason_and_remedy(suite, monkeypatch):
    from bench.interface import Probe

    lacking = Probe(False, reason="its wheel is not installed", remedy="pip install fake")
    monkeypatch.setattr("bench.pytest_plugin.suite.probe", lambda place, backend: lacking)
    done = suite(PROVES.format(options={}), "-rs")
    done.assert_outcomes(skipped=1)
    done.stdout.fnmatch_lines(["*fake is not available on local: its wheel is not installed; pip install fake"])


def test_a_device_that_cannot_be_reached_skips(suite):
    done = suite(PROVES.replace("options=", 'devices="fake:refuse", options=').format(options={}), "-rs")
    done.assert_outcomes(skipped=1)
    done.stdout.fnmatch_lines(["*fake is not available on fake:refuse: the fake device refused the connection*"])


def test_a_wrong_answer_fails_and_says_where_and_how_to_go_on(suite):
    done = suite(PROVES.format(options={"error": 0.005}))
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(
        [
            "E*AssertionError: tiny_mlp on fake: its answers are wrong",
            "E*output*100% of its elements out of the tolerance",
            "E*worst*at [[]0, *[]]: got *, expected *, off by *",
            "E*tolerance*fp32: 0.001 x |expected| + 0.0002 x largest |expected| = * there, and it is * times that",
            "E*judged by*, on input ?, before the timed loop",
            'E*remedy*it would pass with tolerance="fp16"',
            "E*which layer*deploybench localize tiny_mlp --backend fake --option error=0.005",
        ]
    )
    assert "bench/pytest_plugin" not in done.stdout.str(), "the failure is shown at the user's own line"
    (record,) = suite.records()
    assert record.status == "wrong"


def test_the_command_that_finds_the_layer_is_of_the_same_case(suite, mlp_path):
    (suite.folder / "net.onnx").write_bytes(mlp_path.read_bytes())
    done = suite("""
@ask("net.onnx", backends="fake", shapes={"x": [3, 16]}, threads=2, options={"error": 0.1})
def test_it(deploybench):
    deploybench.assert_parity()
""")
    done.stdout.fnmatch_lines(
        ["E*deploybench localize */net.onnx --backend fake --threads 2 --shape x=3,16 --option error=0.1"]
    )


def test_the_remedy_is_one(suite):
    text = PROVES.replace("options=", "tolerance={tolerance!r}, options=")
    suite(text.format(options={"error": 0.005}, tolerance="fp16")).assert_outcomes(passed=1)
    suite(text.format(options={"error": 0.005}, tolerance=(0.1, 0.1))).assert_outcomes(passed=1)
    assert suite.records() == [], "answers that are right leave no record unless they are measured"


def test_a_wrong_case_has_no_number(suite):
    done = suite(MEASURES.format(options={"fault": "drift", "fault_after": 5}))
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["E*judged by*after the timed loop", "no number for test_it.py::test_it?fake?: wrong: *"])
    done.stdout.no_fnmatch_line("*OPS*")
    assert [r.status for r in suite.records()] == ["wrong"]


def test_a_crash_fails_its_test_alone_and_leaves_a_record(suite):
    text = MEASURES + PROVES.replace("test_it", "test_next").replace("{options}", "{{}}")
    done = suite(text.format(options={"fault": "crash", "fault_at": "measure"}))
    done.assert_outcomes(failed=1, passed=1)
    done.stdout.fnmatch_lines(
        ["E*Failed: tiny_mlp on fake: crashed: measure: the worker process died of SIGSEGV*", "E*the end of its log:"]
    )
    assert "bench/trial.py" not in done.stdout.str()
    assert [r.status for r in suite.records()] == ["crashed"]


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ({"fault": "hang", "fault_at": "load"}, "timeout", "took longer than its limit of 1 s"),
        ({"fault": "raise", "fault_at": "load"}, "failed", "the fake device was told to fail"),
        ({"fault": "fallback"}, "failed", "was asked for, elsewhere was used"),
        ({"fault": "implausible", "clock": "device"}, "implausible", "add up to more time than passed"),
    ],
)
def test_what_fails_a_case_fails_its_test(suite, options, status, words):
    done = suite(MEASURES.replace("options=", 'limits={{"load": 1}}, options=').format(options=options))
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines([f"E*Failed: tiny_mlp on fake: {status}: *{words}*"])
    assert [r.status for r in suite.records()] == [status]


def test_what_a_backend_cannot_express_is_skipped(suite):
    done = suite(MEASURES.format(options={"fault": "unsupported"}), "-rs")
    done.assert_outcomes(skipped=1)
    done.stdout.fnmatch_lines(["SKIPPED*tiny_mlp on fake: unsupported: prepare: *operator Fake*"])


def test_a_noisy_case_is_skipped_and_has_no_number(suite, monkeypatch):
    for module in ("fold", "runner"):
        monkeypatch.setattr(f"bench.{module}.noisy", lambda trial, most, fastest: True)
    monkeypatch.setattr("bench.pace.WAIT_AFTER_NOISE_S", 0.01)
    done = suite(MEASURES.format(options={}), "-rs")
    done.assert_outcomes(skipped=1)
    done.stdout.fnmatch_lines(
        ["no number for test_it.py::test_it?fake?: noisy: *", "SKIPPED*tiny_mlp on fake: noisy: *"]
    )
    done.stdout.no_fnmatch_line("*OPS*")
    (record,) = suite.records()
    assert (record.status, record.evidence.trials) == ("noisy", 2)


@pytest.mark.parametrize(
    ("call", "option"),
    [
        ("benchmark(deploybench.run, feeds)", "--benchmark-enable"),
        ("benchmark(lambda: deploybench.run(feeds))", "--benchmark-disable"),
        ("benchmark.pedantic(deploybench.run, (feeds,), rounds=3)", "--benchmark-enable"),
    ],
)
def test_timing_the_pipe_is_refused(suite, call, option):
    done = suite(
        f"""
@ask("tiny_mlp", backends="fake")
def test_it(deploybench, benchmark):
    feeds = deploybench.inputs[0]
    {call}
""",
        option,
    )
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["E*would time the pipe to the worker, not the inference; call deploybench.measure(*"])


@pytest.mark.parametrize("option", ["--deploybench-quick", "--benchmark-disable"])
def test_quick_judges_answers_and_measures_nothing(suite, option):
    text = MEASURES + MEASURES.replace("test_it", "test_wrong").replace("{options}", '{{"error": 0.1}}')
    done = suite(text.format(options={}), option, "-W", "error")
    done.assert_outcomes(passed=1, failed=1)
    done.stdout.no_fnmatch_line("*OPS*")
    assert [r.status for r in suite.records()] == ["wrong"]


def test_pytest_benchmarks_own_selection_holds(suite):
    text = (MEASURES + PROVES.replace("test_it", "test_proof")).format(options={})
    suite(text, "--benchmark-skip").assert_outcomes(passed=1, skipped=1)
    suite("", "--benchmark-only", "-W", "error").assert_outcomes(passed=1, skipped=1)


def test_runs_can_be_saved_and_compared(suite):
    text = MEASURES.format(options={"latency_us": 200})
    suite(text, "--benchmark-autosave").assert_outcomes(passed=1)
    done = suite("", "--benchmark-compare", "--benchmark-compare-fail=median:900%")
    done.assert_outcomes(passed=1)
    done.stdout.fnmatch_lines(["test_it?fake? (*"] * 2)
    done = suite(
        MEASURES.format(options={"latency_us": 4000}),
        "--benchmark-compare=0001",
        "--benchmark-compare-fail=median:900%",
    )
    done.stderr.fnmatch_lines(["*Performance has regressed*", "*PercentageRegressionCheck*"])


def test_without_pytest_benchmark_measuring_only_records(suite):
    done = suite(
        MEASURES.format(options={}).replace(
            "test_it(deploybench, benchmark):", "test_it(deploybench, benchmark):\n    assert benchmark is None"
        ),
        "-p",
        "no:benchmark",
    )
    done.assert_outcomes(passed=1)
    assert [r.status for r in suite.records()] == ["ok"]


def test_measure_gives_the_record(suite):
    suite("""
@ask("tiny_mlp", backends="fake", options={"latency_us": 300}, trials=2)
def test_it(deploybench):
    record = deploybench.measure()
    assert (deploybench.backend, deploybench.device) == ("fake", "local")
    assert record.status == "ok" and record.evidence.trials == 2
    assert 300_000 <= record.latency.p50_ns < 30_000_000
""").assert_outcomes(passed=1)


def test_a_tests_own_inferences_stay_out_of_the_timed_loop(suite):
    suite("""
@ask("tiny_mlp", backends="fake")
def test_it(deploybench):
    feeds = {name: array * 3 for name, array in deploybench.inputs[0].items()}
    for _ in range(40):
        deploybench.run(feeds)
    assert deploybench.measure().status == "ok"
""").assert_outcomes(passed=1)


def test_answers_are_those_of_the_reference_and_belong_to_the_test(suite):
    suite("""
import numpy as np

@ask("tiny_mlp", backends="fake")
def test_it(deploybench):
    for feeds, expected in zip(deploybench.inputs, deploybench.reference, strict=True):
        outputs = deploybench.run(feeds)
        for name, value in expected.items():
            np.testing.assert_allclose(outputs[name], value, rtol=1e-3, atol=1e-5)
        for array in (*feeds.values(), *expected.values(), *outputs.values()):
            array[...] = 0
    deploybench.assert_parity()
    assert deploybench.inputs[0]["input"].any()
""").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('deploybench.run({"wrong": 1})', "the model takes the inputs*'input'*, it was fed*'wrong'*"),
        ('deploybench.run({"input": [[0.0] * 16]})', "input 'input' takes float32, it was fed float64"),
        (
            "deploybench.measure(3)",
            "measure takes pytest-benchmark's fixture, not a int; call measure() to only record",
        ),
        ("deploybench.measure(), deploybench.measure()", "the session has ended*"),
        ("deploybench.measure(), deploybench.run(deploybench.inputs[0])", "the session has ended*"),
    ],
)
def test_wrong_use_is_told(suite, line, words):
    done = suite(f'@ask("tiny_mlp", backends="fake")\ndef test_it(deploybench):\n    {line}\n')
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines([f"E*UsageError: {words}"])


def test_a_results_folder_that_cannot_be_written_is_told_before_anything_runs(suite):
    (suite.folder / "taken").write_text("")
    done = suite(MEASURES.format(options={}), "--deploybench-results=taken")
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(
        ["the results folder */taken cannot be written: *; choose another * --deploybench-results=DIR"]
    )


def test_wrong_feeds_do_not_end_the_session(suite):
    suite("""
@ask("tiny_mlp", backends="fake")
def test_it(deploybench):
    with pytest.raises(Exception, match="it was fed"):
        deploybench.run({})
    deploybench.assert_parity()
    assert deploybench.measure().status == "ok"
""").assert_outcomes(passed=1)


def test_reports_carry_what_became_of_a_case(suite):
    suite(MEASURES.format(options={}), "--junitxml=out.xml").assert_outcomes(passed=1)
    (record,) = suite.records()
    text = (suite.folder / "out.xml").read_text()
    assert f'<property name="deploybench_record" value="{record.id}"' in text
    assert '<property name="deploybench_status" value="ok"' in text


@pytest.mark.slow
def test_with_xdist_tests_take_turns_and_all_are_recorded(suite):
    pytest.importorskip("xdist", reason="needs pytest-xdist: pip install pytest-xdist")
    done = suite(
        """
@ask("tiny_mlp", backends="fake", threads=[1, 2, 3, 4], options={"latency_us": 1000})
def test_it(deploybench, benchmark):
    deploybench.measure(benchmark)
""",
        "-n2",
    )
    done.assert_outcomes(passed=4)
    done.stdout.fnmatch_lines(["*- deploybench -*", "* record* in results/records/*.jsonl"])
    records = suite.records()
    assert sorted(r.case.options.threads for r in records) == [1, 2, 3, 4]
    assert {r.status for r in records} == {"ok"}
    assert len({r.run for r in records}) == len(run_files([suite.folder / "results"]))


def test_whoever_does_not_use_it_does_not_pay_for_it():
    code = (
        "import sys, pytest; before = set(sys.modules); import bench.pytest_plugin; print(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"bench", "bench.pytest_plugin"}


def test_the_suite_to_copy_runs(suite):
    example = Path(__file__).parents[1] / "examples" / "pytest_suite"
    for file in example.iterdir():
        if file.is_file():
            (suite.folder / file.name).write_bytes(file.read_bytes())
    done = suite("", "--deploybench-quick", "--deploybench-backend", "ort-cpu", "-rs")
    outcomes = done.parseoutcomes()
    assert outcomes.keys() <= {"passed", "skipped"}, outcomes
    assert outcomes.get("passed", 0) >= 3 or "is not available" in done.stdout.str()
