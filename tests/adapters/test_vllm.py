"""vLLM's arguments: read wherever people have them, each mapped or told why not, none dropped."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from sim.adapters.lookup import Library
from sim.adapters.vllm_arguments import Argument, parse_command, read_arguments
from sim.adapters.vllm_limits import with_defaults
from sim.adapters.vllm_models import model_of, weights_of
from sim.adapters.vllm_names import FLAGS, KNOWN, MANY, MAPPED, REASONS, SHORT
from sim.adapters.vllm_scenario import Mapped, map_arguments, scenario_text
from sim.errors import InputError

MODEL = "meta-llama/Llama-3.1-70B-Instruct"
WORDS = f"{MODEL} --tensor-parallel-size 8 --max-num-seqs 64 --enable-prefix-caching --served-model-name a b"
NGRAMS = """--speculative-config '{"method": "ngram", "num_speculative_tokens": 4}'"""
#: Values of mapped arguments that are not whole numbers.
VALUES = {
    "dtype": "bfloat16", "quantization": "fp8", "kv-cache-dtype": "fp8", "gpu-memory-utilization": "0.9",
    "preemption-mode": "swap", "speculative-config": '{"method": "ngram", "num_speculative_tokens": 3}',
    "speculative-model": "[ngram]", "lora-modules": "a=/a", "model": "llama-3.1-8b",
}  # fmt: skip


def mapped(words: str) -> Mapped:
    return map_arguments(parse_command(f"vllm serve {words}"))


def job(words: str) -> dict[str, Any]:
    return mapped(words if "--model" in words else f"llama-3.1-70b {words}").job


def complaints(words: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        mapped(words)
    return str(caught.value).splitlines()


def pairs(arguments: list[Argument]) -> dict[str, Any]:
    return {argument.name: argument.value for argument in arguments}


# ---- Nothing is dropped


def test_every_known_argument_is_mapped_or_has_a_reason() -> None:
    assert not MAPPED & REASONS.keys()
    assert FLAGS | MANY | set(SHORT.values()) <= KNOWN


@pytest.mark.parametrize("name", sorted(KNOWN - {"model"}))
def test_every_argument_is_told_or_listed_with_its_reason(name: str) -> None:
    value = "" if name in FLAGS else VALUES.get(name, "2")
    written = f"--{name} {value}".strip()
    more = " --num-speculative-tokens 2" if name == "speculative-model" else ""
    found = mapped(f"llama-3.1-8b --{name} '{value}'{more}" if value else f"llama-3.1-8b --{name}")
    lines = [line for line in (*found.told, *found.left) if line.startswith(written)]
    assert len(lines) == 1, (found.told, found.left)
    assert len(lines[0]) > len(written) + 3
    assert (lines[0] in found.left) or name in MAPPED


def test_an_unknown_argument_is_answered_with_the_nearest() -> None:
    (line,) = complaints(f"{MODEL} --max-num-seq 4")
    assert line == "--max-num-seq is no argument of vLLM, did you mean '--max-num-seqs'?"
    assert len(complaints(f"{MODEL} --zzzz 4 --qqqq")) == 2


# ---- Where arguments stand


@pytest.mark.parametrize(
    "text",
    [
        f"vllm serve {WORDS}",
        f"HF_TOKEN=x /opt/bin/vllm serve {WORDS} > log.txt 2>&1 &",
        f"python3 -m vllm.entrypoints.openai.api_server --model {WORDS}",
        f"docker run --gpus all -p 8000:8000 vllm/vllm-openai:v0.11.0 --model {WORDS}",
        f"bash -c 'exec vllm serve {WORDS}'",
        "#!/bin/sh\n# vllm serve that\nexport A=1\nvllm serve " + WORDS.replace(" --", " \\\n  --") + "\necho done\n",
        WORDS,
        WORDS.replace("--tensor-parallel-size 8", "-tp=8"),
        WORDS.replace("--tensor-parallel-size 8", "--tensor_parallel_size=8"),
        WORDS.replace("--enable-prefix-caching", "--enable-prefix-caching true"),
    ],
)
def test_commands_are_found_in_what_is_around_them(text: str) -> None:
    assert pairs(parse_command(text)) == {
        "model": MODEL, "tensor-parallel-size": "8", "max-num-seqs": "64", "enable-prefix-caching": True,
        "served-model-name": ["a", "b"],
    }  # fmt: skip


NAMED = {"model": MODEL, "tensor-parallel-size": 8, "max_num_seqs": 64, "enable_prefix_caching": True}
ARGS = [MODEL, "-tp", "8", "--max-num-seqs", "64", "--enable-prefix-caching"]
CONTAINER = {"image": "vllm/vllm-openai:latest", "command": ["--model", *ARGS]}
SHELL = {"image": "mine", "entrypoint": "sh -c", "command": ["vllm serve " + " ".join(ARGS)]}
CONTAINERS = [{"image": "x", "command": ["vllm", "serve"], "args": ARGS}]
POD = {"kind": "Deployment", "spec": {"template": {"spec": {"containers": CONTAINERS}}}}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("args.yaml", yaml.safe_dump(NAMED)),
        ("args.json", json.dumps(NAMED)),
        ("words.json", json.dumps(["vllm", "serve", *ARGS])),
        ("compose.yaml", yaml.safe_dump({"services": {"db": {"image": "postgres"}, "llm": CONTAINER}})),
        ("compose.yml", yaml.safe_dump({"services": {"llm": SHELL}})),
        ("pod.yaml", yaml.safe_dump(POD)),
        ("serve.sh", f"vllm serve {MODEL} \\\n -tp 8 --max-num-seqs 64 \\\n --enable-prefix-caching\n"),
    ],
)
def test_files_hold_the_same_arguments(tmp_path: Any, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    found = map_arguments(read_arguments(str(tmp_path / name)))
    assert found.model == "llama-3.1-70b"
    assert found.job["plan"] == {"tp": 8}
    assert found.job["batching"] == {"policy": "continuous", "max_sequences": 64, "prefix_caching": True}
    assert found.left == []


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "model: x\ntensor-paralel-size: 8\n", "a.yaml:2:22: tensor-paralel-size: is no argument of vLLM, "
         "did you mean 'tensor-parallel-size'?"),
        ("a.yaml", "services:\n  a: {command: vllm serve $MODEL}\n", "services.a.command: $MODEL is a variable"),
        ("a.yaml", "services:\n  a: {command: vllm serve x}\n  b: {command: vllm serve y}\n", "several containers run"),
        ("a.json", "3", "holds neither arguments by name nor a container"),
        ("a.sh", "vllm serve a\nvllm serve b\n", "2 commands of vLLM stand there"),
        ("a.sh", "echo hello\n", "'echo hello' is no command of vLLM"),
        ("a.sh", "vllm serve 'a\n", "cannot be read as a command (no closing quotation)"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read_say_why(tmp_path: Any, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        read_arguments(str(tmp_path / name))
    assert said in str(caught.value)


def test_a_file_that_is_not_there_is_not_taken_for_a_command() -> None:
    with pytest.raises(InputError, match=r"no such file: serve\.sh"):
        read_arguments("serve.sh")


# ---- What they become


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ("-tp 4 -pp 2 -dp 3", {"plan": {"tp": 4, "pp": 2, "dp": 3}}),
        ("--model mistralai/Mixtral-8x7B-Instruct-v0.1 -tp 8 --enable-expert-parallel", {"plan": {"tp": 8, "ep": 8}}),
        ("--model mistralai/Mixtral-8x7B-v0.1 -dp 8 --enable-expert-parallel",
         {"plan": {"tp": 8, "ep": 8, "attention": "data"}}),
        ("", {"plan": {"tp": 1}, "precision": {"weights": "fp16", "kv": "fp16"}, "batching": {"policy": "continuous"}}),
        ("--quantization awq_marlin", {"precision": {"weights": "int4", "kv": "fp16"}}),
        ("--dtype bfloat16", {"precision": {"weights": "bf16", "kv": "bf16"}}),
        ("--dtype half -q fp8 --kv-cache-dtype fp8_e5m2", {"precision": {"weights": "fp8", "kv": "fp8"}}),
        ("--max-num-batched-tokens 8k", {"batching": {"policy": "continuous", "max_batched_tokens": 8000}}),
        ("--max-num-batched-tokens 8K", {"batching": {"policy": "continuous", "max_batched_tokens": 8192}}),
        ("--max-num-seqs 8 --max-num-seqs 9", {"batching": {"policy": "continuous", "max_sequences": 9}}),
        ("--no-enable-chunked-prefill", {"batching": {"policy": "prefill_first"}}),
        ("--enable-chunked-prefill=False", {"batching": {"policy": "prefill_first"}}),
        ("--preemption-mode swap", {"batching": {"policy": "continuous", "preemption": "swap"}}),
        ("--no-enable-prefix-caching", {"batching": {"policy": "continuous", "prefix_caching": False}}),
        ("--kv-offloading-size 64", {"batching": {"policy": "continuous", "prefix_caching": True, "kv_offload":
                                                  {"to": "host", "capacity": "64 GiB"}}}),
        (NGRAMS,
         {"speculative": {"tokens": 4, "acceptance": 0.7, "draft": "ngram"}}),
        ("--speculative-config.model meta-llama/Llama-3.2-1B --speculative-config.num_speculative_tokens 5 "
         "--speculative-config.draft_tensor_parallel_size 1",
         {"speculative": {"tokens": 5, "acceptance": 0.7, "draft": "llama-3.2-1b", "tp": 1}}),
        ("--speculative-model neuralmagic/Llama-3.2-1B-Instruct-FP8 --num-speculative-tokens 2",
         {"speculative": {"tokens": 2, "acceptance": 0.7, "draft": "llama-3.2-1b", "weights": "fp8"}}),
        ("--enable-lora --max-loras 4 --max-lora-rank 64", {"adapters": {"count": 4, "rank": 64}}),
        ("--enable-lora --max-loras 4 --max-cpu-loras 30 --max-num-seqs 4",
         {"adapters": {"count": 30, "rank": 16, "resident": 4}}),
        ("--enable-lora --max-loras 2 --lora-modules a=/a b=/b c=/c", {"adapters": {"count": 3, "rank": 16}}),
    ],
)  # fmt: skip
def test_arguments_become_keys(words: str, keys: dict[str, Any]) -> None:
    found = job(words)
    assert {key: found[key] for key in keys} == keys


def test_what_is_the_engines_or_the_models_becomes_a_definition() -> None:
    words = "--gpu-memory-utilization .85 --block-size 32 --max-model-len 16K --disable-custom-all-reduce"
    top = mapped(f"{MODEL} {words}").top
    assert (top["model"], top["stack"]) == ("llama-3.1-70b-16384", "vllm-own")
    assert top["define"] == {
        "stacks": {"vllm-own": {"like": "vllm", "memory": {"fraction": 0.85, "block_tokens": 32},
                                "collective_libraries": ["nccl"]}},
        "models": {"llama-3.1-70b-16384": {"like": "llama-3.1-70b", "context": 16384}},
    }  # fmt: skip
    assert mapped(MODEL).top == {"model": "llama-3.1-70b", "stack": "vllm"}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (f"-pp 2 {NGRAMS}", "speculation in a pipeline is not modelled"),
        (NGRAMS.replace("ngram", "eagle3"), "eagle3 is not modelled"),
        (f"--enable-lora {NGRAMS}",
         "drafts and adapters together are not modelled"),
        ("--enable-lora --enable-prefix-caching", "prefixes of different adapters have nothing in common"),
        ("--max-loras 4", "adapters are not enabled"),
        ("-tp 8 --enable-expert-parallel", "the model has no experts to spread"),
        ("--enable-lora --max-loras 4 --max-cpu-loras 30", "here all 30 are on the GPUs"),
        ("--quantization compressed-tensors", "stands in the model's files"),
        ("--dtype float32", "weights take 16 bits or fewer"),
        ("--cpu-offload-gb 10", "read over PCIe in every pass"),
    ],
)  # fmt: skip
def test_what_does_not_go_is_listed_with_its_reason(words: str, why: str) -> None:
    found = mapped(f"{MODEL} {words}")
    assert sum(why in line for line in found.left) == 1
    assert "speculative" not in found.job


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("-tp 8", "the arguments name no model"),
        (f"{MODEL} -tp eight", "-tp eight: must be a whole number, 1 or more"),
        (f"{MODEL} -tp 0", "-tp 0: must be a whole number, 1 or more"),
        (f"{MODEL} --gpu-memory-utilization 92", "must be above 0 and at most 1"),
        (f"{MODEL} --speculative-config no", "--speculative-config no: is no JSON object"),
        (f"{MODEL} --dtype fp16", "is auto, half, float16"),
        (f"{MODEL} --max-num-seqs", "--max-num-seqs has no value"),
        (f"{MODEL} another/model", "'another/model' is neither an argument nor the value of one"),
        ("meta-llama/Llama-9-70B", "is no model of the catalogue"),
        ("""meta-llama/Llama-3.1-8B --speculative-config '{"model": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
            "num_speculative_tokens": 3}'""", "tinyllama-1.1b has 32,000 tokens, llama-3.1-8b has 128,256"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_refused(words: str, said: str) -> None:
    assert any(said in line for line in complaints(words))


