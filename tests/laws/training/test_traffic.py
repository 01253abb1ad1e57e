"""What groups and messages put on links: one node stands for those like it, and tells what all of them would."""

from __future__ import annotations

from typing import Any

import pytest

from sim.laws.training.traffic import Traffic

from .test_groups import FOUR, ONE, PER_GPU, SPINE, cluster, network

WIDE = {"leaf_spine": {"nodes_per_leaf": 3, "uplinks": 4, "link": "infiniband-hdr"}}
CASES: list[tuple[int, dict[str, Any], dict[str, Any] | None, dict[str, Any]]] = [
    (4, PER_GPU, None, {"tp": 8, "dp": 4}),
    (4, ONE, None, {"tp": 2, "dp": 16}),
    (4, FOUR, None, {"tp": 8, "pp": 2, "dp": 2}),
    (4, PER_GPU, None, {"tp": 4, "pp": 4, "dp": 2}),
    (4, PER_GPU, None, {"tp": 2, "pp": 2, "dp": 8}),
    (4, PER_GPU, None, {"tp": 2, "pp": 4, "dp": 4, "order": ["tp", "cp", "pp", "dp"]}),
    (4, PER_GPU, None, {"tp": 16, "dp": 2}),
    (4, PER_GPU, None, {"tp": 4, "cp": 4, "dp": 2}),
    (4, PER_GPU, None, {"dp": 32, "ep": 8}),
    (4, PER_GPU, None, {"tp": 2, "dp": 16, "ep": 8}),
    (4, PER_GPU, None, {"tp": 4, "pp": 3, "dp": 1}),  # the last node is half empty
    (4, PER_GPU, None, {"tp": 4, "dp": 3}),  # a data group with unequal nodes
    (4, PER_GPU, None, {"dp": 16, "pp": 2, "zero": 3, "shard": "node"}),
    (4, PER_GPU, SPINE, {"tp": 8, "dp": 4}),
    (8, PER_GPU, SPINE, {"tp": 2, "dp": 8, "pp": 4}),
    (8, PER_GPU, WIDE, {"tp": 8, "dp": 4, "pp": 2}),  # leaves with nodes of two stages, the last not full
    (8, PER_GPU, WIDE, {"tp": 2, "dp": 32, "ep": 16}),
    (8, ONE, WIDE, {"tp": 8, "pp": 8}),
    (8, PER_GPU, WIDE, {"dp": 32, "pp": 2, "zero": 3, "shard": "node"}),
]


def by_class(traffic: Traffic, loads: tuple[tuple[int, float], ...]) -> dict[str, tuple[float, int]]:
    """Load and links of each class."""
    found: dict[str, tuple[float, int]] = {}
    for link, weight in loads:
        name, times = traffic.topology.links[link].equivalence, traffic.alike.get(link, 1)
        load, count = found.get(name, (0.0, 0))
        found[name] = load + weight * times, count + times
    return found


@pytest.mark.parametrize("number", range(len(CASES)))
def test_a_node_stands_for_those_like_it(number: int) -> None:
    nodes, nics, between, plan = CASES[number]
    topology = cluster(nodes, nics, between)
    pp = plan.get("pp", 1)
    kinds = [kind for kind in ("tp", "cp", "ep") if plan.get(kind, 1) > 1]
    kinds += ["data"] if plan.get("dp", 1) > 1 else []
    kinds += ["expert_data"] if "ep" in plan else []
    kinds += ["node", "across"] if "shard" in plan else []
    networks = (network(topology, fold=fold, **plan) for fold in (True, False))
    few, all_ = (Traffic(found, dict.fromkeys(range(pp), kinds)) for found in networks)
    assert not all_.alike
    assert (few.nodes is None) == (plan == {"tp": 4, "dp": 3})
    for stage in range(pp):
        for kind in kinds:
            told, true = (by_class(t, t.of_groups(kind, stage)) for t in (few, all_))
            assert told.keys() == true.keys(), kind
            for name, (load, count) in true.items():
                assert told[name] == (pytest.approx(load, rel=1e-12), count), (kind, stage, name)
        for target in {(stage + 1) % pp, (stage - 1) % pp} - {stage}:
            told, true = (by_class(t, t.of_messages(stage, target)) for t in (few, all_))
            assert {k: v[1] for k, v in told.items()} == {k: v[1] for k, v in true.items()}
            assert {k: v[0] for k, v in told.items()} == pytest.approx({k: v[0] for k, v in true.items()})


def test_every_card_of_a_ring_carries_what_a_member_sends() -> None:
    """tp 8 in each of 4 nodes, eight rings over nodes: a byte of each member, once out of its card and once in."""
    found = Traffic(network(cluster(4, PER_GPU), tp=8, dp=4), {0: ["data"]})
    cards = [(w, found.alike[link]) for link, w in found.of_groups("data", 0) if found.topology.links[link].kind ==
             "infiniband"]  # fmt: skip
    assert cards == [(1.0, 4)] * 16


def test_experts_send_most_of_their_tokens_to_other_nodes() -> None:
    """Of 16 ranks in two nodes 8 of the 15 others are on the other one."""
    found = Traffic(network(cluster(4, PER_GPU), dp=32, ep=16), {0: ["ep"]})
    loads = {found.topology.links[link].kind: weight for link, weight in found.of_groups("ep", 0)}
    assert loads["infiniband"] == pytest.approx(8 / 15)
    assert loads["nvlink"] == pytest.approx(7 / 15)


def test_thousands_of_nodes_cost_no_more_than_a_few() -> None:
    topology = cluster(2048, PER_GPU)
    found = Traffic(network(topology, tp=8, dp=256, pp=8), {s: ["tp", "data"] for s in range(8)})
    loads = [found.of_groups(kind, stage) for stage in range(8) for kind in ("tp", "data")]
    assert sum(len(x) for x in loads) == 8 * (16 + 8 * 4)  # NVLink of a node, and in and out of each card
    assert found.alike[loads[0][0][0]] == 256
    assert len(topology._routes) < 1000
