"""Mistakes in the input as people see them: exit code 2, one line each, at its place, with what was meant."""

import re

import pytest

LOAD = "{closed_loop: {clients: 4}, prompt_tokens: 64, output_tokens: 8, requests: 12}"
#: What to replace, by what, the text that the complaint must point at, and the complaint.
MISTAKES = {
    "unit": (
        "capital: 20000 USD", "capital: 20000 UDS", "20000 UDS", "cost.capital: '20000 UDS': unknown unit 'UDS', "
    ),
    "bare number": (
        "capital: 20000 USD", "capital: 20000", "20000", "cost.capital: a bare 20000 is ambiguous: write a unit, e.g. "
    ),
    "another dimension": (
        "ttft_p99: 60 s", "ttft_p99: 60 GB", "60 GB",
        "jobs.0.objectives.ttft_p99: '60 GB' is an amount of bytes, not a length of time: write it like 250 ms",
    ),
    "negative": (
        "electricity: 0.10 USD/kWh", "electricity: -0.10 USD/kWh", "-0.10 USD/kWh",
        "cost.electricity: '-0.10 USD/kWh' is negative: a price of energy cannot be below zero",
    ),
    "key": ("batching:", "batchin:", "batchin", "jobs.0.batchin: unknown key, did you mean 'batching'?"),
    "key at the top": ("stack: vllm", "stak: vllm", "stak", "stak: unknown key, did you mean 'stack'?"),
    "key of a load": (
        "clients: 4", "client: 4", "client:",
        "jobs.0.load.closed_loop.client: unknown key, did you mean 'clients'?",
    ),
    "kind of load": (
        "{closed_loop: {clients: 4}", "{closedloop: {clients: 4}", "closedloop",
        "jobs.0.load.closedloop: unknown key, did you mean 'closed_loop'?",
    ),
    "enumeration": (
        "weights: fp16", "weights: fp61", "fp61",
        "jobs.0.precision.weights: must be 'fp16', 'bf16', 'fp8', 'int8', 'int4', 'int3', 'int2', 'fp4' or 'q4_k_m', "
        "not 'fp61', "
        "did you mean",
    ),
    "kind of job": (
        "kind: serving", "kind: servin", "servin",
        "jobs.0.kind: must be 'serving' or 'training', not 'servin', did you mean 'serving'?",
    ),
    "policy": (
        "policy: continuous", "policy: continous", "continous",
        "jobs.0.batching.policy: must be 'continuous', 'prefill_first', 'decode_first' or 'static', not 'continous', "
        "did you mean 'continuous'?",
    ),
    "model": (
        "model: llama-2-70b", "model: llama-2-70", "llama-2-70",
        "model: unknown model 'llama-2-70', did you mean 'llama-2-70b'?",
    ),
    "stack": ("stack: vllm", "stack: vlm", "vlm", "stack: unknown stack 'vlm', did you mean 'vllm'?"),
    "lengths": (
        LOAD, "{all_at_once: true, lengths: azure-2023-conversatio, requests: 12}", "azure-2023-conversatio",
        "jobs.0.load.lengths: unknown length distribution 'azure-2023-conversatio', did you mean "
        "'azure-2023-conversation'?",
    ),
    "topology file": (
        "topology: desktops.yaml", "topology: desktop.yaml", "desktop.yaml",
        "cluster.topology: no such file: desktop.yaml, did you mean 'desktops.yaml'?",
    ),
    "model file": (
        "model: llama-2-70b", "model: ./nope/config.json", "./nope", "model: no such model configuration"
    ),
    "trace file": (LOAD, "{trace: requests.csv}", "requests.csv", "jobs.0.load.trace: no such trace file"),
    "price": (
        "capital: 20000 USD\n  electricity: 0.10 USD/kWh", "rental: {price: runpod-community-rtx4090-on-demnd}",
        "runpod-community-rtx4090-on-demnd",
        "cost.rental.price: unknown price 'runpod-community-rtx4090-on-demnd', did you mean "
        "'runpod-community-rtx4090-on-demand'?",
    ),
    "a price of another kind": (
        "capital: 20000 USD\n  electricity: 0.10 USD/kWh", "rental: {price: reference-rack}", "reference-rack",
        "cost.rental.price: reference-rack is priced in USD/month, not by the GPU-hour",
    ),
    "text for a number": ("{pp: 8}", "{pp: all}", "all}", "jobs.0.plan.pp: must be a whole number, not 'all'"),
    "no stages": ("{pp: 8}", "{pp: 0}", "0}", "jobs.0.plan.pp: must be greater than or equal to 1, not 0"),
    "a GPU twice": (
        "{pp: 8}", "{pp: 8, placement: [0, 1, 2, 3, 4, 5, 6, 6]}", "{pp: 8, placement",
        "jobs.0.plan: placement names a GPU twice",
    ),
    "too few GPUs named": (
        "{pp: 8}", "{pp: 8, placement: [0, 1]}", "{pp: 8, placement",
        "jobs.0.plan: placement lists 2 GPUs, the plan takes 8",
    ),
    "layers of too few stages": (
        "{pp: 8}", "{pp: 8, layers: [40, 40]}", "{pp: 8, layers", "jobs.0.plan: layers lists 2 stages, pp is 8"
    ),
    "no kind of load": (
        LOAD, "{prompt_tokens: 64, output_tokens: 8, requests: 12}", "{prompt_tokens",
        "jobs.0.load: give exactly one kind of arrivals (closed_loop, poisson, gamma, deterministic, diurnal, "
        "all_at_once, trace), not none",
    ),
    "two kinds of load": (
        "{closed_loop: {clients: 4}", "{closed_loop: {clients: 4}, poisson: {rate: 1 req/s}", "{closed_loop",
        "jobs.0.load: give exactly one kind of arrivals (closed_loop, poisson, gamma, deterministic, diurnal, "
        "all_at_once, trace), not closed_loop and poisson",
    ),
    "no lengths": (
        "prompt_tokens: 64, ", "", "{closed_loop",
        "jobs.0.load: give prompt_tokens and output_tokens, or lengths: a catalogue distribution",
    ),
    "no end": (", requests: 12", "", "{closed_loop", "jobs.0.load: requests is missing: how many requests to simulate"),
    "static without a size": (
        "{policy: continuous}", "{policy: static}", "{policy", "jobs.0.batching: batch_size belongs to policy static"
    ),
    "bought and rented": (
        "capital: 20000 USD", "capital: 20000 USD\n  rental: {per_gpu: 1 USD/h}", "capital:",
        "cost: give either capital (bought) or rental",
    ),
    "no electricity": ("\n  electricity: 0.10 USD/kWh", "", "capital:", "cost: electricity is missing: "),
    "a key twice": ("stack: vllm", "stack: vllm\nstack: vllm", None, ":6:1: the key 'stack' is given twice, first at"),
    "a name that is a path": ("name: small", "name: ../small", "../small", "name: must match pattern"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_at_its_place(desk, mistake):
    old, new, at, complaint = MISTAKES[mistake]
    desk.edit(old, new)
    answer = desk.check()
    assert (answer.code, answer.out, len(answer.complaints)) == (2, "", 1), answer.err
    if at is None:
        assert complaint in answer.err
    else:
        assert answer.err.startswith(f"{desk.place(at)}: {complaint}")


def test_run_says_the_same_as_check(desk):
    desk.edit("stack: vllm", "stack: vlm")
    assert desk.run() == desk.check()


#: The same for the topology, which is a file of its own.
TOPOLOGY_MISTAKES = {
    "gpu": ("rtx4090", "rtx409", "rtx409", "nodes.0.gpus.0.type: unknown gpu 'rtx409', did you mean 'rtx4090'?"),
    "link": (
        "ethernet-10g", "ethernet-10", "ethernet-10", "nodes.0.nics.0.link: unknown link 'ethernet-10', did you mean"
    ),
    "unit": (
        "80 Gbps", "80 GBs", "80 GBs",
        "network.switches.0.backplane: '80 GBs': unknown unit 'GBs', did you mean 'GBps'?",
    ),
    "bare number": ("80 Gbps", "80", "80}", "network.switches.0.backplane: a bare 80 is ambiguous: write a unit"),
    "bits for bytes": (
        "gpus: [{type: rtx4090}]", "gpus: [{type: rtx4090}]\n    host_memory: {capacity: 512 Gb}", "512 Gb",
        "nodes.0.host_memory.capacity: '512 Gb' is an amount of bits, not an amount of bytes: write 512 GB",
    ),
    "bits a second for bytes a second": (
        "gpus: [{type: rtx4090}]", "gpus: [{type: rtx4090}]\n    host_memory: {bandwidth: 480 Gbit/s}", "480 Gbit/s",
        "nodes.0.host_memory.bandwidth: '480 Gbit/s' is a rate in bits per second, not a rate in bytes per second: "
        "write 60 GB/s",
    ),
    "key": ("nics:", "nic:", "nic:", "nodes.0.nic: unknown key, did you mean 'nics'?"),
    "number of nodes": ("count: 8", "count: many", "many", "nodes.0.count: must be a whole number, not 'many'"),
    "a node on no switch": (
        "{name: switch,", "{name: switch, nodes: [desktop.0-6],", "name: desktops",
        "network: desktop.7 hangs on no switch and on no cable",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", TOPOLOGY_MISTAKES)
def test_a_mistake_in_the_topology_is_told_in_its_file(desk, mistake):
    old, new, at, complaint = TOPOLOGY_MISTAKES[mistake]
    desk.edit(old, new, desk.topology)
    answer = desk.check()
    assert (answer.code, answer.out, len(answer.complaints)) == (2, "", 1), answer.err
    assert answer.err.startswith(f"{desk.place(at, desk.topology)}: {complaint}")


def test_a_mistake_in_a_topology_inline_is_told_in_the_scenario(desk):
    desk.edit("topology: desktops.yaml", "topology: {name: x, nodes: [{name: a, gpus: [{type: rtx409, count: 8}]}]}")
    answer = desk.check()
    assert answer.complaints == [
        f"{desk.place('rtx409')}: cluster.topology.nodes.0.gpus.0.type: unknown gpu 'rtx409', did you mean 'rtx4090'?"
    ]


def test_all_mistakes_are_told_at_once_from_top_to_bottom(desk):
    desk.edit("kind: serving", "kind: servin")
    desk.edit("batching:", "batchin:")
    desk.edit("clients: 4", "clients: none")
    desk.edit("capital: 20000 USD", "capital: 20000")
    answer = desk.check()
    lines = [int(re.match(rf"{desk.scenario}:(\d+):\d+: ", line)[1]) for line in answer.complaints]
    assert answer.code == 2
    assert lines == [8, 11, 12, 15]


def test_all_unknown_names_are_told_at_once_from_top_to_bottom(desk):
    desk.edit("model: llama-2-70b", "model: lama-2-70b")
    desk.edit("stack: vllm", "stack: vlm")
    desk.edit(LOAD, "{trace: nope.csv}")
    desk.edit("rtx4090", "rtx409", desk.topology)
    answer = desk.check()
    starts = [": ".join(line.split(": ")[:2]) for line in answer.complaints]
    assert starts == [
        f"{desk.place('rtx409', desk.topology)}: nodes.0.gpus.0.type",
        f"{desk.place('lama-2-70b')}: model",
        f"{desk.place('vlm')}: stack",
        f"{desk.place('nope.csv')}: jobs.0.load.trace",
    ]


def test_two_jobs_of_one_name(sim, shipped):
    answer = sim("check", shipped / "two_jobs_one_switch.yaml", "--set", "jobs.1.name=left")
    assert (answer.code, len(answer.complaints)) == (2, 1)
    assert answer.err.endswith("two jobs have the same name\n")


def test_a_job_without_a_model(desk):
    desk.edit("model: llama-2-70b\n", "")
    answer = desk.check()
    assert answer.complaints == [f"{desk.place('name: chat')}: jobs.0: model is missing: give it here or at the top"]


# ---- Values set on the command line


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("seed=-1", "seed: must be greater than or equal to 0, not -1"),
        ("sede=1", "sede: unknown key, did you mean 'seed'?"),
        ("jobs.0.plan.pp=x", "jobs.0.plan.pp: must be a whole number, not 'x'"),
        ("jobs.1.plan.pp=4", "'1' is not an item of the list jobs (items: 0 to 0)"),
        ("jobs.chat.plan.pp=4", "'chat' is not an item of the list jobs (items: 0 to 0)"),
        ("name.first=x", "name is 'small', which has no 'first' to set"),
        ("stack=vlm", "stack: unknown stack 'vlm', did you mean 'vllm'?"),
        ("cost.capital=10 GBs", "cost.capital: '10 GBs': unknown unit 'GBs'"),
        ("seed", "must be written path=value, for example plan.pp=4"),
        ("=1", "must be written path=value, for example plan.pp=4"),
        ("a..b=1", "must be written path=value, for example plan.pp=4"),
        ("jobs.0.plan.pp=[", "not valid YAML: "),
        ("seed=!!python/none x", "YAML tags such as !!python/none are not accepted"),
        ("define.gpus.mine={like: a10, memroy: 1 GB}", "define.gpus.mine.memroy: unknown key, did you mean 'memory'?"),
        ("jobs.0.load.clients=3", "jobs.0.load.clients: unknown key, did you mean 'closed_loop.clients'?"),
        ("clients=3", "clients: unknown key, did you mean 'jobs.0.load.closed_loop.clients'?"),
        ("objectives={ttft_p99: 1 s}", "objectives: unknown key, did you mean 'jobs.0.objectives'?"),
        ("jobs.0.tp=2", "jobs.0.tp: unknown key here: it belongs in plan.tp or speculative.tp"),
        ("jobs.0.objectives.ttft_p95=1 s", "jobs.0.objectives.ttft_p95: unknown key: there are ttft_p50, ttft_p90 "),
        ("jobs.0.objectives.ttft_p99=30", "jobs.0.objectives.ttft_p99: a bare 30 is ambiguous: write a unit, e.g. "
         "30 ms, 30 s or 30 min"),
        ("model=meta-llama/Llama-3.1-70B", "model: no such model configuration: neither a folder, nor a model of the "
         "catalogue (sim catalog model), did you mean 'llama-3.1-70b'?"),
        ("cost={electricity: 0.1 USD/kWh}", "cost: say what the cluster costs beside electricity: capital (bought) or "
         "rental"),
        ("size={machines: [rtx4090]}", "size.machines.0: unknown machine 'rtx4090', which is a GPU; machines with it: "
         "desktop-1xrtx4090, "),
        ("size={networks: [ethernet-10]}", "size.networks.0: unknown network 'ethernet-10', did you mean "
         "'ethernet-10g'?"),
    ],
)  # fmt: skip
def test_a_bad_option_is_named(desk, option, complaint):
    answer = desk.check("--set", option)
    assert (answer.code, answer.out, len(answer.complaints)) == (2, "", 1)
    assert answer.err.startswith(f"--set {option}: {complaint}")


def test_all_bad_options_are_told_at_once(desk):
    answer = desk.check("--set", "seed", "--set", "jobs.7.x=1")
    assert [line.split(": ")[0] for line in answer.complaints] == ["--set seed", "--set jobs.7.x=1"]


# ---- Files


def test_a_scenario_that_is_not_there_names_the_nearest(desk, sim):
    answer = sim("run", desk.folder / "smal.yaml")
    expected = f"{desk.folder / 'smal.yaml'}: no such file, did you mean '{desk.scenario}'?"
    assert (answer.code, answer.out, answer.complaints) == (2, "", [expected])


def test_the_name_of_a_shipped_scenario_is_not_a_file_of_it(sim, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = sim("run", "4090_pp_home")
    said = "4090_pp_home: no such file: sim init 4090_pp_home writes the shipped scenario of that name"
    assert (answer.code, answer.complaints) == (2, [said])
    assert sim("init", "4090_pp_home").code == 0
    answer = sim("run", "4090_pp_home")
    assert answer.complaints == ["4090_pp_home: no such file, did you mean 'scenarios/4090_pp_home.yaml'?"]


def test_a_folder_is_not_a_scenario(desk, sim):
    answer = sim("check", desk.folder)
    assert (answer.code, answer.out, answer.complaints) == (2, "", [f"{desk.folder}: is a folder, not a file"])


# ---- Mistakes in what the user defines


@pytest.mark.parametrize(
    ("define", "at", "complaint"),
    [
        ("{gpus: {mine: {like: rtx409}}}", "rtx409", "define.gpus.mine.like: there is no gpu 'rtx409', did you mean"),
        ("{gpus: {mine: {like: a10, memroy: 1 GB}}}", "memroy", "define.gpus.mine.memroy: unknown key, did you mean"),
        ("{links: {mine: {like: ethernet-10g, bandwidth: 1 GBs}}}", "1 GBs", "define.links.mine.bandwidth: '1 GBs'"),
        ("{stacks: {mine: {like: vllm, kernels: mesurd}}}", "mesurd", "define.stacks.mine.kernels: must be 'measured'"),
        ("{models: {mine: {like: llama-2-7b, layers: x}}}", "x}", "define.models.mine.layers: must be a whole number"),
        ("{lengths: {mine: {like: azure-2023-code, spearman: 7}}}", "7}", "define.lengths.mine.spearman: must be less"),
        ("{prices: {mine: {like: reference-rack, as_of: 2024}}}", "2024", "define.prices.mine.as_of: must be text"),
        ("{fabrics: {mine: {like: nccl-pci}}}", "nccl-pci", "define.fabrics.mine.like: there is no fabric 'nccl-pci'"),
        ("{models: {mine: {like: mine2}}}", "mine2", "define.models.mine.like: there is no model 'mine2'"),
        ("{gpu: {mine: {like: rtx4090}}}", "gpu:", "define.gpu: unknown key, did you mean 'gpus'?"),
    ],
)
def test_a_definition_is_checked_even_if_nothing_uses_it(desk, define, at, complaint):
    desk.edit("stack: vllm", f"stack: vllm\ndefine: {define}")
    answer = desk.check()
    assert (answer.code, answer.out, len(answer.complaints)) == (2, "", 1), answer.err
    assert answer.err.startswith(f"{desk.place(at)}: {complaint}")


def test_a_definition_in_use_is_complained_of_once(desk):
    desk.edit("stack: vllm", "stack: mine\ndefine: {stacks: {mine: {like: vllm, kernels: measurd}}}")
    assert len(desk.check().complaints) == 1


def test_definitions_in_a_circle(desk):
    desk.edit("stack: vllm", "stack: a\ndefine: {stacks: {a: {like: b}, b: {like: c}, c: {like: a}}}")
    answer = desk.check()
    assert answer.code == 2
    assert any("define.stacks.a.like: goes round in circles: a -> b -> c -> a" in line for line in answer.complaints)
