"""A folder of pages: all tables on one, then a page per model and per device, linked with one another.

    README.md            what changed, who leads, every matrix
    models/MODEL.md      one model everywhere: every figure there is of it, and why it does not run somewhere
    devices/DEVICE.md    one device: its leaders, how its numbers were timed, heat, clocks and energy

The same records make the same bytes. Pages that no record asks for any more are taken away; other files stay.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from bench.record import Record
from bench.report import changes, files, leaders, loaded, markdown, shown, soak, words
from bench.report.blocks import Block, Table
from bench.report.blocks import markdown as text_of
from bench.report.sections import Named, Section, sections, setting

MADE = "<!-- made by `deploybench report --pages`: changes are lost -->"
KINDS = ("models", "devices")
# What logs bring for terminals, and what no page can show.
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_STRANGE = re.compile(r"[^\t\n -~\u00a0-\U0010ffff]")


def write(folder: Path, records: Sequence[Record], before: Sequence[Record]) -> int:
    """Write the pages of the newest records below a folder, and take away those that are stale; how many there are.

    `before`: the record that each cell had before its newest one.

    Raises:
        UsageError: the folder cannot be written.
    """
    made = pages(records, before)
    for name, text in made.items():
        files.replace(folder / name, [text])
    for kind in KINDS:
        for path in sorted((folder / kind).glob("*.md")):
            if f"{kind}/{path.name}" not in made and _ours(path):
                with suppress(OSError):
                    path.unlink()
    return len(made)


def _ours(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.readline().rstrip("\n") == MADE
    except OSError:
        return False


def pages(records: Sequence[Record], before: Sequence[Record]) -> dict[str, str]:
    """Every page by its name below the folder."""
    found, soaked = sections(records), sections(records, soaks=True)
    by_model: dict[str, list[list[Named]]] = {}
    by_device: dict[tuple[str, str], list[Section]] = {}
    for section in (*found, *soaked):
        first = section[0].record
        by_device.setdefault((first.machine, first.case.device), []).append(section)
        in_section: dict[str, list[Named]] = {}
        for named in section:
            in_section.setdefault(named.record.case.model.name, []).append(named)
        for model, of_model in in_section.items():
            by_model.setdefault(model, []).append(of_model)
    made = {"README.md": _page([*_index(by_model, by_device), *_news(records, before), *_overview(found, soaked)])}
    for model, parts in by_model.items():
        made[model_page(model)] = _page(_of_model(model, parts))
    for (machine, device), device_sections in by_device.items():
        made[device_page(machine, device)] = _page(_of_device(machine, device, device_sections))
    return made


def _page(parts: Sequence[Block]) -> str:
    return text_of([MADE, *parts])


def model_page(model: str) -> str:
    """The page's name, from the folder of pages."""
    return f"models/{_file_name(model)}.md"


def device_page(machine: str, device: str) -> str:
    """The page's name, from the folder of pages."""
    return f"devices/{_file_name(f'{machine}-{device}')}.md"


