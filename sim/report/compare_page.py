"""The HTML page of a comparison: a single file without a network, drawn from the document alone."""

from __future__ import annotations

from typing import Any, Final

from sim.report.compare_answer import (
    DEMAND,
    LOADS,
    SPEED,
    USE,
    answer,
    break_even_lines,
    break_even_table,
    load_table,
)
from sim.report.compare_words import (
    EQUAL,
    METHOD,
    banner_lines,
    copies_lines,
    metric_name,
    metric_rows,
    run_lines,
    title,
    warning_lines,
    write_metric,
)
from sim.report.figures.compare import compare_figures
from sim.report.frame import render_page
from sim.study.compare_pairs import metric_of
from sim.study.compare_schema import Comparison, ScenarioPart
from sim.units import format_count

SECTIONS: Final = {
    "speed": ("Speed and cost", "Over the range of loads: from one client who never pauses to more than fit."),
    "break-even": ("Break-even", "What a token costs where the cluster is not always full, and who meets a demand."),
    "difference": ("Where the difference comes from", "Cost of a token, or its GPU time, by what GPUs did."),
}
"""Sections that hold figures: id to heading and what it shows."""
NONE: Final = "–"
UNFOLDED: Final = 2
"""Pairs whose tables stand open; of more, each opens at a click."""
NO_TABLE: Final[tuple[list[str], list[list[str]]]] = ([], [])


def render_comparison_html(c: Comparison) -> str:
    """The page as text."""
    text = {"speed": [SPEED], "break-even": break_even_lines(c) or [USE, DEMAND], "difference": []}
    tables = {"break-even": break_even_table(c)}
    return render_page(
        "compare.html.j2",
        c.version,
        {id_: (*words, text[id_], tables.get(id_, NO_TABLE)) for id_, words in SECTIONS.items()},
        compare_figures(c),
        c=c,
        title=title(c),
        sentences=answer(c),
        failed=[(part.name, part.reason or "") for part in c.scenarios if part.failed is not None],
        facts=_facts(c),
        names=[part.name for part in c.scenarios],
        main=_settings(c, False),
        details=_settings(c, True),
        overview=_overview(c),
        pairs=[(c.scenarios[pair.scenario].name, metric_rows(c, pair, every=True)) for pair in c.pairs],
        baseline=c.scenarios[c.baseline].name,
        notes=[*copies_lines(c), *run_lines(c), *([METHOD] if c.pairs else [])],
        banners=banner_lines(c),
        warnings=warning_lines(c),
        loads=load_table(c),
        loads_note=LOADS,
        folded=len(c.pairs) > UNFOLDED,
        definitions=_definitions(c),
        command=_command(c),
    )


def _command(c: Comparison) -> str:
    said = (c.run_info or {}).get("command")
    if isinstance(said, str):
        return said
    return " ".join(["sim compare", *(f"{part.name}.yaml" for part in c.scenarios)])


def _facts(c: Comparison) -> list[tuple[str, str]]:
    """What kind of comparison this was."""
    facts = [("scenarios", str(len(c.scenarios))), ("baseline", c.scenarios[c.baseline].name)]
    if any(part.random for part in c.scenarios):
        facts.append(("seeds", f"{c.seed} to {c.seed + c.seeds - 1}"))
    if c.at_equal is not None:
        facts.append(("at equal", EQUAL[c.at_equal]))
    if c.api_usd_per_million_tokens is not None:
        facts.append(("API", write_metric("usd_per_million_tokens", c.api_usd_per_million_tokens)))
    return [*facts, ("version", c.version)]


def _settings(c: Comparison, detail: bool) -> list[list[str]]:
    """Rows of the table of what differs; its group where it begins."""
    rows, group = [], ""
    for s in c.settings:
        if s.detail == detail:
            rows.append([s.group if s.group != group else "", s.key, *(value or NONE for value in s.values)])
            group = s.group
    return rows


def _overview(c: Comparison) -> list[list[str]]:
    """Main metrics, a column a scenario."""
    fit = [part for part in c.scenarios if part.failed is None]
    wanted = (
        "days_to_target", "usd_to_target", "gpu_hours_to_target",
        "output_tokens_per_s", "tokens_per_s", "goodput_tokens_per_s", "tokens_per_s_per_user", "ttft_s.p50",
        "tpot_s.p50", "slo_attainment", "step_time_s", "mfu", "ettr", "usd_per_hour", "usd_per_million_tokens",
        "capital_usd", "payback_months", "power_w", "gpus",
    )  # fmt: skip
    rows = [["copies", *(_copies(part) for part in c.scenarios)]] if c.at_equal else []
    for path in wanted:
        if any(path in part.metrics for part in fit):
            cells = [write_metric(path, m.mean) if (m := part.metrics.get(path)) else NONE for part in c.scenarios]
            rows.append([metric_name(path, c), *cells])
    return rows


def _copies(part: ScenarioPart) -> str:
    return NONE if part.failed is not None else format_count(part.factor)


def _definitions(c: Comparison) -> list[tuple[str, str]]:
    """Name and meaning of every metric and bucket that is shown."""
    base = c.scenarios[c.baseline]
    shown: dict[str, Any] = {metric_of(path): path for path in base.metrics}
    found = [(metric_name(name, c), c.definitions[name]) for name in shown if name in c.definitions]
    buckets = dict.fromkeys(bucket.partition(":")[0] for part in c.scenarios for bucket in part.ledger)
    return [*found, *((bucket, c.definitions[bucket]) for bucket in buckets if bucket in c.definitions)]
