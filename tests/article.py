"""Figures of the reference article on training and memory, each read off a scenario in ``scenarios/article``.

Keys are rows of the project's table of the article's claims (``tests/data/article_training.csv``). ``IDEAL`` plays the
article's own arithmetic: the stack ``ideal`` and a visible ``assume`` block. ``MEASURED`` asks the same of a measured
stack and real hardware, where that says something. Both are in the units of ``docs/article.md``, which prints them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import pytest

from sim.errors import InfeasibleError
from sim.jobs.training.build import Member
from sim.jobs.training.run import TrainingRecording
from sim.laws.collective import steps
from sim.laws.training.layer import Pass, Rates
from sim.results.schema import TrainingMetrics
from sim.run import Outcome, run_recorded
from sim.spec.transformer import Transformer

from .helpers import shipped

# ---- reading runs


@cache
def run(name: str, *overrides: str) -> Outcome:
    """A scenario of the article with ``--set`` overrides, played once."""
    return run_recorded(shipped(f"article/{name}", *overrides), effects=False)


def metrics(name: str, *overrides: str) -> TrainingMetrics:
    """The job's numbers."""
    found = run(name, *overrides).result.metrics
    assert isinstance(found, TrainingMetrics)
    return found


def recording(name: str, *overrides: str) -> TrainingRecording:
    """The job as it was played."""
    (job,) = run(name, *overrides).recording.training
    return job


def model(name: str) -> Transformer:
    """The model of a scenario's job."""
    return shipped(f"article/{name}").jobs[0].model


def lead(name: str, *overrides: str, stage: int = 0) -> Member:
    """The GPU of a stage that the others wait for: its passes and its work once a step."""
    return recording(name, *overrides).build.classes[0].stages[stage].lead


def forward_of(name: str, *overrides: str) -> Pass:
    """The forward pass of a micro-batch on the first stage."""
    return lead(name, *overrides).passes[0].forward


def parts(name: str, *overrides: str, stage: int = 0) -> dict[str, float]:
    """Bytes of a GPU of a stage by part."""
    return next(row.parts for row in run(name, *overrides).result.memory if row.stage == stage)


def states(name: str, *overrides: str) -> float:
    """Bytes of weights, gradients and optimizer on a GPU of the first stage."""
    found = parts(name, *overrides)
    return found["parameters"] + found["gradients"] + found["optimizer"]


def in_flight(name: str, *overrides: str, stage: int = 0) -> int:
    """Micro-batches whose activations a stage keeps at most."""
    return recording(name, *overrides).layout.stages[stage].in_flight


def exposed(name: str, *overrides: str, axis: str = "dp") -> float:
    """Seconds of a step that a GPU waits for an axis."""
    return metrics(name, *overrides).exposed_communication_s[axis]


def stage_seconds(name: str, *overrides: str, stage: int) -> float:
    """Forward and backward of a micro-batch on a stage."""
    passes = lead(name, *overrides, stage=stage).passes
    return sum(p.forward.seconds + p.backward.seconds + p.weight.seconds for p in passes)


def span(name: str, *overrides: str, kind: str, stage: int) -> float:
    """The length of a stage's first stretch of work of a kind, off the time line."""
    spans = run(name, *overrides).result.timeline.spans
    return next(s.end_s - s.start_s for s in spans if s.kind == kind and s.device.endswith(f".s{stage}"))


def cards(name: str, *overrides: str) -> int:
    """How many GPUs one replica fills, as the refusal says."""
    with pytest.raises(InfeasibleError) as refusal:
        run(name, "assume.memory=checked", *overrides)
    return _number(r"alone fill (\d+) such GPUs", str(refusal.value))


def given(value: float | None) -> float:
    """A figure that a run with a target has."""
    assert value is not None
    return value


def days(name: str, *overrides: str) -> float:
    """Days to the run's target."""
    return given(metrics(name, *overrides).days_to_target)


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found is not None, text
    return int(found[1])


# ---- the scenarios, and what is changed in them

