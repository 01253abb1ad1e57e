"""``nvidia-smi topo -m`` and NCCL's XML become topologies whose ways are of the classes that the machine stated."""

import random
import re
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.adapters.lookup import Library
from sim.adapters.nvidia_files import topology_text
from sim.adapters.nvidia_topology import describe, parse_machine, read_machine
from sim.adapters.nvidia_xml import nearest_cable, nearest_pcie
from sim.adapters.validation import validate
from sim.adapters.yaml_source import load_yaml, parse_yaml
from sim.errors import InputError
from sim.laws.topology import build_topology
from sim.spec.topology import TopologySpec

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "nvidia"


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


# ---- Machines as they print themselves


def test_a_box_of_four_cards_on_two_sockets():
    found = described("pcie_4_gpus.txt", "rtx4090")
    node = node_of(found)
    assert node["gpus"] == [{"type": "rtx4090", "count": 4}]
    assert (node["sockets"], node["socket_link"], node["pcie"]) == (2, "upi", {"link": "pcie4-x16"})
    assert "nics" not in node
    topology = built(found)
    kinds = {(i, j): topology.route(i, j).kind for i, j in combinations(range(4), 2)}
    assert {pair for pair, kind in kinds.items() if kind == "pcie"} == {(0, 1), (2, 3)}, "PHB and NODE"
    assert {pair for pair, kind in kinds.items() if kind == "socket"} == {(0, 2), (0, 3), (1, 2), (1, 3)}, "SYS"
    assert all(topology.route(i, j).staged for i, j in kinds), "no P2P on GeForce cards"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\x1b", ""),
        lambda text: text.replace("\x1b[4m", "").replace("\x1b[0m", ""),
        lambda text: text.replace("\t", "        "),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "$ nvidia-smi topo -m\n" + text,
        lambda text: text[: text.index("Legend")],
        lambda text: text.replace("\tGPU NUMA ID", "").replace("\t\tN/A", ""),
        lambda text: text.replace("SYS", "SOC"),
        lambda text: "".join(f"   {line}\n" for line in text.splitlines()),
        lambda text: text.replace("CPU Affinity", "CPU Affi      nity").replace("64-95", "64-    95"),
        lambda text: re.sub(r"\t[0-9]+-[0-9,-]+\t[01]\t\tN/A", "", text),
    ],
    ids=["lost escapes", "plain", "blanks", "windows", "prompt", "no legend", "old columns", "SOC", "indented",
         "torn by a terminal", "no affinity"],
)
def test_what_terminals_and_drivers_do_to_the_text_changes_nothing(change):
    text = (DATA / "pcie_4_gpus.txt").read_text()
    assert change(text) != text
    same, found = described(change(text), "rtx4090"), described("pcie_4_gpus.txt", "rtx4090")
    assert node_of(same) == node_of(found)


def test_utf16_of_a_windows_redirect():
    text = (DATA / "pcie_4_gpus.txt").read_text()
    machine = parse_machine(text.encode("utf-16"), "topo.txt")
    assert len(machine.gpus) == 4


@pytest.mark.parametrize(
    ("file", "gpu", "cable", "shipped", "differs"),
    [
        ("dgx_h100.txt", "h100-sxm", "infiniband-ndr", "dgx_h100_8", {}),
        # Its firmware splits each socket into four NUMA nodes, of which two have GPUs.
        ("dgx_a100.txt", "a100-sxm-80gb", "infiniband-hdr", "dgx_a100_8", {"sockets": 4}),
    ],
)
def test_a_dgx_is_the_shipped_dgx(file, gpu, cable, shipped, differs):
    found = described(file, gpu, nic=cable)
    (ours,) = load_yaml(ROOT / "topologies" / f"{shipped}.yaml").data["nodes"]
    (nic,) = ours["nics"]
    nic.pop("pcie")  # a matrix does not tell
    assert node_of(found) == {**ours, "name": "machine", **differs}
    topology = built(found)
    assert {topology.route(i, j).kind for i, j in combinations(range(8), 2)} == {"nvlink"}


