"""Task metrics: shares that are right, labels, and the user's own function, which may fail in every way."""

from __future__ import annotations

import numpy as np
import pytest

from bench.errors import BenchError, UsageError
from bench.reference import task as tasks
from bench.reference.task import Task

SCORES = np.array([[0.1, 0.5, 0.2, 0.9, 0.3, 0.4, 0.0]], np.float32)
SETS = [{"other": np.array([3]), "y": SCORES}, {"other": np.array([1]), "y": SCORES[:, ::-1].copy()}]


@pytest.mark.parametrize(
    ("metric", "labels", "value"),
    [
        ("top1", ["3", "3"], 1.0),
        ("top1", ["3", "1"], 0.5),
        ("top5", ["5", "0"], 0.5),
        ("top5", ["6", "1"], 0.5),
        ("top1", ["cat", "dog"], 0.0),
    ],
)
def test_the_share_that_is_right(metric, labels, value):
    assert tasks._value(metric, SETS, labels) == value


def test_names_count_in_alphabetical_order():
    assert tasks._indices(["dog", "cat", "dog", "eel"]) == [1, 0, 1, 2]
    assert tasks._indices(["10", "9"]) == [10, 9]


def test_a_class_that_the_model_does_not_know():
    with pytest.raises(UsageError, match="a label 7, and the model knows 7 classes"):
        tasks._value("top1", SETS, ["7", "0"])


def test_outputs_that_rank_nothing():
    with pytest.raises(UsageError, match="no output of the model ranks classes"):
        tasks._value("top1", [{"y": np.ones((1, 3, 8, 8), np.float32)}], ["0"])


def own(tmp_path, body):
    path = tmp_path / "metric.py"
    path.write_text(f"import numpy as np\n{body}")
    return f"{path}:score"


def test_a_function_of_the_users_own(tmp_path):
    (tmp_path / "beside.py").write_text("FACTOR = 10\n")
    body = "from beside import FACTOR\nprint('noise')\ndef score(outputs, labels):\n"
    body += "    return FACTOR * sum(o.argmax() == int(l) for o, l in zip(outputs['y'], labels)) / len(labels)\n"
    assert tasks._value(own(tmp_path, body), SETS, ["3", "1"]) == 5.0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("def score(outputs, labels): raise ValueError('no good')", "failed: ValueError: no good"),
        ("def other(): pass", "has no attribute 'score'"),
        ("def score(outputs, labels): return 'a'", "could not convert string to float"),
        ("def score(outputs, labels): return float('nan')", "returned nan"),
        ("import os\ndef score(outputs, labels): os._exit(3)", "it ended with 3"),
        ("def score(outputs, labels: return 1", "SyntaxError"),
    ],
)
def test_a_function_that_fails_says_so(tmp_path, body, words):
    with pytest.raises(BenchError, match=words):
        tasks._value(own(tmp_path, body), SETS, ["3", "1"])


def test_a_function_that_hangs_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "LIMIT_S", 0.5)
    metric = own(tmp_path, "import time\ndef score(outputs, labels): time.sleep(60)")
    with pytest.raises(BenchError, match=r"took longer than 0\.5 s"):
        tasks._value(metric, SETS, ["3", "1"])


@pytest.mark.parametrize("metric", ["top3", "metric.py", "nowhere.py:score", "metric.py:not a name"])
def test_no_metric(tmp_path, metric):
    with pytest.raises(UsageError, match="--metric"):
        Task(tmp_path, metric).check()


def test_no_folder(tmp_path):
    with pytest.raises(UsageError, match="there is no folder"):
        Task(tmp_path / "nowhere").check()
