"""What a user may write about a cluster, and how mistakes are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from sim.spec.topology import MAX_NODES, TopologySpec
from sim.units import BARE_SI

SHIPPED = Path(__file__).parents[2] / "topologies"
DESKTOP: dict[str, Any] = {"name": "desktop", "count": 8, "gpus": [{"type": "rtx4090"}]}
CARD = [{"link": "ethernet-10g"}]


def spec(**keys: Any) -> TopologySpec:
    return TopologySpec.model_validate({"name": "t", **keys})


def refused(**keys: Any) -> str:
    with pytest.raises(ValidationError) as error:
        spec(**keys)
    return str(error.value)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_topologies_are_valid_and_named_after_their_file(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# yaml-language-server: $schema=../docs/topology.schema.json\n")
    found = TopologySpec.model_validate(yaml.safe_load(text))
    assert found.name == path.stem
    assert found.gpus >= 1


def test_gpus_are_counted_over_templates_and_mixed_groups() -> None:
    groups = [{"type": "rtx4090", "count": 2}, {"type": "rtx3090"}]
    found = spec(nodes=[{**DESKTOP, "gpus": groups, "nics": CARD}])
    assert found.gpus == 24
    assert found.gpu_types == {"rtx4090": 16, "rtx3090": 8}
    assert found.nodes[0].gpu_types == ("rtx4090", "rtx4090", "rtx3090")


def test_host_power_adds_up_over_nodes_with_a_default() -> None:
    power = {"idle": "100 W", "busy": "200 W"}
    own = {**DESKTOP, "name": "own", "count": 2, "nics": CARD, "host_power": power}
    other = {**DESKTOP, "count": 3, "nics": CARD}
    found = spec(nodes=[own, other], host_power={"idle": "50 W", "busy": "90 W"})
    assert (found.total_host_power.idle, found.total_host_power.busy) == (2 * 100 + 3 * 50, 2 * 200 + 3 * 90)


def test_a_dumped_spec_reads_back() -> None:
    edges = [{"from": "g", "to": "h", "link": "nvlink4"}]
    vertices = [{"name": name, "kind": "gpu", "node": "n", "gpu": "x"} for name in "gh"]
    cables = [["desktop.0", "desktop.1", "ethernet-25g"]]
    for found in (spec(vertices=vertices, edges=edges), spec(nodes=[DESKTOP], network={"cables": cables})):
        assert TopologySpec.model_validate(found.model_dump(), context=BARE_SI) == found


@pytest.mark.parametrize(
    ("selector", "numbers"),
    [("a", [0, 1, 2]), ("b", [3, 4]), ("a.2", [2]), ("b.0-1", [3, 4]), ("b.2", None), ("c", None)],
)
def test_selectors_name_nodes_by_template_number_or_range(selector: str, numbers: list[int] | None) -> None:
    nodes = [{**DESKTOP, "name": name, "count": count, "nics": CARD} for name, count in (("a", 3), ("b", 2))]
    found = spec(nodes=nodes).select(selector)
    assert (None if found is None else list(found)) == numbers


def two_switches(left: list[str], right: list[str]) -> dict[str, Any]:
    switches = [{"name": "left", "nodes": left}, {"name": "right", "nodes": right}]
    return {"switches": switches, "uplinks": [{"between": ["left", "right"], "link": "ethernet-1g"}]}


NODES = [{**DESKTOP, "nics": CARD}]
GPU = {"name": "g", "kind": "gpu", "node": "n", "gpu": "x"}
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({}, "either by nodes or by vertices"),
    ({"nodes": [{**DESKTOP, "gpu": 1}]}, "Extra inputs"),
    ({"nodes": [{**DESKTOP, "nics": CARD, "count": MAX_NODES + 1}]}, "less than or equal to 100000"),
    ({"nodes": [{**DESKTOP, "count": 1, "gpus": [{"type": "x", "count": 65}]}]}, "less than or equal to 64"),
    ({"nodes": [{**DESKTOP, "count": 1, "gpus": [{"type": "x", "count": 40}] * 2}]}, "80 GPUs in one node"),
    ({"nodes": [{**DESKTOP, "name": "../etc"}]}, "String should match pattern"),
    ({"nodes": [DESKTOP]}, "'desktop' has no nics, and there is more than one node"),
    ({"nodes": NODES * 2}, "two of the same node name 'desktop'"),
    ({"nodes": [{**DESKTOP, "sockets": 2, "nics": CARD}]}, "need a socket_link"),
    ({"nodes": [{**DESKTOP, "count": 1, "nvlink": {"link": "nvlink3"}}]}, "there is one GPU"),
    (
        {
            "nodes": [
                {
                    **DESKTOP,
                    "gpus": [{"type": "x", "count": 3}],
                    "nvlink": {"link": "nvlink3-bridge", "layout": "pairs"},
                }
            ]
        },
        "even number of GPUs",
    ),
    ({"nodes": [{**DESKTOP, "pcie": {"uplink": "pcie4-x16"}}]}, "give gpus_per_switch too"),
    ({"nodes": [{**DESKTOP, "nics": [{"link": "x", "count": 2, "per_gpu": True}]}]}, "leave count out"),
    ({"nodes": [{**DESKTOP, "host_power": {"idle": "2 W", "busy": "1 W"}}]}, "idle power is above busy"),
    ({"nodes": NODES, "network": two_switches(["desktop.0-3"], ["desktop.4-8"])}, "'desktop.4-8'"),
    ({"nodes": NODES, "network": two_switches(["desktop.0-4"], ["desktop.4-7"])}, "on two switches"),
    ({"nodes": NODES, "network": two_switches(["desktop.0-3"], ["desktop.5-7"])}, "desktop.4 hangs on no"),
    ({"nodes": NODES, "network": {"uplinks": [{"between": ["a", "b"], "link": "x"}]}}, "no switch 'a'"),
    ({"nodes": NODES, "network": {"cables": [["desktop", "desktop.1", "x"]]}}, "'desktop' is not one node"),
    ({"nodes": NODES, "network": {"cables": [["desktop.1", "desktop.1", "x"]]}}, "to itself"),
    ({"nodes": NODES, "network": {"backplane": "0 Gbps"}}, "greater than 0"),
    ({"nodes": NODES, "edges": [{"from": "a", "to": "b", "link": "x"}]}, "belong to vertices"),
    ({"vertices": [GPU], "edges": [{"from": "g", "to": "h", "link": "x"}]}, "no vertex 'h'"),
    ({"vertices": [GPU, GPU]}, "two of the same vertex name 'g'"),
    ({"vertices": [{"name": "s", "kind": "switch"}]}, "no vertex of kind gpu"),
    ({"vertices": [{"name": "g", "kind": "gpu", "node": "n"}]}, "names the type"),
    ({"vertices": [GPU], "edges": [{"from": "g", "to": "g", "link": "x"}]}, "to itself"),
    ({"vertices": [GPU], "edges": [{"from": "g", "to": "g2", "kind": "pcie"}]}, "both kind and bandwidth"),
]


@pytest.mark.parametrize(("keys", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_mistakes_are_told(keys: dict[str, Any], message: str) -> None:
    assert message in refused(**keys)
