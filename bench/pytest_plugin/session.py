"""A case as a test has it: its inputs, its answers, and what it takes. The runtime lives in a worker process."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import pytest

from bench.errors import BenchError, UsageError
from bench.interface import Outputs
from bench.models import DataSet
from bench.pace import Calm
from bench.place import Place, started
from bench.pytest_plugin import handed, words
from bench.pytest_plugin.journal import Journal
from bench.record import Record
from bench.runner import Running, Settings
from bench.trial import Trial, TrialPlan, error_facts, run_once
from bench.worker.child import check_feeds
from bench.worker.client import Worker

PYTEST_BENCHMARK = "pytest_benchmark.fixture"
_T = TypeVar("_T")


class Session:
    """A model loaded on a backend, in a process of its own that is started when it is first needed.

    When it starts, it answers every input of the model once, and the answers are judged: `assert_parity` says how.
    """

    def __init__(
        self, running: Running, place: Place, settings: Settings, journal: Journal, node: pytest.Item, *, quick: bool
    ) -> None:
        self._running, self._place, self._settings = running, place, settings
        self._journal, self._node, self._quick = journal, node, quick
        self._stack = ExitStack()
        self._trial: Trial | None = None
        self._worker: Worker | None = None
        self._over = False

    @property
    def backend(self) -> str:
        """The backend's name."""
        return self._running.case.backend.name

    @property
    def device(self) -> str:
        """The device's name."""
        return self._place.device

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """The feeds that answers are judged on: two at least, seeded or the model's own. Copies, yours to change."""
        __tracebackhide__ = True
        return [copy.deepcopy(dict(data.feeds)) for data in self._prepared().data_sets]

    @property
    def reference(self) -> list[Outputs]:
        """For each of the inputs, the outputs that answers are judged by. Copies."""
        __tracebackhide__ = True
        return [copy.deepcopy(data.expected or {}) for data in self._prepared().data_sets]

    def run(self, feeds: Mapping[str, Any]) -> Outputs:
        """The outputs of one inference, through the pipe to the worker: it is for answers, not for the time it takes.

        Raises:
            UsageError: feeds with other names, types or shapes than the model's, or pytest-benchmark calls it.
        """
        __tracebackhide__ = True
        if _timed_by_pytest_benchmark():
            raise UsageError(
                "benchmark(session.run, ...) would time the pipe to the worker, not the inference",
                "call deploybench.measure(benchmark): it measures in the worker and hands the samples over",
            )
        data = DataSet({name: np.asarray(value, order="C") for name, value in feeds.items()})
        check_feeds(self._prepared().artifact.signature, data.feeds)
        worker = self._opened()
        return self._asked(lambda: run_once(worker, data, self._place.limits, timed=False)[1])

    def assert_parity(self) -> None:
        """Fail unless the answers to all inputs are within the tolerance of the reference outputs.

        Raises:
            AssertionError: it says which element is the worst, by how much, and how to find the layer.
        """
        __tracebackhide__ = True
        self._opened()
        assert self._trial is not None
        judged = self._trial.line().parity
        if judged is None or not judged.passed:
            self._close("its answers are wrong" if judged else "there is nothing to judge its answers by")
            words.verdict(self._conclude(), self._running.case)

    def measure(self, benchmark: Any = None) -> Record | None:
        """Measure in the worker, append the record, and hand the samples to pytest-benchmark's `benchmark`.

        Only a published case has samples there. One that is wrong, or whose runtime fails, fails the test; one that is
        noisy, or that the backend cannot express, skips it, with the reason.

        Returns:
            The record; None with `--deploybench-quick`, where only the answers are judged.
        """
        __tracebackhide__ = True
        handed.check(benchmark)
        record = None
        try:
            if not self._quick:
                self._journal.release()  # that it can be written is known before anything runs
            self.assert_parity()
            record = None if self._quick else self._measured()
            return record
        finally:
            if benchmark is not None:
                handed.over(benchmark, record)

    def close(self) -> None:
        """End the worker. Calling it again does nothing."""
        self._over = True
        self._worker = None
        self._stack.close()

    def _prepared(self) -> TrialPlan:
        """The plan of the case, once reference outputs and artefact are there."""
        __tracebackhide__ = True
        if self._running.plan is None:
            self._check_not_over()
            self._running.begin(self._place)
            if self._running.ended:
                words.verdict(self._conclude(), self._running.case)
        assert self._running.plan is not None
        return self._running.plan

    def _opened(self) -> Worker:
        """The worker, loaded, with its first answers judged."""
        __tracebackhide__ = True
        self._check_not_over()
        if self._worker is None:
            self._trial = Trial(0, self._prepared())
            self._worker = self._asked(self._started)
        return self._worker

    def _started(self) -> Worker:
        assert self._trial is not None
        plan, purpose = self._prepared(), f"test {self._node.name}"
        ready = self._stack.enter_context(started(self._place, plan.backend, plan.options.cpus, purpose=purpose))
        self._trial.begin(ready, self._place)
        return ready.worker

    def _measured(self) -> Record:
        """The record of a case that has just been timed, published."""
        __tracebackhide__ = True
        worker = self._opened()
        assert self._trial is not None
        trial, limits = self._trial, self._place.limits
        self._asked(lambda: trial.end(worker, limits))
        self.close()
        calm = Calm(self._settings)
        line = self._running.keep(trial.line())
        calm.learn(line, noisy=self._running.noisy(line))
        while not (reason := self._running.wants_more()):
            line = self._running.trial(self._place, calm.wait())
            calm.learn(line, noisy=self._running.noisy(line))
        self._running.end(reason)
        record = self._conclude()
        words.verdict(record, self._running.case)
        return record

    def _check_not_over(self) -> None:
        __tracebackhide__ = True
        if self._over:
            raise UsageError("the session has ended: `measure` or a failure ends it", "use it before")

    def _asked(self, step: Callable[[], _T]) -> _T:
        """What a step in the worker gives. A failure of it ends the case, and the test with the record's words."""
        __tracebackhide__ = True
        assert self._trial is not None
        try:
            return step()
        except BenchError as error:
            self._trial.fail(error_facts(error, "connect"))
        self._close("a trial failed")
        words.verdict(self._conclude(), self._running.case)
        raise AssertionError("a failed trial makes no good record")

    def _close(self, reason: str) -> None:
        """The case ends here, with what its trial has learnt."""
        assert self._trial is not None
        self.close()
        self._running.keep(self._trial.line())
        self._running.end(reason)

    def _conclude(self) -> Record:
        """The record, written down whatever it says, and named in the test's report."""
        self._over = True
        path = self._journal.release()
        record = self._running.record()
        self._node.user_properties += words.properties(record, path)
        return record


def _timed_by_pytest_benchmark() -> bool:
    """Whether pytest-benchmark's timer is among the callers, be it through a function of the test's own."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == PYTEST_BENCHMARK:
            return True
        frame = frame.f_back
    return False
