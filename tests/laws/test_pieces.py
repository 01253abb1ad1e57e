"""What of a cluster is paid for by the piece: cards, ports and switches, counted by hand."""

from __future__ import annotations

from typing import Any

import pytest

from sim.laws.pieces import pieces_of
from sim.spec.topology import TopologySpec

NODE: dict[str, Any] = {"name": "box", "count": 8, "gpus": [{"type": "h100-sxm", "count": 4}]}
CARDS = [{"link": "infiniband-ndr", "per_gpu": True}]


def pieces(network: dict[str, Any] | None = None, **node: Any) -> tuple[int, ...]:
    spec = {"name": "test", "nodes": [NODE | node], "network": network or {}}
    return tuple(pieces_of(TopologySpec.model_validate(spec)))


@pytest.mark.parametrize(
    ("network", "node", "found"),
    [
        ({}, {"nics": CARDS}, (32, 8, 1, 32, 32)),
        ({"link": "ethernet-10g"}, {}, (32, 8, 1, 8, 8)),  # a card each
        ({"link": "ethernet-10g"}, {"count": 1}, (4, 1, 0, 0, 0)),
        ({"leaf_spine": {"nodes_per_leaf": 2, "uplinks": 8, "link": "infiniband-ndr"}}, {"nics": CARDS},
         (32, 8, 5, 32, 32 + 2 * 4 * 8)),
        ({"switches": [{"name": "a", "nodes": ["box.0-3"]}, {"name": "b", "nodes": ["box.4-7"]}],
          "uplinks": [{"between": ["a", "b"], "link": "infiniband-ndr", "count": 3}]}, {"nics": CARDS},
         (32, 8, 2, 32, 32 + 6)),
        ({"cables": [["box.0", "box.1", "ethernet-25g"]]}, {"count": 2}, (8, 2, 0, 0, 0)),
    ],
)  # fmt: skip
def test_pieces_of_the_short_form(network: dict[str, Any], node: dict[str, Any], found: tuple[int, ...]) -> None:
    assert pieces(network, **node) == found


def test_pieces_of_a_graph() -> None:
    vertices = [{"name": f"gpu{n}", "kind": "gpu", "gpu": "h100-sxm", "node": f"box{n}"} for n in range(2)]
    vertices += [{"name": f"socket{n}", "kind": "socket", "node": f"box{n}"} for n in range(2)]
    vertices += [{"name": f"nic{n}", "kind": "nic", "node": f"box{n}"} for n in range(2)]
    vertices += [{"name": name, "kind": "switch"} for name in ("leaf", "spine")]
    edges = [{"from": f"gpu{n}", "to": f"socket{n}", "link": "pcie5-x16"} for n in range(2)]
    edges += [{"from": f"socket{n}", "to": f"nic{n}", "link": "pcie5-x16"} for n in range(2)]
    edges += [{"from": f"nic{n}", "to": "leaf", "link": "infiniband-ndr"} for n in range(2)]
    edges += [{"from": a, "to": b, "link": "infiniband-ndr", "both": False} for a, b in
              (("leaf", "spine"), ("spine", "leaf"))]  # fmt: skip
    spec = TopologySpec.model_validate({"name": "graph", "vertices": vertices, "edges": edges})
    assert tuple(pieces_of(spec)) == (2, 2, 2, 2, 4)
