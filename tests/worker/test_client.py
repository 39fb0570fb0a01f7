"""Links that fail, interpreters that are not what they should be, and surroundings that must not matter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import venv
from pathlib import Path

import numpy as np
import pytest

from bench.errors import BenchError, Unreachable
from bench.hosts.fake import BANNER, FakeHost, parse_faults
from bench.hosts.local import LocalHost
from bench.worker.bootstrap import bootstrap
from bench.worker.client import WorkerError

ROOT = Path(__file__).resolve().parents[2]


def failure(call, *args, **more):
    with pytest.raises(WorkerError) as caught:
        call(*args, **more)
    return caught.value.failure


# --- links with faults


def test_a_link_with_a_banner_works(start, host):
    worker = start(FakeHost(host, parse_faults("banner")))
    assert (worker.begin().run() == np.arange(4)).all()
    assert worker._intake.decoder.banner == BANNER


def test_a_host_that_refuses(start, host):
    with pytest.raises(Unreachable, match="refused"):
        start(FakeHost(host, parse_faults("refuse")))


def test_a_link_that_carries_something_else(start, host, scratch, eventually):
    worker = start(FakeHost(host, parse_faults("garbage")), connect_s=1.0)
    found = failure(worker.ask, "lease", {"folder": "/", "holder": "x"}, phase="connect", limit_s=3600.0)
    assert (found.phase, found.kind, found.error) == ("connect", "link", "Unreachable")
    assert "did not answer as a worker" in found.message
    worker.close()
    assert eventually(lambda: not list(scratch.iterdir()))


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 19, 20, 30, 100, 130, 220])
def test_a_link_that_is_cut(start, host, scratch, eventually, count):
    threads = threading.active_count()
    worker = start(FakeHost(host, parse_faults(f"cut={count}")))

    def use():
        worker.begin("outputs = {'y': __import__('numpy').ones(1000)}")
        worker.run()

    found = failure(use)
    assert (found.kind, found.error) == ("link", "Unreachable")
    assert "supervisor is gone" in found.message
    worker.close()
    assert threading.active_count() == threads
    assert eventually(lambda: not list(scratch.iterdir()))


def test_a_link_with_faults_closes_while_much_is_on_its_way(start, host, scratch):
    worker = start(FakeHost(host, parse_faults("banner"))).begin("outputs = {'y': __import__('numpy').ones(1 << 22)}")
    thread = threading.Thread(target=failure, args=(worker.run,))
    worker._read = lambda deadline: time.sleep(1.0) or (_ for _ in ()).throw(Unreachable("given up"))
    thread.start()
    thread.join()
    worker.close()
    assert not list(scratch.iterdir())


# --- interpreters


@pytest.fixture
def script(tmp_path):
    """A host whose interpreter is a shell script."""

    def make(lines):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{lines}\n")
        path.chmod(0o755)
        return LocalHost(tmp_path, str(path))

    return make


def test_an_interpreter_that_is_not_there(start, tmp_path):
    with pytest.raises(Unreachable, match="cannot be started: No such file") as caught:
        start(LocalHost(tmp_path, str(tmp_path / "absent")))
    assert "interpreter" in caught.value.hint


@pytest.mark.parametrize("lines", ["echo it is broken >&2; exit 3", "echo it is broken; exit 3"])
def test_an_interpreter_that_fails_is_quoted(start, script, lines):
    found = failure(start(script(lines)).begin)
    assert (found.phase, found.kind) == ("start", "link")
    assert found.hint == "the far side said: it is broken"


def test_an_interpreter_that_never_speaks(start, script):
    worker = start(script("echo Password: >&2; exec 3>&1; cat >/dev/null"), connect_s=0.5)
    found = failure(worker.begin)
    assert "within 0.5 s" in found.message
    assert "Password:" in found.hint


def test_an_interpreter_that_prints_without_end(start, script):
    found = failure(start(script("exec yes")).begin)
    assert (found.kind, found.error) == ("link", "HostError")
    assert "does not speak our protocol" in found.message


def test_an_interpreter_without_numpy(start, tmp_path):
    venv.create(tmp_path / "bare", with_pip=False)
    found = failure(start(LocalHost(tmp_path, str(tmp_path / "bare/bin/python"))).begin)
    assert "it has no numpy: run" in found.hint
    assert "bare/bin/python -m pip install numpy" in found.hint


def test_an_interpreter_that_is_too_old():
    program = f"import sys; sys.version_info = (3, 9, 7, 'final', 0); exec({bootstrap('bench.worker.child', '/x')!r})"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "a worker needs Python 3.10 or newer, this is 3.9\n"


# --- surroundings

TRAP = "import os; os.write(2, b'trapped'); os._exit(9)\n"


def test_a_working_folder_full_of_our_names_changes_nothing(start, tmp_path, monkeypatch):
    trap = tmp_path / "trap"
    for name in ("bench", "backends", "models", "numpy", "odd"):
        (trap / name).mkdir(parents=True)
        (trap / name / "__init__.py").write_text(TRAP)
    for name in ("numpy.py", "json.py", "bench.py", "sitecustomize.py", "usercustomize.py"):
        (trap / name).write_text(TRAP)
    monkeypatch.chdir(trap)
    monkeypatch.setenv("PYTHONPATH", str(trap))
    monkeypatch.setenv("PYTHONSTARTUP", str(trap / "numpy.py"))
    monkeypatch.setenv("PYTHONHOME", str(trap))
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    assert len(start().begin().run()) == 4


def test_the_childs_environment(start, monkeypatch, tmp_path, scratch):
    for name in ("PYTHONPATH", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_DYNAMIC", "NVIDIA_TF32_OVERRIDE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.chdir(tmp_path)
    lines = f"""
