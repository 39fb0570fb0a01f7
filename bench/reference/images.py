"""From an image file to a model's input, by a preprocessing that is stated in full. Needs Pillow, which is optional."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import UsageError
from bench.interface import Array, ValueSpec
from bench.registry import nearest

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
INSTALL = 'pip install "deploybench[images]"'


@dataclass(frozen=True, slots=True)
class Preprocess:
    """What is done to an image, in this order. Every field is recorded.

    `resize`: the shorter side in pixels, or width and height (the shape of the image is lost then); bilinear, over the
    area where it shrinks. `crop`: the middle, so wide and high. Then (pixel * scale - mean) / std for every channel.
    """

    resize: tuple[int, ...] = ()
    crop: tuple[int, ...] = ()
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "NCHW"
    order: str = "RGB"

    def __str__(self) -> str:
        """The text that `parse` reads."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return ",".join(f"{name}={_text(value)}" for name, value in values.items() if value != ())


IMAGENET = Preprocess((256,), (224, 224), 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What classifiers of ImageNet are usually trained with. Source: the ONNX model zoo's notes on its classifiers."""


def _text(value: Any) -> str:
    return (
        ":".join(f"{v:g}" for v in value)
        if isinstance(value, tuple)
        else f"{value:.9g}"
        if isinstance(value, float)
        else value
    )


def parse(text: str) -> Preprocess:
    """`imagenet`, or steps such as `resize=256,crop=224:224,scale=1/255,mean=0.5,std=0.5,layout=NCHW,order=RGB`.

    Raises:
        UsageError: another form, an unknown step, or a value that makes no sense.
    """
    if text == "imagenet":
        return IMAGENET
    found: dict[str, Any] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in _PARSERS:
            raise UsageError(f"--preprocess knows no {name!r}", nearest(name, _PARSERS))
        try:
            found[name] = _PARSERS[name](value)
        except (ValueError, ZeroDivisionError):
            raise UsageError(
                f"--preprocess {part!r} cannot be read", f"write it as in --preprocess imagenet's own form: {IMAGENET}"
            ) from None
    return Preprocess(**found)


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in re.split("[:x]", text))
    if not 1 <= len(sizes) <= 2 or min(sizes) < 1:
        raise ValueError(text)
    return sizes


def _square(text: str) -> tuple[int, ...]:
    sizes = _sizes(text)
    return sizes if len(sizes) == 2 else (sizes[0], sizes[0])


def _number(text: str) -> float:
    above, _, below = text.partition("/")
    number = float(above) / float(below or 1)
    if not np.isfinite(number):
        raise ValueError(text)
    return number


def _numbers(text: str) -> tuple[float, ...]:
    numbers = tuple(_number(part) for part in text.split(":"))
    if len(numbers) not in (1, 3):
        raise ValueError(text)
    return numbers


def _divisors(text: str) -> tuple[float, ...]:
    numbers = _numbers(text)
    if 0 in numbers:
        raise ValueError(text)
    return numbers


def _one_of(*names: str) -> Callable[[str], str]:
    def parser(text: str) -> str:
        if text.upper() not in names:
            raise ValueError(text)
        return text.upper()

    return parser


_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "resize": _sizes,
    "crop": _square,
    "scale": _number,
    "mean": _numbers,
    "std": _divisors,
    "layout": _one_of("NCHW", "NHWC"),
    "order": _one_of("RGB", "BGR"),
}


def decoder() -> str:
    """Who reads the images, with its version: it decides their pixels.

    Raises:
        UsageError: Pillow is not installed.
    """
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise UsageError("reading images needs Pillow, which is not installed", INSTALL) from None
    return f"pillow {version('pillow')}"


def load(path: Path, steps: Preprocess, spec: ValueSpec) -> Array:
    """One image as a batch of one, in the input's type.

    Raises:
        UsageError: it is no image, or does not come out as the input is.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path} cannot be read as an image: {error}") from error
    pixels = np.asarray(_fitted(image, steps), np.float64)
    if steps.order == "BGR":
        pixels = pixels[:, :, ::-1]
    made = ((pixels * steps.scale - np.asarray(steps.mean)) / np.asarray(steps.std))[None]
    made = np.ascontiguousarray(made.transpose(0, 3, 1, 2) if steps.layout == "NCHW" else made)
    if spec.dtype == "uint8" and ((made != np.round(made)).any() or made.min() < 0 or made.max() > 255):
        raise UsageError(f"input {spec.name!r} takes uint8, and the preprocessing makes other numbers of {path.name}")
    if made.shape != spec.shape or spec.dtype not in ("float32", "float16", "float64", "uint8"):
        raise UsageError(
            f"{path.name} becomes {spec.dtype}{list(made.shape)}, the model takes {spec.dtype}{list(spec.shape or ())}",
            "give --preprocess its resize, crop and layout",
        )
    return made.astype(spec.dtype)


def _fitted(image: Any, steps: Preprocess) -> Any:
    """Resized, and cut out of the middle."""
    from PIL import Image

    if len(steps.resize) == 1:
        factor = steps.resize[0] / min(image.size)
        image = image.resize([max(1, round(side * factor)) for side in image.size], Image.Resampling.BILINEAR)
    elif steps.resize:
        image = image.resize(steps.resize, Image.Resampling.BILINEAR)
    if steps.crop:
        width, height = steps.crop
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    return image
