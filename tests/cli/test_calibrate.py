"""``sim calibrate``: the entry that it writes and its use, the card and the link at hand, and what is refused."""

import threading
from queue import Queue
from unittest import mock

import pytest
import yaml

from sim.adapters.link_meter import listen
from sim.adapters.lookup import Library
from sim.adapters.resolve import resolve
from sim.adapters.yaml_source import Source
from sim.spec.scenario import Define
from sim.study.calibrate import card
from sim.study.calibrate.schema import Calibration
from sim.study.validate.kernel_laws import Attention, Copy, Exchange, Product

SERVING = """\
id,source,engine,version,mode,model,weights,kv_dtype,gpu,n_gpus,tp,pp,batch,isl,osl,metric,value,unit,scope,notes
b-1,bench,vLLM,0.19,static_batch,Llama 2 7B,fp16,fp16,4090 24GB,1,1,1,1,32,32,throughput,30,tok/s,system,
b-2,bench,vLLM,0.19,static_batch,Llama 2 7B,fp16,fp16,4090 24GB,1,1,1,4,32,32,throughput,120,tok/s,system,
b-3,bench,vLLM,0.19,static_batch,Llama 2 7B,fp16,fp16,4090 24GB,1,1,1,8,32,32,throughput,240,tok/s,system,
b-4,bench,vLLM,0.19,static_batch,Llama 2 7B,fp16,fp16,4090 24GB,1,1,1,16,32,32,throughput,470,tok/s,system,
b-5,bench,vLLM,0.19,static_batch,Llama 2 7B,fp16,fp16,4090 24GB,1,2,1,16,32,32,throughput,1,tok/s,system,
"""
CALIBRATE = ("calibrate", "--gpu-name", "rtx4090", "--stack", "vllm")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "serving.csv"
    path.write_text(SERVING)
    return path


@pytest.fixture(scope="module")
def written(sim, table):
    """The answer, and the folder it wrote."""
    out = table.parent / "out"
    answer = sim(*CALIBRATE, table, "--out", out)
    assert answer.code == 0, answer.err
    return answer, out / "calibrate"


def test_it_writes_the_entry_and_the_document_whole(written, table):
    answer, folder = written
    assert sorted(path.name for path in folder.iterdir()) == ["vllm-rtx4090.json", "vllm-rtx4090.yaml"]
    assert answer.out.splitlines()[-1] == f"entry       {folder / 'vllm-rtx4090.yaml'}"
    found = Calibration.model_validate_json((folder / "vllm-rtx4090.json").read_text())
    entry = yaml.safe_load((folder / "vllm-rtx4090.yaml").read_text())
    assert entry == found.entry
    stack = entry["define"]["stacks"]["vllm-rtx4090"]
    assert stack["like"] == "vllm"
    assert found.tables[0].sha256 in stack["source"]
    assert "cross-validated" in stack["fitted_error"]
    on_gpu = stack["gpus"]["rtx4090"]
    assert on_gpu["rows"] == 4
    assert on_gpu["fitted"] == [c.name for c in found.parts[0].constants if c.fitted] != []
    assert [(tested.reason, tested.fitted.n) for tested in found.tested] == [("several GPUs of one machine", 1)]


def test_the_answer_has_errors_before_and_after(written):
    lines = written[0].out.splitlines()
    assert lines[0].startswith("rtx4090 / vllm: ")
    for text in ("the GPU's kernels alone", "as in the catalogue", "fitted", "left out, 4 folds by scenario"):
        assert any(line.endswith(text) for line in lines), text
    assert any(line.endswith("several GPUs of one machine") for line in lines)
    assert "\x1b" not in written[0].out


def test_a_scenario_with_the_entry_runs_as_fast_as_was_measured(sim, written, tmp_path):
    """The measured card is half as fast as the catalogue's: so is a run with the entry."""
    entry = yaml.safe_load((written[1] / "vllm-rtx4090.yaml").read_text())
    nodes = [{"name": "desk", "gpus": [{"type": "rtx4090"}]}]
    scenario = {
        "name": "own", "cluster": {"topology": {"name": "desk", "nodes": nodes}},
        "model": "llama-2-7b",
        "jobs": [{
            "name": "serve", "kind": "serving", "precision": {"weights": "fp16", "kv": "fp16"},
            "batching": {"policy": "static", "batch_size": 8}, "stack": "vllm",
            "load": {"all_at_once": True, "prompt_tokens": 32, "output_tokens": 32, "requests": 8},
        }],
    }  # fmt: skip
    rates = []
    for stack, define in (("vllm", {}), ("vllm-rtx4090", entry)):
        scenario["jobs"][0]["stack"] = stack
        path = tmp_path / f"{stack}.yaml"
        path.write_text(yaml.safe_dump(scenario | define))
        answer = sim("run", path, "--json", "--no-report", "--no-effects")
        assert answer.code == 0, answer.err
        rates.append(answer.json["jobs"][0]["metrics"]["output_tokens_per_s"])
    assert rates[1] == pytest.approx(240, rel=0.1)
    assert rates[1] < 0.7 * rates[0]


