"""From a scenario file to values: whose word counts, where paths count from, and where a problem is told."""

import json
import pickle
from pathlib import Path

import pytest

from sim.adapters.resolve import resolve_file
from sim.errors import InputError

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "scenarios"

SCENARIO = """\
name: two
cluster: {topology: hardware/desk.yaml}
model: llama-2-7b
jobs:
  - name: first
    kind: serving
    load: {all_at_once: true, prompt_tokens: 8, output_tokens: 4, requests: 5}
  - name: second
    kind: serving
    model: mistral-7b
    stack: ideal
    load: {closed_loop: {clients: 2}, lengths: azure-2023-code, requests: 5}
"""
TOPOLOGY = """\
name: desk
nodes:
  - name: desk
    gpus: [{type: rtx4090}, {type: rtx3090}]
    nics: [{link: ethernet-10g}]
"""


@pytest.fixture
def write(tmp_path):
    """Writes the scenario and its topology, with texts replaced; gives the scenario's path."""

    def put(*changes):
        (tmp_path / "hardware").mkdir(exist_ok=True)
        for name, text in (("two.yaml", SCENARIO), ("hardware/desk.yaml", TOPOLOGY)):
            for old, new in changes:
                text = text.replace(old, new)
            (tmp_path / name).write_text(text)
        return tmp_path / "two.yaml"

    return put


def lines(path, *overrides):
    with pytest.raises(InputError) as caught:
        resolve_file(path, overrides)
    return [line.replace(f"{path.parent}/", "") for line in str(caught.value).splitlines()]


# ---- Whose word counts


def test_a_jobs_own_model_and_stack_win_over_the_scenarios(write):
    first, second = resolve_file(write()).jobs
    assert (first.model.id, first.stack.id) == ("llama-2-7b", "generic")
    assert (second.model.id, second.stack.id) == ("mistral-7b", "ideal")
    assert first.lengths is None
    assert second.lengths.id == "azure-2023-code"


def test_hardware_is_looked_up_once_a_type(write):
    found = resolve_file(write())
    assert list(found.gpus) == ["rtx4090", "rtx3090"]
    assert list(found.links) == ["ethernet-10g", "pcie4-x16"]  # the second is the cards' own
    assert found.prices == {}


def test_overrides_win_over_the_file_and_the_seed_over_both(write):
    path = write()
    assert resolve_file(path).scenario.seed == 0
    found = resolve_file(path, ["seed=3", "jobs.0.model=mistral-7b", "jobs.1.load.requests=9"], seed=4)
    assert found.scenario.seed == 4
    assert found.jobs[0].model.id == "mistral-7b"
    assert found.jobs[1].spec.load.requests == 9


def test_arrivals_from_the_command_line_replace_the_files(write):
    load = resolve_file(write(), ["jobs.1.load.poisson={rate: 2 req/s}"]).jobs[1].spec.load
    assert load.closed_loop is None
    assert load.poisson.rate == 2
    assert load.lengths == "azure-2023-code"


def test_two_kinds_in_the_file_are_a_mistake_all_the_same(write):
    path = write(("{closed_loop: {clients: 2}", "{closed_loop: {clients: 2}, all_at_once: true"))
    assert lines(path)[0].startswith("two.yaml:12:11: jobs.1.load: give exactly one kind of arrivals")


def test_overrides_leave_the_file_alone(write):
    path = write()
    before = path.read_bytes()
    resolve_file(path, ["jobs.1.load.poisson={rate: 2 req/s}", "seed=3"])
    assert path.read_bytes() == before


# ---- Paths


def test_paths_count_from_the_file_that_names_them(write, tmp_path, monkeypatch):
    path = write()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert resolve_file(path).topology.name == "desk"
    assert resolve_file(Path("../two.yaml")).topology.name == "desk"


SHAPE = {
    "model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 3, "intermediate_size": 128, "vocab_size": 1000, "max_position_embeddings": 512,
}  # fmt: skip


