"""A synthetic Result with everything in it: LLaMA-2 70B on eight desktops, numbers made up but consistent."""

from __future__ import annotations

import math
import random
from typing import Any

from sim.results.definitions import METRICS
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
    Timeline,
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


def hostile_result() -> Result:
    """Every string of the document extended by markup and escape sequences."""

    def spoil(value: Any, key: str = "") -> Any:
        if isinstance(value, str):
            if key in ("kind", "state") and value in ("serving", "stable", "saturated", "overloaded"):
                return value
            return f"{value}{HOSTILE[len(value) % len(HOSTILE)]}"
        if isinstance(value, list):
            return [spoil(item) for item in value]
        if isinstance(value, dict):
            return {spoil(k) if key in _NAMED else k: spoil(v, k) for k, v in value.items()}
        return value

    document = make_result(bins=40).model_dump(mode="json")
    document["verdict"]["warnings"] = ["careful"]
    document["banners"] = ["assumed"]
    return Result.model_validate(spoil(document))


_NAMED = {"ledger", "parts", "breakdown_usd_per_hour", "devices", "links", "jobs"}


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
    )


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
