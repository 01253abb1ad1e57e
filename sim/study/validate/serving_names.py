"""What the words of measured serving tables stand for here: data, not logic.

Where a source is silent, the value used stands beside an ``assumption``, so that each mapped row can say what it rests
on. Shapes of models that the catalogue lacks are those of their Hugging Face configurations, recalled.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

#: GPUs as tables call them -> catalogue id.
GPUS: Final = {
    "3070 8GB": "rtx3070",
    "3080 10GB": "rtx3080",
    "3080 Ti 12GB": "rtx3080ti",
    "3090 24GB": "rtx3090",
    "4070 Ti 12GB": "rtx4070ti",
    "4080 16GB": "rtx4080",
    "4090 24GB": "rtx4090",
    "A100 80GB (x8 node)": "a100-sxm-80gb",
    "A100 80GB PCIe": "a100-pcie-80gb",
    "A100 PCIe 80GB": "a100-pcie-80gb",
    "A100 SXM 80GB": "a100-sxm-80gb",
    "A10G 24GB": "a10g",
    "A40 48GB": "a40",
    "AMD Instinct MI300X 192GB HBM3": "mi300x",
    "AMD Instinct MI325X 256GB HBM3e": "mi325x",
    "AMD Instinct MI355X 288GB HBM3e": "mi355x",
    "B200": "b200-sxm",
    "GB200": "gb200",
    "H100": "h100-sxm",
    "H100 PCIe 80GB": "h100-pcie",
    "H100 SXM 80GB": "h100-sxm",
    "H200": "h200-sxm",
    "H200 141GB": "h200-sxm",
    "L40S": "l40s",
    "L40S 48GB": "l40s",
    "M1 Max 32-Core GPU 64GB": "m1-max",
    "M1 Ultra (48 GPU Core) 64GB": "m1-ultra",
    "M2 Ultra 76-Core GPU 192GB": "m2-ultra",
    "M3 Max 40-Core GPU 64GB": "m3-max",
    "M3 Ultra 512GB": "m3-ultra",
    "NVIDIA B200-SXM-180GB": "b200-sxm",
    "NVIDIA GB200": "gb200",
    "NVIDIA H100-SXM-80GB": "h100-sxm",
    "NVIDIA H200-SXM-141GB": "h200-sxm",
    "NVIDIA L40S": "l40s",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "rtxpro6000",
    "Nvidia 4090": "rtx4090",
    "Nvidia 5090": "rtx5090",
    "Nvidia RTX 3080 Ti": "rtx3080ti",
    "Nvidia RTX 4070 Ti": "rtx4070ti",
    "Nvidia RTX 4090": "rtx4090",
    "RTX 3090": "rtx3090",
    "RTX 3090 Ti": "rtx3090ti",
    "RTX 4000 Ada 20GB": "rtx4000ada",
    "RTX 4090": "rtx4090",
    "RTX 5000 Ada 32GB": "rtx5000ada",
    "RTX 6000 Ada 48GB": "rtx6000ada",
    "RTX A6000 48GB": "rtxa6000",
    "RTX PRO 6000 Blackwell Server": "rtxpro6000",
    "Virtualized NVIDIA H200-SXM-141GB": "h200-sxm",
}

#: Part of what tables call a machine without GPUs.
WITHOUT_GPU: Final = ("Raspberry Pi", "(CPU)")

#: Models as tables call them -> catalogue id.
MODELS: Final = {
    "DeepSeek R1 671b": "deepseek-v3",
    "DeepSeek-V3.1 671B": "deepseek-v3",
    "DeepSeek-V3/R1 671B": "deepseek-v3",
    "LLaMA 13B": "llama-2-13b",
    "LLaMA 70B": "llama-2-70b",
    "LLaMA 7B": "llama-2-7b",
    "LLaMA v3 70B": "llama-3-70b",
    "LLaMA v3.1 405B": "llama-3.1-405b",
    "LLaMA v3.1 70B": "llama-3.1-70b",
    "LLaMA v3.1 8B": "llama-3.1-8b",
    "Llama 13B": "llama-2-13b",
    "Llama 2 13B": "llama-2-13b",
    "Llama 2 70B": "llama-2-70b",
    "Llama 2 7B": "llama-2-7b",
    "Llama 3 70B": "llama-3-70b",
    "Llama 3 8B": "llama-3-8b",
    "Llama 3.1 405B": "llama-3.1-405b",
    "Llama 3.1 8B": "llama-3.1-8b",
    "Llama 3.1:405b": "llama-3.1-405b",
    "Llama 3.1:70b": "llama-3.1-70b",
    "Llama 3.3 70B": "llama-3.1-70b",
    "Llama 7B": "llama-2-7b",
    "Llama-2-13B": "llama-2-13b",
    "Llama-2-70B": "llama-2-70b",
    "Llama-2-7B": "llama-2-7b",
    "Llama2-13B": "llama-2-13b",
    "Llama2-70B": "llama-2-70b",
    "Llama2-7B": "llama-2-7b",
    "Mistral 7B": "mistral-7b",
    "Mixtral 8x7B": "mixtral-8x7b",
    "TinyLlama 1.1B": "tinyllama-1.1b",
    "deepseek-r1": "deepseek-v3",
    "llama2-13b": "llama-2-13b",
    "llama2-7b": "llama-2-7b",
    "llama3.1-405b": "llama-3.1-405b",
    "llama3.1-8b": "llama-3.1-8b",
    "llama3_1-405b": "llama-3.1-405b",
    "llama3_1-8b": "llama-3.1-8b",
}


def _shape(
    layers: int, hidden: int, heads: int, kv_heads: int, intermediate: int, vocabulary: int, *, gated: bool = True,
    tied: bool = False, **more: Any,
) -> dict[str, Any]:  # fmt: skip
    return {
        "layers": layers, "hidden": hidden, "heads": heads, "kv_heads": kv_heads, "head_dim": hidden // heads,
        "intermediate": intermediate, "vocabulary": vocabulary, "gated": gated, "tied_embeddings": tied, **more,
    }  # fmt: skip


#: Models that the catalogue lacks, by name.
SHAPES: Final[dict[str, dict[str, Any]]] = {
    "CodeLlama-34B": _shape(48, 8192, 64, 8, 22016, 32000),
    "DeepSeek R1 14b": _shape(48, 5120, 40, 8, 13824, 152064),
    "Falcon 180B": _shape(80, 14848, 232, 8, 59392, 65024, gated=False, tied=True),
    "GPT-J 6B": _shape(28, 4096, 16, 16, 16384, 50400, gated=False),
    "Llama 33B": _shape(60, 6656, 52, 52, 17920, 32000),
    "Llama 3.2 3B": _shape(28, 3072, 24, 8, 8192, 128256, tied=True),
    "Llama 3.2:3b": _shape(28, 3072, 24, 8, 8192, 128256, tied=True),
    "Mixtral 8x22B": _shape(56, 6144, 48, 8, 16384, 32768, experts=8, experts_per_token=2),
    "OpenLlama 3B": _shape(26, 3200, 32, 32, 8640, 32000),
    "Phi-4-mini 3.8B": _shape(32, 3072, 24, 8, 8192, 200064, tied=True),
    "Qwen3-30B-A3B": _shape(48, 2048, 32, 4, 6144, 151936, experts=128, experts_per_token=8, expert_intermediate=768)
    | {"head_dim": 128},
    "internlm-20b": _shape(60, 5120, 40, 40, 13824, 103168),
}

#: Starts of the names of models that cannot be described here -> why.
UNMODELLED: Final = {
    "Gemma3": "Gemma 3: layers that look at a window of the context are not modelled",
    "Nemotron-3": "Nemotron 3: state-space layers are not modelled",
    "Qwen3-235B": "its quantisation is not stated",
    "Qwen3.": "Qwen 3.5 and 3.6: linear attention is not modelled",
    "gpt-oss": "gpt-oss: layers that look at a window of the context are not modelled",
}
#: Starts of the names of all mixtures of experts that tables list.
MIXTURES: Final = (
    "Mixtral", "Qwen3-30B", "Qwen3-235B", "deepseek", "DeepSeek-V3", "DeepSeek R1 671b", "gpt-oss", "Kimi",
)  # fmt: skip


class StackName(NamedTuple):
    """A serving stack and what was assumed to name it; ``chunk``: tokens of a prompt at once, where it is cut;
    ``by_memory``: layers go to cards as they have room, not evenly."""

    id: str
    assumption: str | None = None
    chunk: int | None = None
    by_memory: bool = False


_LLAMA_CPP = StackName("llama.cpp", chunk=512, by_memory=True)
_MLPERF = StackName("trtllm", "the submission's TensorRT-LLM taken as version 1.0")
_VLLM = "the submission's build of vLLM taken as the catalogue's"

#: (start of the engine, start of the version) -> stack; the first that fits.
STACKS: Final[tuple[tuple[str, str, StackName], ...]] = (
    ("TensorRT-LLM", "1.0", StackName("trtllm")),
    ("TensorRT-LLM", "0.14", StackName("trtllm-0.14")),
    ("TensorRT-LLM", "0.5", StackName("trtllm-0.6")),
    ("TensorRT-LLM", "0.6", StackName("trtllm-0.6")),
    ("TensorRT-LLM", "0.", StackName("trtllm-0.9")),
    ("TensorRT 1", "v", _MLPERF),
    ("vLLM 0.", "v", StackName("vllm", _VLLM)),
    ("Mango LLMBoost", "v", StackName("vllm", "LLMBoost (on vLLM) taken as vLLM")),
    ("vLLM", "2023", StackName("eager-2023")),
    ("vLLM", "", StackName("vllm")),
    ("TurboMind", "", StackName("lmdeploy-0.1")),
    ("llama.cpp", "", _LLAMA_CPP),
    ("ollama / llama.cpp", "", _LLAMA_CPP),
    ("MLC-LLM", "", StackName("mlc")),
    ("PyTorch", "eager", StackName("eager-2023", "a loop in Python taken as Transformers without CUDA graphs")),
    ("PyTorch", "", StackName("pytorch")),
    ("ExLlamaV2", "", StackName("exllamav2")),
    ("ExLlama", "", StackName("exllamav2", "ExLlama taken as its second version")),
)  # fmt: skip

#: Start of a format of weights -> (precision, assumption); the first that fits.
WEIGHTS: Final[tuple[tuple[str, tuple[str, str | None]], ...]] = (
    ("fp16", ("fp16", None)),
    ("bf16", ("bf16", None)),
    ("fp8 (inferred)", ("fp8", "weights in FP8 (inferred)")),
    ("fp8", ("fp8", None)),
    ("fp4 (inferred)", ("fp4", "weights in FP4 (inferred)")),
    ("fp4", ("fp4", None)),
    ("Q4_K_M", ("q4_k_m", None)),
    ("AWQ/GPTQ/Q4 4-bit", ("int4", "4 bits with groups of 128")),
    ("AWQ int4", ("int4", None)),
    ("GPTQ g128", ("int4", None)),
    ("GPTQ", ("int4", "groups of 128")),
    ("q4f16_1", ("int4", "groups of 32 taken as groups of 128 (4.5 against 4.2 bits)")),
    ("EXL2 4.0bpw", ("int4", "4.0 bits a weight taken as 4.2")),
    ("Q8_0", ("int8", "blocks of 8 bits taken as 8 bits")),
    ("8-bit", ("int8", None)),
)

#: Formats of the KV cache; where a table has none, that of 16 bits, or of 8 with narrow weights.
KV: Final = {
    "fp16": ("fp16", None), "bf16": ("bf16", None), "fp8": ("fp8", None),
    "fp8 (presumed)": ("fp8", "KV cache in FP8 (presumed)"),
}  # fmt: skip

#: Mean prompt (tokens) of MLPerf's data sets by model: Open Orca, CNN/DailyMail, LongBench and others. All recalled.
MLPERF_PROMPTS: Final = {"llama-2-70b": 155, "llama-3.1-8b": 778, "llama-3.1-405b": 9428, "mixtral-8x7b": 300}

#: MLPerf's limits on TTFT and TPOT by (model, mode), where a table leaves them out. Recalled from its rules.
MLPERF_LIMITS: Final = {
    ("llama-3.1-8b", "server_slo"): ("2 s", "100 ms"),
    ("llama-3.1-8b", "interactive_slo"): ("500 ms", "30 ms"),
    ("llama-3.1-405b", "server_slo"): ("6 s", "175 ms"),
    ("llama-3.1-405b", "interactive_slo"): ("4.5 s", "80 ms"),
    ("mixtral-8x7b", "server_slo"): ("2 s", "200 ms"),
}

#: Metrics that no scenario tells, with the reason.
NOT_TOLD: Final = {
    "decode_rate_wall_specdec": "speculative decoding is not modelled",
    "network_bytes_per_token": "bytes through one host, which tensor parallelism over CPUs sends",
    "p2p_latency": "the latency of one copy, no serving",
    "throughput_input": "includes prompts found in an on-disk cache",
    "tpot_compute": "a part of a token's time",
    "tpot_network": "a part of a token's time",
    "mem": "the KV pool is allocated beforehand, at a size that is not stated",
}
