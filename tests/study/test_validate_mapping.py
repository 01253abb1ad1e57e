"""Measured training rows as scenarios: what each table's words become, what is refused, and how errors are told.

Rows are typed here cell by cell as the tables spell them; no test simulates.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sim.adapters.resolve import Resolved, ResolvedTraining, resolve
from sim.adapters.yaml_source import Source
from sim.errors import InfeasibleError, InputError
from sim.laws.collective import collective_parameters, collective_seconds
from sim.laws.topology import build_topology
from sim.study.executors import SerialExecutor
from sim.study.validate.agreement import summary
from sim.study.validate.cases import Case
from sim.study.validate.formats import read_tables
from sim.study.validate.runner import compare
from sim.study.validate.schema import Direction, Errors, Validation
from sim.study.validate.tables import MeasuredRow, row_of, vtrain_row
from sim.study.validate.training_cases import GIB, training_case
from sim.study.validate.training_mapping import Mapped, Unmapped, is_mixture, map_row, spread

TRUTH = Path(__file__).parents[3] / "shared" / "data" / "truth" / "training"

LLAMA_8B = {
    "model": "llama3-8b", "hidden": "4096", "layers": "32", "heads": "32", "kv_heads": "8", "ffn": "14336",
    "mlp_mats": "3", "vocab": "128256", "seq_len": "8192",
}  # fmt: skip
LLAMA_70B = LLAMA_8B | {"model": "llama3-70b", "hidden": "8192", "layers": "80", "heads": "64", "ffn": "28672"}
LLAMA_405B = LLAMA_8B | {"model": "llama3-405b", "hidden": "16384", "layers": "126", "heads": "128", "ffn": "53248"}
TINY = {
    "model": "tinyllama-1.1b", "hidden": "2048", "layers": "22", "heads": "32", "kv_heads": "4", "ffn": "5632",
    "mlp_mats": "3", "vocab": "32000", "seq_len": "2048",
}  # fmt: skip
MPT_7B = {
    "table": "llm_foundry", "id": "llm_foundry-x", "framework": "Composer/PyTorch FSDP + FlashAttention",
    "task": "pretrain", "model": "mpt-7b", "hidden": "4096", "layers": "32", "heads": "32", "kv_heads": "32",
    "ffn": "16384", "mlp_mats": "2", "vocab": "50368", "seq_len": "2048", "precision": "amp_bf16", "gpu": "A100-80GB",
    "n_gpus": "16", "gpus_per_node": "8", "intra_link": "NVLink/NVSwitch", "inter_link": "1600 Gb/s per node RoCE",
    "tp": "1", "pp": "1", "cp": "1", "dp": "16", "sharding": "ZeRO-3 (FSDP FULL_SHARD), mp=DEFAULT",
    "micro_batch": "8", "global_batch": "256", "recompute": "none", "step_time_s": "5.2", "quality": "A",
}  # fmt: skip
NEMO = {
    "table": "nvidia_dgxc_h100", "id": "dgxc-x", "framework": "NeMo/Megatron-Core", "task": "pretrain",
    "precision": "bf16", "gpu": "H100-SXM", "gpus_per_node": "8", "intra_link": "NVLink4 (DGX/HGX H100)",
    "inter_link": "not stated (DGX H100 class, 400 Gb/s per GPU)", "recompute": "not stated (NeMo recipe)",
    "sharding": "Megatron distributed optimizer (ZeRO-1)", "micro_batch": "1", "step_time_s": "10", "quality": "A",
}  # fmt: skip
QLORA = {
    "table": "consumer_and_finetune", "id": "qlora-x", "framework": "FSDP + bitsandbytes", "task": "QLoRA finetune",
    "precision": "nf4 weights/bf16 compute", "gpu": "RTX4090", "n_gpus": "2", "gpus_per_node": "2",
    "intra_link": "PCIe 4.0 x16 each, no NVLink", "tp": "1", "pp": "1", "cp": "1", "dp": "2", "micro_batch": "2",
    "global_batch": "4", "sharding": "ZeRO-3 (FSDP)", "recompute": "full", "step_time_s": "8", "quality": "B",
}  # fmt: skip


def mapped(*cells: Mapping[str, str], **more: str) -> Mapped:
    """The mapping of a row of these cells, which must have one."""
    found = map_row(row(*cells, **more))
    assert isinstance(found, Mapped), found
    return found


def reason(*cells: Mapping[str, str], **more: str) -> str:
    """Why a row of these cells has none."""
    found = map_row(row(*cells, **more))
    assert isinstance(found, Unmapped), found
    return found.reason


def row(*cells: Mapping[str, str], **more: str) -> MeasuredRow:
    merged: dict[str, str] = {}
    for part in (*cells, more):
        merged |= part
    return row_of(merged)


def job(found: Mapped) -> dict[str, Any]:
    (only,) = found.scenario["jobs"]
    assert isinstance(only, dict)
    return only


def node(found: Mapped) -> dict[str, Any]:
    (only,) = found.scenario["cluster"]["topology"]["nodes"]
    assert isinstance(only, dict)
    return only


def resolved(found: Mapped) -> Resolved:
    return resolve(Source(found.scenario, {}, found.scenario["name"]), Path())


def training(found: Mapped) -> ResolvedTraining:
    (only,) = resolved(found).jobs
    assert isinstance(only, ResolvedTraining)
    return only


# -- one row of each table ----------------------------------------------------------------------------------


def test_llm_foundry_is_fully_sharded_with_fp32_gradients() -> None:
    found = mapped(MPT_7B)
    assert (found.gpu, found.stack, found.kind, found.gpus) == ("a100-sxm-80gb", "fsdp-composer", "pretrain", 16)
    assert (found.metric, found.measured, found.unit, found.tokens) == ("step_time_s", 5.2, "s", 256 * 2048)
    assert found.assumptions == ()
    assert job(found)["precision"] == {"compute": "bf16", "gradients": "fp32"}
    assert job(found)["plan"] == {"tp": 1, "pp": 1, "cp": 1, "dp": 16, "zero": 3, "recompute": "none"}
    assert job(found)["batch"] == {"global": 256, "micro": 8, "sequence": 2048}
    assert node(found) == {
        "name": "node", "count": 2, "gpus": [{"type": "a100-sxm-80gb", "count": 8}], "nvlink": {"link": "nvlink3"},
        "sockets": 2, "socket_link": "upi", "host_memory": {"capacity": "1 TB", "bandwidth": "140 GB/s"},
        "nics": [{"link": "roce-200g", "per_gpu": True}],
    }  # fmt: skip
    model = training(found).model
    assert (model.head_dim, model.gated, model.tied_embeddings, model.kv_heads) == (128, False, True, 32)


def test_llm_foundry_pure_precision_has_no_master_copy() -> None:
    found = mapped(MPT_7B, precision="bf16", sharding="ZeRO-3 (FSDP FULL_SHARD), mp=PURE", gpu="A100-40GB")
    assert job(found)["precision"] == {"compute": "bf16", "gradients": "bf16", "master": False}
    assert job(mapped(MPT_7B, sharding="ZeRO-2 (FSDP SHARD_GRAD_OP), mp=DEFAULT"))["plan"]["zero"] == 2


def test_a_network_not_stated_is_assumed_and_said() -> None:
    found = mapped(MPT_7B, gpu="H100-SXM", inter_link="not stated")
    assert node(found)["nics"] == [{"link": "infiniband-ndr", "per_gpu": True}]
    assert found.assumptions == ("50 GB/s of network a GPU (not stated)",)


def test_dgxc_405b_balances_its_layers_over_virtual_stages() -> None:
    cells = {"n_gpus": "1024", "tp": "8", "pp": "8", "vpp": "8", "cp": "2", "dp": "8", "global_batch": "512"}
    found = mapped(NEMO, LLAMA_405B, cells, precision="fp8")
    plan = job(found)["plan"]
    assert found.stack == "nemo-2025"
    assert job(found)["precision"]["compute"] == "fp8"
    assert (plan["vpp"], plan["cp"], plan["zero"], plan["sequence_parallel"]) == (8, 2, 1, True)
    assert plan["layers"] == [1] + [2] * 62 + [1]
    assert node(found)["nics"] == [{"link": "infiniband-ndr", "per_gpu": True}]
    assert "recomputation not stated: none" in found.assumptions
    assert training(found).spec.plan.gpus == 1024


def test_dgxc_mixture_takes_its_published_shape() -> None:
    cells = {"model": "Grok-314b-proxy4L", "seq_len": "4096", "n_gpus": "16", "tp": "4", "pp": "1", "dp": "4"}
    found = mapped(NEMO, cells, ep="4", cp="1", global_batch="1024")
    model = training(found).model
    assert (model.layers, model.experts, model.experts_per_token) == (4, 8, 2)
    assert (job(found)["plan"]["ep"], found.kind) == (4, "pretrain-moe")
    assert is_mixture(row(NEMO, cells))


def test_dgxc_maxtext_shards_over_all_ranks_and_says_so() -> None:
    cells = {"framework": "MaxText/JAX", "sharding": "JAX FSDP=128 x DP=4", "n_gpus": "512", "dp": "512"}
    found = mapped(NEMO, LLAMA_70B, cells, tp="1", pp="1", cp="1", micro_batch="2", global_batch="1024")
    assert (found.stack, job(found)["plan"]["zero"], job(found)["plan"]["recompute"]) == ("maxtext", 3, "full")
    assert "JAX FSDP=128 x DP=4 taken as sharded over all data-parallel ranks" in found.assumptions


def test_nemo_lora_on_gpus_without_constants_of_their_own() -> None:
    cells = {"table": "nvidia_nemo_perf", "framework": "Megatron-Core (NeMo/Megatron-Bridge)", "gpu": "GB200"}
    more = {"task": "LoRA finetune", "n_gpus": "8", "gpus_per_node": "4", "tp": "1", "pp": "2", "vpp": "20"}
    found = mapped(NEMO, LLAMA_70B, cells, more, dp="4", cp="1", global_batch="32", precision="mxfp8")
    assert node(found)["gpus"] == [{"type": "gb200", "count": 8}]  # NVLink joins racks, not trays
    assert job(found)["finetune"] == {"method": "lora", "rank": 16, "targets": ["q", "k", "v", "o"], "base": "bf16"}
    assert (found.kind, "vpp" in job(found)["plan"]) == ("lora", True)
    constants = training(found).stack.constants_for("gb200")
    assert constants == training(found).stack.constants


def test_torchtitan_states_a_local_batch_and_operators() -> None:
    cells = {
        "table": "torchtitan", "framework": "torchtitan FSDP2", "gpu": "H100-96GB-HBM2e-500W", "precision": "fp8",
        "n_gpus": "512", "inter_link": "400 Gb/s per GPU RDMA (Grand Teton)", "tp": "8", "pp": "8", "dp": "8",
        "sharding": "FSDP2", "micro_batch": "local batch 32 split into pp microbatches", "global_batch": "256",
        "recompute": "full", "notes": "500 W cap; schedule Interleaved 1F1B, AsyncTP",
    }  # fmt: skip
    found = mapped(NEMO, LLAMA_405B, cells, cp="1")
    plan = job(found)["plan"]
    assert (job(found)["batch"]["micro"], plan["vpp"], plan["zero"]) == (4, 2, 3)
    assert plan["layers"] == [7] + [8] * 14 + [7]
    small = {"n_gpus": "8", "tp": "1", "pp": "1", "dp": "8", "micro_batch": "2", "global_batch": "16"}
    operators = mapped(NEMO, LLAMA_8B, cells, small, recompute="selective (op)", notes="500 W cap; FSDP")
    assert (operators.stack, job(operators)["plan"]["recompute"]) == ("torchtitan-eager", "operators")
    every = mapped(NEMO, LLAMA_8B, cells, small, recompute="selective (2)", notes="; FSDP + torch.compile")
    assert (every.stack, job(every)["plan"]["recompute"]) == ("torchtitan", {"every": 2})


def test_internevo_shards_within_a_node() -> None:
    cells = {
        "table": "internevo_a100", "framework": "InternEvo", "model": "internlm-7b", "kv_heads": "32",
        "ffn": "11008", "vocab": "103168", "seq_len": "2048", "gpu": "A100-80GB", "n_gpus": "64", "tp": "2", "pp": "1",
        "dp": "32", "inter_link": "4x100 Gb/s RoCE per node (50 Gb/s per GPU)", "sharding": "ZeRO-1: zero1 group=4",
        "micro_batch": "4", "global_batch": "512", "recompute": "none",
    }  # fmt: skip
    found = mapped(NEMO, LLAMA_8B, cells, cp="1", step_time_s="", tok_s_gpu="3650")
    plan = job(found)["plan"]
    assert (plan["zero"], plan["shard"], "sequence_parallel" in plan) == (1, "node", False)
    assert resolved(found).links["roce-50g"].bandwidth == 6.25e9
    assert (found.metric, found.unit) == ("tokens_per_s_per_gpu", "tokens/s per GPU")
    assert found.step_time_s == pytest.approx(512 * 2048 / 64 / 3650)
    assert found.assumptions == ()
    all_ranks = mapped(NEMO, LLAMA_8B, cells, cp="1", sharding="ZeRO-1: zero1 over all DP")
    assert "shard" not in job(all_ranks)["plan"]


def test_bloom_puts_fewer_layers_beside_the_embeddings() -> None:
    cells = {
        "table": "bloom_prequel_a100", "framework": "Megatron-DeepSpeed (2022)", "model": "bloom-probe-176B",
        "hidden": "14336", "layers": "70", "heads": "64", "kv_heads": "64", "ffn": "57344", "mlp_mats": "2",
        "vocab": "250880", "seq_len": "2048", "precision": "bf16/fp16 mixed", "gpu": "A100-80GB", "n_gpus": "384",
        "inter_link": "4x Omni-Path 100 Gb/s per node (memory: OPA100)", "tp": "4", "pp": "12", "dp": "8",
        "sharding": "ZeRO-1", "micro_batch": "2", "global_batch": "2048", "recompute": "full",
    }  # fmt: skip
    found = mapped(NEMO, cells, vpp="1", cp="1")
    assert found.stack == "megatron-deepspeed-2022"
    assert job(found)["plan"]["layers"] == [5] + [6] * 10 + [5]
    assert job(found)["precision"] == {"compute": "bf16", "gradients": "fp32"}
    assert resolved(found).links["infiniband-50g"].bandwidth == 6.25e9
    assert training(found).model.head_dim == 224
    assert reason(NEMO, cells, n_gpus="320", tp="8", pp="10") == "tp 8 x pp 10 x dp 8 is 640, not 320 GPUs"


def test_megatron_lm_rows_with_and_without_sequence_parallelism() -> None:
    cells = {
        "table": "megatron_lm", "framework": "Megatron-LM", "model": "gpt-22B", "hidden": "6144", "layers": "48",
        "heads": "64", "kv_heads": "64", "ffn": "24576", "mlp_mats": "2", "vocab": "51200", "seq_len": "2048",
        "precision": "fp16 mixed", "gpu": "A100-80GB", "n_gpus": "8", "tp": "8", "pp": "1", "dp": "1",
        "sharding": "DP=1", "micro_batch": "4", "global_batch": "4",
    }  # fmt: skip
    found = mapped(NEMO, cells, recompute="selective + sequence parallel")
    plan = job(found)["plan"]
    assert (plan["recompute"], plan["sequence_parallel"], plan["zero"]) == ("selective", True, 0)
    assert (found.stack, job(found)["precision"]) == ("megatron-2021", {"compute": "fp16"})
    assert "nics" not in node(found)
    plain = job(mapped(NEMO, cells, recompute="full (no SP)"))["plan"]
    assert (plain["recompute"], plain.get("sequence_parallel", False)) == ("full", False)


def test_papers_fsdp_without_degrees_is_data_parallel_alone() -> None:
    cells = {
        "table": "papers", "framework": "lit-gpt FSDP + FlashAttention2 fused", "gpu": "A100-40GB", "n_gpus": "16",
        "sharding": "FSDP", "micro_batch": "8", "global_batch": "1024", "recompute": "none", "inter_link": "",
        "intra_link": "", "tok_s_gpu": "24000", "step_time_s": "",
    }  # fmt: skip
    found = mapped(NEMO, TINY, cells)
    assert job(found)["plan"] | {"zero": 3} == {
        "tp": 1, "pp": 1, "cp": 1, "dp": 16, "zero": 3, "recompute": "none",
    }  # fmt: skip
    assert found.assumptions == ("sharded data parallelism alone", "25 GB/s of network a GPU (not stated)")


def test_fms_fsdp_states_its_network_per_node() -> None:
    cells = {
        "table": "ibm_fms_fsdp", "framework": "PyTorch FSDP1 + torch.compile + SDPA flash2", "n_gpus": "96", "tp": "1",
        "pp": "1", "dp": "96", "inter_link": '800 Gb/s per node ("96 GPUs with 800 Gbps")', "sharding": "HSDP",
        "micro_batch": "2", "global_batch": "192", "recompute": "selective",
    }  # fmt: skip
    found = mapped(NEMO, LLAMA_8B, cells)
    plan = job(found)["plan"]
    assert (plan["zero"], plan["shard"], plan["recompute"]) == (3, "node", "operators")
    assert node(found)["nics"] == [{"link": "infiniband-edr", "per_gpu": True}]


def test_mlperf_lora_and_its_ambiguous_interleaving() -> None:
    lora = {
        "table": "mlperf_training", "framework": "NVIDIA NeMo Framework Release 24.09", "gpu": "H200-SXM",
        "n_gpus": "8", "task": "LoRA finetune (rank 16, attention)", "tp": "1", "pp": "1", "cp": "2", "dp": "4",
        "sharding": "", "global_batch": "8", "precision": "fp8", "recompute": "", "inter_link": "",
    }  # fmt: skip
    found = mapped(NEMO, LLAMA_70B, lora)
    assert job(found)["finetune"]["base"] == "int8"  # 140 GB of 16-bit weights do not fit beside activations
    assert (found.stack, job(found)["plan"]["zero"]) == ("nemo-2025", 1)
    gpt = {
        "task": "pretrain (resumed segment)", "model": "gpt3-175b", "hidden": "12288", "layers": "96", "heads": "96",
        "kv_heads": "96", "ffn": "49152", "mlp_mats": "2", "vocab": "51200", "seq_len": "2048", "gpu": "H100-SXM",
        "n_gpus": "512", "tp": "4", "pp": "8", "vpp": "4-6", "cp": "1", "dp": "16", "global_batch": "2048",
        "recompute": "not stated", "inter_link": "Compute: 8x ConnectX-7 IB NDR 400Gb/s",
    }  # fmt: skip
    pretraining = mapped(NEMO, lora, gpt)
    assert job(pretraining)["plan"]["vpp"] == 6
    assert "vpp 6 (the table says 4-6)" in pretraining.assumptions


def test_qlora_over_pcie_offloads_to_the_host() -> None:
    found = mapped(QLORA, LLAMA_70B, sharding="ZeRO-3 (FSDP) + CPU offload")
    assert (found.stack, found.kind, found.gpu) == ("fsdp-qlora", "qlora", "rtx4090")
    assert job(found)["plan"]["offload"] == {"parameters": "host", "optimizer": "host"}
    assert (job(found)["finetune"]["base"], job(found)["precision"]["compute"]) == ("nf4", "bf16")
    assert "bus bandwidth 14.8 GB/s, the machine's own" in found.assumptions


def test_vtrain_rows() -> None:
    cells = {
        "gpus": "64", "global_batch": "512", "micro_batch": "8", "hidden": "3072", "heads": "32", "layers": "30",
        "seq": "2048", "tp": "2", "dp": "16", "pp": "2", "measured_iter_ms": "3566.5",
    }  # fmt: skip
    measured = vtrain_row("vtrain_multi", 1, cells)
    found = map_row(measured)
    assert isinstance(found, Mapped)
    assert (measured.table, measured.id, measured.step_time_s) == ("vtrain_multi", "vtrain_multi-001", 3.5665)
    assert (found.stack, job(found)["plan"]["recompute"], job(found)["plan"]["zero"]) == ("megatron-2021", "full", 0)
    assert (training(found).model.intermediate, training(found).model.vocabulary) == (12288, 51200)
    assert node(found)["nics"] == [{"link": "infiniband-edr", "per_gpu": True}]


# -- what is derived ----------------------------------------------------------------------------------------


def test_dp_is_what_the_other_degrees_leave() -> None:
    assert job(mapped(MPT_7B, dp="", tp="2"))["plan"]["dp"] == 8


def test_layers_left_over_go_to_the_middle_chunks() -> None:
    assert spread(126, 8) == [15, 16, 16, 16, 16, 16, 16, 15]
    assert spread(30, 32) == [0] + [1] * 30 + [0]
    assert spread(78, 12) == [6, 6, 6, 7, 7, 7, 7, 7, 7, 6, 6, 6]
    assert spread(5, 2) == [3, 2]


@pytest.mark.parametrize(
    ("cells", "gb_per_s"),
    [
        (QLORA, 14.8),
        (QLORA | {"gpu": "RTX3090"}, 2.6),
        ({"framework": "HF Trainer", "task": "pretrain", "gpu": "A6000", "precision": "bf16"}, 8.9),
        ({"framework": "HF Trainer", "task": "pretrain", "gpu": "RTX3090", "precision": "bf16"}, 7.2),
    ],
)
@pytest.mark.parametrize("gpus", [2, 8])
def test_measured_bus_bandwidth_is_what_large_collectives_reach(
    cells: dict[str, str], gb_per_s: float, gpus: int
) -> None:
    n = str(gpus)
    more = {"n_gpus": n, "gpus_per_node": n, "dp": n, "micro_batch": "1", "global_batch": n}
    found = resolved(mapped(QLORA, TINY, cells, more))
    topology = build_topology(found.topology, found.gpus.__getitem__, found.links.__getitem__, False)
    site = topology.site(range(gpus))
    parameters = collective_parameters(site, found.fabrics, ("nccl",))
    size = 4e9
    wire = 2 * (gpus - 1) / gpus * size
    assert wire / collective_seconds("all_reduce", size, parameters) == pytest.approx(gb_per_s * 1e9, rel=0.01)


# -- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"micro_batch": "not stated"}, "micro_batch is not stated"),
        ({"gpu": "B900"}, "GPU B900 is not in the catalogue"),
        ({"gpu": ""}, "GPU (none stated) is not in the catalogue"),
        ({"hidden": ""}, "the model's shape is not stated"),
        ({"seq_len": ""}, "seq_len is not stated"),
        ({"global_batch": "200"}, "micro_batch 8 x dp 16 does not divide global_batch 200"),
        ({"global_batch": ""}, "global_batch is not stated"),
        ({"dp": "8"}, "dp 8 is 8, not 16 GPUs"),
        ({"tp": "2"}, "tp 2 x dp 16 is 32, not 16 GPUs"),
        ({"dp": "", "tp": "3"}, "tp 3 does not divide 16 GPUs"),
        ({"n_gpus": "~2000 (up to)"}, "n_gpus is not stated"),
        ({"n_gpus": "12", "dp": "12", "global_batch": "96"}, "12 GPUs are no whole number of nodes of 8"),
        ({"heads": "33"}, "hidden 4096 is no multiple of 33 heads"),
        ({"framework": "JAX"}, "no training stack stands for JAX"),
        ({"precision": "nvfp4"}, "NVFP4 is no training format here"),
        ({"precision": ""}, "precision is not stated"),
        ({"sharding": "diagonal"}, "sharding 'diagonal' is not clear"),
        ({"recompute": "some"}, "recompute 'some' is not clear"),
        ({"step_time_s": ""}, "neither step time nor tokens/s is stated"),
        ({"model": "bert-large"}, "BERT: encoder with variable lengths"),
        ({"model": "deepseek-v3-671b"}, "DeepSeek-V3: latent attention is not modelled"),
        ({"task": "pretrain (whole run)"}, "GPU-hours of a whole run, restarts included"),
        ({"notes": "OUTLIER: broken env"}, "the table itself sets this row aside: OUTLIER: broken env"),
        ({"table": "other", "inter_link": ""}, "the network between nodes is not stated"),
        ({"tp": "", "sharding": "ZeRO-1"}, "tp is not stated"),
        ({"task": "LoRA finetune"}, "LoRA's rank and targets are not stated, and fsdp-composer has no default here"),
        ({"ep": "32"}, "ep 32 does not divide cp x dp = 16: experts spread over tensor ranks too"),
    ],
)
def test_rows_that_have_no_scenario_say_why(cells: dict[str, str], expected: str) -> None:
    assert reason(MPT_7B, cells) == expected


# -- reading ------------------------------------------------------------------------------------------------


def test_reading_ignores_unknown_columns_and_keeps_prose(tmp_path: Path) -> None:
    (tmp_path / "measured.csv").write_text("table,id,surprise,n_gpus,vpp,mem_gb\npapers,p-1,x,~2000 (up to),,83.5\n")
    (case,) = read_tables([tmp_path])
    assert (case.table, case.id, case.reason) == ("papers", "p-1", "neither step time nor tokens/s is stated")
    measured = row_of({"table": "papers", "n_gpus": "~2000 (up to)", "surprise": "x", "mem_gb": "83.5"})
    assert (measured.table, measured.n_gpus, measured.vpp, measured.mem_gb) == ("papers", None, None, 83.5)
    assert measured.texts == {"n_gpus": "~2000 (up to)"}
    endless = row_of({"step_time_s": "inf", "mem_gb": "nan", "n_gpus": "2.5", "vpp": "4.0"})
    assert (endless.step_time_s, endless.mem_gb, endless.n_gpus, endless.vpp) == (None, None, None, 4)


def test_reading_refuses_what_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no table in a documented format"):
        read_tables([tmp_path])
    (tmp_path / "measured.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"measured\.csv:1: is no measured table"):
        read_tables([tmp_path / "measured.csv"])


# -- comparison ---------------------------------------------------------------------------------------------


def test_summary_of_errors() -> None:
    assert summary([]) is None
    found = summary([-0.1, 0.2, 0.3])
    assert found is not None
    assert (found.n, found.median_abs_error, found.p90_abs_error, found.bias) == (3, 0.2, pytest.approx(0.28), 0.2)


def tiny_table() -> list[MeasuredRow]:
    """Two runs that differ in micro_batch, one more scaled out, one in tokens/s, one of quality C, one refused."""
    return [
        row(MPT_7B, id="a", micro_batch="8", step_time_s="10", mem_gb="40"),
        row(MPT_7B, id="b", micro_batch="4", step_time_s="12"),
        row(MPT_7B, id="c", micro_batch="8", step_time_s="10.1", n_gpus="32", dp="32", global_batch="512"),
        row(MPT_7B, id="d", micro_batch="2", step_time_s="", tok_s_gpu="2048"),  # 256 * 2048 / 16 / 2048 = 16 s
        row(MPT_7B, id="e", quality="C", step_time_s="1"),
        row(MPT_7B, id="f", micro_batch="not stated"),
    ]


def cases(rows: list[MeasuredRow]) -> list[Case]:
    return [training_case(measured) for measured in rows]


def told(rows: list[MeasuredRow], predict: Any) -> Validation:
    return compare(cases(rows), predictors={"training": predict})


def fake(answer: Mapping[int, float]) -> Any:
    """A prediction by micro-batch."""

    def predict(found: Resolved) -> dict[str, float]:
        (only,) = found.jobs
        assert isinstance(only, ResolvedTraining)
        batch, gpus = only.spec.batch, found.topology.gpus
        step = answer[batch.micro]
        tokens = batch.whole * batch.sequence / gpus / step
        return {"step_time_s": step, "tokens_per_s_per_gpu": tokens, "memory_peak_bytes": 44 * GIB}

    return predict


def test_comparison_of_a_tiny_table() -> None:
    heard: list[tuple[int, int]] = []
    predict = fake({8: 11.0, 4: 10.8, 2: 20.0})
    found = compare(cases(tiny_table()), lambda done, of: heard.append((done, of)), predictors={"training": predict})
    assert heard == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    a, b, _, d, e, f = found.rows
    assert (a.error, b.error) == (pytest.approx(0.1), pytest.approx(-0.1))
    assert (a.memory_error, b.memory_error, a.fits) == (pytest.approx(0.1), None, True)
    assert a.group == "a100-sxm-80gb / fsdp-composer / pretrain"
    # 20 s instead of 16 s: a fifth fewer tokens/s, which is what the table measures.
    assert (d.unit, d.measured, d.predicted) == ("tokens/s per GPU", 2048, pytest.approx(1638.4))
    assert d.error == pytest.approx(-0.2)
    assert (e.error, e.counted) == (pytest.approx(10.0), False)
    assert (f.mapped, f.reason, f.error) == (False, "micro_batch is not stated", None)
    table = found.table("llm_foundry")
    assert (table.rows, table.mapped, table.specified, table.specified_mapped) == (6, 5, 5, 4)
    # Times and a rate: the bias is that of speed, of which a step of 1.1 times its length has 1 / 1.1.
    speeds = sorted([1 / 1.1 - 1, 1 / 0.9 - 1, 10.1 / 11 - 1, -0.2])
    assert table.errors is not None
    assert (table.errors.n, table.errors.median_abs_error) == (4, pytest.approx(0.1))
    assert table.errors.bias == pytest.approx((speeds[1] + speeds[2]) / 2)
    group = found.group("a100-sxm-80gb / fsdp-composer / pretrain")
    assert table.errors == table.dense == Errors(**group.model_dump(exclude={"name"}))
    assert table.memory is not None
    assert (table.memory.n, table.memory.bias) == (1, pytest.approx(0.1))
    assert table.does_not_fit == 0
    assert table.reasons == {"micro_batch is not stated": 1}
    # Pairs by micro_batch: a-b (measured up, predicted down), a-d and b-d (same way); a-c is closer than 2%.
    assert table.directions == (Direction(knob="micro_batch", pairs=3, agree=2, share=2 / 3),)
    assert json.loads(found.model_dump_json())["rows"][0]["id"] == "a"


def test_directions_see_scaling_and_trades_against_dp() -> None:
    rows = [
        row(MPT_7B, id="a", step_time_s="10"),
        row(MPT_7B, id="b", step_time_s="11", n_gpus="32", dp="32", global_batch="512"),
        row(MPT_7B, id="c", step_time_s="6", n_gpus="32", dp="32"),
        row(MPT_7B, id="d", step_time_s="13", tp="2", dp="8"),
    ]

    def predict(found: Resolved) -> dict[str, float]:
        (only,) = found.jobs
        assert isinstance(only, ResolvedTraining)
        plan = only.spec.plan
        step = 5.0 * only.spec.batch.whole / 256 if plan.dp == 32 else 12.0 if plan.tp == 2 else 9.0
        return {"step_time_s": step, "tokens_per_s_per_gpu": 1.0, "memory_peak_bytes": 1.0}

    by_knob = {d.knob: (d.pairs, d.agree) for d in told(rows, predict).table("llm_foundry").directions}
    # a-b: 1.1 times the step of twice the tokens on twice the GPUs, predicted alike; b-c differ in batch alone.
    assert by_knob == {"tp": (1, 1), "dp": (2, 2)}


def test_a_measured_run_that_seems_not_to_fit_is_counted_not_refused() -> None:
    def predict(_: Resolved) -> dict[str, float]:
        return {"step_time_s": 10.0, "tokens_per_s_per_gpu": 1.0, "memory_peak_bytes": 90e9}

    found = told(tiny_table()[:2], predict)
    assert [r.fits for r in found.rows] == [False, False]
    assert found.table("llm_foundry").does_not_fit == 2


def test_refused_scenarios_keep_their_reason_and_executors_agree() -> None:
    def predict(found: Resolved) -> dict[str, float]:
        raise InfeasibleError("needs 90 GB of 80 GB", [("weights", "90 GB")])

    rows = tiny_table()[:2]
    alone = told(rows, predict)
    assert [r.reason for r in alone.rows] == ["needs 90 GB of 80 GB"] * 2
    assert (alone.table("llm_foundry").mapped, alone.table("llm_foundry").errors, alone.groups) == (0, None, ())
    steps = {"training": fake({8: 1.0, 4: 2.0})}
    assert compare(cases(rows), executor=SerialExecutor(), predictors=steps) == compare(cases(rows), predictors=steps)


# -- all measured rows --------------------------------------------------------------------------------------


def typed(folder: Path) -> list[MeasuredRow]:
    """The rows of all training tables in a folder."""
    found = []
    for name in ("measured", "vtrain_single", "vtrain_multi"):
        with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            read = list(csv.DictReader(file))
        found += [row_of(r) if name == "measured" else vtrain_row(name, n, r) for n, r in enumerate(read, start=1)]
    return found


@pytest.mark.skipif(not TRUTH.is_dir(), reason="the measured tables (../shared/data/truth/training) are not here")
def test_most_measured_rows_map_and_every_scenario_resolves() -> None:
    found = [(measured, map_row(measured)) for measured in typed(TRUTH)]
    dense = [answer for measured, answer in found if measured.quality == "A" and not is_mixture(measured)]
    share = sum(isinstance(answer, Mapped) for answer in dense) / len(dense)
    assert share >= 0.85, f"{share:.1%} of {len(dense)} dense rows of quality A"
    for measured, answer in found:
        if isinstance(answer, Mapped):
            job_ = training(answer)
            assert job_.spec.plan.gpus == resolved(answer).topology.gpus == answer.gpus, measured.id
        else:
            assert answer.reason, measured.id
