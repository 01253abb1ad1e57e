"""Pipeline schedules: orders written out by hand, what they keep alive, and orders that cannot be run."""

from __future__ import annotations

import pytest

from sim.laws.training.schedule import (
    SCHEDULES,
    Op,
    Order,
    check_order,
    gpipe,
    in_flight,
    interleaved,
    one_f_one_b,
    weights_in_flight,
    zb_h1,
)


def read(*stages: str) -> Order:
    """An order as users write it: F3, and F3.1 in chunk 1."""
    return tuple(
        tuple(Op(word[0], *(int(n) for n in word[1:].split("."))) for word in stage.split()) for stage in stages
    )


def written(order: Order) -> list[str]:
    return [" ".join(map(str, ops)) for ops in order]


# ---- against orders written out by hand


def test_gpipe_is_all_forward_then_all_backward() -> None:
    assert written(gpipe(2, 3)) == ["F0 F1 F2 B0 B1 B2"] * 2
    assert written(gpipe(2, 2, 2)) == ["F0 F1 F0.1 F1.1 B0.1 B1.1 B0 B1"] * 2


def test_one_f_one_b_runs_p_minus_s_minus_1_ahead() -> None:
    assert written(one_f_one_b(3, 4)) == [
        "F0 F1 F2 B0 F3 B1 B2 B3",
        "F0 F1 B0 F2 B1 F3 B2 B3",
        "F0 B0 F1 B1 F2 B2 F3 B3",
    ]


def test_interleaved_walks_groups_of_p_through_the_chunks() -> None:
    """p = 2, v = 2: warm-up of 2 + 2 and of 0 + 2, groups (0, 1) and (2, 3)."""
    assert written(interleaved(2, 4, 2)) == [
        "F0 F1 F0.1 F1.1 F2 B0.1 F3 B1.1 F2.1 B0 F3.1 B1 B2.1 B3.1 B2 B3",
        "F0 F1 F0.1 B0.1 F1.1 B1.1 F2 B0 F3 B1 F2.1 B2.1 F3.1 B3.1 B2 B3",
    ]


def test_a_small_last_group_is_a_full_one_without_its_absent_members() -> None:
    for small, full in zip(interleaved(4, 6, 3), interleaved(4, 8, 3), strict=True):
        assert small == tuple(op for op in full if op.micro < 6)


def test_interleaved_with_one_chunk_is_1f1b() -> None:
    assert interleaved(4, 6, 1) == one_f_one_b(4, 6)


def test_zb_h1_puts_weights_s_micro_batches_late_on_stage_s() -> None:
    """Section 2.1 of arXiv:2401.10241: W starts later the fewer F ran ahead, then one follows each B."""
    assert written(zb_h1(3, 4)) == [
        "F0 F1 F2 B0 W0 F3 B1 W1 B2 W2 B3 W3",
        "F0 F1 B0 F2 B1 W0 F3 B2 W1 B3 W2 W3",
        "F0 B0 F1 B1 F2 B2 W0 F3 B3 W1 W2 W3",
    ]


# ---- all of them, over sizes


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("p", range(1, 9))
def test_every_schedule_can_be_run(name: str, p: int) -> None:
    for m in range(1, 21):
        for v in range(1, 5) if name in ("gpipe", "interleaved") else (1,):
            check_order(SCHEDULES[name](p, m, v), p, m, v)


@pytest.mark.parametrize("p", range(1, 9))
def test_activations_alive(p: int) -> None:
    for m in range(1, 21):
        as_1f1b = [min(m, p - s) for s in range(p)]
        assert in_flight(one_f_one_b(p, m)) == as_1f1b
        assert in_flight(zb_h1(p, m)) == as_1f1b
        for v in range(1, 5):
            assert in_flight(gpipe(p, m, v)) == [m * v] * p
        for v in range(2, 5):
            most = [min(m * v, 2 * (p - s - 1) + (v - 1) * p + 1) for s in range(p)]
            alive = in_flight(interleaved(p, m, v))
            # A group with absent members keeps no more than a full one.
            assert alive == most if m % p == 0 else all(a <= b for a, b in zip(alive, most, strict=True))


@pytest.mark.parametrize("p", range(1, 9))
def test_weight_gradients_waiting(p: int) -> None:
    for m in range(1, 21):
        order = zb_h1(p, m)
        assert weights_in_flight(order) == [min(m, s + 1) for s in range(p)]
        # The paper's claim: what F made and W has not used up never exceeds 1F1B's peak, p on stage 0, anywhere.
        whole = tuple(tuple(Op("B" if op.kind == "W" else "F", op.micro) for op in ops if op.kind != "B")
                      for ops in order)  # fmt: skip
        assert in_flight(whole) == [min(m, p)] * p
        assert weights_in_flight(one_f_one_b(p, m)) == [0] * p