def test_cards_beside_no_gpu_are_left_out_by_name():
    assumed = " ".join(described("dgx_h100.txt", "h100-sxm", nic="infiniband-ndr").assumed)
    assert "Network cards mlx5_1, mlx5_2 are left out: every GPU has another one beside it." in assumed


def test_bridged_neighbours_are_pairs():
    found = described("four_3090_bridged.txt", "rtx3090")
    assert node_of(found)["nvlink"] == {"link": "nvlink3-bridge", "layout": "pairs"}
    topology = built(found)
    for i, j in combinations(range(4), 2):
        assert topology.route(i, j).kind == ("nvlink" if (i, j) in ((0, 1), (2, 3)) else "pcie")


def test_bridges_between_others_than_neighbours():
    classes = {pair: "NV4" if pair in ((0, 2), (1, 3)) else "NODE" for pair in combinations(range(4), 2)}
    topology = built(described(matrix(classes), "rtx3090"))
    for pair in classes:
        assert topology.route(*pair).kind == ("nvlink" if pair in ((0, 2), (1, 3)) else "pcie")


def test_a_cube_of_single_and_double_nvlinks():
    """DGX-1: 25 GB/s a link and direction, one or two between joined GPUs; the others meet over PCIe and UPI."""
    found = described("dgx1_v100.txt", "v100-sxm-32gb")
    topology, share = built(found), Library().link("nvlink2").efficiency
    machine = read_machine(DATA / "dgx1_v100.txt")
    assert len(machine.nvlinks) == 16
    for pair in combinations(range(8), 2):
        route = topology.route(*pair)
        links = machine.nvlinks.get(pair, 0)
        if links:
            assert (route.kind, route.cap) == ("nvlink", pytest.approx(links * 25e9 * share))
        else:
            assert route.kind == "socket"


def test_a_board_of_four_joined_directly_is_no_switch():
    """Twelve links of an A100 serve three peers with four each; NV12 to all of seven takes a switch."""
    four = dict.fromkeys(combinations(range(4), 2), "NV4")
    topology = built(described(matrix(four, [0, 0, 1, 1]), "a100-sxm-40gb"))
    share = Library().link("nvlink3").efficiency
    assert topology.route(0, 3).cap == pytest.approx(100e9 * share)
    eight = dict.fromkeys(combinations(range(8), 2), "NV12")
    assert node_of(described(matrix(eight, [0] * 4 + [1] * 4), "a100-sxm-40gb"))["nvlink"]["layout"] == "switch"


def test_one_gpu_with_and_without_affinity():
    for text in ("\tGPU0\tCPU Affinity\tNUMA Affinity\nGPU0\t X \tN/A\t\tN/A\n", "GPU0\nGPU0 X\n"):
        assert node_of(described(text, "rtx5090"))["gpus"] == [{"type": "rtx5090", "count": 1}]


def test_pairs_on_switches_are_the_short_form():
    classes = dict.fromkeys(combinations(range(8), 2), "SYS")
    classes |= {pair: "NODE" for block in (range(4), range(4, 8)) for pair in combinations(block, 2)}
    classes |= {(n, n + 1): "PIX" for n in range(0, 8, 2)}
    found = described(matrix(classes, [0] * 4 + [1] * 4), "l40s")
    assert node_of(found)["pcie"] == {"link": "pcie4-x16", "gpus_per_switch": 2, "uplink": "pcie4-x16"}
    topology = built(found)
    assert {pair: class_of(topology, *pair) for pair in classes} == classes


def test_switches_above_switches():
    """Two pairs (PIX) below one switch (PXB): a way between them meets no socket."""
    classes = dict.fromkeys(combinations(range(4), 2), "PXB") | {(0, 1): "PIX", (2, 3): "PIX"}
    found = described(matrix(classes), "l40s")
    topology = built(found)
    assert {pair: class_of(topology, *pair) for pair in classes} == classes
    assert "vertices" in found.data


