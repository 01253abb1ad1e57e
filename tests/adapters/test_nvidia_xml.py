"""NCCL's topology XML becomes the topology that it describes, with the rates that it tells."""

import re

import pytest

from sim.adapters.lookup import Library
from sim.adapters.nvidia_topology import describe, parse_machine
from sim.adapters.nvidia_xml import nearest_cable, nearest_pcie
from sim.errors import InputError

from .nvidia_machines import DATA, built, described, node_of, shipped_node

XML = (DATA / "dgx_h100.xml").read_text()


def small(*gpus, cpu='numaid="0" vendor="AuthenticAMD"'):
    """A machine of GPUs on one socket, each ``(attributes of its pci, attributes of its gpu, nvlinks)``."""
    rows = [f'<pci busid="0000:0{n}:00.0" {pci}><gpu dev="{n}" {gpu}>{links}</gpu></pci>'
            for n, (pci, gpu, links) in enumerate(gpus)]  # fmt: skip
    return f"<system>\n<cpu {cpu}>\n" + "\n".join(rows) + "\n</cpu>\n</system>\n"


X16 = 'class="0x030200" link_speed="16.0 GT/s PCIe" link_width="16"'


def test_the_xml_of_a_dgx_is_the_shipped_dgx():
    ours = shipped_node("dgx_h100_8")
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