def _file_name(name: str) -> str:
    """The name where any file system takes it; else what is left of it, and digits that no other name has."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:80]
    return (
        safe if safe == name else f"{safe}-{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:8]}".strip("-")
    )


def _index(by_model: Mapping[str, object], by_device: Mapping[tuple[str, str], object]) -> list[Block]:
    models = ", ".join(f"[{words.escape(m)}]({model_page(m)})" for m in by_model)
    devices = ", ".join(f"[{words.escape(f'{d} of {m}')}]({device_page(m, d)})" for m, d in by_device)
    return ["# Tables", f"Models: {models}", f"Devices: {devices}"]


def _news(records: Sequence[Record], before: Sequence[Record]) -> list[Block]:
    return ["## Changed since the run before", *changes.listed(records, before)]


def _overview(found: Sequence[Section], soaked: Sequence[Section]) -> list[Block]:
    parts: list[Block] = []
    boards = [b for section in found for b in _led(section)]
    if boards:
        parts += ["## Leaders", leaders.ABOUT, *boards]
    parts.append("## Every case")
    for section in found:
        first = section[0].record
        parts.append(f"### {_where(first)}: {setting(first.case.options)}")
        parts += markdown.matrix(section, lambda r: f"{model_page(r.case.model.name)}#{markdown.anchor(r)}")
        parts.append(markdown.footer([n.record for n in section]))
    return [
        *parts,
        *(["## Soaks"] if soaked else []),
        *(block for section in soaked for block in markdown.of_soaks(section)),
    ]


def _led(section: Section) -> list[Block]:
    board = leaders.board(section)
    first = section[0].record
    return [f"### {_where(first)}: {setting(first.case.options)}", *board] if board else []


def _where(record: Record) -> str:
    return words.escape(f"{record.case.device} of {record.machine}")


def _of_model(model: str, parts: Sequence[Section]) -> list[Block]:
    page: list[Block] = [f"# {words.escape(model)}", "[All tables](../README.md)"]
    for part in parts:
        first = part[0].record
        device = f"../{device_page(first.machine, first.case.device)}"
        page.append(f"## [{_where(first)}]({device}): {setting(first.case.options)}")
        page += soak.tables(part) if first.case.options.scenario == "soak" else _figures(part)
        for named in part:
            if not shown.published(named.record):
                page += _failure(named)
        page.append(markdown.footer([n.record for n in part]))
    return page


def _figures(part: Section) -> list[Block]:
    measured = [n for n in part if words.published(n.record)]
    if not measured:
        return []
    first = measured[0].record
    what = loaded.heading(first.case.options) if loaded.applies(first) else markdown.MEDIAN
    rows = [[n.row, n.column, loaded.cell(n.record)] for n in measured]
    headline = Table(["model", "backend", "headline"], rows, right=(2,), keys=2)
    how = [*markdown.timing(measured), *markdown.answers(measured), *cost(measured)]
    return [what, headline, *markdown.footnotes(measured), *how]


def _failure(named: Named) -> list[Block]:
    record = named.record
    found: list[Block] = [
        f'### <a id="{markdown.anchor(record)}"></a>{named.row} on {named.column}: {record.status}',
        markdown.sentence(record),
    ]
    if record.error and record.error.log_tail:
        found += ["The end of its log:", _fenced(record.error.log_tail)]
    return [*found, f"Record {record.id}; again: `deploybench rerun {record.id}`"]


def _fenced(text: str) -> str:
    """A code block that the text itself cannot end."""
    ticks = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, ticks + 1)
    clean = _STRANGE.sub("\ufffd", _COLOUR.sub("", text)).strip("\n")
    return f"{fence}\n{clean}\n{fence}"


def _of_device(machine: str, device: str, found: Sequence[Section]) -> list[Block]:
    page: list[Block] = [f"# {words.escape(f'{device} of {machine}')}", "[All tables](../README.md)"]
    for section in found:
        page.append(f"## {setting(section[0].record.case.options)}")
        if section[0].record.case.options.scenario == "soak":
            page += markdown.of_soaks(section)
            continue
        page += markdown.matrix(section, lambda r: f"../{model_page(r.case.model.name)}#{markdown.anchor(r)}")
        page += [leaders.ABOUT, *board] if (board := leaders.board(section)) else []
        measured = [n for n in section if words.published(n.record)]
        if measured:
            page += [*markdown.timing(measured), *markdown.answers(measured), *cost(measured)]
        page.append(markdown.footer([n.record for n in section]))
    return page


def cost(measured: Section) -> list[Block]:
    """What it took to the first answer, and what the machine did meanwhile; columns that nobody knows are left out.

    Cold start is the median over the trials, each a process of its own: the file system's cache may have been warm.
    """
    columns: dict[str, Callable[[Record], str]] = {
        "prepare s": lambda r: f"{r.prepare.seconds:.1f}" if r.prepare and r.prepare.cache == "miss" else "–",
        "start ms": lambda r: words.median_ms(r.cold_start.start_s if r.cold_start else None),
        "import ms": lambda r: words.median_ms(r.cold_start.import_s if r.cold_start else None),
        "load ms": lambda r: words.median_ms(r.cold_start.load_s if r.cold_start else None),
        "first run ms": lambda r: words.median_ms(r.cold_start.first_run_s if r.cold_start else None),
        "mJ per inference": _millijoules,
        "clock MHz": _clock,
        "°C": _temperature,
        "waited s": lambda r: f"{r.evidence.waited_s:.0f}" if r.evidence.waited_s >= 0.5 else "–",
    }
    texts = {head: [text(n.record) for n in measured] for head, text in columns.items()}
    known = {head: found for head, found in texts.items() if set(found) != {"–"}}
    head = ["model", "backend", *known]
    rows = [[n.row, n.column, *(found[i] for found in known.values())] for i, n in enumerate(measured)]
    about = (
        "Cold start, energy and the machine. Start: a process until Python runs; then importing the runtime, loading "
        "the artefact, the first inference; medians over the trials. Energy of the CPU packages, whoever used them; "
        "lowest and highest clock; highest temperature; seconds that trials waited for quiet. What no case knows is "
        "left out."
    )
    return [about, Table(head, rows, right=range(2, len(head)), keys=2)]


def _millijoules(record: Record) -> str:
    joules = record.evidence.energy_per_inference_j
    return "–" if joules is None else words.milliseconds(round(joules * 1e9))


def _clock(record: Record) -> str:
    seen = record.evidence.observed.frequency_mhz if record.evidence.observed else None
    return "–" if seen is None else f"{seen[0]}–{seen[1]}"


def _temperature(record: Record) -> str:
    seen = record.evidence.observed.temperature_c if record.evidence.observed else None
    return "–" if seen is None else f"{seen:.0f}"
