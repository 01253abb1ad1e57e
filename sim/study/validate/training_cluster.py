"""The cluster of a measured training row, in the short form: equal nodes, what joins their GPUs, and their cards.

Cards are one a GPU at the rate its source states for a GPU or for the node, which is what a table identifies; PCIe
machines whose tables identify a bus bandwidth get it as a collective fabric of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from sim.study.validate import training_names as names
from sim.study.validate.common import NVLINKS, SERVER_MEMORY, NoPrediction
from sim.study.validate.tables import MeasuredRow

BUS: Final = "measured-bus"


@dataclass
class Cluster:
    """A row's cluster: its topology, the links and fabrics it defines, and what was assumed of it."""

    topology: dict[str, Any]
    define: dict[str, dict[str, Any]] = field(default_factory=dict)
    assumptions: list[str] = field(default_factory=list)


def cluster_of(row: MeasuredRow, stack: str, gpu: str, gpus: int) -> Cluster:
    """The cluster of ``gpus`` GPUs of catalogue id ``gpu``. Raises NoPrediction."""
    node: dict[str, Any] = {"name": "node"}
    cluster = Cluster({"name": "cluster", "nodes": [node]})
    per_node = _per_node(row, gpu, gpus, cluster)
    node["count"], node["gpus"] = gpus // per_node, [{"type": gpu, "count": per_node}]
    on_pcie = "pcie" in row.intra_link.lower() or gpu not in NVLINKS
    if per_node > 1 and on_pcie:
        _join_by_pcie(cluster, names.BUS_GB_PER_S.get((stack, gpu)))
    elif per_node > 1:
        node["nvlink"] = {"link": NVLINKS[gpu]}
        node |= {"sockets": 2, "socket_link": "upi", "host_memory": SERVER_MEMORY}
    if gpus > per_node:
        node["nics"] = [{"link": _card_link(row, per_node, cluster), "per_gpu": True}]
    return cluster


def _per_node(row: MeasuredRow, gpu: str, gpus: int, cluster: Cluster) -> int:
    """GPUs that NVLink or PCIe joins."""
    rack = names.RACK_GPUS.get(gpu)
    if rack is not None:
        per_node = max(n for n in range(1, rack + 1) if gpus % n == 0)
        if gpus > per_node:
            cluster.assumptions.append(f"NVLink joins {per_node} GPUs (NVL72: up to 72)")
        return per_node
    per_node = min(row.gpus_per_node or gpus, gpus)
    if gpus % per_node:
        raise NoPrediction(f"{gpus} GPUs are no whole number of nodes of {per_node}")
    return per_node


def _join_by_pcie(cluster: Cluster, bus: float | None) -> None:
    """Collectives at the machine's own bus bandwidth (GB/s), or as the catalogue has them."""
    if bus is None:
        cluster.assumptions.append("PCIe of this machine not stated: collectives as the catalogue has them")
        return
    link, raw = names.BUS_LINK
    share = round(bus / raw, 6)
    (node,) = cluster.topology["nodes"]
    node["pcie"], node["p2p"] = {"link": link}, True
    cluster.define["fabrics"] = {
        BUS: {
            "kind": "pcie", "library": "nccl", "origin": "measured",
            **names.BUS_LATENCY, "efficiency": share,
            **{f"bulk_{key}": value for key, value in names.BUS_LATENCY.items()}, "bulk_efficiency": {64: share},
        },
    }  # fmt: skip
    cluster.assumptions.append(f"bus bandwidth {bus:g} GB/s, the machine's own")


def _card_link(row: MeasuredRow, per_node: int, cluster: Cluster) -> str:
    """The link of one card a GPU, defined where the catalogue has none of that rate."""
    card = next((card for text, card in names.CARDS if text in row.inter_link), None)
    if card is None:
        card = names.ASSUMED_CARDS.get(row.table)
        if card is None:
            raise NoPrediction("the network between nodes is not stated")
        cluster.assumptions.append(f"{card.gigabits / 8:g} GB/s of network a GPU (not stated)")
    gigabits = card.gigabits / (row.gpus_per_node or per_node) if card.whole_node else card.gigabits
    if (card.kind, gigabits) in names.LINKS:
        return names.LINKS[card.kind, gigabits]
    nearest = min((rate for kind, rate in names.LINKS if kind == card.kind), key=lambda rate: abs(rate - gigabits))
    name = f"{card.kind}-{gigabits:g}g"
    cluster.define["links"] = {name: {"like": names.LINKS[card.kind, nearest], "bandwidth": f"{gigabits:g} Gbps"}}
    return name
