"""Rules about one run: the outputs' names, types, shapes and values, and whose memory they are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from bench.conformance.kit import Skip, Subject, Violation, copied, require_same
from bench.conformance.models import BATCH, CONV, FLATTEN, MLP, TWO_INPUTS, KitModel
from bench.interface import Outputs, Session, ValueSpec


def check_load(subject: Subject) -> None:
    """`load` returns a Session."""
    with subject.session(subject.working()) as session:
        if not isinstance(session, Session):
            raise Violation(f"load returned a {type(session).__name__}, which is not a Session")


def check_runs_a_model(subject: Subject) -> None:
    """At least one of the kit's models runs."""
    subject.require()
    try:
        subject.fresh(subject.working(), 1)
    except Skip as error:
        raise Violation(str(error)) from error


def check_output_names(subject: Subject) -> None:
    """`run` returns the ONNX model's outputs: every name, no other, in its order."""
    kit = subject.working()
    _require_names(subject, kit)
    if kit is not TWO_INPUTS:
        with contextlib.suppress(Skip):
            _require_names(subject, TWO_INPUTS)


def _require_names(subject: Subject, kit: KitModel) -> None:
    names, wanted = list(subject.fresh(kit, 1)), [value.name for value in kit.outputs]
    if names != wanted:
        raise Violation(f"model {kit.name!r}: run returned the outputs {names}, not {wanted}")


def _each_output(subject: Subject) -> Iterator[tuple[str, ValueSpec, Any]]:
    kit = subject.working()
    outputs = subject.fresh(kit, 1)
    for spec in kit.outputs:
        if spec.name in outputs:
            yield f"model {kit.name!r}: output {spec.name!r}", spec, outputs[spec.name]


def check_output_types(subject: Subject) -> None:
    """Outputs are numpy arrays of the ONNX model's element types."""
    for what, spec, value in _each_output(subject):
        if not isinstance(value, np.ndarray):
            raise Violation(f"{what} is a {type(value).__name__}, not a numpy array")
        if value.dtype != spec.dtype:
            raise Violation(f"{what} is {value.dtype}, not {spec.dtype}")


def check_output_shapes(subject: Subject) -> None:
    """Outputs have the ONNX model's shapes, the batch axis included."""
    for what, spec, value in _each_output(subject):
        if np.shape(value) != spec.shape:
            raise Violation(f"{what} has shape {np.shape(value)}, not {spec.shape}")


def _require_values(subject: Subject, kit: KitModel) -> None:
    for seed in (1, 2):
        require_same(subject.fresh(kit, seed), kit.answer(kit.feeds(seed)), f"model {kit.name!r}, seed {seed}")


def check_values_mlp(subject: Subject) -> None:
    """The answers of a small dense network are right within 1e-3 of their scale."""
    _require_values(subject, MLP)


def check_values_conv(subject: Subject) -> None:
    """The answers of a padded convolution are right within 1e-3 of their scale."""
    _require_values(subject, CONV)


def check_values_two_inputs(subject: Subject) -> None:
    """Two inputs and two outputs are matched by name: their answers are right, and would change if swapped."""
    _require_values(subject, TWO_INPUTS)
    with subject.session(TWO_INPUTS) as session:
        feeds = TWO_INPUTS.feeds(1)
        backwards = {name: feeds[name] for name in reversed(feeds)}
        outputs = session.run(backwards)
    require_same(outputs, subject.fresh(TWO_INPUTS, 1), "the order of the feeds' names changes the answer")


def check_values_batch(subject: Subject) -> None:
    """A batch of two gives both answers, each right within 1e-3 of their scale."""
    _require_values(subject, BATCH)


def check_values_flatten(subject: Subject) -> None:
    """A model that only changes the shape gives its input back, element by element."""
    _require_values(subject, FLATTEN)


def check_feeds_unchanged(subject: Subject) -> None:
    """`run` leaves its feeds as they were."""
    kit = subject.working()
    feeds = kit.feeds(1)
    with subject.session(kit) as session:
        session.run(feeds)
    for name, value in kit.feeds(1).items():
        if not np.array_equal(feeds[name], value):
            raise Violation(f"run changed its feed {name!r}")


def check_outputs_survive(subject: Subject) -> None:
    """Outputs belong to the caller: the next run and closing the session do not change them."""
    kit = subject.working()
    with subject.session(kit) as session:
        outputs = session.run(kit.feeds(1))
        kept = copied(outputs)
        session.run(kit.feeds(2))
        _require_untouched(outputs, kept, "the next run changed it")
    _require_untouched(outputs, kept, "closing the session changed it")


def _require_untouched(outputs: Outputs, kept: Outputs, what: str) -> None:
    for name, value in kept.items():
        if isinstance(value, np.ndarray) and not np.array_equal(np.asarray(outputs[name]), value, equal_nan=True):
            raise Violation(f"output {name!r} is not the caller's own: {what}")


def check_outputs_writable(subject: Subject) -> None:
    """Outputs belong to the caller: writing into them is allowed and changes no later result."""
    kit = subject.working()
    with subject.session(kit) as session:
        outputs = session.run(kit.feeds(1))
        kept = copied(outputs)
        for name, value in outputs.items():
            if isinstance(value, np.ndarray):
                if not value.flags.writeable:
                    raise Violation(f"output {name!r} is read-only")
                value.fill(-77)
        require_same(session.run(kit.feeds(1)), kept, "writing into outputs changed a later result")


def check_outputs_are_not_feeds(subject: Subject) -> None:
    """Outputs share no memory with the feeds, even where the model only passes them on."""
    feeds = FLATTEN.feeds(1)
    with subject.session(FLATTEN) as session:
        for name, value in session.run(feeds).items():
            if isinstance(value, np.ndarray) and any(np.may_share_memory(value, feed) for feed in feeds.values()):
                raise Violation(f"output {name!r} is the feed's own memory")
