"""Bad input: one clear line with what to do, the right exit code, no traceback, nothing half-written."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

FAST = ("--trials", "1", "--min-time", "0.05", "--max-time", "0.3", "--min-count", "8", "--max-foreign-cpu", "1")


def refused(result, *words, code=2):
    """One line on standard error that holds these words, nothing on standard output, and that exit code."""
    assert result.code == code, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    last = result.stderr.strip().splitlines()[-1]
    for word in words:
        assert word in last


@pytest.fixture
def run(cli, tmp_path):
    def call(*argv, **more):
        return cli("run", *argv, *FAST, "--results", str(tmp_path / "results"), **more)

    return call


def test_missing_file(run):
    refused(run("/nowhere/model.onnx", "-b", "fake"), "there is no file")


def test_folder_without_a_model(run, tmp_path):
    refused(run(str(tmp_path), "-b", "fake"), "no .onnx file", "model.onnx")


def test_empty_file(run, tmp_path):
    (tmp_path / "model.onnx").touch()
    refused(run(str(tmp_path / "model.onnx"), "-b", "fake"), "is empty")


@pytest.mark.parametrize("content", [b"hello, this is text\n" * 50, b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_not_onnx(run, tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    refused(run(str(path), "-b", "fake"), "is not an ONNX model")


def test_truncated_file(run, mlp_path, tmp_path):
    data = mlp_path.read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: len(data) * 2 // 3])
    refused(run(str(path), "--batch", "1", "-b", "fake"), "cut short")


def test_open_dimensions_are_never_guessed(run, mlp_path):
    refused(run(str(mlp_path), "-b", "fake"), "leaves dimensions open", "--shape")


@pytest.mark.parametrize("flag", ["nope=1,16", "x=1,17", "x=1,16,1", "x=0,16", "x", "x=a,b"])
def test_wrong_shapes(run, mlp_path, flag):
    result = run(str(mlp_path), "-b", "fake", "--shape", flag)
    assert result.code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_unknown_backend_offers_the_nearest(run, mlp_path):
    refused(run(str(mlp_path), "-b", "nccn"), "nccn", "ncnn")


def test_unknown_model_offers_the_nearest(run):
    refused(run("squeezent", "-b", "fake"), "squeezent", "squeezenet")


def test_unknown_option_offers_the_known(run, mlp_path):
    refused(run(str(mlp_path), "--batch", "1", "-b", "fake", "-o", "latency=3"), "latency_us")


def test_an_option_of_the_wrong_kind(run, mlp_path):
    refused(run(str(mlp_path), "--batch", "1", "-b", "fake", "-o", "latency_us=fast"), "takes a number")


def test_unknown_verb_offers_the_nearest(cli):
    result = cli("rnu")
    assert result.code == 2
    assert "run" in result.stderr


def test_unknown_device(run, mlp_path):
    """Whether ssh knows it shows when it is reached: then it is a record, with what would be known in the hint."""
    done = run(str(mlp_path), "--batch", "1", "-b", "fake", "--device", "no-such-device")
    assert done.code == 1
    assert "there is no device no-such-device" in done.stdout
    assert "local" in done.stdout


def test_a_device_whose_name_is_none(run, mlp_path):
    refused(run(str(mlp_path), "--batch", "1", "-b", "fake", "--device", "a b"), "a b", "ssh")


@pytest.mark.parametrize("text", ["fp17", "0.1", "a,b", "-1,0"])
def test_unreadable_tolerance(run, mlp_path, text):
    refused(run(str(mlp_path), "--batch", "1", "-b", "fake", f"--tolerance={text}"), "tolerance")


@pytest.mark.parametrize("text", ["nope=3", "load=soon"])
def test_unreadable_limit(run, mlp_path, text):
    refused(run(str(mlp_path), "--batch", "1", "-b", "fake", "--limit", text), "--limit")


@pytest.mark.parametrize("text", ["900", "a", "1-", "1--2", "3-1"])
def test_cpus_that_are_not_there(run, mlp_path, text):
    result = run(str(mlp_path), "--batch", "1", "-b", "fake", "--cpus", text)
    assert result.code == 2
    assert "Traceback" not in result.stderr


def test_unknown_precision_is_a_record(run, mlp_path):
    result = run(str(mlp_path), "--batch", "1", "-b", "fake", "--precision", "fp8")
    assert result.code == 1
    assert "it has model, fp16" in result.stdout


def test_results_that_cannot_be_written(cli, mlp_path, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    result = cli(
        "run", str(mlp_path), "--batch", "1", "-b", "fake", *FAST, "--results", str(tmp_path / "file" / "results")
    )
    assert cli("run", str(mlp_path), "-b", "fake", "--results", str(tmp_path / "file")).code == 2
    refused(result, "cannot be written", "--results", code=1)


def test_a_cache_that_cannot_be_written(cli, mlp_path, tmp_path):
    (tmp_path / "cache").write_text("a file")
    result = cli(
        "run",
        str(mlp_path),
        "--batch",
        "1",
        "-b",
        "fake",
        *FAST,
        "--cache",
        str(tmp_path / "cache"),
        "--results",
        str(tmp_path),
    )
    assert result.code in (1, 2)
    assert "Traceback" not in result.stderr
    assert "--cache" in result.stderr


def test_records_that_are_not_there(cli, tmp_path):
    refused(cli("report", str(tmp_path / "none")), "there is no", code=1)
    refused(cli("report", "--results", str(tmp_path)), code=1)


def test_a_record_that_is_not_there(cli, tmp_path):
    (tmp_path / "records").mkdir()
    refused(cli("rerun", "abc", "--results", str(tmp_path)), "begins with", code=1)


def test_a_journal_that_is_damaged(cli, tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text('{"type":"case"\n{}\n')
    refused(cli("report", str(path)), "line 1", code=1)


@pytest.mark.parametrize("target", ["0", "0%", "-1%", "100%", "1", "nan", "inf", "much", "%", ""])
def test_a_precision_that_cannot_be_reached(run, mlp_path, target):
    refused(run(str(mlp_path), "--batch", "1", "-b", "fake", "--target", target), "--target", "none")


def test_fewer_trials_at_most_than_wanted(cli, tmp_path):
    """Told before anything is looked for: the model is not even there."""
    refused(cli("run", "nowhere.onnx", "--trials", "4", "--max-trials", "3"), "--max-trials 3", "--trials 4")


def test_export_does_not_overwrite(cli, mlp_path, tmp_path):
    result = cli("export", str(mlp_path), "--batch", "1", "-b", "fake", "--output", str(tmp_path))
    refused(result, "is there already")


def test_export_of_nothing(cli, tmp_path):
    refused(cli("export", "--output", str(tmp_path / "out")), "give MODEL and --backend, or --record")


def test_a_size_that_is_none(cli):
    refused(cli("cache", "limit", "much"), "500M")


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small disk needs root; run the tests as root")
@pytest.mark.parametrize("full", ["results", "cache"])
def test_a_full_disk(cli, mlp_path, tmp_path, full):
    """A real full disk: a tmpfs of 64 KiB in a mount namespace of its own."""
    disk = tmp_path / full
    disk.mkdir()
    argv = ["run", str(mlp_path), "--batch", "1", "-b", "fake", *FAST, "--results", str(tmp_path / "results")]
    argv += ["--cache", str(tmp_path / "cache")]
    script = f'mount -t tmpfs -o size=64k tmpfs {disk} && head -c 60000 /dev/zero > {disk}/filler; "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *cli.command, *argv],
        capture_output=True, text=True, env=cli.environment, cwd=tmp_path, check=False,
    )  # fmt: skip
    if "unshare" in done.stderr:
        pytest.skip("mount namespaces are not to be had here")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "space" in done.stderr
    assert not list(Path(tmp_path).rglob("making/*"))


def test_a_terminal_that_lacks_letters_shows_question_marks(cli):
    lines = Path(__file__).parent.parent / "golden" / "schema-1.jsonl"
    whole, lacking = (cli("report", lines, env={"PYTHONIOENCODING": name}) for name in ("utf-8", "iso-8859-5"))
    assert (whole.code, lacking.code, lacking.stderr) == (0, 0, whole.stderr)
    assert whole.stdout.count("–") > 0
    assert len(lacking.stdout) == len(whole.stdout)
    assert lacking.stdout.count("?") > whole.stdout.count("?")
