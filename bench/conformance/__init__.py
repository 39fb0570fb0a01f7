"""The rules of `bench.interface`, each as a check that any backend can be put through.

Every `check_*` of the `rules_*` files states one rule in its docstring and raises `Violation` where it is broken. The
kit builds its own tiny models and knows their answers from float64 numpy. Where it can, a check compares a session with
itself, so that a backend which breaks one rule fails one check. It never judges speed.

`isolated_checks` runs them in processes of their own, as `deploybench conformance` does; `check_backend` in this one.
"""

from bench.conformance.checks import check_backend, checks, resolve, run_check
from bench.conformance.isolated import isolated, isolated_checks
from bench.conformance.kit import TOLERANCE, Check, Outcome, Skip, Status, Subject, Violation
from bench.conformance.models import KIT, KitModel
from bench.conformance.processes import BoundedTools

__all__ = [
    "KIT",
    "TOLERANCE",
    "BoundedTools",
    "Check",
    "KitModel",
    "Outcome",
    "Skip",
    "Status",
    "Subject",
    "Violation",
    "check_backend",
    "checks",
    "isolated",
    "isolated_checks",
    "resolve",
    "run_check",
]
