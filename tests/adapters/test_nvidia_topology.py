"""``nvidia-smi topo -m`` becomes a topology whose ways are of the classes that the machine stated."""

import re
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.adapters.lookup import Library
from sim.adapters.nvidia_topology import parse_machine, read_machine
from sim.errors import InputError

from .nvidia_machines import DATA, built, class_of, described, matrix, node_of, shipped_node

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
    ours = shipped_node(shipped)
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
