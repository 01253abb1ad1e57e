"""What groups get of shared links: one group stands for all on a regular cluster, and gives what all would."""

from __future__ import annotations

from typing import Any

import pytest

from sim.adapters.lookup import Library
from sim.laws.collective import collective_seconds
from sim.laws.topology import Topology, build_topology
from sim.laws.training.groups import GroupNetwork, is_regular
from sim.laws.training.ranks import Ranks, place_ranks
from sim.spec.topology import TopologySpec
from sim.spec.training import TrainingPlan

LIBRARY = Library()
STACK = LIBRARY.training_stack("nemo-2025")


def cluster(count: int, nics: dict[str, Any], network: dict[str, Any] | None = None, **node: Any) -> Topology:
    described = {
        "name": "server", "count": count, "gpus": [{"type": "a100-sxm-80gb", "count": 8}],
        "nvlink": {"link": "nvlink3"}, "nics": [nics], **node,
    }  # fmt: skip
    spec = TopologySpec.model_validate({"name": "c", "nodes": [described], "network": network or {}})
    return build_topology(spec, LIBRARY.gpu, LIBRARY.link)


def network(topology: Topology, *, fold: bool = True, **plan: Any) -> GroupNetwork:
    made = TrainingPlan.model_validate(plan)
    ranks = place_ranks(made, set(), len(topology.gpus), "j")
    if not fold:  # a list of GPUs is not known to be regular
        ranks = Ranks(made, tuple(ranks.gpus))
    return GroupNetwork(topology, ranks, LIBRARY.fabrics(), STACK, STACK.constants_for("a100-sxm-80gb"))


PER_GPU = {"link": "infiniband-hdr", "per_gpu": True}
ONE = {"link": "infiniband-hdr", "count": 1}
FOUR = {"link": "infiniband-hdr", "count": 4}
SPINE = {"leaf_spine": {"nodes_per_leaf": 2, "uplinks": 4, "link": "infiniband-hdr"}}
CASES: list[tuple[dict[str, Any], dict[str, Any] | None, dict[str, Any]]] = [
    (PER_GPU, None, {"tp": 8, "dp": 4}),
    (PER_GPU, None, {"tp": 2, "dp": 16}),
    (PER_GPU, None, {"dp": 32}),
    (PER_GPU, None, {"tp": 4, "pp": 4, "dp": 2}),
    (FOUR, None, {"tp": 8, "pp": 2, "dp": 2}),
    (ONE, None, {"tp": 8, "dp": 4}),
    (ONE, None, {"tp": 1, "dp": 32}),
    (PER_GPU, SPINE, {"tp": 8, "dp": 4}),
    (PER_GPU, SPINE, {"tp": 2, "dp": 8, "pp": 2}),
    (PER_GPU, None, {"tp": 4, "cp": 2, "dp": 4}),
    (PER_GPU, None, {"dp": 32, "ep": 8}),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_one_group_stands_for_all_on_a_regular_cluster(number: int) -> None:
    nics, between, plan = CASES[number]
    topology = cluster(4, nics, between)
    assert is_regular(topology)
    folded, whole = (network(topology, fold=fold, **plan) for fold in (True, False))
    assert folded.folds
    assert not whole.folds
    kinds = [k for k in ("tp", "cp") if plan.get(k, 1) > 1] + ["data"] + (["ep", "expert_data"] if "ep" in plan else [])
    for kind in kinds:
        for op in ("all_reduce", "all_gather"):
            for size in (1e4, 1e9):
                a, b = (collective_seconds(op, size, n.way(kind).parameters) for n in (folded, whole))
                assert a == pytest.approx(b, rel=1e-12), (kind, op, size)
    if plan.get("pp", 1) > 1:
        assert folded.hop(0, 1).cap == pytest.approx(whole.hop(0, 1).cap)


def test_groups_that_share_a_card_share_its_rate() -> None:
    """Eight data groups through one card, or each through its own."""
    shared = network(cluster(2, ONE), tp=8, dp=2).way("data").parameters
    alone = network(cluster(2, PER_GPU), tp=8, dp=2).way("data").parameters
    assert shared.inter is not None
    assert alone.inter is not None
    assert shared.inter.bandwidth == pytest.approx(LIBRARY.link("infiniband-hdr").bandwidth * 0.96 / 8, rel=0.05)
    assert alone.inter.bandwidth > 6 * shared.inter.bandwidth


def test_oversubscribed_leaves_slow_the_groups_that_span_them() -> None:
    """Eight rings cross each leaf's four uplinks: half a card's usable rate each, but not for pairs within a leaf."""
    plan = {"tp": 8, "dp": 4}
    free, tight = (network(cluster(4, PER_GPU, n), **plan).way("data").parameters.inter for n in (None, SPINE))
    assert free is not None
    assert tight is not None
    link = LIBRARY.link("infiniband-hdr")
    assert tight.bandwidth == pytest.approx(link.bandwidth * link.efficiency * 4 / 8)
    assert tight.bandwidth < free.bandwidth
    near = network(cluster(4, PER_GPU, SPINE), tp=8, dp=2, pp=2).way("data").parameters.inter
    assert near is not None
    assert near.bandwidth == pytest.approx(free.bandwidth)


def test_hops_share_the_cards_of_their_node() -> None:
    one, eight = (network(cluster(2, nics), tp=8, pp=2).hop(0, 1).cap for nics in (ONE, PER_GPU))
    assert one == pytest.approx(eight / 8, rel=0.05)


def test_a_group_of_thousands_of_nodes_costs_no_more_than_one_of_two() -> None:
    topology = cluster(2048, PER_GPU)
    found = network(topology, tp=8, dp=2048).way("data").parameters
    assert (found.n, found.inter.nodes if found.inter else 0) == (2048, 2048)
    assert len(topology._routes) < 200


def test_irregular_clusters_are_not_folded() -> None:
    nodes = [{"name": n, "gpus": [{"type": "rtx4090"}], "nics": [{"link": "ethernet-10g"}]} for n in ("a", "b")]
    spec = TopologySpec.model_validate({"name": "c", "nodes": nodes, "network": {"switches": [{"name": "s"}]}})
    assert not is_regular(build_topology(spec, LIBRARY.gpu, LIBRARY.link))
    assert not is_regular(cluster(2, PER_GPU, {"link": "infiniband-hdr", "backplane": "100 GB/s"}))
