"""`--scenario` and its parameters: the options, and their texts as a value or a sentence on what is wrong."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import click

from bench.cli.options import stacked
from bench.cli.parsing import parse_time
from bench.errors import UsageError

SAMPLES_PER_QUERY = 8  # MLPerf's
MAX_STREAMS = 1024
# Arrivals closer than a microsecond cannot be scheduled: taking one off the schedule takes longer.
MAX_RATE = 1e6
# Three stretches of a second are the fewest with a begin and an end; beyond a week nobody waits for an answer.
SHORTEST_SOAK_S, LONGEST_SOAK_S = 3, 7 * 24 * 3600
UNITS_NS = {"ns": 1, "us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9}


def _names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from bench.measure.scenarios import NAMES

    return [name for name in NAMES if name.startswith(incomplete)]


scenario_options = stacked(
    click.option(
        "--scenario",
        default="single-stream",
        show_default=True,
        metavar="NAME",
        shell_complete=_names,
        help="single-stream, multi-stream, offline or server, as MLPerf means them.",
    ),
    click.option(
        "--streams",
        metavar="N",
        help="Parallel sessions.  [default: offline: swept until the gain is under 5 %; else: cores / threads]",
    ),
    click.option(
        "--samples-per-query", metavar="N", help=f"Inferences of a multi-stream query.  [default: {SAMPLES_PER_QUERY}]"
    ),
    click.option("--rate", metavar="PER_SECOND", help="Queries that arrive per second at a server, at random."),
    click.option(
        "--latency-bound", metavar="TIME", help="Find the server's highest rate whose p99 is within, such as 15ms."
    ),
    click.option(
        "--soak",
        metavar="TIME",
        help="Sustained load: one process for 90s, 10m or 1h; latency, clocks and heat over time, with a picture.",
    ),
)
NEEDS = {
    "streams": ("multi-stream", "offline", "server"),
    "samples_per_query": ("multi-stream",),
    "rate": ("server",),
    "latency_bound": ("server",),
}


def parse(settings: Mapping[str, Any]) -> Any:
    """The scenario that the options ask for.

    Raises:
        UsageError: an unknown scenario, a parameter that it does not have, or an impossible value.
    """
    from bench.measure.scenarios import NAMES, Scenario
    from bench.registry import nearest

    name = settings["scenario"]
    if name not in NAMES:
        raise UsageError(f"there is no scenario {name!r}", nearest(name, NAMES))
    given = {option: settings[option] for option in NEEDS if settings[option] is not None}
    if settings.get("soak") is not None and name != "single-stream":
        raise UsageError(f"--soak means nothing with --scenario {name}", "leave one of them out")
    for option in given:
        if name not in NEEDS[option]:
            wanted = " or ".join(f"--scenario {other}" for other in NEEDS[option])
            raise UsageError(f"{_flag(option)} means nothing with --scenario {name}", f"add {wanted}")
    if settings.get("soak") is not None:
        return Scenario(name="soak", soak_s=_soak_s(settings["soak"]))
    if name == "server" and len({"rate", "latency_bound"} & set(given)) != 1:
        both = "both were given" if "rate" in given else "neither was given"
        raise UsageError(f"--scenario server takes --rate or --latency-bound; {both}", "for example --rate 100")
    samples = _whole("samples_per_query", given, MAX_STREAMS)
    return Scenario(
        name=name,
        streams=_whole("streams", given, MAX_STREAMS),
        samples_per_query=samples or (SAMPLES_PER_QUERY if name == "multi-stream" else None),
        rate=_rate(given["rate"]) if "rate" in given else None,
        latency_bound_ns=_nanoseconds(given["latency_bound"]) if "latency_bound" in given else None,
    )


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _whole(option: str, given: Mapping[str, str], most: int) -> int | None:
    if option not in given:
        return None
    text = given[option]
    if not re.fullmatch(r"\d{1,9}", text) or not 1 <= int(text) <= most:
        raise UsageError(f"{_flag(option)} {text} is not possible", f"give a whole number from 1 to {most}")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate <= MAX_RATE:
        raise UsageError(f"--rate {text} is not possible", f"give queries per second, above 0 and up to {MAX_RATE:g}")
    return rate


def _nanoseconds(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ns|us|µs|ms|s)", text.strip())
    size = round(float(found[1]) * UNITS_NS[found[2]]) if found else 0
    if size < 1:
        raise UsageError(f"--latency-bound {text} is no time", "write it with its unit, for example 15ms")
    return size


def _soak_s(text: str) -> float:
    seconds = parse_time(text, "--soak")
    if not SHORTEST_SOAK_S <= seconds <= LONGEST_SOAK_S:
        raise UsageError(
            f"--soak {text} is not possible", f"give {SHORTEST_SOAK_S}s or more, and at most a week (168h)"
        )
    return seconds