def test_json_is_the_document_and_nothing_is_written(sim, table, tmp_path):
    answer = sim(*CALIBRATE, table, "--json", "--no-report", "--out", tmp_path / "none", "--name", "mine")
    assert answer.code == 0
    assert "mine" in Calibration.model_validate(answer.json).entry["define"]["stacks"]
    assert not (tmp_path / "none").exists()


def test_without_tables_those_that_are_shipped_are_taken(sim):
    answer = sim("calibrate", "--gpu-name", "rtx3080ti", "--stack", "llama.cpp", "--json", "--no-report")
    assert answer.code == 0, answer.err
    assert [table["name"] for table in answer.json["tables"]] == ["serving.csv"]


def test_a_failed_calibration_leaves_what_was_there(sim, table, tmp_path):
    old = tmp_path / "calibrate" / "vllm-rtx4090.yaml"
    old.parent.mkdir()
    old.write_text("kept\n")
    with mock.patch("os.replace", side_effect=OSError(28, "No space left on device")):
        answer = sim(*CALIBRATE, table, "--out", tmp_path)
    assert answer.code == 1
    assert old.read_text() == "kept\n"
    assert [path.name for path in old.parent.iterdir()] == [old.name]


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ((), "name the GPU with --gpu-name"),
        (("--gpu", "--peer", "host"), "--gpu and --peer measure different things: give one"),
        (("--gpu", "table.csv"), "--gpu measures: leave TABLES out"),
        (("--listen", "0", "--gpu-name", "a40"), "--listen measures: leave --gpu-name out"),
        (("--gpu-name", "a40", "--stack", "vllm", "--software", "vllm"), "--software chooses among tables of kernels"),
        (("--gpu-name", "a40", "--name", "a/b"), "--name: 'a/b' must be letters, digits and . _ + -"),
        (("--peer", "host:0"), "--peer: 'host:0' is no HOST or HOST:PORT with a port from 1 to 65535"),
        (("--gpu-name", "a4", "--stack", "llama.cpp"), "unknown gpu 'a4', did you mean"),
        (("--gpu-name", "rtx3080", "--stack", "llama.cpp"), "at least 4 rows of 3 scenarios are needed"),
        (("--gpu-name", "rtx4090"), "no row of the tables is a kernel of rtx4090; at least 6 are needed"),
        (("--gpu-name", "a100-sxm-80gb", "--software", "mlc"), "there are "),
        (("nowhere.csv", "--gpu-name", "a40"), "nowhere.csv: cannot be read"),
    ],
)
def test_what_cannot_be_calibrated_is_one_line_and_exit_2(sim, args, complaint):
    answer = sim("calibrate", *args)
    assert answer.code == 2
    assert complaint in answer.complaints[-1]
    assert answer.out == ""


# -- the card at hand ---------------------------------------------------------------------------------------


class Card:
    """Four H100 whose kernels reach what ``kernels`` says, by the laws themselves."""

    name, gpus = "NVIDIA H100 80GB HBM3", 4
    own = Library().gpu("h100-sxm").kernels
    kernels = own.model_copy(update={
        "gemm_compute_16": 0.66, "gemm_memory": 0.7, "gemm_launch": 7e-6, "gemm_compute_8": 0.5,
        "elementwise_memory": 0.88, "elementwise_launch": 3e-6, "decode_memory": 0.6, "decode_launch": 20e-6,
        "prefill_compute": 0.4, "prefill_launch": 9e-6, "prefill_memory": 0.5,
    })  # fmt: skip

    def product(self, m, n, k, *, narrow):
        return Product("h100-sxm", "fp8" if narrow else "bf16", m, n, k, quantised=False).seconds(self.kernels)

    def attention(self, batch, tokens, heads, *, prefill):
        return Attention("h100-sxm", prefill, heads, heads, batch, tokens).seconds(self.kernels)

    def copy(self, size):
        return Copy("h100-sxm", size).seconds(self.kernels)

    def all_reduce(self, members, size):
        base = Exchange("h100-sxm", members, size).fabric()
        return Exchange("h100-sxm", members, size).seconds(base.model_copy(update={"alpha": 15e-6}))


