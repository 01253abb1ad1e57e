"""Serving without a KV cache: what it costs in closed form, what it holds, and what does not go with it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sim.adapters.resolve import ResolvedServing
from sim.errors import InfeasibleError, InputError
from sim.jobs.serving.bounds import Lengths, bounds_of
from sim.laws.arrange import layouts, topology_of
from sim.laws.layout import Layout
from sim.laws.memory import pass_bytes
from sim.laws.step import Pass, StageLaw, Whole
from sim.results.schema import ServingMetrics
from sim.run import Outcome, run_recorded
from sim.study.compare_config import settings as differing
from sim.study.explain import explain
from sim.units import SECONDS, parse

from ...helpers import TOY_MODEL, differences, only, resolved, scenario, shipped, simulate, topology, toy

OFF: dict[str, Any] = {"kv_cache": False}
DGX = topology("dgx_h100_8")
LENGTHS = {"prompt_tokens": {"lognormal": {"median": 100, "p90": 300, "max": 600}},
           "output_tokens": {"lognormal": {"median": 20, "p90": 50, "max": 90}}}  # fmt: skip
#: Weights of the toy model's layers, and of its output head.
LAYERS = 16 * (4 * 1024**2 + 2 * 1024 * 4096)
HEAD = 1024 * 1000


def one(prompt: int, output: int) -> dict[str, Any]:
    return {"all_at_once": True, "prompt_tokens": prompt, "output_tokens": output, "requests": 1}


def metrics(outcome: Outcome) -> ServingMetrics:
    found = only(outcome.result).metrics
    assert isinstance(found, ServingMetrics)
    return found


def flops(outcome: Outcome) -> float:
    """FLOP of all stages' GPUs, one of each tensor group."""
    return sum(stage.track.flops for stage in outcome.recording.jobs[0].replicas[0].stages)


# ---- one request, in closed form


@pytest.mark.parametrize(("prompt", "output"), [(1, 300), (700, 40), (90, 1)])
def test_a_lone_request_takes_its_contexts(prompt: int, output: int) -> None:
    """100 TFLOPS and 1 TB/s, a hard roofline: weights are read or multiplied, whichever takes longer, the pairs of
    causal attention and the last token's logits come on top."""
    outcome = simulate(toy({"batching": OFF, "load": one(prompt, output)}))
    expected = []
    for c in range(prompt, prompt + output):
        dense = max(2 * LAYERS * c / 100e12, 2 * LAYERS / 1e12)
        attention = 16 * 2 * c * c * 1024 / 100e12
        expected.append(dense + attention + max(2 * HEAD / 100e12, 2 * HEAD / 1e12))
    found = metrics(outcome)
    assert found.ttft_s.mean == pytest.approx(expected[0], rel=1e-9)
    assert found.latency_s.mean == pytest.approx(sum(expected), rel=1e-9)
    assert outcome.recording.end == pytest.approx(sum(expected), rel=1e-9)


def test_arithmetic_is_quadratic_in_the_answer() -> None:
    """o p + o (o - 1) / 2 tokens of weights, and o rows of logits, to the last FLOP; attention goes with the cube."""
    p, o = 40, 500
    plain = simulate(toy({"batching": OFF, "load": one(p, o)}, assume={"attention": "free"}))
    tokens = o * p + o * (o - 1) // 2
    assert flops(plain) == pytest.approx(2 * LAYERS * tokens + 2 * HEAD * o, rel=1e-12)
    assert metrics(plain).recomputed_tokens == tokens - (p + o - 1)
    counted = simulate(toy({"batching": OFF, "load": one(p, o)}))
    pairs = sum(c * c / 2 for c in range(p, p + o))
    assert flops(counted) - flops(plain) == pytest.approx(4 * 16 * 1024 * pairs, rel=1e-9)


def test_the_articles_answer_takes_what_its_scenario_says() -> None:
    def played(*overrides: str) -> ServingMetrics:
        return metrics(run_recorded(shipped("article/no_kv_cache", *overrides), effects=False))

    half, fast = "jobs.0.load.output_tokens=2048", "assume.gpu={flops: 330 TFLOPS, memory_bandwidth: 1e6 TB/s}"
    last = "jobs.0.load={all_at_once: true, prompt_tokens: 4095, output_tokens: 2, requests: 1}"
    cached = "jobs.0.batching.kv_cache=true"
    whole = played()
    assert whole.latency_s.mean == pytest.approx(3571, rel=1e-3)
    assert (whole.recomputed_tokens + 4096) / 4096 == 2048.5
    assert whole.latency_s.mean / played(half).latency_s.mean == pytest.approx(3.92, abs=0.005)
    assert played(fast).latency_s.mean / played(fast, half).latency_s.mean == pytest.approx(4.0, abs=0.005)
    assert played(last).tpot_s.mean == pytest.approx(2 * 70e9 * 4096 / 330e12, rel=5e-3)
    assert played(last, "assume.attention=counted").tpot_s.mean == pytest.approx(1.80, abs=0.005)
    assert played(last, cached).tpot_s.mean == pytest.approx(0.1413, rel=1e-3)
    assert played(cached).latency_s.mean == pytest.approx(576.2, rel=1e-3)


