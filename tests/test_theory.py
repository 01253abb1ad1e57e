"""Small systems against their textbook equations: queues, batches, pipelines.

Queues. One toy GPU serves one sequence at a time; KV reads are free, so a request of n output tokens takes n
passes of the same time. With Poisson arrivals that is an M/G/1 queue. Its waits follow Lindley's recursion
w' = max(0, w + service - gap) request by request, and their mean is Pollaczek-Khinchine's

    W = rate E[S^2] / (2 (1 - load))           M/M/1: load/(1-load) E[S];  M/D/1: half of it

within three standard errors over independent seeds.
"""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.jobs.play import play
from sim.jobs.serving.replica import Replica
from sim.laws.step import Chunk
from sim.run import Outcome

from .helpers import TOY_MODEL, only, resolved, scenario, simulate, tokens_per_s, topology, toy

# ---- one queue, one server

MEAN_TOKENS = 1000
SECONDS_A_TOKEN = 16 * 12 * 2**20 * 2 / 1e12 + 2 * 1000 * 1024 / 1e12
#: Waits vary more at high load, so there are more runs.
SEEDS = {0.5: range(12), 0.8: range(24)}


def mean_waits(load: float, output: Any) -> list[float]:
    """Mean seconds in the queue of independent runs at this load."""
    rate = load / (MEAN_TOKENS * SECONDS_A_TOKEN)
    described = toy(
        {
            "batching": {"max_sequences": 1},
            "load": {"poisson": {"rate": f"{rate!r} req/s"}, "prompt_tokens": 1, "output_tokens": output,
                     "requests": 2500},
        },
        assume={"kv_reads": "free"},
    )  # fmt: skip
    queue = resolved(described)
    waits = []
    for seed in SEEDS[load]:
        seeded = replace(queue, scenario=queue.scenario.model_copy(update={"seed": seed}))
        table = play(seeded).jobs[0].table
        arrival, wait = np.array(table.arrival), np.array(table.scheduled) - np.array(table.arrival)
        service = np.array(table.output) * SECONDS_A_TOKEN
        follows = np.maximum(0.0, wait[:-1] + service[:-1] - np.diff(arrival))
        assert wait[1:] == pytest.approx(follows, rel=1e-3, abs=1e-6)
        waits.append(float(wait[250:].mean()))
    return waits


def within_three_standard_errors(found: list[float], expected: float) -> bool:
    error = float(np.std(found, ddof=1)) / sqrt(len(found))
    assert error < 0.05 * expected, "too noisy to mean anything"
    return abs(float(np.mean(found)) - expected) < 3 * error


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_m_m_1(load: float) -> None:
    """Whole tokens: a geometric law, whose second moment 2 m^2 - m is the exponential's but for one in 2 m."""
    mean = MEAN_TOKENS * SECONDS_A_TOKEN
    square = (2 * MEAN_TOKENS**2 - MEAN_TOKENS) * SECONDS_A_TOKEN**2
    expected = load / mean * square / (2 * (1 - load))
    assert expected == pytest.approx(load / (1 - load) * mean, rel=0.001)
    assert within_three_standard_errors(mean_waits(load, {"exponential": {"mean": MEAN_TOKENS}}), expected)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_m_d_1(load: float) -> None:
    expected = load / (1 - load) * MEAN_TOKENS * SECONDS_A_TOKEN / 2
    assert within_three_standard_errors(mean_waits(load, MEAN_TOKENS), expected)


# ---- identities

CHAT = {
    "prompt_tokens": {"lognormal": {"median": 300, "p90": 900, "max": 2000}},
    "output_tokens": {"lognormal": {"median": 100, "p90": 300, "max": 1000}},
}


def busy_server(**load: Any) -> Outcome:
    job = {"plan": {"tp": 8}, "load": {"poisson": {"rate": "30 req/s"}, "requests": 1500, **CHAT, **load}}
    return simulate(scenario(topology("dgx_h100_8"), job))


