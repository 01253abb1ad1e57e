"""The page of a sweep, and ``sim show`` of it: from the document alone, in words and in a browser."""

import json
import shlex

import pytest
import yaml

from sim.report.figures.sweep import sweep_figures
from sim.report.sweep_page import render_sweep_html
from sim.report.sweep_words import command
from sim.study.sweep_axes import design_of, from_options
from sim.study.sweep_schema import SweepStudy

from ..helpers import toy
from ..pages import Addresses, opened

LOAD = {"closed_loop": {"clients": 4}, "prompt_tokens": 50, "output_tokens": 20, "requests": 30}
COST = {"capital": "1000 USD", "amortisation": "1 year", "electricity": "0.1 USD/kWh"}
NETWORK = "cluster.network.bandwidth"
CLIENTS = "jobs.0.load.closed_loop.clients"
SWEEPS = {
    "two axes": ["--vary", f"{NETWORK}=1 Gbps,10 Gbps", "--vary", f"{CLIENTS}=1,4,9"],
    "failing": ["--vary", "jobs.0.plan.pp=2,8", "--vary", f"{CLIENTS}=1,4"],
    "one axis": ["--vary", f"{CLIENTS}=1,4,9", "--seeds", "2"],
    "in step": ["--vary", f"{CLIENTS}=1,4,9", "--vary", f"{NETWORK}=1 Gbps,2 Gbps,4 Gbps", "--zip"],
    "drawn": ["--vary", f"{CLIENTS}={{min: 1, max: 30}}", "--vary", f"{NETWORK}={{min: 1 Gbps, max: 9 Gbps}}",
              "--samples", "12"],
}  # fmt: skip
FIGURES = {
    "two axes": {"front-0", "front-1", "moves-output-tokens-per-s", "map-output-tokens-per-s"},
    "failing": {"front-0", "moves-output-tokens-per-s", "map-usd-per-million-tokens"},
    "one axis": {"front-0", "along-output-tokens-per-s", "along-ttft-s-p50"},
    "in step": {"front-0", "along-usd-per-million-tokens"},
    "drawn": {"front-0", "moves-usd-per-million-tokens"},
}


@pytest.fixture(scope="module")
def scenario(tmp_path_factory):
    file = tmp_path_factory.mktemp("sweep") / "toy.yaml"
    described = toy({"plan": {"pp": 2}, "load": LOAD}, gpus=4, cost=COST)
    file.write_text(yaml.safe_dump(described, sort_keys=False))
    return file


@pytest.fixture(scope="module")
def written(sim, scenario):
    """Each sweep, swept once: its answer and its folder."""
    known = {}

    def get(name):
        if name not in known:
            folder = scenario.parent / name.replace(" ", "-")
            answer = sim("sweep", scenario, *SWEEPS[name], "--out", folder)
            assert answer.code == 0, answer.err
            known[name] = answer, folder
        return known[name]

    return get


def study_in(folder):
    return SweepStudy.model_validate_json((folder / "sweep.json").read_text())


@pytest.mark.parametrize("name", SWEEPS)
def test_the_page_is_drawn_from_the_document(sim, written, name, tmp_path):
    answer, folder = written(name)
    assert f"report      {folder / 'index.html'}" in answer.out
    study = study_in(folder)
    page = (folder / "index.html").read_text()
    assert page == render_sweep_html(study)
    assert len(page) < 3e6
    shown = sim("show", folder, "--html", tmp_path / "again.html")
    assert (shown.code, shown.err) == (0, "")
    assert (tmp_path / "again.html").read_text() == page
    printed = answer.out.splitlines()
    assert shown.out.splitlines()[:-1] == printed[: printed.index(f"report      {folder / 'index.html'}") - 1]


@pytest.mark.parametrize("name", SWEEPS)
def test_each_figure_has_words_and_data(written, name):
    _, folder = written(name)
    study = study_in(folder)
    page = Addresses((folder / "index.html").read_text())
    figures = [figure for group in sweep_figures(study).values() for figure in group]
    assert page.plots == [figure.id for figure in figures]
    assert set(page.plots) >= FIGURES[name]
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    for figure in figures:
        assert figure.rows
        assert figure.takeaway.endswith(".")


