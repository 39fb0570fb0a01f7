"""`compare` and `history` as a user runs them: what OLD and NEW may be, exit codes, bad input, a real re-run."""

from __future__ import annotations

import json
import subprocess

import msgspec
import numpy as np
import pytest

from bench import record as r
from bench.store import read_lines

replace = msgspec.structs.replace
# Without a target, a trial is as short as its minimums.
FAST = (
    "--trials",
    "3",
    "--target",
    "none",
    "--min-time",
    "0.02",
    "--max-time",
    "0.1",
    "--max-foreign-cpu",
    "1",
    "--quiet",
)


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def history(nights, results):
    """20 steady nights; the path of the last one's run file."""
    rng = np.random.default_rng(5)
    return [nights.write(results, nights.lines(nights.trials(6.5, rng), n)) for n in range(20)][-1]


def tonight(nights, results, factor, number=20, **more):
    return nights.write(results, nights.lines(nights.trials(6.5 * factor, np.random.default_rng(6)), number, **more))


def lines(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def refused(done, *said):
    assert done.code == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in said:
        assert word in done.stderr.splitlines()[-1]


def test_the_newest_run_against_the_nights_before(cli, nights, results, history):
    tonight(nights, results, 1.0)
    done = cli("compare")
    assert done.code == 0, done.stderr
    assert "1 same" in done.stdout
    assert cli("compare").stdout == done.stdout


def test_a_change_that_cannot_be_looked_at_again_is_suspected(cli, nights, results, history):
    """The records are of another machine: that is said, and nothing is run."""
    tonight(nights, results, 1.2)
    done = cli("compare", "--json")
    (found,) = lines(done)
    assert done.code == 0
    assert found["verdict"] == "suspected"
    assert "it was measured on board, which is not this machine" in found["detail"]
    assert cli("compare", "--strict").code == 1
    assert "not re-run" in lines(cli("compare", "--json", "--no-confirm"))[0]["detail"]


def test_a_recorded_rerun_confirms_without_another(cli, nights, results, history):
    path = tonight(nights, results, 1.2)
    identity = next(read_lines(path)).id
    tonight(nights, results, 1.2, confirms=identity, id="again", seconds=600)
    done = cli("compare", "--json")
    (found,) = lines(done)
    assert done.code == 1
    assert found["verdict"] == "slower"
    assert found["again"] == "again"


@pytest.mark.parametrize("old", ["path", "run", "beginning", "folder"])
def test_what_old_may_be(cli, nights, results, history, old):
    new = tonight(nights, results, 1.0)
    names = {"path": str(history), "run": history.stem, "beginning": history.stem[:14], "folder": str(history.parent)}
    if old == "folder":
        new = new.rename(results.parent / new.name)
    done = cli("compare", names[old], str(new), "--json")
    assert done.code == 0, done.stderr
    assert [line["verdict"] for line in lines(done)] == ["same"]
    assert lines(done)[0]["nights"] == 20


def test_a_git_revision(cli, nights, results, history, tmp_path):
    def git(*argv):
        named = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(tmp_path), *named, *argv], check=True, capture_output=True)

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "nights")
    git("tag", "v1")
    new = tonight(nights, results, 1.0)
    done = cli("compare", "v1", new.stem, "--json")
    assert [line["verdict"] for line in lines(done)] == ["same"], done.stderr
    assert lines(cli("compare", "HEAD", str(results), "--json"))[0]["nights"] == 20
    history.unlink()
    assert lines(cli("compare", "v1", new.stem, "--json"))[0]["nights"] == 20
    git("rm", "-rq", "--cached", "results")
    git("commit", "-qm", "without")
    refused(cli("compare", "HEAD", new.stem), "records")


def test_last_limits_the_nights(cli, nights, results, history):
    tonight(nights, results, 1.0)
    assert lines(cli("compare", "--last", "7", "--json"))[0]["nights"] == 7


def test_a_missing_cell_is_said(cli, nights, results, history):
    nights.write(
        results,
        nights.lines([6.5] * 6, 20),
        nights.lines([5.0] * 6, 20, model="resnet50", run="20260121T020000Z-00000014"),
    )
    tonight(nights, results, 1.0, 21)
    assert [line["verdict"] for line in lines(cli("compare", "--json"))] == ["missing", "same"]


def test_newly_failing_exits_1(cli, nights, results, history):
    error = r.ErrorFacts(phase="load", kind="x", error="LoadError", message="refused")
    tonight(nights, results, 1.0, error=error)
    done = cli("compare")
    assert done.code == 1
    assert "**newly failing**" in done.stdout
    assert "failed: load: refused" in done.stdout


# A real re-run, on the fake backend.


def measured(cli, results):
    done = cli("run", "tiny_mlp", "-b", "fake", "-o", "latency_us=3000", *FAST, "--results", str(results))
    assert done.code == 0, done.stderr
    return max(results.rglob("*.jsonl"), key=lambda p: p.stat().st_mtime_ns)


