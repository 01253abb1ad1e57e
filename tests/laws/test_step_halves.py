"""Two halves of a batch that take turns: max(K, C), each half reading the weights itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sim.laws.step import Chunk, Pass, StageLaw
from sim.laws.step_halves import HalvedLaw

from .test_step import law


def both(gpu: str, slow: float = 1.0) -> tuple[StageLaw, HalvedLaw]:
    """The plain law of a tensor group of eight, transfers ``slow`` times as long, and the one with halves."""
    shape = law(gpu, tp=8).shape
    shape = replace(shape, pieces=tuple((fixed * slow, slope * slow) for fixed, slope in shape.pieces))
    return StageLaw(shape), HalvedLaw(shape)


def summed(*passes: Pass) -> Pass:
    return Pass._make(sum(values) for values in zip(*passes, strict=True))


@pytest.mark.parametrize("slow", [3.0, 5.0, 10.0])
def test_a_pass_takes_the_longer_of_kernels_and_transfers(slow: float) -> None:
    plain, halved = both("h100-sxm", slow)
    half = plain.cost(64, 32_000)
    found = halved.cost(128, 64_000)
    assert found.total < plain.cost(128, 64_000).total
    kernels, transfers = 2 * half.busy, 2 * half.communication
    assert found.busy == pytest.approx(kernels)
    assert found.total == pytest.approx(max(kernels, transfers))
    assert found.communication == pytest.approx(max(0.0, transfers - kernels))
    assert (found.flops, found.wire) == pytest.approx((2 * half.flops, 2 * half.wire))


def test_odd_batches_and_prompts_are_shared_out() -> None:
    plain, halved = both("h100-sxm", 10.0)
    chunks = (Chunk(60, 0), Chunk(50, 400), Chunk(7, 0))
    found = halved.cost(75, 7500, chunks)
    halves = summed(plain.cost(38, 3800, chunks[1::2]), plain.cost(37, 3700, chunks[::2]))
    assert found.busy == pytest.approx(halves.busy)
    assert found.total == pytest.approx(halves.communication)


def test_a_batch_stays_whole_where_reading_the_weights_twice_costs_more() -> None:
    plain, halved = both("h100-sxm", 0.01)
    assert halved.cost(128, 64_000) == plain.cost(128, 64_000)
    for tokens in (2, 32, 512, 4096):
        assert halved.cost(tokens, 100 * tokens).total <= plain.cost(tokens, 100 * tokens).total


def test_one_sequence_has_nothing_to_take_turns_with() -> None:
    plain, halved = both("h100-sxm")
    assert halved.cost(1, 1000) == plain.cost(1, 1000)
    assert halved.cost(0, 0, (Chunk(64, 0),)) == plain.cost(0, 0, (Chunk(64, 0),))


@pytest.mark.parametrize("slow", [1.0, 30.0])
def test_the_flow_alone_takes_what_is_waited_for(slow: float) -> None:
    _, halved = both("h100-sxm", slow)
    for cost in (halved.cost(1, 10), halved.cost(64, 640), halved.cost(513, 5130)):
        size, fixed, rate = halved.collective_flow(cost)
        assert fixed + size / rate == pytest.approx(cost.communication, abs=1e-15)
        assert size <= cost.wire * (1 + 1e-9)
