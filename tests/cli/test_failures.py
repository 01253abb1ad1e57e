"""``sim failures``: what it writes and prints, exit codes, and the page in words and in a browser."""

import json
import os
import shutil
from html.parser import HTMLParser

import pytest

from sim.report.failures_page import render_failures_html
from sim.study.failures_schema import FailureStudy

TOPOLOGY = """\
name: servers
nodes:
  - name: server
    count: 4
    gpus: [{type: a100-sxm-80gb, count: 8}]
    sockets: 2
    socket_link: upi
    nvlink: {link: nvlink3, layout: switch}
    nics: [{link: infiniband-hdr, per_gpu: true}]
"""
SCENARIO = """\
name: failing
about: Four servers.
cluster: {topology: servers.yaml}
model: llama-2-7b
stack: generic
jobs:
  - name: pretrain
    kind: training
    plan: {tp: 8, dp: 4}
    batch: {global: 128, micro: 1, sequence: 4096}
    checkpoint: {every: auto, blocking: 30 s}
    recovery: {time: 10 min}
    run: {duration: 30 days}
faults: {mtbf_per_gpu: 500 h}
cost: {rental: {per_gpu: 2 USD/h}}
"""
SECTIONS = ("goodput", "lost", "map", "completion", "spares", "sample")


@pytest.fixture(scope="module")
def scenario(tmp_path_factory):
    folder = tmp_path_factory.mktemp("failing")
    (folder / "servers.yaml").write_text(TOPOLOGY)
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


def test_json_is_all_of_standard_output(sim, scenario):
    answer = sim("failures", scenario, "--seeds", "2", "--json", "--no-report")
    assert answer.code == 0
    assert FailureStudy.model_validate(answer.json).seeds == 2


def test_no_report_writes_nothing(sim, scenario, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sim("failures", scenario, "--seeds", "2", "--no-report").code == 0
    assert list(tmp_path.iterdir()) == []


def test_processes_and_seeds(sim, scenario):
    one = sim("failures", scenario, "--seeds", "30", "--no-report", "--seed", "5")
    two = sim("failures", scenario, "--seeds", "30", "--no-report", "--seed", "5", "-j", "2")
    assert one.out == two.out
    assert "seeds 5 to 34" in one.out
    assert sim("failures", scenario, "--seeds", "30", "--no-report").out != one.out


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


class Page(HTMLParser):
    """Ids, headings' sections and addresses of a page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.plots = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[key] for key in ("src", "href") if key in found]
        self.plots += [found["data-figure"]] if "data-figure" in found else []


def test_the_page_has_every_figure_with_words_and_data(written):
    _, folder = written
    text = (folder / "index.html").read_text()
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert {f"{name}-section" for name in SECTIONS} <= set(page.ids)
    assert page.plots == ["goodput", "size", "lost", "map", "completion", "spares", "sample"]
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert text.count('<details class="data">') == len(page.plots)
    assert len(text) < 3e6


def test_the_page_follows_from_the_document(written):
    _, folder = written
    study = FailureStudy.model_validate_json((folder / "failures.json").read_text())
    assert render_failures_html(study, "x") == render_failures_html(study, "x")
    hostile = study.model_copy(update={"about": "<script>alert(1)</script>", "scenario": "</title><b>"})
    text = render_failures_html(hostile, "x")
    assert "<script>alert" not in text
    assert "</title><b>" not in text


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_draws_every_figure(written, dark):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium found: set CHROMIUM to its path")
    _, folder = written
    complaints = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 420 if dark else 1200, "height": 900},
                                color_scheme="dark" if dark else "light")  # fmt: skip
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto((folder / "index.html").as_uri())
        page.wait_for_selector('html[data-figures="drawn"]', state="attached")
        drawn = page.evaluate("[...document.querySelectorAll('.plot')].map(p => [p.id, p._fullData.map(t => t.type)])")
        wide = page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        browser.close()
    assert complaints == []
    assert wide
    kinds = dict(drawn)
    assert "heatmap" in kinds["map"]
    assert kinds["map"].count("scatter") == 3
    assert set(kinds["lost"]) == set(kinds["sample"]) == {"bar"}
    assert all(kinds.values())