def test_unequal_switches_are_written_vertex_by_vertex_and_say_so():
    classes = dict.fromkeys(combinations(range(4), 2), "NODE") | {(1, 2): "PIX"}
    found = described(matrix(classes), "a40")
    assert {pair: class_of(built(found), *pair) for pair in classes} == classes
    assert "PCIe switches do not hold neighbours in equal numbers" in found.assumed[-1]


LEAVES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=9)


@settings(max_examples=60, deadline=None)
@given(LEAVES)
def test_any_tree_of_switches_comes_back(leaves):
    """Round trip: GPUs strewn over NUMA nodes, outer and inner switches -> matrix -> topology -> the same matrix."""

    def relation(a, b):
        for level, name in enumerate(("SYS", "NODE", "PXB")):
            if a[level] != b[level]:
                return name
        return "PIX"

    classes = {(i, j): relation(leaves[i], leaves[j]) for i, j in combinations(range(len(leaves)), 2)}
    topology = built(described(matrix(classes, [leaf[0] for leaf in leaves]), "l40s"))
    # Devices that only PXB joins hang below one switch, where no switch of their own is told: PIX then.
    lone = {n for n, leaf in enumerate(leaves) if leaves.count(leaf) == 1}
    for (i, j), name in classes.items():
        outer = [leaf for leaf in leaves if leaf[:2] == leaves[i][:2]]
        flat = name == "PXB" and {i, j} <= lone and len(outer) > 1
        assert class_of(topology, i, j) == ("PIX" if flat else name)


def test_nvlink_hides_the_way_over_pcie_and_affinity_tells_the_sockets():
    classes = dict.fromkeys(combinations(range(8), 2), "NV18")
    assert node_of(described(matrix(classes, [0] * 4 + [1] * 4), "h200-sxm"))["sockets"] == 2
    assert "sockets" not in node_of(described(matrix(classes), "h200-sxm")), "a guest that is told nothing"


def test_affinity_outweighs_sys_between_root_ports():
    """Servers whose every pair is SYS name the NUMA node of each GPU: eight GPUs on two sockets, not on eight."""
    found = described(matrix(dict.fromkeys(combinations(range(8), 2), "SYS"), [0] * 4 + [1] * 4), "l40s")
    assert node_of(found)["sockets"] == 2
    topology = built(found)
    assert [topology.route(0, n).kind for n in (1, 2, 3, 4)] == ["pcie", "pcie", "pcie", "socket"]
    assert "SYS stands between GPUs of one NUMA node: taken for NODE, as their affinity says." in found.assumed


@pytest.mark.parametrize("affinity", [None, ["0-1", "0-1"]], ids=["not known", "both"])
def test_sys_stands_where_affinity_names_no_one_node(affinity):
    found = described(matrix({(0, 1): "SYS"}, affinity), "l40s")
    assert built(found).route(0, 1).kind == "socket"
    assert any("SYS stands between GPUs that name the same CPUs" in sentence for sentence in found.assumed)


def test_cards_shared_by_two_gpus_stay_below_their_switch():
    """GPUs 0 and 1 share a switch with a card, as the V100s of a DGX-1: a message leaves by it, not over a socket."""
    found = described("dgx1_v100.txt", "v100-sxm-32gb", nic="infiniband-edr")
    topology = built(found)
    graph = topology.graph()
    for card, gpus in enumerate(((0, 1), (2, 3), (4, 5), (6, 7))):
        (root,) = [v for v in graph.successors(f"nic{card}") if graph.nodes[v]["kind"] == "pcie-switch"]
        assert {topology.gpus[n].root for n in gpus} == {root}


# ---- Which GPUs


def test_nvidia_smi_l_names_the_gpus():
    listed = "".join(f"GPU {n}: NVIDIA GeForce RTX {4090 if n < 2 else 3090} (UUID: GPU-0{n})\n" for n in range(4))
    text = listed + (DATA / "pcie_4_gpus.txt").read_text()
    assert node_of(described(text))["gpus"] == [{"type": "rtx4090", "count": 2}, {"type": "rtx3090", "count": 2}]