@pytest.mark.browser
@pytest.mark.parametrize(
    ("name", "width", "dark"),
    [*((name, 1280, False) for name in SWEEPS), ("two axes", 390, True)],
)
def test_a_browser_draws_every_figure(written, name, width, dark):
    _, folder = written(name)
    figures = [figure for group in sweep_figures(study_in(folder)).values() for figure in group]
    with opened(folder / "index.html", width=width, dark=dark) as (page, complaints, requests):
        drawn = page.evaluate("[...document.querySelectorAll('.plot')].map(p => [p.id, p._fullData.map(t => t.type)])")
        page.evaluate("document.querySelectorAll('details').forEach((item) => { item.open = true })")
        fits = page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        inside = page.evaluate("""() => [...document.querySelectorAll('.plot')]
            .every((plot) => plot.querySelector('.main-svg').clientWidth <= plot.clientWidth)""")
    assert complaints == []
    assert [url.rpartition("/")[2] for url in requests] == ["index.html"]
    assert dict(drawn) == {figure.id: figure.types for figure in figures}
    assert fits
    assert inside


def test_the_answer_names_the_best_and_what_it_depends_on(written):
    _, folder = written("two axes")
    study = study_in(folder)
    page = (folder / "index.html").read_text()
    best = max(study.points, key=lambda point: point.metrics["output_tokens_per_s"])
    assert f"point {best.point} (bandwidth=10 Gbps, clients=9)" in page
    assert "tok/s depends most on clients: " in page
    front = study.pareto[0]
    (figure,) = [f for f in sweep_figures(study)["front"] if f.id == "front-0"]
    line = figure.traces[-1]
    assert line["x"] == [study.points[n - 1].metrics[front.value] for n in front.points]
    assert line["y"] == [study.points[n - 1].metrics[front.cost] for n in front.points]
    bars = {f.id: f.traces[0] for f in sweep_figures(study)["moves"]}["moves-output-tokens-per-s"]
    effect = study.sensitivity["output_tokens_per_s"][0]
    assert (bars["base"][0], bars["base"][0] + bars["x"][0]) == pytest.approx((effect.low.mean, effect.high.mean))


def test_points_that_failed_are_told_and_left_white(written):
    _, folder = written("failing")
    assert "infeasible: job job0: tp 1 x pp 8" in (folder / "index.html").read_text()
    (heat, letters) = next(f for f in sweep_figures(study_in(folder))["over"]).traces
    assert heat["z"][1] == [None, None]
    assert len(letters["text"]) == 2


@pytest.mark.parametrize("name", ["two axes", "one axis", "in step", "drawn"])
def test_the_command_plays_the_same_points(written, name):
    _, folder = written(name)
    study = study_in(folder)
    words = shlex.split(command(study))
    vary = [words[i + 1] for i, word in enumerate(words) if word == "--vary"]
    design = design_of(from_options(vary, "--zip" in words))
    assert list(design.paths) == study.paths
    assert [list(point) for point in design.points] == [[p.values[path] for path in study.paths] for p in study.points]


def test_a_strangers_markup_stays_text(written):
    _, folder = written("two axes")
    study = study_in(folder)
    bad = "</title><script>alert(1)</script>"
    points = [point.model_copy(update={"values": {**point.values, NETWORK: bad}}) for point in study.points]
    page = render_sweep_html(study.model_copy(update={"scenario": bad, "points": points}))
    assert "<script>alert" not in page


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"schema_version": 2}, "schema_version: version 2 is newer than this program's 1: update gpu-cluster-sim"),
        ({"schema_version": "x"}, 'schema_version: unknown version "x"'),
        ({"kind": "dream"}, 'kind: unknown kind "dream": comparison, failures, result, size and sweep can be shown'),
        ({"points": []}, "points: a sweep has points and axes"),
        ({"axes": [{"paths": ["x"], "drawn": False}]}, "points[0].values: a key that varies has no value"),
        ({"pareto": [{"cost": "love", "value": "mfu", "points": []}]}, "pareto: 'love' is not a figure of a sweep"),
        ({"seeds": None}, "seeds: input should be a valid integer"),
    ],
)
def test_what_is_no_sweep_is_refused_in_a_line(sim, written, tmp_path, changes, complaint):
    _, folder = written("two axes")
    file = tmp_path / "sweep.json"
    file.write_text(json.dumps({**json.loads((folder / "sweep.json").read_text()), **changes}))
    answer = sim("show", file)
    assert (answer.code, answer.out) == (2, "")
    assert answer.complaints == [f"{file}: {complaint}"]


def test_a_sweep_has_no_spans(sim, written, tmp_path):
    _, folder = written("two axes")
    answer = sim("show", folder, "--trace", tmp_path / "t.json")
    assert (answer.code, answer.out) == (2, "")
    assert "a sweep has no spans: --trace needs a result.json" in answer.err