def test_a_model_may_be_a_file(write, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(json.dumps(SHAPE))
    found = resolve_file(write(("model: llama-2-7b", "model: mine/config.json")))
    assert (found.jobs[0].model.id, found.jobs[0].model.layers) == ("mine", 3)


def test_a_broken_model_file_is_told_at_its_own_place(write, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**SHAPE, "hidden_size": "wide"}, indent=1))
    path = write(("model: llama-2-7b", "model: ./config.json"))
    assert lines(path) == ["config.json:3:2: hidden_size: must be a whole number, not 'wide'"]


TRACE = "arrived_at,num_prefill_tokens,num_decode_tokens\n" + "".join(f"{i},{10 * i + 10},5\n" for i in range(6))


def test_a_trace_is_read_with_its_options(write, tmp_path):
    (tmp_path / "trace.csv").write_text(TRACE)
    load = "{all_at_once: true, prompt_tokens: 8, output_tokens: 4, requests: 5}"
    plain = resolve_file(write((load, "{trace: trace.csv}"))).jobs[0].trace
    assert plain.arrival.tolist() == [0, 1, 2, 3, 4, 5]
    assert plain.prompt.tolist() == [10, 20, 30, 40, 50, 60]
    path = write((load, "{trace: {file: trace.csv, time_scale: 10, limit: 3}}"))
    assert resolve_file(path).jobs[0].trace.arrival.tolist() == [0, 10, 20]
    assert len(resolve_file(path, ["jobs.0.load.requests=2"]).jobs[0].trace.prompt) == 2


def test_a_broken_trace_is_told_at_its_own_line(write, tmp_path):
    (tmp_path / "trace.csv").write_text(TRACE.replace("20,5", "-20,5"))
    load = "{all_at_once: true, prompt_tokens: 8, output_tokens: 4, requests: 5}"
    assert lines(write((load, "{trace: trace.csv}"))) == ["trace.csv:3: num_prefill_tokens: must not be negative: -20"]


# ---- Where a problem is told


def test_a_name_in_the_topology_is_told_in_the_topology(write):
    assert lines(write(("rtx3090", "rtx309"))) == [
        "hardware/desk.yaml:4:36: nodes.0.gpus.1.type: unknown gpu 'rtx309', did you mean 'rtx3090'?"
    ]


@pytest.mark.parametrize(
    ("addition", "place"),
    [
        ("    pcie: {link: LINK}", "nodes.0.pcie.link"),
        ("    pcie: {gpus_per_switch: 2, uplink: LINK}", "nodes.0.pcie.uplink"),
        ("    sockets: 2\n    socket_link: LINK", "nodes.0.socket_link"),
        ("    nvlink: {link: LINK}", "nodes.0.nvlink.link"),
        ("network: {link: LINK}", "network.link"),
    ],
)
def test_a_link_is_told_where_the_topology_names_it(write, tmp_path, addition, place):
    path = write(("[{link: ethernet-10g}]", f"[{{link: ethernet-10g}}]\n{addition}"), ("LINK", "nvlnk4"))
    (text,) = lines(path)
    assert f": {place}: unknown link 'nvlnk4'" in text
    line = int(text.split(":")[1])
    assert "nvlnk4" in (tmp_path / "hardware" / "desk.yaml").read_text().splitlines()[line - 1]


def test_names_in_cables_and_uplinks(write):
    network = """
network:
  switches: [{name: a, nodes: [desk.0]}, {name: b, nodes: [desk.1-3]}]
  uplinks: [{between: [a, b], link: fibr}]
  cables: [[desk.0, desk.1, coper]]
"""
    more = ("  - name: desk\n", "  - name: desk\n    count: 4\n")
    found = lines(write(more, ("ethernet-10g}]", f"ethernet-10g}}]\n{network}")))
    assert [line.split(": ")[1] for line in found] == ["network.uplinks.0.link", "network.cables.0.2"]


def test_a_link_that_only_a_gpu_names_is_told_at_the_topology(write):
    define = "define: {gpus: {rtx3090: {like: rtx3090, pcie: pcie9-x16}}}\nmodel:"
    (text,) = lines(write(("model: llama-2-7b", f"{define} llama-2-7b")))
    assert text.startswith("hardware/desk.yaml:1:1: unknown link 'pcie9-x16'")


