"""Small clusters and the equations their ways must satisfy.

Rates: a GPU's PCIe link 30 GB/s raw at 80% = 24; Ethernet 10 Gbit/s = 1.25 GB/s at 96% = 1.2.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from math import inf
from typing import Any

import networkx as nx
import pytest

from sim.errors import InfeasibleError, InputError
from sim.laws.fairshare import FlowDemand, max_min_rates
from sim.laws.topology import Route, Topology, build_topology
from sim.spec.hardware import Flops, Gpu, LinkType
from sim.spec.topology import TopologySpec

GB = 1e9
LINKS = {
    link.id: link
    for link in (
        LinkType(id="pcie", kind="pcie", bandwidth="30 GB/s", efficiency=0.8, latency="1 us", source="test"),
        LinkType(id="pcie-old", kind="pcie", bandwidth="15 GB/s", efficiency=0.8, source="test"),
        LinkType(id="upi", kind="socket", bandwidth="20 GB/s", latency="1 us", source="test"),
        LinkType(id="nvlink", kind="nvlink", bandwidth="300 GB/s", latency="1 us", source="test"),
        LinkType(
            id="eth",
            kind="ethernet",
            bandwidth="10 Gbps",
            efficiency=0.96,
            latency="50 us",
            message_overhead="300 us",
            source="test",
        ),
        LinkType(id="eth-slow", kind="ethernet", bandwidth="1 Gbps", latency="100 us", source="test"),
        LinkType(
            id="line", kind="internet", bandwidth="40 Mbps", download="100 Mbps", latency="20 ms", source="test"
        ),
        LinkType(id="ib", kind="infiniband", bandwidth="50 GB/s", latency="2 us", source="test"),
    )
}


def gpu(name: str) -> Gpu:
    return Gpu(
        id=name,
        name=name,
        vendor="nvidia",
        architecture="ampere" if name == "rtx3090" else "ada",
        memory="24 GB",
        usable_memory="24 GB",
        memory_bandwidth="1 TB/s",
        flops=Flops(fp16="100 TFLOPS"),
        tdp="450 W",
        idle_power="20 W",
        pcie=None if name == "bare" else "pcie-old" if name == "rtx3090" else "pcie",
        p2p=not name.startswith("rtx"),
        source="test",
    )


@dataclass(frozen=True)
class Changes:
    bandwidth: float | None = None
    latency: float | None = None
    message_overhead: float | None = None


def build(
    nodes: Any = (), network: Any = None, ideal: bool = False, changes: Any = None, **keys: Any
) -> Topology:
    given = {"name": "t", "nodes": nodes, **({"network": network} if network else {}), **keys}
    spec = TopologySpec.model_validate(given)
    return build_topology(spec, gpu, LINKS.__getitem__, ideal, changes)


def server(gpus: int = 8, kind: str = "rtx4090", **keys: Any) -> dict[str, Any]:
    memory = {"host_memory": {"bandwidth": "100 GB/s"}}
    return {"name": "server", "gpus": [{"type": kind, "count": gpus}], **memory, **keys}


def desktops(count: int = 8, **keys: Any) -> dict[str, Any]:
    return {**server(1), "name": "desktop", "count": count, "nics": [{"link": "eth"}], **keys}


DUAL = {"sockets": 2, "socket_link": "upi"}
SWITCHED = {"pcie": {"gpus_per_switch": 4}}


def load(topology: Topology, route: Route) -> dict[str, float]:
    """Crossings of each link by its name."""
    return {topology.links[link].name: weight for link, weight in route.links}


# --- ways within a node ------------------------------------------------------------------------------------


def test_p2p_goes_through_the_common_root_once() -> None:
    topology = build([server(4, "a40")])
    route = topology.route(0, 1)
    assert load(topology, route) == {"server.0/gpu0>socket0": 1, "server.0/socket0>gpu1": 1}
    assert (route.cap, route.kind, route.staged) == (24 * GB, "pcie", False)
    assert route.latency == pytest.approx(2e-6)


def test_without_p2p_a_copy_crosses_host_memory_twice() -> None:
    topology = build([server(4)])
    route = topology.route(0, 1)
    assert load(topology, route) == {
        "server.0/gpu0>socket0": 1,
        "server.0/socket0>memory0": 2,
        "server.0/socket0>gpu1": 1,
    }
    assert route.staged
    assert route.cap == 0.5 * 24 * GB  # the two halves of the copy take turns
    assert route.latency == pytest.approx(2e-6 + 26e-6)


def test_slow_host_memory_binds_a_staged_copy() -> None:
    topology = build([server(4, host_memory={"bandwidth": "10 GB/s"})])
    assert topology.route(0, 1).cap == 10 * GB / 2


def test_a_staged_copy_doubles_the_load_of_a_shared_uplink() -> None:
    p2p, staged = (build([server(8, p2p=p2p, **DUAL, **SWITCHED)]) for p2p in (True, False))
    assert not any("pcie0>socket0" in name or "socket0>pcie0" in name for name in load(p2p, p2p.route(0, 1)))
    crossed = load(staged, staged.route(0, 1))
    assert crossed["server.0/pcie0>socket0"] == crossed["server.0/socket0>pcie0"] == 1


def test_two_flows_through_one_uplink_get_half_each() -> None:
    topology = build([server(8, "a40", **DUAL, **SWITCHED)], ideal=True)
    routes = [topology.route(0, 4), topology.route(1, 5)]
    alone = max_min_rates(topology.capacities(), [FlowDemand(routes[0].cap, routes[0].links)])
    both = max_min_rates(topology.capacities(), [FlowDemand(route.cap, route.links) for route in routes])
    assert alone == [20 * GB]  # the socket link
    assert both == [10 * GB, 10 * GB]


def test_staging_uses_the_memory_of_the_senders_socket_and_crosses_sockets_once() -> None:
    topology = build([server(8, **DUAL)])
    assert load(topology, topology.route(5, 2)) == {
        "server.0/gpu5>socket1": 1,
        "server.0/socket1>memory1": 2,
        "server.0/socket1>socket0": 1,
        "server.0/socket0>gpu2": 1,
    }
    assert topology.route(5, 2).kind == "socket"


def test_nvlink_pairs_reach_their_partner_and_no_further() -> None:
    topology = build([server(4, nvlink={"link": "nvlink", "layout": "pairs"})])
    assert load(topology, topology.route(0, 1)) == {"server.0/gpu0>gpu1": 1}
    assert topology.route(1, 2).staged
    assert not any("gpu0" in name for name in load(topology, topology.route(1, 2)))


def test_an_nvswitch_is_preferred_to_pcie() -> None:
    topology = build([server(8, "a100", nvlink={"link": "nvlink"}, **DUAL)])
    route = topology.route(0, 7)
    assert (route.kind, route.cap, len(route.links)) == ("nvlink", 300 * GB, 2)


def test_mixed_gpus_have_their_own_links_and_the_pair_takes_the_slower() -> None:
    node = {**server(), "gpus": [{"type": "rtx4090", "count": 2}, {"type": "rtx3090"}]}
    topology = build([node], ideal=True)
    assert [site.gpu for site in topology.gpus] == ["rtx4090", "rtx4090", "rtx3090"]
    assert (topology.route(0, 1).cap, topology.route(0, 2).cap) == (30 * GB, 15 * GB)
    assert topology.site([0, 1]).architecture == "ada"
    assert topology.site([0, 2]).architecture is None
    assert topology.site([0, 2]).member_bandwidth == 15 * GB


def test_a_gpu_reaches_itself_at_once() -> None:
    route = build([server(2)]).route(1, 1)
    assert (route.links, route.cap, route.latency) == ((), inf, 0.0)


# --- ways between nodes ------------------------------------------------------------------------------------


def test_tcp_goes_through_host_memory_at_both_ends_and_pays_latency_once() -> None:
    topology = build([desktops()])
    route = topology.route(0, 3)
    assert load(topology, route) == {
        "desktop.0/gpu0>socket0": 1,
        "desktop.0/socket0>memory0": 2,
        "desktop.0/nic0>": 1,
        "desktop.3/>nic0": 1,
        "desktop.3/socket0>memory0": 2,
        "desktop.3/socket0>gpu0": 1,
    }
    assert route.cap == pytest.approx(1.2 * GB)
    assert route.latency == pytest.approx(50e-6 + 2e-6)  # host to host, and a PCIe link at each end
    assert (route.overhead, route.kind, route.staged) == (300e-6, "ethernet", False)
    assert route.queue == "desktop.0/gpu0>desktop.0/nic0"


def test_gpudirect_needs_rdma_and_p2p() -> None:
    def through_memory(kind: str, link: str) -> bool:
        topology = build([server(1, kind, count=2, nics=[{"link": link}])])
        return any("memory" in name for name in load(topology, topology.route(0, 1)))

    assert not through_memory("a100", "ib")
    assert through_memory("rtx4090", "ib")
    assert through_memory("a100", "eth")


def test_gpus_of_a_node_share_its_card() -> None:
    topology = build([server(2, count=2, nics=[{"link": "eth"}])])
    flows = [FlowDemand(route.cap, route.links) for route in (topology.route(0, 2), topology.route(1, 3))]
    assert max_min_rates(topology.capacities(), flows) == pytest.approx([0.6 * GB, 0.6 * GB])


def test_each_gpu_uses_the_nearest_of_several_cards() -> None:
    topology = build([server(8, "a100", count=2, nics=[{"link": "ib", "count": 2}], **DUAL)])
    cards = [topology.route(i, 8 + i).queue.rsplit("/", 1)[1] for i in range(8)]
    assert cards == ["nic0"] * 4 + ["nic1"] * 4
    assert not any("socket1" in name for name in load(topology, topology.route(0, 8)))


def test_a_card_beside_each_gpu_hangs_on_its_pcie_switch() -> None:
    nics = [{"link": "ib", "per_gpu": True, "pcie": "pcie"}]
    topology = build([server(8, "a100", count=2, nics=nics, pcie={"gpus_per_switch": 2}, **DUAL)])
    assert load(topology, topology.route(3, 8)) == {
        "server.0/gpu3>pcie1": 1,
        "server.0/pcie1>nic3": 1,
        "server.0/nic3>": 1,
        "server.1/>nic0": 1,
        "server.1/nic0>pcie0": 1,
        "server.1/pcie0>gpu0": 1,
    }


def halves(**uplink: Any) -> dict[str, Any]:
    switches = [{"name": "left", "nodes": ["desktop.0-3"]}, {"name": "right", "nodes": ["desktop.4-7"]}]
    return {"switches": switches, "uplinks": [{"between": ["left", "right"], "link": "eth", **uplink}]}


def test_pipeline_hops_share_an_uplink_between_switches_but_not_one_switch() -> None:
    one, two = build([desktops()]), build([desktops()], halves())

    def rates(topology: Topology, pairs: list[tuple[int, int]]) -> list[float]:
        routes = [topology.route(a, b) for a, b in pairs]
        return max_min_rates(topology.capacities(), [FlowDemand(r.cap, r.links) for r in routes])

    assert rates(one, [(i, i + 1) for i in range(5)]) == pytest.approx([1.2 * GB] * 5)
    crossing = [(0, 4), (1, 5), (2, 6)]
    assert rates(one, crossing) == pytest.approx([1.2 * GB] * 3)
    assert rates(two, crossing) == pytest.approx([0.4 * GB] * 3)


def test_an_uplink_adds_the_latency_it_states_and_bundles_its_cables() -> None:
    plain, bundled = (build([desktops()], halves(latency="12 us", count=n)) for n in (1, 2))
    assert plain.route(0, 7).latency == pytest.approx(plain.route(0, 3).latency + 12e-6)
    uplink = [link for link in bundled.links if link.equivalence == "switch uplink"]
    assert [link.capacity for link in uplink] == pytest.approx([2.4 * GB] * 2)


def test_a_backplane_is_shared_by_all_traffic_through_the_switch() -> None:
    topology = build([desktops()], {"backplane": "16 Gbps"})
    routes = [topology.route(i, i + 4) for i in range(4)]
    rates = max_min_rates(topology.capacities(), [FlowDemand(r.cap, r.links) for r in routes])
    assert rates == pytest.approx([0.5 * GB] * 4)


def test_a_direct_cable_is_preferred_and_hosts_do_not_forward() -> None:
    cables = [["desktop.0", "desktop.1", "ib"], ["desktop.1", "desktop.2", "ib"]]
    topology = build([desktops(3, nics=[])], {"cables": cables})
    assert topology.route(0, 1).kind == "infiniband"
    assert topology.route(0, 1).latency == pytest.approx(2e-6 + 2e-6)
    with pytest.raises(InfeasibleError, match=r"no switch or cable joins desktop\.0 and desktop\.2"):
        topology.route(0, 2)
    with_switch = build([desktops(3)], {"cables": cables})
    assert (with_switch.route(0, 1).kind, with_switch.route(0, 2).kind) == ("infiniband", "ethernet")


def test_equal_ways_over_two_spines_carry_half_each() -> None:
    switches = [{"name": "a", "nodes": ["desktop.0-3"]}, {"name": "b", "nodes": ["desktop.4-7"]}]
    switches += [{"name": "s1"}, {"name": "s2"}]
    uplinks = [{"between": [leaf, spine], "link": "eth"} for leaf in "ab" for spine in ("s1", "s2")]
    topology = build([desktops()], {"switches": switches, "uplinks": uplinks})
    crossed = load(topology, topology.route(0, 4))
    assert [crossed[name] for name in ("a>s1", "s1>b", "a>s2", "s2>b")] == [0.5] * 4


def test_changes_to_the_network_win_over_the_ideal_and_leave_the_node_alone() -> None:
    topology = build([desktops()], ideal=True, changes=Changes(bandwidth=2 * GB, latency=7e-6))
    route = topology.route(0, 1)
    assert (route.cap, route.overhead) == (2 * GB, 0.0)
    assert route.latency == pytest.approx(7e-6)
    assert all(link.latency == 0.0 for link in topology.links if link.kind == "pcie")


def test_a_line_with_another_rate_down_than_up_binds_each_way_by_its_own() -> None:
    """Between a line of 40 up and 100 down and a cable of 1,000: 40 from the line, 100 to it."""
    homes = [desktops(1, name="home", nics=[{"link": "line"}]), desktops(1, nics=[{"link": "eth-slow"}])]
    topology = build(homes)
    assert [8e-6 * topology.route(*way).cap for way in ((0, 1), (1, 0))] == pytest.approx([40, 100])
    assert topology.route(0, 1).latency == pytest.approx(topology.route(1, 0).latency)
    classes = {link.equivalence: link.bandwidth for link in topology.links if link.kind == "internet"}
    assert [8e-6 * rate for rate in classes.values()] == pytest.approx([40, 100])  # two kinds of links in reports
    changed = build(homes, changes=Changes(bandwidth=GB))
    assert changed.route(0, 1).cap == changed.route(1, 0).cap == GB
    cable = build([desktops(2)], {"cables": [["desktop.0", "desktop.1", "line"]]})
    assert 8e-6 * cable.route(0, 1).cap == 8e-6 * cable.route(1, 0).cap == pytest.approx(40)


def test_datasheet_links_have_raw_rates_and_no_latency() -> None:
    topology = build([server(8, **DUAL)], ideal=True)
    assert all(link.capacity == link.bandwidth and link.latency == 0.0 for link in topology.links)
    assert topology.route(0, 1).cap == 30 * GB
    assert topology.route(0, 1).latency == 0.0


def test_missing_pcie_link_is_told() -> None:
    with pytest.raises(InputError, match="names no PCIe link for bare"):
        build([server(1, "bare")])


# --- explicit graphs ---------------------------------------------------------------------------------------


def pair(**edge: Any) -> dict[str, Any]:
    """Two one-GPU nodes and a switch, vertex by vertex."""
    vertices: list[dict[str, Any]] = [{"name": "sw", "kind": "switch"}]
    edges: list[dict[str, Any]] = []
    for n in "ab":
        kinds = {"gpu": "gpu", "cpu": "socket", "mem": "memory"}
        vertices += [{"name": f"{n}.{v}", "kind": kind, "node": n} for v, kind in kinds.items()]
        vertices[-3]["gpu"] = "rtx4090"
        edges.append({"from": f"{n}.gpu", "to": f"{n}.cpu", "link": "pcie"})
        edges.append({"from": f"{n}.cpu", "to": f"{n}.mem", "kind": "memory", "bandwidth": "100 GB/s"})
        edges.append({"from": f"{n}.cpu", "to": "sw", "link": "eth", **edge})
    return {"vertices": vertices, "edges": edges}


def test_an_explicit_graph_gives_the_routes_of_its_short_form() -> None:
    explicit, short = build(**pair()), build([desktops(2)])
    a, b = explicit.route(0, 1), short.route(0, 1)
    assert [w for _, w in a.links] == [w for _, w in b.links]
    assert [explicit.capacity(link) for link, _ in a.links] == [short.capacity(link) for link, _ in b.links]
    assert (a.cap, a.overhead, a.kind) == (b.cap, b.overhead, b.kind)
    assert a.latency == pytest.approx(b.latency)
    left, right = explicit.site([0, 1]), short.site([0, 1])
    assert (left.kind, left.nodes, left.ring_cap) == (right.kind, right.nodes, right.ring_cap)
    assert explicit.gpus[1].node_name == "b"


@pytest.mark.parametrize("turned", [False, True])
def test_a_line_of_an_explicit_graph_has_its_download_from_the_switch(turned: bool) -> None:
    """Whichever end of the edge is written first."""
    described = pair()
    line = described["edges"][-1]
    line["link"] = "line"
    if turned:
        line["from"], line["to"] = line["to"], line["from"]
    topology = build(**described)
    assert [8e-6 * topology.route(*way).cap for way in ((1, 0), (0, 1))] == pytest.approx([40, 100])


def test_stated_numbers_of_an_edge_win() -> None:
    route = build(**pair(bandwidth="8 Gbps", efficiency=1, latency="1 ms")).route(0, 1)
    assert route.cap == GB
    assert route.latency == pytest.approx(2e-3 + 2e-6)


def test_explicit_nvlink_may_cross_nodes() -> None:
    vertices = [{"name": f"g{i}", "kind": "gpu", "node": f"n{i}", "gpu": "b200"} for i in range(3)]
    vertices += [{"name": "nvs", "kind": "nvswitch", "node": "n0"}]
    edges = [{"from": f"g{i}", "to": "nvs", "link": "nvlink"} for i in range(3)]
    with pytest.raises(InfeasibleError):
        build(vertices=[*vertices[:2], vertices[3]], edges=edges[:1]).route(0, 1)
    site = build(vertices=vertices, edges=edges)
    assert site.route(0, 1).kind == "nvlink"
    assert site.site(range(2)).kind == "nvlink"


# --- the folded form is the graph --------------------------------------------------------------------------

CLUSTERS = {
    "desktops": lambda: build([desktops(4)]),
    "two switches": lambda: build([desktops()], halves()),
    "backplane": lambda: build([desktops(3)], {"backplane": "1 Gbps"}),
    "p2p server": lambda: build([server(8, "a40", **DUAL, **SWITCHED)]),
    "staged server": lambda: build([server(8, **DUAL, **SWITCHED)]),
    "pairs": lambda: build([server(4, nvlink={"link": "nvlink", "layout": "pairs"}, **DUAL)]),
    "mixed": lambda: build([server(2, "a100", count=2, nics=[{"link": "ib"}]), desktops(2)]),
    "leaf spine": lambda: build(
        [server(4, "a100", count=4, nvlink={"link": "nvlink"}, nics=[{"link": "ib", "per_gpu": True}])],
        {"leaf_spine": {"nodes_per_leaf": 2, "uplinks": 4, "link": "ib"}},
    ),
    "cables": lambda: build([desktops(3)], {"cables": [["desktop.0", "desktop.1", "ib"]]}),
    "explicit": lambda: build(**pair()),
}


def by_networkx(topology: Topology, a: int, b: int) -> dict[int, float]:
    """Crossings by networkx's shortest ways on the full graph, between the stops that the rules demand."""
    graph = topology.graph()
    route, sites = topology.route(a, b), (topology.gpus[a], topology.gpus[b])
    ends = {graph.edges[u, v, k]["link"]: (u, v) for u, v, k in graph.edges}
    met = [v for link, _ in route.links for v in ends.get(link, ())]
    between = dict.fromkeys(v for v in met if graph.nodes[v]["kind"] in ("memory", "nic"))
    stops = [sites[0].name, *between, sites[1].name]
    crossed: dict[int, float] = {}
    homes = (None, sites[0].node_name, sites[1].node_name)
    for start, end in itertools.pairwise(stops):

        def keep(v: str, start: str = start, end: str = end) -> bool:
            facts = graph.nodes[v]
            forwards = facts["kind"] not in ("gpu", "memory", "storage") and facts["node"] in homes
            return v in (start, end) or forwards

        walk = nx.shortest_path(nx.subgraph_view(graph, filter_node=keep), start, end, weight="weight")
        passed = [graph.nodes[v]["link"] for v in walk if "link" in graph.nodes[v]]
        steps = [min(graph[u][v].values(), key=lambda e: e["weight"]) for u, v in itertools.pairwise(walk)]
        for link in passed + [step["link"] for step in steps if step["link"] is not None]:
            crossed[link] = crossed.get(link, 0.0) + 1.0
    return crossed