@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm"), ("NVIDIA H100 PCIe", "h100-pcie"), ("NVIDIA H200", "h200-sxm"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"), ("NVIDIA A100-PCIE-40GB", "a100-pcie-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"), ("NVIDIA GeForce RTX 4090 D", "rtx4090d"),
        ("NVIDIA RTX A6000", "rtxa6000"), ("NVIDIA RTX 6000 Ada Generation", "rtx6000ada"), ("Tesla T4", "t4"),
        ("Tesla V100-SXM2-32GB", "v100-sxm-32gb"), ("NVIDIA L40S", "l40s"), ("NVIDIA B200", "b200-sxm"),
    ],
)  # fmt: skip
def test_names_of_the_driver(name, gpu):
    text = f"GPU 0: {name} (UUID: GPU-1)\n  MIG 1g.5gb Device 0: (UUID: MIG-2)\n\tGPU0\tCPU Affinity\nGPU0\t X \t0-7\n"
    found = described(text)
    assert found.gpus == (gpu,)
    assert any("MIG" in sentence for sentence in found.assumed), "a split GPU is taken whole, and that is said"


def test_one_name_for_all_or_one_for_each():
    assert described("pcie_4_gpus.txt", "l4", "l4", "t4", "t4").gpus == ("l4", "l4", "t4", "t4")
    with pytest.raises(InputError, match="has 4 GPUs, but --gpu names 2: name one for all of them, or each"):
        described("pcie_4_gpus.txt", "l4", "t4")


# ---- NCCL's XML

XML = (DATA / "dgx_h100.xml").read_text()


def small(*gpus, cpu='numaid="0" vendor="AuthenticAMD"'):
    """A machine of GPUs on one socket, each ``(attributes of its pci, attributes of its gpu, nvlinks)``."""
    rows = [f'<pci busid="0000:0{n}:00.0" {pci}><gpu dev="{n}" {gpu}>{links}</gpu></pci>'
            for n, (pci, gpu, links) in enumerate(gpus)]  # fmt: skip
    return f"<system>\n<cpu {cpu}>\n" + "\n".join(rows) + "\n</cpu>\n</system>\n"


X16 = 'class="0x030200" link_speed="16.0 GT/s PCIe" link_width="16"'


def test_the_xml_of_a_dgx_is_the_shipped_dgx():
    (ours,) = load_yaml(ROOT / "topologies" / "dgx_h100_8.yaml").data["nodes"]
    found = described("dgx_h100.xml")
    assert found.gpus == ("h100-sxm",) * 8
    assert node_of(found) == {**ours, "name": "machine"}


@pytest.mark.parametrize(
    ("speed", "width", "link"),
    [
        ("16.0 GT/s PCIe", "16", "pcie4-x16"), ("8 GT/s", "16", "pcie3-x16"), ("32.0 GT/s PCIe", "8", "pcie5-x8"),
        ("64.0 GT/s PCIe", "16", "pcie6-x16"), ("5.0 GT/s PCIe", "16", "pcie3-x8"), ("2.5 GT/s", "4", "pcie3-x1"),
        ("8.0 GT/s PCIe", "4", "pcie3-x4"), ("", "0", None), ("Unknown speed", "255", None), ("16 GT/s", "", None),
    ],
)  # fmt: skip
def test_the_nearest_pcie_link(speed, width, link):
    assert nearest_pcie(speed, width) == link


@pytest.mark.parametrize(
    ("speed", "kind", "link"),
    [("400000", "infiniband", "infiniband-ndr"), ("100000", "roce", "roce-100g"), ("10000", "ethernet", "ethernet-10g"),
     ("200000", "infiniband", "infiniband-hdr"), ("-1", "roce", None)],
)  # fmt: skip
def test_the_nearest_cable(speed, kind, link):
    assert nearest_cable(speed, kind) == link


