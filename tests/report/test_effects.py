"""The chart of what one better resource would change: what moves is drawn, and nothing is not blown up."""

from __future__ import annotations

from sim.report.figures import figures_of
from sim.report.figures.common import Figure
from sim.results.schema import Effect, Result


def effects_of(result: Result, *effects: Effect) -> Figure:
    verdict = result.verdict.model_copy(update={"effects": list(effects)})
    return next(f for f in figures_of(result.model_copy(update={"verdict": verdict}))["cost"] if f.id == "effects")


def better(resource: str, tokens: float, cost: float, ttft: float, tpot: float) -> Effect:
    return Effect(
        resource=resource, change="x2", output_tokens_per_s=1.0, relative=tokens, ttft_p50_relative=ttft,
        tpot_p50_relative=tpot, usd_per_million_tokens_relative=cost,
    )  # fmt: skip


def test_where_the_load_decides_the_speed_the_latencies_that_move_are_drawn(result: Result) -> None:
    faster, idle = better("memory bandwidth", 7e-5, -7e-5, -0.2, -0.4), better("host", 1e-5, 0.0, 1e-4, -2e-3)
    figure = effects_of(result, idle, faster)
    assert {trace["name"]: trace["x"] for trace in figure.traces} == {
        "TTFT p50": [-0.2, 1e-4], "TPOT p50": [-0.4, -2e-3],
    }  # fmt: skip
    assert figure.takeaway == (
        "Memory bandwidth (x2) changes TPOT p50 most: −40.0%. Host would change nothing by as much as 1%. "
        "Nothing changes the throughput by as much as 1%."
    )


def test_changes_of_nothing_are_not_blown_up_to_full_bars(result: Result) -> None:
    nothing = better("host", 0.0, 0.0, 0.0, 0.0)
    figure = effects_of(result, better("memory bandwidth", 7e-5, -7e-5, 0.0, -0.003), nothing)
    assert figure.layout["xaxis"]["range"] == [-0.05, 0.05]
    assert figure.takeaway == (
        "No single resource tried changes the throughput, the cost per token, TTFT p50 or TPOT p50 by more than 0.3%."
    )
