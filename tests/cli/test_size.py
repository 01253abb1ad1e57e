"""``sim size``: what it writes and prints, exit codes, ``sim show``, and the page in words and in a browser."""

import json

import pytest
import yaml

from sim.report.figures.size import size_figures
from sim.report.size_page import render_size_html
from sim.report.size_words import expected
from sim.study.size_play import play_design
from sim.study.size_schema import SCHEMA_VERSION, Sizing
from sim.units import format_usd

from ..pages import Addresses, opened
from ..study.test_size import scenario


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("size")
    (found / "sized.yaml").write_text(yaml.safe_dump(scenario(), sort_keys=False))
    return found


@pytest.fixture(scope="module")
def written(sim, folder):
    answer = sim("size", folder / "sized.yaml", "--out", folder)
    assert answer.code == 0, answer.err
    return answer, folder / "sized-size"


@pytest.fixture(scope="module")
def document(written):
    return Sizing.model_validate_json((written[1] / "size.json").read_text())


def test_it_writes_three_files_whole_and_says_where(written):
    answer, out = written
    assert sorted(path.name for path in out.iterdir()) == ["index.html", "size.json", "winner.yaml"]
    found = json.loads((out / "size.json").read_text())
    assert (found["schema_version"], found["kind"]) == (SCHEMA_VERSION, "size")
    assert str(out / "index.html") in answer.out
    assert str(out / "winner.yaml") in answer.out


def test_the_answer_names_the_winner_the_rest_and_what_was_covered(written, document):
    out = " ".join(written[0].out.split())
    best, coverage = document.answers[0], document.coverage
    assert f"{best.nodes} x {best.machine}" in out
    assert "The cheapest hardware for toy" in out
    assert "Within the objectives it carries" in out
    assert f"All {coverage.designs} designs are covered" in out
    assert "Why the others lost" in out
    assert f"in each of {len(best.seeds)} runs of {best.requests:,} requests" in out
    for row in document.best_by_machine:
        assert row.machine in out


def test_the_winner_is_a_scenario_that_runs(written, sim):
    answer = sim("run", written[1] / "winner.yaml", "--no-report", "--no-effects")
    assert answer.code == 0, answer.err
    assert "objectives 100%" in " ".join(answer.out.split()) or "objectives 9" in answer.out


def test_json_is_the_document(sim, folder, document):
    found = Sizing.model_validate(sim("size", folder / "sized.yaml", "--json", "--no-report").json)
    assert found.model_copy(update={"run_info": {}}) == document.model_copy(update={"run_info": {}})


def test_show_prints_and_draws_what_it_did(written, sim, tmp_path):
    answer, out = written
    shown = sim("show", out)
    assert shown.out in answer.out
    assert sim("show", out, "--html", tmp_path / "again.html").code == 0
    assert (tmp_path / "again.html").read_text() == (out / "index.html").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "version 2 is newer than this program's 1"),
        ({"answers": []}, "a size has at least one answer"),
        ({"front": [99]}, "an answer is named that is none of"),
    ],
)
def test_a_document_that_cannot_be_drawn_is_refused(written, sim, tmp_path, changes, message):
    file = tmp_path / "size.json"
    file.write_text(json.dumps(json.loads((written[1] / "size.json").read_text()) | changes))
    answer = sim("show", file)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err


