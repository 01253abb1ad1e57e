"""The text of a run: its lines, its width, and no escape codes where none are wanted."""

from __future__ import annotations

import pytest

from sim.report.terminal import render_text
from sim.results.schema import Result

from .factory import hostile_result, make_result


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
@pytest.mark.parametrize("make", [make_result, hostile_result])
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
    assert "0.26 USD/Mtok" in line(text, "job batch")
    assert "throughput" not in text.split("GPU time")[0]


def test_nothing_measured_is_said_so(bare: Result) -> None:
    text = render_text(bare, 100)
    assert "TTFT p50/p99 n/a / n/a" in text
    for label in ("cost", "GPU time", "intervals", "ASSUMED"):
        assert not any(row.startswith(label) for row in text.splitlines())


def test_assumptions_that_physics_forbids_are_shown(result: Result) -> None:
    banner = result.model_copy(update={"banners": ["KV reads are free"]})
    assert line(render_text(banner), "ASSUMED").endswith("KV reads are free")
