"""Models that come from scikit-learn: its own predictions are the reference, so the converter is judged too.

Outputs that are no tensors: a label (int64) and, by ZipMap, a sequence with one map from class to probability per row.
The training data come inside scikit-learn: nothing is downloaded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python -I leaves this folder out

import numpy as np
import onnx
from testdata import (
    Array,
    Liveness,
    Refused,
    check_alive,
    input_generator,
    main,
    write_data_sets,
    write_model,
    write_provenance,
)

try:
    import sklearn
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
except ImportError as error:
    sys.exit(f'{error.name} is not installed; run: pip install "deploybench[sklearn]"')

OPSETS = {"": 13, "ai.onnx.ml": 1}
"""Old enough for every ONNX Runtime since 2021; ZipMap and LinearClassifier have not changed since version 1."""
STRENGTH = 3e-4
"""Inverse of the regularisation: weak answers, so that no class holds more than testdata.MOST_PROBABILITY."""
ROWS = 3


def trained(seed: int) -> LogisticRegression:
    """Ten classes of handwritten digits, 8x8 pixels of 0 to 16, from half of the images."""
    images, labels = load_digits(return_X_y=True)
    chosen = np.random.default_rng(seed).permutation(len(labels))[: len(labels) // 2]
    return LogisticRegression(C=STRENGTH, max_iter=500, random_state=seed).fit(images[chosen], labels[chosen])


def rows(seed: int, index: int) -> Array:
    """float32[3, 64]: images of three different digits."""
    images, labels = load_digits(return_X_y=True)
    digits = input_generator(seed, index).choice(10, ROWS, replace=False)
    picked = [input_generator(seed, 100 * index + k).choice(np.flatnonzero(labels == d)) for k, d in enumerate(digits)]
    return np.asarray(images[picked], dtype=np.float32)


def answered(model: LogisticRegression, given: Array) -> dict[str, object]:
    """What scikit-learn says in float64, probabilities rounded to float32 as ONNX holds them."""
    labels, shares = model.predict(given), model.predict_proba(given).astype(np.float32)
    named = [dict(zip(map(int, model.classes_), map(float, row), strict=True)) for row in shares]
    return {"output_label": labels.astype(np.int64), "output_probability": named}


def converted(model: LogisticRegression) -> onnx.ModelProto:
    """The model as ONNX, without the converter's notes."""
    made = convert_sklearn(model, initial_types=[("input", FloatTensorType([ROWS, 64]))], target_opset=OPSETS)
    made.doc_string = made.graph.doc_string = made.domain = ""
    made.graph.name = "logistic_regression"
    made.ir_version = 8
    opsets = sorted(made.opset_import, key=lambda opset: opset.domain)  # the converter's come from a set
    del made.opset_import[:]
    made.opset_import.extend(opsets)
    made.producer_name, made.producer_version = "sklearn", sklearn.__version__
    return made


def build(out: Path, name: str, seed: int, count: int) -> Mapping[str, Liveness]:
    """Write the files of the model; the figures of its probabilities."""
    model = trained(seed)
    inputs = [{"input": rows(seed, index)} for index in range(count)]
    shares = [{"probabilities": model.predict_proba(given["input"])} for given in inputs[:2]]
    figures = check_alive(*shares)
    outputs = [answered(model, given["input"]) for given in inputs]
    if (outputs[0]["output_label"] == outputs[1]["output_label"]).all():
        raise Refused("the labels do not depend on the input")
    onnx.checker.check_model(write_model(out, converted(model)))
    write_data_sets(out, list(zip(inputs, outputs, strict=True)))
    settings = "float64, rounded to float32"
    write_provenance(out, producer="scikit-learn", version=sklearn.__version__, settings=settings, seed=seed)
    return figures


if __name__ == "__main__":
    sys.exit(main(build, ["logistic_regression"]))
