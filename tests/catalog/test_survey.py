"""The catalogue against the tables it was made from, number by number, and what a user looks for in it."""

import csv
import runpy
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from sim import catalog
from sim.adapters.lookup import Library
from sim.laws.roofline import kernel_rates

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
LIBRARY = Library()

needs_data = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="needs ../shared/data beside the checkout")
needs_design = pytest.mark.skipif(
    not (SHARED / "design" / "SERVING_CONSTANTS.csv").is_file(), reason="needs ../shared/design beside the checkout"
)

# ---- GPUs against the survey


def survey():
    """Rows of the survey by the card's name."""
    file = SHARED / "data" / "catalog" / "gpus.csv"
    if not file.is_file():
        return {}
    with file.open() as handle:
        return {row["name"]: row for row in csv.DictReader(handle)}


CARDS = survey()
GPUS = {gpu.name: gpu for gpu in (LIBRARY.gpu(name) for name in catalog.names("gpu"))}
#: GB/s that differ from the survey on purpose.
BANDWIDTH = {"B200 SXM (HGX)": 7700.0}  # the rate its kernel constants were fitted with; the survey's note has it too


@needs_data
def test_the_survey_has_its_34_gpus():
    assert len(CARDS) == 34
    assert CARDS.keys() <= GPUS.keys()


@needs_data
@pytest.mark.parametrize("name", CARDS)
def test_bandwidth_power_and_rates_are_the_surveys(name):
    row, gpu = CARDS[name], GPUS[name]
    assert gpu.memory_bandwidth / 1e9 == pytest.approx(BANDWIDTH.get(name, float(row["mem_bw_gbs"])))
    assert gpu.tdp == float(row["tdp_w"])
    assert gpu.flops.fp16 / 1e12 == pytest.approx(float(row["fp16_fp32acc_dense_tflops"]))
    written = {
        "bf16": row["bf16_dense_tflops"], "fp16_fp16acc": row["fp16_fp16acc_dense_tflops"],
        "fp8": row["fp8_dense_tflops"], "int8": row["int8_dense_tops"],
    }  # fmt: skip
    for field, value in written.items():
        found = getattr(gpu.flops, field)
        if not value or float(value) == 0:
            assert found is None, field
        else:
            assert found / 1e12 == pytest.approx(float(value)), field


@needs_data
@pytest.mark.parametrize("name", CARDS)
def test_memory_is_the_surveys_in_binary_units(name):
    """What the box calls GB are GiB on a card."""
    assert GPUS[name].memory / 2**30 == pytest.approx(float(CARDS[name]["mem_gb"]), rel=0.08)
    assert GPUS[name].usable_memory <= GPUS[name].memory


@pytest.mark.parametrize("name", catalog.names("gpu"))
def test_no_rate_is_a_sparse_one(name):
    """Sparsity doubles: a dense FP8 rate is at most twice the 16-bit rate of the same accumulator, INT8 likewise."""
    flops = LIBRARY.gpu(name).flops
    full = flops.fp16_fp16acc or flops.fp16
    assert flops.bf16 is None or flops.bf16 == flops.fp16
    for eight in (flops.fp8, flops.int8):
        assert eight is None or eight <= 2.05 * full
    if flops.fp4 is not None and flops.fp8 is not None:
        assert flops.fp4 <= 4.1 * flops.fp8


def test_the_h100_is_not_counted_sparse():
    assert LIBRARY.gpu("h100-sxm").flops.fp16 == 989e12
    assert LIBRARY.gpu("h100-sxm").flops.bf16 == 989e12


# ---- Links people ask for: GB/s of one direction

LINKS = {
    "nvlink3": 300, "nvlink4": 450, "nvlink5": 900,
    "ethernet-1g": 0.125, "ethernet-2.5g": 0.3125, "ethernet-5g": 0.625, "ethernet-10g": 1.25, "ethernet-25g": 3.125,
    "ethernet-40g": 5, "ethernet-50g": 6.25, "ethernet-100g": 12.5, "ethernet-200g": 25, "ethernet-400g": 50,
    "roce-25g": 3.125, "roce-100g": 12.5, "roce-200g": 25, "roce-400g": 50,
    "infiniband-edr": 12.5, "infiniband-hdr": 25, "infiniband-ndr": 50,
    "thunderbolt3": 5, "thunderbolt4": 5, "thunderbolt5": 10, "usb4": 5,
    "home-internet": 0.0125,
    **{f"pcie{gen}-x{lanes}": 15.75 * 2 ** (gen - 3) * lanes / 16 for gen in (3, 4, 5) for lanes in (1, 4, 8, 16)},
}  # fmt: skip


@pytest.mark.parametrize("name", LINKS)
def test_links_have_their_nominal_rate(name):
    link = LIBRARY.link(name)
    assert link.bandwidth / 1e9 == pytest.approx(LINKS[name])
    assert 0.4 <= link.efficiency < 1
    assert link.latency > 0
    assert link.source


def test_links_of_one_kind_get_no_slower_with_their_rate():
    kinds = defaultdict(list)
    for name in catalog.names("link"):
        kinds[LIBRARY.link(name).kind].append(LIBRARY.link(name))
    for kind in ("ethernet", "roce", "infiniband"):
        links = sorted(kinds[kind], key=lambda link: link.bandwidth)
        latencies = [link.latency for link in links]
        assert latencies == sorted(latencies, reverse=True)


# ---- Constants against the table of constants