def test_a_slot_with_fewer_lanes_binds():
    x4 = X16.replace('"16"', '"4"')
    text = small((X16, 'sm="89"', ""), (x4, 'sm="89"', ""))
    topology = built(described(text, "l40s"))
    assert topology.route(0, 1).cap == pytest.approx(Library().link("pcie4-x4").bandwidth * 0.85)


def test_links_that_a_guest_cannot_see_are_those_of_the_catalogue():
    blind = 'class="0x030200" link_speed="" link_width="0" device="0x20b5"'
    peer = '<nvlink target="0000:0{}:00.0" count="12" tclass="0x030200"/>'
    node = node_of(described(small((blind, 'sm="80"', peer.format(1)), (blind, 'sm="80"', peer.format(0)))))
    assert node["pcie"] == {"link": "pcie4-x16"}
    assert node["nvlink"] == {"link": "nvlink3", "layout": "pairs"}


def test_sockets_are_numbered_as_gpus_meet_them():
    """NCCL writes CPUs in no order; a list in reverse is the same machine."""
    head, *cpus = XML.split("  <cpu")
    cpus[-1] = cpus[-1].removesuffix("</system>\n")
    reverse = "  <cpu".join([head, *reversed(cpus)]) + "</system>\n"
    assert node_of(described(reverse)) == node_of(described(XML))


def test_chains_of_bridges_are_one_link_as_slow_as_the_slowest():
    """DGX A100: three bridges between socket and GPU, nothing else below them."""
    bridge = '<pci busid="0000:{}1:00.0" class="0x060400" link_speed="{} GT/s PCIe" link_width="16">'
    chain = "".join(bridge.format(n, speed) for n, speed in enumerate(("16.0", "8.0", "16.0"), 4))
    gpu = f'<pci busid="0000:0a:00.0" {X16}><gpu dev="0" sm="75"/></pci>'
    text = f"<system>\n<cpu numaid='0'>{chain}{gpu}{'</pci>' * 3}</cpu></system>"
    assert node_of(described(text))["pcie"] == {"link": "pcie3-x16"}


def test_an_uplink_narrower_than_what_hangs_on_it():
    two = "".join(f'<pci busid="0000:0{n}:00.0" {X16}><gpu dev="{n}" sm="89"/></pci>' for n in range(2))
    uplink = '<pci busid="0000:40:00.0" class="0x060400" link_speed="8.0 GT/s PCIe" link_width="16">'
    node = node_of(described(f"<system>\n<cpu numaid='0'>{uplink}{two}</pci></cpu></system>", "l4"))
    assert node["pcie"] == {"link": "pcie4-x16", "gpus_per_switch": 2, "uplink": "pcie3-x16"}


def test_cards_are_known_by_class_and_name():
    """InfiniBand by its class, sockets by the kernel's names, everything else RDMA over Ethernet."""
    rows = [("0x020700", "mlx5_0", "200000"), ("0x020000", "mlx5_1", "200000"), ("0x020000", "eth0", "100000")]
    nics = "".join(
        f'<pci busid="0000:0{n}:00.0" class="{kind}" link_speed="16.0 GT/s" link_width="16"><nic>'
        f'<net name="{name}" dev="{n}" speed="{speed}"/></nic></pci>'
        for n, (kind, name, speed) in enumerate(rows, 1)
    )
    gpu = f'<pci busid="0000:0a:00.0" {X16}><gpu dev="0" sm="75"/></pci>'
    machine = parse_machine(f"<system>\n<cpu numaid='0'>{gpu}{nics}</cpu></system>".encode(), "topo.xml")
    assert [card.cable for card in machine.cards] == ["infiniband-hdr", "roce-200g", "ethernet-100g"]
    said = "Network cards: infiniband-hdr, roce-200g, ethernet-100g, from class, name and speed."
    assert said in describe(machine, "box").assumed


