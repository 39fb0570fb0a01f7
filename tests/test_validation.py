"""`deploybench validate`: without a GPU it says so; its report is made of what the commands said."""

from __future__ import annotations

import json
import re

from bench import validation
from bench.conformance import processes
from bench.cuda_driver import Driver, Gpu

DRIVER = Driver("13.0", "580.95.5", (Gpu(0, "Made-up GPU 9", "9.0", 8 << 30, False),))


def test_without_a_gpu_nothing_is_made_up(cli, tmp_path):
    done = cli("validate", "--model", "no_such_model", "--trials", "1", "--results", str(tmp_path / "results"))
    if done.code == 0:  # there is one
        return
    assert done.code == 3
    assert "nothing can be validated here" in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "results").exists()


def report(monkeypatch, tmp_path, answers):
    """The report where commands answer by their first words, or are not there; and what was asked."""
    asked = []

    def answer(argv, limit_s, **options):
        words = list(argv[4:] if argv[1] == "-P" else argv)
        asked.append(words)
        for start, (code, said) in answers.items():
            if tuple(words[: len(start)]) == start:
                return processes.Ended(code, said.encode(), b"it said why")
        raise OSError("no such program")

    monkeypatch.setattr(processes, "run", answer)
    monkeypatch.setattr(validation.shutil, "which", lambda name: "/trtexec" if ("/trtexec",) in answers else None)
    text = validation.Validation(("net",), 2, tmp_path, lambda message: None).report(DRIVER)
    return re.sub(" +", " ", text), asked  # tables are padded


def test_the_report_of_a_made_up_gpu(monkeypatch, tmp_path):
    cuda = {"available": True, "runtimes": {"onnxruntime-gpu": "1.31.1"}, "precisions": ["model", "fp16"]}
    vulkan = {"available": True, "runtimes": {"ncnn": "1"}, "precisions": ["model"], "options": []}
    answers = {
        ("backends", "ort-cuda"): (0, json.dumps({**cuda, "options": [{"name": "cuda_graph"}]})),
        ("backends", "tensorrt"): (1, ""),
        ("backends", "ncnn-vulkan"): (0, json.dumps(vulkan)),
        ("run", "net"): (3, ""),
        ("export", "net"): (0, ""),
        ("/trtexec",): (0, "GPU Compute Time: min = 1 ms, max = 3 ms, mean = 2 ms, median = 2.5 ms"),
    }
    text, asked = report(monkeypatch, tmp_path, answers)
    assert "Made-up GPU 9, sm_90, 8 GiB. Driver 580.95.5, CUDA 13.0." in text
    assert "| ort-cuda | True | onnxruntime-gpu 1.31.1 |" in text
    assert "| tensorrt | False | it said why |" in text
    cases = [w for w in asked if w[0] == "run" and "--precision" in w]
    assert [(w[3], w[w.index("--precision") + 1], "cuda_graph=on" in w) for w in cases] == [
        ("ort-cuda", "model", False),
        ("ort-cuda", "model", True),
        ("ort-cuda", "fp16", False),
        ("ort-cuda", "fp16", True),
        ("ncnn-vulkan", "model", False),
    ]
    assert "| net | ort-cuda | model | as it is | no record | it said why | | | | |" in text
    assert "| net | GPU Compute Time | 2.5 | | |" in text
    assert validation.path_of(tmp_path, DRIVER).name.endswith("-made-up-gpu-9.md")


def test_a_program_that_is_not_there_is_a_line(monkeypatch, tmp_path):
    text, _ = report(monkeypatch, tmp_path, {})
    assert "| ort-cuda | False | no such program |" in text
    assert "Not compared: neither trtexec nor tensorrt_rtx is on the path." in text


def test_a_command_that_does_not_end_is_a_line(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "run", lambda argv, limit_s, **options: processes.Ended(None, b"half of it", b""))
    told = validation.Validation(("net",), 2, tmp_path, lambda message: None).report(DRIVER)
    assert "took longer than 900 s" in told
