"""Derivations of numbers: what is added up comes to the number itself."""

from __future__ import annotations

import re

import pytest

from sim.errors import InputError
from sim.study.explain import DERIVATIONS, explain, paths_of
from sim.units import SECONDS, parse

from ..helpers import only, played, resolved, shipped, toy

ONE = {"closed_loop": {"clients": 1}, "requests": 30, "prompt_tokens": 10, "output_tokens": 400}


def value(explanation, name):
    (step,) = [step for step in explanation.steps if step.name == name]
    return step.value


def test_a_lone_users_token_is_the_mean_pass():
    """Hardly a prompt, one sequence: the law at the means is what was simulated."""
    found = explain(resolved(toy({"load": ONE})), "tpot")
    assert found.path == "metrics.tpot_s.p50"
    law = parse(value(found, "a token of each sequence"), SECONDS)
    assert law == pytest.approx(found.value, rel=0.02)
    assert {"weights", "KV cache", "arithmetic", "pass"} <= {step.name for step in found.steps}


def test_a_pipelines_token_goes_once_around():
    stack = {"links": "measured"}
    found = explain(resolved(toy({"plan": {"pp": 4}, "load": ONE}, gpus=4, stack=stack)), "metrics.tpot_s")
    law = parse(value(found, "a token of each sequence"), SECONDS)
    assert law == pytest.approx(found.value, rel=0.02)
    assert parse(value(found, "hops"), SECONDS) > 4e-3  # four of a millisecond and more


def test_a_percentile_is_told_by_the_requests_near_it_and_against_the_mean():
    """A queue that grows: the last requests wait longest, and prefill like all others."""
    load = {"all_at_once": True, "prompt_tokens": 400, "output_tokens": 50, "requests": 200}
    found = explain(resolved(toy({"load": load, "batching": {"max_sequences": 4}})), "ttft.p99")
    assert found.path == "metrics.ttft_s.p99"
    near = sum(parse(value(found, f"{part}, p99"), SECONDS) for part in ("queue", "prefill"))
    assert near == pytest.approx(found.value, rel=0.02)
    mean = parse(value(found, "TTFT, mean"), SECONDS)
    seconds, more = value(found, "simulated, p99").split(", ")
    assert parse(seconds, SECONDS) == pytest.approx(found.value, rel=0.01)
    assert float(more.split("%")[0]) / 100 == pytest.approx(found.value / mean - 1, rel=0.03)


def test_the_mean_needs_no_word_on_percentiles_and_a_tokens_percentile_has_one():
    described = resolved(toy({"load": ONE}))
    assert not any(step.name.startswith("simulated, p") for step in explain(described, "ttft.mean").steps)
    assert value(explain(described, "tpot.p99"), "simulated, p99").endswith(" than the mean")


def test_throughput_is_sequences_over_time_per_token():
    found = explain(shipped("4090_pp_home"), "throughput")
    rate = float(value(found, "throughput").split(" ")[0])
    assert rate == pytest.approx(found.value, rel=0.02)


def test_the_parts_of_an_hour_and_of_a_step_add_up():
    hour = explain(shipped("4090_pp_home"), "cost.usd_per_hour")
    parts = [float(value(hour, part).split(" ")[0]) for part in ("capital", "electricity")]
    assert sum(parts) == pytest.approx(hour.value, abs=0.02)
    step = explain(shipped("gpt3_175b_1024_a100"), "step")
    inside = [parse(s.value, SECONDS) for s in step.steps[1:-1]]
    assert sum(inside) == pytest.approx(step.value, rel=0.01)
    assert value(step, "a step") == step.steps[-1].value


def test_each_rent_of_a_cluster_is_told_with_what_it_is():
    half = {"per_gpu": "1 USD/h", "share": 0.5}
    cost = {"rental": [half, {**half, "terms": "spot"}]}
    found = explain(resolved(toy({"load": ONE}, gpus=2, cost=cost)), "cost.usd_per_hour")
    assert all(step.formula for step in found.steps)
    assert [value(found, f"rent, {terms}") for terms in ("on demand", "spot")] == ["1 USD/h", "1 USD/h"]


def test_mfu_is_told_by_its_own_formula():
    found = explain(shipped("gpt3_175b_1024_a100"), "mfu")
    assert float(value(found, "MFU").rstrip("%")) / 100 == pytest.approx(found.value, abs=1e-3)


def test_every_derivation_has_a_number_and_every_number_a_path():
    known = {re.sub(r"\.p\d\d$", "", path) for name in ("4090_pp_home", "gpt3_175b_1024_a100") for path in paths_of(
        only(played(name).result))}  # fmt: skip
    assert set(DERIVATIONS) <= {path.removesuffix(".mean") for path in known}


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("tpott", "did you mean 'tpot'"),
        ("metrics.ttft_s.p5", "did you mean 'metrics.ttft_s.p5"),
        ("cost.swing", "no number of job job0 is called so"),
    ],
)
def test_an_unknown_number_is_refused_with_what_was_meant(path, says):
    with pytest.raises(InputError, match=says):
        explain(resolved(toy({"load": ONE}, cost={"rental": {"cluster": "1 USD/h"}})), path)
    with pytest.raises(InputError, match="there is no job 3"):
        explain(resolved(toy({"load": ONE})), "tpot", 3)
