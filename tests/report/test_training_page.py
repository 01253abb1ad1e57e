"""The page of a training job: cards, the pipeline's Gantt chart, and figures that say what training says."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest

from sim.report.figures import figures_of
from sim.report.figures.common import MAX_POINTS, Figure
from sim.report.figures.pipeline import ink_on, lighter
from sim.report.page import render_html
from sim.results.schema import Result, Span, TrainingMetrics
from sim.units import format_seconds

from ..helpers import played
from .factory import hostile_result, make_mixed, make_training
from .test_page import Page


def figure(result: Result, section: str, at: int = 0) -> Figure:
    return figures_of(result)[section][at]


def bars(drawn: Figure, name: str) -> list[dict[str, Any]]:
    return [trace for trace in drawn.traces if trace["name"] == name]


def numbers(trace: dict[str, Any]) -> list[int]:
    """The micro-batches as they stand in the bars."""
    return [int(text) for text in trace["text"]]


def with_spans(result: Result, spans: list[Span], end: float) -> Result:
    update = {"spans": spans, "spans_window_s": [0.0, end]}
    return result.model_copy(update={"timeline": result.timeline.model_copy(update=update)})


# ---- the page


def test_only_sections_that_apply_are_there(training: Result) -> None:
    page = Page(render_html(training))
    assert page.open == []
    assert [attributes["id"] for attributes in page.all("section")] == [
        *("verdict", "numbers", "ledger-section", "gantt-section", "timeline-section", "topology-section"),
        *("memory-section", "roofline-section", "cost-section", "assumptions", "limits", "reproduce"),
    ]
    for word in ("Objectives", "TTFT", "Latency", "KV cache", "requests.csv", "measured 0", "stable", "queue"):
        assert word not in page.text


def test_cards_say_what_a_step_is(training: Result) -> None:
    text = Page(render_html(training)).text
    for words in (
        "pretrain llama-2-70b, pp4 1f1b, 4 GPUs, stack megatron-2021; 3 steps of 1.41 s, one like the other.",
        "1.41 s 32.8k tokens, 8 micro-batches",
        "23.3k tok/s 5,826 tok/s/GPU",
        "26.4% HFU 36.4%",
        "18.2% of GPU time",
        "16% tp 202 ms, dp 20 ms, pp 2 ms",
        "16 GB 18.8% of 85.1 GB",
        "2.72 years 2T tokens: 95.4k GPU-hours, 228,841 USD, 66.7k kWh",
        "0.114 USD/Mtok 9.60 USD/h",
        "seconds from the first forward pass of a step to the first of the next",
        "A step takes 1.41 s (MFU 26.4%)",
    ):
        assert words in text, words


def test_numbers_by_axis_have_a_row_each(training: Result) -> None:
    text = Page(render_html(training)).text
    for words in (
        "Exposed communication, tp 202 ms",
        "Exposed communication, dp 20 ms",
        "Sent per GPU and step, pp 470 MB",
        "Model FLOPs per token 428 GFLOP",
        "Model FLOPs to the target 8.57e23 FLOP",
        "Time to the target 2.72 years",
        "Energy of the target 66.7k kWh",
        "Global batch 32.8k tokens",
    ):
        assert words in text, words
    assert "Staleness" not in text


def test_what_is_not_known_has_no_card(training: Result) -> None:
    job = training.jobs[0]
    update = {"days_to_target": None, "bubble_fraction": 0.0, "steps": 1, "exposed_communication_s": {}}
    job = job.model_copy(update={"metrics": job.metrics.model_copy(update=update), "cost": None})
    page = Page(render_html(training.model_copy(update={"jobs": [job]})))
    assert "one step of 1.41 s is simulated." in page.text
    assert len([a for a in page.all("li") if a.get("class") == "card"]) == 5


def test_both_kinds_stand_side_by_side(mixed: Result) -> None:
    text = Page(render_html(mixed)).text
    assert "chat ✓ stable" in text
    assert "pretrain llama-2-70b" in text
    assert "measured 61 s to 13.2 min" in text
    assert "serving: USD per hour divided by the tokens generated" in text
    assert [drawn.id for drawn in figures_of(mixed)["gantt"]] == ["gantt", "step-1"]
    assert [drawn.id for drawn in figures_of(mixed)["memory"]] == ["memory", "memory-training"]
    assert figure(mixed, "memory", 1).title == "Memory of one GPU of each stage of pretrain"
    assert figure(mixed, "gantt").title == "What the GPUs of chat did, moment by moment"
    assert all("pretrain" not in row[0] for row in figure(mixed, "gantt").rows)


@pytest.mark.parametrize("make", [make_training, make_mixed])
def test_hostile_names_stay_text(make: Any) -> None:
    html = render_html(hostile_result(make()))
    page = Page(html)
    assert page.open == []
    assert page.all("img") == page.all("b") == []
    assert len(page.all("script")) == 3


# ---- the Gantt chart


def test_a_pipeline_reads_like_the_papers(training: Result) -> None:
    drawn = figure(training, "gantt")
    assert drawn.layout["yaxis"]["categoryarray"] == ["stage 0", "stage 1", "stage 2", "stage 3"]
    assert drawn.layout["yaxis"]["autorange"] == "reversed"
    names = [trace["name"] for trace in drawn.traces]
    assert names == ["forward", "backward", "communication", "update", "bubble", "between steps"]
    looks = {(t["marker"]["color"], t["marker"].get("pattern", {}).get("shape")) for t in drawn.traces}
    assert len(looks) == len(names)
    quiet = {t["name"]: t["marker"] for t in drawn.traces if t["name"] in ("bubble", "between steps")}
    assert len({(m["color"], m["line"]["width"]) for m in quiet.values()}) == 2
    assert len({m["pattern"]["shape"] for m in quiet.values()}) == 2
    assert quiet["between steps"]["pattern"]["fgopacity"] > 2 * quiet["bubble"]["pattern"]["fgopacity"]
    (forward,), (backward,) = bars(drawn, "forward"), bars(drawn, "backward")
    for trace in (forward, backward):
        assert sorted(numbers(trace)) == sorted(list(range(8)) * 4)
        assert trace["textposition"] == "inside"
        assert trace["insidetextanchor"] == "middle"
    assert drawn.layout["uniformtext"]["mode"] == "hide"
    rows = zip(forward["y"], forward["base"], numbers(forward), strict=True)
    assert [(at, n) for row, at, n in rows if row == "stage 3"][:2] == [(pytest.approx(0.123), 0), (0.243, 1)]


def test_bubbles_fill_a_row_to_the_end_of_the_step(training: Result) -> None:
    drawn = figure(training, "gantt")
    step = training.metrics.step_time_s
    for row in drawn.layout["yaxis"]["categoryarray"]:
        pieces = sorted(
            (at, at + length)
            for trace in drawn.traces
            for y, at, length in zip(trace["y"], trace["base"], trace["x"], strict=True)
            if y == row
        )
        assert pieces[0][0] == 0.0
        assert pieces[-1][1] == pytest.approx(step)
        for (_, end), (start, _) in pairwise(pieces):
            assert start == pytest.approx(end, abs=1e-9)
    (between,) = bars(drawn, "between steps")
    assert between["x"] == pytest.approx([0.02] * 4)  # 0.05 s after the barrier, 0.03 of them the update


def test_the_sentence_tells_bubble_and_phases(training: Result) -> None:
    words = figure(training, "gantt").takeaway
    assert "The bubble takes 18.2% of GPU time: most on stage 3" in words
    assert "least on stage 0" in words
    # stage 0 begins its first backward after 4 forward and 3 backward passes and 6 hops, of the step's 1.406 s
    assert f"warm-up (until its first backward) is {(4 * 0.04 + 3 * 0.08 + 6 * 0.001) / 1.406:.1%} of the step" in words


def test_forward_passes_all_before_backward_have_no_steady_part(training: Result) -> None:
    def span(stage: int, kind: str, at: float) -> Span:
        return Span(
            device=f"pretrain.s{stage}", kind=kind, start_s=at, end_s=at + 0.1, batch=1, tokens=8, micro_batch=0
        )

    spans = [span(0, "forward", 0.0), span(1, "forward", 0.1), span(1, "backward", 0.2), span(0, "backward", 0.3)]
    words = figure(with_spans(training, spans, 9.0), "gantt").takeaway
    assert "Stage 0 runs all its forward passes before its first backward: nothing is steady." in words


def test_chunks_are_shades_of_one_colour_and_one_entry_of_the_legend() -> None:
    drawn = figure(make_training(chunks=2), "gantt")
    first, second = bars(drawn, "forward")
    assert first["legendgroup"] == second["legendgroup"] == "forward"
    assert "showlegend" not in first
    assert second["showlegend"] is False
    assert second["marker"]["color"] == lighter(first["marker"]["color"], 0.6)
    assert "chunk 1" in second["hovertemplate"]
    assert "Lighter bars are a stage's later chunks." in drawn.note
    assert {row[3] for row in drawn.rows} == {"0", "1", "–"}


def test_numbers_are_read_on_every_shade() -> None:
    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colour in ("#0072B2", "#009E73", "#E69F00", "#CC79A7"):
        for share in (0.0, 0.2, 0.4, 0.6):
            shade = lighter(colour, share)
            ink = 0.0 if ink_on(shade) == "#000" else 1.0
            high, low = max(light(shade), ink), min(light(shade), ink)
            assert (high + 0.05) / (low + 0.05) >= 4.5


def test_the_view_opens_on_a_short_step_and_on_the_start_of_a_long_one(training: Result) -> None:
    assert figure(training, "gantt").layout["xaxis"]["range"] == [0.0, training.metrics.step_time_s]
    long = make_training(micro=64)
    start, end = figure(long, "gantt").layout["xaxis"]["range"]
    assert (start, end) == (0.0, pytest.approx(48 * 0.04))
    whole = format_seconds(long.metrics.step_time_s)
    assert figure(long, "gantt").note.startswith(f"The view opens on the first 1.92 s of {whole}: double-click to see")
    assert "opens" not in figure(training, "gantt").note


def test_a_step_cut_short_says_so_and_tells_no_phases(training: Result) -> None:
    spans = [span for span in training.timeline.spans if span.start_s < 0.5]
    drawn = figure(with_spans(training, spans, 0.5), "gantt")
    assert "The first 500 ms of the step are recorded." in drawn.note
    assert "warm-up" not in drawn.takeaway
    assert bars(drawn, "between steps") == []


def test_no_bar_is_dropped_where_there_are_many() -> None:
    many = make_training(stages=16, micro=187)
    assert len(many.timeline.spans) == 16 * (2 * 187 + 2)
    drawn = figure(many, "gantt")
    assert all(len(trace["x"]) <= MAX_POINTS for trace in drawn.traces)
    assert sum(len(trace["x"]) for trace in bars(drawn, "forward")) == 16 * 187
    assert [trace.get("showlegend", True) for trace in bars(drawn, "forward")] == [True, False]
    assert len({text for trace in bars(drawn, "forward") for text in map(len, trace["text"])}) > 1
    assert len(render_html(many).encode()) <= 3_000_000


def test_one_class_of_gpus_is_one_row(training: Result) -> None:
    device = training.devices[0].model_copy(update={"count": 8})
    spans = [span for span in training.timeline.spans if span.device == device.name]
    alone = with_spans(training.model_copy(update={"devices": [device]}), spans, 9.0)
    drawn = figure(alone, "gantt")
    assert drawn.layout["yaxis"]["categoryarray"] == ["8 GPUs"]
    assert bars(drawn, "idle")
    assert not bars(drawn, "bubble")
    assert drawn.takeaway.startswith("Of the step: backward 45.5%")


def test_replicas_that_differ_keep_their_names(training: Result) -> None:
    renamed = {f"pretrain.s{stage}": f"pretrain.r{stage // 2}.s{stage % 2}" for stage in range(4)}
    devices = [
        d.model_copy(update={"name": renamed[d.name], "stage": (d.stage or 0) % 2}) for d in training.devices
    ]
    spans = [s.model_copy(update={"device": renamed[s.device]}) for s in training.timeline.spans]
    drawn = figure(with_spans(training.model_copy(update={"devices": devices}), spans, 9.0), "gantt")
    assert drawn.layout["yaxis"]["categoryarray"] == ["r0.s0", "r0.s1", "r1.s0", "r1.s1"]
    assert "waits for slower GPUs" in drawn.note


@pytest.mark.parametrize("window", [[], [0.0, 0.0], [50.0, 60.0]])
def test_without_recorded_work_there_is_no_chart(training: Result, window: list[float]) -> None:
    timeline = training.timeline.model_copy(update={"spans_window_s": window})
    assert figures_of(training.model_copy(update={"timeline": timeline}))["gantt"] == []


# ---- other figures


def test_communication_is_told_apart_by_axis_and_link(training: Result) -> None:
    device = training.devices[0]
    more = {f"communication: {a} over {b}": 1.0 for a in ("tp", "dp", "pp", "cp", "ep") for b in ("nvlink", "pcie")}
    result = training.model_copy(update={"ledger": device.ledger | more | {"communication: nvlink": 1.0}})
    looks = [
        (t["marker"]["color"], t["marker"].get("pattern", {}).get("shape")) for t in figure(result, "ledger").traces
    ]
    assert len(set(looks)) == len(looks) == 19


def test_memory_tells_what_is_kept_elsewhere(training: Result) -> None:
    drawn = figure(training, "memory")
    names = [trace["name"] for trace in drawn.traces]
    assert {"parameters", "gradients", "optimizer", "activations", "logits", "runtime"} <= set(names)
    assert drawn.traces[0]["y"] == [f"stage {stage}" for stage in range(4)]
    assert drawn.note == "Of pretrain, 12 GB a GPU (at most) are kept in host memory, outside these bars."
    assert ("pretrain", "0", "a100-sxm-80gb ×1", "kept in host memory", "12 GB", "–") in drawn.rows


def test_cost_and_effects_are_those_of_training(training: Result, mixed: Result) -> None:
    cost, use, effects = figures_of(training)["cost"]
    assert (use.types, use.takeaway.count("10% of saturation")) == (["scatter"] * 4, 0)
    assert "0.114 USD/Mtok trained on. Training on 2T tokens takes 2.72 years" in cost.takeaway
    assert cost.columns[-1] == "to the target"
    assert cost.rows[0] == ("pretrain", "capital", "9.30 USD", "96.9%", "221,690 USD")
    assert effects.traces[0]["name"] == "tokens/s of training"
    assert "GPU arithmetic (x2) changes the tokens/s of training most: +41.0%." in effects.takeaway
    assert len(effects.columns) == 5
    both = figure(mixed, "cost", -1)
    assert both.traces[0]["name"] == "tokens/s generated and trained on"
    assert len(both.columns) == 7


def test_links_of_training_are_told_by_their_mean(training: Result, result: Result) -> None:
    assert "on average" in figure(training, "topology").takeaway
    assert any("mean load" in trace["name"] for trace in figure(training, "topology").traces)
    assert any("peak load" in trace["name"] for trace in figure(result, "topology").traces)
    assert "the mean is drawn" in figure(training, "timeline", 1).note


def test_every_number_has_a_name_and_a_unit(training: Result) -> None:
    html = render_html(training)
    names = re.findall(r'<tr><th scope="row">([^<]+)</th>', html)
    assert {"Step time", "Training throughput", "Micro-batches", "Steps", "Sequences per second"} <= set(names)
    assert not any("_" in name for name in names)


def test_steps_that_differ_are_a_histogram(mixed: Result, training: Result) -> None:
    (steps,) = [f for f in figures_of(mixed)["latency"] if f.id == "step-times"]
    (bars,) = steps.traces
    assert bars["type"] == "bar"
    assert sum(bars["y"]) == pytest.approx(1.0)
    assert bars["y"][0] == pytest.approx(0.5, abs=0.03)
    assert "10 s to 11 s, half within 10 s" in steps.takeaway
    assert "Latency and step times" in render_html(mixed)
    assert not figures_of(training)["latency"]


def test_the_steps_of_a_job_beside_another_are_counted() -> None:
    result = played("training_beside_serving").result
    (job,) = [job for job in result.jobs if job.kind == "training"]
    points = job.cdf["step_time_s"]
    assert [share for _, share in points] == pytest.approx([n / 100 for n in range(101)])
    lengths = [seconds for seconds, _ in points]
    assert lengths == sorted(lengths)
    assert lengths[-1] > 1.05 * lengths[0]
    assert isinstance(job.metrics, TrainingMetrics)
    assert lengths[0] < job.metrics.step_time_s * 1.005
    assert lengths[-1] > job.metrics.step_time_s
