"""What a comparison of training answers: how long each scenario trains, and for how much.

One model is trained once, by one cluster: there is no demand that copies of it would meet.
"""

from __future__ import annotations

import math

from sim.report.compare_words import write_metric
from sim.report.values import joined, write
from sim.study.compare_pairs import EXTENSIVE, ROUNDING, metric_of
from sim.study.compare_schema import Comparison, ScenarioPart


def trains_only(c: Comparison) -> bool:
    """Whether every job of the scenarios trains."""
    return {job.kind for part in c.scenarios for job in part.jobs} == {"training"}


def training_sentences(c: Comparison) -> list[str]:
    """A sentence a job on each scenario's time and money, and who is first in each."""
    jobs = c.scenarios[c.baseline].jobs
    if not trains_only(c):
        return []
    prefixes = [""] if len(jobs) == 1 else [f"jobs.{number}." for number in range(len(jobs))]
    found = []
    for prefix, job in zip(prefixes, jobs, strict=True):
        who = "" if len(jobs) == 1 else f"{job.name}: "
        found.append(f"{who}{_job(c, prefix)}")
    return found


def _job(c: Comparison, prefix: str) -> str:
    fit = [part for part in c.scenarios if part.failed is None]
    run = all(f"{prefix}days_to_target" in part.metrics for part in fit)
    alike = len({part.metrics[f"{prefix}target_tokens"].mean for part in fit}) == 1 if run else False
    head = f"To train on {_metric(fit[0], f'{prefix}target_tokens')}, " if alike else ""
    told = [_run(c, part, prefix, alike) if run else _rate(part, prefix) for part in fit]
    said = f"{head}{'; '.join(told)}."
    time = f"{prefix}{'days_to_target' if run else _speed(fit, prefix)}"
    money = f"{prefix}usd_to_target" if run else "usd_per_million_tokens"
    fastest = _first(fit, time, least=run)
    cheapest = _first(fit, money, least=True)
    if fastest and fastest == cheapest:
        return f"{said} {fastest} is the fastest and the cheapest."
    first = [f"{name} is the {what}" for name, what in ((fastest, "fastest"), (cheapest, "cheapest")) if name]
    return f"{said} {', '.join(first)}." if first else said


def _first(parts: list[ScenarioPart], name: str, *, least: bool) -> str:
    """Whose number is the best; nobody's where some have none, or two the same."""
    if len(parts) < 2 or any(name not in part.metrics for part in parts):
        return ""
    ranked = sorted(parts, key=lambda part: _value(part, name), reverse=not least)
    best, second = (_value(part, name) for part in ranked[:2])
    return "" if math.isclose(best, second, rel_tol=ROUNDING) else ranked[0].name


def _speed(parts: list[ScenarioPart], prefix: str) -> str:
    """Tokens that are kept, where failures take some."""
    kept = all(f"{prefix}goodput_tokens_per_s" in part.metrics for part in parts)
    return "goodput_tokens_per_s" if kept else "tokens_per_s"


def _run(c: Comparison, part: ScenarioPart, prefix: str, alike: bool) -> str:
    """ "a takes 14.1 days and 1.2M USD (13.5 days less and 2,004 USD more)"; with its tokens where they differ."""
    paths = [path for name in ("days_to_target", "usd_to_target") if (path := f"{prefix}{name}") in part.metrics]
    what = "" if alike else f" for {_metric(part, f'{prefix}target_tokens')}"
    text = f"{part.name} takes {joined([_metric(part, path) for path in paths])}{what}"
    return text + (_beside(c, part, paths) if alike else "")


def _rate(part: ScenarioPart, prefix: str) -> str:
    """ "a takes 1.85 s a step, 2.27M tok/s, at 0.63 USD/Mtok": what is known where no count of tokens is stated."""
    text = f"{part.name} takes {_metric(part, f'{prefix}step_time_s')} a step"
    text += f", {_metric(part, prefix + _speed([part], prefix))}"
    if "usd_per_million_tokens" in part.metrics and not prefix:
        text += f", at {_metric(part, 'usd_per_million_tokens')}"
    return text


def _beside(c: Comparison, part: ScenarioPart, paths: list[str]) -> str:
    """How much less or more than the baseline's, in brackets; nothing for the baseline."""
    base = c.scenarios[c.baseline]
    told = []
    for path in paths if part is not base else []:
        if path in base.metrics:
            gap = part.metrics[path].mean - base.metrics[path].mean
            told.append(f"{write(metric_of(path), abs(gap))} {'less' if gap < 0 else 'more'}" if gap else "as much")
    return f" ({joined(told)})" if told else ""


def _value(part: ScenarioPart, path: str) -> float:
    """A metric of one copy."""
    return part.metrics[path].mean / (part.factor if metric_of(path) in EXTENSIVE else 1.0)


def _metric(part: ScenarioPart, path: str) -> str:
    return write_metric(path, _value(part, path))
