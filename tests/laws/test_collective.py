"""Collectives on small groups against their closed forms."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import InputError
from sim.laws.collective import (
    RINGS,
    CollectiveParameters,
    InterNode,
    all_reduce_pieces,
    collective_flow,
    collective_parameters,
    collective_seconds,
    pieces,
    steps,
    wire_bytes,
)
from sim.laws.topology import GroupSite
from sim.spec.hardware import Fabric

GB, US = 1e9, 1e-6


def site(n: int = 4, kind: Any = "nvlink", **keys: Any) -> GroupSite:
    facts: dict[str, Any] = {
        "kind": kind,
        "n": n,
        "nodes": 1,
        "per_node": n,
        "architecture": "hopper",
        "crosses_sockets": False,
        "same_root": True,
        "member_bandwidth": 450 * GB,
        "ring_links": ((0, 1.0), (1, 1.0)),
        "ring_cap": 400 * GB,
        "latency": 0.0,
        "overhead": 0.0,
    }
    return GroupSite(**facts | keys)


def fabric(kind: Any = "nvlink", **keys: Any) -> Fabric:
    """The H100's NVLink constants (KERNELS_AND_NETWORK section 5)."""
    facts: dict[str, Any] = {
        "id": "f",
        "kind": kind,
        "library": "nccl",
        "alpha": "5 us",
        "step": "1 us",
        "efficiency": 0.25,
        "bulk_alpha": "20 us",
        "bulk_step": "0.5 us",
        "bulk_efficiency": {2: 0.7, 4: 0.6, 8: 0.5},
        "origin": "measured",
        "source": "test",
    }
    return Fabric.model_validate(facts | keys)


def parameters(n: int = 4, **keys: Any) -> CollectiveParameters:
    return collective_parameters(site(n), [fabric(**keys)], ["nccl"])


def network_site(nodes: int, per_node: int = 1, **keys: Any) -> GroupSite:
    inner = site(per_node) if per_node > 1 else None
    facts: dict[str, Any] = {
        "nodes": nodes,
        "per_node": per_node,
        "member_bandwidth": 50 * GB,
        "ring_cap": 10 * GB,
        "latency": 17 * US,
        "overhead": 3 * US,
        "network_rate": 10 * GB * per_node,
        "network_cards": per_node,
        "inner": inner,
        "inner_links": inner.ring_links if inner else (),
    }
    return site(nodes * per_node, "network", **facts | keys)


def test_a_ring_of_four_takes_three_and_three_steps() -> None:
    assert steps("reduce_scatter", 4) + steps("all_gather", 4) == steps("all_reduce", 4) == 6
    assert steps("all_reduce", 4, "tree") == 4
    assert steps("all_reduce", 8, "in_switch") == 2


@pytest.mark.parametrize("n", [2, 3, 8])
def test_wire_bytes_of_a_member(n: int) -> None:
    size = 1e6
    assert wire_bytes("all_reduce", n, size) == pytest.approx(2 * (n - 1) / n * size)
    assert wire_bytes("all_gather", n, size) == pytest.approx((n - 1) / n * size)
    assert wire_bytes("all_gather", n, size) + wire_bytes("reduce_scatter", n, size) == pytest.approx(
        wire_bytes("all_reduce", n, size)
    )
    assert wire_bytes("broadcast", n, size) == wire_bytes("send_recv", n, size) == size


@pytest.mark.parametrize("op", RINGS)
def test_one_member_needs_nothing(op: str) -> None:
    alone = collective_parameters(site(1, "single", ring_links=(), ring_cap=inf), [], [])
    assert collective_seconds(op, 1e9, alone) == 0.0
    assert wire_bytes(op, 1, 1e9) == 0.0
    assert steps(op, 1) == 0


def test_the_better_of_two_branches() -> None:
    """n = 4: t = min(5 + 6*1 us + w/112.5, 20 + 6*0.5 us + w/270) with w = 1.5 S."""
    small, large = 1e3, 1e9
    assert collective_seconds("all_reduce", small, parameters()) == pytest.approx(
        11 * US + 1.5 * small / (112.5 * GB)
    )
    assert collective_seconds("all_reduce", large, parameters()) == pytest.approx(
        23 * US + 1.5 * large / (270 * GB)
    )


def test_bulk_efficiency_is_that_of_the_next_larger_size_measured() -> None:
    shares = {n: parameters(n).bulk_bandwidth / (450 * GB) for n in (2, 3, 4, 6, 8, 16)}
    assert shares == pytest.approx({2: 0.7, 3: 0.6, 4: 0.6, 6: 0.5, 8: 0.5, 16: 0.5})


def test_the_cross_table_is_for_groups_across_sockets() -> None:
    measured = fabric("pcie", cross_efficiency={8: 0.1})
    inside, across = (
        collective_parameters(site(4, "pcie", crosses_sockets=crosses), [measured], ["nccl"])
        for crosses in (False, True)
    )
    assert inside.bulk_bandwidth == pytest.approx(0.6 * 450 * GB)
    assert across.bulk_bandwidth == pytest.approx(0.1 * 450 * GB)


