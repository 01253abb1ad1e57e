"""A training step against its closed forms, and told in full against told in short."""

from __future__ import annotations

from typing import Any

import pytest

from sim.errors import InfeasibleError
from sim.jobs.training.run import TrainingRecording
from sim.jobs.training.step import account
from sim.results.training import training_metrics
from sim.run import run_recorded
from sim.spec.scenario import Assume

from ...helpers import differences, resolved
from .helpers import desktops, played, servers, step_time, toy, training

HOME = desktops(*["rtx4090"] * 4)
A100 = servers("a100-sxm-80gb", 2, "nvlink3", "infiniband-hdr")
ONE_CARD = {"topology": {"name": "shared", "nodes": [{
    "name": "server", "count": 2, "gpus": [{"type": "a100-sxm-80gb", "count": 4}], "nvlink": {"link": "nvlink3"},
    "nics": [{"link": "infiniband-hdr", "count": 1}],
}]}}  # fmt: skip
PCIE = {"topology": {"name": "pcie", "nodes": [{
    "name": "server", "count": 2, "gpus": [{"type": "rtx4090", "count": 4}], "nics": [{"link": "ethernet-25g"}],
}]}}  # fmt: skip
SPINE = {"topology": {
    **A100["topology"], "nodes": [{**A100["topology"]["nodes"][0], "count": 4}],
    "network": {"leaf_spine": {"nodes_per_leaf": 2, "uplinks": 4, "link": "infiniband-hdr"}},
}}  # fmt: skip
MIXED = desktops("rtx4090", "rtx3090", "rtx4090", "rtx3090")
TINY = {"model": "tinyllama-1.1b"}
SMALL, LARGE = (8, 1, 1024), (32, 1, 4096)
PLAIN = {"stack": "megatron-2021", "precision": {"gradients": "bf16"}}

CASES: dict[str, dict[str, Any]] = {
    "pipeline over Ethernet": training(HOME, {"pp": 4}, SMALL, **TINY),
    "messages that meet": training(desktops(*["rtx4090"] * 4, link="ethernet-1g"), {"pp": 4}, SMALL, **TINY, **PLAIN),
    "gpipe": training(HOME, {"pp": 4, "schedule": "gpipe"}, SMALL, **TINY),
    "zero bubble": training(HOME, {"pp": 4, "schedule": "zb-h1"}, SMALL, **TINY),
    "interleaved": training(HOME, {"pp": 4, "vpp": 2}, SMALL, **TINY),
    "never emptied": training(HOME, {"pp": 4, "schedule": "stream"}, SMALL, **TINY),
    "data parallel": training(HOME, {"dp": 4}, SMALL, **TINY),
    "data parallel in buckets": training(HOME, {"dp": 4, "bucket": "25 MB"}, SMALL, **TINY),
    "zero 1": training(A100, {"dp": 16, "zero": 1}, LARGE),
    "zero 2": training(A100, {"dp": 16, "zero": 2}, LARGE),
    "zero 3": training(A100, {"dp": 16, "zero": 3, "recompute": "full"}, LARGE),
    "zero 3 within nodes": training(A100, {"dp": 16, "zero": 3, "shard": "node"}, LARGE),
    "tensor and pipeline": training(A100, {"tp": 8, "pp": 2}, SMALL),
    "tensor and data": training(A100, {"tp": 8, "dp": 2, "zero": 1}, SMALL),
    "tensor groups share a card for their gradients": training(ONE_CARD, {"tp": 4, "dp": 2}, SMALL, **PLAIN),
    "tensor ranks share a card for their hops": training(ONE_CARD, {"tp": 4, "pp": 2}, SMALL, **PLAIN),
    "data groups share an uplink": training(SPINE, {"tp": 4, "dp": 8}, SMALL, **PLAIN),
    "staged through host memory": training(PCIE, {"tp": 4, "dp": 2}, SMALL, **TINY, **PLAIN),
    "sequence and context": training(A100, {"tp": 4, "cp": 2, "pp": 2, "sequence_parallel": True}, SMALL),
    "gathered context": training(A100, {"cp": 8, "dp": 2, "context_parallel": "all_gather"}, SMALL),
    "experts": training(A100, {"dp": 16, "ep": 8, "zero": 1}, (32, 1, 1024), model="mixtral-8x7b"),
    "experts out of balance": training(A100, {"dp": 16, "ep": 8, "expert_imbalance": 1.5}, (32, 1, 1024),
                                       model="mixtral-8x7b"),
    "chunks recomputed": training(A100, {"tp": 8, "pp": 2, "vpp": 4, "recompute": "full"}, (16, 1, 4096)),
    "a slow GPU": training(A100, {"tp": 2, "pp": 2, "dp": 4, "zero": 1}, LARGE, slow=[{"gpu": 5, "factor": 1.5}]),
    "a slow stage": training(HOME, {"pp": 4}, SMALL, **TINY, slow=[{"gpu": 2, "factor": 2}]),
    "mixed cards in a pipeline": training(MIXED, {"pp": 4}, SMALL, **TINY),
    "mixed cards side by side": training(desktops("rtx4090", "rtx3090"), {"dp": 2}, SMALL, **TINY),
    "own order": training(desktops(*["rtx4090"] * 2), {"pp": 2, "schedule": {"order": [
        ["F0", "F1", "F2", "F3", "B0", "B1", "B2", "B3"], ["F0", "B0", "F1", "B1", "F2", "F3", "B2", "B3"]]}},
        (4, 1, 1024), **TINY),
    "axes in another order": training(A100, {"tp": 2, "pp": 4, "dp": 2, "order": ["pp", "tp", "cp", "dp"]}, SMALL),
    "low rank": training(A100, {"dp": 16, "zero": 3}, LARGE, finetune={"method": "lora", "rank": 16}),
}  # fmt: skip


