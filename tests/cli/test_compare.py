"""``sim compare``: what it writes and prints, exit codes, ``sim show``, and the page in words and in a browser."""

import json
import shutil

import pytest
import yaml

from sim.report.compare_page import render_comparison_html
from sim.report.figures.compare import compare_figures
from sim.study.compare_schema import SCHEMA_VERSION, Comparison

from ..helpers import topology
from ..pages import Addresses, opened

JOB = {
    "name": "chat", "kind": "serving", "plan": {"tp": 8},
    "load": {"closed_loop": {"clients": 16}, "prompt_tokens": 128, "output_tokens": 32, "requests": 60},
}  # fmt: skip
DRAWN = {"lognormal": {"median": "128 tokens", "p90": "400 tokens"}}
BOUGHT = {"capital": "300000 USD", "electricity": "0.1 USD/kWh"}
RENTED = {"rental": {"per_gpu": "1.29 USD/h"}}


def described(name, cluster, cost=BOUGHT, **load):
    """A scenario of a served 70B."""
    job = {**JOB, "load": {**JOB["load"], **load}}
    found = {"name": name, "cluster": cluster, "model": "llama-2-70b", "stack": "vllm", "jobs": [job]}
    return found | ({"cost": cost} if cost else {})


@pytest.fixture(scope="module")
def files(tmp_path_factory, shipped):
    """Scenarios in a folder beside the shipped topologies."""
    root = tmp_path_factory.mktemp("compare")
    shutil.copytree(shipped.parent / "topologies", root / "topologies")
    folder = root / "scenarios"
    folder.mkdir()
    scenarios = {
        "h100": described("h100", topology("dgx_h100_8")),
        "a100": described("a100", topology("dgx_a100_8"), RENTED),
        "noisy": described("noisy", topology("dgx_h100_8"), prompt_tokens=DRAWN),
        "noisy_a100": described("noisy_a100", topology("dgx_a100_8"), RENTED, prompt_tokens=DRAWN),
        "costless": described("costless", topology("dgx_h100_8"), None),
        "tiny": described("tiny", topology("server_8x4090_pcie")) | {"model": "llama-3.1-405b"},
    }
    for name, scenario in scenarios.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(scenario, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def written(sim, files):
    """A comparison with everything in it, and the folder it wrote."""
    out = files / "out"
    answer = sim("compare", files / "noisy.yaml", files / "noisy_a100.yaml", files / "tiny.yaml", "--seeds", "3",
                 "--at-equal", "budget", "--api-price", "9 USD/Mtok", "--out", out)  # fmt: skip
    assert answer.code == 0, answer.err
    return answer, out / "compare" / "noisy-vs-noisy_a100-vs-tiny"


@pytest.fixture(scope="module")
def document(written):
    return Comparison.model_validate_json((written[1] / "comparison.json").read_text())


def light(sim, *args):
    """A comparison without curves and files."""
    return sim("compare", *args, "--no-curve", "--no-report")


# ---- What it prints and writes


def test_it_writes_two_files_whole(written):
    answer, folder = written
    assert sorted(path.name for path in folder.iterdir()) == ["comparison.json", "index.html"]
    assert answer.out.splitlines()[-1] == f"report      {folder / 'index.html'}"
    found = json.loads((folder / "comparison.json").read_text())
    assert (found["schema_version"], found["kind"]) == (SCHEMA_VERSION, "comparison")
    assert [part["name"] for part in found["scenarios"]] == ["noisy", "noisy_a100", "tiny"]


def test_the_answer_comes_first_then_what_differs_then_numbers(written):
    lines = written[0].out.splitlines()
    assert lines[0] == "noisy against noisy_a100 and tiny, at equal budget"
    places = [next(i for i, line in enumerate(lines) if start in line) for start in (
        "cheapest", "tiny does not fit", "left for KV", "Configuration", "GPU memory bandwidth",
        "noisy_a100 against noisy", "Output throughput", "Speed and cost", "Break-even", "hours a day",
        "Where the difference comes from", "copies: 1 of noisy and", "3 seeds, 0 to 2",
    )]  # fmt: skip
    assert places == sorted(places)
    told = " ".join(lines[2:9])
    assert "At equal budget: " in told
    assert "tok/s of noisy and" in told
    assert "when full a user sees" in told
    assert any("Output throughput" in line and "[" in line and "worse" in line for line in lines)
    assert "\x1b" not in written[0].out


def test_json_is_all_of_standard_output(sim, files):
    answer = light(sim, files / "h100.yaml", files / "a100.yaml", "--json")
    found = Comparison.model_validate(answer.json)
    assert [part.runs for part in found.scenarios] == [1, 1]
    assert found.cheapest == found.against == []


def test_no_report_writes_nothing(sim, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert light(sim, files / "h100.yaml", files / "a100.yaml").code == 0
    assert list(tmp_path.iterdir()) == []


def test_processes_seeds_and_settings(sim, files):
    both = files / "noisy.yaml", files / "noisy_a100.yaml"
    options = "--seed", "5", "--seeds", "2", "--no-report", "--set", "jobs.0.load.requests=40"
    one, two = sim("compare", *both, *options), sim("compare", *both, *options, "-j", "2")
    assert one.out == two.out
    assert "2 seeds, 5 to 6" in one.out
    assert sim("compare", *both, *options, "--seed", "6").out != one.out


def test_nothing_random_is_said_and_has_no_interval(sim, files):
    answer = light(sim, files / "h100.yaml", files / "a100.yaml")
    assert "No scenario has anything random" in answer.out
    row = next(line for line in answer.out.splitlines() if "Output throughput" in line)
    assert "[" not in row
    same = light(sim, files / "h100.yaml", files / "h100.yaml")
    assert "no key that a scenario sets differs" in same.out
    assert same.out.count("no clear difference") > 10


# ---- What is wrong


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        (["h100"], [], "give 2 to 8 scenarios, not 1"),
        (["h100"] * 9, [], "give 2 to 8 scenarios, not 9"),
        (["h100", "absent"], [], "absent.yaml"),
        (["h100", "a100"], ["--at-equal", "buget"], "--at-equal: 'buget' is not one of budget, throughput, power, "
                                                    "gpus, did you mean 'budget'?"),
        (["h100", "costless"], ["--at-equal", "budget"], "--at-equal budget: costless has no cost block"),
        (["h100", "costless"], ["--api-price", "1 USD/Mtok"], "--api-price: costless has no cost block"),
        (["h100", "a100"], ["--api-price", "1"], "--api-price: a bare 1 is ambiguous"),
        (["h100", "a100"], ["--api-price", "1 USD/h"], "--api-price: '1 USD/h' is a price per unit of time"),
        (["h100", "a100"], ["--api-price", "0 USD/Mtok"], "--api-price: '0 USD/Mtok' must be above zero"),
        (["h100", "a100"], ["--api-price", "1 USD/Mtok", "--no-curve"], "leave --no-curve out"),
        (["h100", "a100"], ["--set", "jobs.0.plan.tpp=4"], "did you mean 'tp'?"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(sim, files, names, options, words):
    answer = sim("compare", *(files / f"{name}.yaml" for name in names), "--no-report", *options)
    assert (answer.code, answer.out) == (2, "")
    assert words in answer.err
    assert len(answer.complaints) == 1


def test_mistakes_of_all_files_are_told_together(sim, files):
    answer = sim("compare", files / "absent.yaml", files / "h100.yaml", files / "gone.yaml")
    assert answer.code == 2
    assert len(answer.complaints) == 2


def test_no_scenario_at_all_is_bad_input(sim):
    answer = sim("compare")
    assert answer.code == 2
    assert "SCENARIOS" in answer.err


def test_training_against_serving_is_refused(sim, shipped):
    answer = sim("compare", shipped / "h100_tp8.yaml", shipped / "tinyllama_1x4090.yaml", "--no-report")
    assert (answer.code, len(answer.complaints)) == (2, 1)
    assert "tinyllama_1x4090 runs training, h100_tp8 serving" in answer.err


def test_if_none_fits_there_is_a_budget_and_no_numbers(sim, files):
    answer = light(sim, files / "tiny.yaml", files / "tiny.yaml")
    assert (answer.code, answer.out) == (3, "")
    assert "does not fit" in answer.err
    assert "left for KV" in answer.err


def test_eight_long_names_fit_a_folder_and_stay_apart(sim, files, tmp_path):
    folders = set()
    for last in ("eight", "other"):
        text = (files / "h100.yaml").read_text()
        paths = []
        for number in [*range(7), last]:
            paths.append(files / f"long_{number}.yaml")
            paths[-1].write_text(text.replace("name: h100", f"name: a_scenario_with_a_rather_long_name_{number}", 1))
        answer = sim("compare", *paths, "--no-curve", "--out", tmp_path)
        assert answer.code == 0, answer.err
        assert answer.out.startswith("a_scenario_with_a_rather_long_name_0 against 7 others\n")
        heading = next(line for line in answer.out.splitlines() if line.endswith("relative"))
        assert heading.split()[:2] == ["a_scenari…g_name_0", "a_scenari…g_name_1"]
        folders.add(answer.out.splitlines()[-1])
    assert len(folders) == 2
    assert all(len(folder.name) <= 100 for folder in (tmp_path / "compare").iterdir())


# ---- sim show


def test_show_prints_and_draws_what_the_comparison_did(written, sim, tmp_path):
    answer, folder = written
    page = tmp_path / "again.html"
    for given in (folder, folder / "comparison.json"):
        shown = sim("show", given, "--html", page)
        assert (shown.code, shown.err) == (0, "")
        assert shown.out.splitlines()[:-1] == answer.out.splitlines()[:-2]
        assert page.read_bytes() == (folder / "index.html").read_bytes()
    assert sim("show", folder, "--json").json == json.loads((folder / "comparison.json").read_text())


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"schema_version": SCHEMA_VERSION + 1}, "schema_version: version 2 is newer than this program's 1: update"),
        ({"schema_version": "1"}, 'schema_version: unknown version "1"'),
        ({"kind": "sonnet"}, 'kind: unknown kind "sonnet": comparison, failures, result, size and sweep can be shown'),
        ({"scenarios": 3}, "scenarios: input should be a valid list"),
        ({"baseline": 9}, "scenarios: a scenario is named that is none of the 3"),
        ({"settings": [{"group": "plan", "key": "tp", "values": ["1"], "detail": False}]}, "settings: a key has not 3"),
    ],
)
def test_a_document_that_cannot_be_read_is_refused(written, sim, tmp_path, changes, complaint):
    file = tmp_path / "comparison.json"
    file.write_text(json.dumps(json.loads((written[1] / "comparison.json").read_text()) | changes))
    answer = sim("show", file)
    assert (answer.code, answer.out, len(answer.complaints)) == (2, "", 1)
    assert complaint in answer.err


