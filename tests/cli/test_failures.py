"""``sim failures``: what it writes and prints, exit codes, and the page in words and in a browser."""

import json

import pytest

from sim.report.failures_page import render_failures_html
from sim.study.failures_schema import FailureStudy

from ..helpers import FAILING, FOUR_SERVERS
from ..pages import Addresses, opened

SCENARIO = FAILING + """\
about: Four servers.
faults: {mtbf_per_gpu: 500 h}
cost: {rental: {per_gpu: 2 USD/h}}
"""
SECTIONS = ("goodput", "lost", "map", "completion", "spares", "sample")


@pytest.fixture(scope="module")
def scenario(tmp_path_factory):
    folder = tmp_path_factory.mktemp("failing")
    (folder / "servers.yaml").write_text(FOUR_SERVERS)
    (folder / "failing.yaml").write_text(SCENARIO)
    return folder / "failing.yaml"


@pytest.fixture(scope="module")
def written(sim, scenario):
    """One study with every axis, and the folder it wrote."""
    out = scenario.parent / "out"
    answer = sim("failures", scenario, "--nodes", "4,8", "--mtbf", "x1,x2", "--checkpoint", "auto,10 min",
                 "--policy", "restart,elastic", "--seeds", "10", "--out", out)  # fmt: skip
    assert answer.code == 0, answer.err
    return answer, out / "failing-failures"


def test_it_writes_two_files_whole(written):
    answer, folder = written
    assert sorted(path.name for path in folder.iterdir()) == ["failures.json", "index.html"]
    assert answer.out.splitlines()[-1] == f"report      {folder / 'index.html'}"
    document = json.loads((folder / "failures.json").read_text())
    assert len(document["points"]) == 16
    assert document["schema_version"] == 1


def test_the_answer_comes_first_then_a_line_a_setting(written):
    answer, _ = written
    lines = answer.out.splitlines()
    assert lines[0].startswith("Best: 4 nodes, MTBF x1, checkpoint every ")
    assert "Best: 4 nodes, MTBF x2" in lines[0]
    assert "USD" in lines[0]
    heading = next(i for i, line in enumerate(lines) if "goodput" in line and "policy" in line)
    table = lines[heading + 1 : heading + 17]
    assert all("[" in line and ("restart" in line or "elastic" in line) for line in table)
    assert any(line.startswith("Goodput (ETTR): ") for line in lines)
    assert "Time lost to" in lines
    assert "\x1b" not in answer.out


def test_sizes_tell_their_batches_and_how_long_the_work_takes(sim, scenario):
    options = ("--duration", "2 h", "--seeds", "2", "--no-report", "--set", "jobs.0.run.target_tokens=1B")
    answer = sim("failures", scenario, "--nodes", "4,8", *options, "--json")
    small, large = json.loads(answer.out)["points"]
    assert large["tokens_per_step"] == 2 * small["tokens_per_step"]
    for point in (small, large):
        assert point["days_to_target"] == pytest.approx(1e9 / point["tokens_per_s"] / 86_400)
    told = sim("failures", scenario, "--nodes", "4,8", *options).out.splitlines()
    assert "The global batch grows with the nodes, from " in told[0]
    assert "1B tokens take " in told[0]
    (head,) = [line.split() for line in told if line.startswith("nodes")]
    assert "batch" in head
    alone = sim("failures", scenario, *options).out
    assert "batch" not in alone.splitlines()[0]


def test_json_is_all_of_standard_output(sim, scenario):
    answer = sim("failures", scenario, "--seeds", "2", "--json", "--no-report")
    assert answer.code == 0
    assert FailureStudy.model_validate(answer.json).seeds == 2


def test_no_report_writes_nothing(sim, scenario, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sim("failures", scenario, "--seeds", "2", "--no-report").code == 0
    assert list(tmp_path.iterdir()) == []


def test_processes_and_seeds(sim, scenario):
    one = sim("failures", scenario, "--seeds", "10", "--no-report", "--seed", "5")
    two = sim("failures", scenario, "--seeds", "10", "--no-report", "--seed", "5", "-j", "2")
    assert one.out == two.out
    assert "seeds 5 to 14" in one.out
    assert sim("failures", scenario, "--seeds", "10", "--no-report").out != one.out


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--policy", "elastc"], 2, "did you mean 'elastic'?"),
        (["--mtbf", "0.5"], 2, "--mtbf: a bare 0.5 is ambiguous"),
        (["--nodes", "4.5"], 2, "--nodes: '4.5' is not a number of nodes"),
        (["--checkpoint", "soon"], 2, "--checkpoint: 'soon' is neither auto nor a time"),
        (["--duration", "0 s"], 2, "--duration: '0 s' must be above zero"),
        (["--policy", "elastic", "--set", "jobs.0.plan.zero=1"], 3, "whole replicas"),
        (["--set", "jobs.0.plan.dp=64"], 3, "GPUs"),
        (["--seeds", "0"], 2, "--seeds"),
    ],
)
def test_what_is_wrong_is_one_line(sim, scenario, options, code, words):
    answer = sim("failures", scenario, "--no-report", *options)
    assert answer.code == code
    assert answer.out == ""
    assert words in answer.err
    assert "Traceback" not in answer.err
    if code == 2 and options[0] != "--seeds":
        assert len(answer.complaints) == 1


