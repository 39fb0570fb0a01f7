"""The folder of pages: complete, linked, the same every time, and tidy."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from bench import scan
from bench.errors import UsageError
from bench.record import ObservedFacts
from bench.report import pages, summary
from bench.store import run_files


@pytest.fixture
def records(make, near):
    return [
        make("net", "ncnn", *near(10)),
        make("net", "mnn", *near(20)),
        make("net", "ort-cpu"),
        make("../evil [x](y)|`", "ncnn", *near(1)),
        make("net", "ncnn", *near(30), device="ssh:pi"),
        make("net", "ncnn", *near(30), options={"threads": 4}),
    ]


def test_every_link_leads_to_a_page_and_an_anchor(records):
    made = pages.pages(records, [])
    assert {name.partition("/")[0] for name in made} == {"README.md", "models", "devices"}
    for name, text in made.items():
        for target in re.findall(r"(?<!\\)\]\(([^)]+)\)", text):
            page, _, anchor = target.partition("#")
            folder = name.rpartition("/")[0]
            path = f"{folder}/{page}" if folder else page
            while "/../" in f"/{path}":
                path = re.sub(r"(^|/)[^/]+/\.\./", r"\1", path)
            assert path in made, f"{name}: {target}"
            assert not anchor or f'<a id="{anchor}"></a>' in made[path], f"{name}: {target}"


def test_no_name_leaves_the_folder(records):
    names = set(pages.pages(records, []))
    assert all(re.fullmatch(r"(models/|devices/)?[A-Za-z0-9][A-Za-z0-9._-]*\.md", name) for name in names), names
    assert pages.model_page("a/b") != pages.model_page("a_b") != pages.model_page("a b")


def test_the_reason_and_the_log_stand_on_the_model_page(records):
    text = pages.pages(records, [])["models/net.md"]
    assert "net on ort-cpu: unsupported" in text
    assert "```\nthe log\n```" in text


def test_a_log_cannot_end_its_block(make):
    record = make("net", "ncnn")
    tail = "a\n````\n\x1b[31m# red\x1b[0m\x00"
    record = msgspec.structs.replace(record, error=msgspec.structs.replace(record.error, log_tail=tail))
    assert "`````\na\n````\n# red�\n`````" in pages.pages([record], [])["models/net.md"]


def test_writing_twice_changes_nothing_and_stale_pages_go(tmp_path, records):
    pages.write(tmp_path, records, records[:1])
    first = {p: (p.read_bytes(), p.stat().st_mode) for p in tmp_path.rglob("*") if p.is_file()}
    (tmp_path / "models" / "mine.md").write_text("written by hand")
    pages.write(tmp_path, records, records[:1])
    assert {p: (p.read_bytes(), p.stat().st_mode) for p in first} == first
    pages.write(tmp_path, [r for r in records if r.case.model.name == "net"], [])
    assert sorted(p.name for p in (tmp_path / "models").iterdir()) == ["mine.md", "net.md"]
    assert not list(tmp_path.rglob(".*"))


def test_a_folder_that_cannot_be_written_is_said(tmp_path, records):
    (tmp_path / "models").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        pages.write(tmp_path, records, [])


def test_columns_that_nobody_knows_are_left_out(make, near):
    text = pages.pages([make("net", "ncnn", *near(1))], [])["models/net.md"]
    assert "start ms" in text
    assert "mJ per inference" not in text


def test_a_summary_is_bounded_and_says_so(make):
    many = [make(f"model-{i}" * 20, "ncnn") for i in range(3000)]
    text = summary.summary(many, [])
    assert len(text.encode()) <= 2**20
    assert text.endswith(summary.CUT)
    assert "3000 cases: 3000 unsupported." in text


def test_a_summary_has_counts_changes_and_reasons(records, make, near):
    old = [make("net", "ncnn", *near(5), started_at="2026-11-19T02:00:00Z")]
    text = summary.summary(records, old)
    assert "6 cases: 5 ok, 1 unsupported." in text
    assert "×2.00 slower" in text
    assert "net on ort-cpu: unsupported. prepare: no Gather" in text


def test_the_committed_pages_are_those_of_the_committed_records():
    results = Path(__file__).parents[2] / "results"
    made = pages.pages(*scan.newest(run_files([results / "records"]), before=True))
    kept = {
        p.relative_to(results / "tables").as_posix(): p.read_text(encoding="utf-8")
        for p in (results / "tables").rglob("*.md")
        if p.read_text(encoding="utf-8").startswith(pages.MADE)
    }
    assert kept == made, "run: deploybench report --update README.md --pages results/tables"


def test_an_emulated_machine_is_named_in_every_row(make, near):
    record = make("net", "ncnn", *near(1))
    replace = msgspec.structs.replace
    record = replace(record, evidence=replace(record.evidence, emulated="qemu-user (qemu-aarch64-static)"))
    made = pages.pages([record, make("net", "mnn", *near(2))], [])
    for text in made.values():
        rows = [line for line in text.splitlines() if line.startswith("| net") and "mnn" not in line]
        assert all("emulated" in row for row in rows if "ʰ" not in row)
    assert "ʰ emulated: the processor or GPU was imitated" in made["README.md"]
    assert "**Leaders.**" not in made["README.md"]


def test_energy_heat_and_clocks_stand_where_they_are_known(make, near):
    record = make("net", "ncnn", *near(1))
    replace = msgspec.structs.replace
    observed = ObservedFacts(
        seconds=1,
        frequency_mhz=(1500, 1800),
        governor="performance",
        turbo=False,
        temperature_c=61.4,
        temperature_of="cpu",
        throttled=False,
        throttle="",
        energy_j=2.0,
        timeline=[],
        not_available={},
    )
    evidence = replace(record.evidence, observed=observed, energy_per_inference_j=0.0123, waited_s=7.2)
    text = pages.pages([replace(record, evidence=evidence)], [])["models/net.md"]
    head, _, row = [line for line in text.splitlines() if line.startswith("|")][-3:]
    cells = dict(zip((c.strip() for c in head.split("|")), (c.strip() for c in row.split("|")), strict=True))
    assert cells["mJ per inference"] == "12.3"
    assert cells["clock MHz"] == "1500–1800"
    assert cells["°C"] == "61"
    assert cells["waited s"] == "7"
