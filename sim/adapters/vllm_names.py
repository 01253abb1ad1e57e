"""The names of vLLM's arguments: which take a value, which have short forms, and which say nothing a scenario holds.

As of vLLM 0.11 (`vllm serve --help`), with those of versions from 0.4 on that have gone since.
"""

from __future__ import annotations

from typing import Final

#: Short forms.
SHORT: Final = {
    "tp": "tensor-parallel-size", "pp": "pipeline-parallel-size", "dp": "data-parallel-size",
    "dcp": "decode-context-parallel-size", "dpn": "data-parallel-rank", "dpr": "data-parallel-start-rank",
    "dpl": "data-parallel-size-local", "dpa": "data-parallel-address", "dpp": "data-parallel-rpc-port",
    "dpb": "data-parallel-backend", "q": "quantization", "O": "compilation-config", "cc": "compilation-config",
    "n": "nnodes", "r": "node-rank", "ac": "attention-config",
}  # fmt: skip
#: Arguments that are yes or no, and may have ``no-`` before them.
FLAGS: Final = frozenset({
    "enable-chunked-prefill", "enable-prefix-caching", "enable-expert-parallel", "enable-lora",
    "fully-sharded-loras", "enforce-eager", "disable-custom-all-reduce", "async-scheduling", "enable-dbo",
    "enable-eplb", "trust-remote-code", "skip-tokenizer-init", "enable-prompt-embeds", "disable-sliding-window",
    "disable-cascade-attn", "enable-sleep-mode", "use-tqdm-on-load", "data-parallel-hybrid-lb",
    "data-parallel-external-lb", "ray-workers-use-nsight", "calculate-kv-scales", "kv-sharing-fast-prefill",
    "enable-mm-embeds", "interleave-mm-strings", "skip-mm-profiling", "disable-mm-preprocessor-cache",
    "disable-chunked-mm-input", "disable-hybrid-kv-cache-manager", "disable-log-stats", "disable-log-requests",
    "enable-log-requests", "enable-log-outputs", "aggregate-engine-logging", "headless", "enable-auto-tool-choice",
    "enable-request-id-headers", "disable-uvicorn-access-log", "disable-fastapi-docs",
    "disable-frontend-multiprocessing", "enable-ssl-refresh", "return-tokens-as-token-ids",
    "enable-server-load-tracking", "enable-force-include-usage", "allow-credentials",
    "enable-prompt-tokens-details", "enable-tokenizer-info-endpoint", "exclude-tools-when-tool-choice-none",
    "use-v2-block-manager", "disable-async-output-proc", "engine-use-ray", "worker-use-ray", "enable-reasoning",
    "enable-lora-bias", "guided-decoding-disable-fallback", "guided-decoding-disable-any-whitespace",
    "guided-decoding-disable-additional-properties", "disable-nccl-for-dp-synchronization", "eplb-log-balancedness",
    "enable-multimodal-encoder-data-parallel", "trust-request-chat-template", "kv-cache-metrics",
    "cudagraph-metrics", "enable-mfu-metrics", "enable-layerwise-nvtx-tracing", "multi-step-stream-outputs",
    "enable-flashinfer-autotune",
})  # fmt: skip
#: Arguments that may take several values.
MANY: Final = frozenset({
    "served-model-name", "lora-modules", "prompt-adapters", "cudagraph-capture-sizes", "cuda-graph-sizes", "middleware",
    "collect-detailed-traces", "logits-processors",
})  # fmt: skip