# ---- against a cache

PLANS: dict[str, dict[str, Any]] = {
    "one card": toy({}), "a pipeline": toy({"plan": {"pp": 4}}, gpus=4, stack={"links": "measured"}),
    "a tensor group": scenario(DGX, {"plan": {"tp": 4}}, stack="ideal"),
    "a measured stack": scenario(DGX, {"plan": {"tp": 8}}),
    "two groups over PCIe": scenario(topology("server_8x4090_pcie"), {"plan": {"tp": 4, "pp": 2}}),
    "experts": scenario(DGX, {"plan": {"tp": 8, "ep": 8}}, model="mixtral-8x7b"),
}  # fmt: skip


def with_keys(case: dict[str, Any], **keys: Any) -> dict[str, Any]:
    (job,) = case["jobs"]
    return case | {"jobs": [job | keys]}


@pytest.mark.parametrize("name", PLANS)
def test_first_tokens_come_alike_and_no_other_comes_sooner(name: str) -> None:
    load = one(500, 60)
    on, off = (metrics(simulate(with_keys(PLANS[name], batching=b, load=load))) for b in ({}, OFF))
    assert off.ttft_s.mean == pytest.approx(on.ttft_s.mean, rel=1e-12)
    assert off.tpot_s.mean > 1.05 * on.tpot_s.mean


@pytest.mark.parametrize("name", ["one card", "a pipeline", "a tensor group"])
def test_a_load_is_never_served_faster(name: str) -> None:
    """Under datasheet arithmetic, whatever comes: each token costs at least what it costs behind a cache."""
    load = {"closed_loop": {"clients": 12}, "requests": 60, **LENGTHS}
    on, off = (metrics(simulate(with_keys(PLANS[name], batching=b, load=load))) for b in ({}, OFF))
    assert off.output_tokens_per_s < on.output_tokens_per_s
    assert off.latency_s.mean > on.latency_s.mean


def test_nothing_is_held_and_nobody_waits_for_memory() -> None:
    """A card with room for the weights and no block of cache: with a cache that is refused."""
    tight = {"usable_memory": f"{2 * (LAYERS + HEAD) + 1000} B"}
    load = {"closed_loop": {"clients": 12}, "requests": 40, **LENGTHS}
    case = toy({"batching": OFF | {"max_sequences": 5}, "load": load}, gpu=tight)
    with pytest.raises(InfeasibleError, match="no block of KV cache"):
        simulate(with_keys(case, batching={}))
    outcome = simulate(case)
    found = metrics(outcome)
    assert (found.kv_occupancy_mean, found.kv_occupancy_peak, found.kv_blocked_fraction) == (0.0, 0.0, 0.0)
    assert (found.preemptions, found.rejected_requests) == (0, 0)
    assert [stage.parts["KV cache"] for stage in outcome.result.memory] == [0.0]
    assert 4.0 < found.batch_size_mean <= 5.0
    assert any("of activations a GPU, 1 kB are left beside" in line for line in outcome.result.verdict.warnings)
    table = outcome.recording.jobs[0].table
    assert len(table.rejected) == 0
    smaller = toy({"batching": OFF, "load": load}, gpu={"usable_memory": f"{2 * (LAYERS + HEAD) - 1000} B"})
    with pytest.raises(InfeasibleError, match="does not fit"):
        simulate(smaller)


def test_a_pass_that_fits_beside_the_weights_is_not_warned_of() -> None:
    """2 x tokens x (2 h + 4 h) bytes: 1,024 wide, an MLP of 4,096 between."""
    load = one(1000, 30)
    need = 2 * 1029 * (2 * 1024 + 4096)
    assert pass_bytes(resolved(toy({"load": load})).serving[0].model, 1, 1029) == need
    for spare, warned in ((1, False), (-1, True)):
        room = 2 * (LAYERS + HEAD) + need + spare
        outcome = simulate(toy({"batching": OFF, "load": load}, gpu={"usable_memory": f"{room} B"}))
        assert any("of activations" in line for line in outcome.result.verdict.warnings) is warned


