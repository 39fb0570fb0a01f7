"""What a runtime can do to its worker: each becomes a record's line with the right phase and words; nothing is left."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from backends.fake import Fake
from bench.cache import Cache
from bench.errors import BenchError
from bench.hosts.local import LocalHost
from bench.interface import Model, Options, Plan, Signature, ValueSpec
from bench.models import DataSet
from bench.parity.compare import TOLERANCES
from bench.place import Limits, Place
from bench.registry import Registered
from bench.trial import TrialPlan, run_trial
from bench.worker import child_process, wire
from bench.worker.client import WorkerError
from bench.worker.lease import Lease

FAKE = Registered("fake", "backends.fake:Fake", "deploybench")
SHORT = Plan(min_count=16, min_s=0.0, max_s=5.0, warmup_min_count=1, warmup_min_s=0.0, warmup_max_s=1.0)


def failure(call, *args, **more):
    with pytest.raises(WorkerError) as caught:
        call(*args, **more)
    return caught.value.failure


# --- trials with the fake device's faults


def options(**extra):
    return Options(1, "model", (), {**{each.name: each.default for each in Fake.options}, **extra})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """y = -x and z = x."""
    folder = tmp_path_factory.mktemp("model")
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Sub", ["zero", "x"], ["y"]),
        helper.make_node("Identity", ["x"], ["z"]),
    ]
    zero = onnx.numpy_helper.from_array(np.zeros(1, np.float32), "zero")
    outputs = [info(name, TensorProto.FLOAT, [2, 3]) for name in "yz"]
    graph = helper.make_graph(nodes, "g", [info("x", TensorProto.FLOAT, [2, 3])], outputs, [zero])
    opsets = [helper.make_opsetid("", 13)]
    onnx.save_model(helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / "model.onnx")
    specs = [ValueSpec(name, "float32", (2, 3)) for name in "xyz"]
    return Model("m", folder, ("model.onnx",), "0" * 64, 13, Signature((specs[0],), tuple(specs[1:])))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return Cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def trial(model, cache, tmp_path):
    """The line of one trial on a fake device with a fault."""
    artifact = Fake().prepare(model, options(), tmp_path, None)
    feeds = [np.random.default_rng(seed).standard_normal((2, 3)).astype(np.float32) for seed in (1, 2)]

    def run(limits=None, plan=SHORT, **faults):
        place = Place("local", LocalHost(tmp_path), cache, limits or Limits(), lease_folder=str(tmp_path))
        trial_plan = TrialPlan(
            case_id="c",
            backend=FAKE,
            artifact=artifact,
            artifact_key="k",
            options=options(**faults),
            data_sets=[DataSet({"x": x}, {"y": -x, "z": x}) for x in feeds],
            tolerance=TOLERANCES["fp32"],
            plan=plan,
        )
        return run_trial(place, trial_plan, 0)

    return run


def test_a_good_trial(trial, scratch):
    line = trial()
    assert line.error is None
    assert line.parity.passed
    assert line.fits
    assert len(line.series[0].samples_ns) >= 16
    assert not list(scratch.iterdir())


DEATHS = [
    ("crash", "crash", "SIGSEGV", "memory not its own"),
    ("fpe", "crash", "SIGFPE", "divided by zero"),
    ("ill", "crash", "SIGILL", "built for a newer one"),
    ("abort", "crash", "SIGABRT", "log's tail"),
    ("oom-kill", "crash", "SIGKILL", "memory ran out"),
    ("exit", "exit", None, "log's tail"),
]


@pytest.mark.parametrize(("fault", "kind", "signal_name", "hint"), DEATHS)
def test_how_a_runtime_dies_is_told(trial, scratch, fault, kind, signal_name, hint):
    error = trial(fault=fault).error
    assert (error.phase, error.kind, error.signal, error.error) == ("first_run", kind, signal_name, "Crashed")
    assert hint in error.hint
    if fault in ("crash", "fpe", "ill", "abort"):
        assert "faults.py" in error.log_tail  # the line of Python that led to it
    assert not list(scratch.iterdir())


@pytest.mark.parametrize(
    ("at", "phase", "fault"),
    [("import", "load", "crash"), ("load", "load", "exit"), ("measure", "measure", "abort")],
)
def test_when_a_runtime_dies_is_told(trial, at, phase, fault):
    assert trial(fault=fault, fault_at=at).error.phase == phase


@pytest.mark.parametrize(
    ("at", "phase", "error"),
    [
        ("import", "load", "BackendUnavailable"),
        ("load", "load", "LoadError"),
        ("run", "first_run", "RunError"),
        ("measure", "measure", "RunError"),
    ],
)
def test_a_refusal_is_told_in_the_backends_words(trial, at, phase, error):
    found = trial(fault="raise", fault_at=at).error
    assert (found.phase, found.kind, found.error, found.signal) == (phase, error, error, None)
    assert (found.message, found.hint) == ("the fake device was told to fail", "drop fault=raise")


@pytest.mark.parametrize(("at", "phase"), [("load", "load"), ("measure", "measure")])
def test_an_unmapped_exception_is_told_with_its_traceback(trial, at, phase):
    error = trial(fault="unexpected", fault_at=at).error
    assert (error.phase, error.kind) == (phase, "unexpected")
    assert error.message.startswith("ValueError: ")
    assert "Traceback" in error.log_tail


@pytest.mark.parametrize(
    ("at", "phase", "limits"),
    [
        ("load", "load", Limits(load=0.5)),
        ("run", "first_run", Limits(first_run=0.5)),
        ("measure", "measure", Limits(measure=0.5)),
    ],
)
def test_a_hang_ends_at_the_phases_limit(trial, scratch, at, phase, limits):
    plan = Plan(min_count=16, min_s=0.0, max_s=0.2, warmup_min_count=1, warmup_min_s=0.0, warmup_max_s=0.2)
    error = trial(limits, plan, fault="hang", fault_at=at).error
    assert (error.phase, error.kind, error.error) == (phase, "timeout", "Timeout")
    assert "--limit" in error.hint
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("at", ["load", "run", "measure"])
def test_printing_disturbs_nothing(trial, at):
    line = trial(fault="print", fault_at=at)
    assert line.error is None
    assert line.parity.passed


@pytest.mark.parametrize(
    ("fault", "at"),
    [
        ("wrong_shape", "first_run"),
        ("wrong_dtype", "first_run"),
        ("missing_output", "first_run"),
        ("nan", "first_run"),
        ("zeros", "first_run"),
        ("stale", "first_run"),
        ("input_blind", "first_run"),
        ("drift", "verify"),
    ],
)
def test_wrong_answers_are_found(trial, fault, at):
    line = trial(fault=fault)
    assert line.error is None
    assert not line.parity.passed
    assert line.parity.at == at


def test_durations_that_cannot_be_do_not_fit(trial):
    assert trial(fault="implausible", clock="device", latency_us=2000.0).fits is False


@pytest.mark.parametrize(
    ("fault", "kind", "error"),
    [
        ("crash", "crash", "Crashed"),
        ("raise", "PrepareError", "PrepareError"),
        ("unsupported", "UnsupportedModel", "UnsupportedModel"),
        ("unexpected", "unexpected", "BenchError"),
        ("hang", "timeout", "Timeout"),
    ],
)
def test_a_converter_that_fails(start, model, tmp_path, fault, kind, error):
    worker = start()
    worker.ask("start", {"backend": "backends.fake:Fake", "cpus": []})
    args = {
        "model": wire.plain(model),
        "options": wire.plain(options(fault=fault, fault_at="prepare")),
        "workdir": str(tmp_path),
        "tools": {},
    }
    found = failure(worker.ask, "prepare", args, limit_s=0.5 if fault == "hang" else 30)
    assert (found.phase, found.kind, found.error) == ("prepare", kind, error)


# --- the child's end


def test_a_child_killed_from_outside(start, eventually):
    worker = start().begin("import time; time.sleep(count > 1 and 60)")
    worker.run()
    threading.Timer(0.3, os.kill, (worker.child(), signal.SIGKILL)).start()
    found = failure(worker.run)
    assert (found.kind, found.signal) == ("crash", "SIGKILL")
    assert "somebody killed it" in found.hint
    again = failure(worker.run)
    assert again.kind == "crash", "later requests tell how it died"
    assert (worker.begin().run() == np.arange(4)).all(), "the same worker starts another child"


def test_a_death_between_requests_is_told_at_the_next(start, eventually, alive):
    worker = start().begin()
    child = worker.child()
    os.kill(child, signal.SIGKILL)
    assert eventually(lambda: not alive(child))
    assert failure(worker.run).signal == "SIGKILL"


def test_an_out_of_memory_kill_is_known_by_the_kernels_count(monkeypatch, tmp_path):
    child = child_process.ChildProcess(["/bin/sh", "-c", "kill -9 $$"], tmp_path)
    assert child.ends_within(20)
    assert list(Path("/proc").glob(str(child._process.pid))), "its number is its own until its group was killed"
    child.kill()
    child.pipe.close()
    assert child.death()["kind"] is None
    kills = child_process.out_of_memory_kills()
    monkeypatch.setattr(child_process, "out_of_memory_kills", lambda: kills + 1)
    death = child.death()
    assert (death["kind"], death["signal"]) == ("out of memory", "SIGKILL")
    assert "smaller batch" in death["hint"]


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="needs the kernel's /proc/self/oom_score_adj")
def test_the_kernel_ends_the_child_first_when_memory_runs_out(start):
    worker = start().begin()
    assert Path(f"/proc/{worker.child()}/oom_score_adj").read_text().strip() == "1000"
    assert Path(f"/proc/{worker.pid}/oom_score_adj").read_text().strip() != "1000"


def test_memory_that_cannot_be_had_is_an_error_not_a_crash(start):
    lines = """
        import numpy, resource
        if count == 1:
            resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
            outputs["y"] = numpy.ones(1 << 30)
    """
    worker = start().begin(textwrap.dedent(lines))
    found = failure(worker.run)
    assert (found.kind, found.message) == ("RunError", "out of memory")
    assert "smaller batch" in found.hint
    assert len(worker.run()) == 4, "the child lives on"


def test_exceptions_in_an_answers_making_are_answers(start):
    worker = start().begin("outputs['y'] = object()")
    assert "no ONNX value" in failure(worker.run).message
    worker.begin("outputs = None")
    assert failure(worker.run).kind == "RunError"
    worker.begin("from bench.interface import Placement; placement = Placement('cpu', object())")
    worker.run()
    assert failure(worker.measure, min_s=0.0, warmup_min_s=0.0).kind == "ProtocolError"
    assert worker.begin().run() is not None


def test_a_backend_that_closes_its_pipe_but_lives(start, alive):
    worker = start().begin("import os, time; os.closerange(3, 100); time.sleep(60)")
    child = worker.child()
    found = failure(worker.run)
    assert (found.kind, found.error, found.signal) == ("protocol", "Crashed", None)
    assert "closed its pipe" in found.message
    assert not alive(child)


@pytest.mark.parametrize(
    "written", [b"\x93DBENCH\x01\x05\x00", b"\x93DBENCH\x01" + b"\x05\x00\x00\x00" + bytes(8) + b"{"]
)
def test_half_a_frame_before_the_end(start, written):
    worker = start().begin(f"import os, sys; os.write(int(sys.argv[2]), {written!r}); os._exit(7)")
    found = failure(worker.run)
    assert (found.kind, found.error) == ("exit", "Crashed")
    assert "exit code 7" in found.message


def test_a_backend_that_writes_into_our_pipe(start, alive):
    worker = start().begin("import os, sys, time; os.write(int(sys.argv[2]), b'hello'); time.sleep(60)")
    child = worker.child()
    found = failure(worker.run)
    assert (found.kind, found.error) == ("protocol", "Crashed")
    assert "hello" in found.hint
    assert not alive(child)


def test_what_the_runtime_printed_last_is_in_the_error(start):
    lines = "import os; os.write(1, b'x' * 9000 + b'first words\\n'); print('last words', flush=True); os._exit(1)"
    tail = failure(start().begin(lines).run).log_tail
    assert tail.endswith("first words\nlast words\n")
    assert len(tail) <= child_process.LOG_TAIL_BYTES


# --- nothing is left behind

TOOL = """
import subprocess, sys, time
script = '''
import os, subprocess, sys, time
kept = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
away = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("the tool says", flush=True)
open("pids.part", "w").write(f"{os.getpid()} {kept.pid} {away.pid}")
os.rename("pids.part", "pids")
time.sleep(600)
'''
tools.run([sys.executable, "-c", script], cwd=workdir)
"""


def test_a_tool_that_hangs_goes_with_all_that_it_started(start, tmp_path, alive, eventually):
    worker = start()
    found = failure(worker.prepare, TOOL, tmp_path, limit_s=3.0)
    assert (found.phase, found.kind) == ("prepare", "timeout")
    assert "the tool says" in found.log_tail
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert eventually(lambda: not any(map(alive, pids))), "also the one in a session of its own"


def test_what_a_dead_runtime_started_goes_too(start, tmp_path, alive, eventually):
    lines = f"""
        import os, subprocess, time
        path = {str(tmp_path / "pid")!r}
        open(path, "w").write(str(subprocess.Popen(["sleep", "600"], start_new_session=True).pid))
        os.abort()
    """
    worker = start().begin(textwrap.dedent(lines))
    assert failure(worker.run).signal == "SIGABRT"
    assert eventually(lambda: not alive(int((tmp_path / "pid").read_text())))


def test_a_tools_end(start, tmp_path):
    worker = start()
    lines = """
        done = tools.run(["sh", "-c", "echo out; echo err >&2; exit 3"], cwd=workdir)
        (workdir / "done").write_text(f"{done.code} {done.output!r}")
        big = tools.run(["sh", "-c", "yes | head -c 1000000; printf end"], cwd=workdir)
        assert "MALLOC_TRIM_THRESHOLD_=" in tools.run(["env"], cwd=workdir).output
        assert len(big.output) == 65536 and big.output.endswith("end"), len(big.output)
    """
    worker.prepare(textwrap.dedent(lines), tmp_path)
    assert (tmp_path / "done").read_text() == r"3 'out\nerr\n'"
    found = failure(worker.prepare, "tools.run(['sh', '-c', 'echo bye; kill -SEGV $$'], cwd=workdir)", tmp_path)
    assert (found.kind, found.signal) == ("crash", "SIGSEGV")
    assert "sh died of SIGSEGV" in found.message
    assert "bye" in found.log_tail
    assert failure(worker.prepare, "tools.run(['/nonexistent'], cwd=workdir)", tmp_path).error == "UsageError"


def test_a_supervisor_that_is_killed(start, alive, eventually, scratch):
    worker = start().begin("import time; time.sleep(count > 1 and 60)")
    worker.run()
    child = worker.child()
    threading.Timer(0.3, os.kill, (worker.pid, signal.SIGKILL)).start()
    found = failure(worker.run, limit_s=50.0)
    assert (found.kind, found.error) == ("link", "Unreachable")
    assert "supervisor is gone" in found.message
    assert eventually(lambda: not alive(child)), "the kernel ends the child with it"
    assert failure(worker.run).kind == "link", "a lost worker stays lost"
    assert len(list(scratch.iterdir())) == 1
    start().begin()
    assert len(list(scratch.iterdir())) == 1, "the next supervisor removes the folder of the dead one and has its own"


def test_folders_of_supervisors_that_live_stay(start, scratch):
    first = start().begin()
    (kept,) = scratch.iterdir()
    start().begin()
    assert kept.exists()
    assert len(first.run()) == 4


CLIENT = """
import sys
sys.path[:0] = {path!r}
import conftest
from bench.hosts.local import LocalHost
worker = conftest.Odd(LocalHost(None), {code!r}).begin(
    "import subprocess; count == 1 and subprocess.Popen(['sleep', '600'])"
)
worker.run()
children = [pid for pid, parent in conftest.parents().items() if parent in (worker.pid, worker.child())]
print(worker.pid, *children, flush=True)
{last}
"""
MEASURES = "worker.measure(min_s=60.0, max_s=60.0)"
FEEDS = """
import os, signal, numpy
os.kill(worker.child(), signal.SIGSTOP)
worker.run(numpy.ones(1 << 23, numpy.float32))
"""


@pytest.fixture
def client(code, tmp_path):
    """A client in a process of its own, in the middle of something: it, and all that it started."""
    started = []

    def begin(last=MEASURES, **popen):
        here = Path(__file__)
        path = [str(here.parents[2]), str(here.parent)]
        program = CLIENT.format(path=path, code=str(code), last=last)
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, **popen)
        started.append(process)
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 3
        return process, pids

    yield begin
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_client_that_goes_takes_everything_with_it(client, alive, eventually, scratch, number):
    process, pids = client(stderr=subprocess.DEVNULL)
    process.send_signal(number)
    process.wait()
    assert eventually(lambda: not any(map(alive, pids)))
    assert eventually(lambda: not list(scratch.iterdir()))


def test_a_client_that_goes_while_its_feed_waits_for_the_child(client, alive, eventually):
    process, pids = client(FEEDS, stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    process.kill()
    process.wait()
    assert eventually(lambda: not any(map(alive, pids)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_supervisor_that_is_told_to_go_tidies_up(start, alive, eventually, scratch, number):
    worker = start().begin()
    child = worker.child()
    os.kill(worker.pid, number)
    assert failure(worker.run).kind == "link"
    assert eventually(lambda: not alive(child))
    assert eventually(lambda: not list(scratch.iterdir()))


def test_a_client_that_falls_silent_ends_the_far_side(start, alive, eventually, scratch):
    worker = start(silence_s=0.6)
    worker.begin()
    child = worker.child()
    time.sleep(1.5)
    assert len(worker.run()) == 4, "a client that only thinks is not silent"
    worker._closed.set()  # its heart stops, as that of a stopped process does
    worker._beat.join()
    assert eventually(lambda: not alive(child))
    assert eventually(lambda: not list(scratch.iterdir()))
    worker._closed.clear()
    assert failure(worker.run).kind == "link"


def test_a_far_side_that_falls_silent_is_given_up(start, alive, eventually):
    worker = start(silence_s=0.6)
    worker.begin("import time; time.sleep(count > 1 and 60)")
    worker.run()
    child = worker.child()
    os.kill(worker.pid, signal.SIGSTOP)
    found = failure(worker.run, limit_s=50.0)
    assert (found.kind, found.message) == ("link", "the worker fell silent")
    os.kill(worker.pid, signal.SIGKILL)  # which close() does after a while
    assert eventually(lambda: not alive(child))


def test_twenty_workers_leave_nothing(start, alive, scratch):
    start().begin().close()
    before = set(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    for index in range(20):
        worker = start()
        if index % 5 == 0:
            worker.begin("import os; count > 1 and os.abort()")
            worker.run()
            failure(worker.run)
        worker.close()
        assert not alive(worker.pid)
    assert set(os.listdir("/proc/self/fd")) == before
    assert threading.active_count() == threads
    assert not list(scratch.iterdir())
    with pytest.raises(ChildProcessError):  # no zombie of ours
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOHANG)


# --- bytes


def test_large_tensors_go_both_ways(start):
    feed = np.random.default_rng(0).integers(0, 256, 200 << 20, np.uint8).view(np.float32)
    worker = start().begin("outputs = {'y': feeds['x'][::-1]}")
    assert worker.run(feed, limit_s=120.0).tobytes() == feed[::-1].tobytes()


def test_a_frame_that_moves_slowly_is_not_silence(start):
    """The bytes of a large frame count as signs of life: on a slow link no beat gets in between."""
    worker = start(silence_s=0.6)
    worker.begin()
    send, delays = worker._write, iter([0.3] * 6)

    def slow(pieces, patience_s):
        time.sleep(next(delays, 0))
        return send([pieces[0][: 1 << 16]], patience_s)

    worker._write = slow
    feed = np.ones(1 << 18, np.float32)
    assert (worker.run(feed) == feed).all()


def test_a_frame_cut_off_in_the_middle_ends_the_worker(start):
    worker = start().begin()

    def interrupted(pieces, patience_s):
        os.write(worker._link.write_fd, pieces[0][:10])
        raise KeyboardInterrupt

    send, worker._write = worker._write, interrupted
    with pytest.raises(KeyboardInterrupt):
        worker.run()
    worker._write = send
    found = failure(worker.run)
    assert found.kind == "link"
    assert "cut off" in found.message


def test_a_full_pipe_is_not_waited_for_without_end(start, monkeypatch):
    monkeypatch.setattr("bench.worker.client.GRACE_S", 0.1)
    worker = start().begin()
    os.kill(worker.pid, signal.SIGSTOP)
    found = failure(worker.run, np.ones(1 << 22, np.float32), limit_s=0.2)
    os.kill(worker.pid, signal.SIGCONT)
    assert found.kind == "link"
    assert "takes no more bytes" in found.message


LARGE = np.ones(1 << 23, np.float32)


def test_a_child_that_takes_no_more_bytes_runs_into_its_limit(start, alive):
    worker = start().begin()
    os.kill(child := worker.child(), signal.SIGSTOP)
    found = failure(worker.run, LARGE, limit_s=1.0)
    assert (found.phase, found.kind) == ("run", "timeout")
    assert not alive(child)
    assert worker.begin().run().size, "what was left of the feed is not in the way"


def test_a_child_that_dies_while_it_is_fed(start):
    worker = start().begin()
    os.kill(child := worker.child(), signal.SIGSTOP)
    threading.Timer(1.0, os.kill, (child, signal.SIGKILL)).start()
    found = failure(worker.run, LARGE)
    assert (found.phase, found.kind, found.signal) == ("run", "crash", "SIGKILL")
    assert worker.begin().run().size


def test_a_child_that_dies_while_it_answers_has_not_answered(start, monkeypatch):
    worker = start().begin(
        "import os, threading, numpy as np; threading.Timer(1.0, os.kill, (os.getpid(), 9)).start()\n"
        "outputs = {'y': np.zeros(1 << 26, np.float32)}"
    )
    read = worker._intake.read
    monkeypatch.setattr(worker._intake, "read", lambda fd: (time.sleep(0.02), read(fd))[1])
    found = failure(worker.run)
    assert (found.phase, found.kind, found.signal) == ("run", "crash", "SIGKILL")
    assert worker.begin().run().size, "what was cut off is not in the way"


def test_feeds_for_nobody_are_dropped(start):
    worker = start()
    assert failure(worker.run, LARGE).kind == "protocol"
    assert worker.begin().run().size


def test_a_request_to_the_supervisor_itself_may_have_a_body(start, tmp_path):
    worker = start().begin()
    worker.ask("lease", {"folder": str(tmp_path), "holder": "a test"}, [bytes(3 << 20)])
    assert worker.run().size


# --- the machine's lease


def lease(worker, folder, name="a test", limit_s=30.0):
    return worker.ask("lease", {"folder": str(folder), "holder": name}, phase="connect", limit_s=limit_s)


def test_a_lease_waits_for_its_holder_to_end(start, tmp_path):
    holder, waiter = start(), start()
    lease(holder, tmp_path, "the first")
    found = failure(lease, waiter, tmp_path, "the second", limit_s=0.3)
    assert (found.phase, found.kind, found.error) == ("connect", "lease", "Timeout")
    assert "the first holds it" in found.message
    got = []
    thread = threading.Thread(target=lambda: got.append(lease(waiter, tmp_path, "the second")))
    thread.start()
    time.sleep(0.5)
    assert not got
    holder.close()
    thread.join(20)
    assert got
    assert "the second holds it" in failure(lease, start(), tmp_path, limit_s=0.3).message


def test_a_lease_is_free_the_moment_its_holder_dies(start, tmp_path):
    holder, waiter = start(), start()
    lease(holder, tmp_path)
    thread = threading.Thread(target=lease, args=(waiter, tmp_path, "the second"))
    thread.start()
    time.sleep(0.3)
    os.kill(holder.pid, signal.SIGKILL)
    thread.join(20)
    assert not thread.is_alive()


def test_a_lease_asked_for_twice_is_no_deadlock(start, tmp_path):
    worker = start()
    lease(worker, tmp_path)
    lease(worker, tmp_path, limit_s=5.0)


def test_a_waiter_who_gave_up_does_not_get_the_lease_later(start, tmp_path):
    holder, late, third = start(), start(), start()
    lease(holder, tmp_path)
    failure(lease, late, tmp_path, limit_s=0.2)
    holder.close()
    lease(third, tmp_path)
    late.begin()


def test_a_lease_file_belongs_to_everybody(tmp_path):
    mask = os.umask(0o077)
    try:
        Lease(str(tmp_path), "one").release()
    finally:
        os.umask(mask)
    (file,) = tmp_path.glob("deploybench-lease-*")
    assert file.stat().st_mode & 0o777 == 0o666


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_two_users_share_a_lease(start, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    lease(start(), shared, "root's run")
    program = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from bench.worker.lease import Lease
os.setuid(65534)
other = Lease(".", "nobody's run")
print(other.held, other.holder())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=shared)
    assert done.stdout == "False root's run\n", done.stderr


def test_a_lease_is_never_written_through_a_link(start, tmp_path):
    Lease(str(tmp_path), "one").release()
    (file,) = tmp_path.glob("deploybench-lease-*")
    victim = tmp_path / "victim"
    victim.write_text("precious")
    file.unlink()
    file.symlink_to(victim)
    found = failure(lease, start(), tmp_path)
    assert found.error == "HostError"
    assert victim.read_text() == "precious"


def test_a_lease_without_a_folder_is_an_error(start, tmp_path):
    worker = start()
    found = failure(lease, worker, tmp_path / "absent")
    assert (found.phase, found.error) == ("connect", "HostError")
    assert "absent" in found.message
    assert worker.begin()


# --- quiet


def cpu_ticks(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def switches(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


def test_the_supervisor_sleeps_while_the_child_measures(start):
    worker = start().begin("import time; time.sleep(count > 1 and 2.2)")
    worker.run()
    ticks, wakes = cpu_ticks(worker.pid), switches(worker.pid)
    worker.run()
    assert (cpu_ticks(worker.pid) - ticks) / os.sysconf("SC_CLK_TCK") < 0.05 * 2.2
    assert switches(worker.pid) - wakes < 30, "a few a second would be too many"


def test_who_waits_for_the_machine_sleeps(start, tmp_path):
    holder, waiter = start(), start()
    lease(holder, tmp_path)
    thread = threading.Thread(target=lease, args=(waiter, tmp_path))
    thread.start()
    time.sleep(0.7)
    wakes = switches(waiter.pid)
    time.sleep(1.5)
    assert switches(waiter.pid) - wakes < 10
    holder.close()
    thread.join()


def test_the_supervisor_loads_no_numpy(start):
    worker = start()
    worker.ask("start", {"backend": "odd:Odd", "cpus": []})
    assert "numpy" not in Path(f"/proc/{worker.pid}/maps").read_text()


def test_the_supervisor_and_its_child_have_no_files_but_theirs(start, tmp_path):
    with open(tmp_path / "inherited", "w") as file:
        os.set_inheritable(file.fileno(), True)
        worker = start().begin()
        for pid in (worker.pid, worker.child()):
            opened = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            assert not [name for name in opened if name.endswith("inherited")]
    child = [os.readlink(f"/proc/{worker.child()}/fd/{fd}") for fd in os.listdir(f"/proc/{worker.child()}/fd")]
    assert sum(name.startswith("pipe:") for name in child) == 2, "its two ends, not the client's"


def test_limits_of_this_process_are_left_alone(start):
    """A worker takes descriptors above 1024 as they come: a pytest session may have many files open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 1200:
        pytest.skip("needs 1200 open files: ulimit -n 1200")
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        assert len(start().begin().run()) == 4
    finally:
        for fd in held:
            os.close(fd)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


