"""ncnn on Vulkan: what it refuses, with a made-up ncnn; and by a real driver, where there is one, what it computes.

Whatever loads a real driver does so in a process of its own: it stays in a process for good.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from backends.ncnn import Ncnn, NcnnVulkan, vulkan
from backends.ncnn.vulkan import Gpu, gpus
from bench import conformance
from bench.errors import BackendUnavailable, LoadError, UnsupportedModel, UsageError
from bench.interface import Artifact, Options, Signature
from bench.registry import installed

NOWHERE = {"VK_DRIVER_FILES": "/nonexistent", "VK_ICD_FILENAMES": "/nonexistent"}
EMBEDDING = "(int64[4] i) => (float[4,6] y) { g = Gather (e, i) y = Relu (g) }"


def info(name="NVIDIA H200", kind=0, driver=580 << 22 | 95 << 14 | 5 << 6, vendor=0x10DE):
    told = {"device_name": name, "type": kind, "api_version": 1 << 22 | 4 << 12 | 312}
    told |= {"driver_version": driver, "vendor_id": vendor}
    return SimpleNamespace(**{key: lambda value=value: value for key, value in told.items()})


class FakeNet:
    """A network that loads anything and has the layers that it is given: pairs of a type and whether Vulkan has it."""

    def __init__(self, layers, lost=()):
        self.opt, self._lost = SimpleNamespace(), lost
        self._layers = [
            SimpleNamespace(type=kind, name=f"{kind.lower()}_{index}", support_vulkan=has)
            for index, (kind, has) in enumerate([("Input", False), *layers])
        ]
        self.cleared = 0

    def set_vulkan_device(self, index):
        assert self.opt.use_vulkan_compute

    def load_param(self, path):
        assert self.opt.use_vulkan_compute
        for name in self._lost:
            setattr(self.opt, f"use_{name}", False)
        self.opt.use_bf16_packed = False
        return 0

    def load_model(self, path):
        return 0

    def layers(self):
        return self._layers

    def clear(self):
        self.cleared += 1


class FakeNcnn:
    """As much of ncnn as asks for GPUs and loads a network."""

    Mat = None

    def __init__(self, *infos, code=0, net=None):
        self.infos, self.code, self.net, self.calls = infos, code, net, []

    def create_gpu_instance(self):
        self.calls.append("create")
        return self.code

    def destroy_gpu_instance(self):
        self.calls.append("destroy")

    def get_gpu_count(self):
        return len(self.infos)

    def get_gpu_info(self, index):
        return self.infos[index]

    def Net(self):
        return self.net


def load(tmp_path, layers, *, precision="model", lost=(), infos=None, **extra):
    artifact = Artifact(tmp_path, ("p", "b"), Signature((), ()), {"inputs": [], "outputs": []})
    options = {option.name: option.default for option in NcnnVulkan.options} | extra
    net = FakeNet(layers, lost=lost)
    ncnn = FakeNcnn(*(infos or [info()]), net=net)
    try:
        return NcnnVulkan().session(artifact, Options(precision=precision, extra=options), ncnn), ncnn
    except Exception:
        # What was opened for it is closed again, in this order.
        assert ncnn.calls == ["create", "destroy"]
        assert net.cleared or extra.get("gpu")
        raise


# --- what is said where there is no GPU


@pytest.mark.parametrize(
    ("ncnn", "loader", "reason", "remedy"),
    [
        (FakeNcnn(code=-1), "cannot open", "no Vulkan loader", "libvulkan1"),
        (FakeNcnn(code=-1), "", "no driver that starts", "VK_DRIVER_FILES"),
        (FakeNcnn(), "", "know no device", "vulkaninfo"),
    ],
)
def test_why_there_is_no_gpu_is_said_and_what_would_help(monkeypatch, ncnn, loader, reason, remedy):
    monkeypatch.setattr(vulkan, "library_loads", lambda name: loader)
    with pytest.raises(BackendUnavailable, match=reason) as raised, gpus(ncnn):
        pass
    assert remedy in raised.value.hint
    assert ncnn.calls == ["create", "destroy"], "so that it can be tried again"


def test_an_ncnn_without_vulkan_is_told():
    with pytest.raises(BackendUnavailable, match="built without Vulkan"), gpus(SimpleNamespace()):
        pass


def test_no_driver_makes_a_case_unavailable_and_nothing_falls_back(cli, mlp_path, pnnx):
    pytest.importorskip("ncnn", reason=f"needs it: {Ncnn.install}")
    done = cli("run", mlp_path, "-b", "ncnn-vulkan", "--batch", "1", "--json", env=NOWHERE)
    (record,) = map(json.loads, done.stdout.splitlines())
    assert (record["status"], record["latency"]) == ("unavailable", None), done.stderr
    assert "Vulkan" in record["error"]["message"]
    assert "libvulkan1" in record["error"]["hint"]
    told = cli("backends", "ncnn-vulkan", env=NOWHERE).stdout
    assert "unavailable" in told
    assert "cpu_nodes" in told


def test_it_is_used_only_when_asked_for():
    assert (NcnnVulkan.opt_in, Ncnn.opt_in) == (True, False)


# --- which GPU


def test_the_instance_ends_with_its_last_user():
    ncnn = FakeNcnn(info())
    with gpus(ncnn):
        with gpus(ncnn) as there:
            assert [gpu.words for gpu in there] == ["NVIDIA H200, discrete, Vulkan 1.4.312, driver 580.95.5"]
        assert ncnn.calls == ["create"]
    assert ncnn.calls == ["create", "destroy"]


def test_a_vulkan_on_the_cpu_is_an_emulated_gpu(tmp_path):
    assert Gpu(0, "Mali-G610", "integrated", "1.3.0", "1.0.0").emulated == ""
    lavapipe = info("llvmpipe (LLVM 15)", kind=3, driver=1, vendor=0x10005)
    session, _ = load(tmp_path, [("Convolution", True)], infos=[lavapipe])
    placement = session.placement()
    session.close()
    assert placement.emulated == "Vulkan on the CPU (llvmpipe (LLVM 15))"
    assert placement.facts["gpu"] == "llvmpipe (LLVM 15), emulated on the CPU, Vulkan 1.4.312, driver 0.0.1"


def test_a_gpu_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    with pytest.raises(UsageError, match="no GPU 1") as raised:
        load(tmp_path, [("Convolution", True)], gpu=1)
    assert "0: NVIDIA H200" in raised.value.hint


# --- proof of placement


def test_layers_without_vulkan_are_refused_or_listed(tmp_path):
    layers = [("Convolution", True), ("Embed", False), ("Softmax", True), ("Embed", False)]
    with pytest.raises(UnsupportedModel, match=r"2 of 4 layers.*not on vulkan:0: Embed \(2\).*'embed_2'") as raised:
        load(tmp_path, layers)
    assert "cpu_nodes=any" in raised.value.hint
    session, ncnn = load(tmp_path, layers, cpu_nodes="any")
    assert session.placement().nodes == {"vulkan:0": 2, "cpu": 2}
    assert session.placement().elsewhere == ("Embed embed_2 on the CPU", "Embed embed_4 on the CPU")
    session.close()
    session.close()
    assert ncnn.calls == ["create", "destroy"]
    assert ncnn.net.cleared == 1


def test_a_network_wholly_on_the_cpu_is_no_gpu_s_even_where_any_layer_may_be(tmp_path):
    with pytest.raises(UnsupportedModel, match="1 of 1 layers"):
        load(tmp_path, [("Embed", False)], cpu_nodes="any")


def test_a_gpu_that_could_not_be_opened_is_no_silent_cpu(tmp_path):
    with pytest.raises(LoadError, match="would compute on the CPU"):
        load(tmp_path, [("Convolution", True)], lost=["vulkan_compute"])


def test_precision_is_what_ncnn_left_on(tmp_path):
    session, _ = load(tmp_path, [("Convolution", True)], precision="fp16", lost=["fp16_arithmetic"])
    placement = session.placement()
    session.close()
    assert (placement.precision, placement.facts["fp16_storage"], placement.facts["fp16_arithmetic"]) == (
        "fp16", "on", "off",
    )  # fmt: skip
    with pytest.raises(LoadError, match="no fp16"):
        load(tmp_path, [("Convolution", True)], precision="fp16", lost=["fp16_packed", "fp16_storage"])
    session, _ = load(tmp_path, [("Convolution", True)])
    assert {value for name, value in session.placement().facts.items() if name != "gpu"} == {"off"}
    session.close()


def test_another_precision_is_refused(tmp_path):
    with pytest.raises(UsageError, match="model, fp16"):
        NcnnVulkan().load(Artifact(tmp_path, ("p", "b"), Signature((), ()), {}), Options(precision="bf16"))


# --- with a real driver


@pytest.fixture
def driver(cli, pnnx):
    """What the backend says of the GPUs here."""
    found = json.loads(cli("backends", "ncnn-vulkan", "--json").stdout)
    if not found["available"]:
        pytest.skip(f"needs a Vulkan driver, Mesa's on the CPU would do: {found['reason']}; {found['remedy']}")
    return found


def test_it_keeps_the_contract(driver, tmp_path, pnnx):
    spec = installed()["ncnn-vulkan"].spec
    found = list(conformance.isolated_checks(spec, workdir=tmp_path, tools={"pnnx": pnnx}))
    assert [(each.name, each.message) for each in found if each.status == "failed"] == []
    assert {each.name for each in found if each.status == "passed"} >= {"values_conv", "two_sessions", "placement"}


def test_a_network_is_computed_there_and_the_record_proves_it(driver, cli):
    done = cli("run", "tiny_cnn", "-b", "ncnn-vulkan", "--trials", "1", "--max-foreign-cpu", "1", "--json")
    (record,) = map(json.loads, done.stdout.splitlines())
    placement, evidence = record["evidence"]["placement"], record["evidence"]
    assert record["status"] == "ok", record["why"]
    assert placement["device"] == "vulkan:0"
    assert list(placement["nodes"]) == ["vulkan:0"]
    assert placement["facts"]["fp16_packed"] == "off"
    assert record["environment"]["runtimes"]["gpu"].startswith(placement["facts"]["gpu"])
    assert bool(evidence["emulated"]) is ("emulated" in placement["facts"]["gpu"])
    if evidence["emulated"]:
        assert "emulated" in cli("report").stdout


def test_half_precision_is_half(driver, cli):
    argv = ("--precision", "fp16", "--trials", "1", "--max-foreign-cpu", "1", "--json")
    record = json.loads(cli("run", "tiny_cnn", "-b", "ncnn-vulkan", *argv).stdout)
    placement, (output,) = record["evidence"]["placement"], record["parity"]["outputs"]
    assert (record["status"], placement["precision"], placement["facts"]["fp16_packed"]) == ("ok", "fp16", "on")
    assert 1e-5 < output["max_rel_scale"] < 1e-2


def test_what_it_cannot_compute_runs_on_the_cpu_only_when_that_is_allowed(driver, cli, kit_of):
    path = kit_of("ncnn").model(kit_of("ncnn").parse(EMBEDDING, {"e": (10, 6)})).path
    argv = ("run", path, "-b", "ncnn-vulkan", "--trials", "1", "--max-foreign-cpu", "1", "--json")
    refused = json.loads(cli(*argv).stdout)
    assert (refused["status"], "Embed (1)" in refused["why"]) == ("unsupported", True)
    allowed = json.loads(cli(*argv, "-o", "cpu_nodes=any").stdout)
    assert allowed["status"] == "ok", allowed["why"]
    assert "Embed" in allowed["evidence"]["placement"]["elsewhere"][0]
