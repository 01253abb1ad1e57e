"""``sim init``: shipped scenarios and described machines written out, complete and never over somebody's work."""

import io
from pathlib import Path

import pytest

from sim.catalog import shipped as shipped_files

ROOT = Path(__file__).parents[2]


def test_the_list_names_every_shipped_file_with_its_purpose(sim):
    answer = sim("init", "--list")
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    for what in ("scenarios", "topologies"):
        assert what in lines
        for path in shipped_files(what):
            (line,) = [line for line in lines if line.split()[0] == path.stem]
            assert len(line.split()) > 3, "a few words on what it is"


def test_there_is_something_to_ship():
    assert len(shipped_files("scenarios")) >= 12
    assert len(shipped_files("topologies")) >= 6


@pytest.mark.parametrize("name", [path.stem for path in shipped_files("scenarios")])
def test_a_copy_stands_on_its_own(sim, tmp_path, name):
    answer = sim("init", name, "--to", tmp_path)
    assert (answer.code, answer.err) == (0, "")
    scenario = tmp_path / "scenarios" / f"{name}.yaml"
    assert f"wrote {scenario}" in answer.out
    assert answer.out.splitlines()[-1] == f"next: sim run {scenario}"
    assert len(list((tmp_path / "topologies").glob("*.yaml"))) == 1
    assert sim("check", scenario).code == 0


def test_the_default_is_the_flagship_here(sim, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sim("init").code == 0
    assert (tmp_path / "scenarios" / "4090_pp_home.yaml").is_file()
    assert sim("check", "scenarios/4090_pp_home.yaml").code == 0


def test_names_with_folder_and_ending_mean_the_same(sim, tmp_path):
    assert sim("init", "scenarios/h100_tp8.yaml", "--to", tmp_path).code == 0
    assert (tmp_path / "scenarios" / "h100_tp8.yaml").is_file()


def test_what_was_copied_may_be_copied_again(sim, tmp_path):
    first = sim("init", "--to", tmp_path)
    assert sim("init", "--to", tmp_path) == first


@pytest.mark.parametrize("content", [b"name: mine\n", b"\xff\xfe not text", b""])
def test_somebodys_work_is_not_overwritten(sim, tmp_path, content):
    mine = tmp_path / "scenarios" / "4090_pp_home.yaml"
    mine.parent.mkdir()
    mine.write_bytes(content)
    answer = sim("init", "--to", tmp_path)
    assert (answer.code, answer.out) == (2, "")
    assert answer.complaints == [f"{mine}: is already there (--force overwrites it)"]
    assert mine.read_bytes() == content
    assert not (tmp_path / "topologies").exists(), "all or nothing"
    assert sim("init", "--to", tmp_path, "--force").code == 0
    assert sim("check", mine).code == 0


def test_every_file_in_the_way_is_named(sim, tmp_path):
    sim("init", "--to", tmp_path)
    for file in tmp_path.rglob("*.yaml"):
        file.write_text("mine")
    answer = sim("init", "--to", tmp_path)
    assert answer.code == 2
    assert [line.split(": ")[0] for line in answer.complaints] == [
        str(tmp_path / "scenarios" / "4090_pp_home.yaml"),
        str(tmp_path / "topologies" / "home_8x4090_10gbe.yaml"),
    ]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("4090_pp_hom", "there is no shipped scenario '4090_pp_hom', did you mean '4090_pp_home'?"),
        ("zzzz", "there is no shipped scenario 'zzzz'"),
        ("../../etc/passwd", "there is no shipped scenario '../../etc/passwd'"),
    ],
)
def test_an_unknown_name_is_one_line(sim, tmp_path, name, complaint):
    answer = sim("init", name, "--to", tmp_path)
    assert (answer.code, answer.out, answer.complaints) == (2, "", [complaint])
    assert list(tmp_path.iterdir()) == []


# ---- A machine that describes itself

BOX = ROOT / "tests" / "data" / "nvidia" / "pcie_4_gpus.txt"


def test_an_unmodified_matrix_becomes_a_topology_that_checks(sim, tmp_path):
    answer = sim("init", "--from-topo", BOX, "--gpu", "rtx4090", "--to", tmp_path)
    assert (answer.code, answer.err) == (0, "")
    scenario, topology = (tmp_path / what / "pcie_4_gpus.yaml" for what in ("scenarios", "topologies"))
    assert answer.out.splitlines()[0] == f"wrote {scenario}"
    assert answer.out.splitlines()[-1] == f"next: sim check {scenario}"
    assert "# - P2P: stock drivers have none for rtx4090" in topology.read_text()
    checked = sim("check", scenario, "--json")
    assert (checked.code, checked.err) == (0, "")
    assert checked.json["gpus"] == 4
    assert "staged" in checked.json["jobs"][0]["routes"][0]["way"]
    assert sim("run", scenario, "--no-report", "--no-effects", "--set=jobs.0.load.requests=20").code == 0