def test_a_gpu_that_lost_its_way_to_the_switch():
    """Seven of eight see the NVSwitches: the eighth talks over PCIe, and the short form cannot say so."""
    start = XML.index('<gpu dev="7"')
    text = XML[:start] + re.sub(r"<nvlink[^>]*/>", "", XML[start:])
    topology = built(described(text))
    assert [topology.route(*pair).kind for pair in ((0, 6), (6, 7), (0, 7))] == ["nvlink", "pcie", "socket"]


def test_amd_sockets_are_joined_by_xgmi():
    text = XML.replace("GenuineIntel", "AuthenticAMD")
    assert node_of(described(text))["socket_link"] == "xgmi"


def test_a_capability_of_several_gpus_asks_which():
    with pytest.raises(InputError) as caught:
        described(small((X16, 'sm="120"', "")))
    assert str(caught.value) == (
        "topo.txt:3: GPU0 (sm 120, PCI device not given) may be rtx5090, rtxpro6000: say which with --gpu, "
        "did you mean 'rtx5090'?"
    )
    assert described(small((X16, 'sm="75"', ""))).gpus == ("t4",), "only one of the catalogue has it"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("<system>\n<cpu>\n</system>\n", "topo.txt:3: not valid XML: mismatched tag"),
        ("<graphs>\n</graphs>\n", "topo.txt:1: <graphs> is no NCCL topology: expected <system>, as NCCL_TOPO_DUMP_FILE "
         "writes it"),
        ("<system>\n</system>\n", "topo.txt:1: holds no <gpu>: files that NCCL was given may hold none, one that "
         "NCCL_TOPO_DUMP_FILE names does"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>\n<system/>\n', "topo.txt:1: document types and entities are not read"),
        ("<system>" + "<pci>" * 60 + "\n", "topo.txt:1: nested more than 50 deep"),
        (XML.replace("0x8393fb66b8b750c5", "0x1", 1),
         "topo.txt:1: describes 2 machines (host_hash): one machine a file"),
        (XML.replace('dev="1" sm', 'dev="0" sm'), "topo.txt:25: a second gpu with dev 0: one machine a file"),
        (XML.replace('count="4"', 'count="lots"'),
         "topo.txt:11: count of an nvlink must be a number of links, not 'lots'"),
        (XML.replace('dev="0" sm', 'dev="" sm'), "topo.txt:10: dev of a gpu must be its number, not ''"),
    ],
)  # fmt: skip
def test_xml_that_is_refused(text, complaint):
    with pytest.raises(InputError) as caught:
        described(text)
    assert str(caught.value) == complaint


# ---- Refusals of the matrix