def earlier(path, results, count, factor):
    """Nights before, made of a measured one: its samples by a factor, with a little noise."""
    rng = np.random.default_rng(9)
    for number in range(count):
        run = f"2026010{number % 9 + 1}T0{number // 9}0000Z-{number:08x}"
        night = factor * (1 + 0.002 * rng.standard_normal())
        made = []
        for line in read_lines(path):
            line = replace(line, id=f"{line.id}-{number}")
            if isinstance(line, r.CaseLine):
                when = f"2026-01-0{number % 9 + 1}T0{number // 9}:00:00Z"
                line = replace(line, run=run, started_at=when)
            if isinstance(line, r.TrialLine):
                series = [replace(s, samples_ns=[round(x * night) for x in s.samples_ns]) for s in line.series]
                line = replace(line, series=series)
            made.append(line)
        (path.parent / f"{run}.jsonl").write_bytes(b"".join(r.encode_line(x) + b"\n" for x in made))


def test_what_is_slower_is_measured_again_and_confirmed(cli, results):
    new = measured(cli, results)
    earlier(new, results, 18, 0.8)
    done = cli("compare", "--json", "--results", str(results))
    (found,) = lines(done)
    assert (done.code, found["verdict"]) == (1, "slower"), done.stderr
    assert "looks changed: measuring it again" in done.stderr
    assert found["effect_again"] == pytest.approx(0.25, abs=0.1)
    # The re-run is on record: the same verdict comes from records alone, and it is no night of its own.
    again = cli("compare", "--json", "--no-confirm", "--results", str(results))
    assert again.stdout == done.stdout
    assert len(lines(cli("history", "tiny_mlp", "--json", "--results", str(results)))[0]["nights"]) == 19


@pytest.mark.slow
def test_what_was_slower_once_is_the_same(cli, results, nights):
    new = measured(cli, results)
    earlier(new, results, 18, 1.0)
    stored = list(read_lines(new))
    slow = [
        replace(x, series=[replace(s, samples_ns=[2 * v for v in s.samples_ns]) for s in x.series], bracket_ns=10**12)
        if isinstance(x, r.TrialLine)
        else x
        for x in stored
    ]
    new.write_bytes(b"".join(r.encode_line(x) + b"\n" for x in slow))
    done = cli("compare", "--json", "--results", str(results))
    (found,) = lines(done)
    assert (done.code, found["verdict"]) == (0, "same"), done.stderr
    assert found["effect"] == pytest.approx(1.0, abs=0.1)


# Bad input.


def test_nothing_to_compare(cli, results, nights):
    refused(cli("compare"), "there are no records")
    path = nights.write(results, nights.lines([6.5] * 6, 0))
    refused(cli("compare"), "no earlier night")
    refused(cli("compare", str(path), path.stem), "are the same")
    refused(cli("compare", "a", "b", "c"), "give OLD and NEW")
    (results / "records" / "board" / "empty.jsonl").write_text("")
    refused(cli("compare", str(results / "records" / "board" / "empty.jsonl"), str(path)), "holds no records")


def test_an_unknown_revision(cli, results, history):
    refused(cli("compare", "v99", history.stem), "no git revision 'v99'")
    refused(cli("compare", "2026", history.stem), "20 runs begin with '2026'")
    refused(cli("compare", "--last", "2", "--threshold", "much"), "no number")
    refused(cli("compare", "--threshold", "150%"), "not between")


def test_a_newer_schema_is_refused_where_it_was_asked_for_and_passed_over_elsewhere(cli, nights, results, history):
    new = tonight(nights, results, 1.0)
    odd = history.parent / "20260105T020000Z-0000ffff.jsonl"
    odd.write_text(history.read_text().replace('"schema":1', '"schema":2'))
    refused(cli("compare", str(odd), str(new)), "schema 2", "use a newer deploybench")
    done = cli("compare")
    assert done.code == 0
    assert "left out" in done.stderr


def test_a_last_line_that_was_cut_is_said_and_passed_over(cli, nights, results, history):
    new = tonight(nights, results, 1.0)
    kept = new.read_bytes()
    new.write_bytes(kept + kept[:100])
    done = cli("compare")
    assert done.code == 0
    assert "1 same" in done.stdout
    assert done.stderr.count("the last line was cut") == 1
    assert new.read_bytes() == kept + kept[:100]


# History.


def test_history_by_model_and_by_cell(cli, nights, results, history):
    tonight(nights, results, 1.0, backend="ncnn")
    done = cli("history", "squeezenet", "ort-cpu")
    assert done.code == 0, done.stderr
    assert done.stdout.count("\n| 2026-01-") == 20
    assert "No night moved the level" in done.stdout
    assert cli("history", "squeezenet-ort").stdout == done.stdout
    refused(cli("history", "squeezenet"), "2 cells are meant", "squeezenet-ncnn-1")
    refused(cli("history", "squeezenett"), "did you mean squeezenet")
    refused(cli("history", "a", "b", "c"), "name no cell")


def test_history_draws(cli, nights, results, history, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "cell.svg"
    assert cli("history", "squeezenet", "--picture", str(picture)).code == 0
    assert "<svg" in picture.read_text()
    refused(cli("history", "squeezenet", "--picture", str(history / "x.svg")), "cannot be written")


def test_history_without_records(cli):
    refused(cli("history", "squeezenet"), "there is no")


def test_history_offers_what_was_meant_and_never_draws_over_records(cli, nights, results, history):
    refused(cli("history", "squeezenet", "ort", "--results", str(results)), "did you mean ort-cpu")
    before = history.read_bytes()
    refused(cli("history", "squeezenet", "--picture", str(history), "--results", str(results)), "never written over")
    assert history.read_bytes() == before
