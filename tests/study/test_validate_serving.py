"""Measured serving rows as scenarios: what each mode becomes, what is refused, and what the predictors tell.

Rows are typed here cell by cell as the tables spell them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sim.adapters.resolve import Resolved, resolve
from sim.adapters.yaml_source import Source
from sim.jobs.play import play
from sim.laws.step import Chunk
from sim.study.validate.agreement import told
from sim.study.validate.cases import DECODE, LOADED, PREFILL, SATURATED, SERVED_MIXTURES, Case
from sim.study.validate.formats import read_tables
from sim.study.validate.predict import predict_capacity, predict_serving
from sim.study.validate.runner import compare
from sim.study.validate.serving_mapping import serving_case
from sim.study.validate.serving_tables import served_row

TRUTH = Path(__file__).parents[3] / "shared" / "data" / "truth" / "inference"
#: Every so many rows, to keep the test short.
EVERY = 8

STATIC = {
    "id": "s-1", "source": "TensorRT-LLM docs", "version": "0.8.0", "engine": "TensorRT-LLM", "mode": "static_batch",
    "model": "LLaMA 7B", "weights": "fp8", "kv_dtype": "fp8", "gpu": "H100 SXM 80GB", "n_gpus": "1", "tp": "1",
    "pp": "1", "interconnect": "NVLink4 900GB/s (SXM)", "batch": "64", "isl": "128", "osl": "128",
    "metric": "throughput", "value": "5000", "unit": "tok/s", "scope": "per_gpu",
}  # fmt: skip
OFFLINE = STATIC | {
    "version": "0.14.0", "mode": "offline_max", "model": "LLaMA v3 70B", "batch": "saturated", "scope": "system",
    "tp": "4", "n_gpus": "4",
}  # fmt: skip
BENCH = STATIC | {
    "version": "May 2024", "engine": "llama.cpp", "mode": "single_stream", "model": "Llama 3 8B", "kv_dtype": "fp16",
    "weights": "Q4_K_M (4.58GiB)", "gpu": "4090 24GB", "batch": "1", "isl": "0", "osl": "1024", "metric": "decode_rate",
    "scope": "system", "notes": "llama-bench",
}  # fmt: skip
LOOP = STATIC | {
    "version": "0.1.0", "engine": "TurboMind (lmdeploy)", "mode": "closed_loop_static", "model": "llama2-7b",
    "weights": "fp16", "kv_dtype": "fp16", "gpu": "A100 80GB (x8 node)", "batch": "16", "scope": "per_request",
}  # fmt: skip
MLPERF = STATIC | {
    "source": "MLPerf Inference v5.1", "version": "v5.1", "engine": "TensorRT 10.11, CUDA 12.9", "mode": "server_slo",
    "model": "Llama2-70B", "weights": "fp8 (inferred)", "kv_dtype": "", "gpu": "NVIDIA H100-SXM-80GB", "n_gpus": "8",
    "tp": "", "pp": "", "batch": "n/a", "isl": "dataset", "osl": "dataset", "scope": "system",
    "notes": "closed division; tokens/sample=294.4; SLO TTFT<=2s TPOT<=200ms (p99)",
}  # fmt: skip


def case(cells: dict[str, str], **more: str) -> Case:
    return serving_case(served_row(cells | more))


def mapped(cells: dict[str, str], **more: str) -> Case:
    found = case(cells, **more)
    assert found.scenario is not None, found.reason
    return found


def job(found: Case) -> dict[str, Any]:
    assert found.scenario is not None
    (only,) = found.scenario["jobs"]
    assert isinstance(only, dict)
    return only


def resolved(found: Case) -> Resolved:
    assert found.scenario is not None
    return resolve(Source(found.scenario, {}, found.scenario["name"]), Path())


# -- a row of each mode -------------------------------------------------------------------------------------


def test_a_static_batch_per_gpu() -> None:
    found = mapped(STATIC)
    assert (found.family, found.group) == (DECODE, "h100-sxm / trtllm-0.9 / static batch")
    assert (found.metric, found.unit, found.measured) == ("output_tokens_per_s", "tokens/s per GPU", 5000)
    assert job(found)["precision"] == {"weights": "fp8", "kv": "fp8"}
    assert job(found)["batching"] == {"policy": "static", "batch_size": 64}
    assert found.assumptions == ()
    four = mapped(STATIC, tp="4", n_gpus="4", model="LLaMA 70B")
    assert (four.group, four.scale) == ("h100-sxm / trtllm-0.9 / static batch, tp", 0.25)


def test_time_to_first_token_of_one_request() -> None:
    found = mapped(STATIC, metric="ttft", batch="1", unit="ms", value="16", scope="per_request")
    assert (found.family, found.unit, found.measured) == (PREFILL, "s", pytest.approx(0.016))
    assert job(found)["load"] == {"prompt_tokens": 128, "output_tokens": 1, "all_at_once": True, "requests": 1}


def test_offline_runs_are_checked_for_kv_and_name_the_version() -> None:
    found = mapped(OFFLINE)
    assert (found.family, found.group) == (SATURATED, "h100-sxm / trtllm-0.14 / offline, tp")
    assert "assume" not in (found.scenario or {})
    assert job(found)["load"]["requests"] == 3000
    assert job(mapped(OFFLINE, isl="20000", osl="2000"))["load"]["requests"] == 1000
    assert mapped(OFFLINE, version="1.0", engine="TensorRT-LLM (PyTorch backend)").group == (
        "h100-sxm / trtllm / offline, tp"
    )


def test_llama_bench_decodes_from_an_empty_context_and_cuts_prompts() -> None:
    found = mapped(BENCH)
    assert (found.metric, found.group) == ("decode_tokens_per_s", "rtx4090 / llama.cpp / one stream, decode")
    assert job(found)["precision"]["weights"] == "q4_k_m"
    assert (job(found)["load"]["prompt_tokens"], job(found)["load"]["output_tokens"]) == (1, 1024)
    prompt = mapped(BENCH, metric="prefill_rate", isl="4096", osl="0")
    assert (prompt.metric, prompt.family) == ("prefill_tokens_per_s", PREFILL)
    assert job(prompt)["batching"] == {"prefill_chunk": 512}
    layers = mapped(BENCH, pp="4", n_gpus="4", interconnect="RunPod PCIe (unspecified)")
    assert layers.group == "rtx4090 / llama.cpp / one stream, decode, pp"
    assert any("PCIe of the machine not stated" in text for text in layers.assumptions)


def test_a_closed_loop_has_as_many_clients_as_its_batch() -> None:
    found = mapped(LOOP, metric="itl_p50", unit="ms", value="20")
    assert (found.metric, found.measured, found.family) == ("inter_token_p50_s", pytest.approx(0.02), DECODE)
    assert job(found)["load"]["closed_loop"] == {"clients": 16}
    assert mapped(LOOP, metric="ttft_mean", unit="ms").family == LOADED


def test_a_submission_has_the_fewest_ranks_whose_weights_leave_room() -> None:
    found = mapped(MLPERF)
    assert (found.play, found.quality) == ("capacity", "B")
    assert job(found)["plan"] == {"tp": 2, "pp": 1}  # as the published one has it: four replicas of two
    assert found.scale == 4
    assert job(found)["objectives"] == {"ttft_p99": "2 s", "tpot_p99": "200 ms"}
    assert job(found)["load"]["output_tokens"] == 294
    assert any("4 replicas of tp 2" in text for text in found.assumptions)
    assert job(mapped(MLPERF, gpu="NVIDIA H200-SXM-141GB"))["plan"]["tp"] == 1
    assert job(mapped(MLPERF, gpu="NVIDIA L40S", interconnect="PCIe Gen 4"))["plan"]["tp"] == 4


def test_limits_left_out_are_those_of_the_benchmark() -> None:
    found = mapped(MLPERF, model="llama3.1-8b", notes="tokens/sample=129.0")
    assert job(found)["objectives"] == {"ttft_p99": "2 s", "tpot_p99": "100 ms"}
    assert any("limits of the benchmark" in text for text in found.assumptions)


# -- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (STATIC | {"gpu": "B900"}, "GPU B900 is not in the catalogue"),
        (STATIC | {"gpu": "Raspberry Pi 5 8GB"}, "nodes without a GPU are not modelled"),
        (STATIC | {"engine": "JetStream"}, "no serving stack stands for JetStream"),
        (STATIC | {"engine": "vLLM + MTP n=3 speculative", "version": ""}, "speculative decoding is not modelled"),
        (STATIC | {"weights": "EXL2 3.0bpw"}, "weights in 'EXL2 3.0bpw' are no format here"),
        (MLPERF | {"model": "deepseek-r1"},
         "whether attention is sliced or data-parallel is not stated, which decides with latents"),
        (STATIC | {"model": "Jamba"}, "the shape of Jamba is not known here"),
        (STATIC | {"batch": "n/a"}, "the batch is not stated"),
        (STATIC | {"batch": "0"}, "the batch is not stated"),
        (STATIC | {"isl": ""}, "the lengths of requests are not stated"),
        (STATIC | {"value": "n/a"}, "no value is stated"),
        (STATIC | {"unit": "furlongs"}, "unit furlongs is not clear"),
        (STATIC | {"mode": "production"}, "no scenario stands for throughput of mode production"),
        (STATIC | {"tp": "", "pp": ""}, "the plan is not stated"),
        (MLPERF | {"model": "CodeLlama-34B"}, "the plan is not stated"),
        (STATIC | {"tp": "0"}, "the plan is not stated"),
        (STATIC | {"tp": "16"}, "16 GPUs of one replica are no server of eight"),
        (BENCH | {"notes": "GPU/CPU; offloaded"}, "a part of the model ran on the host's processor"),
        (BENCH | {"notes": "OUTLIER: slow box"}, "the table itself sets this row aside: slow box"),
        (LOOP | {"metric": "mem"}, "the KV pool is allocated beforehand, at a size that is not stated"),
        (MLPERF | {"notes": "SLO TTFT<=2s TPOT<=200ms"}, "the lengths of the data set's requests are not known here"),
    ],
)  # fmt: skip
def test_rows_that_have_no_scenario_say_why(cells: dict[str, str], expected: str) -> None:
    assert case(cells).reason == expected


def test_a_mixture_of_experts_is_a_family_and_a_group_of_its_own() -> None:
    found = compare([mapped(STATIC, model="Mixtral 8x7B"), mapped(STATIC)])
    assert [(row.mapped, row.mixture) for row in found.rows] == [(True, True), (True, False)]
    assert [(group.name, group.n) for group in found.families] == [(DECODE, 1), (SERVED_MIXTURES, 1)]
    assert found.rows[0].group == f"{found.rows[1].group}, experts"


# -- predictions --------------------------------------------------------------------------------------------


def test_a_static_batch_is_a_prefill_and_a_decode_pass_for_each_further_token() -> None:
    """tok/s = B osl / (step(B prompts) + sum of step(B, context)), the closed form, with the law of its stage."""
    found = resolved(mapped(STATIC))
    law = play(found).serving[0].replicas[0].stages[0].members[0].law
    batch, prompt, answer = 64, 128, 128
    seconds = law.cost(0, 0, [Chunk(prompt, 0)] * batch).total
    seconds += sum(law.cost(batch, batch * (prompt + k)).total for k in range(1, answer))
    assert predict_serving(found)["output_tokens_per_s"] == pytest.approx(batch * answer / seconds, rel=1e-3)


def test_single_streams_are_the_law_of_their_stage() -> None:
    decode = resolved(mapped(BENCH))
    law = play(decode).serving[0].replicas[0].stages[0].members[0].law
    steps = [law.cost(1, 1 + k).total for k in range(1, 1024)]
    assert predict_serving(decode)["decode_tokens_per_s"] == pytest.approx(len(steps) / sum(steps), rel=1e-3)
    prompt = resolved(mapped(BENCH, metric="prefill_rate", isl="1024", osl="0"))
    seconds = sum(law.cost(0, 0, [Chunk(512, past)]).total for past in (0, 512))
    assert predict_serving(prompt)["prefill_tokens_per_s"] == pytest.approx(1024 / seconds, rel=1e-3)


def test_limits_on_latency_cost_throughput() -> None:
    """What is carried within limits is below what all at once gives, and the less, the tighter they are."""
    loose = resolved(mapped(MLPERF, model="llama3.1-8b", notes="tokens/sample=129.0"))
    tight = resolved(mapped(MLPERF, model="llama3.1-8b", notes="tokens/sample=129.0", mode="interactive_slo"))
    most = predict_serving(loose)["output_tokens_per_s"]
    found, less = (predict_capacity(scenario)["output_tokens_per_s"] for scenario in (loose, tight))
    assert 0.0 < less < found < most


# -- all measured rows --------------------------------------------------------------------------------------


@pytest.mark.skipif(not TRUTH.is_dir(), reason=f"{TRUTH} is not here: measured tables are not shipped")
def test_measured_servings() -> None:
    cases = read_tables([TRUTH])
    refused = [found for found in cases if found.scenario is None]
    assert all(found.reason for found in refused)
    assert sum(not found.mixture for found in refused) <= 0.3 * len(cases)
    dense = [found for found in cases if not found.mixture and found.play != "capacity"]
    rows = compare(dense[::EVERY]).rows
    for family, median in ((DECODE, 0.10), (SATURATED, 0.15), (PREFILL, 0.20)):
        found = told(row for row in rows if row.family == family)
        assert found is not None
        assert found.n >= 20
        assert found.median_abs_error <= median, family
