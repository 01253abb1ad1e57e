"""What a comparison tells of each scenario: its metrics, where its costs go, and what it gives when full."""

from __future__ import annotations

from collections.abc import Sequence

from sim.adapters.resolve import Resolved, ResolvedServing
from sim.laws.topology_draw import summary
from sim.results.schema import Result
from sim.study.compare_demand import fullest, use_of
from sim.study.compare_pairs import EXTENSIVE, estimate, metric_of
from sim.study.compare_play import Failure, Run, strain_of
from sim.study.compare_schema import CurvePoint, Missed, ScenarioPart, Use


def is_random(resolved: Resolved) -> bool:
    """Whether a run depends on its seed: drawn arrivals or lengths, or faults. Layouts, batches and steps do not."""
    return resolved.scenario.faults is not None or any(_drawn(job) for job in resolved.serving)


def _drawn(job: ResolvedServing) -> bool:
    load = job.spec.load
    if job.trace is not None:
        return False
    lengths = (load.lengths, load.prompt_tokens, load.output_tokens)
    drawn = load.lengths is not None or any(x is not None and not isinstance(x, int) for x in lengths[1:])
    drawn = drawn or bool(load.tenants or load.conversation or load.prefix)
    return drawn or any(x is not None for x in (load.poisson, load.gamma, load.diurnal))


def failure(runs: Sequence[Run | Failure]) -> Failure | None:
    """Why there is no run; None where all have an answer."""
    return next((run for run in runs if isinstance(run, Failure)), None)


def by_path(runs: Sequence[Run], factor: float) -> dict[str, list[float]]:
    """Every metric that all runs have, over the runs, of ``factor`` copies."""
    names = [name for name in runs[0].metrics if all(name in run.metrics for run in runs)]
    scale = {name: factor if metric_of(name) in EXTENSIVE else 1.0 for name in names}
    return {name: [run.metrics[name] * scale[name] for run in runs] for name in names}


def split(runs: Sequence[Run], name: str) -> dict[str, float]:
    """A metric by bucket of the ledger: value times the bucket's share, mean over the runs; it adds up to the mean."""
    found: dict[str, float] = {}
    for run in runs:
        for bucket, share in run.ledger.items():
            found[bucket] = found.get(bucket, 0.0) + run.metrics[name] * share / len(runs)
    return found


def part(
    resolved: Resolved, runs: Sequence[Run], played: Sequence[Run | Failure], curve: Sequence[CurvePoint],
    factor: float, split_by: str | None,
) -> ScenarioPart:  # fmt: skip
    """A scenario's piece of the document: of ``factor`` copies, its costs split by ``split_by``."""
    scenario = resolved.scenario
    failed = failure(played)
    bare = ScenarioPart(name=scenario.name, about=scenario.about, cluster=summary(resolved.topology))
    if failed is not None:
        kind = "infeasible" if failed.kind == "infeasible" else "error"
        return bare.model_copy(update={"failed": kind, "reason": failed.reason})
    first = runs[0]
    seconds = {bucket: sum(run.ledger.get(bucket, 0.0) for run in runs) / len(runs) for bucket in first.ledger}
    metrics = {name: estimate(values) for name, values in by_path(runs, factor).items()}
    return bare.model_copy(update={
        "headline": first.result.headline.rpartition(" - seed ")[0],
        "runs": len(runs),
        "random": is_random(resolved),
        "jobs": list(first.jobs),
        "gpus": first.result.gpus * factor,
        "factor": factor,
        "metrics": metrics,
        "ledger": seconds,
        "split": split(runs, split_by) if split_by else {},
        "curve": list(curve),
        "use": _saturated(runs, curve),
        "missed": _missed([run.result for run in runs]),
        "objectives": {row["name"]: row["limit_s"] for job in first.result.jobs for row in job.objectives},
        "within": _within(runs, curve),
        "rented": scenario.cost is not None and scenario.cost.rental is not None,
        "banners": list(first.result.banners),
        "warnings": list(first.result.verdict.warnings),
    })  # fmt: skip


def _saturated(runs: Sequence[Run], curve: Sequence[CurvePoint]) -> Use | None:
    """Cost by use at the most tokens/s seen, of the curve and the load itself.

    None without a curve: how far the load is from saturation is not known, and a model is trained once, not on demand.
    """
    first = runs[0]
    if first.use is None or first.most is None or not curve:
        return None
    points = [use for p in curve if (use := use_of(p)) is not None]
    return max([first.use, *points], key=lambda use: use.tokens_per_s)


def _within(runs: Sequence[Run], curve: Sequence[CurvePoint]) -> Use | None:
    """The same within the objectives; the load itself counts if it meets them."""
    first = runs[0]
    if first.use is None or first.most is None or not curve:
        return None
    found = [fullest(curve, lambda point: point.strain)]
    strain = strain_of(first.result.jobs[0])
    if strain is not None and strain <= 1.0:
        found.append(first.use)
    return max((use for use in found if use is not None), key=lambda use: use.tokens_per_s, default=None)


def _missed(results: Sequence[Result]) -> list[Missed]:
    """Objectives that the runs do not keep on average; of several jobs with the job's name."""
    found = []
    for number, job in enumerate(results[0].jobs):
        for at, row in enumerate(job.objectives):
            seen = [result.jobs[number].objectives[at]["measured_s"] for result in results]
            measured = None if None in seen else sum(seen) / len(seen)
            if measured is None or measured > row["limit_s"]:
                name = row["name"] if len(results[0].jobs) == 1 else f"{job.name}: {row['name']}"
                found.append(Missed(name=name, limit_s=row["limit_s"], measured_s=measured))
    return found


def labelled(parts: Sequence[ScenarioPart]) -> list[ScenarioPart]:
    """Scenarios under names that differ."""
    taken: list[str] = []
    for part in parts:
        name, number = part.name, 2
        while name in taken:
            name, number = f"{part.name} ({number})", number + 1
        taken.append(name)
    return [part.model_copy(update={"name": name}) for part, name in zip(parts, taken, strict=True)]
