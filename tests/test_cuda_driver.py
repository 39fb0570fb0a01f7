"""The NVIDIA driver asked through ctypes: a driver made up for it, compiled here, and the lack of one."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from bench import cuda_driver
from bench.cuda_driver import Gpu, NoGpu

SOURCE = """
#include <string.h>
int cuInit(unsigned f) { return INIT; }
int cuDeviceGetCount(int *n) { *n = COUNT; return 0; }
int cuDriverGetVersion(int *v) { *v = 13000; return 0; }
int cuDeviceGet(int *d, int i) { *d = i + 40; return 0; }
int cuDeviceGetName(char *s, int n, int d) { strncpy(s, d == 40 ? "NVIDIA H200" : "Orin", n); return 0; }
int cuDeviceTotalMem_v2(size_t *n, int d) { *n = (size_t)150 << 30; return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) {
    if (a == 75) *v = d == 40 ? 9 : 8;
    if (a == 76) *v = d == 40 ? 0 : 7;
    if (a == 18) *v = d != 40;
    return ATTRIBUTE;
}
int cuGetErrorString(int e, const char **s) { *s = "so it says"; return 0; }
"""


@pytest.fixture
def driver(tmp_path):
    """A function: a driver's library with these answers."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")

    def made(init=0, count=2, attribute=0):
        source, library = tmp_path / "d.c", tmp_path / f"libcuda-{init}-{count}-{attribute}.so"
        source.write_text(SOURCE)
        words = [f"-DINIT={init}", f"-DCOUNT={count}", f"-DATTRIBUTE={attribute}"]
        subprocess.run(["gcc", "-shared", "-fPIC", "-w", *words, "-o", library, source], check=True, timeout=60)
        return str(library)

    return made


def version(tmp_path, name, text):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    return str(tmp_path)


def test_it_tells_driver_and_gpus(driver, tmp_path):
    found = cuda_driver.ask(driver(), version(tmp_path, "sys/module/nvidia/version", "580.95.05\n"))
    assert (found.cuda, found.version) == ("13.0", "580.95.05")
    assert found.gpus == (Gpu(0, "NVIDIA H200", "9.0", 150 << 30, False), Gpu(1, "Orin", "8.7", 150 << 30, True))
    assert found.gpus[0].words == "NVIDIA H200, sm_90"


def test_a_driver_is_old_or_new_enough(driver, tmp_path):
    found = cuda_driver.ask(driver(), str(tmp_path))
    assert found.at_least(13)
    assert found.at_least(12, 8)
    assert not found.at_least(13, 1)
    assert found.version == ""


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        (
            "proc/driver/nvidia/version",
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22",
            "550.54.14",
        ),
        ("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic", "R36.4.3"),
        ("sys/module/nvidia/version", "nonsense", ""),
    ],
)
def test_where_a_driver_s_own_version_stands(driver, tmp_path, name, text, found):
    assert cuda_driver.ask(driver(), version(tmp_path, name, text)).version == found


@pytest.mark.parametrize(
    ("answers", "reason", "remedy"),
    [
        ({"init": 100}, "cannot start: so it says (error 100)", "CUDA_VISIBLE_DEVICES"),
        ({"init": 803}, "error 803", "restart the machine"),
        ({"init": 999}, "error 999", "nvidia-smi"),
        ({"count": 0}, "sees no GPU", "CUDA_VISIBLE_DEVICES"),
        ({"attribute": 1}, "failed at cuDeviceGetAttribute", "nvidia-smi"),
    ],
)
def test_why_no_gpu_can_be_used(driver, answers, reason, remedy):
    with pytest.raises(NoGpu) as raised:
        cuda_driver.ask(driver(**answers))
    assert reason in raised.value.reason
    assert remedy in raised.value.remedy


def test_no_driver_at_all():
    with pytest.raises(NoGpu) as raised:
        cuda_driver.ask("libcuda-none.so.1")
    assert raised.value.reason == "no NVIDIA driver (libcuda-none.so.1 is not there)"
    assert "install NVIDIA's driver" in raised.value.remedy


def test_a_library_that_is_none(tmp_path):
    (tmp_path / "libcuda.so").write_bytes(b"no library")
    with pytest.raises(NoGpu, match="cannot be loaded"):
        cuda_driver.ask(str(tmp_path / "libcuda.so"))


def test_what_a_library_lacks_is_said():
    assert cuda_driver.library_loads("libc.so.6") == ""
    assert "cannot open" in cuda_driver.library_loads("libnone.so.1")
