"""The shipped data: every entry validates and names its source, and facts that are easy to get wrong are right."""

import csv
import re
from pathlib import Path

import pytest

from sim import catalog
from sim.adapters.lookup import Library
from sim.spec.hardware import LinkType

SHARED = Path(__file__).parents[3] / "shared" / "data"
LIBRARY = Library()
GB = 1e9

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data folder beside the checkout")

# Billions of weights as published (model card or paper).
PUBLISHED = {
    "bloom-176b": 176.2,
    "gpt-2-xl": 1.558,
    "gpt-3-175b": 175.0,
    "mixtral-8x7b": 46.7,
    "deepseek-v3": 671.0,
    "qwen3-235b-a22b": 235.0,
    "llama-2-7b": 6.74,
    "llama-2-13b": 13.02,
    "llama-2-70b": 68.98,
    "llama-3-8b": 8.03,
    "llama-3-70b": 70.55,
    "llama-3.1-8b": 8.03,
    "llama-3.2-1b": 1.236,
    "llama-3.1-70b": 70.55,
    "llama-3.1-405b": 405.9,
    "mistral-7b": 7.24,
    "mpt-7b": 6.65,
    "mpt-30b": 30.0,
    "mpt-70b": 64.9,
    "opt-175b": 175.0,
    "qwen2.5-7b": 7.61,
    "qwen2.5-72b": 72.7,
    "qwen3-32b": 32.8,
    "tinyllama-1.1b": 1.1,
}
FULL_ATTENTION = {
    "bloom-176b", "deepseek-v3", "gpt-2-xl", "gpt-3-175b", "llama-2-7b", "llama-2-13b", "mpt-7b", "mpt-30b", "mpt-70b",
    "opt-175b",
}  # fmt: skip
KV_HEADS = {"qwen2.5-7b": 4, "qwen3-235b-a22b": 4, "tinyllama-1.1b": 4}  # 8 for all others that share heads


def entries(*kinds):
    return [(kind, name) for kind in kinds for name in catalog.names(kind)]


@pytest.mark.parametrize(("kind", "name"), entries("gpu", "model", "stack", "lengths", "link", "price"))
def test_an_entry_validates_and_names_its_source(kind, name):
    value = getattr(LIBRARY, kind)(name)
    assert value.id == name
    assert len(value.source) >= 6
    assert value.source.count("(") == value.source.count(")"), "a source cut short"


def test_fabrics_and_default_kernels_validate_and_name_their_sources():
    assert [f.id for f in LIBRARY.fabrics()] == list(catalog.names("fabric"))
    assert all(len(value.source) >= 6 for value in (*LIBRARY.fabrics(), LIBRARY.default_kernels()))


@pytest.mark.parametrize("kind", catalog.KINDS)
def test_no_entry_names_a_package_registry(kind):
    assert not any(re.search("pypi|npmjs", str(catalog.raw(kind, name)), re.I) for name in catalog.names(kind))


def test_all_kinds_have_entries_and_an_unknown_name_is_a_key_error():
    for kind in catalog.KINDS:
        assert catalog.names(kind)
        with pytest.raises(KeyError):
            catalog.raw(kind, "no-such-entry")


def test_one_entry_is_read_without_the_others(monkeypatch):
    read = []
    real = catalog._read
    catalog.raw.cache_clear()
    monkeypatch.setattr(catalog, "_read", lambda path: (read.append(path.name), real(path))[1])
    catalog.raw("gpu", "rtx4090")
    assert read == ["rtx4090.yaml"]


def test_what_people_call_an_entry_leads_to_one_that_exists():
    for kind, aliases in catalog._aliases().items():
        for word, name in aliases.items():
            assert name in catalog.names(kind)
            assert word == word.casefold()
            assert word not in catalog.names(kind), f"{word} is an id and needs no suggestion"
    assert catalog.meant("gpu", "H100") == "h100-sxm"
    assert catalog.meant("gpu", "rtx4090") is None


