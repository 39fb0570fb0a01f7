"""A backend that gives back what it is fed: what an inference over a link takes is the link's and the worker's.

Used by `link_cost.py`; registered nowhere.
"""

from __future__ import annotations

from pathlib import Path

from bench.interface import (
    Artifact,
    Backend,
    Feeds,
    Model,
    Options,
    OptionValue,
    Outputs,
    Placement,
    Probe,
    Session,
    Target,
    Tools,
)


class Echo(Backend):
    """Needs no runtime."""

    name = "echo"

    def probe(self) -> Probe:
        return Probe(True, "1", ("cpu",))

    def prepare_key(self, model: Model, options: Options, target: Target) -> dict[str, OptionValue]:
        return {}

    def prepare(self, model: Model, options: Options, workdir: Path, tools: Tools) -> Artifact:
        return Artifact(workdir, (), model.signature)

    def load(self, artifact: Artifact, options: Options) -> Session:
        return EchoSession()


class EchoSession(Session):
    """x in, y out."""

    def run(self, feeds: Feeds) -> Outputs:
        return {"y": feeds["x"].copy()}

    def placement(self) -> Placement:
        return Placement("cpu", "model")
