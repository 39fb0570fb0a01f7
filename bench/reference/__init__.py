"""Reference outputs: those that came with a model, or from a producer that may judge; and how far they are off."""

from bench.reference.doubts import constant, doubts, moved
from bench.reference.judge import complete, judges
from bench.reference.noise import Noise, NoiseFloor, noise_floor
from bench.reference.task import Score, Task, score

__all__ = [
    "Noise",
    "NoiseFloor",
    "Score",
    "Task",
    "complete",
    "constant",
    "doubts",
    "judges",
    "moved",
    "noise_floor",
    "score",
]
