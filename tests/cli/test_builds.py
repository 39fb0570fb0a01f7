"""`--builds N`: the same engine several times, and how far the builds lie apart."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bench.cli import lottery
from bench.store import read_records

GOLDEN = Path(__file__).parents[1] / "golden" / "schema-1.jsonl"
(OK, *_) = read_records(GOLDEN)


def build(number, p50_ns, status="ok"):
    """A record of one build."""
    options = msgspec.structs.replace(OK.case.options, extra={"build": number})
    case = msgspec.structs.replace(OK.case, backend="tensorrt", options=options)
    latency = msgspec.structs.replace(OK.latency, p50_ns=p50_ns)
    return msgspec.structs.replace(OK, case=case, latency=latency, status=status)


def test_builds_lie_apart():
    (words,) = lottery.said([build(0, 1_000_000), build(1, 1_080_000), build(2, 1_020_000), OK])
    assert words.startswith(
        f"3 builds of {OK.case.model.name} on tensorrt: medians from 1.00 to 1.08 ms, 8.0% apart, error "
    )
    assert lottery.said([build(0, 1_000_000)]) == []
    assert lottery.said([build(0, 1), build(1, 1, "noisy")])[0].endswith("1 of them can be compared")


def test_a_backend_without_builds_is_refused_before_anything_runs(cli, tmp_path):
    done = cli("run", "tiny_mlp", "-b", "fake", "--builds", "3", "--results", str(tmp_path))
    assert done.code == 2
    assert "none of these backends builds engines that differ" in done.stderr
    assert not list(tmp_path.iterdir())


def test_every_build_is_a_cell_and_the_rest_runs(cli, tmp_path):
    """Without a GPU (or TensorRT) each is unavailable, in words; the other backend is measured."""
    argv = ("--builds", "2", "--trials", "1", "--max-time", "0.1", "--results", str(tmp_path), "--json")
    done = cli("run", "tiny_mlp", "-b", "tensorrt", "-b", "fake", *argv)
    found = [msgspec.json.decode(line) for line in done.stdout.splitlines()]
    assert [(r["case"]["backend"], r["case"]["options"]["extra"].get("build")) for r in found] == [
        ("tensorrt", 0), ("tensorrt", 1), ("fake", None),
    ]  # fmt: skip
    assert len({r["cell"] for r in found}) == 3
    assert found[2]["status"] in ("ok", "noisy")
    for record in found[:2]:
        if record["status"] == "unavailable":
            assert record["error"]["message"]
            assert record["error"]["hint"]