BOX = (DATA / "pcie_4_gpus.txt").read_text()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nothing\nhere\n", "topo.txt: holds no matrix of GPUs: expected what nvidia-smi topo -m prints, from the line "
         "that names the columns"),
        ("\n\n", "topo.txt: the file is empty"),
        (BOX[BOX.index("\n") + 1 :], "topo.txt:1: a row without the line that names the columns above it: expected "
         "what nvidia-smi topo -m prints, from the line that names the columns"),
        (BOX.replace("PHB", "PHP"), "topo.txt:2: GPU0 to GPU1: 'PHP' is no class of connection (X, NV#, PIX, PXB, PHB, "
         "NODE, SYS), did you mean 'PHB'?"),
        (BOX.replace("GPU0\t X \tPHB", "GPU0\t X \tPIX"), "topo.txt:2: GPU0 to GPU1 is PIX, but line 3 says PHB"),
        (BOX.replace("GPU3\tSYS\tSYS\tNODE\t X ", "GPU3\tSYS\tSYS\tNODE\tSYS"),
         "topo.txt:5: GPU3 to GPU3 is 'SYS': X stands where a device meets itself, and only there"),
        (BOX.replace("GPU1\tPHB", "GPU9\tPHB"), "topo.txt:3: row GPU9 has no column, did you mean 'GPU0'?"),
        (BOX.replace("GPU1\tPHB\t X \tSYS\tSYS\tNODE\t0-31,64-95\t0\t\tN/A\n", ""),
         "topo.txt:1: column GPU1 has no row"),
        (BOX.replace("GPU1\tPHB", "GPU0\tPHB"), "topo.txt:3: a second row GPU0 (the first is on line 2)"),
        (BOX + BOX, f"topo.txt:{BOX.count(chr(10)) + 1}: a second matrix (the first is on line 1): one machine's "
         "topo -m, and only that"),
        ("\tGPU0\tGPU1\nGPU0\tX\n", "topo.txt:2: row GPU0 has 1 classes for 2 columns"),
        ("GPU 7: NVIDIA L4 (UUID: GPU-1)\n" + BOX, "topo.txt: GPU 7 is listed, but the matrix has no GPU7"),
        (matrix({(0, 1): "PIX", (1, 2): "PIX", (0, 2): "SYS"}),
         "topo.txt:2: GPU0 to GPU2 is SYS, yet both reach a third device by NODE or nearer: no tree of PCIe is like "
         "that"),
        ("\t" + "\t".join(f"GPU{n}" for n in range(65)) + "\n", "topo.txt:1: 65 GPUs in one machine, at most 64"),
        ("\tGPU0\tGPU0\n", "topo.txt:1: two columns are called GPU0"),
        (matrix({(0, 1): "NV4"}), "topo.txt:2: GPU0 has NVLinks, but rtx4090 has none: name its GPU with --gpu"),
    ],
)  # fmt: skip
def test_a_matrix_that_is_refused(text, complaint):
    with pytest.raises(InputError) as caught:
        described(text, "rtx4090")
    assert str(caught.value) == complaint


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(DATA.iterdir())), st.randoms(use_true_random=False))
def test_a_damaged_text_is_read_or_refused_in_a_line(path: Path, draw: random.Random):
    """Words lost, doubled, swapped or spoilt: what is read must still build, everything else names the file."""
    words = re.split(r"(\s+)", path.read_text())
    for _ in range(draw.randint(1, 4)):
        at, other = draw.randrange(len(words)), draw.randrange(len(words))
        kind = draw.randrange(4)
        words[at] = ("", words[at] * 2, words[other], words[at][::-1])[kind]
    complaint = "topo.txt: nothing"
    try:
        topology = built(describe(parse_machine("".join(words).encode(), "topo.txt"), "box", ["a100-sxm-80gb"]))
    except InputError as error:
        complaint = str(error)
    else:
        assert all(topology.route(0, n).cap > 0 for n in range(1, len(topology.gpus)))
    assert re.fullmatch(r"topo\.txt(:\d+)?: .+", complaint)


def test_more_nvlinks_than_the_gpu_has():
    with pytest.raises(InputError, match="GPU0 has 18 NVLinks, but a100-sxm-80gb has 12: name its GPU with --gpu"):
        described("dgx_h100.txt", "a100-sxm-80gb")


def test_gpus_nobody_named():
    with pytest.raises(InputError, match="does not say which GPUs these are: name them with --gpu"):
        described("pcie_4_gpus.txt")
    listed = "GPU 0: NVIDIA GeForce RTX 4080 (UUID: GPU-1)\n\tGPU0\tCPU Affinity\nGPU0\t X \t0-7\n"
    with pytest.raises(InputError, match="GPU0 is 'NVIDIA GeForce RTX 4080', which is not in the catalogue"):
        described(listed)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "topo.txt").write_text("")
    (tmp_path / "binary").write_bytes(b"\x80\x81\x82")
    (tmp_path / "large").write_bytes(b" " * 5_000_001)
    for name, reason in (
        ("topo.tx", "no such file, did you mean 'topo.txt'"), ("binary", "is not text in UTF-8"),
        ("large", "larger than 5 MB"), ("", "cannot be read"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=reason):
            read_machine(tmp_path / name)