def test_the_graph_bounds_both_branches() -> None:
    found = collective_parameters(site(4, ring_cap=50 * GB), [fabric()], ["nccl"])
    assert (found.bandwidth, found.bulk_bandwidth) == (50 * GB, 50 * GB)


def test_the_switch_reduces_among_more_than_four() -> None:
    four, eight = parameters(4, in_switch=1.0), parameters(8, in_switch=1.0)
    assert four.in_switch_bandwidth is None
    assert eight.in_switch_bandwidth == 450 * GB
    size = 1e9
    assert collective_seconds("all_reduce", size, eight) == pytest.approx(27 * US + 1.75 * size / (450 * GB))
    ring = collective_seconds("all_reduce", size, eight, "ring")
    assert ring == pytest.approx(27 * US + 1.75 * size / (225 * GB))
    gather = collective_seconds("all_gather", size, eight)
    assert gather == pytest.approx(23.5 * US + 0.875 * size / (225 * GB))
    with pytest.raises(ValueError, match="the switch does not do all_gather"):
        collective_seconds("all_gather", size, eight, "in_switch")
    with pytest.raises(ValueError, match="the switch does not do all_reduce"):
        collective_seconds("all_reduce", size, four, "in_switch")


def test_fabrics_go_by_architecture_then_library() -> None:
    every = [
        fabric(id="any", alpha="1 us"),
        fabric(id="nccl", alpha="2 us", architecture="hopper"),
        fabric(id="trt", alpha="3 us", architecture="hopper", library="trtllm"),
        fabric(id="other", alpha="4 us", architecture="ampere"),
    ]

    def alpha(architecture: str | None, *libraries: str) -> float:
        return collective_parameters(site(4, architecture=architecture), every, libraries).alpha

    assert alpha("hopper", "trtllm", "nccl") == 3 * US
    assert alpha("hopper", "nccl") == 2 * US
    assert alpha("ampere", "trtllm", "nccl") == 4 * US
    assert alpha("ada", "trtllm", "nccl") == alpha(None, "nccl") == 1 * US


def test_an_unknown_fabric_is_told() -> None:
    with pytest.raises(InputError, match=r"4 hopper GPUs \(staged, library nccl\)"):
        collective_parameters(site(4, "staged"), [fabric()], ["nccl"])


def test_datasheet_arithmetic_needs_no_fabric_and_has_no_latency() -> None:
    found = collective_parameters(site(4, ring_cap=450 * GB), [], [], datasheet=True)
    assert pieces("all_reduce", found) == [(0.0, pytest.approx(1.5 / (450 * GB)))]


def test_assumptions_of_one_copy_and_a_fixed_latency() -> None:
    found = collective_parameters(site(8), [fabric()], ["nccl"], one_copy=True, latency=30 * US)
    assert pieces("all_reduce", found) == [(pytest.approx(30 * US), pytest.approx(1 / (225 * GB)))]


def test_one_gpu_per_node_is_a_ring_over_the_cards() -> None:
    """k = 4 over 10 GB/s usable, 17 + 3 us a step."""
    found = collective_parameters(network_site(4), [], [])
    size = 1e9
    ring = collective_seconds("all_reduce", size, found, "ring")
    assert ring == pytest.approx(6 * 20 * US + 1.5 * size / (10 * GB))
    tree = collective_seconds("all_reduce", size, found, "tree")
    assert tree == pytest.approx(4 * 20 * US + 2 * size / (10 * GB))
    assert collective_seconds("all_reduce", size, found) == ring
    assert collective_seconds("all_reduce", 1.0, found) == pytest.approx(80 * US, rel=1e-3)
    fixed = collective_parameters(network_site(4), [], [], latency=30 * US)
    assert collective_seconds("all_reduce", 0.0, fixed) == pytest.approx(30 * US)


def test_hierarchical_all_reduce() -> None:
    """k = 2 nodes of g = 4: every member exchanges 2 (k-1)/k S/g = S/4 over its 10 GB/s of the cards."""
    found = collective_parameters(network_site(2, 4), [fabric()], ["nccl"])
    assert (found.n, found.per_node) == (8, 4)
    size = 1e3
    small = (5 + 6 + 2 * 20) * US + 1.5 * size / (112.5 * GB) + size / 4 / (10 * GB)
    assert collective_seconds("all_reduce", size, found) == pytest.approx(small)
    size = 1e9
    bulk = (20 + 3 + 2 * 20) * US + max(1.5 * size / (270 * GB), size / 4 / (10 * GB))
    assert collective_seconds("all_reduce", size, found) == pytest.approx(bulk)