def test_littles_law() -> None:
    """Requests in the system, over time, are the arrival rate times the mean latency; likewise in the queue."""
    outcome = busy_server()
    job = only(outcome.result)
    line = outcome.result.timeline
    a, b = job.window.start_s, job.window.end_s
    middle = line.bin_s * (np.arange(len(line.jobs["job0"]["running"])) + 0.5)
    inside = (middle > a) & (middle < b)
    series = {name: np.array(values) for name, values in line.jobs["job0"].items()}
    present = float((series["waiting"] + series["running"])[inside].mean())
    rate = job.metrics.measured_requests / (b - a)
    assert job.metrics.latency_s.mean is not None
    assert present == pytest.approx(rate * job.metrics.latency_s.mean, rel=0.02)
    table = outcome.recording.jobs[0].table
    total = sum(f - t for f, t in zip(table.finish, table.arrival, strict=True))
    whole = float((series["waiting"] + series["running"]).sum()) * line.bin_s
    assert whole == pytest.approx(total, rel=0.02)


def test_latency_is_first_token_and_then_the_rest() -> None:
    n = 64
    outcome = busy_server(output_tokens=n, requests=400)
    metrics = only(outcome.result).metrics
    parts = metrics.ttft_s.mean, metrics.tpot_s.mean, metrics.latency_s.mean
    assert None not in parts
    ttft, tpot, latency = (float(x) for x in parts if x is not None)
    assert latency == pytest.approx(ttft + (n - 1) * tpot, rel=1e-12)
    table = outcome.recording.jobs[0].table
    spans = [finish - first for first, finish in zip(table.first, table.finish, strict=True)]
    assert metrics.inter_token_s.mean == pytest.approx(sum(spans) / (400 * (n - 1)), rel=1e-9)


def replica_of(outcome: Outcome) -> Replica:
    return outcome.recording.jobs[0].replicas[0]


def test_a_lone_request_takes_its_passes() -> None:
    load = {"all_at_once": True, "prompt_tokens": 5000, "output_tokens": 100, "requests": 1}
    outcome = simulate(toy({"batching": {"max_batched_tokens": 2048}, "load": load}))
    cost = replica_of(outcome).stages[0].law.cost
    chunks = [cost(0, 0, [Chunk(2048, 0)]), cost(0, 0, [Chunk(2048, 2048)]), cost(0, 0, [Chunk(904, 4096)])]
    decode = [cost(1, 5000 + k) for k in range(1, 100)]
    metrics = only(outcome.result).metrics
    assert metrics.ttft_s.mean == pytest.approx(sum(c.total for c in chunks), rel=1e-12)
    assert metrics.tpot_s.mean == pytest.approx(sum(c.total for c in decode) / 99, rel=1e-9)
    assert outcome.recording.end == pytest.approx(sum(c.total for c in chunks + decode), rel=1e-12)


# ---- batches