#: Arguments that say nothing of time, memory or layout, by what they are about.
ELSEWHERE: Final[dict[str, tuple[str, ...]]] = {
    "names and loads files before anything is served": (
        "tokenizer", "tokenizer-mode", "tokenizer-revision", "revision", "code-revision", "trust-remote-code",
        "skip-tokenizer-init", "config-format", "hf-config-path", "hf-token", "load-format", "download-dir",
        "safetensors-load-strategy", "model-loader-extra-config", "ignore-patterns", "use-tqdm-on-load",
        "pt-load-map-location", "max-parallel-loading-workers", "allowed-local-media-path", "allowed-media-domains",
        "served-model-name", "model-impl", "tokenizer-pool-size", "tokenizer-pool-type",
        "tokenizer-pool-extra-config", "config", "quantization-param-path",
    ),
    "the HTTP server": (
        "host", "port", "uds", "api-key", "uvicorn-log-level", "disable-uvicorn-access-log", "allow-credentials",
        "allowed-origins", "allowed-methods", "allowed-headers", "ssl-keyfile", "ssl-certfile", "ssl-ca-certs",
        "ssl-cert-reqs", "enable-ssl-refresh", "root-path", "middleware", "disable-fastapi-docs", "chat-template",
        "chat-template-content-format", "response-role", "enable-auto-tool-choice", "tool-call-parser",
        "tool-parser-plugin", "tool-server", "reasoning-parser", "reasoning-parser-plugin", "enable-reasoning",
        "enable-request-id-headers", "disable-frontend-multiprocessing", "return-tokens-as-token-ids",
        "enable-server-load-tracking", "enable-force-include-usage", "enable-prompt-tokens-details",
        "enable-tokenizer-info-endpoint", "exclude-tools-when-tool-choice-none", "api-server-count", "headless",
        "h11-max-incomplete-event-size", "h11-max-header-count", "trust-request-chat-template",
        "default-chat-template-kwargs",
    ),
    "logs and metrics": (
        "disable-log-stats", "disable-log-requests", "enable-log-requests", "enable-log-outputs", "max-log-len",
        "log-config-file", "log-error-stack", "aggregate-engine-logging", "otlp-traces-endpoint",
        "collect-detailed-traces", "show-hidden-metrics-for-version", "ray-workers-use-nsight", "kv-events-config",
        "kv-cache-metrics", "cudagraph-metrics", "enable-mfu-metrics", "enable-layerwise-nvtx-tracing",
        "profiler-config",
    ),
    "sampling and the form of answers": (
        "seed", "generation-config", "override-generation-config", "logits-processor-pattern", "logits-processors",
        "max-logprobs", "logprobs-mode", "guided-decoding-backend", "guided-decoding-disable-fallback",
        "guided-decoding-disable-any-whitespace", "guided-decoding-disable-additional-properties",
        "structured-outputs-config", "enable-prompt-embeds",
    ),
    "pictures, sound and embeddings, which are not modelled": (
        "task", "runner", "convert", "pooler-config", "override-pooler-config", "limit-mm-per-prompt",
        "enable-mm-embeds", "media-io-kwargs", "mm-processor-kwargs", "mm-processor-cache-gb",
        "mm-processor-cache-type", "mm-shm-cache-max-object-size-mb", "mm-encoder-tp-mode", "mm-encoder-attn-backend",
        "interleave-mm-strings", "skip-mm-profiling", "video-pruning-rate", "disable-mm-preprocessor-cache",
        "disable-chunked-mm-input", "enable-multimodal-encoder-data-parallel", "default-mm-loras",
        "io-processor-plugin", "mamba-cache-dtype", "mamba-ssm-cache-dtype", "mamba-block-size", "image-input-type",
        "image-token-id", "image-input-shape", "image-feature-size",
    ),
    "how processes are started; what they cost is in the stack": (
        "distributed-executor-backend", "worker-use-ray", "engine-use-ray", "worker-cls", "worker-extension-cls",
        "data-parallel-rank", "data-parallel-start-rank", "data-parallel-size-local", "data-parallel-address",
        "data-parallel-rpc-port", "data-parallel-backend", "data-parallel-hybrid-lb", "data-parallel-external-lb",
        "disable-nccl-for-dp-synchronization", "nnodes", "node-rank", "master-addr", "master-port", "device",
        "enable-sleep-mode", "additional-config",
    ),
    "kernels and host time, which are the stack's (`define.stacks` changes them)": (
        "compilation-config", "cudagraph-capture-sizes", "cuda-graph-sizes", "max-cudagraph-capture-size",
        "max-seq-len-to-capture", "max-context-len-to-capture", "enforce-eager", "async-scheduling",
        "disable-async-output-proc", "num-scheduler-steps", "multi-step-stream-outputs", "attention-backend",
        "attention-config", "kernel-config", "override-attention-dtype", "disable-cascade-attn", "all2all-backend",
        "enable-flashinfer-autotune", "calculate-kv-scales", "optimization-level",
    ),
    "not modelled: the scheduler takes prompts first come, first served, in one line": (
        "max-num-partial-prefills", "max-long-partial-prefills", "long-prefill-token-threshold", "scheduler-cls",
        "scheduler-delay-factor", "num-lookahead-slots", "stream-interval",
    ),
    "priorities are those of the load's tenants": ("scheduling-policy",),
    "weights are on the GPUs: what is offloaded would be read over PCIe in every pass": ("cpu-offload-gb",),
    "the KV cache takes what gpu-memory-utilization leaves": ("num-gpu-blocks-override", "kv-cache-memory-bytes"),
    "replicas that take prompts and tokens apart are `jobs.disaggregate`": ("kv-transfer-config",),
    "context parallelism of serving is not modelled": ("decode-context-parallel-size", "prefill-context-parallel-size"),
    "experts are spread evenly (or as `expert_imbalance` says) and not moved": (
        "enable-eplb", "eplb-config", "expert-placement-strategy", "num-redundant-experts", "eplb-window-size",
        "eplb-step-interval", "eplb-log-balancedness",
    ),
    "two halves of a batch that take turns are `assume.tp_overlap`": (
        "enable-dbo", "dbo-decode-token-threshold", "dbo-prefill-token-threshold", "ubatch-size",
    ),
    "the model's shape is its catalogue entry's": (
        "hf-overrides", "rope-scaling", "rope-theta", "disable-sliding-window", "disable-hybrid-kv-cache-manager",
        "kv-sharing-fast-prefill",
    ),
    "the cache's bookkeeping takes no time": ("prefix-caching-hash-algo", "use-v2-block-manager"),
    "adapters are in 16 bits, of one rank, cut as vLLM cuts them by default": (
        "fully-sharded-loras", "lora-dtype", "lora-extra-vocab-size", "long-lora-scaling-factors", "enable-lora-bias",
        "enable-prompt-adapter", "prompt-adapters", "max-prompt-adapters", "max-prompt-adapter-token",
    ),
    "a draft keeps the limits of the model": (
        "spec-decoding-acceptance-method", "typical-acceptance-sampler-posterior-alpha",
        "typical-acceptance-sampler-posterior-threshold", "disable-logprobs-during-spec-decoding",
        "speculative-disable-mqa-scorer", "speculative-disable-by-batch-size", "speculative-max-model-len",
        "ngram-prompt-lookup-max", "ngram-prompt-lookup-min",
    ),
}  # fmt: skip
#: Why an argument has no counterpart, by its name.
REASONS: Final = {name: why for why, names in ELSEWHERE.items() for name in names}
#: Arguments that a scenario's keys stand for.
MAPPED: Final = frozenset({
    "model", "dtype", "quantization", "kv-cache-dtype", "tensor-parallel-size", "pipeline-parallel-size",
    "data-parallel-size", "enable-expert-parallel", "gpu-memory-utilization", "block-size", "max-num-seqs",
    "max-num-batched-tokens", "enable-chunked-prefill", "enable-prefix-caching", "preemption-mode", "swap-space",
    "kv-offloading-size", "kv-offloading-backend", "max-model-len", "disable-custom-all-reduce", "speculative-config",
    "speculative-model", "num-speculative-tokens", "speculative-draft-tensor-parallel-size",
    "speculative-model-quantization", "enable-lora", "max-loras", "max-lora-rank", "max-cpu-loras", "lora-modules",
})  # fmt: skip
KNOWN: Final = MAPPED | REASONS.keys()
