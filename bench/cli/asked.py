"""What is asked of a measurement, held against what it can give: the impossible is refused before anything runs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
from click.core import ParameterSource

from bench.cli.parsing import parse_time
from bench.errors import UsageError
from bench.registry import nearest

# A soak is one process for a given time: these say how long, how often and how precisely something else is measured.
NOT_WITH_SOAK = ("trials", "max_trials", "target", "min_time", "min_count", "max_time", "percentiles", "spread")
# Beyond a day it is another night, and `compare` knows what nights differ by.
LONGEST_SPREAD_S = 24 * 3600
# No inference was ever seen to take less: a bare loop around nothing shows 70 ns a call. Source: `selfcheck`, x86-64.
FASTEST_S = 50e-9


def check(settings: Mapping[str, Any], scenario: str = "single-stream") -> None:
    """Refuse what cannot be meant.

    Raises:
        UsageError: options contradict each other, or ask for more than there can be.
    """
    if scenario == "soak":
        for name in NOT_WITH_SOAK:
            if given(name):
                raise UsageError(f"{_flag(name)} means nothing with --soak", "a soak is one process for a given time")
        return
    trials, most = settings["trials"], settings["max_trials"]
    if most is not None and most < trials:
        raise UsageError(f"--max-trials {most} is less than --trials {trials}", "give --max-trials as many, or more")
    if settings["percentiles"] and scenario == "offline":
        raise UsageError("--percentile means nothing with --scenario offline", "it measures throughput, not latency")
    spread, budget = settings["spread"], settings["budget"]
    if given("spread") and trials < 2:
        raise UsageError(f"--spread means nothing with --trials {trials}", "it takes two or more")
    if spread is not None and budget is not None and budget <= spread:
        raise UsageError(f"--budget {budget:g} is over before trials spread over {spread:g} s are", "raise it")
    least_count(settings)


def parse_spread(text: str | None) -> float | None:
    """`10m` in seconds.

    Raises:
        UsageError: it is no time, or none or more than a day.
    """
    if text is None:
        return None
    seconds = parse_time(text, "--spread")
    if not 0 < seconds <= LONGEST_SPREAD_S:
        raise UsageError(f"--spread {text} is not possible", "give more than nothing, and at most a day (24h)")
    return seconds


def least_count(settings: Mapping[str, Any]) -> int:
    """Inferences of a trial: as many as were asked for, and as the percentiles take that were.

    Raises:
        UsageError: the count or the time that was given cannot show these percentiles.
    """
    from bench.measure.stats import min_count

    least, trials = int(settings["min_count"]), int(settings["trials"])
    for q in settings["percentiles"]:
        needs = min_count(q)
        each = math.ceil(needs / trials)
        if least < each and given("min_count"):
            raise UsageError(
                f"{_name(q)} takes {needs} samples, {trials} trials of --min-count {settings['min_count']} may have "
                f"{trials * settings['min_count']}",
                f"leave --min-count out, or give {each}",
            )
        if each * FASTEST_S > max(settings["max_time"], settings["min_time"]):
            raise UsageError(f"{each} inferences a trial do not fit into --max-time", "raise it")
        least = max(least, each)
    return least


def parse_percentiles(texts: Iterable[str]) -> tuple[float, ...]:
    """`p99.9` or `99.9`, several times, as shares.

    Raises:
        UsageError: it is none that is recorded.
    """
    from bench.measure.stats import QUANTILES

    known = {_name(q): q for q in QUANTILES}
    found = []
    for text in texts:
        name = re.sub(r"^p?", "p", text.strip().lower())
        if name not in known:
            raise UsageError(f"--percentile {text} is not recorded", nearest(name, known))
        found.append(known[name])
    return tuple(found)


def lacking(records: Sequence[Any], percentiles: Iterable[float]) -> list[str]:
    """In words, which percentiles were asked for and could not be shown in time."""
    found = []
    for record in records:
        for p in record.latency.percentiles if record.latency else ():
            if p.q in percentiles and p.ns is None:
                what = f"{record.case.model.name} on {record.case.backend}"
                found.append(
                    f"{what}: {_name(p.q)} takes {p.needs} samples, there was time for {record.latency.n}; raise "
                    f"--max-time at least {math.ceil(10 * p.needs / record.latency.n) / 10:g}-fold"
                )
    return found


def _name(q: float) -> str:
    return f"p{100 * q:g}"


def _flag(name: str) -> str:
    return "--percentile" if name == "percentiles" else f"--{name.replace('_', '-')}"


def given(name: str) -> bool:
    """Whether the person gave it: a default contradicts nothing."""
    context = click.get_current_context(silent=True)
    return context is not None and context.get_parameter_source(name) == ParameterSource.COMMANDLINE
