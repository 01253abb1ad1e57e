"""Synthetic Results with everything in them, numbers made up but consistent.

LLaMA-2 70B served by eight desktops; the same model trained on four stages of a pipeline; and both in one run.
"""

from __future__ import annotations

import math
import random
from typing import Any

from sim.results.definitions import METRICS, definitions_of
from sim.results.schema import (
    SCHEMA_VERSION,
    Assumption,
    Cost,
    DeviceClass,
    Effect,
    JobResult,
    LinkClass,
    MemoryStage,
    Result,
    RooflineDot,
    Saturation,
    ServingMetrics,
    Span,
    Spread,
    Swing,
    SwingPlan,
    Timeline,
    TrainingMetrics,
    UsePoint,
    Verdict,
    Window,
)

STAGES = 8
HOSTILE = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "<b>{{ 7*7 }}</b> & <a href='javascript:alert(1)'>x</a>",
    "\x1b[31mred\u202e\u2028</textarea>",
)


def make_result(stages: int = STAGES, jobs: tuple[str, ...] = ("chat",), bins: int = 400) -> Result:
    """A run of one or more jobs; two jobs share the GPUs' names but not the GPUs."""
    rng = random.Random(0)
    results = [_job(name, stages, rng) for name in jobs]
    single = results[0] if len(jobs) == 1 else None
    gpus = stages * len(jobs)
    devices = [_device(job, stage, stages) for job in jobs for stage in range(stages)]
    links = _links(stages)
    return Result(
        schema_version=SCHEMA_VERSION,
        scenario="4090_pp_home",
        about="LLaMA-2 70B in FP16 on eight desktops with one RTX 4090 each, pipeline parallel over 10 GbE.",
        version="0.1.0",
        seed=0,
        detail="auto",
        headline=f"llama-2-70b fp16 - {stages} x desktop(1 x rtx4090) - pp{stages} over 10 GbE - stack vllm "
        "- seed 0",
        resolved_scenario=_scenario(jobs, stages),
        verdict=_verdict(),
        jobs=results,
        metrics=single.metrics if single else None,
        cost=single.cost if single else None,
        memory=[_memory(job, stage) for job in jobs for stage in range(stages)],
        ledger=_sum([device.ledger for device in devices]),
        gpus=gpus,
        simulated_s=813.2,
        events=184_223,
        devices=devices,
        links=links,
        timeline=_timeline(jobs, stages, bins, rng),
        roofline=[dot for job in jobs for stage in range(stages) for dot in _dots(job, stage)],
        topology=_topology(stages),
        intervals={
            f"jobs.{index}.{key}": bounds
            for index in range(len(jobs))
            for key, bounds in _intervals().items()
        },
        intervals_method="95%, ten batch means within the measured window of one run",
        assumptions=_assumptions(),
        banners=[],
        not_modelled=[
            "Packets, incast loss, PFC and ECMP collisions: the network is fluid.",
            "Speculative decoding and prefix caching.",
            "Thermal throttling within a run.",
        ],
        definitions=dict(METRICS),
        run_info={"wall_s": 3.1, "python": "3.11.7"},
    )


def make_training(stages: int = 4, micro: int = 8, chunks: int = 1, steps: int = 3) -> Result:
    """A training run of equal steps: 1F1B, or with `chunks` a made-up order in which chunks take turns."""
    forward, backward, gap = 0.04, 0.08, 0.001
    spans, pipeline = _step_spans("pretrain", stages, micro, chunks, forward, backward, gap)
    step = pipeline + 0.05
    job = _training_job(stages, micro, step, steps)
    devices = [_training_device(stage, micro * (forward + backward), step, steps) for stage in range(stages)]
    base = make_result(stages=stages)
    names = [device.name for device in devices]
    timeline = Timeline(
        bin_s=step * steps / 60,
        devices={name: [0.7] * 60 for name in names},
        links={link.name: [link.utilisation_mean] * 60 for link in base.links},
        jobs={},
        spans=spans,
        spans_window_s=[0.0, step * steps],
    )
    return base.model_copy(
        update={
            "scenario": "70b_pretrain",
            "about": "LLaMA-2 70B trained on a pipeline.",
            "headline": f"llama-2-70b training bf16, pp{stages} 1f1b - {stages} x a100-sxm-80gb - seed 0",
            "resolved_scenario": {"name": "70b_pretrain", "jobs": [{"name": "pretrain", "kind": "training"}]},
            "verdict": _training_verdict(step),
            "jobs": [job],
            "metrics": job.metrics,
            "cost": job.cost,
            "memory": [_training_memory(stage) for stage in range(stages)],
            "ledger": _sum([device.ledger for device in devices]),
            "simulated_s": step * steps,
            "devices": devices,
            "timeline": timeline,
            "roofline": [
                RooflineDot(device=names[0], phase=phase, peak_flops=312e12, bandwidth=2.039e12, **at)
                for phase, at in (
                    ("forward", {"flops_per_byte": 338.0, "flops_per_s": 173e12}),
                    ("backward", {"flops_per_byte": 363.0, "flops_per_s": 177e12}),
                )
            ],
            "intervals": {},
            "definitions": definitions_of({"training"}),
        }
    )