import json, os, sys, tempfile
seen = [os.getcwd(), tempfile.gettempdir(), sys.path, sys.flags.isolated, os.readlink("/proc/self/fd/0")]
json.dump([dict(os.environ), *seen], open({str(tmp_path / "seen")!r}, "w"))
"""
    start().begin(lines).run()
    environment, cwd, temporary, path, isolated, stdin = json.loads((tmp_path / "seen").read_text())
    assert not [n for n in environment if n.startswith(("PYTHON", "OMP_", "OPENBLAS_", "MKL_", "NVIDIA_TF32"))]
    assert environment["CUDA_VISIBLE_DEVICES"] == "0"
    assert Path(cwd) == Path(temporary)
    assert Path(cwd).parent == scratch
    assert not {"", str(tmp_path), cwd} & set(path)
    assert isolated
    assert stdin == os.devnull


@pytest.mark.parametrize("closed", [(0,), (1,), (0, 1, 2)])
def test_a_client_without_standard_streams(code, tmp_path, closed):
    """As a service or a cron job may be started."""
    program = f"""
import os, sys
sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
for fd in {closed}:
    os.close(fd)
import conftest
from bench.hosts.local import LocalHost
with conftest.Odd(LocalHost(None), {str(code)!r}) as worker:
    ok = len(worker.begin().run()) == 4
open({str(tmp_path / "result")!r}, "w").write(str(ok))
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True)
    assert (tmp_path / "result").read_text() == "True"


def test_a_client_that_ignores_the_end_of_its_children(code, tmp_path):
    """Ignored signals are inherited: the supervisor must still learn how its child ended."""
    program = f"""
import signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
import conftest
from bench.hosts.local import LocalHost
from bench.worker.client import WorkerError
with conftest.Odd(LocalHost(None), {str(code)!r}) as worker:
    try:
        worker.begin("import os; os.abort()").run()
    except WorkerError as error:
        print(error.failure.signal)
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True)
    assert done.stdout == "SIGABRT\n", done.stderr


def test_cpus_are_those_asked_for(start, tmp_path):
    cpu = min(os.sched_getaffinity(0))
    worker = start()
    worker.ask("start", {"backend": "odd:Odd", "cpus": [cpu]})
    assert os.sched_getaffinity(worker.child()) == {cpu}
    assert os.sched_getaffinity(worker.pid) == os.sched_getaffinity(0)


def test_what_a_backends_clock_returns_is_looked_at(start):
    head = "from bench.interface import Samples, Series; import numpy as np; x = feeds['x']; "
    one = "(Series('compute', 'device', np.array({})),)"
    for series, index in [("()", 0), (one.format("[], np.int64"), 0), (one.format("[1.5]"), 0), (one.format("[1]"), 1)]:
        worker = start().begin(f"{head}samples = Samples({series}, {{'y': x}}, {index})")
        worker.run()
        assert failure(worker.measure).kind == "RunError"
        worker.close()
    worker = start().begin(f"{head}samples = Samples({one.format('[10**9]')}, {{'y': x}}, 0)")
    worker.run()
    assert worker.measure()["fits"] is False


def test_an_unknown_error_of_a_backend_keeps_its_words(start):
    lines = "from bench.errors import BenchError\nclass Own(BenchError): pass\nraise Own('so it is', 'do that')"
    found = failure(start().begin(lines).run)
    assert (found.kind, found.error, found.message, found.hint) == ("Own", "BenchError", "so it is", "do that")
    assert isinstance(found.message, str)
    assert issubclass(WorkerError, BenchError)