# ---- Names of models


@pytest.mark.parametrize(
    ("name", "known", "weights"),
    [
        ("meta-llama/Llama-2-7b-chat-hf", "llama-2-7b", None),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama-3-8b", None),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama-3.1-70b", None),
        ("hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4", "llama-3.1-70b", "int4"),
        ("neuralmagic/Meta-Llama-3.1-405B-Instruct-FP8-dynamic", "llama-3.1-405b", "fp8"),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w8a8", "llama-3.1-8b", "int8"),
        ("Qwen/Qwen2.5-72B-Instruct-GPTQ-Int4", "qwen2.5-72b", "int4"),
        ("Qwen/Qwen3-32B-FP8", "qwen3-32b", "fp8"),
        ("nvidia/Llama-3.3-70B-Instruct-FP4", "llama-3.1-70b", "fp4"),
        ("mistralai/Mistral-7B-Instruct-v0.2", "mistral-7b", None),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "tinyllama-1.1b", None),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "llama-3.1-70b", None),
    ],
)
def test_names_on_the_hub_are_known_by_their_shape(name: str, known: str, weights: str | None) -> None:
    assert model_of(name, Library()) == known
    assert weights_of(name) == weights


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-32B-Instruct", "meta-llama/Llama-3.2-3B", "mistralai/Mistral-7B-v0.3"])
def test_models_of_another_shape_are_not_taken_for_those_that_are_known(name: str) -> None:
    with pytest.raises(InputError, match="is no model of the catalogue"):
        model_of(name, Library())


