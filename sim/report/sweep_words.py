"""What a sweep says, for terminal and page: its keys in short, figures without their units, answers, failures."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any, Final

import yaml

from sim.report.values import write
from sim.study.sweep_schema import AxisEffect, SweepPoint, SweepStudy

COLUMNS: Final = {
    "output_tokens_per_s": "tok/s",
    "tokens_per_s_per_user": "tok/s/user",
    "ttft_s.p50": "TTFT p50",
    "tpot_s.p50": "TPOT p50",
    "usd_per_million_tokens": "USD/Mtok",
    "usd_per_hour": "USD/h",
    "slo_attainment": "objectives",
    "availability": "up",
    "failed_requests": "given up",
    "tokens_per_s": "tok/s trained",
    "ettr": "progress",
    "step_time_s": "step",
    "mfu": "MFU",
    "memory_peak_bytes": "memory",
}
"""Figures of the table, and their names in a heading."""
GOALS: Final = {
    "output_tokens_per_s": ("Most tokens per second", max),
    "tokens_per_s": ("Fastest training", max),
    "usd_per_million_tokens": ("Cheapest token", min),
}
"""What people look for first."""
MOST_LISTED: Final = 60
"""Drawn points of more than this are not spelt out in the command."""
_UNITS: Final = (" tok/s", "/Mtok", "/h", " USD")


def value_text(value: Any) -> str:
    """A value as it would be written after ``path=``."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def short(paths: Sequence[str]) -> dict[str, str]:
    """Each path by as few of its last steps as tell it from the others."""
    found = {}
    for path in paths:
        steps = path.split(".")
        for count in range(1, len(steps) + 1):
            name = ".".join(steps[-count:])
            if sum(other == name or other.endswith(f".{name}") for other in paths) == 1:
                break
        found[path] = name
    return found


def axis_name(study: SweepStudy, axis: str) -> str:
    """An axis by its short names."""
    names = short(study.paths)
    return " + ".join(names.get(path, path) for path in axis.split(" + "))


def figure_text(name: str, value: float | None) -> str:
    """A figure without the unit that stands in the heading."""
    if value is None:
        return "-"
    written = write(name.partition(".")[0], value)
    if name in COLUMNS and not name.startswith(("ttft", "tpot")):
        for unit in _UNITS:
            written = written.removesuffix(unit)
    return written


def headings(study: SweepStudy) -> list[str]:
    """The figures that some point has."""
    return [k for k in COLUMNS if k != "usd_per_hour" and any(p.metrics.get(k) is not None for p in study.points)]


def table_head(study: SweepStudy) -> list[str]:
    """The head of the table of points."""
    names = short(study.paths)
    return ["point", *(names[path] for path in study.paths), *(COLUMNS[k] for k in headings(study)), "state"]


def table_row(study: SweepStudy, point: SweepPoint, metrics: Sequence[str]) -> list[str]:
    """A point's line of the table."""
    figures = [figure_text(name, point.metrics.get(name)) for name in metrics]
    values = [value_text(point.values.get(path)) for path in study.paths]
    return [str(point.point), *values, *figures, point.state or str(point.failed)]


def setting(study: SweepStudy, point: SweepPoint) -> str:
    """A point's values in words."""
    names = short(study.paths)
    return ", ".join(f"{names[path]}={value_text(point.values.get(path))}" for path in study.paths)


def best_of(study: SweepStudy, name: str, choose: Callable[..., Any]) -> SweepPoint | None:
    """The point with the best of a figure; the first of equals."""
    known = [point for point in study.points if point.metrics.get(name) is not None]
    best: SweepPoint | None = choose(known, key=lambda point: point.metrics[name], default=None)
    return best


def answers(study: SweepStudy) -> list[str]:
    """Who is best at what, and (of several axes) what moves it most."""
    found = []
    for name, (what, choose) in GOALS.items():
        point = best_of(study, name, choose)
        if point is not None:
            figure = write(name, point.metrics[name])
            found.append(f"{what}: {figure}, point {point.point} ({setting(study, point)}).")
            effects = study.sensitivity.get(name, [])
            if len(study.axes) > 1 and effects and effects[0].range > 0:
                found.append(f"{moved(study, name, effects[0])}.")
    return found


def moved(study: SweepStudy, name: str, effect: AxisEffect) -> str:
    """What an axis does to a figure."""
    ends = " to ".join(f"{figure_text(name, end.mean)} at {end.value}" for end in (effect.low, effect.high))
    return f"{COLUMNS[name]} depends most on {axis_name(study, effect.axis)}: {ends}, all else averaged"


def failures(study: SweepStudy) -> list[str]:
    """Each reason once, with the points it stopped."""
    reasons: dict[tuple[str, str], list[int]] = {}
    for point in study.points:
        if point.failed:
            reasons.setdefault((point.failed, str(point.reason)), []).append(point.point)
    lines = []
    for (kind, why), points in reasons.items():
        some = ", ".join(map(str, points[:8])) + (f" and {len(points) - 8:,} more" if len(points) > 8 else "")
        lines.append(f"{kind}: {why} (point{'s' if len(points) > 1 else ''} {some})")
    return lines


def command(study: SweepStudy) -> str:
    """A command that plays the same points; ``--set`` options of the first are not known."""
    words = ["sim", "sweep", f"{study.scenario}.yaml"]
    if len(study.axes) > 1 and all(not a.drawn and len(a.paths) == 1 for a in study.axes):
        words += [w for axis in study.axes for w in ("--vary", _list(study, axis.paths[0], distinct=True))]
    elif len(study.axes) == 1 and len(study.paths) == 1:
        words += ["--vary", _list(study, study.paths[0], distinct=False)]
    elif len(study.points) <= MOST_LISTED:
        words += [w for path in study.paths for w in ("--vary", _list(study, path, distinct=False))] + ["--zip"]
    else:
        return f"{shlex.join(words)}  # with its sweep block"
    return shlex.join([*words, *(("--seeds", str(study.seeds)) if study.seeds > 1 else ()), "--seed", str(study.seed)])


def _list(study: SweepStudy, path: str, *, distinct: bool) -> str:
    """A key's values as ``--vary`` takes them."""
    values = [_item(point.values.get(path)) for point in study.points]
    return f"{path}={','.join(dict.fromkeys(values) if distinct else values)}"


def _item(value: Any) -> str:
    """A value in a list: text as it is where it can be nothing else."""
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][\w .+/-]*", value) and yaml.safe_load(value) == value
    return str(value) if plain else json.dumps(value, ensure_ascii=False)
