"""Adapters side by side: how many different ones a pass meets, what they cost, and how often one is missing."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.laws.adapter_weights import adapter_bytes, beside
from sim.laws.adapters import AdapterLaw, distinct, miss_probability, popularity
from sim.laws.step import Chunk, Passes, StageLaw
from sim.spec.extras import Adapters

from .test_step import LIBRARY, LLAMA, law

SEVEN = LIBRARY.model("llama-2-7b")


def adapters(count: int, **keys: object) -> Adapters:
    return Adapters(count=count, **keys)


def adapted(tp: int = 1, load: float = 0.0, **keys: object) -> tuple[StageLaw, AdapterLaw]:
    """The plain law of an H100 and the one with adapters."""
    shape = law("h100-sxm", tp=tp, layers=40).shape
    return StageLaw(shape), AdapterLaw(shape, adapters(**({"count": 32} | keys)), load)


# ---- who wants which


@pytest.mark.parametrize(("count", "skew", "n"), [(32, 0.0, 16), (100, 1.0, 64), (1000, 0.8, 200)])
def test_different_adapters_of_a_batch_are_those_that_are_drawn(count: int, skew: float, n: int) -> None:
    """Batches drawn 2,000 times: within four standard errors."""
    p = popularity(count, skew)
    rng = np.random.default_rng(0)
    found = np.array([len(np.unique(rng.choice(count, n, p=p))) for _ in range(2000)])
    assert found.mean() == pytest.approx(distinct(adapters(count, skew=skew), n), abs=4 * found.std() / 2000**0.5)


@given(st.integers(1, 500), st.integers(0, 300), st.integers(0, 20))
def test_a_batch_meets_no_more_adapters_than_sequences_or_than_there_are(count: int, n: int, tenths: int) -> None:
    some = adapters(count, skew=tenths / 10)
    assert distinct(some, n) <= min(count, n) + 1e-9
    assert distinct(some, n) <= distinct(some, n + 1) + 1e-9
    assert distinct(some, 1) == pytest.approx(1.0)
    assert distinct(some, 0) == 0.0


@pytest.mark.parametrize(("count", "skew", "slots"), [(50, 0.0, 20), (200, 1.0, 40), (500, 0.7, 300)])
def test_misses_are_those_of_a_cache_that_drops_the_oldest(count: int, skew: float, slots: int) -> None:
    rng = np.random.default_rng(1)
    cache: OrderedDict[int, None] = OrderedDict()
    missed, warm, drawn = 0, 5_000, 45_000
    for k, wanted in enumerate(rng.choice(count, drawn, p=popularity(count, skew)).tolist()):
        if wanted in cache:
            cache.move_to_end(wanted)
            continue
        missed += k >= warm
        cache[wanted] = None
        if len(cache) > slots:
            cache.popitem(last=False)
    found = miss_probability(adapters(count, skew=skew, resident=slots))
    assert found == pytest.approx(missed / (drawn - warm), rel=0.02)


def test_alike_adapters_are_missed_as_often_as_they_are_elsewhere() -> None:
    assert miss_probability(adapters(40, resident=10)) == pytest.approx(30 / 40)
    assert miss_probability(adapters(40)) == miss_probability(adapters(40, resident=40)) == 0.0


# ---- what they weigh


def test_an_adapters_weights_are_those_that_its_makers_count() -> None:
    """LoRA of rank 16 on all seven matrices of Llama 2 7B: 39,976,960 weights (peft's print_trainable_parameters)."""
    assert adapter_bytes(SEVEN, adapters(1), 32, 1) == 2 * 39_976_960
    assert adapter_bytes(SEVEN, adapters(1, targets="attention"), 32, 1) == 2 * 32 * 4 * 16 * (4096 + 4096)
    assert adapter_bytes(SEVEN, adapters(1, rank=64), 32, 1) == 4 * 2 * 39_976_960


def test_tensor_ranks_hold_half_of_the_matrices_whole() -> None:
    """Of a square matrix as wide as the model one of the two is cut in eight, and the other not at all."""
    whole, eighth = (beside(SEVEN, adapters(1, targets="attention"), tp).weights for tp in (1, 8))
    assert eighth == pytest.approx(whole * (1 + 1 / 8) / 2)


# ---- what a pass costs


def test_a_pass_has_the_adapters_arithmetic_bytes_and_launches_on_top() -> None:
    plain, more = adapted(count=1)
    a, b = plain.cost(32, 3200), more.cost(32, 3200)
    weights = 40 * beside(LLAMA, adapters(1), 1).weights
    moved = 40 * 32 * beside(LLAMA, adapters(1), 1).moved
    assert b.flops - a.flops == pytest.approx(2 * 32 * weights)
    assert b.bytes - a.bytes == pytest.approx(2 * weights + moved)
    assert b.launch - a.launch == pytest.approx(40 * 8 * more.shape.rates.matmul_launch)
    # Thin matrices are bound by what they read: rank 16 is 16 operations a byte at 32 tokens.
    assert b.memory - a.memory == pytest.approx((2 * weights + moved) / more.shape.rates.weights, rel=0.01)
    assert (b.communication, b.wire) == (a.communication, a.wire)


def test_different_adapters_are_read_each_and_one_adapter_once() -> None:
    weights = 2 * 40 * beside(LLAMA, adapters(1), 1).weights
    one, many = (adapted(count=n)[1].base(64, 64).bytes for n in (1, 10_000))
    assert many - one == pytest.approx((distinct(adapters(10_000), 64) - 1) * weights)


def test_more_skew_costs_less_and_more_rank_more() -> None:
    skewed = [adapted(count=64, skew=s)[1].cost(32, 3200).total for s in (0.0, 1.0, 3.0)]
    ranks = [adapted(rank=r)[1].cost(32, 3200).total for r in (8, 16, 64)]
    assert skewed[0] > skewed[1] > skewed[2] > adapted()[0].cost(32, 3200).total
    assert ranks[0] < ranks[1] < ranks[2]
    assert adapted(targets="attention")[1].cost(32, 3200).total < adapted()[1].cost(32, 3200).total


def test_a_prompt_that_begins_waits_for_its_adapter_as_often_as_it_is_missing() -> None:
    plain, some = adapted()[1], adapted(load=10e-3, count=40, resident=10)[1]
    kept = adapted(count=40)[1]
    chunks = [Chunk(100, 0), Chunk(100, 100), Chunk(50, 0)]
    assert some.cost(4, 400, chunks).total - kept.cost(4, 400, chunks).total == pytest.approx(2 * 10e-3 * 30 / 40)
    assert some.cost(4, 400) == kept.cost(4, 400)
    assert plain.loading == 0.0


@pytest.mark.parametrize("resident", [None, 8])
def test_many_passes_at_once_cost_what_they_cost_one_by_one(resident: int | None) -> None:
    found = adapted(tp=8, load=5e-3, count=40, resident=resident)[1]
    rows = [(1, 10, 0, 0), (40, 9000, 0, 0), (40, 9000, 64, 0), (0, 0, 512, 128), (7, 3000, 1, 5)]
    alone = [found.cost(d, s, [Chunk(c, past)] if c else ()) for d, s, c, past in rows]
    assert found.costs(Passes(*np.array(rows).T)).tolist() == [list(cost) for cost in alone]