def test_a_folder_with_a_config_is_a_model(tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert model_of(str(tmp_path), Library()) == str((tmp_path / "config.json").resolve())


# ---- The file


# ---- What they leave out


def limits(gpus: str, context: int = 8192, **batching: Any) -> tuple[int, int]:
    found = {"batching": {"policy": "continuous", **batching}}
    with_defaults(found, [Library().gpu(gpu) for gpu in gpus.split()], context)
    return found["batching"]["max_sequences"], found["batching"]["max_batched_tokens"]  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        ("h100-sxm", (1024, 8192)), ("h200-sxm", (1024, 8192)), ("mi300x", (1024, 8192)), ("rtxpro6000", (1024, 8192)),
        ("a100-sxm-80gb", (256, 2048)), ("a100-sxm-40gb", (256, 2048)), ("rtx4090", (256, 2048)),
        ("l40s", (256, 2048)), ("mi250x", (256, 2048)), ("m2-ultra", (256, 2048)), ("h100-sxm rtx4090", (256, 2048)),
    ],
)  # fmt: skip
def test_limits_left_out_follow_from_the_gpu_as_in_vllm(gpus: str, expected: tuple[int, int]) -> None:
    assert limits(gpus) == expected


def test_a_limit_that_is_given_stays_and_bounds_the_other() -> None:
    assert limits("h100-sxm", max_sequences=64) == (64, 8192)
    assert limits("h100-sxm", max_batched_tokens=512) == (512, 512)
    assert limits("h100-sxm", context=4) == (1024, 4096)
    assert limits("rtx4090", context=32_768, policy="prefill_first") == (256, 32_768)


def test_a_cache_of_prefixes_is_on_unless_told_otherwise() -> None:
    for words, expected in (("", True), ("--no-enable-prefix-caching", False), ("--enable-lora", None)):
        found = mapped(f"{MODEL} {words}")
        said = with_defaults(found.job, [Library().gpu("h100-sxm")], 8192)
        assert found.job["batching"].get("prefix_caching") is expected
        assert any("prefix" in line for line in said) == (words == "")


def test_the_file_tells_what_became_of_each_argument() -> None:
    found = mapped(f"{MODEL} -tp 8 --port 8000 --enforce-eager")
    text = scenario_text(found, "mine", "../topologies/dgx_h100_8.yaml", "a command")
    head = [line for line in text.splitlines() if line.startswith("#")]
    assert "# - -tp 8: jobs.0.plan.tp" in head
    assert "# - --port 8000: the HTTP server" in head
    assert any(line.startswith("# - --enforce-eager: kernels and host time") for line in head)
    assert yaml.safe_load(text)["jobs"][0]["plan"] == {"tp": 8}
