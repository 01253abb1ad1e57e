"""Drafts and adapters in whole runs: their memory, what they do to speed, and the plans they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from sim.errors import InfeasibleError, InputError
from sim.jobs.serving.build import ReplicaBuilder
from sim.laws.arrange import layouts, topology_of
from sim.laws.layout import Layout
from sim.laws.memory import kv_bytes_per_token
from sim.results.schema import ServingMetrics

from ...helpers import only, resolved, scenario, simulate, topology, toy

DGX = topology("dgx_h100_8")
GUESSES = {"tokens": 4, "acceptance": 0.7, "draft": "llama-3.2-1b"}
LOAD = {"closed_loop": {"clients": 1}, "prompt_tokens": 200, "output_tokens": 200, "requests": 3}


def case(cluster: Any = DGX, model: str = "llama-3.1-70b", **keys: Any) -> dict[str, Any]:
    return scenario(cluster, {"plan": {"tp": 4}, "load": LOAD} | keys, model=model)


def layout(described: dict[str, Any]) -> Layout:
    found = resolved(described)
    (only_one,) = layouts(found, topology_of(found))
    assert isinstance(only_one, Layout)
    return only_one


def metrics(described: dict[str, Any]) -> ServingMetrics:
    found = only(simulate(described).result).metrics
    assert isinstance(found, ServingMetrics)
    return found


def refused(described: dict[str, Any], error: type[Exception] = InputError) -> str:
    with pytest.raises(error) as caught:
        layout(described)
    return str(caught.value)


# ---- memory


@pytest.mark.parametrize("tp", [None, 1])
def test_a_drafts_weights_and_cache_come_off_the_kv_cache(tp: int | None) -> None:
    plain, more = (layout(case(**keys)) for keys in ({}, {"speculative": GUESSES | {"tp": tp}}))
    (a,), (b,) = plain.replicas[0][0].memory.values(), more.replicas[0][0].memory.values()
    found = resolved(case(speculative=GUESSES)).serving[0].draft
    assert found is not None
    ranks = tp or 4
    cache = kv_bytes_per_token(found, found.layers, ranks, 2.0)
    assert b.kv_per_token - a.kv_per_token == cache
    assert b.beside == pytest.approx(2 * found.parameters / ranks, rel=0.01)
    assert a.kv_budget - b.kv_budget == pytest.approx(b.beside)
    assert more.tokens[0] == b.tokens // 16 * 16 < plain.tokens[0]
    assert sum(b.parts(more.tokens[0]).values()) == pytest.approx(b.capacity)


def test_resident_adapters_come_off_the_kv_cache() -> None:
    plain, some, all_of_them = (
        layout(case(batching={"max_sequences": 8}, **keys)).replicas[0][0].memory["h100-sxm"]
        for keys in ({}, {"adapters": {"count": 40, "resident": 10}}, {"adapters": {"count": 40}})
    )
    assert plain.kv_budget - some.kv_budget == pytest.approx(some.beside)
    assert all_of_them.beside == pytest.approx(4 * some.beside)


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({"speculative": GUESSES | {"draft": "llama-3.1-70b"}}, "a draft model"),
        ({"adapters": {"count": 3000}}, "3000 adapters"),
    ],
)
def test_what_does_not_fit_is_refused(keys: dict[str, Any], what: str) -> None:
    assert f"does not fit beside {what}" in refused(case(**keys, plan={"tp": 2}), InfeasibleError)


# ---- speed


def test_speculation_of_one_user_is_faster_by_what_is_kept_less_its_drafts() -> None:
    plain, free, drafted = (
        metrics(case(**keys)).tpot_s.p50
        for keys in ({}, {"speculative": GUESSES | {"draft": "ngram"}}, {"speculative": GUESSES})
    )
    assert plain / free == pytest.approx(2.7731, rel=0.02)
    assert free < drafted < plain


def test_a_full_batch_gains_nothing_from_guesses_that_are_mostly_wrong() -> None:
    load = {"all_at_once": True, "prompt_tokens": 16, "output_tokens": 100, "requests": 512}
    batch = {"max_sequences": 512, "max_batched_tokens": 8192}
    plain, guessed = (
        metrics(case(load=load, batching=batch, **keys)).output_tokens_per_s
        for keys in ({}, {"speculative": {"tokens": 6, "acceptance": 0.3, "draft": "ngram"}})
    )
    assert guessed < plain


def test_adapters_cost_some_and_those_that_must_be_loaded_delay_first_tokens() -> None:
    keys = {"batching": {"max_sequences": 8}, "load": LOAD | {"closed_loop": {"clients": 8}, "requests": 24}}
    plain, kept, some = (
        metrics(case(**keys, **more))
        for more in ({}, {"adapters": {"count": 100}}, {"adapters": {"count": 100, "resident": 8}})
    )
    assert plain.tpot_s.p50 < kept.tpot_s.p50 < 1.5 * plain.tpot_s.p50
    # 0.4 GB in four parts over PCIe 5, missed by 92 of 100.
    assert some.ttft_s.p50 - kept.ttft_s.p50 > 0.9 * 0.92 * 0.1e9 / 64e9


def test_the_seconds_of_an_adapter_are_its_bytes_over_the_way_from_the_host() -> None:
    some = {"count": 4, "resident": 1, "rank": 8}
    described = toy({"adapters": some, "batching": {"max_sequences": 1}, "load": LOAD})
    found = resolved(described)
    cluster = topology_of(found)
    (laid,) = layouts(found, cluster)
    assert isinstance(laid, Layout)
    (stage,) = ReplicaBuilder(found, found.serving[0], cluster).stages(0, laid)
    rate = min(cluster.capacity(link) for link, _ in cluster.host_way(0, "memory", "gpu"))
    assert stage.law.prefill([])[1] == 0.0
    assert stage.law.loading == pytest.approx(0.75 * laid.replicas[0][0].memory["toy"].beside / rate)


# ---- what a report says


def test_the_acceptance_is_said_to_be_assumed() -> None:
    result = simulate(case(speculative=GUESSES)).result
    (banner,) = result.banners
    assert banner.startswith("ACCEPTANCE IS ASSUMED: 70%")
    assert "2.77 tokens a pass" in banner
    (row,) = [row for row in result.assumptions if row.name == "job0: speculative decoding"]
    assert "4 tokens guessed by llama-3.2-1b" in row.value
    assert any("bursts" in line for line in result.not_modelled)
    error = only(result).expected_error
    assert error is None or not error.validated


def test_adapters_are_told_with_what_a_batch_wants_of_them() -> None:
    result = simulate(case(adapters={"count": 1})).result
    (row,) = [row for row in result.assumptions if row.name == "job0: adapters"]
    assert "16 sequences want 1;" in row.value
    assert not any("ACCEPTANCE" in line for line in result.banners)


# ---- what does not go together


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"speculative": GUESSES, "adapters": {"count": 2}}, "leave speculative or adapters out"),
        ({"speculative": GUESSES | {"draft": "tinyllama-1.1b"}}, "has 32,000 tokens, llama-3.1-70b has 128,256 others"),
        ({"speculative": GUESSES | {"draft": "llama-3.2-1c"}}, "did you mean 'llama-3.2-1b'?"),
        ({"speculative": GUESSES | {"draft": "mixtral-8x7b"}}, "is a mixture of experts, which does not draft"),
        ({"speculative": {"tokens": 2, "acceptance": 0.5, "draft": "ngram", "tp": 1}}, "leave tp out"),
        ({"speculative": GUESSES | {"acceptance": 1.2}}, "acceptance"),
        ({"speculative": GUESSES, "stack": "eager-2023"}, "does not decode speculatively"),
        ({"adapters": {"count": 4}, "batching": {"prefix_caching": True}}, "no batching.prefix_caching across them"),
        ({"adapters": {"count": 4, "resident": 5}}, "are more than the 4 adapters"),
        ({"adapters": {"count": 4}, "model": "mixtral-8x7b"}, "adapters of experts, which mixtral-8x7b has"),
        ({"adapters": {"count": 4}, "model": "deepseek-v3"}, "adapters of latent attention"),
        ({"speculative": GUESSES | {"draft": "ngram"}, "model": "deepseek-v3"}, "to check tokens of deepseek-v3"),
        ({"speculative": GUESSES | {"draft": "deepseek-v3"}}, "is a mixture of experts, which does not draft"),
        ({"adapters": {"count": 4, "resident": 2}, "disaggregate": {"prefill": 1}, "plan": {"tp": 4, "dp": 2}},
         "leave resident or disaggregate out"),
    ],
)
def test_contradictions_are_bad_input(keys: dict[str, Any], said: str) -> None:
    assert said in refused(case(**keys))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"speculative": GUESSES, "plan": {"tp": 2, "pp": 2}}, "on one stage, the plan has pp 2"),
        ({"speculative": GUESSES | {"tp": 2}}, "whole on each GPU (tp 1) or sliced as the model (tp 4)"),
        ({"adapters": {"count": 40, "resident": 8}}, "set batching.max_sequences to 8 or less"),
        ({"adapters": {"count": 4, "targets": "attention"}, "model": "mixtral-8x7b",
          "plan": {"tp": 8, "ep": 8, "attention": "data"}}, "(plan.attention: data) are not modelled"),
    ],
)
def test_plans_that_do_not_go_with_it_are_infeasible(keys: dict[str, Any], said: str) -> None:
    assert said in refused(case(**keys), InfeasibleError)


def test_a_draft_whose_heads_the_plan_does_not_divide_may_lie_whole_on_each_gpu() -> None:
    defined = {"models": {"odd": {"like": "llama-3.2-1b", "heads": 20, "kv_heads": 5}}}
    guesses = GUESSES | {"draft": "odd"}
    plan = {"plan": {"tp": 8}}
    said = refused(case(speculative=guesses, **plan) | {"define": defined}, InfeasibleError)
    assert "set speculative.tp to 1" in said
    assert layout(case(speculative=guesses | {"tp": 1}, **plan) | {"define": defined}).tokens[0] > 0


def test_halves_of_a_batch_go_with_neither() -> None:
    for keys in ({"speculative": GUESSES}, {"adapters": {"count": 4}}):
        assert "leave one of the two out" in refused(case(**keys) | {"assume": {"tp_overlap": "double_buffer"}})
