"""The precision that a record's error looks like, what it says of it, and the tolerance that would just have done."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench import fold as folds
from bench import record as r
from bench.fold.grade import required
from bench.report import words
from bench.store import read_lines

LINES = list(read_lines(Path(__file__).parent / "golden" / "schema-1.jsonl"))
CASE = next(line for line in LINES if isinstance(line, r.CaseLine))
TRIAL = next(line for line in LINES if isinstance(line, r.TrialLine))
END = r.EndLine(schema=1, id=CASE.id, stopped_by="enough trials")
replace = msgspec.structs.replace


def folded(snr_db, *, noise_db=110.0, precision="model", grade="fp32", max_rel_scale=3e-6, **output):
    """The record of a case whose one output has this signal-to-noise ratio."""
    figures = {"snr_db": snr_db, "max_abs": 1e-6, **output}
    judged = replace(TRIAL.parity, grade=grade, outputs=[replace(TRIAL.parity.outputs[0], **figures)])
    noise = r.NoiseFacts(name=judged.outputs[0].name, snr_db=noise_db, max_rel_scale=max_rel_scale)
    options = replace(CASE.case.options, precision=precision)
    case = replace(CASE, reference=replace(CASE.reference, noise=[noise]), case=replace(CASE.case, options=options))
    return folds.fold(case, [replace(TRIAL, parity=judged)], END)


@pytest.mark.parametrize(
    ("snr_db", "precision", "reached", "said"),
    [
        (109, "model", "fp32", False),
        (None, "model", "fp32", False),
        (81, "model", "fp16", True),
        (45, "model", "fp16", True),
        (81, "fp16", "fp16", False),
        (81, "tf32", "fp16", False),
        (27, "fp16", "bf16", True),
        (27, "bf16", "bf16", False),
        (5, "bf16", "int8", True),
        (5, "int8", "int8", False),
    ],
)
def test_less_than_was_asked_for_is_noted_and_marked(snr_db, precision, reached, said):
    record = folded(snr_db, precision=precision)
    assert record.parity.reached == reached
    assert record.status == folded(110).status
    assert any(note.startswith("low precision: ") for note in record.notes) is said
    assert ("ⁱ" in words.marks_of(record)) is said


def test_what_passes_nothing_reaches_nothing():
    assert folded(81, grade="wrong").parity.reached == "wrong"


def test_without_noise_nothing_is_said():
    record = folds.fold(CASE, [TRIAL], END)
    assert record.parity.reached == ""
    assert not any(note.startswith("low precision") for note in record.notes)


def test_the_noise_stands_beside_the_error():
    assert words.error_and_noise(folded(110)).endswith(" (noise 3.0e-06)")
    assert "noise" not in words.error_and_noise(folds.fold(CASE, [TRIAL], END))


def test_the_required_tolerance_is_the_largest_share_of_the_one_that_was_used():
    used = CASE.tolerance
    assert folded(90, exceed=0.25).parity.required == (0.25 * used.rtol, 0.25 * used.atol_of_scale)
    assert required(CASE, replace(TRIAL.parity, outputs=[replace(TRIAL.parity.outputs[0], exceed=None)])) is None
    assert required(CASE, replace(TRIAL.parity, outputs=[replace(TRIAL.parity.outputs[0], nan=2)])) is None
    assert required(CASE, replace(TRIAL.parity, outputs=[])) is None


def test_a_task_metric_stands_in_the_record_and_in_words():
    task = r.TaskFacts(metric="top1", samples=40, value=0.875, reference=0.9)
    record = folds.fold(replace(CASE, task=task), [TRIAL], END)
    assert record.task == task
    assert words.task(record) == "top1 0.875 (0.9)"
    failed = folds.fold(replace(CASE, task=replace(task, value=None, reason="x")), [TRIAL], END)
    assert words.task(failed) == "top1: not known"