STEPS = [[10.0 + 0.02 * max(0, n - 50), n / 100] for n in range(101)]
"""Half the steps take 10 s, the others up to 11."""


def make_mixed() -> Result:
    """A run in which one job serves and another trains."""
    serving, training = make_result(stages=2, bins=120), make_training()
    first, second = serving.timeline, training.timeline
    both = Timeline(
        bin_s=first.bin_s,
        devices=first.devices | second.devices,
        links=first.links,
        jobs=first.jobs,
        spans=[*first.spans, *second.spans],
        spans_window_s=[0.0, 104.0],
    )
    return serving.model_copy(
        update={
            "jobs": [*serving.jobs, *(job.model_copy(update={"cdf": {"step_time_s": STEPS}}) for job in training.jobs)],
            "metrics": None,
            "cost": None,
            "memory": [*serving.memory, *training.memory],
            "ledger": {
                name: serving.ledger.get(name, 0.0) + training.ledger.get(name, 0.0)
                for name in {**serving.ledger, **training.ledger}
            },
            "gpus": 6,
            "devices": [*serving.devices, *training.devices],
            "timeline": both,
            "roofline": [*serving.roofline, *training.roofline],
            "definitions": definitions_of({"serving", "training"}),
        }
    )


def bare_result() -> Result:
    """A run without any optional part: no cost, spans, links, topology, memory, roofline or intervals."""
    full = make_result()
    job = full.jobs[0].model_copy(
        update={"cost": None, "objectives": [], "cdf": {}, "notes": [], "metrics": _unmeasured(full)}
    )
    empty = Timeline(bin_s=1.0, devices={}, links={}, jobs={}, spans=[], spans_window_s=[])
    nothing: dict[str, Any] = {name: [] for name in ("memory", "devices", "links", "roofline", "assumptions")}
    return full.model_copy(
        update={
            **nothing,
            "jobs": [job],
            "metrics": job.metrics,
            "cost": None,
            "ledger": {},
            "timeline": empty,
            "topology": {},
            "intervals": {},
            "not_modelled": [],
            "definitions": {},
            "verdict": full.verdict.model_copy(update={"effects": [], "binding": [], "not_binding": []}),
        }
    )


def hostile_result(result: Result | None = None) -> Result:
    """Every string of the document extended by markup and escape sequences."""

    def spoil(value: Any, key: str = "") -> Any:
        if isinstance(value, str):
            if key in ("kind", "state") and value in KEPT:
                return value
            return f"{value}{HOSTILE[len(value) % len(HOSTILE)]}"
        if isinstance(value, list):
            return [spoil(item) for item in value]
        if isinstance(value, dict):
            return {spoil(k) if key in _NAMED else k: spoil(v, k) for k, v in value.items()}
        return value

    document = (result or make_result(bins=40)).model_dump(mode="json")
    document["verdict"]["warnings"] = ["careful"]
    document["banners"] = ["assumed"]
    return Result.model_validate(spoil(document))


_NAMED = {
    *("ledger", "parts", "breakdown_usd_per_hour", "devices", "links", "jobs"),
    *("exposed_communication_s", "offloaded"),
}
KEPT = ("serving", "training", "stable", "saturated", "overloaded", "forward", "backward", "comm", "update")
"""Words that a reader knows; where one is spoilt the document is refused, or drawn as something else."""


def _spread(mean: float, p50: float, p90: float, p99: float) -> Spread:
    return Spread(mean=mean, p50=p50, p90=p90, p99=p99)