def test_a_comparison_has_no_trace(written, sim, tmp_path):
    answer = sim("show", written[1], "--trace", tmp_path / "trace.json")
    assert (answer.code, answer.out) == (2, "")
    assert "has no spans" in answer.err


# ---- The page


def test_the_page_has_every_section_and_figure_with_words_and_data(written, document):
    text = (written[1] / "index.html").read_text()
    page = Addresses(text)
    assert len(page.ids) == len(set(page.ids))
    sections = {"answer", "configuration", "metrics", "definitions", "limits", "reproduce"}
    assert sections | {"speed-section", "break-even-section", "difference-section"} <= set(page.ids)
    assert page.plots == ["pareto", "throughput", "ttft", "use", "demand", "waterfall-1"]
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert text.count('<details class="data">') == len(page.plots)
    for figure in (figure for group in compare_figures(document).values() for figure in group):
        assert figure.takeaway
        assert figure.alt
        assert figure.rows
    assert "does not fit" in text
    assert len(text) < 3e6


def test_the_page_follows_from_the_document(document):
    assert render_comparison_html(document) == render_comparison_html(document)
    first = document.scenarios[0].model_copy(update={"name": "</title><b>", "warnings": ["<script>alert(1)</script>"]})
    hostile = document.model_copy(update={"scenarios": [first, *document.scenarios[1:]]})
    text = render_comparison_html(hostile)
    assert "<script>alert" not in text
    assert "</title><b>" not in text


