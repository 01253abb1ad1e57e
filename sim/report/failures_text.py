"""A study of failures as plain text: the best point in a sentence, a line for each point, and where time went."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import inf
from typing import Final

from sim.report.screen import FILE, Screen, bold, styled
from sim.report.values import joined
from sim.study.failures_plan import GIVEN_UP
from sim.study.failures_schema import Estimate, FailureStudy, PointResult, Quantiles
from sim.units import format_count, format_percent, format_seconds, format_usd

GOODPUT: Final = "Goodput (ETTR): useful seconds that were never done before, over wall seconds."
DALY: Final = (
    "Daly: what the law gives a job that stands still while it saves and restarts after every failure, with mean "
    "recoveries and spares enough."
)
BEHIND: Final = "Behind: goodput below the best's at the same MTBF, in points, life by life over the same faults."
BATCH: Final = "Batch: tokens of a step; replicas and global batch grow with the nodes, the work of a GPU stays."
BEST: Final = "Best: the least GPU time for a trained token."
GIVEN_UP_NOTE: Final = f"Never: a life is given up after {GIVEN_UP:.0f} times its undisturbed length."
BUCKETS: Final = {
    "progress": "progress",
    "redone": "work done again",
    "checkpoint": "saving",
    "degraded": "slower work",
    "detection": "finding the failure",
    "restart": "restarting",
    "down": "waiting for a node",
    "stalled": "standing still",
    "startup": "start-up",
    "shrink": "going on without a replica",
    "grow": "taking a replica back",
    "migrate": "moving to other nodes",
}
"""What a second of the run went to, in words."""
MOST_SAID: Final = 3
"""Times between failures of which the best is said."""
SHOWN: Final = 60
"""Points of the table."""
NONE: Final = "-"


def render_failures(study: FailureStudy, colour: bool = False, screen: Screen = FILE) -> str:
    """The study for a terminal; no escape codes unless ``colour``."""
    head = bold(screen.prose(answer(study)), colour)
    parts = [head, screen.prose(_facts(study)), _table(study, screen), _lost(study, screen)]
    failed = not_possible(study)
    if failed:
        told = (screen.prose(f"{settings}: {reason}", None, "  ", "    ") for settings, reason in failed)
        parts.append("\n".join(["Not possible", *told]))
    notes = [GOODPUT]
    notes += [DALY] if any(p.goodput_daly is not None for p in study.points) else []
    notes += [BATCH] if batches_differ(study) else []
    notes += [BEST] if len(study.points) > 1 else []
    notes += [BEHIND] if any(p.behind is not None for p in study.points) else []
    notes += [GIVEN_UP_NOTE] if any(p.finished is not None and p.finished < 1.0 for p in study.points) else []
    parts.append("\n".join(screen.prose(note) for note in notes))
    lines = "\n\n".join(part for part in parts if part).splitlines()
    return "\n".join(styled(line, colour) for line in lines) + "\n"


# -- sentences, which the page says too ---------------------------------------------------------------------


def answer(study: FailureStudy) -> str:
    """The best setting at each time between failures, and what failures cost it."""
    if not study.bests:
        return f"{study.scenario}: no setting makes any progress between failures."
    said = [_one(study, study.points[n]) for n in study.bests[:MOST_SAID]]
    left = len(study.bests) - MOST_SAID
    more = f"; {left} more times between failures are in the table" if left > 0 else ""
    return " ".join([f"{'; '.join(said)}{more}.", *batch_sentences(study)])


def batch_sentences(study: FailureStudy) -> list[str]:
    """What larger sizes change besides failures: the batch grows with them, and the run is shorter."""
    if not batches_differ(study):
        return []
    ranked = sorted((p for p in study.points if p.failed is None), key=lambda p: (p.nodes, p.days_to_target or inf))
    sizes = [next(group) for _, group in groupby(ranked, key=lambda p: p.nodes)]
    small, large = sizes[0], sizes[-1]
    told = (
        f"The global batch grows with the nodes, from {_tokens(small)} tokens a step on {small.nodes:,} to "
        f"{_tokens(large)} on {large.nodes:,}: goodput does not tell what a step of a larger batch is worth."
    )
    known = [p for p in sizes if p.days_to_target is not None]
    if study.target_tokens is None or not known:
        return [told]
    days = joined([f"{_days(p)} on {p.nodes:,}" for p in known[:MOST_SAID]])
    more = f", and so on to {_days(known[-1])} on {known[-1].nodes:,}" if len(known) > MOST_SAID else ""
    best = ", each at its best" if len(ranked) > len(sizes) else ""
    return [told, f"{format_count(study.target_tokens)} tokens take {days} nodes{more}{best}."]


def batches_differ(study: FailureStudy) -> bool:
    """Whether points train with different global batches."""
    return len({point.tokens_per_step for point in study.points if point.failed is None}) > 1


def _tokens(point: PointResult) -> str:
    return format_count(point.tokens_per_step)


def _days(point: PointResult) -> str:
    return NONE if point.days_to_target is None else format_seconds(point.days_to_target * 86_400.0)


def _one(study: FailureStudy, best: PointResult) -> str:
    assert best.goodput is not None
    rivals = [p for p in study.points if p.mtbf == best.mtbf and p.failed is None]
    chosen = setting(best, study)
    name = f"Best: {chosen}" if len(rivals) > 1 else chosen
    undone = "" if best.finished in (None, 1.0) else f"; {format_percent(1.0 - (best.finished or 0.0))} never finish"
    return f"{name}: goodput {percent(best.goodput)}; {_costs(best)}{undone}{_ahead(best, rivals, study)}"


def _costs(best: PointResult) -> str:
    """What failures and checkpoints take of a life."""
    assert best.goodput is not None
    assert best.wall_s is not None
    lost = sum(seconds for bucket, seconds in best.seconds.items() if bucket != "progress")
    told = f"failures and checkpoints cost {format_seconds(lost)} of {format_seconds(best.wall_s.mean)}"
    if best.usd is not None:
        return f"{told}, {format_usd(best.usd.mean * lost / best.wall_s.mean)} of {format_usd(best.usd.mean)}"
    hours = best.gpus * lost / 3600.0
    return f"{told}, {format_count(hours)} GPU-hours"


def _ahead(best: PointResult, rivals: Sequence[PointResult], study: FailureStudy) -> str:
    """How sure the best is of the next at its size."""
    others = [(p.behind, p) for p in rivals if p.behind is not None and p.nodes == best.nodes]
    if not others:
        return ""
    distance, near = min(others, key=lambda pair: pair[0].mean)
    if distance.low is not None and distance.low <= 0.0:
        return f"; {setting(near, study)} is as good within the error"
    return f"; {points(distance)} points of goodput ahead of {setting(near, study)}"


def setting(point: PointResult, study: FailureStudy) -> str:
    """A setting by the axes that vary."""
    every = NONE if point.interval_s is None else format_seconds(point.interval_s)
    words = {
        "nodes": f"{point.nodes:,} nodes",
        "mtbf": f"MTBF {point.mtbf}",
        "checkpoint": "no checkpoints" if every == NONE else f"checkpoint every {every}"
        + (" (auto)" if point.checkpoint == "auto" else ""),
        "policy": point.policy,
    }  # fmt: skip
    return ", ".join(words[axis] for axis in study.axes or ("nodes", "checkpoint", "policy"))


def percent(value: Estimate) -> str:
    """ "93.1% [92.8, 93.4]", with as many digits as the interval is wide."""
    digits = 1
    if value.low is not None and value.high is not None:
        width = value.high - value.low
        digits = 1 if width >= 2e-3 else 2
    text = f"{value.mean:.{digits}%}"
    if value.low is None or value.high is None:
        return text
    return f"{text} [{100 * value.low:.{digits}f}, {100 * value.high:.{digits}f}]"


def points(value: Estimate) -> str:
    """A difference of goodput in percentage points."""
    return percent(value).replace("%", "")


def not_possible(study: FailureStudy) -> list[tuple[str, str]]:
    """Settings that cannot be, and each reason once."""
    reasons: dict[str, list[str]] = {}
    for point in study.points:
        if point.failed is not None:
            words = {"nodes": f"{point.nodes:,} nodes", "mtbf": point.mtbf, "checkpoint": point.checkpoint,
                     "policy": point.policy}  # fmt: skip
            reasons.setdefault(point.failed, []).append(", ".join(words[axis] for axis in study.axes))
    return [(_some(settings), reason) for reason, settings in reasons.items()]


def _some(settings: Sequence[str]) -> str:
    more = f" and {len(settings) - 6:,} more" if len(settings) > 6 else ""
    return "; ".join(settings[:6]) + more


# -- tables -------------------------------------------------------------------------------------------------


def _facts(study: FailureStudy) -> str:
    ends = f"{format_seconds(study.duration_s)} each" if study.duration_s is not None else "to the end of the work"
    first = next(p for p in study.points if p.failed is None)
    return (
        f"{study.scenario}: {study.job} ({study.model}), {study.seeds:,} {'lives' if study.seeds > 1 else 'life'} a "
        f"point with seeds {study.seed} to {study.seed + study.seeds - 1}, {ends}; a step takes "
        f"{format_seconds(first.step_s)}. Brackets: 95%, Student's t over lives."
    )


def table_rows(study: FailureStudy) -> list[list[str]]:
    """A heading and a line for each point that has lived."""
    lived = [p for p in study.points if p.failed is None]
    ends = any(p.completion_s is not None for p in lived)
    last = ["done p50", "done p90"] if ends else ["tokens p50", "tokens p10"]
    batch = ["batch"] if batches_differ(study) else []
    target = study.target_tokens if batch and not ends else None
    last += [f"{format_count(target)} in"] if target is not None else []
    numbers = ("goodput", "behind", "Daly", "failures", "spares p99")
    rows = [["nodes", "MTBF of job", "interval", "policy", *batch, *numbers, *last]]
    for p in lived:
        daly = NONE if p.goodput_daly is None else f"{p.goodput_daly:.1%}"
        rows.append([
            f"{p.nodes:,}", _mtbf(p), _interval(p), p.policy, *([_tokens(p)] if batch else []),
            percent(p.goodput) if p.goodput else NONE,
            points(p.behind) if p.behind else _best_or_alone(p, lived), daly,
            format_count(p.failures.mean) if p.failures else NONE, _count(p.spares), *_ends(p, ends),
            *([_days(p)] if target is not None else []),
        ])  # fmt: skip
    return rows


def _best_or_alone(point: PointResult, lived: Sequence[PointResult]) -> str:
    return "best" if sum(p.mtbf == point.mtbf for p in lived) > 1 else NONE


def _mtbf(point: PointResult) -> str:
    time = NONE if point.job_mtbf_s is None else format_seconds(point.job_mtbf_s)
    return time if point.mtbf == "as given" else f"{point.mtbf}: {time}"


def _interval(point: PointResult) -> str:
    if point.interval_s is None:
        return "never"
    return ("auto: " if point.checkpoint == "auto" else "") + format_seconds(point.interval_s)


def _count(found: Quantiles | None) -> str:
    return NONE if found is None or found.p99 is None else f"{found.p99:,.0f}"


def _ends(point: PointResult, by_time: bool) -> tuple[str, str]:
    if by_time:
        done = point.completion_s
        if done is None:
            return NONE, NONE
        p50, p90 = ("never" if value is None else format_seconds(value) for value in (done.p50, done.p90))
        return p50, p90
    tokens = point.tokens
    if tokens is None or tokens.p50 is None or tokens.p10 is None:
        return NONE, NONE
    return format_count(tokens.p50), format_count(tokens.p10)


def _table(study: FailureStudy, screen: Screen) -> str:
    rows = table_rows(study)
    left_out = len(rows) - 1 - SHOWN
    text = "\n".join(screen.table(rows[: SHOWN + 1], keys=_axes(study)))
    return f"{text}\n{left_out:,} more points are in failures.json" if left_out > 0 else text


def _axes(study: FailureStudy) -> int:
    """Columns of the table that tell one point from another: up to the last axis that varies."""
    names = ("nodes", "mtbf", "checkpoint", "policy")
    return max((names.index(axis) + 1 for axis in study.axes), default=1)


def _lost(study: FailureStudy, screen: Screen) -> str:
    """What was not progress, the largest first."""
    lines = []
    for point in [p for p in study.points if p.failed is None][:SHOWN]:
        total = sum(point.seconds.values())
        parts = [f"{BUCKETS.get(bucket, bucket)} {format_percent(seconds / total)}"
                 for bucket, seconds in point.seconds.items() if bucket != "progress" and total > 0.0]  # fmt: skip
        lines.append([setting(point, study), ", ".join(parts) or "nothing"])
    return "\n".join(["Time lost to", *screen.table(lines, left=(0, 1), indent="  ", heads=0)])
