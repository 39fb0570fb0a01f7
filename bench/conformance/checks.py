"""Every check by name, and its outcome in this process."""

from __future__ import annotations

import difflib
import importlib
import inspect
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.conformance import rules_declaration, rules_prepare, rules_run, rules_session
from bench.conformance.kit import Check, Outcome, Skip, Subject, Violation, no_tools
from bench.errors import UsageError
from bench.interface import Backend, OptionValue

_THEMES = (rules_declaration, rules_prepare, rules_run, rules_session)
_PREFIX = "check_"


def checks() -> tuple[Check, ...]:
    """Every check, in the order of the rules' files."""
    return tuple(
        Check(name.removeprefix(_PREFIX), (inspect.getdoc(function) or "").strip(), function)
        for theme in _THEMES
        for name, function in vars(theme).items()
        if name.startswith(_PREFIX)
    )


def named(name: str) -> Check:
    """The check of that name.

    Raises:
        UsageError: there is none.
    """
    known = {check.name: check for check in checks()}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
        raise UsageError(f"there is no check {name!r}", hint)
    return known[name]


def run_check(subject: Subject, name: str) -> Outcome:
    """The outcome of one check, in this process.

    Raises:
        UsageError: there is no such check.
    """
    check = named(name)
    try:
        check.run(subject)
    except Skip as reason:
        return Outcome(check.name, check.rule, "skipped", str(reason))
    except Violation as violation:
        return Outcome(check.name, check.rule, "failed", str(violation))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a backend does wrong is an outcome
        where = traceback.extract_tb(error.__traceback__)[-1]
        message = f"raised {type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        return Outcome(check.name, check.rule, "failed", message)
    return Outcome(check.name, check.rule, "passed")


def check_backend(
    backend_class: type[Backend],
    workdir: Path,
    *,
    tool_path: Callable[[str], Path] = no_tools,
    extra: Mapping[str, OptionValue] | None = None,
) -> tuple[Outcome, ...]:
    """The outcomes of all checks, in this process: a crash of the runtime ends it. See `isolated_checks`."""
    subject = Subject(backend_class, workdir, tool_path=tool_path, extra=extra)
    return tuple(run_check(subject, check.name) for check in checks())


def resolve(spec: str) -> type[Backend]:
    """The class that `MODULE:CLASS` names.

    Raises:
        UsageError: there is none, or it is not a Backend.
    """
    module, _, name = spec.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"{spec!r} names no class: {error}", "write it as MODULE:CLASS") from error
    if not (isinstance(found, type) and issubclass(found, Backend)):
        raise UsageError(f"{spec} is not a subclass of bench.interface.Backend")
    return found