# ---- GPUs

GPUS = [LIBRARY.gpu(name) for name in catalog.names("gpu")]
by_id = pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.id)


def test_geforce_halves_16_bit_rates_when_accumulating_in_32():
    for name, rate in {"rtx3090": 71.2, "rtx4090": 165.2, "rtx4090d": 147.1, "rtx5090": 209.5}.items():
        flops = LIBRARY.gpu(name).flops
        assert flops.fp16 == flops.bf16 == rate * 1e12
        assert flops.fp16_fp16acc == pytest.approx(2 * flops.fp16, rel=0.002)


def test_geforce_has_no_p2p_and_other_nvidia_cards_do():
    for gpu in GPUS:
        assert gpu.p2p == (not gpu.name.startswith("GeForce")), gpu.id


def test_rates_are_dense_not_sparse():
    assert LIBRARY.gpu("h100-sxm").flops.fp16 == 989e12
    assert LIBRARY.gpu("a100-sxm-80gb").flops.fp16 == 312e12
    assert LIBRARY.gpu("h100-sxm").flops.fp8 == 1979e12


def test_scale_up_counts_one_direction():
    wanted = {"v100-sxm-32gb": 150, "a100-sxm-80gb": 300, "h100-sxm": 450, "b200-sxm": 900, "a800-sxm-80gb": 200}
    assert {name: LIBRARY.gpu(name).scale_up / GB for name in wanted} == wanted


@by_id
def test_what_the_driver_shows_is_a_little_less_than_the_box_says(gpu):
    low = 0.7 if gpu.vendor == "apple" else 0.93  # error correction on GDDR takes a sixteenth
    assert low * gpu.memory < gpu.usable_memory <= gpu.memory


@by_id
def test_each_gpu_names_a_pcie_link_that_exists(gpu):
    assert gpu.pcie in catalog.names("link")
    assert LIBRARY.link(gpu.pcie).kind == "pcie"


@by_id
def test_domains_and_power_are_plausible(gpu):
    assert (gpu.scale_up is None) == (gpu.scale_up_domain == 1)
    assert gpu.scale_up_domain in (1, 2, 8, 72)
    assert 0.05 * gpu.tdp < gpu.idle_power < 0.25 * gpu.tdp


@by_id
def test_kernel_constants_say_where_they_come_from(gpu):
    k = gpu.kernels
    if k is None:
        return
    assert (k.fitted_error is not None) == (k.origin == "measured")
    if k.origin == "copied":
        assert "copied from" in k.source
    assert k.gemm_compute_8 <= 1.05 * k.gemm_compute_16


def test_the_measured_constants_are_the_measured_ones():
    measured = {gpu.id for gpu in GPUS if gpu.kernels and gpu.kernels.origin == "measured"}
    assert measured == {
        "a100-sxm-80gb", "a40", "b200-sxm", "gb200", "h100-sxm", "h200-sxm", "l40s", "rtx4090", "rtxpro6000",
    }  # fmt: skip
    k = LIBRARY.gpu("rtx4090").kernels
    assert k is not None
    assert (k.gemm_compute_16, k.gemm_memory, k.decode_memory) == (0.965, 0.935, 0.919)


