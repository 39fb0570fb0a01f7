"""ONNX Runtime: what its execution providers share (`runtime`), the CPU's, and CUDA's (`cuda`, judged by `nodes`)."""

from __future__ import annotations

from backends.ort.cuda import OrtCuda
from backends.ort.runtime import MEANING, OrtCpu, translate

__all__ = ["MEANING", "OrtCpu", "OrtCuda", "translate"]
