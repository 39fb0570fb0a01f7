"""Rules about a session's life: run after run, beside another one, told where it ran, timed by itself, closed."""

from __future__ import annotations

import time
from typing import get_args

import numpy as np

from bench.conformance.kit import TOLERANCE, Skip, Subject, Violation, copied, distance, require_same
from bench.conformance.models import KitModel
from bench.interface import Clock, Placement, Plan, Samples, Scope


def check_second_input(subject: Subject) -> None:
    """A second, different input gives its own answer: nothing of the first is left."""
    kit = subject.working()
    with subject.session(kit) as session:
        first = copied(session.run(kit.feeds(1)))
        second = copied(session.run(kit.feeds(2)))
    if distance(second, {name: value for name, value in first.items() if value is not None})[0] <= TOLERANCE:
        raise Violation(f"model {kit.name!r}: two different inputs gave the same outputs")
    require_same(second, subject.fresh(kit, 2), "the second input of a session gets another answer than in a new one")


def check_repeatable(subject: Subject) -> None:
    """The same input gives the same answer, whatever ran in between."""
    kit = subject.working()
    with subject.session(kit) as session:
        first = copied(session.run(kit.feeds(1)))
        for seed in (2, 3, 2):
            session.run(kit.feeds(seed))
        require_same(session.run(kit.feeds(1)), first, "the same input gives another answer after four runs")


def check_two_sessions(subject: Subject) -> None:
    """Two sessions alive at once do not disturb each other, nor does closing one."""
    kit = subject.working()
    alone = subject.fresh(kit, 2)
    with subject.session(kit) as one:
        first = copied(one.run(kit.feeds(1)))
        with subject.session(kit) as other:
            require_same(other.run(kit.feeds(2)), alone, "a second session answers differently from one alone")
        require_same(one.run(kit.feeds(1)), first, "a second session changed the answers of the first")


def check_two_threads(subject: Subject) -> None:
    """`threads=2` gives the same answers as one thread, from the same artefact."""
    kit = subject.working()
    with subject.session(kit, threads=2) as session:
        outputs = session.run(kit.feeds(1))
    require_same(outputs, subject.fresh(kit, 1), "threads=2 answers differently")


def check_close_twice(subject: Subject) -> None:
    """Closing a session again does nothing."""
    with subject.session(subject.working()) as session:
        session.close()
        try:
            session.close()
        except Exception as error:
            raise Violation(f"the second close raised {type(error).__name__}: {error}") from error


def check_context_manager(subject: Subject) -> None:
    """A session is a context manager that gives itself and closes at the end."""
    from unittest import mock

    kit = subject.working()
    session = subject.backend().load(subject.artifact(kit), subject.options())
    kind = type(session)
    with mock.patch.object(kind, "close", autospec=True, side_effect=kind.close) as close:
        with session as entered:
            pass
        closed = any(call.args[0] is session for call in close.call_args_list)
    if not closed:
        session.close()
        raise Violation("leaving the session's with-block did not close it")
    if entered is not session:
        raise Violation(f"entering the session gave {type(entered).__name__}, not the session itself")


def check_placement(subject: Subject) -> None:
    """After a run, `placement` names a device that the probe lists, a precision, and nodes as counts or None."""
    kit = subject.working()
    with subject.session(kit) as session:
        session.run(kit.feeds(1))
        placement = session.placement()
    devices = subject.backend().probe().devices
    if not isinstance(placement, Placement) or not placement.precision:
        raise Violation(f"placement is incomplete: {placement!r}")
    if placement.device not in devices:
        raise Violation(f"placement names the device {placement.device!r}; the probe lists {', '.join(devices)}")
    if placement.nodes is not None and not all(type(count) is int and count >= 0 for count in placement.nodes.values()):
        raise Violation(f"placement's node counts are not counts: {dict(placement.nodes)}")


def _measured(subject: Subject) -> tuple[KitModel, Samples, float]:
    """What the session's own `measure` gives, and the nanoseconds it took by this process's clock."""
    kit = subject.working()
    plan = Plan(min_count=5, min_s=0.0, max_s=10.0, warmup_min_count=1, warmup_min_s=0.0, warmup_max_s=1.0)
    with subject.session(kit) as session:
        start_ns = time.perf_counter_ns()
        samples = session.measure([kit.feeds(1), kit.feeds(2)], plan)
        wall_ns = time.perf_counter_ns() - start_ns
    if samples is None:
        raise Skip("the session leaves timing to the harness")
    return kit, samples, wall_ns


def check_measure_samples(subject: Subject) -> None:
    """The samples of an own `measure` are positive integer nanoseconds, as many as planned, with scope and clock."""
    _, samples, _ = _measured(subject)
    if not samples.series:
        raise Violation("measure returned no series")
    for series in samples.series:
        if series.scope not in get_args(Scope) or series.clock not in get_args(Clock):
            raise Violation(f"measure names the scope {series.scope!r} and the clock {series.clock!r}")
        values = np.asarray(series.samples_ns)
        if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
            raise Violation(f"{series.scope} samples are {values.dtype} of shape {values.shape}, not a row of integers")
        if len(values) < 5 or values.min() <= 0:
            raise Violation(f"{series.scope} samples: {len(values)} of them for a plan of 5, or one is not positive")


def check_measure_fits(subject: Subject) -> None:
    """The samples of an own `measure` fit into the time that it took."""
    _, samples, wall_ns = _measured(subject)
    for series in samples.series:
        total_ns = int(np.sum(series.samples_ns))
        if total_ns > wall_ns:
            raise Violation(
                f"{series.scope} samples add up to {total_ns} ns, but measure returned after {wall_ns:.0f} ns"
            )


def check_measure_outputs(subject: Subject) -> None:
    """An own `measure` leaves the outputs of its last inference, and the index of the feed that made them."""
    kit, samples, _ = _measured(subject)
    if samples.feed_index not in (0, 1):
        raise Violation(f"measure names the feed {samples.feed_index!r} of two")
    wanted = subject.fresh(kit, samples.feed_index + 1)
    require_same(samples.outputs, wanted, f"measure's outputs are not those of feed {samples.feed_index}")


def check_device_series(subject: Subject) -> None:
    """Durations of `device_series` are positive integer nanoseconds with scope and clock, and fit into its time."""
    kit = subject.working()
    feeds = [kit.feeds(1), kit.feeds(2)]
    plan = Plan(min_count=5, min_s=0.0, max_s=10.0)
    with subject.session(kit) as session:
        session.run(feeds[0])
        start_ns = time.perf_counter_ns()
        found = session.device_series(feeds, plan)
        wall_ns = time.perf_counter_ns() - start_ns
    if not found:
        raise Skip("the session tells of no scope inside an inference")
    for series in found:
        values = np.asarray(series.samples_ns)
        if series.scope not in get_args(Scope) or series.clock not in get_args(Clock):
            raise Violation(f"device_series names the scope {series.scope!r} and the clock {series.clock!r}")
        if values.ndim != 1 or values.dtype.kind not in "iu" or len(values) < 5 or values.min() <= 0:
            raise Violation(
                f"{series.scope} samples: {values.dtype} of shape {values.shape} for a plan of 5, or not positive"
            )
        if values.sum() > wall_ns:
            raise Violation(f"{series.scope} samples add up to {values.sum()} ns; it returned after {wall_ns:.0f} ns")