def _unmeasured(full: Result) -> ServingMetrics:
    none = Spread(mean=None, p50=None, p90=None, p99=None)
    spreads = dict.fromkeys(("ttft_s", "tpot_s", "inter_token_s", "latency_s", "queue_s"), none)
    unset = dict.fromkeys(("slo_attainment", "goodput_requests_per_s", "tokens_per_s_per_user"))
    return full.jobs[0].metrics.model_copy(update={**spreads, **unset})


def _metrics() -> ServingMetrics:
    return ServingMetrics(
        output_tokens_per_s=1312.4,
        total_tokens_per_s=2624.9,
        requests_per_s=2.56,
        completed_requests=1000,
        rejected_requests=3,
        measured_requests=812,
        ttft_s=_spread(1.31, 0.93, 2.42, 4.11),
        tpot_s=_spread(0.1583, 0.158, 0.165, 0.1713),
        inter_token_s=_spread(0.158, 0.157, 0.166, 0.19),
        latency_s=_spread(82.1, 81.7, 86.2, 91.4),
        queue_s=_spread(0.35, 0.08, 1.4, 2.9),
        batch_size_mean=16.4,
        kv_occupancy_mean=0.83,
        kv_occupancy_peak=0.97,
        kv_blocked_fraction=0.041,
        utilisation_mean=0.64,
        slo_attainment=0.987,
        goodput_requests_per_s=2.53,
        tokens_per_s_per_user=6.33,
        preemptions=4,
        recomputed_tokens=2210,
    )


def _job(name: str, stages: int, rng: random.Random) -> JobResult:
    metrics = _metrics()
    return JobResult(
        name=name,
        kind="serving",
        model="llama-2-70b",
        stack="vllm",
        plan=f"pp{stages}",
        gpus=stages,
        state="stable",
        metrics=metrics,
        cost=_cost(),
        window=Window(start_s=61.0, end_s=790.5, rule="between the 10th and the 95th percentile of arrivals"),
        objectives=[
            {"name": "ttft_p99", "limit_s": 10.0, "measured_s": 4.11, "met": True},
            {"name": "tpot_p99", "limit_s": 0.16, "measured_s": 0.1713, "met": False},
        ],
        cdf={
            key: _cdf(rng, spread.p50 or 1.0, shape)
            for key, spread, shape in (
                ("ttft_s", metrics.ttft_s, 0.6),
                ("tpot_s", metrics.tpot_s, 0.04),
                ("latency_s", metrics.latency_s, 0.05),
                ("queue_s", metrics.queue_s, 1.3),
            )
        },
        notes=["3 requests were rejected: longer than the context of 4,096 tokens."],
    )


def _cdf(rng: random.Random, median: float, shape: float) -> list[list[float]]:
    values = sorted(rng.lognormvariate(math.log(median), shape) for _ in range(200))
    return [[value, (index + 1) / 200] for index, value in enumerate(values)]


def _cost() -> Cost:
    parts = {"capital": 0.761, "electricity": 0.381, "hosting": 0.086}
    hourly = sum(parts.values())
    per_million = hourly / (1312.4 * 3600) * 1e6
    return Cost(
        usd_per_hour=hourly,
        usd_per_million_tokens=per_million,
        tokens_per_usd=1e6 / per_million,
        breakdown_usd_per_hour=parts,
        capital_usd=20_000.0,
        power_w=3810.0,
        kwh_per_million_tokens=0.806,
        saturation=Saturation(output_tokens_per_s=2190.0, usd_per_million_tokens=0.156),
        usd_per_million_tokens_by_use=0.9 * per_million,
        fixed_usd_per_hour=0.9,
        curve=_curve(0.156),
        swing=_swing(),
    )


def _curve(full: float) -> list[UsePoint]:
    uses = [n / 20 for n in range(1, 21)]
    prices = [full * (0.7 / use + 0.3) for use in uses]
    return [
        UsePoint(utilisation=use, usd_per_million_tokens=usd, low=0.9 * usd, high=1.2 * usd)
        for use, usd in zip(uses, prices, strict=True)
    ]


