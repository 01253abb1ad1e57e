"""``sim init``: shipped scenarios copied out, complete and never over somebody's work."""

import pytest

from sim.catalog import shipped as shipped_files


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