@pytest.mark.parametrize("name", CLUSTERS)
def test_routes_of_the_folded_form_are_the_shortest_ways_of_the_full_graph(name: str) -> None:
    topology = CLUSTERS[name]()
    for a, b in itertools.permutations(range(len(topology.gpus)), 2):
        assert by_networkx(topology, a, b) == dict(topology.route(a, b).links)


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_full_graph_carries_every_link_once_by_its_number(name: str) -> None:
    topology = CLUSTERS[name]()
    graph = topology.graph()
    links = {data["link"]: (u, v) for u, v, data in graph.edges(data=True) if data["link"] is not None}
    links |= {data["link"]: (v, v) for v, data in graph.nodes(data=True) if "link" in data}
    assert sorted(links) == list(range(topology.link_count))
    assert len(topology.capacities()) == len(topology.links) == topology.link_count
    for link in topology.links:
        assert set(links[link.id]) == {link.src, link.dst}
        assert topology.capacity(link.id) == topology.capacities()[link.id] == link.capacity
    assert [v for v, data in graph.nodes(data=True) if data["kind"] == "gpu"] != []
    assert all(graph.nodes[site.name]["index"] == site.index for site in topology.gpus)


def big() -> Topology:
    nics = [{"link": "ib", "per_gpu": True}]
    node = server(8, "a100", count=2048, nvlink={"link": "nvlink"}, nics=nics, **DUAL)
    return build([node], {"leaf_spine": {"nodes_per_leaf": 32, "uplinks": 128, "link": "ib"}})