def _swing() -> Swing:
    plans = [
        SwingPlan(base=base, burst=4 - base, burst_hours=8.0 * (4 - base), usd_per_hour=9.0 + abs(3 - base),
                  usd_per_million_tokens=0.3 + 0.05 * abs(3 - base), usd_per_million_tokens_range=[0.2, 0.6])
        for base in range(5)
    ]  # fmt: skip
    return Swing(
        peak_tokens_per_s=8000.0, valley_tokens_per_s=1000.0, mean_tokens_per_s=4500.0, copy_tokens_per_s=2000.0,
        copies_at_peak=4, copies_at_valley=1, utilisation=0.51, best=3, plans=plans,
    )  # fmt: skip


def _verdict() -> Verdict:
    def effect(resource: str, change: str, relative: float, cost: float, ttft: float, tpot: float) -> Effect:
        return Effect(
            resource=resource,
            change=change,
            output_tokens_per_s=1312.4 * (1 + relative),
            relative=relative,
            usd_per_million_tokens_relative=cost,
            ttft_p50_relative=ttft,
            tpot_p50_relative=tpot,
        )

    return Verdict(
        state="stable",
        sentence="stable at 2.6 req/s; bound by KV memory (83% of the batch limit), then HBM bandwidth; "
        "network 6%",
        bottleneck="KV memory (83% of the batch limit)",
        binding=["KV memory (83% of the batch limit)", "HBM bandwidth", "network 6%"],
        not_binding=["network 10 -> 25 Gbps changes tok/s by < 1%", "FLOP/s +25% changes tok/s by < 1%"],
        effects=[
            effect("KV memory", "+25%", 0.178, -0.151, -0.22, 0.03),
            effect("memory bandwidth", "+25%", 0.091, -0.083, -0.05, -0.12),
            effect("host overhead", "-50%", 0.021, -0.0205, -0.01, -0.02),
            effect("network", "10 -> 25 Gbps", 0.006, 0.011, -0.004, -0.011),
            effect("FLOP/s", "+25%", 0.004, -0.004, -0.11, 0.0),
        ],
        warnings=["The last tenth of the run was still filling: run more requests for a tighter interval."],
    )


def _memory(job: str, stage: int) -> MemoryStage:
    edge = stage in (0, STAGES - 1)
    parts = {
        "weights": 17.65e9 if edge else 17.12e9,
        "KV cache": 3.9e9 if edge else 4.4e9,
        "activations": 0.62e9,
        "runtime": 0.85e9,
        "kept back": 0.0,
        "unused": 0.98e9 if edge else 1.01e9,
    }
    return MemoryStage(
        job=job, stage=stage, gpu="rtx4090", count=1, capacity_bytes=24e9, parts=parts, kv_tokens=107_000
    )


def _device(job: str, stage: int, stages: int) -> DeviceClass:
    slow = 1 + 0.03 * math.sin(stage)
    ledger = {
        "compute-bound": 41.0 * slow,
        "memory-bound": 431.0 * slow,
        "launch and host": 48.0,
        "communication: ethernet": 73.0 if stage else 60.0,
        "pipeline bubble": 33.0,
        "waiting for work": 187.2 - 472 * (slow - 1) + (0 if stage else 13.0),
    }
    return DeviceClass(
        name=f"{job} stage {stage}",
        job=job,
        stage=stage,
        gpu="rtx4090",
        count=1,
        busy=0.64 * slow,
        flops_utilisation=0.11,
        bandwidth_utilisation=0.52,
        ledger=ledger,
        energy_j=2.1e5,
    )


def _sum(ledgers: list[dict[str, float]]) -> dict[str, float]:
    return {key: sum(ledger[key] for ledger in ledgers) for key in ledgers[0]}


def _links(stages: int) -> list[LinkClass]:
    made = [
        LinkClass(
            name=f"ethernet stage {s} to {(s + 1) % stages}",
            kind="ethernet",
            count=1,
            bandwidth=1.25e9,
            bytes=8.1e10,
            utilisation_mean=0.06 + 0.01 * s,
            utilisation_peak=min(1.0, 0.12 + 0.13 * s),
        )
        for s in range(stages)
    ]
    pcie = LinkClass(
        name="pcie gpu to host",
        kind="pcie",
        count=stages,
        bandwidth=25e9,
        bytes=1.6e11,
        utilisation_mean=0.004,
        utilisation_peak=0.03,
    )
    return [*made, pcie]


