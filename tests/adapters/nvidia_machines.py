"""Machines that describe themselves, for the tests: files, texts made of classes, and what becomes of them."""

from pathlib import Path

from sim.adapters.lookup import Library
from sim.adapters.nvidia_files import topology_text
from sim.adapters.nvidia_topology import describe, parse_machine, read_machine
from sim.adapters.validation import validate
from sim.adapters.yaml_source import load_yaml, parse_yaml
from sim.laws.topology import build_topology
from sim.spec.topology import TopologySpec

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "nvidia"


def shipped_node(name):
    """The only node of a shipped topology."""
    (node,) = load_yaml(ROOT / "topologies" / f"{name}.yaml").data["nodes"]
    return node


def described(source, *gpus, nic=None):
    """The topology as ``sim init`` describes it; ``source`` is a file of the test data or a text."""
    machine = read_machine(DATA / source) if "\n" not in source else parse_machine(source.encode(), "topo.txt")
    return describe(machine, "box", gpus, nic)


def built(found):
    """The topology, by way of the file that is written of it."""
    spec = validate(TopologySpec, parse_yaml(topology_text(found, "a test"), "box.yaml"))
    library = Library()
    return build_topology(spec, library.gpu, library.link)


def node_of(found):
    """The short form's only node."""
    (node,) = found.data["nodes"]
    return node


def matrix(classes, affinity=None, tail=""):
    """The text for GPUs with these classes above the diagonal, ``{(i, j): class}``."""
    count = 1 + max(j for _, j in classes)
    head = "\t" + "\t".join(f"GPU{n}" for n in range(count)) + "\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID"
    rows = [
        "\t".join([f"GPU{i}", *(" X " if i == j else classes[min(i, j), max(i, j)] for j in range(count)),
                   "0-31", str(affinity[i]) if affinity else "N/A", "", "N/A"])
        for i in range(count)
    ]  # fmt: skip
    return "\n".join([head, *rows, "", "Legend:", "", "  X    = Self", ""]) + tail


def class_of(topology, i, j):
    """PIX, PXB, NODE (PHB too) or SYS by the links between two GPUs with P2P; NV where NVLink joins them."""
    links = [topology.links[link] for link, _ in topology.route(i, j).links]
    if {link.kind for link in links} == {"nvlink"}:
        return "NV"
    if "socket" in {link.kind for link in links}:
        return "SYS"
    kinds = topology.graph().nodes
    met = [kinds[link.dst]["kind"] for link in links]
    return "NODE" if "socket" in met else "PXB" if met.count("pcie-switch") > 1 else "PIX"