def test_a_cluster_of_16384_gpus_is_never_written_out() -> None:
    topology = big()
    assert len(topology.gpus) == 16_384
    template = 8 + 8 + 2 + 2 + 1  # GPUs, cards, sockets, memories, NVSwitch
    assert topology.vertices_held == template + 64 + 1
    route = topology.route(0, 16_383)
    assert (route.kind, route.cap) == ("infiniband", 24 * GB)
    assert topology.gpus[16_383].node_name == "server.2047"
    assert topology.vertices_held == template + 65


def test_a_large_drawing_is_folded_and_a_small_one_is_not() -> None:
    drawing = big().drawing()
    frames = [node for node in drawing["nodes"] if node["kind"] == "node"]
    assert [(node["label"], node["count"]) for node in frames] == [("2048 x server", 2048)]
    assert sum(node["count"] for node in drawing["nodes"] if node["kind"] == "switch") == 65
    small = build([desktops(4)]).drawing()
    assert sum(node["kind"] == "node" for node in small["nodes"]) == 4
    known = {node["id"] for node in small["nodes"]}
    assert all(edge["source"] in known and edge["target"] in known for edge in small["edges"])
    assert all(node["parent"] is None or node["parent"] in known for node in small["nodes"])
    assert json.loads(json.dumps(small)) == small