def test_an_explicit_graph_is_searched_too(write, tmp_path):
    path = write()
    (tmp_path / "hardware" / "desk.yaml").write_text(
        "name: x\nvertices:\n"
        "- {name: g, kind: gpu, gpu: rtx409, node: n}\n- {name: h, kind: gpu, gpu: rtx4090, node: n}\n"
        "edges:\n- {from: g, to: h, link: pcie4-x15}\n"
    )
    found = lines(path)
    assert found[0].startswith("hardware/desk.yaml:3:29: vertices.0.gpu: unknown gpu 'rtx409'")
    assert found[1].startswith("hardware/desk.yaml:6:26: edges.0.link: unknown link 'pcie4-x15'")


def test_problems_come_sorted_and_once(write):
    path = write(
        ("model: llama-2-7b", "model: lama"), ("stack: ideal", "stack: idel"), ("azure-2023-code", "azure"),
        ("rtx3090", "rtx309"), ("rtx4090", "rtx309"),
    )  # fmt: skip
    found = [line.split(": ")[0] for line in lines(path)]
    assert found == ["hardware/desk.yaml:4:19", "two.yaml:3:8", "two.yaml:11:12", "two.yaml:12:48"]


def test_a_mistake_in_a_definition_from_the_command_line_names_the_option(write):
    option = "define.gpus.rtx4090={like: rtx4090, memroy: 1 GB}"
    assert lines(write(), option) == [
        f"--set {option}: define.gpus.rtx4090.memroy: unknown key, did you mean 'memory'?"
    ]


def test_text_with_line_breaks_and_terminal_codes_stays_on_one_line(write):
    (text,) = lines(write(("stack: ideal", r'stack: "a\nb\e[31mc\u202ed"')))
    assert text.isprintable()
    (text,) = lines(write(("topology: hardware/desk.yaml", r'topology: "no\nsuch\0file"')))
    assert text.isprintable()
    assert r"no such file: no\nsuch\x00file" in text


# ---- What comes out


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_resolved_scenario_can_be_sent_to_another_process(path):
    found = resolve_file(path)
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_price_by_the_gpu_hour(write):
    rent = "seed: 1\ncost: {rental: {price: runpod-community-rtx4090-on-demand}}\njobs:"
    found = resolve_file(write(("jobs:", rent)))
    assert found.prices["runpod-community-rtx4090-on-demand"].usd == 0.64
    (text,) = lines(write(("jobs:", rent.replace("runpod-community-rtx4090-on-demand", "reference-elec"))))
    assert text == "two.yaml:5:24: cost.rental.price: reference-elec is priced in USD/kWh, not by the GPU-hour"


def test_a_topology_inline(write):
    inline = "{name: x, nodes: [{name: a, gpus: [{type: a10}]}]}"
    assert list(resolve_file(write(("hardware/desk.yaml", inline))).gpus) == ["a10"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("jobs.0.plan={tp: 2, ep: 2}",), "jobs.0.plan.ep: llama-2-7b has no experts to spread"),
        (("jobs.0.model=mixtral-8x7b", "jobs.0.plan={tp: 2, ep: 2, attention: data}",
          "assume.tp_overlap=double_buffer"), "jobs.0.plan.attention: ranks with sequences of their own"),
        (("define.models.small={like: deepseek-v3, qk_rope_head_dim: null}", "jobs.0.model=small"),
         "latent attention (MLA) needs qk_rope_head_dim too"),
        (("define.models.small={like: deepseek-v3, kv_heads: 8}", "jobs.0.model=small"),
         "with latent attention (MLA) kv_heads is heads"),
    ],
)  # fmt: skip
def test_what_experts_and_latents_need(write, overrides, message):
    with pytest.raises(InputError) as caught:
        resolve_file(write(), overrides=overrides)
    assert message in str(caught.value)


def test_latents_are_served_and_not_trained(write):
    training = (
        "jobs.0={name: t, kind: training, model: deepseek-v3, stack: generic, batch: {global: 1, micro: 1, "
        "sequence: 8}, run: {steps: 1}}"
    )
    with pytest.raises(InputError) as caught:
        resolve_file(write(), overrides=(training,))
    assert "deepseek-v3 has latent attention (MLA), which training jobs do not model" in str(caught.value)
    assert resolve_file(write(), overrides=("jobs.0.model=deepseek-v3",)).jobs[0].model.latent
