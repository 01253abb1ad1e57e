"""Outages of a serving job on its page: a table, and bands over time."""

from __future__ import annotations

import pytest

from sim.report.figures import figures_of
from sim.report.page import render_html
from sim.report.terminal import render_text

from ..helpers import played, simulate, toy

LOAD = {"deterministic": {"rate": "20 req/s"}, "requests": 100, "prompt_tokens": 200, "output_tokens": 400}


def described(replicas: int = 2) -> dict:
    faults = {
        "classes": [{"name": "cable-pulled", "per": "node", "mtbf": "1 year"}],
        "trace": [{"time": f"{t} s", "name": "cable-pulled", "unit": 1} for t in (1, 3)],
    }
    job = {"plan": {"dp": replicas}, "load": LOAD, "recovery": {"time": "500 ms"}, "objectives": {"ttft_p99": "1 s"}}
    return toy(job, gpus=replicas, faults=faults)


def test_the_page_lists_outages_and_shades_them():
    result = simulate(described()).result
    page = render_html(result)
    assert "Outages of job0" in page
    assert page.count("cable-pulled") >= 2
    figures = {figure.id: figure for section in figures_of(result).values() for figure in section}
    for id_ in ("devices", "job-0"):
        bands = figures[id_].layout["shapes"]
        assert [(band["x0"], band["x1"]) for band in bands] == [(1.0, 1.5), (3.0, 3.5)]
        assert "a replica is down" in figures[id_].note


def test_a_page_without_failures_says_nothing_of_them():
    plain = described()
    plain.pop("faults")
    plain["jobs"][0].pop("recovery")
    page = render_html(simulate(plain).result)
    assert "Outages" not in page
    assert "Replicas up" not in page


def test_the_terminal_tells_what_was_lost():
    text = " ".join(render_text(simulate(described()).result).split())
    assert "2 faults, 2 outages, 500 ms each" in text
    assert "0 given up" in text


def test_a_replica_that_is_down_is_drawn_so_moment_by_moment():
    result = simulate(described()).result
    (gantt,) = [f for f in figures_of(result)["gantt"] if f.id == "gantt"]
    (down,) = [trace for trace in gantt.traces if trace["name"] == "down"]
    rows = dict.fromkeys(down["y"])
    assert list(rows) == ["job0.r1.s0"]
    start, end = result.timeline.spans_window_s
    shown = [(max(a, start), min(b, end)) for a, b in ((1.0, 1.5), (3.0, 3.5)) if min(b, end) > max(a, start)]
    assert sum(down["x"]) == pytest.approx(sum(b - a for a, b in shown))
    assert all(any(a <= base <= b for a, b in shown) for base in down["base"])


def test_many_classes_frame_what_is_down_over_their_heat_map():
    (devices,) = [f for f in figures_of(simulate(described(6)).result)["timeline"] if f.id == "devices"]
    assert devices.types == ["heatmap"]
    assert {band["layer"] for band in devices.layout["shapes"]} == {"above"}
    assert "Framed: a replica is down." in devices.note


def test_a_training_job_that_waits_for_nodes_is_shaded():
    result = played("spot_training").result
    figures = {figure.id: figure for figure in figures_of(result)["timeline"]}
    down = [a + b for a, b in zip(*(result.timeline.jobs["pretrain"][k] for k in ("recovery", "down")), strict=True)]
    bands = figures["job-0"].layout["shapes"]
    length = sum(band["x1"] - band["x0"] for band in bands) * 86400
    assert length == pytest.approx(sum(share > 0.5 for share in down) * result.timeline.bin_s)
    assert bands
    assert "training is down" in figures["job-0"].note