def test_summary() -> None:
    assert build([desktops()]).summary() == "8 x desktop(1 x rtx4090) over eth"
    assert build([server(8)]).summary() == "1 x server(8 x rtx4090)"


def test_unknown_gpus_are_refused() -> None:
    with pytest.raises(IndexError, match="the cluster has 2"):
        build([server(2)]).route(0, 2)


# --- groups ------------------------------------------------------------------------------------------------


def named(topology: Topology, loads: Any) -> dict[str, float]:
    return {topology.links[link].name.removeprefix("server.0/"): weight for link, weight in loads}


def test_a_single_gpu_shares_nothing() -> None:
    site = build([server(2)]).site([1])
    assert (site.kind, site.n, site.ring_links, site.ring_cap) == ("single", 1, (), inf)


def test_a_ring_crosses_sockets_once_each_way_in_the_best_order() -> None:
    topology = build([server(8, "a40", **DUAL)])
    site = topology.site([0, 4, 1, 5, 2, 6, 3, 7])
    load = named(topology, site.ring_links)
    assert (load["socket0>socket1"], load["socket1>socket0"]) == (1, 1)
    assert (site.kind, site.crosses_sockets, site.same_root) == ("pcie", True, False)
    assert site.ring_cap == 20 * GB  # the socket link; one root alone leaves the PCIe rate
    assert topology.site([0, 1, 2, 3]).ring_cap == 24 * GB
    assert topology.site([0, 1, 2, 3]).same_root