def job(described: dict[str, Any], detail: Any = "auto") -> TrainingRecording:
    (found,) = played(described, detail).training
    return found


@pytest.mark.parametrize("name", CASES)
def test_every_rank_as_a_process_tells_the_same(name: str) -> None:
    fast, full = (run_recorded(resolved(CASES[name]), detail=detail, effects=False) for detail in ("auto", "full"))
    a, b = (o.result.model_dump() for o in (fast, full))
    for document in (a, b):
        for key in ("events", "detail", "run_info", "timeline"):
            document.pop(key)
    assert list(differences(a, b, relative=1e-9, absolute=1e-12)) == []
    for one, two in zip(*(o.recording.training[0].step.timings for o in (fast, full)), strict=True):
        assert one.starts == [pytest.approx(stage, rel=1e-9, abs=1e-12) for stage in two.starts]
        assert one.ends == [pytest.approx(stage, rel=1e-9, abs=1e-12) for stage in two.ends]


def test_the_cases_are_what_they_are_called() -> None:
    assert job(CASES["messages that meet"]).step.events > 0  # played on the network by default
    assert job(CASES["tensor and pipeline"]).step.events == 0
    assert len(job(CASES["a slow GPU"]).build.classes) == 2
    assert len(job(CASES["mixed cards side by side"]).build.classes) == 2
    alone = training(ONE_CARD, {"tp": 1, "dp": 2, "placement": [0, 4]}, SMALL, **PLAIN)
    one, four = (job(c).build.network.way("data").parameters for c in (alone, CASES["tensor groups share a card for "
                                                                                     "their gradients"]))  # fmt: skip
    assert one.inter is not None
    assert four.inter is not None
    assert four.inter.bandwidth < one.inter.bandwidth / 3


@pytest.mark.parametrize("name", CASES)
def test_every_gpu_second_is_in_one_bucket(name: str) -> None:
    recording = job(CASES[name])
    for *_, seconds in account(recording.build, recording.step):
        assert seconds.total == pytest.approx(recording.step.seconds, rel=1e-9)
        parts = (seconds.bubble, seconds.slow, seconds.launch, *seconds.communication.values())
        assert min(parts) >= -1e-9 * recording.step.seconds


def test_golden_step() -> None:
    """MPT-7B on eight A100 under FSDP (a row of llm-foundry): the formulas' prototype gives 5.0407 s a step, 25.07 ms
    forward and 50.88 ms backward a layer, 21.8 ms for the update."""
    eight = servers("a100-sxm-80gb", 1, "nvlink3", "infiniband-hdr")
    described = training(eight, {"dp": 8, "zero": 3}, (96, 6, 2048), model="mpt-7b", stack="fsdp-composer",
                         precision={"gradients": "fp32"})  # fmt: skip
    recording = job(described)
    assert recording.step.seconds == pytest.approx(5.0407, rel=0.01)
    (passes,) = recording.build.classes[0].stages[0].lead.passes
    head = 0.016  # the output head's forward pass
    assert (passes.forward.seconds - head) / 32 == pytest.approx(25.07e-3, rel=0.02)
    assert (passes.backward.seconds + passes.weight.seconds) / 32 == pytest.approx(50.88e-3, rel=0.03)


# ---- closed forms: toy cards, 2 FLOP a weight and token forward, twice that backward

LAYER = 12 * 1024 * 1024
TOKENS = 1000


