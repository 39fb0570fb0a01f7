"""JUnit XML: one test case per cell, so that any build server shows what passed, what failed and why.

`ok` passes; `wrong`, `failed`, `crashed`, `timeout` and `implausible` fail; the others are skipped, with the reason.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable

from bench.record import FAILING, Record
from bench.report import blocks, shown, words
from bench.report.sections import Named, Section, sections, setting

# What XML 1.0 cannot hold, escaped or not: logs bring colours and other control characters.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def document(records: Iterable[Record]) -> str:
    """The whole file: a suite for every machine, device and setting."""
    root = ET.Element("testsuites", name="deploybench")
    records = list(records)
    for section in (*sections(records), *sections(records, soaks=True)):
        _suite(root, section)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _suite(root: ET.Element, section: Section) -> None:
    first = section[0].record
    where = f"{first.machine}, {first.case.device}"
    suite = ET.SubElement(root, "testsuite", name=_xml(f"{where}: {blocks.plain(setting(first.case.options))}"))
    suite.set("tests", str(len(section)))
    suite.set("failures", str(sum(n.record.status in FAILING for n in section)))
    suite.set("errors", "0")
    suite.set("skipped", str(sum(n.record.status not in FAILING and not shown.published(n.record) for n in section)))
    suite.set("timestamp", max(n.record.started_at for n in section).removesuffix("Z"))
    for named in section:
        _case(suite, named, where)


def _case(suite: ET.Element, named: Named, where: str) -> None:
    record = named.record
    name = blocks.plain(f"{named.row} on {named.column}")
    case = ET.SubElement(suite, "testcase", name=_xml(name), classname=_xml(where.replace(", ", ".")))
    if shown.published(record):
        text = f"{blocks.plain(shown.line(record))}, error {words.error_of_scale(record)} of scale"
        ET.SubElement(case, "system-out").text = _xml(text)
        return
    kind = "failure" if record.status in FAILING else "skipped"
    found = ET.SubElement(case, kind, message=_xml(f"{record.status}: {words.reason(record)}"))
    if kind == "failure":
        found.set("type", record.status)
    if record.error:
        found.text = _xml("\n".join(t for t in (record.error.hint, record.error.log_tail) if t)) or None


def _xml(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