def test_a_staged_ring_loads_host_memory_twice_a_hop() -> None:
    topology = build([server(4)])
    site = topology.site(range(4))
    assert named(topology, site.ring_links)["socket0>memory0"] == 8
    assert (site.kind, site.ring_cap) == ("staged", 100 * GB / 8)
    assert site.member_bandwidth == 30 * GB


def test_a_staged_ring_behind_a_switch_is_bound_by_the_uplink() -> None:
    behind, own = (build([server(4, host_memory={"bandwidth": "1 TB/s"}, **k)]) for k in (SWITCHED, {}))
    assert named(behind, behind.site(range(4)).ring_links)["pcie0>socket0"] == 4
    assert behind.site(range(4)).ring_cap == 24 * GB / 4
    assert own.site(range(4)).ring_cap == 24 * GB


def test_a_network_ring_of_one_gpu_per_node() -> None:
    site = build([desktops()]).site(range(8))
    assert (site.kind, site.nodes, site.per_node, site.network_cards) == ("network", 8, 1, 1)
    assert site.ring_cap == pytest.approx(1.2 * GB)
    assert site.network_rate == pytest.approx(1.2 * GB)
    assert site.member_bandwidth == 1.25 * GB
    assert (site.inner, site.inner_links) == (None, ())


def test_rings_of_several_gpus_per_node_share_the_cards() -> None:
    node = server(4, "a100", count=2, nvlink={"link": "nvlink"}, nics=[{"link": "ib", "count": 2}])
    topology = build([node])
    site = topology.site(range(8))
    assert (site.per_node, site.network_cards, site.network_rate) == (4, 2, 100 * GB)
    cards = {link.id for link in topology.links if link.equivalence == "server network card"}
    assert {weight for link, weight in site.ring_links if link in cards} == {2}
    assert site.inner is not None
    assert (site.inner.kind, site.inner.n) == ("nvlink", 4)
    assert len(site.inner_links) == 2 * len(site.inner.ring_links)
    uneven = topology.site([0, 1, 2, 4])
    assert (uneven.per_node, uneven.inner) == (0, None)


def test_daisy_chained_switches_bind_a_ring_only_by_their_one_crossing() -> None:
    topology = build([desktops()], halves(link="eth-slow"))
    assert topology.site([0, 4, 1, 5, 2, 6, 3, 7]).ring_cap == 0.125 * GB


def test_an_even_exchange_loads_the_socket_link_more_than_a_ring() -> None:
    topology = build([server(8, "a40", **DUAL)])
    assert topology.exchange_cap(range(8)) == pytest.approx(20 * GB / (4 * 4 / 7))


@pytest.mark.parametrize("group", [[], [1, 1]])
def test_groups_are_distinct_gpus(group: list[int]) -> None:
    with pytest.raises(ValueError, match="a group is one or more GPUs"):
        build([server(2)]).site(group)
