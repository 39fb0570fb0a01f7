"""A model that a fixture makes: write your own export in place of this one."""

import onnx.parser
import pytest

NET = """
<ir_version: 8, opset_import: ["": 17]>
mine (float[N, 3, 8, 8] image) => (float[N, 3] scores) {
    positive = Relu(image)
    pooled = GlobalAveragePool(positive)
    flat = Flatten<axis = 1>(pooled)
    scores = Softmax(flat)
}
"""


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """In your suite: torch.onnx.export(model, inputs, path), once for all tests."""
    path = tmp_path_factory.mktemp("export") / "mine.onnx"
    onnx.save(onnx.parser.parse_model(NET), path)
    return path


@pytest.fixture
def deploybench_model(exported):
    """The model of tests whose marker names none."""
    return exported


@pytest.mark.deploybench(backends=["ort-cpu", "mnn"], batch=[1, 4])
def test_export(deploybench):
    deploybench.assert_parity()
