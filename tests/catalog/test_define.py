"""The user's own entries at work: each kind, defined like another, changes the answer of a run as it should."""

import pytest

from sim.adapters.resolve import resolve
from sim.adapters.yaml_source import parse_yaml
from sim.errors import InputError
from sim.run import run

BASE = """\
name: test
cluster:
  topology:
    name: desks
    nodes:
    - {name: desk, count: 2, gpus: [{type: GPU}], nics: [{link: LINK}]}
model: MODEL
stack: STACK
jobs:
- name: chat
  kind: serving
  plan: {pp: 2}
  load: LOAD
cost: COST
define: DEFINE
"""
NAMES = {
    "GPU": "rtx4090", "LINK": "ethernet-10g", "MODEL": "llama-2-13b", "STACK": "vllm",
    "LOAD": "{closed_loop: {clients: 4}, prompt_tokens: 256, output_tokens: 32, requests: 16}",
    "COST": "{rental: {per_gpu: 1 USD/h}}", "DEFINE": "{}",
}  # fmt: skip


def resolved(tmp_path, **names):
    text = BASE
    for name, value in {**NAMES, **names}.items():
        text = text.replace(name, value)
    return resolve(parse_yaml(text), tmp_path)


@pytest.fixture
def result(tmp_path):
    def answer(**names):
        return run(resolved(tmp_path, **names), effects=False)

    return answer


def test_a_gpu_of_ones_own(result):
    """Twice the bandwidth, and decoding reads memory most of the time."""
    define = "{gpus: {mine: {like: rtx4090, memory_bandwidth: 2016 GB/s}}}"
    base, mine = result(), result(GPU="mine", DEFINE=define)
    assert {device.gpu for device in mine.devices} == {"mine"}
    assert 1.5 < mine.metrics.output_tokens_per_s / base.metrics.output_tokens_per_s < 2


@pytest.mark.parametrize("key", ["fp16", "fp8"])
@pytest.mark.parametrize("name", ["mine", "h100-sxm"])
def test_a_rate_with_structured_sparsity_is_refused(result, name, key):
    """The H100's datasheet prints 1,979 TFLOPS in 16 bits and 3,958 in 8, for weights of which half are zero."""
    advertised = {"fp16": 1979, "fp8": 3958}[key]
    define = f"{{gpus: {{{name}: {{like: h100-sxm, flops: {{{key}: {advertised} TFLOPS}}}}}}}}"
    with pytest.raises(InputError, match=f"flops.{key}: {advertised} TFLOPS is twice the dense rate"):
        result(GPU=name, DEFINE=define)


@pytest.mark.parametrize("rate", [330, 1979])
def test_other_rates_are_taken_as_they_are(result, rate):
    """Twice a GeForce's rate is that of summing in 16 bits; what is not twice the dense rate is no sparse one."""
    define = f"{{gpus: {{mine: {{like: rtx4090, flops: {{fp16: {rate} TFLOPS}}}}}}}}"
    assert result(GPU="mine", DEFINE=define).metrics.output_tokens_per_s > 0


def test_a_link_of_ones_own(result):
    define = "{links: {mine: {like: ethernet-10g, bandwidth: 100 Mbps}}}"
    base, mine = result(), result(LINK="mine", DEFINE=define)
    assert mine.metrics.ttft_s.p50 > 1.5 * base.metrics.ttft_s.p50
    assert mine.ledger["communication: ethernet"] > 10 * base.ledger["communication: ethernet"]


def test_a_model_of_ones_own(result):
    """Half the layers: half the weights to read."""
    base, mine = result(), result(MODEL="mine", DEFINE="{models: {mine: {like: llama-2-13b, layers: 20}}}")
    assert mine.jobs[0].model == "mine"
    assert sum(m.parts["weights"] for m in mine.memory) == pytest.approx(
        sum(m.parts["weights"] for m in base.memory) / 2
    )
    assert 1.5 < base.metrics.tpot_s.p50 / mine.metrics.tpot_s.p50 < 2