def test_static_batches_in_closed_form() -> None:
    """SERVING_MODEL 1c: t = step(0, 0, [(B, isl, 0)]) + (osl-1) step(B, isl + osl/2), one batch after another."""
    isl, osl, size, batches = 300, 200, 12, 5
    outcome = simulate(
        scenario(
            topology("dgx_h100_8"),
            {
                "plan": {"tp": 8},
                "batching": {"policy": "static", "batch_size": size},
                "load": {"all_at_once": True, "prompt_tokens": isl, "output_tokens": osl, "requests": size * batches},
            },
        )
    )
    cost = replica_of(outcome).stages[0].law.cost
    one = cost(0, 0, [Chunk(isl, 0)] * size).total + (osl - 1) * cost(size, size * (isl + osl // 2)).total
    assert outcome.recording.end == pytest.approx(batches * one, rel=1e-12)
    assert outcome.recording.jobs[0].table.finish[-1] == outcome.recording.end


def test_continuous_batches_are_at_least_as_good_as_static_ones() -> None:
    """The same twenty traces: tokens a second and mean latency, on average over them, and hardly ever worse in one.

    Rows that finish early leave a continuous batch at once; a static one computes on until its longest is done.
    """
    policies = ({"policy": "continuous", "max_sequences": 8}, {"policy": "static", "batch_size": 8})
    load = {"poisson": {"rate": "60 req/s"}, "requests": 80, "prompt_tokens": 100,
            "output_tokens": {"exponential": {"mean": 200}}}  # fmt: skip
    rates, latencies = [], []
    for seed in range(20):
        tables = []
        for policy in policies:
            recording = simulate(toy({"batching": policy, "load": load}, seed=seed)).recording
            tables.append((recording.jobs[0].table, recording.end))
        (one, end), (other, later) = tables
        assert (one.arrival, one.output) == (other.arrival, other.output)
        rates.append(later / end)
        means = [float(np.mean(np.array(t.finish) - np.array(t.arrival))) for t, _ in tables]
        latencies.append(means[1] / means[0])
    assert np.mean(rates) > 1.5
    assert np.mean(latencies) > 1.5
    assert min(*rates, *latencies) > 1


def closed_form(outcome: Outcome, isl: int, osl: int, reserve: bool) -> float:
    """Tokens a second of SERVING_MODEL 1a with fixed lengths."""
    replica = replica_of(outcome)
    cost, limits = replica.stages[0].law.cost, replica.scheduler.limits
    per = isl + osl if reserve else isl + osl / 2
    blocks = limits.blocks * limits.block_tokens
    size = min(blocks / per, limits.max_sequences, limits.max_tokens * osl / (isl + osl))
    joining = size / osl
    b, context = round(size), round(size * (isl + osl / 2))
    if joining >= 1:
        whole = int(joining)
        prompts = [*[Chunk(isl, 0)] * whole, Chunk(round((joining - whole) * isl), 0)]
        return size / cost(b, context, prompts).total
    chunk = min(isl, limits.max_tokens - b)
    share = min(1.0, joining * isl / chunk)
    mixed = cost(b, context, [Chunk(chunk, (isl - chunk) // 2)]).total
    return size / ((1 - share) * cost(b, context).total + share * mixed)


@pytest.mark.parametrize(
    ("stack", "isl", "osl", "clients", "requests"),
    [
        ("vllm", 512, 512, 300, 1500),  # max_sequences 256 binds
        ("vllm", 1500, 200, 300, 2000),
        ("vllm", 64, 1000, 300, 2400),
        ("generic", 512, 512, 300, 1500),
        ("trtllm", 2000, 1000, 750, 2200),  # KV reserved for the whole answer binds
    ],
)
def test_saturated_throughput_in_closed_form(stack: str, isl: int, osl: int, clients: int, requests: int) -> None:
    job = {
        "plan": {"tp": 8},
        "load": {"closed_loop": {"clients": clients, "ramp": "60 s"}, "prompt_tokens": isl, "output_tokens": osl,
                 "requests": requests},
    }  # fmt: skip
    outcome = simulate(scenario(topology("dgx_h100_8"), job, stack=stack))
    assert tokens_per_s(outcome) == pytest.approx(closed_form(outcome, isl, osl, stack == "trtllm"), rel=0.05)


# ---- pipelines

#: Seconds a stage takes to read its four layers, and links as (bytes/s, latency, overhead).
STAGE = 4 * 12 * 2**20 * 2 / 1e12
FAST = (1e9, 0.0, 0.0)
LINKS = {
    "fast network": FAST,
    "latency": (1e9, 100e-6, 0.0),
    "overhead": (1e9, 0.0, 150e-6),
    "slow link": (10e6, 100e-6, 50e-6),
}


def piped(job: dict[str, Any], link: tuple[float, float, float], **assume: str) -> Outcome:
    """A job on four toy desktops; the return hop carries as much as the others, the head weighs nothing."""
    bandwidth, latency, overhead = link
    net = {"bandwidth": f"{bandwidth} B/s", "latency": f"{latency} s", "message_overhead": f"{overhead} s"}
    return simulate(
        toy(job, gpus=4, stack={"links": "measured"}, model={"vocabulary": 1}, link=net,
            assume={"pp_return_hop": "counted", **assume})
    )  # fmt: skip


def ring(micro_batches: int, output: int, link: tuple[float, float, float], clients: int | None = None) -> Outcome:
    """Equal micro-batches in a ring of equal stages."""
    clients = clients or micro_batches
    load = {"closed_loop": {"clients": clients}, "prompt_tokens": 1, "output_tokens": output, "requests": clients}
    return piped({"plan": {"pp": 4, "micro_batches": micro_batches}, "load": load}, link, kv_reads="free")


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize(("m", "per_batch"), [(1, 3), (3, 1), (4, 1), (4, 3), (5, 1), (8, 3), (12, 1)])
def test_equal_micro_batches_in_a_ring(m: int, link: str, per_batch: int) -> None:
    """SERVING_MODEL 1d: cycle = max(m max(s, occ), pp (s + occ + lat)); the period, free of the start, to 1e-6."""
    short, long = (ring(m, n, LINKS[link], m * per_batch) for n in (60, 260))
    stages = replica_of(long).stages
    seconds = [stage.law.cost(per_batch, 0).total for stage in stages]
    hops = [stage.hop for stage in stages if stage.hop]
    occupied = [hop.bytes_per_token * per_batch / hop.cap + hop.overhead for hop in hops]
    travel = sum(seconds) + sum(occupied) + sum(hop.latency for hop in hops)
    assert len(hops) == 4
    cycle = max(m * max(*seconds, *occupied), travel)
    finishes = [outcome.recording.jobs[0].table.finish for outcome in (short, long)]
    for a, b in zip(*finishes, strict=True):
        assert (b - a) / 200 == pytest.approx(cycle, rel=1e-6)


def test_the_ring_is_bound_by_its_stages_its_links_and_its_way_round() -> None:
    """Each of the three terms of the oracle is the largest in some of the cases above."""
    bounds = set()
    for bandwidth, latency, overhead in LINKS.values():
        occupied = 2048 / bandwidth + overhead
        for m in (1, 4, 5, 12):
            terms = {"stages": m * STAGE, "links": m * occupied, "way": 4 * (STAGE + occupied + latency)}
            bounds.add(max(terms, key=terms.__getitem__))
    assert bounds == {"stages", "links", "way"}


@pytest.mark.parametrize("link", LINKS)
def test_where_a_stage_spends_its_time_with_one_micro_batch(link: str) -> None:
    """In each round a stage computes s, waits a hop for the message sent to it, and is idle for the other rounds'."""
    outcome, rounds = ring(1, 1000, LINKS[link]), 1000
    sent = replica_of(outcome).stages[0].hop
    assert sent is not None
    hop = sent.bytes_per_token / sent.cap + sent.overhead + sent.latency
    for device in outcome.result.devices:
        network = device.ledger["communication: ethernet"]
        assert network == pytest.approx(rounds * hop, rel=0.002)  # the first message starts the clock
        assert device.ledger["memory-bound"] == pytest.approx(rounds * STAGE, rel=0.002)
        assert device.ledger["pipeline bubble"] == pytest.approx(3 * rounds * (STAGE + hop), rel=0.002)
        assert device.ledger["waiting for work"] == 0.0


def test_one_slow_micro_batch_slows_all(tmp_path: Path) -> None:
    """SERVING_MODEL 1d: with m = pp the whole cycle becomes pp (s1 + occ1 + lat), for nobody overtakes.

    Three sequences of a token and one of 40,000 decode together; all four see the slow one's period.
    """
    trace, output = tmp_path / "trace.csv", 400
    rows = [f"2023-11-16 00:00:00.0000000,{prompt},{output}" for prompt in (1, 1, 1, 40_000)]
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows, ""]), encoding="utf-8")
    outcome = piped({"plan": {"pp": 4}, "load": {"trace": {"file": str(trace), "format": "azure"}}}, LINKS["slow link"])
    stages = replica_of(outcome).stages
    hops = sum(h.bytes_per_token / h.cap + h.overhead + h.latency for h in (s.hop for s in stages) if h)
    slow, fast = (sum(s.law.cost(1, context + output // 2).total for s in stages) for context in (40_000, 0))
    assert slow > 3 * fast
    table = outcome.recording.jobs[0].table
    last = (table.finish[3] - table.first[3]) / (output - 1)
    assert last == pytest.approx(slow + hops, rel=1e-3)
    gaps = only(outcome.result).metrics.inter_token_s
    assert gaps.p50 == pytest.approx(slow + hops, rel=0.005)
    assert fast + hops < 0.6 * (slow + hops)


def test_pipeline_stages_share_the_layers() -> None:
    assert TOY_MODEL["layers"] == 16
    assert [stage.law.shape.layers for stage in replica_of(ring(1, 2, FAST)).stages] == [4, 4, 4, 4]
