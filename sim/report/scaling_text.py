"""A question about scaling as plain text: the budget and the run in labelled lines, a table with a row for each law."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from sim.laws.scaling import PF_DAY
from sim.report.screen import FILE, Screen
from sim.study.scaling import factor, figure
from sim.units import format_count, format_flops, format_percent, format_seconds, format_usd

Line = tuple[str, str]
"""A label and what it says."""
LABEL, WIDTH = 12, 100
"""Columns of a label, and of a line of prose."""
SYMBOLS: Final = {"parameters": "N", "tokens": "D", "compute": "C"}


def render_scaling(document: dict[str, Any], screen: Screen = FILE) -> str:
    """The answer: what was asked, what each law says to it, and what a reader must not miss."""
    budget, run, hardware = document["budget"], document["run"], document["hardware"]
    lines = list[Line]()
    if budget is not None:
        lines += _line("budget", f"{_compute(budget['compute_flop'])}{_given(budget)}")
    if hardware is not None:
        lines += _line("hardware", _hardware_words(hardware))
    if budget is not None and hardware is not None:
        lines += _line("takes", _spent_words(budget))
    if run is not None:
        lines += _run_lines(run, budget is not None)
    table = _run_table(document["laws"]) if run is not None else _optimum_table(document)
    notes = [(label, text) for label in ("warning", "note") for text in document[f"{label}s"]]
    return "\n".join([*_told(lines, screen), "", *screen.table(table, left=(0,)), "", *_told(notes, screen)])


def render_fit(document: dict[str, Any], screen: Screen = FILE) -> str:
    """A fitted power law, and what it predicts."""
    fit, predicted = document["fit"], document["predicted"]
    column, symbol = fit["column"], SYMBOLS[fit["column"]]
    span = f"{_count(fit['smallest'])} to {_count(fit['largest'])}"
    lines = _line("points", f"{fit['points']} of {column} from {span}")
    lines += _line("law", f"L({symbol}) = ({fit['scale']:.4g} / {symbol})^{fit['exponent']:.4f}; the worst point is "
                   f"{fit['worst_error']:.2%} off")  # fmt: skip
    if predicted is not None:
        beyond = predicted["beyond_fit"]
        where = f", extrapolated {factor(beyond)}" if beyond else ""
        lines += _line("predicts", f"loss {_loss(predicted['loss'])} at {_count(predicted[column])} {column}{where}")
    lines += _line("note", "one power law with no irreducible loss; it holds for the data, tokenizer and recipe of its "
                   "points")  # fmt: skip
    return "\n".join(_told(lines, screen))


def _given(budget: dict[str, Any]) -> str:
    """What the budget was given as."""
    if budget["given_as"] == "days":
        return f": {budget['days']:g} days"
    return f": {format_usd(budget['usd'])}" if budget["given_as"] == "usd" else ""


def _hardware_words(hardware: dict[str, Any]) -> str:
    count = f"{hardware['gpus']:,.0f} x " if hardware["gpus"] else ""
    price = f", {format_usd(hardware['usd_per_gpu_hour'])} a GPU-hour" if hardware["usd_per_gpu_hour"] else ""
    assumed = " (assumed)" if hardware["mfu_assumed"] else ""
    peak = format_flops(hardware["peak_flop_per_s"])
    return f"{count}{hardware['gpu']} ({peak}) at MFU {hardware['mfu']:g}{assumed}{price}"


def _run_lines(run: dict[str, Any], budgeted: bool) -> list[Line]:
    without = ""
    if run["parameters_without_embeddings"] != run["parameters"]:
        without = f" ({_count(run['parameters_without_embeddings'])} without embeddings)"
    name = f"{run['model']}: " if run["model"] else ""
    own = not budgeted or abs(run["share_of_budget"] - 1) > 1e-9  # else the budget's line has said it
    share = f", {format_percent(run['share_of_budget'])} of the budget" if budgeted and own else ""
    lines = _line("model", f"{name}{_count(run['parameters'])} parameters{without}, {_count(run['tokens'])} tokens")
    if own:
        lines += _line("compute", f"{_compute(run['compute_flop'])}{share}")
        lines += _line("takes", _spent_words(run)) if run["gpu_hours"] is not None else []
    return lines + _line("training", f"{figure(run['tokens_per_parameter'])} tokens a parameter: {run['training']}")


def _run_table(laws: dict[str, Any]) -> list[list[str]]:
    """The run against each law's optimum of the same compute."""
    rows = [["law", "loss", "best loss", "excess", "compute saved", "best N", "best D", "N / best", "D / best"]]
    for name, law in laws.items():
        run, best = law["run"], law["optimum"]
        related = run["loss_excess"] is not None
        rows.append([
            name, _loss(run["loss"]), _loss(best["loss"] if related else None), _loss(run["loss_excess"]),
            f"{run['compute_saved']:.1%}" if related else "-", _count(best["parameters"]), _count(best["tokens"]),
            figure(run["parameters_over_optimum"]), figure(run["tokens_over_optimum"]),
        ])  # fmt: skip
    return rows


def _optimum_table(document: dict[str, Any]) -> list[list[str]]:
    """Each law's optimum; with its compute and what that takes where they differ from law to law."""
    budgeted = document["budget"] is not None
    rows = [["law", "parameters", "tokens", "tokens/param", "loss"]]
    rows[0] += ["N ~ C^", "D ~ C^", "10 x compute"] if budgeted else ["FLOP"]
    optima = [law["optimum"] for law in document["laws"].values()]
    timed, priced = (not budgeted and optima[0][key] is not None for key in ("days", "usd"))
    rows[0] += ["time"] * timed + ["bill"] * priced
    for name, law in document["laws"].items():
        best, powers, ten = law["optimum"], law["exponents"], law["ten_times_compute"]
        row = [name, _count(best["parameters"]), _count(best["tokens"]), figure(best["tokens_per_parameter"])]
        row += [_loss(best["loss"])]
        if budgeted:
            row += [f"{powers[key]:.3f}" for key in ("parameters", "tokens")]
            row += [f"N x{ten['parameters']:.2f} D x{ten['tokens']:.2f}"]
        else:
            row += [f"{best['compute_flop']:.3g}"]
        row += [format_seconds(best["days"] * 86_400)] if timed else []
        rows.append(row + ([format_usd(best["usd"])] if priced else []))
    return rows


def _spent_words(spent: dict[str, Any]) -> str:
    words = [f"{_count(spent['gpu_hours'])} GPU-hours"]
    words += [format_seconds(spent["days"] * 86_400)] if spent["days"] is not None else []
    words += [format_usd(spent["usd"])] if spent["usd"] is not None else []
    return ", ".join(words)


def _compute(flop: float) -> str:
    return f"{flop:.3g} FLOP ({_count(flop / PF_DAY)} PF-days)"


def _count(value: float) -> str:
    return format_count(value) if 0.01 <= value < 1e15 else f"{value:.3g}"


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _line(label: str, text: str) -> list[Line]:
    return [(label, text)]


def _told(lines: Iterable[Line], screen: Screen) -> list[str]:
    """Labelled lines, wrapped."""
    return [screen.prose(text, WIDTH, label.ljust(LABEL), " " * LABEL) for label, text in lines]
