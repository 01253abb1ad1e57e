"""The capacity on the page of a run: in the verdict, among the key numbers, drawn over the loads that were tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sim.report.figures import figures_of
from sim.report.figures.capacity import longest
from sim.report.page import render_html
from sim.results.schema import Result
from sim.run import run_recorded
from sim.study.capacity import told, with_capacity

from ..helpers import only, resolved, toy
from ..pages import opened


def found(load: dict[str, Any], **job: Any) -> Result:
    lengths = {"prompt_tokens": {"lognormal": {"median": "200 tokens", "p90": "600 tokens"}}, "output_tokens": 50}
    case = resolved(toy({"load": {**load, **lengths}, "batching": {"max_sequences": 12}, **job}))
    outcome = run_recorded(case, effects=False)
    return with_capacity(outcome.result, case, outcome.recording)


@pytest.fixture(scope="module")
def result() -> Result:
    objectives = {"ttft_p99": "1 s", "tpot_p99": "4 ms"}
    return found({"poisson": {"rate": "1 req/s"}, "requests": 200}, objectives=objectives)


def test_the_verdict_and_a_card_tell_it_and_no_note_repeats_it(result: Result) -> None:
    capacity = only(result).capacity
    assert capacity is not None
    page = render_html(result)
    said = told(capacity).replace("'", "&#39;")
    assert f"<dt>Capacity</dt><dd><ul><li>{said}</li>" in page
    assert '<div class="card-name has-tip">Capacity' in page
    assert f'<p class="lead remark">{said}</p>' not in page
    # A run whose capacity nobody asked for says nothing of it.
    assert ">Capacity" not in render_html(result.model_copy(update={"jobs": [
        only(result).model_copy(update={"capacity": None, "notes": []})]}))  # fmt: skip


def test_each_percentile_is_drawn_over_every_load_that_was_tried(result: Result) -> None:
    (figure,) = figures_of(result)["capacity"]
    job = only(result)
    assert job.capacity is not None
    points = longest(job.capacity.tried)
    assert len(figure.rows) == len(points) == len({t.rate for t in job.capacity.tried})
    for row in job.objectives:
        name = row["name"].replace("_", " ")
        drawn = {
            x: y for trace in figure.traces if trace["name"] in (name, f"{name}, short runs")
            for x, y in zip(trace["x"], trace["y"], strict=True)
        }  # fmt: skip
        assert drawn == {t.rate: max(t.measured_s[row["name"]]) / row["limit_s"] for t in points}
    # What is within the objectives is below the limit, and what is not has a cross.
    within = {t.rate for t in points if t.met}
    for trace in figure.traces[:-1]:
        for x, y, symbol in zip(trace["x"], trace["y"], trace["marker"]["symbol"], strict=True):
            assert symbol.startswith("circle" if x in within else "x")
            assert y <= 1.0 or x not in within


def test_one_point_makes_no_figure() -> None:
    result = found({"closed_loop": {"clients": 100}, "requests": 600}, objectives={"tpot_p99": "1 s"})
    assert figures_of(result)["capacity"] == []
    assert "<dt>Capacity</dt>" in render_html(result)


@pytest.mark.browser
def test_a_browser_draws_it(result: Result, tmp_path: Path) -> None:
    (figure,) = figures_of(result)["capacity"]
    file = tmp_path / "index.html"
    file.write_text(render_html(result), encoding="utf-8")
    with opened(file, width=400, dark=True) as (page, complaints, _):
        types = page.evaluate("document.getElementById('capacity')._fullData.map(t => t.type)")
        wide = page.evaluate("document.documentElement.scrollWidth")
    assert (types, complaints) == (figure.types, [])
    assert wide <= 400