HOURS, PP80, GRADIENTS, MEMORY = (
    "train_llama2_70b_2400a100", "train_2048x4090_pp80", "gradients_64x8x4090", "memory_llama2_70b"
)  # fmt: skip
TP, ZERO, PS, OFFLOAD, ZERO_OFFLOAD = "tp_limit", "zero_stages", "ps_vs_ring", "offload_vs_recompute", "zero_offload"
ZERO_4090, UNEVEN, SINGLE = "train_2048x4090_zero3", "pipeline_uneven", "single_gpu_train"
GPT3, SMALL, LORA = "gpt3_175b", "train_13b_a100", "lora_70b"
FAILING, REAL_FAILING = "failures_2048x4090", "../article_2048_4090_failures"
TO_A_FILER = ("jobs.0.recovery={}", "jobs.0.checkpoint={every: auto, to: {write: 1.25 GB/s}}")
REAL_A100, REAL_H100, REAL_4090 = "real_70b_2048a100", "real_70b_2048h100", "real_70b_2048x4090"

NODE = "cluster.topology.nodes.0."
PLAN = "jobs.0.plan."
OWN_RATES, NOTHING_ASSUMED = "assume.gpu=null", "assume={}"


def gpu(name: str) -> str:
    """Another card."""
    return f"{NODE}gpus.0.type={name}"


def recompute(method: str) -> str:
    """Another recomputation."""
    return f"{PLAN}recompute={method}"


def batch(whole: int, micro: int) -> str:
    """Another batch, of sequences of 4,096 tokens."""
    return f"jobs.0.batch={{global: {whole}, micro: {micro}, sequence: 4096}}"


def topology(name: str) -> str:
    """A shipped cluster."""
    return f"cluster.topology=../../topologies/{name}.yaml"


A100 = gpu("a100-sxm-80gb")
FP32_GRADIENTS = "jobs.0.precision.gradients=fp32"
GENERIC = "stack=generic"

#: A pipeline that empties each step; one replica, so that only the pipeline counts.
FLUSHED = (f"{PLAN}schedule=gpipe", f"{PLAN}dp=1", batch(640, 8))
TP8 = (f"{PLAN}tp=8", f"{PLAN}pp=10", batch(2000, 8))
#: The real model in 24 GB: one sequence at a time, every layer computed again.
FITS = (
    "model=llama-2-70b", "assume.parameters=null", "assume.memory=checked", "jobs.0.precision.gradients=null",
    f"{PLAN}schedule=1f1b", recompute("full"), batch(2000, 1),
)  # fmt: skip
#: The article's layout with measured kernels, FP32 accumulation and attention; memory still unchecked.
PP80_MEASURED = (GENERIC, "assume={parameters: 80e9, memory: unchecked}")

EIGHTY = batch(40960, 8)
#: One layer over the eight cards of a host: tensor ranks share its network cards.
IN_HOST = (f"{PLAN}tp=8", f"{PLAN}pp=1", f"{PLAN}schedule=1f1b", "define.models.eight-layers.layers=1")


def nics(count: int) -> str:
    """Cards of 200 Gbit/s in each host."""
    return f"{NODE}nics=[{{link: infiniband-hdr, count: {count}}}]"


H100 = (gpu("h100-sxm"), OWN_RATES)
SERVERS: dict[str, tuple[str, ...]] = {
    "4090": (),
    "h100": (*H100, f"{NODE}nvlink={{link: nvlink4}}"),
    "h800": (gpu("h800-sxm"), OWN_RATES, f"{NODE}nvlink={{link: nvlink4-h800}}"),
    "h100 pcie": (*H100, f"{NODE}pcie.link=pcie5-article"),
    # 900 GB/s each way: what NVLink 4 moves both ways together
    "h100 both ways": (*H100, f"{NODE}nvlink={{link: nvlink5}}"),
}

SERVER = f"{PLAN}parameter_server"
RING = f"{SERVER}=null"
SIXTY_FOUR = (f"{PLAN}dp=64", batch(832, 13))
#: Twelve workers on one sequence each push ten times what the server's card takes while they compute.
HURRIED = (f"{PLAN}dp=12", batch(12, 1))
ASYNCHRONOUS = f"{SERVER}.staleness=1"

SEQUENCES = (
    f"{PLAN}zero=3", recompute("none"), "jobs.0.batch={global: 256, micro: 4, sequence: 2048}", f"{PLAN}overlap=false",
)  # fmt: skip
GH200 = (gpu("gh200-96gb"), f"{NODE}pcie.link=c2c", OWN_RATES)
STAYS, AGAIN = f"{PLAN}offload.activations=gpu", recompute("full")
NVME = (f"{PLAN}offload.optimizer=nvme", f"{PLAN}overlap=false", "model=llama-2-70b", "assume.parameters=70e9")

