"""Every error that deploybench raises on purpose, and nothing else.

BenchError                  what happened (`message`) and what to do next (`hint`)
├── UsageError              the command, an option or a file given by the user is wrong
├── BackendUnavailable      the runtime is not installed, or its device is not there
├── UnsupportedModel        the runtime or its converter cannot express this model
├── PrepareError            conversion or engine building failed
├── LoadError               the artefact could not be loaded
├── RunError                an inference failed
├── Crashed                 the process that held the runtime died
├── HostError               the machine or the link to it failed
│   ├── Unreachable         no link could be made, or it was lost
│   └── Timeout             a bounded wait ran out
└── RecordError             a record file is unreadable or of another schema

Runs inside workers: standard library only, Python 3.10.
"""

from __future__ import annotations


class BenchError(Exception):
    """What was tried and what came back, with the next step in `hint`."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(BenchError):
    """The command, an option or a file given by the user is wrong."""


class BackendUnavailable(BenchError):
    """The runtime is not installed, or the device it needs is not there."""


class UnsupportedModel(BenchError):
    """The runtime or its converter cannot express this model."""


class PrepareError(BenchError):
    """Conversion or engine building failed for another reason than the model's operators."""


class LoadError(BenchError):
    """The artefact could not be loaded."""


class RunError(BenchError):
    """An inference failed."""


class Crashed(BenchError):
    """The process that held the runtime died; `signal` is its name (`SIGSEGV`), or None when it exited by itself.

    `output` is what it had printed, where that is known.
    """

    def __init__(self, message: str, hint: str = "", signal: str | None = None, output: str = "") -> None:
        super().__init__(message, hint)
        self.signal, self.output = signal, output


class HostError(BenchError):
    """The machine or the link to it failed."""


class Unreachable(HostError):
    """No link could be made, or it was lost."""


class Timeout(HostError):
    """A bounded wait ran out."""


class RecordError(BenchError):
    """A record file is unreadable or of another schema."""


def by_name(name: str) -> type[BenchError]:
    """The class of that name, so that an error can cross a process boundary; `BenchError` for an unknown one."""
    found = globals().get(name)
    return found if isinstance(found, type) and issubclass(found, BenchError) else BenchError