def seconds_of(layers: float, tokens: float = TOKENS) -> float:
    """Forward pass of toy layers: 2 FLOP a weight and token at 100 TFLOPS (it is above the memory's time)."""
    return 2 * layers * LAYER * tokens / 100e12


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("p", "m"), [(2, 2), (4, 8), (8, 3), (16, 32)])
def test_bubble_of_a_flushed_pipeline(schedule: str, p: int, m: int) -> None:
    """(p-1)/(m+p-1) of the step with equal stages and free hops, and 1F1B no different from GPipe."""
    recording = job(toy({"pp": p, "schedule": schedule}, (m, 1, TOKENS), gpus=p))
    metrics = training_metrics(recording, Assume(attention="free"))
    assert metrics.bubble_fraction == pytest.approx((p - 1) / (m + p - 1), rel=2e-3)
    assert metrics.step_time_s == pytest.approx((m + p - 1) * 3 * seconds_of(16 / p), rel=2e-3)


def test_interleaving_divides_the_bubble() -> None:
    bubbles = []
    for v in (1, 2, 4):
        recording = job(toy({"pp": 4, "vpp": v}, (8, 1, TOKENS), gpus=4))
        metrics = training_metrics(recording, Assume(attention="free"))
        bubbles.append(metrics.bubble_fraction * metrics.step_time_s)
    assert bubbles[0] / bubbles[1] == pytest.approx(2, rel=5e-3)
    assert bubbles[0] / bubbles[2] == pytest.approx(4, rel=5e-3)


def test_zero_bubble_moves_weight_gradients_into_the_bubble() -> None:
    """ZB-H1: (p-1)(f + b - w) with b the inputs' part; all three are equal here, so a third of 1F1B's (p-1) 3f."""
    plain, zero = (
        training_metrics(job(toy({"pp": 4, "schedule": s}, (8, 1, TOKENS), gpus=4)), Assume(attention="free"))
        for s in ("1f1b", "zb-h1")
    )
    assert zero.bubble_fraction * zero.step_time_s == pytest.approx(
        plain.bubble_fraction * plain.step_time_s / 3, rel=5e-3
    )


def test_a_stream_has_no_bubble() -> None:
    recording = job(toy({"pp": 8, "schedule": "stream"}, (8, 1, TOKENS), gpus=8))
    assert recording.step.seconds == pytest.approx(8 * 3 * seconds_of(2), rel=2e-3)
    assert [s.in_flight for s in recording.layout.stages] == [15, 13, 11, 9, 7, 5, 3, 1]


def test_period_of_1f1b_with_exposed_hops() -> None:
    """f + b + 2c(p-1)/p a micro-batch: c = latency, messages of next to no bytes."""
    p, latency = 4, 2e-4
    link = {"bandwidth": "1e6 GB/s", "latency": f"{latency} s"}
    times = [step_time(toy({"pp": p}, (m, 1, TOKENS), gpus=p, link=link, stack={"links": "measured"}))
             for m in (64, 128)]  # fmt: skip
    period = (times[1] - times[0]) / 64
    hop = played(toy({"pp": p}, (64, 1, TOKENS), gpus=p, link=link, stack={"links": "measured"}))
    send = hop.training[0].build.classes[0].forward[0]
    assert send is not None
    c = send.exposed / send.cap + send.overhead + send.latency
    assert c >= latency
    assert period == pytest.approx(3 * seconds_of(4) + 2 * c * (p - 1) / p, rel=2e-3)


def test_uneven_stages_run_at_the_slowest() -> None:
    """16 layers on 3 stages: 5, 6, 5; the middle one sets the pace."""
    first, second = (job(toy({"pp": 3}, (m, 1, TOKENS), gpus=3)) for m in (30, 60))
    assert [s.layers for s in first.layout.stages] == [5, 6, 5]
    assert second.step.seconds - first.step.seconds == pytest.approx(30 * 6 * 3 * seconds_of(1), rel=1e-3)


# ---- what data parallelism moves


def sent(plan: dict[str, Any], gpus: int, **more: Any) -> dict[str, float]:
    recording = job(toy(plan, (gpus, 1, TOKENS), gpus=gpus, **more))
    return training_metrics(recording, Assume(attention="free")).sent_bytes_per_gpu


def test_sharding_moves_what_the_papers_say() -> None:
    """Ring all-reduce 2(n-1)/n; ZeRO 1 and 2 the same; ZeRO 3 half as much again."""
    n, weights = 8, 16 * LAYER * 2  # 16-bit weights and gradients
    plain = sent({"dp": n}, n)["dp"]
    assert plain == pytest.approx(2 * (n - 1) / n * weights, rel=1e-3)
    for zero, factor in ((1, 1.0), (2, 1.0), (3, 1.5)):
        assert sent({"dp": n, "zero": zero}, n)["dp"] == pytest.approx(factor * plain, rel=1e-3)