V100 = (gpu("v100-sxm-32gb"), "assume.gpu={flops: 28 TFLOPS}", "cost={rental: {per_gpu: 1.5 USD/h}}")
A100_1024 = (
    f"{NODE}count=1024", f"{PLAN}dp=1024", "jobs.0.batch.global=16384", "assume.gpu={flops: 124.8 TFLOPS}"
)  # fmt: skip
#: GPT-3 as Megatron laid it out: tensor groups of 8, 16 stages (published: 34 days).
MEGATRON_1024 = (
    topology("dgx_a100_128"), "stack=megatron-2021", NOTHING_ASSUMED,
    "jobs.0.plan={tp: 8, pp: 16, vpp: 2, dp: 8, recompute: full}",
    "jobs.0.batch={global: 1536, micro: 1, sequence: 2048}",
)  # fmt: skip
TUNING = (
    f"{PLAN}dp=24", "jobs.0.batch={global: 384, micro: 16, sequence: 500}", "jobs.0.run.target_tokens=1.5e9",
)  # fmt: skip
Q_AND_V = "jobs.0.finetune.targets=[q, v]"
MHA = ("define.models={mha: {like: llama-2-70b, kv_heads: 64}}", "model=mha", "assume.parameters=null", Q_AND_V)


# ---- figures that need more than a line


def against_a100(*overrides: str) -> float:
    """Tokens a second of one 4090 against one A100 at its own rates."""
    a100 = metrics(SINGLE, *(o for o in overrides if o != OWN_RATES), OWN_RATES, A100).tokens_per_s
    return metrics(SINGLE, *overrides).tokens_per_s / a100


def activations_with_groups() -> float:
    """159 group inputs against the ten layer inputs of one micro-batch: stages of ten layers, a group each."""
    ten = "define.models.llama-2-70b-layers.layers=800"
    one = (ten, recompute("full"), f"{PLAN}schedule=1f1b", batch(200, 8))
    return parts(PP80, ten, recompute("{group: 10}"))["activations"] / parts(PP80, *one)["activations"]


def layers_again(method: str) -> float:
    """Forward passes of a layer that recomputation adds to one micro-batch; without a head a layer is 1/80."""
    layers_alone = "define.models={layers: {like: llama-2-70b, vocabulary: 1}}"
    none, again = (
        metrics(MEMORY, layers_alone, "model=layers", recompute(m)).step_time_s for m in ("none", method)
    )  # fmt: skip
    return (again - none) / (none / 3 / 80)


def cost_of_recomputation(*overrides: str) -> float:
    """A step with all layers computed again against one without."""
    none, full = (metrics(MEMORY, *overrides, recompute(m)).step_time_s for m in ("none", "full"))
    return full / none


def swap_against_recompute(*overrides: str) -> float:
    """Moving activations to the host, one way, against computing them again."""
    swap, none = metrics(OFFLOAD, *overrides).step_time_s, metrics(OFFLOAD, *overrides, STAYS).step_time_s
    return (swap - none) / 2 / (metrics(OFFLOAD, *overrides, STAYS, AGAIN).step_time_s - none)


def server(name: str, tp: int = 8) -> tuple[Member, Pass]:
    """A GPU of the article's tensor group of ``tp``, and its forward pass."""
    wide = (f"{NODE}gpus.0.count=64",) if tp > 8 else ()
    member = lead(TP, *SERVERS[name], *wide, f"{PLAN}tp={tp}")
    return member, member.passes[0].forward


def needed(name: str) -> float:
    """FLOP a byte sent that would keep kernels and transfers level."""
    member, done = server(name)
    return member.rates.peak / done.flows[0].cap


def limit(name: str, tp: int = 8) -> float:
    """The degree at which kernels and transfers of a forward pass are level."""
    _, done = server(name, tp)
    return tp * done.work.seconds / done.exposed


def real_limit(cluster: str, stack: str) -> float:
    """The same of the real layer: all its products, an all-reduce as a ring, kernels and links as measured."""
    real = (topology(cluster), f"stack={stack}", "model=llama-2-70b", "assume={memory: unchecked}")
    done = forward_of(TP, *real)
    return 8 * done.work.seconds / done.exposed


def bytes_per_kernel_second() -> float:
    """Bytes a second that would keep up with kernels at one head a GPU."""
    _, done = server("4090", 64)
    return done.flows[0].wire / done.work.seconds


