"""Models that come from PyTorch: its own outputs are the reference, so the exporter is judged too.

Written in plain torch.nn (torchvision has no CPU build of this torch). The exported file is stripped of everything that
says where or when it was made.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python -I leaves this folder out

import numpy as np
import onnx
from testdata import (
    Array,
    Liveness,
    Refused,
    block_images,
    calibration_images,
    check_alive,
    input_generator,
    main,
    write_data_sets,
    write_model,
    write_provenance,
)

try:
    import onnxscript  # noqa: F401 - torch.onnx.export needs it and would fail late
    import torch
    from torch import nn
except ImportError as error:
    sys.exit(f'{error.name} is not installed; run: pip install "deploybench[torch]"')

OPSET = 18
"""The lowest that the dynamo exporter writes; ONNX Runtime, pnnx and MNN read it. Source: measured, November 2026."""
LOGIT_STD = 2.0


class InvertedResidual(nn.Module):
    """MobileNetV2's block: widen, filter each channel, narrow; added to its input where shapes allow."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        widen = [] if expand == 1 else [convolution(inputs, hidden, kernel=1)]
        self.layers = nn.Sequential(
            *widen,
            convolution(hidden, hidden, kernel=3, stride=stride, groups=hidden),
            convolution(hidden, outputs, kernel=1, active=False),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.layers(x)
        return torch.add(x, made) if self.shortcut else made


def convolution(
    inputs: int, outputs: int, *, kernel: int, stride: int = 1, groups: int = 1, active: bool = True
) -> nn.Sequential:
    """Conv without bias, BatchNorm, and ReLU6 if `active`."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([nn.ReLU6()] if active else []))


class MobileNetV2(nn.Module):
    """float32[1, 3, 224, 224] to logits float32[1, 1000]. Source: Sandler et al. 2018, arXiv:1801.04381, table 2."""

    BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    """(expansion, channels, repeats, first stride)"""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [convolution(3, 32, kernel=3, stride=2)]
        channels = 32
        for expand, outputs, repeats, stride in self.BLOCKS:
            for index in range(repeats):
                step = stride if index == 0 else 1
                layers.append(InvertedResidual(channels, outputs, stride=step, expand=expand))
                channels = outputs
        layers.append(convolution(channels, 1280, kernel=1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(torch.flatten(nn.functional.adaptive_avg_pool2d(self.features(x), 1), 1))
        return logits


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself, spelled out: every exporter and converter reads these operators."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        split = (batch, length, self.heads, width // self.heads)
        query, key, value = (part(x).reshape(split).transpose(1, 2) for part in (self.query, self.key, self.value))
        scores = query @ key.transpose(2, 3) * (width // self.heads) ** -0.5
        mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(batch, length, width)
        answer: torch.Tensor = self.out(mixed)
        return answer


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer with GELU."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attend = nn.Sequential(nn.LayerNorm(width), SelfAttention(width, heads))
        widen, narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.think = nn.Sequential(nn.LayerNorm(width), widen, nn.GELU(), narrow)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attend(x)
        answer: torch.Tensor = x + self.think(x)
        return answer


class TransformerEncoder(nn.Module):
    """float32[1, 64, 256] to the same shape: four layers, four heads, a last LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(EncoderLayer(256, 4) for _ in range(4)), nn.LayerNorm(256))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.layers(x)
        return answer


def mobilenet_v2(rng: np.random.Generator) -> nn.Module:
    """He-normal weights; BatchNorm statistics from one pass; scales and shifts that are not neutral; scaled logits."""
    model = MobileNetV2()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in")
        elif isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.75, 1.25)
            nn.init.uniform_(module.bias, 0.25, 0.75)  # mostly active units: rounding errors grow less
    nn.init.normal_(model.classifier.weight, std=1280**-0.5)
    batch = torch.from_numpy(calibration_images(rng))
    with torch.no_grad():
        model.train()(batch)
        nn.init.zeros_(model.classifier.bias)
        logits = model.eval()(batch)
        factor = LOGIT_STD / (logits - logits.mean(dim=0)).std()
        model.classifier.weight.mul_(factor)
        model.classifier.bias.sub_(factor * logits.mean(dim=0))
    return model


def transformer_encoder(rng: np.random.Generator) -> nn.Module:
    """LayerNorm keeps the scale; only its own scales and shifts are made not neutral."""
    model = TransformerEncoder().eval()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.75, 1.25)
            nn.init.uniform_(module.bias, -0.25, 0.25)
    return model


MODELS: dict[str, Callable[[np.random.Generator], nn.Module]] = {
    "mobilenet_v2": mobilenet_v2,
    "transformer_encoder": transformer_encoder,
}
INPUTS: dict[str, Callable[[np.random.Generator], Array]] = {
    "mobilenet_v2": lambda rng: block_images(rng, 1),
    "transformer_encoder": lambda rng: rng.standard_normal((1, 64, 256), dtype=np.float32),
}


def _stripped(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the exporter's notes: stack traces, paths of the source, class names, intermediate shapes."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    if model.functions:
        raise Refused("the exporter left local functions in the model")
    model.producer_name, model.producer_version = "pytorch", torch.__version__
    return model


def exported(model: nn.Module, example: Array) -> onnx.ModelProto:
    """The model as ONNX with static shapes and its weights inside."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            model,
            (torch.from_numpy(example),),
            path,
            dynamo=True,
            opset_version=OPSET,
            input_names=["input"],
            output_names=["output"],
            external_data=False,
            verbose=False,
        )
        return _stripped(onnx.load(path))


def build(out: Path, name: str, seed: int, count: int) -> Mapping[str, Liveness]:
    """Write the files of one model; the figures of its output."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    model = MODELS[name](np.random.default_rng(seed)).eval()
    inputs = [{"input": INPUTS[name](input_generator(seed, index))} for index in range(count)]
    with torch.no_grad():
        outputs = [{"output": model(torch.from_numpy(feeds["input"])).numpy()} for feeds in inputs]
    figures = check_alive(*outputs[:2])
    onnx.checker.check_model(write_model(out, exported(model, inputs[0]["input"])), full_check=True)
    write_data_sets(out, list(zip(inputs, outputs, strict=True)))
    settings = "cpu, eval, 1 thread"
    write_provenance(out, producer="pytorch", version=torch.__version__, settings=settings, seed=seed)
    return figures


if __name__ == "__main__":
    sys.exit(main(build, sorted(MODELS)))