def test_a_slip_is_told_with_its_line(sim, folder):
    data = scenario({"machines": ["smal"]})
    (folder / "slip.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    answer = sim("size", folder / "slip.yaml")
    assert answer.code == 2
    assert "slip.yaml:" in answer.err
    assert "unknown machine 'smal', did you mean 'small'?" in answer.err


def test_a_question_that_is_not_asked_is_said(sim, folder):
    """Without a size block everything known is searched: that is told before it takes long, and with other mistakes."""
    own = scenario({"machines": ["small"]})
    del own["size"]
    file = folder / "unasked.yaml"
    file.write_text(yaml.safe_dump({**own, "cost": {**own["cost"], "hosting": "1 USD/h"}}, sort_keys=False))
    refused = sim("size", file).err.splitlines()
    assert "unasked.yaml:1:1: has no size block (goal, " in refused[0]
    assert "cost.hosting: " in refused[1]
    rented = {**own, "size": {"machines": ["small"]}, "cost": {"rental": {"per_gpu": "1 USD/h"}}}
    file.write_text(yaml.safe_dump(rented, sort_keys=False))
    assert "cost.rental: bought machines (small) pay for power: in place of rental give" in sim("size", file).err


def test_the_winner_comes_with_its_error_and_its_warnings(written, document, sim):
    """The same as ``sim run`` tells of the winner's file."""
    told, page = " ".join(written[0].out.split()), (written[1] / "index.html").read_text()
    job = sim("run", written[1] / "winner.yaml", "--no-report", "--json").json
    own = document.model_dump()
    for key in ("expected_error", "expected_ttft_error", "expected_tpot_error"):
        assert own[key] == job["jobs"][0][key]
    assert document.warnings == job["verdict"]["warnings"]
    assert f"error {expected(document)[0]}" in told
    assert all(line in told and line in page for line in expected(document))
    assert all(warning in told for warning in document.warnings)


def test_what_nothing_can_do_has_a_code_of_its_own_and_names_the_nearest(sim, folder):
    asked = "size", folder / "sized.yaml", "--no-report", "--set", "jobs.0.objectives.tpot_p99=0.001 ms"
    answer = sim(*asked)
    assert (answer.code, answer.out) == (3, "")
    assert "designs does what is asked" in answer.err
    told = sim(*asked, "--json")
    assert told.code == 3
    found = Sizing.model_validate(told.json)
    assert found.answers == []
    assert f"the nearest, misses an objective: {found.nearest.design}: {found.nearest.reason}" in answer.err
    assert f"times what is asked; it costs {format_usd(found.nearest.capital_usd)} and" in answer.err


def test_whoever_interrupts_is_told_the_best_so_far(sim, folder, monkeypatch):
    calls = iter(range(100))

    def impatient(*args):
        if next(calls) == 6:
            raise KeyboardInterrupt
        return play_design(*args)

    monkeypatch.setattr("sim.study.size_search.play_design", impatient)
    answer = sim("size", folder / "sized.yaml", "--no-report")
    assert (answer.code, answer.out) == (1, "")
    assert "the best so far: " in answer.err
    assert "USD/h" in answer.err


def test_the_page_has_every_section_and_figure_with_words_and_data(written, document):
    text = (written[1] / "index.html").read_text()
    page = Addresses(text)
    assert len(page.ids) == len(set(page.ids))
    sections = {"answer", "best", "machines-section", "designs-section", "losers", "limits", "reproduce"}
    assert sections <= set(page.ids)
    assert page.plots == ["machines", "front"]
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    for figure in (figure for group in size_figures(document).values() for figure in group):
        assert figure.takeaway
        assert figure.alt
        assert figure.rows
    assert len(text) < 3e6


def test_the_page_escapes_what_users_wrote(document):
    hostile = document.model_copy(update={"name": "</title><b>", "about": "<script>alert(1)</script>"})
    assert "</title><b>" not in render_size_html(hostile)


@pytest.mark.browser
def test_a_browser_draws_every_figure(written, document):
    width = 400
    with opened(written[1] / "index.html", width=width, dark=True) as (page, complaints, requests):
        drawn = dict(page.evaluate("""[...document.querySelectorAll('.plot')].map(p => [p.id, {
            types: p._fullData.map(t => t.type),
            marks: p.querySelectorAll('.scatterlayer path, .barlayer path').length,
        }])"""))
        wide = page.evaluate("document.documentElement.scrollWidth")
    assert complaints == []
    assert [url.rpartition("/")[2] for url in requests] == ["index.html"]
    assert wide <= width
    for figure in (figure for group in size_figures(document).values() for figure in group):
        assert drawn[figure.id]["types"] == figure.types, figure.id
        assert drawn[figure.id]["marks"] > 0, figure.id
