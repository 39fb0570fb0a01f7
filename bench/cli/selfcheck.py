"""`deploybench selfcheck`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from bench.cli.options import cache_option, json_option

EXAMPLES = """\b
Examples:
  deploybench selfcheck
  deploybench selfcheck --seconds 120
  deploybench selfcheck --json | jq .noise_floor
"""


@click.command("selfcheck", epilog=EXAMPLES)
@click.option(
    "--seconds",
    type=click.FloatRange(1, 3600),
    default=30.0,
    show_default=True,
    help="How long to measure the same against itself; longer knows the noise better.",
)
@cache_option
@json_option
@click.pass_context
def command(ctx: click.Context, seconds: float, cache_dir: Path, as_json: bool) -> None:
    """Say how well this machine can measure, and what would quiet it.

    The clock and the timed loop's own cost; who else uses the machine; and the A/A noise floor: the same artefact
    measured as A and as B in interleaved fresh processes. What A and B differ by is noise: no smaller difference
    between two runtimes can be seen here. Then the same on one CPU after the other: in a virtual machine one of them
    may share its core with others, unseen by the kernel. Exit code 3 if not even the noise could be measured.
    """
    from bench import selfcheck
    from bench.cache import Cache
    from bench.cli import chosen

    def say(message: str) -> None:
        click.echo(message, err=True)

    where = chosen.place("local", Cache(cache_dir), say)
    say("looking at the clock, the loop and the machine")
    facts: dict[str, Any] = {"clock": selfcheck.clock(), "sleep": selfcheck.sleep(), "loop": selfcheck.loop_cost()}
    machine = selfcheck.machine()
    workloads = (selfcheck.SPIN, selfcheck.REAL)
    each_s = seconds / (len(workloads) + 1)
    floors = [selfcheck.noise_floor(w, where, each_s, say) for w in workloads]
    cpus = selfcheck.cpus_alike(where, each_s, say)
    verdict, advice = selfcheck.verdict(floors), selfcheck.advice(machine, floors, cpus)
    if as_json:
        told: dict[str, Any] = {name: asdict(value) for name, value in facts.items()} | {"machine": asdict(machine)}
        told["loop"]["added_ns"] = facts["loop"].added_ns
        told |= {"noise_floor": [asdict(f) for f in floors], "cpus": asdict(cpus), "advice": advice, "verdict": verdict}
        click.echo(json.dumps(told))
    else:
        _print(facts, machine, floors, cpus, advice, verdict)
    ctx.exit(0 if verdict else 3)


def _print(facts: dict[str, Any], machine: Any, floors: list[Any], cpus: Any, advice: list[str], verdict: str) -> None:
    clock, sleep, loop = facts["clock"], facts["sleep"], facts["loop"]
    slack = "" if sleep.timer_slack_us is None else f"; timer slack {sleep.timer_slack_us:.0f} us"
    _row("clock", f"steps of {clock.resolution_ns} ns, one reading takes {clock.cost_ns:.0f} ns")
    _row("sleep", f"1 ms lasts {sleep.overshoot_us:.0f} us too long, at worst {sleep.worst_us:.0f} us{slack}")
    _row("loop", f"adds {loop.added_ns:.0f} ns per inference to the {loop.bare_ns:.0f} ns of a bare one")
    busiest = ", ".join(f"{name} {share:.1%}" for name, share in machine.busiest if share >= 0.001)
    others = "not available: no /proc/stat" if machine.foreign_cpu is None else f"use {machine.foreign_cpu:.1%} now"
    _row("others", f"{others}{f' ({busiest})' if busiest else ''}; stolen by a hypervisor: {_share(machine.steal)}")
    _row("clocks", _clocks(machine))
    for floor in floors:
        _row("A/A", _floor(floor))
    _row("CPUs", _cpus(cpus))
    if advice:
        click.echo("\nTo quiet this machine")
        for line in advice:
            click.echo(f"- {line}")
    click.echo(f"\nVerdict: {verdict or 'nothing could be measured'}")


def _row(name: str, text: str) -> None:
    click.echo(f"{name:8}{text}")


def _share(value: float | None) -> str:
    return "not available" if value is None else f"{value:.1%}"


def _clocks(machine: Any) -> str:
    def word(value: bool | None) -> str:
        return "not available" if value is None else "on" if value else "off"

    mhz = machine.frequency_mhz
    now = f"{mhz[0]} to {mhz[1]} MHz now" if mhz else "frequency not available"
    heat = "" if machine.temperature_c is None else f", {machine.temperature_c:.0f} C"
    governor = machine.governor or "not available"
    return f"{now}{heat}; governor {governor}, turbo {word(machine.turbo)}, SMT {word(machine.smt)}"


def _floor(floor: Any) -> str:
    from statistics import median

    from bench.report.words import milliseconds
    from bench.selfcheck import TRIALS, percent

    if floor.smallest is None:
        return f"{floor.workload}: not available: {floor.problem}"
    others = "" if floor.foreign_cpu is None else f", others used up to {floor.foreign_cpu:.1%}"
    others += f"; {floor.left_out} noisy pairs left out" if floor.left_out else ""
    return (
        f"{floor.workload}, {milliseconds(floor.p50_ns)} ms: ratio {median(floor.ratios):.4f} "
        f"({min(floor.ratios):.4f} to {max(floor.ratios):.4f}, {len(floor.ratios)} pairs{others}); "
        f"{percent(floor.smallest)} can be seen with {TRIALS} trials of each"
    )


def _cpus(cpus: Any) -> str:
    from bench.report.words import milliseconds
    from bench.selfcheck import REAL, percent

    if not cpus.cpus:
        return f"not available: {cpus.problem}"
    each = (
        f"{milliseconds(round(c.mean_ns))} ms ±{percent(c.spread)} on {c.cpu}"
        + ("" if c.shared is None else f" (somebody else on its core for {c.shared:.0%} of the time)")
        for c in cpus.cpus
    )
    return f"{REAL.model} on {REAL.backend}, means and standard deviations of trials: {', '.join(each)}"
