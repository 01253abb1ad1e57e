"""A sweep as files: sweep.json with everything, points.csv and parquet with a row for each point.

None of them says where or how fast the points were played, so that they are the same bytes from every executor.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from typing import Any

from sim import __version__
from sim.errors import InputError, Problem
from sim.results.definitions import METRICS, TRAINING_METRICS
from sim.study.sweep import Sweep
from sim.study.sweep_analysis import FRONTS, SENSITIVE, column, front, heat_map, sensitivities
from sim.study.sweep_metrics import HEADLINE
from sim.study.sweep_schema import SCHEMA_VERSION, SweepStudy


def study_of(sweep: Sweep) -> SweepStudy:
    """The whole sweep as its document."""
    return SweepStudy.model_validate(document(sweep))


def document(sweep: Sweep) -> dict[str, Any]:
    """The whole sweep as JSON values."""
    study, design = sweep.study, sweep.study.design
    metrics = [outcome.metrics for outcome in sweep.outcomes]
    maps = {name: heat_map(design, column(metrics, name)) for name in SENSITIVE}
    known = TRAINING_METRICS | METRICS
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "sweep",
        "scenario": study.scenario,
        "version": __version__,
        "seed": study.seed,
        "seeds": study.seeds,
        "axes": [asdict(dimension) for dimension in design.dimensions],
        "points": [
            {"point": number, "values": dict(zip(design.paths, values, strict=True)), **asdict(outcome)}
            for number, (values, outcome) in enumerate(zip(design.points, sweep.outcomes, strict=True), 1)
        ],
        "pareto": [
            {"cost": cost, "value": value, "points": [i + 1 for i in front(metrics, cost, value).points]}
            for cost, value in FRONTS
        ],
        "sensitivity": {
            name: [{**asdict(s), "range": s.range} for s in sensitivities(design, column(metrics, name))]
            for name in SENSITIVE
        },
        "heat_map": {name: asdict(found) for name, found in maps.items() if found is not None},
        "definitions": {n: known[key] for n in HEADLINE if (key := n.partition(".")[0]) in known},
    }


def document_text(sweep: Sweep) -> str:
    """sweep.json."""
    return json.dumps(document(sweep), indent=1, allow_nan=False) + "\n"


def rows(sweep: Sweep) -> list[dict[str, Any]]:
    """A row for each point with the same columns: axes, state, failure, figures, intervals, numbers of jobs."""
    study, design = sweep.study, sweep.study.design
    found = []
    for number, (values, outcome) in enumerate(zip(design.points, sweep.outcomes, strict=True), 1):
        row: dict[str, Any] = {"point": number}
        row |= {path: _cell(value) for path, value in zip(design.paths, values, strict=True)}
        row |= {"state": outcome.state, "failed": outcome.failed, "reason": outcome.reason}
        row |= {name: outcome.metrics.get(name) for name in HEADLINE}
        if study.seeds > 1:
            for name in HEADLINE:
                low, high = outcome.intervals.get(name, (None, None))
                row |= {f"{name}.low": low, f"{name}.high": high}
        for job, numbers in outcome.jobs.items():
            row |= {f"{job}.{name}": value for name, value in numbers.items()}
        found.append(row)
    columns = dict.fromkeys(name for row in found for name in row)
    return [{name: row.get(name) for name in columns} for row in found]


def _cell(value: Any) -> Any:
    return value if isinstance(value, (str, int, float)) or value is None else json.dumps(value, ensure_ascii=False)


def csv_text(sweep: Sweep) -> str:
    """points.csv."""
    table = rows(sweep)
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _spelt(v) for k, v in row.items()} for row in table)
    return out.getvalue()


def _spelt(value: Any) -> Any:
    """True as YAML and JSON spell it; text that a spreadsheet would run as a formula, as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@")):
        return "'" + value
    return value


def require_parquet() -> None:
    """Raise InputError unless polars, which writes parquet, is installed."""
    try:
        import polars  # noqa: F401
    except ImportError:
        message = "needs polars: pip install 'gpu-cluster-sim[parquet]'"
        raise InputError([Problem("--parquet", None, None, None, message)]) from None


def parquet_bytes(sweep: Sweep) -> bytes:
    """The rows as parquet. Axes are text where their values are not of one kind."""
    require_parquet()
    import polars

    table = rows(sweep)
    for path in sweep.study.design.paths:
        if len({type(row[path]) for row in table} - {type(None)}) > 1:
            table = [{**row, path: None if row[path] is None else str(row[path])} for row in table]
    out = io.BytesIO()
    polars.DataFrame(table, infer_schema_length=None).write_parquet(out)
    return out.getvalue()