def _timeline(jobs: tuple[str, ...], stages: int, bins: int, rng: random.Random) -> Timeline:
    step = 813.2 / bins

    def wave(level: float, depth: float, phase: float) -> list[float]:
        ramp = (min(1.0, (at + 1) / (0.05 * bins), (bins - at) / (0.06 * bins)) for at in range(bins))
        noise = [rng.uniform(-depth, depth) for _ in range(bins)]
        shape = (level + depth * math.sin(at / bins * 19 + phase) + noise[at] for at in range(bins))
        return [max(0.0, min(1.0, r * s)) for r, s in zip(ramp, shape, strict=True)]

    series = {
        job: {
            "waiting": [round(8 * v) for v in wave(0.4, 0.4, 0)],
            "running": [round(135 * v) for v in wave(0.9, 0.05, 1)],
            "kv_occupancy": wave(0.83, 0.05, 2),
        }
        for job in jobs
    }
    return Timeline(
        bin_s=step,
        devices={
            f"{job} stage {s}": wave(0.64 + 0.03 * math.sin(s), 0.08, s)
            for job in jobs
            for s in range(stages)
        },
        links={link.name: wave(link.utilisation_mean, 0.03, 1) for link in _links(stages)},
        jobs=series,
        spans=[span for job in jobs for span in _spans(job, stages)],
        spans_window_s=[100.0, 104.0],
    )


def _spans(job: str, stages: int) -> list[Span]:
    """Eight micro-batches go round a ring; every ninth pass carries a prompt."""
    made: list[Span] = []
    work, hop = 0.0165, 0.0022
    for lap in range(int(4.0 / ((work + hop) * stages))):
        for micro in range(stages):
            kind = ("prefill", "mixed")[micro % 2] if (lap + micro) % 9 == 0 else "decode"
            at = 100.0 + (lap * stages + micro) * (work + hop)
            for stage in range(stages):
                start = at + stage * (work + hop)
                span = {"batch": 17, "tokens": 64 if kind != "decode" else 17, "micro_batch": micro}
                name = f"{job} stage {stage}"
                done = start + work
                if done + hop < 104.0:
                    made.append(Span(device=name, kind=kind, start_s=start, end_s=done, **span))
                    made.append(Span(device=name, kind="comm", start_s=done, end_s=done + hop, **span))
    return made


def _dots(job: str, stage: int) -> list[RooflineDot]:
    common = {"device": f"{job} stage {stage}", "peak_flops": 165.2e12, "bandwidth": 1.008e12}
    wobble = 1 + 0.02 * stage
    return [
        RooflineDot(phase="prefill", flops_per_byte=62.0 * wobble, flops_per_s=44e12 * wobble, **common),
        RooflineDot(phase="decode", flops_per_byte=15.5 * wobble, flops_per_s=12.1e12 * wobble, **common),
        RooflineDot(phase="mixed", flops_per_byte=38.0 * wobble, flops_per_s=29e12 * wobble, **common),
    ]


def _topology(stages: int) -> dict[str, Any]:
    nodes: list[dict[str, Any]] = [{"id": "sw0", "kind": "switch", "label": "10 GbE switch", "parent": None}]
    edges: list[dict[str, Any]] = []
    inside = (("gpu", "rtx4090"), ("socket", "socket0"), ("memory", "memory0"), ("nic", "nic0"))
    for s in range(stages):
        nodes.append({"id": f"node:{s}", "kind": "node", "label": f"desktop {s}", "parent": None})
        for kind, label in inside:
            nodes.append({"id": f"{s}/{kind}", "kind": kind, "label": label, "parent": f"node:{s}"})
        cable = {"kind": "ethernet", "links": [f"ethernet stage {s} to {(s + 1) % stages}"]}
        socket = f"{s}/socket"
        slot = {"kind": "pcie", "links": ["pcie gpu to host"]}
        edges.append({"source": f"{s}/gpu", "target": socket, **slot})
        edges.append({"source": f"{s}/memory", "target": socket, "kind": "memory", "links": []})
        edges.append({"source": f"{s}/nic", "target": socket, "kind": "pcie", "links": ["pcie nic"]})
        edges.append({"source": f"{s}/nic", "target": "sw0", **cable})
    return {"nodes": nodes, "edges": edges}


