"""The text of a run: its lines, its width, and no escape codes where none are wanted."""

from __future__ import annotations

import re

import pytest

from sim.report.figures.ledger import ledger_figure
from sim.report.terminal import render_text
from sim.results.schema import Result

from ..helpers import simulate, toy
from .factory import hostile_result, make_mixed, make_result, make_training


def line(text: str, label: str) -> str:
    return next(row for row in text.splitlines() if row.startswith(label))


def test_answer_stands_in_its_lines(result: Result) -> None:
    text = render_text(result, 140)
    assert text.startswith("llama-2-70b fp16 - 8 x desktop(1 x rtx4090)")
    assert "stable at 2.6 req/s; bound by KV memory" in line(text, "VERDICT")
    assert "1,312 tok/s [1,270, 1,350]" in line(text, "throughput")
    assert "TTFT p50/p99 930 ms / 4.11 s" in line(text, "throughput")
    assert "TPOT p50/p99 158/171 ms" in line(text, "throughput")
    cost = line(text, "cost")
    assert cost.endswith("at saturation (capital 62%, electricity 31%, hosting 7%)")
    assert line(text, "GPU time").startswith("GPU time    memory-bound 53.1% | waiting for work 23.1%")
    assert "network 10 -> 25 Gbps" in line(text, "not binding")
    assert line(text, "warning").endswith("tighter interval.")


@pytest.mark.parametrize("width", [60, 80, 100, 132])
@pytest.mark.parametrize(
    "make", [make_result, hostile_result, make_training, make_mixed, lambda: hostile_result(make_mixed())]
)
def test_no_line_is_wider_than_the_terminal(width: int, make: object) -> None:
    assert max(map(len, render_text(make(), width).splitlines())) <= width  # type: ignore[operator]


def test_facts_stay_whole_at_80_columns(result: Result) -> None:
    assert "1,312 tok/s [1,270, 1,350]" in render_text(result, 80)
    assert "communication: ethernet 8.8%" in render_text(result, 80)


def test_plain_text_has_no_escape_codes_and_colour_has(hostile: Result) -> None:
    assert "\x1b" not in render_text(hostile, 80)
    assert "\u202e" not in render_text(hostile, 80)
    coloured = render_text(make_result(), 80, colour=True)
    assert "\x1b[32mVERDICT\x1b[0m" in coloured


def test_two_jobs_have_a_line_each(two_jobs: Result) -> None:
    text = render_text(two_jobs, 160)
    assert "llama-2-70b pp4 on 4 GPUs; stable; 1,312 tok/s [1,270, 1,350]" in line(text, "job chat")
    assert "0.260 USD/Mtok" in line(text, "job batch")
    assert "throughput" not in text.split("GPU time")[0]


def test_nothing_measured_is_said_so(bare: Result) -> None:
    text = render_text(bare, 100)
    assert "TTFT p50/p99 n/a / n/a" in text
    for label in ("cost", "GPU time", "intervals", "ASSUMED"):
        assert not any(row.startswith(label) for row in text.splitlines())


def test_assumptions_that_physics_forbids_are_shown(result: Result) -> None:
    banner = result.model_copy(update={"banners": ["KV reads are free"]})
    assert line(render_text(banner), "ASSUMED").endswith("KV reads are free")


def test_a_missed_objective_is_told_and_one_that_is_met_is_not(result: Result) -> None:
    assert line(render_text(result, 140), "missed") == "missed      tpot_p99 171 ms, over 160 ms"
    job = result.jobs[0]
    met = job.model_copy(update={"objectives": [{**o, "met": True} for o in job.objectives]})
    assert "missed" not in render_text(result.model_copy(update={"jobs": [met]}), 140)
    lost = job.model_copy(update={"objectives": [{**job.objectives[0], "measured_s": None, "met": False}]})
    text = render_text(result.model_copy(update={"jobs": [lost]}), 140)
    assert line(text, "missed") == "missed      ttft_p99 never reached, requests were given up"