def product(m: float, n: float, k: float) -> tuple[float, float]:
    """FLOP and bytes of (m x k) by (k x n) in 16 bits."""
    work = Rates(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, float("inf"), 2.0, False).gemm(m, n, k)
    return work.flops, work.bytes


def work_against_operands(m: int, k: int, n: int) -> float:
    """Multiplications against elements of both operands, the result left out."""
    flops, moved = product(m, n, k)
    return flops / 2 / (moved / 2 - m * n)


def sent(*overrides: str) -> float:
    """Bytes a GPU sends in a step of the ZeRO scenario."""
    return metrics(ZERO, *overrides).sent_bytes_per_gpu["dp"]


def zero(stage: int) -> str:
    """Another stage of ZeRO."""
    return f"{PLAN}zero={stage}"


def waiting_against_kernels(*overrides: str) -> float:
    """Communication of ZeRO-3, none of it hidden, against everything else."""
    found = metrics(ZERO, *SEQUENCES, *overrides)
    waiting = found.exposed_communication_s["dp"]
    return waiting / (found.step_time_s - waiting)


def all_sent(*overrides: str) -> float:
    """Bytes that all GPUs of the parameter-server scenario send in a step, in sizes of the model's gradients."""
    gpus = len(recording(PS, *overrides).gpus)
    return metrics(PS, *overrides).sent_bytes_per_gpu["dp"] * gpus / parts(PS, *overrides)["gradients"]


def kernels(*overrides: str) -> float:
    """Kernel seconds of a step of that scenario."""
    return stage_seconds(PS, *overrides, stage=0)


def least_batch() -> float:
    """What the warning about an unfilled pipeline asks for."""
    warnings = run(PP80, batch(1000, 1)).result.verdict.warnings
    return _number(r"below pp x dp x micro = (\d+)", " ".join(warnings))


def network_cards() -> float:
    """Cards that PCIe can fill: eight leave gradients above what PCIe allows by as much as cards are missing."""
    return 8 * exposed(GRADIENTS, *IN_HOST, nics(8)) / exposed(GRADIENTS, *IN_HOST)


def between_stages(pp: int, *overrides: str) -> float:
    """GB through the whole chain of stages for one micro-batch, both ways."""
    found = metrics(PP80, *overrides)
    return found.sent_bytes_per_gpu["pp"] * pp / found.micro_batches / 1e9


def optimizer_bytes(name: str) -> float:
    """Bytes a parameter keeps for an optimizer."""
    return parts(MEMORY, f"jobs.0.optimizer={name}")["optimizer"] / 70e9


# ---- the rows

Figure = Callable[[], float]


def interrupted() -> float:
    """Share of recoveries that the next failure strikes."""
    life = recording(FAILING).life
    return life.interrupted_recoveries / (life.stops + life.interrupted_recoveries)


