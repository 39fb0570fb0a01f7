"""A suite to copy: is the model right on every runtime that is here, and how fast is it?

pytest                                  answers, and latencies in pytest-benchmark's table
pytest --deploybench-quick              answers only, for pull requests
pytest --deploybench-backend=ncnn       one backend only
pytest --benchmark-autosave             keep the latencies, then
pytest --benchmark-compare --benchmark-compare-fail=median:10%
"""

import numpy as np
import pytest

# What the tests of this file share. A backend that is not installed is skipped, with the command that would help.
pytestmark = pytest.mark.deploybench("squeezenet", backends=["ort-cpu", "ncnn", "mnn"], threads=1)


def test_answers(deploybench):
    deploybench.assert_parity()


def test_latency(deploybench, benchmark):
    record = deploybench.measure(benchmark)
    if record:  # None with --deploybench-quick
        assert record.latency.p50_ns < 1e9


@pytest.mark.slow
@pytest.mark.deploybench(threads=[1, 2], trials=6)
def test_threads(deploybench, benchmark):
    """Six processes each: so many give the median an interval, in `extra_info` and in the record."""
    deploybench.measure(benchmark)


def test_scores_are_probabilities(deploybench):
    """Inferences of your own, on whatever feeds you like."""
    feeds = {name: np.zeros_like(value) for name, value in deploybench.inputs[0].items()}
    (scores,) = deploybench.run(feeds).values()
    assert scores.sum() == pytest.approx(1, abs=1e-3)