def test_gradients_hide_behind_the_last_backward_pass() -> None:
    """exposed = max(communication - backward, the last layer's share), with ideal overlap."""
    n, weights = 4, 16 * LAYER * 2
    for bandwidth in (1e9, 20e9, 1e12):
        described = toy({"dp": n}, (n, 1, TOKENS), gpus=n, link={"bandwidth": f"{bandwidth / 1e9} GB/s"})
        whole = 2 * (n - 1) / n * weights / bandwidth
        backward = 2 * seconds_of(16)
        exposed = job(described).step.reduced[0] - job(described).step.ready[0]
        assert exposed == pytest.approx(max(whole - backward, whole / 16), rel=5e-3)
        described["jobs"][0]["plan"]["overlap"] = False
        assert job(described).step.reduced[0] - job(described).step.ready[0] == pytest.approx(whole, rel=5e-3)


def test_gradient_accumulation_synchronises_once_a_step() -> None:
    link = {"bandwidth": "1 GB/s"}
    one, eight = (job(toy({"dp": 4}, (4 * m, 1, TOKENS), gpus=4, link=link)).step for m in (1, 8))
    assert eight.reduced[0] - eight.ready[0] == pytest.approx(one.reduced[0] - one.ready[0], rel=1e-6)
    assert eight.ready[0] == pytest.approx(8 * one.ready[0], rel=1e-9)


# ---- slow and mixed GPUs


def test_a_slow_gpu_holds_up_its_replica_and_the_step() -> None:
    plan, batch = {"pp": 2, "dp": 4}, (16, 1, TOKENS)
    even, slow = (job(toy(plan, batch, gpus=8, slow=s)) for s in ([], [{"gpu": 3, "factor": 2.0}]))
    assert [one.count for one in slow.build.classes] == [3, 1]
    assert 1.5 * even.step.seconds < slow.step.seconds < 2 * even.step.seconds
    waiting = {track.name: track.other.get("waiting for slow ranks", 0.0) for *_, track in slow.members}
    assert max(waiting.values()) > 0.3 * slow.step.seconds


def test_a_slow_gpu_of_a_tensor_group_slows_its_peers() -> None:
    even, slow = (
        step_time(training(A100, {"tp": 8, "pp": 2}, SMALL, slow=s)) for s in ([], [{"gpu": 9, "factor": 1.5}])
    )
    assert 1.2 * even < slow < 1.5 * even


# ---- refusals

REFUSED = {
    "batch": ({"dp": 3}, (8, 1, TOKENS), "8 sequences is not a multiple of dp 3 x micro 1 = 3; 6 or 9"),
    "heads": ({"tp": 3}, (8, 1, TOKENS), "tp 3 does not divide the 8 attention heads"),
    "GPUs": ({"tp": 4, "dp": 4}, (8, 1, TOKENS), "takes 16 GPUs, the cluster has 8; dp 2 would fit"),
    "parts": ({"pp": 4, "vpp": 5}, (8, 1, TOKENS), "more parts than the 16 layers"),
    "context": ({"cp": 8}, (8, 1, 1001), "cp 8 does not divide a sequence of 1001 tokens"),
    "experts": ({"dp": 8, "ep": 2}, (8, 1, TOKENS), "toy has none"),
    "layers": ({"pp": 2, "layers": [8, 9]}, (8, 1, TOKENS), "hold 17 layers together, toy has 16"),
    "order": ({"pp": 2, "schedule": {"order": [["F0", "B0"], ["B0", "F0"]]}}, (1, 1, TOKENS), "B0 stands before F0"),
    "slow": ({"dp": 2}, (8, 1, TOKENS), "slow GPU 7 is none of the job's"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_run_is_refused_with_the_reason(name: str) -> None:
    plan, batch, words = REFUSED[name]
    more: dict[str, Any] = {"slow": [{"gpu": 7, "factor": 2}]} if name == "slow" else {}
    with pytest.raises(InfeasibleError, match=words.replace("(", r"\(")):
        played(toy(plan, batch, gpus=8, **more))


def test_what_does_not_fit_is_refused_with_a_way_out() -> None:
    roomy = servers("a100-sxm-80gb", 2, "nvlink3", "infiniband-hdr", host_memory={"capacity": "1 TB"})
    described = training(roomy, {"tp": 8, "pp": 2}, (8, 4, 8192), model="llama-2-70b")
    del described["assume"]
    described["define"] = {"models": {"llama-2-70b": {"like": "llama-2-70b", "context": 8192}}}
    with pytest.raises(InfeasibleError, match="would fit") as refused:
        played(described)
    assert refused.value.budget
    assert "activations" in refused.value.budget[0]
