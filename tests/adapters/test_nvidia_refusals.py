"""What is no description of a machine, or contradicts itself, is refused in one line that names the place."""

import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.adapters.nvidia_topology import describe, parse_machine, read_machine
from sim.errors import InputError

from .nvidia_machines import DATA, built, described, matrix

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
    listed = "GPU 0: NVIDIA GeForce RTX 2060 (UUID: GPU-1)\n\tGPU0\tCPU Affinity\nGPU0\t X \t0-7\n"
    with pytest.raises(InputError, match="GPU0 is 'NVIDIA GeForce RTX 2060', which is not in the catalogue"):
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