def test_all_to_all_between_nodes_sends_what_is_not_for_the_own_node() -> None:
    """k = 2 nodes of g = 4: half of the size leaves the node, 3/8 stays among neighbours."""
    found = collective_parameters(network_site(2, 4), [fabric()], ["nccl"])
    size = 1e9
    expected = (20 + 1.5 + 20) * US + max(0.375 * size / (270 * GB), 0.5 * size / (10 * GB))
    assert collective_seconds("all_to_all", size, found) == pytest.approx(expected)
    bounded = collective_parameters(network_site(2, 4), [fabric()], ["nccl"], exchange_cap=1 * GB)
    assert collective_seconds("all_to_all", size, bounded) == pytest.approx(28 * US + 0.875 * size / GB)


def test_unequal_nodes_are_one_flat_ring() -> None:
    uneven = replace(network_site(2, 4), per_node=0, inner=None, inner_links=())
    found = collective_parameters(uneven, [], [])
    assert found.inter is not None
    assert (found.inter.nodes, found.per_node) == (8, 1)


def test_a_network_fabric_adds_start_and_share() -> None:
    network = fabric("network", alpha="10 us", step="50 us", bulk_efficiency={2: 0.1}, efficiency=0.1)
    found = collective_parameters(network_site(4), [network], ["nccl"])
    assert found.inter == InterNode(4, 10e-6, 50e-6, 5 * GB)


def test_flat_ring_waits_for_its_slowest_hop() -> None:
    found = collective_parameters(network_site(2, 4), [fabric()], ["nccl"])
    seconds = collective_seconds("all_reduce", 1e9, found, "ring")
    assert seconds == pytest.approx((5 + 14 * 20) * US + 1.75 * 1e9 / (40 * GB), rel=1e-3)


CASES = {
    "nvlink": parameters(4),
    "in switch": parameters(8, in_switch=1.0),
    "datasheet": collective_parameters(site(4), [], [], datasheet=True),
    "one copy": collective_parameters(site(8), [fabric(in_switch=1.0)], ["nccl"], one_copy=True),
    "network": collective_parameters(network_site(16), [], []),
    "hierarchical": collective_parameters(network_site(3, 4), [fabric()], ["nccl"]),
}


@given(st.sampled_from(list(CASES)), st.sampled_from(list(RINGS)), st.floats(0, 1e11))
def test_pieces_and_flow_alone_equal_the_closed_form(name: str, op: str, size: float) -> None:
    case = CASES[name]
    seconds = collective_seconds(op, size, case)
    assert min(fixed + slope * size for fixed, slope in pieces(op, case)) == pytest.approx(seconds)
    flow = collective_flow(op, size, case)
    assert flow.latency + flow.size / flow.cap == pytest.approx(seconds)


@given(st.sampled_from(list(CASES)), st.sampled_from(list(RINGS)), st.floats(0, 1e11), st.floats(1, 2))
def test_time_grows_with_size(name: str, op: str, size: float, factor: float) -> None:
    assert collective_seconds(op, size, CASES[name]) <= collective_seconds(op, size * factor, CASES[name])


@given(st.integers(2, 63), st.sampled_from(list(RINGS)), st.floats(0, 1e10))
def test_time_grows_with_members_where_the_ring_does_the_work(n: int, op: str, size: float) -> None:
    for make in (parameters, lambda n: collective_parameters(network_site(n), [], [])):
        fewer, more = (collective_seconds(op, size, make(members)) for members in (n, n + 1))
        assert fewer <= more * (1 + 1e-12)


def test_a_flow_alone_never_exceeds_a_link() -> None:
    """Each link's load at the flow's cap stays within what bounded the ring: 400 GB/s and 10 GB/s here."""
    within = collective_flow("all_reduce", 1e9, CASES["in switch"])
    assert all(within.cap * weight <= 400 * GB for _, weight in within.links)
    nodes = network_site(3, 4, ring_links=((7, 1.0),), inner_links=((8, 1.0),))
    found = collective_flow("all_reduce", 1e9, collective_parameters(nodes, [fabric()], ["nccl"]))
    loads = {link: found.cap * weight for link, weight in found.links}
    assert loads[7] == pytest.approx(10 * GB, rel=0.01)
    assert loads[8] <= 270 * GB


def test_all_reduce_pieces_drop_what_is_never_the_least() -> None:
    assert all_reduce_pieces(parameters()) == pieces("all_reduce", parameters())
    assert len(all_reduce_pieces(parameters())) == 2
    dominated = parameters(bulk_efficiency={2: 0.01})
    assert len(all_reduce_pieces(dominated)) == 1


@pytest.mark.parametrize(
    ("op", "algorithm", "message"),
    [
        ("all_reduced", "best", "did you mean 'all_reduce'"),
        ("all_reduce", "rings", "unknown algorithm 'rings'"),
        ("all_gather", "tree", "all_gather is not done as a tree"),
    ],
)
def test_unknown_words_are_told(op: str, algorithm: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collective_seconds(op, 1.0, parameters(), algorithm)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="size must be >= 0"):
        collective_seconds("all_reduce", -1.0, parameters())
    with pytest.raises(ValueError, match="at least one member"):
        wire_bytes("all_reduce", 0, 1.0)