def test_the_most_alive_need_not_be_the_last() -> None:
    order = read("F0 F1 F2 B0 B1 W0 W1 B2 F3 B3 W3 W2")
    check_order(order, 1, 4, 1)
    assert in_flight(order) == [3]
    assert weights_in_flight(order) == [2]
    assert in_flight(read("F0 F1 F0.1 B0.1 B0 B1")) == [3]


def test_only_gpipe_and_interleaved_have_chunks() -> None:
    for name in ("1f1b", "zb-h1"):
        with pytest.raises(ValueError, match=f"schedule {name} has one chunk a stage, got 2: use interleaved"):
            SCHEDULES[name](4, 8, 2)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_sizes_start_at_one(name: str, sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least one stage, micro-batch and chunk"):
        SCHEDULES[name](*sizes)


# ---- orders that cannot be run

BROKEN = {
    "the order has 1 stages, the pipeline 2": read("F0 F1 B0 B1"),
    "stage 1: B1 stands before F1": read("F0 F1 B0 B1", "F0 B0 B1 F1"),
    "stage 1: B1 is missing": read("F0 F1 B0 B1", "F0 B0 F1"),
    "stage 0: F1 is missing": read("F0 B1 B0", "F0 B0 F1 B1"),
    "stage 0: F0 stands twice": read("F0 F1 F0 B0 B1", "F0 B0 F1 B1"),
    "stage 1: F2 is out of range, micro-batches are 0 to 1": read("F0 F1 B0 B1", "F0 B0 F1 B1 F2 B2"),
    "stage 0: F0.1 is out of range, chunks are 0 to 0": read("F0 F1 F0.1 B0 B1", "F0 B0 F1 B1"),
    "stage 0: X0 is no operation, its kind must be F, B or W": read("F0 F1 X0 B0 B1", "F0 B0 F1 B1"),
    "stage 1: W1 stands before B1": read("F0 F1 B0 W0 B1 W1", "F0 B0 F1 W0 W1 B1"),
    "stage 0: W1 is missing, while stage 0 has W0: give all W or none": read("F0 F1 B0 W0 B1", "F0 B0 F1 B1"),
    "stage 0: W0 is missing, while stage 1 has W1: give all W or none": read("F0 F1 B0 B1", "F0 B0 F1 B1 W1 W0"),
    # Stage 0 wants B0 before it forwards micro-batch 1, stage 1 wants micro-batch 1 before it turns 0 round.
    "the order deadlocks: stage 0 waits for B0 of stage 1, stage 1 waits for F1 of stage 0": read(
        "F0 B0 F1 B1", "F0 F1 B0 B1"
    ),
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_order_is_refused(message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace(".", r"\.") + "$"):
        check_order(BROKEN[message], 2, 2, 1)


def test_the_order_those_are_made_from_is_fine() -> None:
    check_order(read("F0 F1 B0 B1", "F0 B0 F1 B1"), 2, 2, 1)
    check_order(read("F0 F1 B0 W0 B1 W1", "F0 B0 F1 B1 W1 W0"), 2, 2, 1)


def test_a_deadlock_names_the_ring_and_not_who_stands_behind_it() -> None:
    """Stages 1 and 2 wait for each other; stage 0 only waits for stage 1."""
    order = read("F0 F1 B0 B1", "F0 B0 F1 B1", "F0 F1 B0 B1")
    with pytest.raises(
        ValueError, match=r"deadlocks: stage 1 waits for B0 of stage 2, stage 2 waits for F1 of stage 1$"
    ):
        check_order(order, 3, 2, 1)


def test_a_chunk_waits_for_the_last_stage_of_the_chunk_before() -> None:
    order = read("F0.1 F0 B0.1 B0", "F0 F0.1 B0.1 B0")
    with pytest.raises(ValueError, match=r"stage 0 waits for F0 of stage 1, stage 1 waits for F0 of stage 0"):
        check_order(order, 2, 1, 2)


def test_micro_batches_in_any_order_that_works() -> None:
    check_order(read("F1 F0 B1 B0", "F1 B1 F0 B0"), 2, 2, 1)


def test_why_a_small_group_takes_the_counts_of_a_full_one() -> None:
    """p = 4, m = 5, v = 3: groups (0 to 3) and (4) with Megatron's warm-up of 2 (p-s-1) + 8 operations deadlock."""
    groups = (range(4), range(4, 5))
    forward = [Op("F", i, c) for group in groups for c in range(3) for i in group]
    backward = [Op("B", i, c) for group in groups for c in (2, 1, 0) for i in group]
    order = []
    for s in range(4):
        ahead = 2 * (3 - s) + 8
        pairs = zip(forward[ahead:], backward, strict=False)
        middle = [op for pair in pairs for op in pair]
        order.append((*forward[:ahead], *middle, *backward[len(forward) - ahead :]))
    with pytest.raises(ValueError, match="the order deadlocks"):
        check_order(tuple(order), 4, 5, 3)
    check_order(interleaved(4, 5, 3), 4, 5, 3)