@pytest.mark.parametrize(
    ("file", "gpu", "options"),
    [
        ("dgx_h100.txt", "h100-sxm", ("--nic", "infiniband-ndr")),
        ("dgx_a100.txt", "a100-sxm-80gb", ()),
        ("dgx1_v100.txt", "v100-sxm-32gb", ("--nic", "infiniband-edr")),
        ("four_3090_bridged.txt", "rtx3090", ()),
        ("dgx_h100.xml", None, ()),
    ],
)
def test_every_machine_checks(sim, tmp_path, file, gpu, options):
    named = ("--gpu", gpu) if gpu else ()
    answer = sim("init", "mine", "--from-topo", BOX.parent / file, *named, *options, "--to", tmp_path)
    assert (answer.code, answer.err) == (0, "")
    assert sim("check", tmp_path / "scenarios" / "mine.yaml").code == 0


@pytest.mark.parametrize("name", ["1e3", "0x10", "2024.11", "no", "null", "a.b+c"])
def test_names_that_yaml_would_read_otherwise(sim, tmp_path, name):
    assert sim("init", name, "--from-topo", BOX, "--gpu", "rtx4090", "--to", tmp_path).code == 0
    assert sim("check", tmp_path / "scenarios" / f"{name}.yaml", "--json").json["scenario"] == name


@pytest.mark.parametrize("count", [1, 2, 3, 6, 16])
def test_any_number_of_gpus_gets_a_starter_that_checks(sim, tmp_path, count):
    head = "\t".join(f"GPU{n}" for n in range(count))
    rows = ["\t".join([f"GPU{i}", *("X" if i == j else "NODE" for j in range(count))]) for i in range(count)]
    (tmp_path / "topo.txt").write_text("\n".join([f"\t{head}\tCPU Affinity", *rows]))
    assert sim("init", "--from-topo", tmp_path / "topo.txt", "--gpu", "t4", "--to", tmp_path).code == 0
    assert sim("check", tmp_path / "scenarios" / "topo.yaml").code == 0


def test_a_matrix_may_come_from_a_pipe(sim, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(BOX.read_bytes())))
    answer = sim("init", "--from-topo", "-", "--gpu", "l40s", "--to", tmp_path)
    assert (answer.code, answer.err) == (0, "")
    assert sim("check", tmp_path / "scenarios" / "machine.yaml").code == 0


def test_a_described_machine_is_not_written_over_work(sim, tmp_path):
    first = sim("init", "--from-topo", BOX, "--gpu", "rtx4090", "--to", tmp_path)
    assert sim("init", "--from-topo", BOX, "--gpu", "rtx4090", "--to", tmp_path) == first
    answer = sim("init", "--from-topo", BOX, "--gpu", "l40s", "--to", tmp_path)
    topology = tmp_path / "topologies" / "pcie_4_gpus.yaml"
    assert (answer.code, answer.complaints[-1]) == (2, f"{topology}: is already there (--force overwrites it)")
    assert "rtx4090" in topology.read_text()
    assert sim("init", "--from-topo", BOX, "--gpu", "l40s", "--to", tmp_path, "--force").code == 0
    assert "l40s" in topology.read_text()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--from-topo", BOX), f"{BOX}: does not say which GPUs these are: name them with --gpu, e.g. --gpu rtx4090, "
         "or put the lines of nvidia-smi -L into the file"),
        (("--from-topo", BOX, "--gpu", "rtx490"), "unknown gpu 'rtx490', did you mean 'rtx4090'?"),
        (("--from-topo", BOX, "--gpu", "t4", "--nic", "ndr"), "unknown link 'ndr', did you mean 'infiniband-ndr'?"),
        (("--from-topo", BOX, "--gpu", "t4", "--nic", "upi"), "--nic upi is socket, not a link of a network card such "
         "as infiniband-ndr or roce-100g"),
        (("a/b", "--from-topo", BOX, "--gpu", "t4"), "NAME 'a/b' must be letters, digits and . _ + - (at most 80)"),
        (("--from-topo", BOX, "--list"), "--list lists what is shipped: leave --from-topo out"),
        (("--from-topo", BOX.parent / "four_3090_bridged.txt", "--gpu", "rtx3090", "--nic", "ethernet-10g"),
         f"{BOX.parent / 'four_3090_bridged.txt'}: lists no network cards that --nic could speak of"),
        (("--gpu", "t4"), "--gpu describes the machine of --from-topo, which is not given"),
        (("--nic", "roce-100g"), "--nic describes the machine of --from-topo, which is not given"),
        (("--from-topo", "nowhere.txt"), "nowhere.txt: no such file"),
    ],
)  # fmt: skip
def test_a_machine_that_cannot_be_described_is_one_line(sim, tmp_path, monkeypatch, options, complaint):
    monkeypatch.chdir(tmp_path)
    answer = sim("init", *options)
    assert (answer.code, answer.out, answer.complaints) == (2, "", [complaint])
    assert list(tmp_path.iterdir()) == []
