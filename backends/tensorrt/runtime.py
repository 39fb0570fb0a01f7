"""TensorRT's Python package: which one is there, and what it says while it works.

TensorRT 10, 11 and TensorRT-RTX have the same interface, name for name, as far as it is used here. They hardly raise:
most functions return None, False or -1, and the reason is in the logger alone.
Source: tensorrt 10.16 and 11.4 (names of the bindings), tensorrt-rtx 1.7.1 (used), November 2026.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from importlib import metadata
from typing import Any, ParamSpec, TypeVar

from bench.errors import BackendUnavailable

# The package to import, and the distributions that bring it. The first that is there is used.
PACKAGES = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt_rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
}
INSTALL = 'pip install "deploybench[tensorrt-rtx]", or "deploybench[tensorrt]" with NVIDIA\'s package index'
_KEPT = 400

P = ParamSpec("P")
T = TypeVar("T")


def installed() -> str:
    """The name of the package that is there, empty if none is. Imports nothing."""
    return next((name for name in PACKAGES if importlib.util.find_spec(name)), "")


def version(package: str) -> str:
    """The version of what is installed, without importing it; empty where that is not known."""
    for distribution in PACKAGES[package]:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return ""


def require() -> Any:
    """The package, imported.

    Raises:
        BackendUnavailable: there is none, or its libraries are missing.
    """
    package = installed()
    if not package:
        raise BackendUnavailable("neither tensorrt nor tensorrt_rtx is installed", INSTALL)
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise BackendUnavailable(f"{package} cannot be imported: {error}", INSTALL) from error


def is_rtx(trt: Any) -> bool:
    """Whether this is TensorRT-RTX: its engines are compiled for the GPU at hand when they are loaded."""
    return bool(trt.__name__ == "tensorrt_rtx")


def releasing(make: Callable[P, T]) -> Callable[P, T]:
    """`make`, with TensorRT's objects in it ended when it ends, also when it raises.

    An exception keeps the frames that it came through, and with them a builder. When Python's collector finds that, it
    may be in the middle of a call of `log`, which TensorRT makes with a lock held that the builder's end waits for.
    """

    @functools.wraps(make)
    def made(*args: P.args, **more: P.kwargs) -> T:
        try:
            return make(*args, **more)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)
            raise

    return made


def log(trt: Any) -> Any:
    """A logger that keeps warnings and errors, and copies them to standard error."""

    class Log(trt.ILogger):  # type: ignore[misc]  # a base that is loaded at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.said: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING):
                self.said = [*self.said[1 - _KEPT :], (severity.name, message.strip())]
                print(f"{trt.__name__}: {severity.name}: {message}", file=sys.stderr)

        def errors(self) -> str:
            """The last errors, in their order; empty if there was none."""
            found = dict.fromkeys(text for severity, text in self.said if severity != "WARNING")
            return "; ".join(list(found)[-3:])[:2000]

        def warnings(self) -> list[str]:
            return [text for severity, text in self.said if severity == "WARNING"]

    return Log()