IDEAL: dict[str, Figure] = {
    # arithmetic and GPU-hours
    "TRN-01": lambda: metrics(HOURS).model_flops_per_token / 70e9,
    "TRN-02": lambda: given(metrics(HOURS, OWN_RATES).gpu_hours_to_target) / 1.7e6,
    "TRN-03": lambda: days(HOURS, f"{PLAN}dp=1", batch(4, 4)) / 365,
    "TRN-04": lambda: 2400 * days(HOURS) / 30,
    "TRN-05": against_a100,
    # 2048 RTX 4090
    "TRN-07": lambda: states(ZERO_4090) / 1e9,
    "TRN-10": lambda: in_flight(PP80, f"{PLAN}schedule=1f1b"),
    "TRN-11": lambda: parts(PP80, "assume.parameters=70e9", stage=40)["parameters"] / 2 / 1e9,
    "TRN-12": lambda: parts(PP80, stage=40)["gradients"] / 1e9,
    "TRN-13": lambda: sum(
        p.forward.work.flops + p.backward.work.flops + p.weight.work.flops for p in lead(PP80, stage=40).passes
    ) / 1e12,
    "TRN-14": lambda: stage_seconds(PP80, stage=40),
    "TRN-15": lambda: span(GRADIENTS, zero(1), kind="comm", stage=3),  # ZeRO-1 scatters gradients: the push
    "TRN-16": lambda: exposed(GRADIENTS),
    "TRN-17": lambda: exposed(GRADIENTS) / stage_seconds(GRADIENTS, stage=3),
    "TRN-18": lambda: metrics(PP80).step_time_s,
    "TRN-19": lambda: exposed(GRADIENTS, EIGHTY),
    "TRN-20": network_cards,
    "TRN-21": lambda: metrics(PP80).global_batch_tokens / 4096,
    "TRN-22": lambda: len(run(PP80, *TP8).result.memory),
    "TRN-23": least_batch,
    "TRN-24": lambda: between_stages(80),
    # memory
    "MEM-01": lambda: optimizer_bytes("adam"),
    "MEM-02": lambda: optimizer_bytes("sgd-momentum"),
    "MEM-03": lambda: parts(MEMORY)["parameters"] / 1e9,
    "MEM-04": lambda: parts(MEMORY)["gradients"] / 1e9,
    "MEM-05": lambda: parts(MEMORY)["optimizer"] / 1e9,
    "MEM-06": lambda: parts(MEMORY)["activations"] / 1e9,
    "MEM-07": lambda: metrics(MEMORY).memory_peak_bytes / 1e9,
    "MEM-08": lambda: cards(MEMORY),
    "MEM-09": lambda: cards(MEMORY, gpu("rtx4090-24gb")),
    "MEM-10": lambda: in_flight(PP80),
    "MEM-11": activations_with_groups,
    "MEM-12": lambda: parts(PP80)["activations"] / 1e9,
    "MEM-13": lambda: layers_again("from_input"),
    "MEM-14": lambda: layers_again("from_input") / 80,
    "MEM-16": swap_against_recompute,
    "MEM-17": lambda: swap_against_recompute(*GH200),
    "MEM-18": lambda: parts(GPT3)["optimizer"] / 1e12,
    # tensor parallelism
    "TP-01": lambda: model(TP).head_dim,
    "TP-02": lambda: server("4090", 64)[1].work.flops / server("4090", 64)[1].flows[0].wire,
    "TP-03": lambda: bytes_per_kernel_second() / 1e9,
    "TP-04": lambda: 2 * bytes_per_kernel_second() / 1e12,
    "TP-05": lambda: needed("4090"),
    "TP-06": lambda: limit("4090"),
    "TP-07": lambda: needed("h100"),
    "TP-08": lambda: limit("h100"),
    "TP-09": lambda: limit("h100 both ways"),
    "TP-10": lambda: needed("h800"),
    "TP-11": lambda: limit("h800"),
    "TP-12": lambda: needed("h100 pcie"),
    "TP-13": lambda: limit("h100 pcie"),
    "TP-14": lambda: product(4096, 3 * 128, 8192)[0] / 1e9,
    "TP-15": lambda: work_against_operands(32768, 8192, 8192),
    "TP-16": lambda: metrics(PP80, *TP8).global_batch_tokens / 4096,
    # data parallelism
    "DPZ-01": all_sent,
    "DPZ-02": lambda: (metrics(PS, *HURRIED).step_time_s - kernels(*HURRIED)) / 2 / kernels(*HURRIED),
    "DPZ-05": lambda: metrics(PS).step_time_s / metrics(PS, ASYNCHRONOUS).step_time_s,
    "DPZ-06": lambda: steps("reduce_scatter", 4),
    "DPZ-07": lambda: steps("all_gather", 4),
    "DPZ-08": lambda: sent() / parts(ZERO)["gradients"],
    "DPZ-09": lambda: all_sent(*SIXTY_FOUR, RING) / all_sent(*SIXTY_FOUR),
    "DPZ-10": lambda: all_sent(f"{SERVER}.servers=8") / 8,
    "DPZ-11": lambda: states(MEMORY) / 70e9,
    "DPZ-12": lambda: states(ZERO) / states(ZERO, zero(2)),
    "DPZ-13": lambda: sent(zero(2)) / sent(),
    "DPZ-14": lambda: sent(zero(3)) / sent(),
    "DPZ-15": lambda: states(ZERO) / states(ZERO, zero(3)),
    "DPZ-17": waiting_against_kernels,
    "DPZ-19": lambda: (
        parts(ZERO_OFFLOAD)["parameters"] + run(ZERO_OFFLOAD).result.memory[0].offloaded["host"]
    ) / model(ZERO_OFFLOAD).parameters,
    "DPZ-20": lambda: run(ZERO_OFFLOAD, *NVME).result.ledger["communication: offload over nvme"],
    "DPZ-22": lambda: 1 / metrics(UNEVEN).utilisation_mean,
    # the notes: GPT-3, 13B, fine-tuning
    "TC-01": lambda: given(metrics(GPT3, *V100).usd_to_target) / 1e6,
    "TC-02": lambda: given(metrics(GPT3).target_flops) / 1e21,
    "TC-03": lambda: days(GPT3) / 365,
    "TC-04": lambda: days(GPT3, *A100_1024),
    "MEC-14": lambda: span(PP80, kind="backward", stage=40) / span(PP80, kind="forward", stage=40),
    "MEC-15": lambda: states(LORA) / 1e9,
    "LM-05": lambda: parts(LORA, *MHA)["gradients"] / 2 / 1e6,
    "LM-06": lambda: optimizer_bytes("lion"),
    "BK-10": lambda: days(SMALL),
    "BK-11": lambda: days(SMALL, *TUNING),
    # failures
    "FLR-01": lambda: run(FAILING).result.simulated_s / metrics(FAILING).failures / 60,
    "FLR-02": lambda: recording(FAILING).reliability.recovery["any"] / 60,
    "FLR-03": lambda: 1 - metrics(FAILING, "jobs.0.checkpoint={every: 9 min, blocking: 0 s}").ettr,
    "FLR-04": interrupted,
    "FLR-05": lambda: metrics(FAILING).step_time_s / metrics(FAILING).mtbf_s,
    "FLR-06": lambda: 1 / recording(FAILING, "jobs.0.policy=elastic").reliability.terms.replicas,
    "FLR-07": lambda: metrics(FAILING).ettr,
    "FLR-08": lambda: metrics(FAILING, "faults={mtbf_per_gpu: 50677 h, scale: 1.024}").mtbf_s / 3600,
}  # fmt: skip