def test_a_training_job_is_told_by_its_step(training: Result) -> None:
    text = render_text(training, 140)
    assert line(text, "step") == "step        1.41 s   23.3k tok/s (5,826 tok/s/GPU)   MFU 26.4%  HFU 36.4%"
    assert line(text, "pipeline") == (
        "pipeline    bubble 18.2%   exposed: tp 202 ms (14.4%), dp 20 ms, pp 2 ms   recomputation 25.4% of kernel time"
    )
    assert line(text, "memory") == "memory      peak 16 of 85.1 GB (18.8%)"
    assert line(text, "training") == "training    2T tokens: 2.72 years, 95.4k GPU-hours, 228,841 USD, 66.7k kWh"
    assert line(text, "cost") == "cost        0.114 USD/Mtok trained (capital 96.9%, electricity 3.1%)"
    assert not any(row.startswith(("throughput", "intervals")) for row in text.splitlines())


def test_what_a_training_job_does_not_have_has_no_line(training: Result) -> None:
    job = training.jobs[0]
    none = dict.fromkeys(
        ("target_tokens", "target_flops", "days_to_target", "gpu_hours_to_target", "usd_to_target", "kwh_to_target")
    )
    alone = {"bubble_fraction": 0.0, "exposed_communication_s": {}, "recompute_fraction": 0.0}
    stale = {"staleness_mean": 1.5, "staleness_max": 4}

    def shown(**changes: object) -> str:
        metrics = job.metrics.model_copy(update={**none, **alone, **changes})
        return render_text(training.model_copy(update={"jobs": [job.model_copy(update={"metrics": metrics})]}), 120)

    for label in ("pipeline", "waits", "training"):
        assert not any(row.startswith(label) for row in shown().splitlines())
    assert line(shown(**stale), "waits") == "waits       stale by 1.5 updates, at most 4"
    assert line(shown(exposed_communication_s={"dp": 0.1}), "waits") == "waits       exposed: dp 100 ms (7.1%)"


def test_money_of_idle_gpus_is_told_beside_the_gpu_hours_of_those_at_work(training: Result) -> None:
    half = training.model_copy(update={"gpus": 2 * training.gpus})
    told = "training    2T tokens: 2.72 years, 95.4k GPU-hours, 228,841 USD, 66.7k kWh"
    assert line(render_text(half, 200), "training") == f"{told} with the idle GPUs' share, which GPU-hours leave out"


def test_jobs_of_both_kinds_have_a_line_each(mixed: Result) -> None:
    text = render_text(mixed, 200)
    assert "stable; 1,312 tok/s [1,270, 1,350]; TTFT" in line(text, "job chat")
    told = text.split("job pretrain")[1].splitlines()[1]
    assert "a step takes 1.41 s at 23.3k tok/s (5,826 tok/s/GPU); MFU 26.4%; 2.72 years for 2T tokens" in told
    assert "stable" not in told


def test_verdict_terminal_and_report_tell_the_same_share_where_gpus_are_spare() -> None:
    """One of four desktops works: shares are of its time, and what nobody uses is told beside them."""
    load = {"all_at_once": True, "prompt_tokens": 1, "output_tokens": 200, "requests": 1}
    told = simulate(toy({"load": load}, gpus=4)).result
    text = line(render_text(told, 200), "GPU time")
    shares = dict(re.findall(r"(\S+) (\d[\d.]*%)", text))
    assert told.verdict.binding[0] == f"HBM bandwidth ({shares['memory-bound']} of GPU time)"
    assert "beside them 75% of all GPUs spare" in text
    figure = ledger_figure(told)
    assert figure is not None
    assert f"memory-bound ({shares['memory-bound']})" in figure.takeaway
    assert ("of jobs", "memory-bound", shares["memory-bound"]) in {row[:3] for row in figure.rows}
    assert any(row[:3] == ("spare toy", "spare", "100%") for row in figure.rows)
