"""Speculative decoding: tokens a pass in closed form, what a step costs, and when it pays."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.laws.speculative import SpeculativeLaw
from sim.laws.step import Chunk, Pass, Passes, StageLaw, StageShape
from sim.spec.extras import Speculative

from .test_step import LIBRARY, law

GPU = "h100-sxm"
HOST = {"host_per_pass": 1e-3, "host_per_sequence": 2e-6}
TARGET = law(GPU, tp=8, **HOST).shape
SMALL = law(GPU, tp=8, model=LIBRARY.model("llama-3.2-1b"), layers=16, **HOST).shape


def kept(tokens: int, acceptance: float, draft: str = "ngram") -> float:
    return Speculative(tokens=tokens, acceptance=acceptance, draft=draft).kept


def speculative(tokens: int, acceptance: float, draft: StageShape | None = None) -> SpeculativeLaw:
    return SpeculativeLaw(TARGET, tokens, kept(tokens, acceptance), draft)


PLAIN = StageLaw(TARGET)
CHUNKS = (Chunk(300, 0), Chunk(200, 512))


@given(st.integers(0, 20), st.integers(0, 99))
def test_tokens_a_pass_are_a_geometric_sum(k: int, percent: int) -> None:
    a = percent / 100
    assert kept(k, a) == pytest.approx((1 - a ** (k + 1)) / (1 - a))
    assert kept(k, 1.0) == k + 1


def test_tokens_a_pass_are_what_independent_guesses_give() -> None:
    """Guesses until the first wrong one, and one token more, drawn 100,000 times: within four standard errors."""
    right = np.random.default_rng(0).random((100_000, 5)) < 0.7
    found = 1 + np.cumprod(right, axis=1).sum(axis=1)
    assert found.mean() == pytest.approx(kept(5, 0.7), abs=4 * found.std() / 100_000**0.5)


@pytest.mark.parametrize("draft", [None, SMALL])
def test_no_guesses_are_no_speculation(draft: StageShape | None) -> None:
    found = speculative(0, 0.9, draft)
    for batch in ((1, 500, ()), (64, 40_000, CHUNKS), (0, 0, CHUNKS)):
        assert found.cost(*batch) == PLAIN.cost(*batch)
    assert found.decode_slope == PLAIN.decode_slope


@given(st.integers(1, 256), st.integers(1, 2000), st.integers(1, 8), st.booleans(), st.booleans())
def test_guesses_that_are_never_right_never_pay(nd: int, each: int, k: int, drafts: bool, prompts: bool) -> None:
    chunks = CHUNKS if prompts else ()
    found = speculative(k, 0.0, SMALL if drafts else None).cost(nd, nd * each, chunks)
    assert found.total >= PLAIN.cost(nd, nd * each, chunks).total


@pytest.mark.parametrize("chunks", [(), CHUNKS], ids=["alone", "beside prompts"])
@pytest.mark.parametrize("nd", [1, 16, 200])
def test_more_acceptance_is_never_slower(nd: int, chunks: tuple[Chunk, ...]) -> None:
    times = [speculative(4, a / 10, SMALL).cost(nd, nd * 900, chunks).total for a in range(11)]
    # The prompts of a pass are whole tokens, which moves a step by less than one of them.
    slack = 1e-3 if chunks else 0.0
    assert all(b <= a * (1 + slack) for a, b in pairwise(times))
    assert times[-1] < times[0]


def test_a_step_is_a_checking_pass_and_the_drafts_over_what_is_kept() -> None:
    k, e, nd, context = 4, kept(4, 0.7), 8, 8 * 700
    found = speculative(k, 0.7, SMALL).cost(nd, context)
    checked = PLAIN.cost(nd * (k + 1), context)  # the queries of a sequence read its cache once
    drafted = StageLaw(SMALL).cost(nd, context)
    assert found.total == pytest.approx((checked.total + k * (drafted.total - HOST["host_per_pass"])) / e)
    own = [(k + 1) * PLAIN.decode_flops, k * StageLaw(SMALL).decode_flops]
    flops = [PLAIN.base(nd * (k + 1), nd * (k + 1)).flops, k * StageLaw(SMALL).base(nd, nd).flops]
    assert found.flops == pytest.approx((sum(flops) + context * sum(own)) / e)


def test_alone_the_speed_up_is_what_is_kept_less_the_drafts() -> None:
    """At batch 1 checking five tokens costs what generating one does: both read the weights."""
    k, e = 4, kept(4, 0.8)
    plain, draft = PLAIN.cost(1, 1000).total, StageLaw(SMALL).cost(1, 1000).total - HOST["host_per_pass"]
    for shape, overhead in ((None, 0.0), (SMALL, k * draft / plain)):
        speed_up = plain / speculative(k, 0.8, shape).cost(1, 1000).total
        assert speed_up == pytest.approx(e / (1 + overhead), rel=0.02)


def test_the_speed_up_falls_with_the_batch_and_turns_into_a_loss() -> None:
    found = speculative(4, 0.6)
    gains = [PLAIN.cost(nd, 0).total / found.cost(nd, 0).total for nd in (1, 4, 16, 64, 256, 1024)]
    assert all(b < a for a, b in pairwise(gains))
    assert gains[0] > 2.0
    assert gains[-1] < 0.75  # five tokens' arithmetic for 2.3: with arithmetic alone 0.46


@given(st.integers(1, 100), st.integers(0, 100_000), st.integers(1, 100_000))
def test_a_step_is_linear_in_the_contexts(nd: int, context: int, more: int) -> None:
    found = speculative(3, 0.5, SMALL)
    apart = found.cost(nd, context + more).total - found.cost(nd, context).total
    assert apart == pytest.approx(more * found.decode_slope, rel=1e-6, abs=1e-12)
    assert found.cost(nd, 0).total == pytest.approx(found.base(nd, nd).total + found.decode_launch)


def test_prompts_take_what_they_did_and_a_pass_of_the_draft() -> None:
    found = speculative(4, 0.7, SMALL).cost(0, 0, CHUNKS)
    drafted = StageLaw(SMALL).cost(0, 0, CHUNKS)
    assert found.total == pytest.approx(PLAIN.cost(0, 0, CHUNKS).total + drafted.total - HOST["host_per_pass"])


def test_steps_beside_prompts_together_are_one_pass_that_carries_them_all() -> None:
    """With three tokens kept (a = 1, k = 2), three steps beside 100 tokens each are a pass beside 300."""
    found, e = speculative(2, 1.0), 3
    base = found.cost(8, 0, [Chunk(100, 0)]).total - found.decode_launch
    attention = sum(PLAIN.prefill([Chunk(100, 0)])[:3])
    assert e * (base - attention) == pytest.approx(PLAIN.base(8 * 3 + 300, 8 * 3 + 3).total)


@pytest.mark.parametrize("draft", [None, SMALL])
def test_many_steps_at_once_cost_what_they_cost_one_by_one(draft: StageShape | None) -> None:
    found = speculative(4, 0.7, draft)
    rows = [(1, 10, 0, 0), (40, 9000, 0, 0), (40, 9000, 64, 0), (0, 0, 512, 128), (7, 3000, 1, 5)]
    columns = np.array(rows).T
    alone = [found.cost(d, s, [Chunk(c, past)] if c else ()) for d, s, c, past in rows]
    assert found.costs(Passes(*columns)).tolist() == [list(cost) for cost in alone]


@pytest.mark.parametrize("draft", [None, SMALL])
def test_the_collectives_of_a_step_are_a_flow_that_takes_their_time(draft: StageShape | None) -> None:
    found, fastest = speculative(4, 0.7, draft), max(TARGET.wire_per_byte / slope for _, slope in TARGET.pieces)
    for cost in (found.cost(1, 10), found.cost(64, 640), found.cost(9, 90, CHUNKS), found.cost(0, 0, CHUNKS)):
        size, fixed, rate = found.collective_flow(cost)
        assert fixed + size / rate == pytest.approx(cost.communication)
        assert size == cost.wire
        assert fixed >= 0.0
        assert rate <= fastest * (1 + 1e-12)


def test_no_step_is_faster_than_the_least_it_is_said_to_take() -> None:
    """Bounds of searches take a pass of tokens without sequences for the least that so many tokens take."""
    found = speculative(4, 1.0, SMALL)
    for nd, c in ((1, 63), (32, 32), (64, 0)):
        least = found.base(nd + c, 0)
        assert isinstance(least, Pass)
        assert found.cost(nd, 0, [Chunk(c, 0)] if c else ()).total >= least.total
        assert found.cost(0, 0, [Chunk(nd + c, 0)]).total >= least.total