@pytest.fixture(scope="module")
def measured(sim, tmp_path_factory):
    """The document of the card, and the folder of its tables."""
    out = tmp_path_factory.mktemp("card")
    short = {"WEIGHTS": card.WEIGHTS[:4], "TOKENS": card.TOKENS[::3]}
    with (
        mock.patch("sim.adapters.gpu_meter.open_meter", return_value=Card()), mock.patch.multiple(card, **short),
    ):  # fmt: skip
        answer = sim("calibrate", "--gpu", "--json", "--out", out, "--folds", "3")
    assert answer.code == 0, answer.err
    return answer.json, out / "calibrate" / "h100-sxm_measured"


def test_a_card_gives_back_its_constants(measured):
    found = {c["name"]: c["value"] for part in measured[0]["parts"] for c in part["constants"]}
    for name in Card.kernels.model_fields_set - {"origin", "source", "fitted_error", "gemm_compute_4"}:
        assert found.get(name, getattr(Card.own, name)) == pytest.approx(getattr(Card.kernels, name), rel=0.02), name
    assert found["alpha"] == pytest.approx(15e-6, rel=0.02)


def test_what_was_measured_is_kept_as_tables_that_give_the_same(sim, measured):
    document, kept = measured
    assert sorted(path.name for path in kept.iterdir()) == ["all_reduce.csv", "attention.csv", "copies.csv", "gemm.csv"]
    again = sim("calibrate", kept / "copies.csv", "--gpu-name", "h100-sxm", "--folds", "3", "--json", "--no-report")
    assert again.json["parts"] == document["parts"][:1]


def test_the_entry_of_a_card_is_what_a_scenario_computes_with(measured, shipped):
    entry = measured[0]["entry"]
    scenario = yaml.safe_load((shipped / "4090_pp_home.yaml").read_text()) | entry
    scenario["cluster"] = {"topology": "../topologies/dgx_h100_8.yaml"}
    found = resolve(Source(scenario, {}, "own.yaml"), shipped)
    assert found.gpus["h100-sxm"].kernels.gemm_memory == pytest.approx(0.7, rel=0.02)
    fabric = next(fabric for fabric in found.fabrics if fabric.id in entry["define"]["fabrics"])
    assert fabric.alpha == pytest.approx(15e-6, rel=0.02)


def test_an_unknown_card_asks_for_its_entry(sim):
    class Unknown(Card):
        name = "Voodoo 9"

    with mock.patch("sim.adapters.gpu_meter.open_meter", return_value=Unknown()):
        answer = sim("calibrate", "--gpu", "--no-report")
    assert answer.code == 2
    assert answer.complaints == [
        "--gpu: the catalogue has no card 'Voodoo 9': name the entry to start from with --gpu-name"
    ]


def test_a_machine_without_pytorch_says_so(sim):
    with mock.patch.dict("sys.modules", {"torch": None}):
        answer = sim("calibrate", "--gpu")
    assert answer.code == 2
    assert len(answer.complaints) == 1
    assert "needs PyTorch, which is not installed" in answer.complaints[0]


# -- the link at hand ---------------------------------------------------------------------------------------


def test_a_link_is_measured_into_an_entry(sim, tmp_path):
    bound = Queue()
    threading.Thread(target=listen, args=(0, "127.0.0.1", bound.put), daemon=True).start()
    with mock.patch("sim.adapters.link_meter.SECONDS", 0.02):
        answer = sim("calibrate", "--peer", f"127.0.0.1:{bound.get(timeout=10)}", "--name", "home", "--out", tmp_path)
    assert answer.code == 0, answer.err
    assert answer.out.startswith("latency ")
    define = Define.model_validate(yaml.safe_load((tmp_path / "calibrate" / "home.yaml").read_text())["define"])
    link = Library(define).link("home")
    assert link.kind == "ethernet"
    assert link.bandwidth > 1e6
    assert 0 < link.latency < 0.1