def constants(kind):
    """Name -> key -> value of SERVING_CONSTANTS.csv."""
    file = SHARED / "design" / "SERVING_CONSTANTS.csv"
    found = defaultdict(dict)
    if file.is_file():
        with file.open() as handle:
            for row in csv.DictReader(handle):
                if row["kind"] == kind:
                    found[row["name"]][row["key"]] = row["value"]
    return dict(found)


CONSTANTS_OF = {
    "A100": "a100-sxm-80gb", "A100P": "a100-pcie-80gb", "H100": "h100-sxm", "H100P": "h100-pcie", "H100NVL": "h100-nvl",
    "H200": "h200-sxm", "GH200": "gh200-96gb", "B200": "b200-sxm", "GB200": "gb200", "L40S": "l40s",
    "RTXP": "rtxpro6000", "4090": "rtx4090", "3090": "rtx3090", "3090Ti": "rtx3090ti", "A10G": "a10g",
}  # fmt: skip
SYMBOLS = {
    "ec16": "gemm_compute_16", "ec4": "gemm_compute_4", "em": "gemm_memory",
    "t0": "gemm_launch", "ema": "decode_memory", "t0a": "decode_launch", "ecp": "prefill_compute",
    "t0p": "prefill_launch", "x": "prefill_memory",
}  # fmt: skip


@needs_design
def test_every_measured_gpu_has_its_constants():
    assert constants("gpu").keys() == CONSTANTS_OF.keys()


@needs_design
@pytest.mark.parametrize("name", constants("gpu"))
def test_kernel_constants_are_the_tables(name):
    kernels = LIBRARY.gpu(CONSTANTS_OF[name]).kernels
    for symbol, field in SYMBOLS.items():
        value = float(constants("gpu")[name][symbol]) * (1e-6 if symbol.startswith("t0") else 1)
        assert getattr(kernels, field) == pytest.approx(value), symbol


@needs_design
@pytest.mark.parametrize("name", constants("gpu"))
def test_products_of_8_bits_reach_in_an_engine_what_the_table_has(name):
    """The table's share was found with activations rounded beside the products; here that is a part of the rate."""
    gpu = LIBRARY.gpu(CONSTANTS_OF[name])
    rates = kernel_rates(gpu, LIBRARY.stack("generic"), gpu.kernels, "fp8")
    share = float(constants("gpu")[name]["ec8" if gpu.flops.fp8 else "ec16"])
    assert rates.matmul / rates.peak == pytest.approx(share, rel=0.11)


STACK_OF = {
    "trtllm<=0.9": "trtllm-0.9", "trtllm0.14": "trtllm-0.14", "trtllm1.0": "trtllm", "trtllm": "trtllm",
    "lmdeploy0.1": "lmdeploy-0.1", "vllm0.19": "vllm", "vllm": "vllm", "vllm-fa2-ada": "vllm",
    "vllm-pp(flagship)": "vllm", "vllm0.5": "vllm-0.5", "sglang": "sglang", "llama.cpp": "llama.cpp",
    "llama.cpp/4090": "llama.cpp", "llama.cpp/3090": "llama.cpp", "exllamav2/4090": "exllamav2", "mlc/4090": "mlc",
    "eager2023": "eager-2023",
}  # fmt: skip


def test_there_are_stacks_for_paper_and_for_the_unknown():
    assert {"ideal", "generic"} <= set(catalog.names("stack"))


@needs_design
@pytest.mark.parametrize("name", constants("stack"))
def test_every_fitted_stack_is_here_with_its_constants(name):
    stack, table = LIBRARY.stack(STACK_OF[name]), constants("stack")[name]
    if name == "vllm-pp(flagship)":  # of a pipeline's pass: what the stack adds with pipelines is in it
        assert stack.host_per_step + stack.host_per_pipeline_pass == pytest.approx(float(table["h_step"]) * 1e-3)
        return
    fields = {
        "kc": ("compute_scale", 1), "ka": ("attention_scale", 1), "h_step": ("host_per_step", 1e-3),
        "h_seq": ("host_per_sequence", 1e-6), "max_seqs": ("max_sequences", 1), "max_tok": ("max_batched_tokens", 1),
    }  # fmt: skip
    for key, (field, unit) in fields.items():
        if key in table:
            assert getattr(stack, field) == pytest.approx(float(table[key]) * unit), key
    if "R" in table:
        assert stack.memory.reserve == float(table["R"]) * 1e9
        assert stack.memory.fraction == float(table.get("util") or table["kv_fraction"])
    if "admission" in table:
        assert stack.admission == {"no_evict": "reserve", "evict_recompute": "preempt"}[table["admission"]]


# ---- Prices and lengths


def test_every_price_says_when_and_where():
    for name in catalog.names("price"):
        price = LIBRARY.price(name)
        assert price.as_of.strip(), name
        assert price.source.strip(), name
        assert price.unit.strip(), name
        low, high = price.usd_low or 0, price.usd_high or float("inf")
        assert low <= high, name


@needs_data
@pytest.mark.parametrize("name", catalog.names("lengths"))
def test_length_tables_are_what_their_script_computes(name):
    """The committed file, key by key, as benchmarks/fit_lengths.py would write it again."""
    script = runpy.run_path(str(ROOT / "benchmarks" / "fit_lengths.py"))
    file, source = script["TRACES"][name]
    again = script["table"](script["read_trace"](SHARED / "data" / "traces" / file), source)
    shipped = yaml.safe_load((ROOT / "sim" / "catalog" / "lengths" / f"{name}.yaml").read_text())
    assert shipped == again