@needs_shared
def test_every_gpu_of_the_survey_is_here():
    with (SHARED / "catalog" / "gpus.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["id"]]
    names = {gpu.name for gpu in GPUS}
    assert len(rows) == 34
    assert {row["name"] for row in rows} <= names


# ---- Links and fabrics


@pytest.mark.parametrize("generation", [3, 4, 5])
def test_pcie_goes_by_lanes(generation):
    full = LIBRARY.link(f"pcie{generation}-x16").bandwidth
    assert full == 15.75e9 * 2 ** (generation - 3)
    for lanes in (1, 4, 8):
        assert LIBRARY.link(f"pcie{generation}-x{lanes}").bandwidth == pytest.approx(full * lanes / 16)


def test_ethernet_carries_what_tcp_leaves():
    for name, rate in {"ethernet-1g": 0.117e9, "ethernet-10g": 1.17e9}.items():
        link = LIBRARY.link(name)
        assert link.bandwidth * link.efficiency == pytest.approx(rate, rel=0.001)
        assert link.message_overhead == 300e-6


def test_rdma_has_no_tcp_in_its_way():
    for link in (LIBRARY.link(name) for name in catalog.names("link")):
        assert isinstance(link, LinkType)
        slow = link.message_overhead >= 50e-6
        assert slow == (link.kind in ("ethernet", "thunderbolt", "internet")), link.id


def test_every_kind_of_group_finds_a_fabric_whatever_the_architecture():
    general = {(f.kind, f.library) for f in LIBRARY.fabrics() if f.architecture is None}
    assert {(kind, "nccl") for kind in ("nvlink", "pcie", "staged", "network")} <= general


def test_libraries_that_stacks_prefer_have_fabrics():
    known = {f.library for f in LIBRARY.fabrics()}
    for name in catalog.names("stack"):
        libraries = LIBRARY.stack(name).collective_libraries
        assert set(libraries) <= known
        assert libraries[-1] == "nccl", "the one that has every kind of fabric comes last"


@pytest.mark.parametrize("architecture", ["ampere", "hopper", "blackwell"])
@pytest.mark.parametrize("library", ["nccl", "trtllm", "vllm"])
def test_each_library_was_looked_at_on_each_measured_architecture(architecture, library):
    fabrics = {(f.architecture, f.library): f for f in LIBRARY.fabrics() if f.kind == "nvlink"}
    own, nccl = fabrics[architecture, library], fabrics[architecture, "nccl"]
    assert own.alpha <= nccl.alpha
    assert own.bulk_efficiency == nccl.bulk_efficiency  # above some size they all call NCCL


def test_fabrics_reproduce_measured_plateaus():
    """GB/s per GPU that large all-reduces reached: share of the raw link."""
    fabrics = {f.id: f for f in LIBRARY.fabrics()}
    assert fabrics["nccl-nvlink-hopper"].in_switch * 450 == pytest.approx(400, rel=0.001)
    assert fabrics["nccl-nvlink-ampere"].bulk_efficiency[8] * 300 == pytest.approx(190, rel=0.002)
    across = fabrics["nccl-pcie"].cross_efficiency
    assert [round(across[n] * 63, 1) for n in (2, 4, 8)] == [38.6, 26.4, 24.7]
    assert fabrics["nccl-pcie"].bulk_efficiency[2] * 31.5 == pytest.approx(20.1, rel=0.001)


@needs_shared
def test_custom_all_reduces_are_within_their_stated_error():
    """The median error of each low-latency branch on the table it was fitted to, up to 1 MB."""
    import numpy as np

    link = {"a100_sxm": ("ampere", 300 * GB), "h100_sxm": ("hopper", 450 * GB), "b200_sxm": ("blackwell", 900 * GB)}
    fabrics = {(f.architecture, f.library): f for f in LIBRARY.fabrics() if f.kind == "nvlink"}
    best = {}
    with (SHARED / "truth" / "kernels" / "custom_allreduce.csv").open() as file:
        for row in csv.DictReader(file):
            size = 2 * int(row["message_size"])
            if row["gpu"] in link and size <= 1 << 20:
                key = row["gpu"], row["src"].split("/")[0], int(row["num_gpus"]), size
                best[key] = min(best.get(key, np.inf), float(row["latency"]) / 1e3)
    errors = {}
    for (gpu, library, n, size), seconds in best.items():
        architecture, raw = link[gpu]
        f = fabrics[architecture, library]
        steps, wire = 2 * (n - 1), 2 * (n - 1) / n * size
        law = f.alpha + steps * f.step + wire / (f.efficiency * raw)
        errors.setdefault((architecture, library), []).append(abs(law / seconds - 1))
    assert len(errors) == 5
    for key, found in errors.items():
        stated = re.match(r"([\d.]+)/", fabrics[key].fitted_error or "")
        assert stated, key
        assert 100 * np.median(found) == pytest.approx(float(stated[1]), abs=0.3), key


# ---- Models


@pytest.mark.parametrize("name", catalog.names("model"))
def test_weights_add_up_to_the_published_number(name):
    assert LIBRARY.model(name).parameters / 1e9 == pytest.approx(PUBLISHED[name], rel=0.015)


@pytest.mark.parametrize("name", catalog.names("model"))
def test_attention_has_its_true_kv_heads(name):
    model = LIBRARY.model(name)
    wanted = model.heads if name in FULL_ATTENTION else KV_HEADS.get(name, 8)
    assert model.kv_heads == wanted
    assert model.heads * model.head_dim >= model.hidden
    gated = ("deepseek", "llama", "mistral", "mixtral", "qwen2.5", "qwen3", "tinyllama")
    assert model.gated == (name.split("-")[0] in gated)


# ---- Stacks, lengths, prices


def test_ideal_adds_nothing_to_the_datasheet():
    ideal = LIBRARY.stack("ideal")
    assert (ideal.kernels, ideal.links, ideal.roofline_exponent, ideal.activations) == (
        "datasheet", "datasheet", "max", "on_chip",
    )  # fmt: skip
    assert ideal.host_per_step == ideal.host_per_sequence == ideal.host_per_layer == ideal.host_per_pipeline_pass == 0
    assert (ideal.memory.rule, ideal.memory.fraction, ideal.memory.reserve) == ("of_total", 1.0, 0.0)


def test_admission_follows_the_engine():
    for name in catalog.names("stack"):
        stack = LIBRARY.stack(name)
        if name.startswith("trtllm"):
            assert (stack.admission, stack.memory.rule) == ("reserve", "of_free")
        if name.startswith("vllm"):
            assert (stack.admission, stack.memory.rule) == ("preempt", "of_total")


def test_prices_keep_date_and_source_and_are_positive():
    prices = [LIBRARY.price(name) for name in catalog.names("price")]
    assert len(prices) == 116
    for price in prices:
        assert price.as_of
        assert all(value is None or value > 0 for value in (price.usd, price.usd_low, price.usd_high))
        assert price.usd is not None
        if price.terms not in ("", "market") and price.kind == "cloud":
            assert price.item in price.id or price.item.removesuffix("-8x") in price.id


def test_the_reference_articles_prices_are_whole():
    assert LIBRARY.price("reference-4090-server").usd == 40_000
    assert LIBRARY.price("reference-h100-server").usd == 300_000
    assert LIBRARY.price("reference-elec").source == "reference article (4090 vs H100, 2023)"
    assert "5 kW" in LIBRARY.price("reference-4090-server").notes


@needs_shared
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("azure-2023-conversation", "azure_llm_2023_conv.csv"),
        ("azure-2023-code", "azure_llm_2023_code.csv"),
        ("mooncake-conversation", "mooncake_conversation.jsonl"),
    ],
)
def test_length_tables_are_those_of_the_trace(name, file):
    import numpy as np

    from sim.adapters.traces import read_trace

    shipped, trace = LIBRARY.lengths(name), read_trace(SHARED / "traces" / file)
    for table, tokens in ((shipped.prompt.values, trace.prompt), (shipped.output.values, trace.output)):
        assert np.abs(np.quantile(tokens, np.linspace(0, 1, len(table))) - table).max() <= 0.5
    gaps = np.diff(trace.arrival)
    assert shipped.arrivals_per_s == pytest.approx(1 / gaps.mean(), rel=1e-3)
    assert shipped.arrivals_cv == pytest.approx(gaps.std() / gaps.mean(), abs=1e-3)
    assert shipped.requests == len(trace.arrival)