def test_serving_and_faultless_scenarios_are_refused(sim, shipped):
    serving = sim("failures", shipped / "4090_pp_home.yaml", "--no-report")
    assert (serving.code, len(serving.complaints)) == (2, 1)
    assert "no job trains" in serving.err
    assert "sim run --seeds" in serving.err
    assert "faults.trace" in serving.err
    faultless = sim("failures", shipped / "llama2_70b_2048_a100.yaml", "--no-report")
    assert (faultless.code, len(faultless.complaints)) == (2, 1)
    assert "--mtbf '50000 h'" in faultless.err


def test_a_setting_that_cannot_be_stands_beside_the_others(sim, scenario):
    answer = sim("failures", scenario, "--seeds", "2", "--no-report", "--policy", "restart,elastic",
                 "--set", "jobs.0.plan.zero=1")  # fmt: skip
    assert answer.code == 0
    assert "Not possible" in answer.out


# ---- The page


def test_the_page_has_every_figure_with_words_and_data(written):
    _, folder = written
    text = (folder / "index.html").read_text()
    page = Addresses(text)
    assert len(page.ids) == len(set(page.ids))
    assert {f"{name}-section" for name in SECTIONS} <= set(page.ids)
    assert page.plots == ["goodput", "size", "lost", "map", "completion", "spares", "sample"]
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert text.count('<details class="data">') == len(page.plots)
    assert len(text) < 3e6


def test_the_page_follows_from_the_document(written):
    _, folder = written
    study = FailureStudy.model_validate_json((folder / "failures.json").read_text())
    assert render_failures_html(study) == render_failures_html(study)
    hostile = study.model_copy(update={"about": "<script>alert(1)</script>", "scenario": "</title><b>"})
    text = render_failures_html(hostile)
    assert "<script>alert" not in text
    assert "</title><b>" not in text


@pytest.mark.browser
def test_a_browser_draws_every_figure(written):
    _, folder = written
    with opened(folder / "index.html", width=420, dark=True) as (page, complaints, requests):
        drawn = page.evaluate("[...document.querySelectorAll('.plot')].map(p => [p.id, p._fullData.map(t => t.type)])")
        wide = page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert complaints == []
    assert [url.rpartition("/")[2] for url in requests] == ["index.html"]
    assert wide
    kinds = dict(drawn)
    assert "heatmap" in kinds["map"]
    assert kinds["map"].count("scatter") == 3
    assert set(kinds["lost"]) == set(kinds["sample"]) == {"bar"}
    assert all(kinds.values())


# -- sim show -----------------------------------------------------------------------------------------------


def test_it_is_shown_again_as_it_was(sim, written, tmp_path):
    answer, folder = written
    shown = sim("show", folder, "--html", tmp_path / "again.html")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.splitlines()[:-1] == answer.out.splitlines()[:-2]
    assert (tmp_path / "again.html").read_bytes() == (folder / "index.html").read_bytes()
    assert sim("show", folder / "failures.json", "--json").json == json.loads((folder / "failures.json").read_text())


def test_a_study_from_before_it_had_a_kind_is_shown(sim, written, tmp_path):
    _, folder = written
    document = json.loads((folder / "failures.json").read_text())
    file = tmp_path / "old.json"
    file.write_text(json.dumps({k: v for k, v in document.items() if k not in ("kind", "run_info")}))
    assert sim("show", file).out == sim("show", folder).out


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"schema_version": 2}, "schema_version: version 2 is newer than this program's 1: update gpu-cluster-sim"),
        ({"bests": [99]}, "bests: a point is named that is none of the 16"),
        ({"points": "x"}, "points: input should be a valid list"),
        ({"sample": {"point": 16, "seed": 0, "goodput": 1, "end_s": 1, "failures": 0, "complete": True,
                     "stretches": []}}, "sample: is of a point that is none of the 16"),
    ],
)  # fmt: skip
def test_a_study_that_cannot_be_drawn_is_refused_in_a_line(sim, written, tmp_path, changes, complaint):
    _, folder = written
    file = tmp_path / "failures.json"
    file.write_text(json.dumps({**json.loads((folder / "failures.json").read_text()), **changes}))
    answer = sim("show", file)
    assert (answer.code, answer.out) == (2, "")
    assert answer.complaints == [f"{file}: {complaint}"]


def test_spot_nodes_are_not_paid_for_while_they_are_gone(sim, scenario):
    def points(terms, spares):
        settings = [f"cost.rental.terms={terms}", f"faults.spares={spares}", "faults.repair=6 h"]
        words = [word for setting in settings for word in ("--set", setting)]
        answer = sim("failures", scenario, *words, "--policy", "wait,restart", "--seeds", "5", "--json", "--no-report")
        return answer.json["points"]

    for spot, kept in zip(points("spot", 0), points("on_demand", 0), strict=True):
        assert spot["wall_s"] == kept["wall_s"]
        assert kept["usd"]["mean"] == pytest.approx(64 * kept["wall_s"]["mean"] / 3600)
        away = 1 - spot["usd"]["mean"] / kept["usd"]["mean"]
        # One of four nodes is gone while the job waits for it, and for as long again as the failure is looked for.
        waiting = spot["seconds"]["down"] / spot["wall_s"]["mean"] / 4
        assert waiting <= away <= 1.5 * waiting
        assert spot["usd_per_hour"] == pytest.approx(spot["usd"]["mean"] / spot["wall_s"]["mean"] * 3600)
    assert points("spot", 9)[1]["usd"]["mean"] == pytest.approx(points("on_demand", 9)[1]["usd"]["mean"])