def test_arithmetic_binds_where_reading_does_with_a_cache() -> None:
    load = {"closed_loop": {"clients": 2}, "requests": 8, "prompt_tokens": 400, "output_tokens": 200}
    on, off = (simulate(toy({"batching": b, "load": load})).result.verdict.binding[0] for b in ({}, OFF))
    assert on.startswith("HBM bandwidth")
    assert off.startswith("GPU arithmetic")


def test_prompts_first_and_tokens_later_are_whole_contexts_too() -> None:
    """Two prompts of 100 and answers of 2: passes of (100, 100) and of (101, 101), whoever rides with whom."""
    load = {"all_at_once": True, "prompt_tokens": 100, "output_tokens": 2, "requests": 2}
    for policy in ("continuous", "prefill_first", "decode_first"):
        outcome = simulate(toy({"batching": OFF | {"policy": policy}, "load": load}, assume={"attention": "free"}))
        assert flops(outcome) == pytest.approx(2 * LAYERS * 402 + 2 * HEAD * 4, rel=1e-12)


@pytest.mark.parametrize("policy", ["continuous", "prefill_first", "decode_first", "static"])
def test_sums_over_contexts_are_those_of_each(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However sequences come, go, and die with their replica, a pass has the sums of the contexts that ride in it."""
    seen: list[int] = []
    worked_out = StageLaw.anew

    def anew(law: StageLaw, whole: Whole) -> Pass:
        contexts = list(whole.each())
        assert (len(contexts), sum(contexts)) == (whole.number, whole.tokens)
        assert sum(c * c for c in contexts) == whole.squares
        seen.append(len(contexts))
        return worked_out(law, whole)

    monkeypatch.setattr(StageLaw, "anew", anew)
    batching = OFF | {"policy": policy} | ({"batch_size": 4} if policy == "static" else {})
    load = {"closed_loop": {"clients": 12}, "requests": 60, **LENGTHS}
    faults = {"classes": [{"name": "node", "per": "node", "mtbf": "0.4 s"}]}
    job = {"plan": {"pp": 2, "dp": 2}, "batching": batching, "load": load, "recovery": {"time": "0.1 s"}}
    outcome = simulate(toy(job, gpus=4, faults=faults))
    assert metrics(outcome).outages
    assert metrics(outcome).lost_kv_tokens == 0
    assert max(seen) > 2


# ---- the same whichever way it is told, and never better than its bounds


@settings(max_examples=15, deadline=None, derandomize=True, phases=[Phase.generate],
          suppress_health_check=[HealthCheck.too_slow])  # fmt: skip
@given(
    pp=st.integers(1, 4), dp=st.integers(1, 2), micro_batches=st.integers(1, 6),
    batching=st.one_of(
        st.fixed_dictionaries({"policy": st.sampled_from(["continuous", "prefill_first", "decode_first"])},
                              optional={"max_sequences": st.integers(1, 9)}),
        st.fixed_dictionaries({"policy": st.just("static"), "batch_size": st.integers(1, 5)}),
    ),
    arrivals=st.sampled_from([
        {"all_at_once": True}, {"closed_loop": {"clients": 5, "think_time": "5 ms"}}, {"poisson": {"rate": "60 req/s"}},
    ]),
    router=st.sampled_from(["sticky", "least_loaded"]), seed=st.integers(0, 1000),
)  # fmt: skip
def test_both_ways_tell_the_same(
    pp: int, dp: int, micro_batches: int, batching: dict[str, Any], arrivals: dict[str, Any], router: str, seed: int
) -> None:
    plan = {"pp": pp, "dp": dp, **({"micro_batches": micro_batches} if pp > 1 else {})}
    case = toy(
        {"plan": plan, "batching": OFF | batching, "router": router, "load": {"requests": 20, **LENGTHS, **arrivals}},
        gpus=pp * dp, stack={"links": "measured", "host_per_step": "0.05 ms"}, seed=seed,
    )  # fmt: skip
    told = []
    for detail in ("auto", "full"):
        document = simulate(case, detail=detail).result.model_dump()  # type: ignore[arg-type]
        for key in ("events", "detail", "run_info"):
            document.pop(key)
        told.append((document, document.pop("timeline")))
    (a, lines_a), (b, lines_b) = told
    assert list(differences(a, b, relative=1e-9, absolute=1e-12)) == []
    assert list(differences(lines_a, lines_b, relative=1e-9, absolute=1.1e-6)) == []


@pytest.mark.parametrize("policy", [{"max_sequences": 6}, {"policy": "static", "batch_size": 6}])
@pytest.mark.parametrize("name", ["one card", "a pipeline", "a measured stack", "experts"])
def test_no_rate_is_above_its_bound(name: str, policy: dict[str, Any]) -> None:
    prompt, answer, requests = 120, 30, 48
    load = {"all_at_once": True, "requests": requests, "prompt_tokens": prompt, "output_tokens": answer}
    case = with_keys(PLANS[name], batching=OFF | policy, load=load)
    found = resolved(case)
    graph = topology_of(found)
    (layout,), job = layouts(found, graph), found.jobs[0]
    assert isinstance(job, ResolvedServing)
    assert isinstance(layout, Layout)
    bounds = bounds_of(found, job, graph, layout, Lengths([prompt] * requests, [answer] * requests))
    outcome = simulate(case)
    told = metrics(outcome)
    rate = requests / outcome.result.simulated_s
    assert rate <= bounds.requests_per_s
    assert told.tpot_s.mean >= bounds.tpot
    assert told.ttft_s.p50 >= bounds.ttft(prompt)
    if name == "one card":  # compute-bound: the bound is nearly reached
        assert rate > 0.9 * bounds.requests_per_s


# ---- what is said, and what is refused


def test_a_token_is_derived_from_contexts_computed_again() -> None:
    found = explain(resolved(toy({"batching": OFF, "load": one(2000, 100)})), "tpot")
    names = [step.name for step in found.steps]
    assert {"weights", "arithmetic", "pass"} <= set(names)
    assert "KV cache" not in names
    assert "1 x 2,050" in {step.value for step in found.steps}
    law = parse(next(step.value for step in found.steps if step.name == "a token of each sequence"), SECONDS)
    assert law == pytest.approx(found.value, rel=1e-3)


def test_reports_say_that_nothing_is_cached() -> None:
    result = simulate(toy({"batching": OFF, "load": one(10, 5)})).result
    assert "fp16 without KV cache" in result.headline
    assert any(row.name == "job0: KV cache" and row.value.startswith("none") for row in result.assumptions)
    assert any(line.startswith("Without a KV cache") for line in result.not_modelled)
    on, off = (resolved(toy({"batching": b, "load": one(10, 5)})) for b in ({}, OFF))
    assert [(s.group, s.key, s.values) for s in differing([on, off])] == [("plan", "batching kv cache", ["yes", "no"])]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"batching": {"prefix_caching": True}}, ".batching: no prompt is kept for others: leave prefix_caching out"),
        ({"batching": {"admission": "reserve"}}, ".batching: there are no blocks to set aside"),
        ({"batching": {"preemption": "swap"}}, ".batching: there is nothing to copy to the host"),
        ({"batching": {"max_batched_tokens": 64}}, ".batching: each pass computes whole contexts, however long"),
        ({"batching": {"prefill_chunk": 64}}, ".batching: each pass computes whole contexts, however long"),
        ({"precision": {"kv": "fp8"}}, ": nothing is kept in fp8: leave precision.kv out"),
        ({"router": "kv_aware"}, ": no replica has any part of a prompt: leave router: kv_aware out"),
        ({"plan": {"dp": 2}, "disaggregate": {"prefill": 1}}, ": no replica has prompts to hand over"),
        ({"speculative": {"tokens": 2, "acceptance": 0.5, "draft": "ngram"}}, ": guesses have no cached tokens"),
        ({"adapters": {"count": 4, "resident": 2}}, ": each pass begins all prompts anew"),
    ],
)  # fmt: skip
def test_what_needs_a_cache_is_refused(keys: dict[str, Any], said: str) -> None:
    case = toy({"load": one(10, 5)} | keys | {"batching": OFF | keys.get("batching", {})}, gpus=2)
    with pytest.raises(InputError) as caught:
        resolved(case)
    (problem,) = caught.value.problems
    where, _, why = said.partition(": ")
    assert (problem.path, problem.line is not None) == (f"jobs.0{where}", True)
    assert problem.message.startswith(f"without a KV cache (kv_cache: false) {why}")


def test_adapters_that_are_all_there_ride_along() -> None:
    case = {"batching": OFF, "load": one(100, 20)}
    plain, tuned = (metrics(simulate(toy(case | more))) for more in ({}, {"adapters": {"count": 4}}))
    assert plain.latency_s.mean < tuned.latency_s.mean < 1.3 * plain.latency_s.mean
    assert TOY_MODEL["layers"] == 16
