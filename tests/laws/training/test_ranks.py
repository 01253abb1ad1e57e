"""Ranks on GPUs: coordinates, groups, and what is refused."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import InfeasibleError
from sim.laws.training.ranks import AXES, Ranks, place_ranks
from sim.spec.training import TrainingPlan


def ranks(**plan: object) -> Ranks:
    made = TrainingPlan(**plan)  # type: ignore[arg-type]
    return place_ranks(made, set(), made.gpus, "j")


def test_megatron_puts_tensor_ranks_next_to_each_other_and_stages_farthest_apart() -> None:
    found = ranks(tp=2, cp=2, dp=2, pp=2)
    assert found.group_of("tp", 0) == (0, 1)
    assert found.group_of("cp", 0) == (0, 2)
    assert found.group_of("dp", 0) == (0, 4)
    assert found.group_of("pp", 0) == (0, 8)
    assert found.group_of("data", 0) == (0, 2, 4, 6)
    assert found.stage(1, dp=1) == (12, 13, 14, 15)


def test_another_order_of_axes() -> None:
    found = ranks(tp=2, pp=4, dp=2, order=("pp", "tp", "cp", "dp"))
    assert found.group_of("pp", 0) == (0, 1, 2, 3)
    assert found.group_of("tp", 0) == (0, 4)
    assert found.group_of("dp", 0) == (0, 8)


def test_experts_cut_the_data_ranks() -> None:
    found = ranks(dp=8, tp=2, ep=4)
    assert found.group_of("ep", 0) == (0, 2, 4, 6)
    assert found.group_of("expert_data", 0) == (0, 8)
    assert found.group_of("ep", 9) == (9, 11, 13, 15)


SIZES = st.integers(1, 4)


@given(SIZES, SIZES, SIZES, SIZES, st.permutations(AXES))
def test_groups_of_every_kind_partition_the_ranks(tp: int, cp: int, dp: int, pp: int, order: list[str]) -> None:
    ep = dp if (cp * dp) % dp == 0 else 1
    found = ranks(tp=tp, cp=cp, dp=dp, pp=pp, ep=ep, order=tuple(order))
    gpus = range(tp * cp * dp * pp)
    sizes = {"tp": tp, "cp": cp, "dp": dp, "pp": pp, "data": cp * dp, "ep": ep, "expert_data": cp * dp // ep}
    for kind, size in sizes.items():
        groups = {found.group_of(kind, gpu) for gpu in gpus}
        assert all(len(group) == size for group in groups)
        assert sorted(gpu for group in groups for gpu in group) == list(gpus)
    stages = [gpu for s, d in product(range(pp), range(dp)) for gpu in found.stage(s, d)]
    assert sorted(stages) == list(gpus)


def test_placement_and_parameter_servers() -> None:
    found = place_ranks(TrainingPlan(dp=2, placement=(5, 3)), {0}, 8, "j")
    assert found.gpus == (5, 3)
    assert found.rank_of(3) == 1
    assert found.rank_of(4) is None
    server = place_ranks(TrainingPlan.model_validate({"dp": 2, "parameter_server": {"servers": 2}}), {1}, 8, "j")
    assert (tuple(server.gpus), server.servers) == ((0, 2), (3, 4))


@pytest.mark.parametrize(
    ("plan", "taken", "words"),
    [
        ({"dp": 9}, set(), "dp 9 x pp 1 takes 9 GPUs, the cluster has 8; dp 8 would fit"),
        ({"tp": 4, "pp": 4}, set(), "one replica alone takes 16: lower tp, cp or pp"),
        ({"dp": 8}, {0}, "the cluster has 7 left of 8; dp 7 would fit"),
        ({"dp": 2, "placement": [0, 8]}, set(), "placement names GPU 8, the cluster has GPUs 0 to 7"),
        ({"dp": 2, "placement": [0, 1]}, {1}, "GPU 1 already belongs to another job"),
    ],
)
def test_plans_the_cluster_cannot_hold(plan: dict[str, object], taken: set[int], words: str) -> None:
    with pytest.raises(InfeasibleError, match=words):
        place_ranks(TrainingPlan.model_validate(plan), taken, 8, "j")
