"""The pytest plugin: sessions on backends as a fixture, parity as an assertion, measurements into pytest-benchmark.

    @pytest.mark.deploybench("squeezenet", backends=["ort-cpu", "ncnn"])
    def test_squeezenet(deploybench, benchmark):
        deploybench.assert_parity()
        deploybench.measure(benchmark)

Every pytest that has deploybench installed loads this module, so it imports nothing but pytest: what does the work is
loaded when a test has asked for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from bench.pytest_plugin.session import Session
    from bench.pytest_plugin.suite import Suite

MARKER = "deploybench"
SUITE = pytest.StashKey["Suite"]()
MARKER_HELP = (
    "deploybench(model, *, backends, devices, threads, precision, batch, shapes, options, cpus, tolerance, trials, "
    "min_time, max_time, min_count, target, max_foreign_cpu, limits): the cases of a test that takes the fixture "
    "`deploybench`. Lists of models, backends, devices, threads, precisions and batches make a test each; markers of "
    "classes and modules fill in what the closer ones leave out."
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("deploybench", "deploybench: ONNX models on backends")
    group.addoption(
        "--deploybench-backend",
        action="append",
        metavar="NAME",
        help="Only on this backend; several times for several. Without: those of the test, else every installed one.",
    )
    group.addoption(
        "--deploybench-device",
        action="append",
        metavar="NAME",
        help="Only on this device; several times for several. Without: those of the test, else `local`.",
    )
    group.addoption(
        "--deploybench-quick", action="store_true", default=None, help="Answers only: nothing is timed or recorded."
    )
    group.addoption("--deploybench-results", metavar="DIR", help="Folder of the records. Default: results.")
    group.addoption("--deploybench-cache", metavar="DIR", help="Folder for models, artefacts and tools.")
    parser.addini("deploybench_backend", "as --deploybench-backend", type="args", default=[])
    parser.addini("deploybench_device", "as --deploybench-device", type="args", default=[])
    parser.addini("deploybench_quick", "as --deploybench-quick", type="bool", default=False)
    parser.addini("deploybench_results", "as --deploybench-results, from the root folder", default="results")
    parser.addini("deploybench_cache", "as --deploybench-cache, from the root folder", default="")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER_HELP)
    if names(config, "backend") or names(config, "device"):
        from bench.errors import UsageError
        from bench.pytest_plugin.asked import check_names

        try:
            check_names(names(config, "backend"), names(config, "device"))
        except UsageError as error:
            raise pytest.UsageError(f"deploybench: {error}") from None


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "deploybench" not in metafunc.fixturenames or not metafunc.definition.get_closest_marker(MARKER):
        return
    from bench.errors import BenchError
    from bench.pytest_plugin.asked import cases

    config, words = metafunc.config, marked(metafunc.definition)
    try:
        found = cases(words, names(config, "backend"), names(config, "device"))
    except BenchError as error:
        text = f"{metafunc.definition.nodeid}: @pytest.mark.deploybench: {error}"
        raise pytest.fail.Exception(text, pytrace=False) from None
    none = []
    if "benchmark" in metafunc.fixturenames and not config.pluginmanager.has_plugin("benchmark"):
        none.append("benchmark")  # without pytest-benchmark the same suite still runs: measurements are only recorded
    if words.get("model"):
        none.append("deploybench_model")  # that fixture is for others, however many models it has
    given = [pytest.param(*p.values, *(None for _ in none), marks=p.marks, id=p.id) for p in found]
    # By a marker, because pytest lets one replace a fixture's own `params`, and refuses a second `parametrize` of it.
    asked = pytest.mark.parametrize(("deploybench", *none), given, indirect=["deploybench"])
    metafunc.definition.add_marker(asked)


@pytest.fixture
def deploybench(request: pytest.FixtureRequest, deploybench_model: str | Path | None) -> Iterator[Session]:
    """A session of a model on a backend, in a worker process, as the marker `deploybench` asks for it."""
    if not request.node.get_closest_marker(MARKER):
        pytest.fail("the fixture `deploybench` needs the marker: @pytest.mark.deploybench(MODEL, ...)", pytrace=False)
    with _suite(request.config).session(request, deploybench_model) as session:
        yield session


@pytest.fixture
def deploybench_model() -> str | Path | None:
    """The model of tests whose marker names none. Override it with a fixture that returns a path, or has `params`."""
    return None


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [
        (report, dict(report.user_properties))
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        and any(name.startswith("deploybench_") for name, _ in report.user_properties)
    ]
    if reports:
        from bench.pytest_plugin.words import summary

        terminalreporter.section("deploybench", sep="-")
        for line in summary(reports):
            terminalreporter.line(line)


def pytest_unconfigure(config: pytest.Config) -> None:
    if suite := config.stash.get(SUITE, None):
        suite.close()


def names(config: pytest.Config, what: str) -> list[str]:
    """The backends or devices that the command line asks for, else the settings."""
    return list(config.getoption(f"deploybench_{what}") or config.getini(f"deploybench_{what}"))


def marked(node: pytest.Item | Any) -> dict[str, Any]:
    """What the markers of a test say together; the closest has the last word."""
    found: dict[str, Any] = {}
    for marker in reversed(list(node.iter_markers(MARKER))):
        found |= marker.kwargs | ({"model": marker.args[0]} if marker.args else {})
        if len(marker.args) > 1:
            pytest.fail(f"{node.nodeid}: @pytest.mark.deploybench takes one model, or a list of them", pytrace=False)
    return found


def _suite(config: pytest.Config) -> Suite:
    from bench.pytest_plugin.suite import Suite

    if SUITE not in config.stash:
        config.stash[SUITE] = Suite(config)
    return config.stash[SUITE]