def _scenario(jobs: tuple[str, ...], stages: int) -> dict[str, Any]:
    return {
        "name": "4090_pp_home",
        "cluster": {"topology": {"nodes": stages, "gpu": "rtx4090", "network": "10 Gbit/s"}},
        "model": "llama-2-70b",
        "stack": "vllm",
        "jobs": [
            {
                "name": name,
                "kind": "serving",
                "precision": {"weights": "fp16", "kv": "fp16"},
                "plan": {"pp": stages},
                "batching": {"policy": "continuous", "max_batched_tokens": 64},
                "load": {"closed_loop": {"clients": 135}, "prompt_tokens": 512, "output_tokens": 512},
            }
            for name in jobs
        ],
        "seed": 0,
    }


def _intervals() -> dict[str, list[float]]:
    return {
        "metrics.output_tokens_per_s": [1270.0, 1350.0],
        "metrics.requests_per_s": [2.48, 2.64],
        "metrics.ttft_s.p50": [0.88, 0.99],
        "metrics.tpot_s.p50": [0.1571, 0.1592],
        "cost.usd_per_million_tokens": [0.251, 0.27],
        "metrics.utilisation_mean": [0.62, 0.66],
    }


def _assumptions() -> list[Assumption]:
    rows = (
        ("GPU memory bandwidth", "1.01 TB/s", "catalogue", "NVIDIA Ada datasheet"),
        ("achievable bandwidth", "82%", "catalogue", "measured, table 4090_gemv"),
        ("host overhead per pass", "1.9 ms", "stack", "vllm 0.6 profile, fitted"),
        ("electricity", "0.10 USD/kWh", "user", "scenario"),
        ("amortisation", "3 years", "user", "scenario"),
    )
    return [Assumption(name=n, value=v, origin=o, source=s) for n, v, o, s in rows]


# ---- training


def _step_spans(
    job: str, stages: int, micro: int, chunks: int, forward: float, backward: float, gap: float
) -> tuple[list[Span], float]:
    """1F1B by its dependencies: F needs the stage before, B the stage after; then reduction and update."""
    order = [_one_f_one_b(stages - stage, micro) for stage in range(stages)]
    ends: dict[tuple[str, int, int], float] = {}
    free, at, spans = [0.0] * stages, [0] * stages, list[Span]()
    while any(at[stage] < len(order[stage]) for stage in range(stages)):
        for stage in range(stages):
            while at[stage] < len(order[stage]):
                kind, number = order[stage][at[stage]]
                edge = stage == (0 if kind == "forward" else stages - 1)
                other = stage - 1 if kind == "forward" else stage + 1
                needed = ("forward", stage, number) if edge and kind == "backward" else (kind, other, number)
                if not (edge and kind == "forward") and needed not in ends:
                    break
                start = max(free[stage], ends.get(needed, 0.0) + (0.0 if edge else gap))
                end = start + (forward if kind == "forward" else backward)
                ends[kind, stage, number] = free[stage] = end
                spans.append(_work(f"{job}.s{stage}", kind, start, end, number, number % chunks))
                at[stage] += 1
    barrier = max(free) + 0.02
    for stage in range(stages):
        spans.append(_work(f"{job}.s{stage}", "comm", free[stage], free[stage] + 0.02))
        spans.append(_work(f"{job}.s{stage}", "update", barrier, barrier + 0.03))
    return spans, barrier


def _one_f_one_b(depth: int, micro: int) -> list[tuple[str, int]]:
    warm = min(depth, micro)
    order = [("forward", number) for number in range(warm)]
    for number in range(micro):
        order.append(("backward", number))
        if warm + number < micro:
            order.append(("forward", warm + number))
    return order


def _work(device: str, kind: str, start: float, end: float, micro_batch: int = 0, chunk: int = 0) -> Span:
    counted = kind in ("forward", "backward")
    return Span(
        device=device,
        kind=kind,
        start_s=start,
        end_s=end,
        batch=int(counted),
        tokens=4096 if counted else 0,
        micro_batch=micro_batch,
        chunk=chunk,
    )


