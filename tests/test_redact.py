"""What may not be in a record that becomes public: folders, users, mail and network addresses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.redact import public

GOLDEN = Path(__file__).parent / "golden" / "schema-1.jsonl"
SCRUBBED = [
    ("cannot open /home/alice/models/x.onnx: no such file", "cannot open .../x.onnx: no such file"),
    ("in /home/alice", "in ..."),
    ("in '/home/alice/My Models/net v2.onnx'", "in '.../net v2.onnx'"),
    (f"{Path('/root')}/.cache/deploybench/artifacts/ab/content/m.param", ".../m.param"),
    ('File "/usr/lib/python3.11/site-packages/onnx/helper.py", line 3', 'File ".../helper.py", line 3'),
    ("/usr/bin/pnnx ended with 1", ".../pnnx ended with 1"),
    ("/ort_src/onnxruntime/core/framework/op.cc:123 boom", ".../op.cc:123 boom"),
    ("/scratch/alice/run 1", "... 1"),
    ("/cluster/alice/net.onnx", ".../net.onnx"),
    ("/Users/bob/net.mnn,/mnt/bob,/srv/bob/", ".../net.mnn,...,..."),
    ("PATH=/usr/bin:/home/alice/bin", "PATH=.../bin:..."),
    ("file:///home/alice/x.onnx", ".../x.onnx"),
    ("~/models/x.onnx and ~bob/y.bin", ".../x.onnx and .../y.bin"),
    ("C:\\Users\\bob\\x.onnx", "...\\x.onnx"),
    ("/home/alice.smith", "..."),
    ("see /tmp.", "see ..."),
    ("https://alice:secret@host.example/a", "https://host.example/a"),
    ("mail a.b+c@example.com", "mail <address>"),
    ("alice@pi4: Permission denied (publickey)", "<address>: Permission denied (publickey)"),
    ("alice@10.0.0.5's password", "<address>'s password"),
    ("connect to 192.168.1.17 port 22", "connect to <address> port 22"),
    ("http://10.1.2.3:8080/", "http://<address>:8080/"),
    ("fe80::1%eth0, 2001:db8::8a2e:370:7334", "<address>, <address>"),
    ("2001:db8:85a3:0:0:8a2e:370:7334", "<address>"),
    ("at aa:bb:cc:dd:ee:ff", "at <address>"),
]
KEPT = [
    "node /model.0/conv/Conv_output_0 failed",
    "Name:'/encoder/layer.1/attention/self/MatMul' Status",
    "/net/net.0/Gemm",
    "/layers.0/q_proj/MatMul.weight and /model/norm.bias",
    "Non-zero status code returned while running Gather node. Name:'/emb/Gather' [E:onnxruntime:, executor.cc:514 Run]",
    "its shape is [1, 3, 224, 224], not [1,3,224,224], 1x3x224x224",
    "ncnn 1.0.20261020",
    "TensorRT 10.13.3.9, cuDNN 9.2.0.1, tensorrt==10.13.3.9, version 9.2.0.1, v1.2.3.4, libnvinfer-10.13.3.9",
    "1.2.3.4.5 or 300.1.2.3",
    "https://pypi.org/simple/home/x.whl",
    "memcpy@GLIBC_2.14, Conv@13",
    "onnx::Conv_12, std::vector<int>::at, c10::Error, at::add",
    "11:21:48.123 2026-11-20T11:21:48Z",
    "/proc/stat, /dev/nvidia0, /sys/devices/system/cpu",
    "libnvinfer.so.10: cannot open shared object file",
    "3/4 of a/b/c.py",
    "off by 0.01 of its scale; the worst, at [0, 2], is 0.14, not 0.15: 20.3 times what fp32 allows",
]


@pytest.mark.parametrize(("text", "wanted"), SCRUBBED)
def test_what_names_an_owner_is_taken_out(text, wanted):
    assert public(text) == wanted


@pytest.mark.parametrize("text", KEPT)
def test_what_a_reader_needs_stays(text):
    assert public(text) == text


@pytest.mark.parametrize("text", [*(wanted for _, wanted in SCRUBBED), *KEPT])
def test_scrubbing_again_changes_nothing(text):
    assert public(text) == text


def test_the_home_folder_goes_wherever_it_is(monkeypatch):
    monkeypatch.setenv("HOME", "/fast7/u/alice")
    assert public("cannot write /fast7/u/alice/nets or /fast7/u/alice") == "cannot write ... or ..."


@settings(max_examples=200)
@given(st.text(st.sampled_from("/ahome.:'\" ~@1\n"), max_size=60))
def test_scrubbing_takes_any_text(text):
    assert "/home/a" not in public(text)


def test_scrubbing_a_long_log_takes_no_long_time():
    """Linear, not quadratic: a log's tail of 64 KiB, of the worst shapes."""
    for piece in ("/a", "a/", "a:", "1.", "a@", "'/", "~", "C:\\a", "/home"):
        public(piece * (65536 // len(piece)))


def test_no_golden_record_names_a_folder_or_a_host():
    text = GOLDEN.read_text()
    assert not re.search(r"/(?:home|root|tmp|work|usr)/", text)