def test_without_costs_the_page_tells_gpu_time(sim, files):
    answer = sim("compare", files / "costless.yaml", files / "costless.yaml", "--json", "--no-report", "--set",
                 "jobs.0.load.requests=20")  # fmt: skip
    found = Comparison.model_validate(answer.json)
    assert found.split_by == "gpu_s_per_million_tokens"
    figures = compare_figures(found)
    assert figures["break-even"] == []
    assert "GPU time" in figures["speed"][0].title
    assert "GPU-s/Mtok" in render_comparison_html(found)


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_draws_every_figure(written, document, dark):
    width = 400 if dark else 1200
    with opened(written[1] / "index.html", width=width, dark=dark) as (page, complaints, requests):
        page.evaluate("document.querySelectorAll('details').forEach((item) => { item.open = true })")
        drawn = dict(page.evaluate("""[...document.querySelectorAll('.plot')].map(p => [p.id, {
            types: p._fullData.map(t => t.type), width: p.querySelector('.main-svg').clientWidth, room: p.clientWidth,
            marks: p.querySelectorAll('.scatterlayer path, .waterfalllayer path').length,
        }])"""))
        wide = page.evaluate("document.documentElement.scrollWidth")
        cut = page.evaluate("""[...document.querySelectorAll('table.fit')].filter(
            t => t.scrollWidth > t.parentElement.clientWidth).map(t => t.caption.textContent)""")
    assert complaints == []
    assert dark or cut == []  # answers are read whole without scrolling sideways, but on a telephone
    assert [url.rpartition("/")[2] for url in requests] == ["index.html"]
    assert wide <= width
    for figure in (figure for group in compare_figures(document).values() for figure in group):
        assert drawn[figure.id]["types"] == figure.types, figure.id
        assert drawn[figure.id]["marks"] > 0, figure.id
        assert drawn[figure.id]["width"] <= drawn[figure.id]["room"], figure.id
    assert drawn["waterfall-1"]["types"] == ["waterfall"]