def test_a_stack_of_ones_own(result):
    """A second a pass is what an answer then takes a token, whatever the GPU does."""
    mine = result(STACK="mine", DEFINE="{stacks: {mine: {like: vllm, host_per_step: 1 s}}}")
    assert mine.jobs[0].stack == "mine"
    assert mine.metrics.tpot_s.p50 > 1


def test_lengths_of_ones_own(result):
    define = "{lengths: {mine: {like: azure-2023-code, prompt: {values: [100, 100]}, output: {values: [7, 7]}}}}"
    load = "{all_at_once: true, lengths: mine, requests: 10}"
    mine = result(LOAD=load, DEFINE=define).metrics
    assert mine.total_tokens_per_s / mine.output_tokens_per_s == pytest.approx(107 / 7)


def test_a_price_of_ones_own(result):
    entry = "{item: desk, kind: rent, unit: USD/GPU-h, usd: 3.5, as_of: '2026'}"
    mine = result(COST="{rental: {price: mine}}", DEFINE=f"{{prices: {{mine: {entry}}}}}")
    assert mine.cost.usd_per_hour == pytest.approx(2 * 3.5)
    like = "{prices: {mine: {like: runpod-community-rtx4090-on-demand, usd: 5}}}"
    assert result(COST="{rental: {price: mine}}", DEFINE=like).cost.usd_per_hour == pytest.approx(2 * 5)


def test_a_fabric_of_ones_own(tmp_path):
    """The user's constants are looked at first: a millisecond for each of two all-reduces a layer."""
    text = BASE.replace("count: 2, gpus: [{type: GPU}]", "gpus: [{type: GPU, count: 2}]").replace("{pp: 2}", "{tp: 2}")
    slow = "{fabrics: {mine: {like: nccl-staged, alpha: 1 ms, bulk_alpha: 1 ms}}}"
    answers = []
    for define in ("{}", slow):
        one = text
        for name, value in {**NAMES, "DEFINE": define}.items():
            one = one.replace(name, value)
        answers.append(run(resolve(parse_yaml(one), tmp_path), effects=False).metrics.tpot_s.p50)
    base, mine = answers
    assert mine - base == pytest.approx(80e-3, rel=0.15)


def test_a_catalogue_entry_may_be_overridden_under_its_own_name(result):
    define = "{gpus: {rtx4090: {like: rtx4090, memory_bandwidth: 504 GB/s}}}"
    assert result(DEFINE=define).metrics.output_tokens_per_s < 0.7 * result().metrics.output_tokens_per_s


def test_a_gpu_without_kernels_uses_the_median_of_those_measured(result, tmp_path):
    define = (
        "{gpus: {mine: {name: Mine, vendor: me, architecture: ada, memory: 24 GB, usable_memory: 24 GB, "
        "memory_bandwidth: 1 TB/s, flops: {fp16: 150 TFLOPS}, tdp: 300 W, idle_power: 30 W, pcie: pcie4-x16}}}"
    )
    found = resolved(tmp_path, GPU="mine", DEFINE=define)
    gpu = found.gpus["mine"]
    assert gpu.kernels is None
    assert gpu.source == "user"
    assert found.kernels(gpu) == found.default_kernels
    rows = {row.name: row for row in run(found, effects=False).assumptions}
    assert rows["mine: kernel constants"].origin == "median of measured GPUs"
    assert f"em {found.default_kernels.gemm_memory:g}" in rows["mine: kernel constants"].value


def test_default_kernels_are_the_median_of_those_measured():
    from statistics import median

    from sim import catalog
    from sim.adapters.lookup import Library

    library = Library()
    measured = [gpu.kernels for gpu in map(library.gpu, catalog.names("gpu")) if gpu.kernels]
    measured = [kernels for kernels in measured if kernels.origin == "measured"]
    for field in ("gemm_memory", "decode_memory"):
        middle = median(getattr(kernels, field) for kernels in measured)
        assert getattr(library.default_kernels(), field) == pytest.approx(middle, rel=0.05), field
