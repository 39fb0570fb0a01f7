"""deploybench: deploy ONNX models with evidence.

The harness. It imports no backend and no runtime: those live in `backends` and are loaded in worker processes.
"""

__version__ = "0.1.0"