MEASURED: dict[str, Figure] = {
    "TRN-02": lambda: metrics(REAL_A100).mfu,
    "TRN-03": lambda: given(metrics(REAL_A100).gpu_hours_to_target) / 24 / 365,
    "TRN-04": lambda: 2048 * days(REAL_A100) / 30,
    "TRN-05": lambda: against_a100(GENERIC, NOTHING_ASSUMED),
    "TRN-11": lambda: model(PP80).layer_parameters / 1e9,
    "TRN-14": lambda: stage_seconds(PP80, *PP80_MEASURED, stage=40),
    "TRN-16": lambda: exposed(GRADIENTS, GENERIC, "assume={parameters: 8e9, memory: unchecked}"),
    "TRN-18": lambda: metrics(PP80, *PP80_MEASURED, *FLUSHED).step_time_s,
    "MEM-06": lambda: parts(MEMORY, GENERIC)["activations"] / 1e9,
    "MEM-07": lambda: metrics(MEMORY, GENERIC, FP32_GRADIENTS).memory_peak_bytes / 1e9,
    "MEM-08": lambda: cards(MEMORY, GENERIC, FP32_GRADIENTS, A100),
    "MEM-09": lambda: cards(MEMORY, GENERIC, FP32_GRADIENTS, gpu("rtx4090")),
    "MEM-12": lambda: metrics(PP80, *FITS, GENERIC, NOTHING_ASSUMED, zero(1)).memory_peak_bytes / 1e9,
    "MEM-14": lambda: cost_of_recomputation("stack=megatron-2021", A100, "assume={memory: unchecked}"),
    "TP-06": lambda: real_limit("server_8x4090_pcie", "generic"),
    "TP-08": lambda: real_limit("dgx_h100_8", "nemo-2025"),
    "TP-11": lambda: real_limit("hgx_h800_256", "nemo-2025"),
    "DPZ-17": lambda: waiting_against_kernels("stack=fsdp-composer", "assume={memory: unchecked}"),
    "TC-04": lambda: days(GPT3, *MEGATRON_1024),
    "FLR-02": lambda: recording(REAL_FAILING, *TO_A_FILER).reliability.recovery["any"] / 60,
    "FLR-03": lambda: 1 - metrics(REAL_FAILING).ettr,
    "FLR-07": lambda: metrics(REAL_FAILING).ettr,
}  # fmt: skip

#: Rows that say what happens and not how much: each is named in the docstring of a test.
TOLD = ("TRN-06", "MEM-15", "DPZ-03", "DPZ-04", "DPZ-16", "DPZ-18", "DPZ-21", "HW-16", "BK-04")
