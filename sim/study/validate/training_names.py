"""What the words of measured training tables stand for here: data, not logic.

Each table spells GPUs, frameworks, sharding and recomputation its own way. Where a source is silent, the value used is
in the ``ASSUMED`` dictionaries or beside an ``assumption``, so that each mapped row can say what it rests on. Sources:
the tables' own notes, and docs/model.md ("Training") for the cards a cluster is taken to have. Defaults of libraries
and scripts are recalled, not looked up.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

#: GPUs as tables call them -> catalogue id.
GPUS: Final = {
    "A10": "a10",
    "A100-40GB": "a100-sxm-40gb",
    "A100-80GB": "a100-sxm-80gb",
    "A100-80GB (memory: single A100)": "a100-sxm-80gb",
    "A100-PCIe-80GB": "a100-pcie-80gb",
    "A40": "a40",
    "A6000": "rtxa6000",
    "A6000Ada": "rtx6000ada",
    "A800-80GB": "a800-sxm-80gb",
    "B200": "b200-sxm",
    "B300": "b300-sxm",
    "GB200": "gb200",
    "H100-96GB-HBM2e-500W": "h100-sxm-96gb-500w",
    "H100-PCIe": "h100-pcie",
    "H100-SXM": "h100-sxm",
    "H200-SXM": "h200-sxm",
    "H800": "h800-sxm",
    "RTX3090": "rtx3090",
    "RTX4090": "rtx4090",
}

#: GPUs whose NVLink joins more than the tray a table calls a node (NVL72), by GPU id: as much as a node may hold here.
RACK_GPUS: Final = {"gb200": 64}


class StackName(NamedTuple):
    """A training stack, and what a table that names the framework alone does not say of it.

    ``gradients``: the format gradients are summed in; no table states it, so it is the reading under which the stack's
    fitted constants reproduce their stated errors (tried on these tables, not independent of them).
    ``sequence_parallel``: whether tensor ranks split the sequence.
    """

    id: str
    gradients: str | None = None
    sequence_parallel: bool = False
    assumption: str | None = None


_NEMO = StackName("nemo-2025", "fp32", sequence_parallel=True)
_TITAN = StackName("torchtitan", "fp32", sequence_parallel=True)
_HF = StackName("hf-trainer", "fp32")
_FINETUNE = StackName("hf-deepspeed-finetune", "bf16")

#: Start of a framework's name -> stack; the first that fits.
STACKS: Final[tuple[tuple[str, StackName], ...]] = (
    ("Composer/PyTorch FSDP", StackName("fsdp-composer", "fp32")),
    ("MaxText/JAX", StackName("maxtext", "bf16")),
    ("NeMo/Megatron-Core", _NEMO),
    ("Megatron-Core", _NEMO),
    ("torchtitan FSDP2", _TITAN),
    ("InternEvo", StackName("internevo", "bf16")),
    ("Megatron-DeepSpeed (vTrain)", StackName("megatron-2021")),
    ("Megatron-DeepSpeed", StackName("megatron-deepspeed-2022", "fp32")),
    ("Megatron-LM", StackName("megatron-2021")),
    ("Meta internal", StackName("generic", "fp32", sequence_parallel=True,
                                assumption="no stack is fitted to Meta's own framework: generic constants")),
    ("PyTorch FSDP1 + torch.compile", StackName("fms-fsdp", "bf16")),
    ("lit-gpt FSDP", _HF),
    ("FSDP + bitsandbytes", StackName("fsdp-qlora", "bf16")),
    ("HF Trainer / DeepSpeed", _FINETUNE),
    ("HF Trainer", _HF),
    ("DeepSpeed 0.14.2 + HF", StackName("hf-deepspeed", "bf16")),
    ("nanochat", _HF),
    ("PyTorch loop, compiled", StackName("pytorch", "fp32")),
    ("PyTorch loop", StackName("torchtitan-eager", "fp32", assumption="constants of torchtitan without torch.compile")),
)  # fmt: skip

#: Tables whose frameworks column names releases only: all of MLPerf's language models ran NeMo.
TABLE_STACKS: Final = {"mlperf_training": _NEMO}

#: Number formats as tables call them -> (compute, assumption).
PRECISIONS: Final[dict[str, tuple[str, str | None]]] = {
    "amp_bf16": ("bf16", None),
    "amp_fp8": ("fp8", None),
    "bf16": ("bf16", None),
    "bf16/fp16 mixed": ("bf16", None),
    "fp16": ("fp16", None),
    "fp16 mixed": ("fp16", None),
    "fp8": ("fp8", None),
    "fp8-cs": ("fp8", None),
    "fp8-mx": ("fp8", "MXFP8 taken as FP8 of one scale a tensor"),
    "fp8-rowwise": ("fp8", "row-wise FP8 taken as FP8 of one scale a tensor, whose kernels are faster"),
    "fp8-tensorwise": ("fp8", None),
    "int4 weights": ("bf16", None),
    "mxfp8": ("fp8", "MXFP8 taken as FP8 of one scale a tensor"),
    "nf4 weights/bf16 compute": ("bf16", None),
}

#: Formats that training does not compute in here.
UNMODELLED_PRECISIONS: Final = {"nvfp4": "NVFP4 is no training format here"}


class Sharding(NamedTuple):
    """What is sharded over which data-parallel ranks, what leaves the GPU, and whether communication may hide."""

    zero: int
    shard: str = "all"
    offload: tuple[str, ...] = ()
    overlap: bool = True
    assumption: str | None = None


#: Start of what tables say of sharding -> sharding; the first that fits.
SHARDINGS: Final[tuple[tuple[str, Sharding], ...]] = (
    ("ZeRO-3 (FSDP) + CPU offload", Sharding(3, offload=("parameters", "optimizer"))),
    ("ZeRO-3 opt-offload param-offload", Sharding(3, offload=("parameters", "optimizer"))),
    ("ZeRO-3 opt-offload", Sharding(3, offload=("optimizer",))),
    ("ZeRO-3", Sharding(3)),
    ("ZeRO-2-like (MegaScale)/ZeRO-1", Sharding(1, assumption="Megatron's distributed optimizer (ZeRO-1)")),
    ("ZeRO-2 opt-offload", Sharding(2, offload=("optimizer",))),
    ("ZeRO-2", Sharding(2)),
    ("ZeRO-1: zero1 over all DP", Sharding(1)),
    ("ZeRO-1: zero1 group=", Sharding(1, "node")),
    ("ZeRO-1 group=", Sharding(1, "node")),
    ("ZeRO-1", Sharding(1)),
    ("Megatron distributed optimizer (ZeRO-1)", Sharding(1)),
    ("DDP+distributed optimizer (ZeRO-1)", Sharding(1)),
    ("DDP", Sharding(0)),
    ("DP=1", Sharding(0)),
    ("none", Sharding(0)),
    ("HSDP", Sharding(3, "node")),
    ("FSDP (shard optimizer+grads; no param reshard)", Sharding(2)),
    ("FSDP", Sharding(3)),
    ("JAX FSDP=", Sharding(3)),
    ("DeepSpeed ZeRO (stage not stated)",
     Sharding(2, overlap=False, assumption="ZeRO stage not stated: 2, and nothing overlaps (the library's default)")),
)  # fmt: skip

#: What tables say of recomputation -> (recompute, assumption). "selective" alone depends on the stack.
RECOMPUTE: Final[dict[str, tuple[str, str | None]]] = {
    "full": ("full", None),
    "full (no SP)": ("full", None),
    "none": ("none", None),
    "none (memory)": ("none", None),
    "selective": ("operators", "selective recomputation taken as that of operators"),
    "selective (op)": ("operators", None),
    "selective + sequence parallel": ("selective", None),
}
#: Where recomputation is not stated, by stack.
ASSUMED_RECOMPUTE: Final = {"hf-deepspeed-finetune": "full", "maxtext": "full", "megatron-2021": "selective"}


#: Chunks a stage where a table leaves them out and NVIDIA's other tables of the same model and layout state them.
ASSUMED_CHUNKS: Final = {("nvidia_dgxc_h100", "nemotron4-340b"): 12}


class Card(NamedTuple):
    """Cards between nodes: ``gigabits`` a GPU (a node, where ``whole_node``), of a kind; what was assumed."""

    gigabits: float
    kind: str = "infiniband"
    whole_node: bool = False
    assumption: str | None = None


#: Part of what tables say of the network -> cards; the first that fits.
CARDS: Final[tuple[tuple[str, Card], ...]] = (
    ("4x100 Gb/s RoCE per node", Card(400, "roce", whole_node=True)),
    ("4x Omni-Path 100 Gb/s per node", Card(400, whole_node=True)),
    ("4 Omni-Path links per node", Card(400, whole_node=True)),
    ("8x HDR 200 Gb/s per node", Card(1600, whole_node=True)),
    ("8x200 Gb/s", Card(1600, "roce", whole_node=True)),
    ("1600 Gb/s per node RoCE", Card(1600, "roce", whole_node=True)),
    ("800 Gb/s per node", Card(800, whole_node=True)),
    ("400 Gb/s per node", Card(400, whole_node=True)),
    ("400 Gb/s per GPU", Card(400)),
    ("400 Gb/s NDR IB per GPU", Card(400)),
    ("400 Gb/s RoCE per GPU", Card(400, "roce")),
    ("Storage&Compute: 4x ConnectX-7 IB NDR 400Gb/s", Card(1600, whole_node=True)),
)
#: Where a table does not state it, by table.
ASSUMED_CARDS: Final = {
    "llm_foundry": Card(400),
    "nvidia_dgxc_h100": Card(400),
    "nvidia_moe_h100": Card(400),
    "nvidia_nemo_perf": Card(400),
    "mlperf_training": Card(400),
    "papers": Card(200),
}

#: Catalogue links by kind and Gb/s; rates between them are defined by the scenario, like the nearest.
LINKS: Final = {
    ("infiniband", 100.0): "infiniband-edr",
    ("infiniband", 200.0): "infiniband-hdr",
    ("infiniband", 400.0): "infiniband-ndr",
    ("roce", 100.0): "roce-100g",
    ("roce", 200.0): "roce-200g",
    ("roce", 400.0): "roce-400g",
}

#: Bus bandwidth (GB/s) of PCIe machines whose tables identify it, by stack and GPU id: a machine's own number, the
#: route through host memory and the board included (docs/model.md, "Training").
BUS_GB_PER_S: Final = {
    ("fsdp-qlora", "rtx3090"): 2.6,
    ("fsdp-qlora", "rtx4090"): 14.8,
    ("hf-trainer", "rtx3090"): 7.2,
    ("hf-trainer", "rtxa6000"): 8.9,
}
BUS_LINK: Final = ("pcie4-x16", 31.5)
BUS_LATENCY: Final = {"alpha": "20 us", "step": "2 us"}

#: Models that share their token table with the output head, by the start of their name.
TIED: Final = ("bloom", "gpt-", "gpt3-", "mpt-")

#: LoRA: (rank, targets), by stack.
LORA: Final[dict[str, tuple[int, tuple[str, ...], str]]] = {
    "fsdp-qlora": (64, ("q", "k", "v", "o", "gate", "up", "down"), "LoRA of rank 64 on all products (its default)"),
    "hf-deepspeed-finetune": (64, ("q", "k", "v", "o", "gate", "up", "down"),
                              "LoRA of rank 64 on all products (the script's default)"),
    "nemo-2025": (16, ("q", "k", "v", "o"), "LoRA of rank 16 on the attention's products"),
}  # fmt: skip

#: Mixtures of experts whose tables leave the shape out. Qwen3: Megatron arguments of THUDM/slime scripts/models;
#: Grok-1: xai-org/grok-1 README, width of its experts recalled; GPT-OSS: the defaults of Hugging Face's GptOssConfig.
MIXTURES: Final[dict[str, dict[str, Any]]] = {
    "Grok-314b": {
        "layers": 64, "hidden": 6144, "heads": 48, "kv_heads": 8, "head_dim": 128, "intermediate": 32768,
        "vocabulary": 131072, "experts": 8, "experts_per_token": 2,
    },
    "GPT OSS 120B": {
        "layers": 36, "hidden": 2880, "heads": 64, "kv_heads": 8, "head_dim": 64, "intermediate": 2880,
        "vocabulary": 201088, "experts": 128, "experts_per_token": 4,
    },
    "Qwen3_30B_a3B": {
        "layers": 48, "hidden": 2048, "heads": 32, "kv_heads": 4, "head_dim": 128, "intermediate": 6144,
        "vocabulary": 151936, "experts": 128, "experts_per_token": 8, "expert_intermediate": 768,
    },
    "Qwen3_235B_a22B": {
        "layers": 94, "hidden": 4096, "heads": 64, "kv_heads": 4, "head_dim": 128, "intermediate": 12288,
        "vocabulary": 151936, "experts": 128, "experts_per_token": 8, "expert_intermediate": 1536,
    },
}  # fmt: skip

#: Starts of the names of all mixtures of experts that tables list.
MIXTURE_STARTS: Final = (*MIXTURES, "DeepSeekV", "deepseek-v3", "Kimi_K2", "Nemotron_3")

#: Start of a model's name -> why it cannot be described here.
UNMODELLED: Final = {
    "DeepSeekV4": "DeepSeek-V4: its attention is not modelled",
    "DeepSeekV3": "DeepSeek-V3: latent attention is not modelled",
    "deepseek-v3": "DeepSeek-V3: latent attention is not modelled",
    "Kimi_K2": "Kimi K2: latent attention is not modelled",
    "Nemotron_3": "Nemotron 3: state-space layers are not modelled",
    "SDXL": "SDXL is a diffusion model",
    "bert": "BERT: encoder with variable lengths",
    "idefics": "IDEFICS: vision and language",
}