def test_requests_that_make_no_sense(start):
    worker = start()
    assert failure(worker.ask, "probe").error == "Crashed"
    worker.ask("start", {"backend": "odd:Odd", "cpus": []})
    assert failure(worker.ask, "dance").error == "UsageError"
    assert failure(worker.run).error == "UsageError"
    assert failure(worker.measure).error == "UsageError"
    worker.begin()
    assert "nothing to measure" in failure(worker.measure).message
    assert failure(worker.ask, "run", {"feeds": {"z": {"kind": "none"}}}).error == "UsageError"
    assert failure(worker.ask, "run", {"feeds": {"x": {"kind": "none"}}}).error == "UsageError"
    assert failure(worker.run, np.zeros((2, 2), np.float32)).error == "UsageError"
    assert failure(worker.run, np.zeros(2, np.int32)).error == "UsageError"
    assert failure(worker.ask, "run", {"feeds": {"x": {"kind": "tensor"}}}).kind == "ProtocolError"
    assert failure(worker.begin, backend="odd:Missing").kind == "unexpected"
    assert failure(worker.begin, backend="absent:Odd").kind == "unexpected"
    assert len(worker.begin().run()) == 4


def test_a_closed_worker_says_so(start):
    worker = start()
    worker.close()
    worker.close()
    with pytest.raises(BenchError, match="closed"):
        worker.ask("probe")
