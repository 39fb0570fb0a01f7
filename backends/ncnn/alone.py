"""ncnn and pnnx by themselves: what a reproducer carries along. Nothing of this project is imported."""

import os
import re
import shutil
import subprocess
import tempfile
from typing import Any

import numpy as np


def run(model: str, feeds: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The outputs of an .onnx file by name: converted by pnnx, run by ncnn. `options`: threads, precision, layers.

    pnnx is looked for in $PNNX, then on the path: `pip install --no-deps pnnx` brings it without torch.
    """
    import ncnn

    print(f"ncnn {ncnn.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(model, os.path.join(folder, "model.onnx"))
        pnnx = os.environ.get("PNNX") or shutil.which("pnnx") or "pnnx"
        done = subprocess.run(
            [pnnx, "model.onnx", "fp16=0"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        print(done.stdout)
        if done.returncode:
            raise RuntimeError(f"pnnx ended with {done.returncode}")
        net = ncnn.Net()
        net.opt.num_threads = options.get("threads", 1)
        fp16 = options.get("precision") == "fp16"
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = fp16
        net.opt.use_bf16_storage = options.get("precision") == "bf16"
        net.opt.use_winograd_convolution = options.get("winograd", True)
        net.opt.use_sgemm_convolution = options.get("sgemm", True)
        net.opt.use_packing_layout = options.get("packing_layout", True)
        for load, name in ((net.load_param, "model.ncnn.param"), (net.load_model, "model.ncnn.bin")):
            if load(os.path.join(folder, name)) != 0:
                raise RuntimeError(f"ncnn cannot load {name}")
        with open(os.path.join(folder, "model_ncnn.py"), encoding="utf-8") as file:
            script = file.read()  # pnnx writes nowhere else which axis it takes for the batch
    return _extract(ncnn, net, script, feeds, _outputs(model))


def _outputs(model: str) -> list[str]:
    import onnx

    return [output.name for output in onnx.load(model, load_external_data=False).graph.output]


def _extract(ncnn: Any, net: Any, script: str, feeds: dict[str, Any], names: list[str]) -> dict[str, Any]:
    inputs = dict(re.findall(r'"(in\d+)", ncnn\.Mat\(\w+\.numpy\(\), batch_index=(\d+)\)', script))
    outputs = dict(re.findall(r"(out\d+)\.numpy\(batch_index=(\d+)\)", script))
    extractor = net.create_extractor()
    for index, array in enumerate(feeds.values()):
        array = array.astype(np.int32) if array.dtype.kind == "i" else array
        mat = ncnn.Mat(np.ascontiguousarray(array), batch_index=int(inputs[f"in{index}"]))
        extractor.input(f"in{index}", mat.clone())
    found = {}
    for index, name in enumerate(names):
        code, mat = extractor.extract(f"out{index}")
        if code != 0:
            raise RuntimeError(f"ncnn cannot compute {name} (code {code})")
        found[name] = np.array(mat.numpy(batch_index=int(outputs[f"out{index}"])))
    return found
