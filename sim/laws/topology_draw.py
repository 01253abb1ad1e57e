"""The cluster for people: the full graph, one line of text, and a compact drawing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import networkx as nx

from sim.laws.topology_parts import COST

if TYPE_CHECKING:
    from sim.laws.topology import Run, Topology
    from sim.spec.topology import TopologySpec


DRAWN = {"socket": "cpu", "memory": "host_memory", "pcie-switch": "pcie_switch"}  # the drawing's own words


def full_graph(topology: Topology) -> Any:
    """Every vertex and edge as a networkx MultiDiGraph (see :meth:`sim.laws.topology.Topology.graph`).

    Costs about 60 us per vertex and some KB: meant for tests, drawings and users, never for a run.
    """
    graph = nx.MultiDiGraph(name=topology.spec.name)
    for name, facts in topology.network.graph.nodes(data=True):
        graph.add_node(name, **_with_link(facts, topology.link_count - len(topology.network.links)))
    for run in topology.runs:
        for copy in range(run.count):
            _add_copy(topology, graph, run, copy)
    first = topology.link_count - len(topology.network.links)
    for number in range(first, topology.link_count):
        _add_link(topology, graph, number)
    for site in topology.gpus:
        graph.nodes[site.name]["index"] = site.index
    return graph


def _with_link(facts: dict[str, Any], base: int) -> dict[str, Any]:
    """Vertex attributes with the local id of a backplane made global."""
    return {**facts, "link": base + facts["link"]} if "link" in facts else dict(facts)


def _add_copy(topology: Topology, graph: Any, run: Run, copy: int) -> None:
    prefix, base = topology.prefix(run, copy), run.base(copy)
    for vertex, facts in run.block.graph.nodes(data=True):
        number = facts["node"]
        node = run.block.nodes[number] if topology.spec.explicit and number is not None else None
        own = {"node": node if topology.spec.explicit else prefix.rstrip("/")}
        graph.add_node(prefix + vertex, **_with_link(facts, base) | own)
    for a, b, facts in run.block.graph.edges(data=True):
        if facts["link"] is None:
            graph.add_edge(prefix + a, prefix + b, **facts)
        else:
            _add_link(topology, graph, base + facts["link"], (prefix + a, prefix + b))
    for port in run.block.ports:
        for local in (port.out, port.back):
            if topology.leaf_name(run.first_node + copy):
                _add_link(topology, graph, base + local)


def _add_link(topology: Topology, graph: Any, number: int, ends: tuple[str, str] | None = None) -> None:
    link = topology.links[number]
    source, target = ends or (link.src, link.dst)
    if source == target:
        return
    facts = {"bandwidth": link.bandwidth, "capacity": link.capacity, "latency": link.latency}
    graph.add_edge(source, target, link=number, kind=link.kind, weight=COST[link.kind], **facts)


def summary(spec: TopologySpec) -> str:
    """One line, e.g. ``8 x desktop(1 x rtx4090) over ethernet-10g``."""
    if spec.explicit:
        gpus = " + ".join(f"{count} x {gpu}" for gpu, count in spec.gpu_types.items())
        return f"{gpus} in {spec.node_count} nodes, {len(spec.vertices)} vertices, {len(spec.edges)} edges"
    nodes = []
    for node in spec.nodes:
        gpus = " + ".join(f"{group.count} x {group.type}" for group in node.gpus)
        nodes.append(f"{node.count} x {node.name}({gpus})")
    cables = [nic.link for node in spec.nodes for nic in node.nics] if spec.node_count > 1 else []
    if spec.node_count > 1 and spec.network.link is not None and any(not node.nics for node in spec.nodes):
        cables.append(spec.network.link)
    cables += [link for _, _, link in spec.network.cables]
    over = f" over {', '.join(dict.fromkeys(cables))}" if cables else ""
    return " + ".join(nodes) + over


def drawing(topology: Topology, most: int) -> dict[str, list[dict[str, Any]]]:
    """``{nodes: [{id, kind, label, parent, count}], edges: [{source, target, kind, links, ids}]}`` for JSON.

    ``links`` names the equivalence classes of an edge's links, ``ids`` their numbers.

    With more than ``most`` nodes one node stands for all of its template on its switch (for all of its
    template where there are more than ``most`` switches); ``count`` says for how many, and ``ids`` are its
    own. The two directions of a link are one edge.
    """
    shown, switches = _shown(topology, most)
    nodes: list[dict[str, Any]] = []
    for name, count in switches.items():
        label = name if count == 1 else f"{count} x switches like {name}"
        nodes.append({"id": name, "kind": "switch", "label": label, "parent": None, "count": count})
    graph = nx.MultiDiGraph()
    for (number, copy), count in shown.items():
        run = topology.runs[number]
        _add_copy(topology, graph, run, copy)
        nodes += _drawn_copy(topology, run, copy, count)
    for number in range(topology.link_count - len(topology.network.links), topology.link_count):
        _add_link(topology, graph, number)
    known = {str(node["id"]) for node in nodes}
    return {"nodes": nodes, "edges": _drawn_edges(topology, graph, known)}


def _shown(topology: Topology, most: int) -> tuple[dict[tuple[int, int], int], dict[str, int]]:
    """(run, copy) drawn and the switches drawn, each with how many it stands for."""
    every = topology.network.names
    fold = topology.node_count > most and not topology.spec.explicit
    shown: dict[tuple[int, int], int] = {}
    first: dict[tuple[int, str], int] = {}
    for number, run in enumerate(topology.runs):
        for copy in range(run.count):
            leaf = topology.leaf_name(run.first_node + copy) if fold and len(every) <= most else ""
            chosen = first.setdefault((number, leaf), copy) if fold else copy
            shown[number, chosen] = shown.get((number, chosen), 0) + 1
    if not fold or len(every) <= most:
        return shown, dict.fromkeys(every, 1)
    leaves = {topology.leaf_name(topology.runs[number].first_node + copy) for number, copy in shown}
    used = {topology.network.names[leaf] for leaf in set(topology.network.leaf) if leaf >= 0}
    spines = [name for name in every if name not in used][:most]
    kept = {name: 1 for name in every if name in leaves or name in spines}
    for leaf in leaves - {""}:
        kept[leaf] += (len(used) - len(leaves)) // len(leaves)
    return shown, kept


def _drawn_copy(topology: Topology, run: Run, copy: int, count: int) -> list[dict[str, Any]]:
    prefix = topology.prefix(run, copy)
    frames = run.block.nodes if topology.spec.explicit else [prefix.rstrip("/")]
    nodes: list[dict[str, Any]] = []
    for frame in frames:
        label = frame if count == 1 else f"{count} x {run.block.name}"
        nodes.append({"id": f"node:{frame}", "kind": "node", "label": label, "parent": None, "count": count})
    for vertex, facts in run.block.graph.nodes(data=True):
        inside = facts["node"] is not None
        parent = f"node:{frames[facts['node']]}" if inside else None
        label = facts.get("gpu") or vertex
        kind = DRAWN.get(facts["kind"], facts["kind"])
        drawn = {"id": prefix + vertex, "kind": kind, "label": label, "parent": parent}
        nodes.append({**drawn, "count": count})
    return nodes


def _drawn_edges(topology: Topology, graph: Any, known: set[str]) -> list[dict[str, Any]]:
    edges: dict[tuple[str, str], dict[str, Any]] = {}
    for a, b, facts in graph.edges(data=True):
        if a not in known or b not in known:
            continue
        key = (a, b) if (b, a) not in edges else (b, a)
        fresh = {"source": key[0], "target": key[1], "kind": facts["kind"], "links": [], "ids": []}
        edge = edges.setdefault(key, fresh)
        number = facts["link"]
        if number is not None and number not in edge["ids"]:
            edge["ids"].append(number)
            name = topology.links[number].equivalence
            edge["links"] += [name] if name not in edge["links"] else []
    return list(edges.values())