def _training_job(stages: int, micro: int, step: float, steps: int) -> JobResult:
    tokens = micro * 4096
    hourly, rate = 9.6, tokens / step
    days = 2e12 / rate / 86_400
    return JobResult(
        name="pretrain",
        kind="training",
        model="llama-2-70b",
        stack="megatron-2021",
        plan=f"pp{stages} 1f1b",
        gpus=stages,
        state="stable",
        metrics=TrainingMetrics(
            step_time_s=step,
            tokens_per_s=rate,
            tokens_per_s_per_gpu=rate / stages,
            samples_per_s=micro / step,
            mfu=0.264,
            hfu=0.364,
            model_flops_per_token=4.28385e11,
            bubble_fraction=0.182,
            exposed_communication_s={"tp": 0.144 * step, "pp": 0.002, "dp": 0.02},
            exposed_communication_fraction=0.144 + 0.022 / step,
            sent_bytes_per_gpu={"tp": 225.5e9, "dp": 6.26e9, "pp": 0.47e9},
            optimizer_s=0.03,
            recompute_fraction=0.254,
            memory_peak_bytes=16e9,
            memory_peak_fraction=16 / 85.1,
            utilisation_mean=0.65,
            micro_batches=micro,
            global_batch_tokens=tokens,
            steps=steps,
            tokens=float(tokens * steps),
            target_tokens=2e12,
            target_flops=8.57e23,
            days_to_target=days,
            gpu_hours_to_target=days * 24 * stages,
            usd_to_target=days * 24 * hourly,
            kwh_to_target=days * 24 * 2.8,
        ),
        cost=Cost(
            usd_per_hour=hourly,
            usd_per_million_tokens=hourly / rate / 3600 * 1e6,
            tokens_per_usd=rate * 3600 / hourly,
            breakdown_usd_per_hour={"capital": 9.3, "electricity": 0.3},
            capital_usd=40_000.0,
            curve=_curve(hourly / rate / 3600 * 1e6),
            power_w=2800.0,
            kwh_per_million_tokens=0.5,
        ),
        window=Window(start_s=0.0, end_s=step * steps, rule=f"all {steps} steps, each like the first"),
        objectives=[],
        cdf={},
        notes=[],
    )


def _training_device(stage: int, busy: float, step: float, steps: int) -> DeviceClass:
    wait = step - busy
    ledger = {
        "compute-bound": 0.6 * busy,
        "memory-bound": 0.2 * busy,
        "launch and host": 0.02 * busy,
        "communication: dp over infiniband": 0.1 * wait,
        "communication: pp over infiniband": 0.02 * wait,
        "communication: tp over nvlink": 0.18 * busy,
        "pipeline bubble": (0.6 + 0.01 * stage) * wait,
        "waiting for slow ranks": (0.18 - 0.01 * stage) * wait,
        "data loading": 0.1 * wait,
    }
    return DeviceClass(
        name=f"pretrain.s{stage}",
        job="pretrain",
        stage=stage,
        gpu="a100-sxm-80gb",
        count=1,
        busy=0.65,
        flops_utilisation=0.36,
        bandwidth_utilisation=0.3,
        ledger={name: seconds * steps for name, seconds in ledger.items()},
    )


def _training_memory(stage: int) -> MemoryStage:
    parts = {
        "parameters": 2.2e9,
        "gradients": 4.4e9,
        "optimizer": 0.41e9,
        "activations": (6.8 - stage) * 1e9,
        "logits": 0.9e9 if stage == 3 else 0.0,
        "communication buffers": 0.05e9,
        "runtime": 2.15e9,
    }
    return MemoryStage(
        job="pretrain",
        stage=stage,
        gpu="a100-sxm-80gb",
        count=1,
        capacity_bytes=85.1e9,
        parts=parts | {"unused": 85.1e9 - sum(parts.values())},
        offloaded={"host": 12e9},
    )


def _training_verdict(step: float) -> Verdict:
    def effect(resource: str, relative: float) -> Effect:
        return Effect(
            resource=resource,
            change="x2",
            output_tokens_per_s=32768 / step * (1 + relative),
            relative=relative,
            usd_per_million_tokens_relative=-relative / (1 + relative),
        )

    return Verdict(
        state="stable",
        sentence=f"a step takes {step:.3g} s (MFU 26.4%); bound by GPU arithmetic (47.8% of GPU time)",
        bottleneck="GPU arithmetic (47.8% of GPU time)",
        binding=["GPU arithmetic (47.8% of GPU time)"],
        not_binding=["memory capacity x2 changes tok/s by less than 0.1%"],
        effects=[effect("GPU arithmetic", 0.41), effect("memory capacity", 0.0)],
        warnings=[],
    )
