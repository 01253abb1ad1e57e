"""A comparison of scenarios: the same seeds for each, their range of loads, and when which one pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from sim.adapters.resolve import Resolved, ResolvedServing
from sim.errors import InfeasibleError, InputError, Problem, RunError
from sim.laws.topology_draw import summary
from sim.results.schema import Result
from sim.study.compare_config import settings
from sim.study.compare_demand import against, against_api, by_demand, by_load, fullest, use_of
from sim.study.compare_pairs import EXTENSIVE, difference, estimate, metric_of, waterfall
from sim.study.compare_play import Failure, Run, play_point, play_run, strain_of
from sim.study.compare_schema import (
    AtEqual,
    Comparison,
    CurvePoint,
    FrontPoint,
    Missed,
    Pair,
    ScenarioPart,
    Setting,
    SplitBy,
    Use,
)
from sim.study.compare_speed import cheapest
from sim.study.executors import Hear, OpenExecutor
from sim.study.pareto import pareto_front

FEWEST, MOST = 2, 8
"""Scenarios of a comparison."""
POINTS: Final = 8
"""Points of a curve, evenly spaced in the logarithm of the clients."""
SPLITS: Final[tuple[SplitBy, ...]] = ("usd_per_million_tokens", "gpu_s_per_million_tokens")
"""What is split by the ledger: the first that is known of all."""
EQUAL: Final[dict[AtEqual, str]] = {
    "budget": "usd_per_hour", "throughput": "tokens", "power": "power_w", "gpus": "gpus",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked of a comparison besides its scenarios: money in USD per million tokens."""

    seeds: int = 5
    at_equal: AtEqual | None = None
    api_price: float | None = None
    curve: bool = True


def compare(
    scenarios: Sequence[Resolved], options: Options, open_executor: OpenExecutor, hear: Hear | None = None
) -> Comparison:
    """Play every scenario with every seed, and put their differences together.

    Seeds count from the first scenario's. Raises InputError if the scenarios cannot be compared or scaled,
    InfeasibleError if none can be, RunError if all fail otherwise.
    """
    options = replace(options, api_price=_api_price(scenarios, options))
    _check(scenarios, options)
    seed = scenarios[0].scenario.seed
    with open_executor() as (executor, slots):
        mapped = map if slots == 1 else executor.map  # at once and one by one, so that progress is heard
        work = [_seeded(r, s) for r in scenarios for s in _seeds(r, seed, options.seeds)]
        done = []
        for found in mapped(play_run, work):
            done.append(found)
            _tell(hear, "runs", len(done), len(work))
        rest = iter(done)
        runs = [[next(rest) for _ in _seeds(r, seed, options.seeds)] for r in scenarios]
        _refuse_if_none(runs)
        plan = _curve_plan(runs) if options.curve else []
        points = []
        if plan:
            columns = [_seeded(scenarios[i], seed) for i, _, _ in plan], [n for _, n, _ in plan], [s for *_, s in plan]
            for point in mapped(play_point, *columns):
                points.append(point)
                _tell(hear, "curves", len(points), len(plan))
    curves: list[list[CurvePoint]] = [[] for _ in scenarios]
    for (i, _, _), point in zip(plan, points, strict=True):
        if point is not None:
            curves[i].append(point)
    return _document(scenarios, runs, curves, seed, options)


def _tell(hear: Hear | None, what: str, done: int, total: int) -> None:
    if hear is not None:
        hear(f"{what}: {done} of {total}", done / total)


def _check(scenarios: Sequence[Resolved], options: Options) -> None:
    """Raise InputError for scenarios that have no common ground."""
    if not FEWEST <= len(scenarios) <= MOST:
        raise InputError([_problem(f"give {FEWEST} to {MOST} scenarios, not {len(scenarios)}")])
    kinds = [[job.spec.kind for job in r.jobs] for r in scenarios]
    for r, mine in zip(scenarios, kinds, strict=True):
        if mine != kinds[0]:
            message = (
                f"{r.scenario.name} runs {_jobs(mine)}, {scenarios[0].scenario.name} {_jobs(kinds[0])}: their numbers "
                "mean different things, compare scenarios with jobs of the same kinds"
            )
            raise InputError([_problem(message)])
    serves = kinds[0] == ["serving"]
    if options.api_price is not None and not serves:
        raise InputError([_problem("--api-price is for scenarios with one serving job")])
    if options.api_price is not None and not options.curve:
        raise InputError([_problem("--api-price needs the saturated throughput: leave --no-curve out")])
    costless = [r.scenario.name for r in scenarios if r.scenario.cost is None]
    for what, needed in (("--at-equal budget", options.at_equal == "budget"), ("--api-price", options.api_price)):
        if needed and costless:
            raise InputError([_problem(f"{what}: {costless[0]} has no cost block")])
    if options.at_equal == "throughput" and len({*kinds[0]}) > 1:
        message = "--at-equal throughput: tokens that are served and trained on do not add up; take budget, power, gpus"
        raise InputError([_problem(message)])


def _api_price(scenarios: Sequence[Resolved], options: Options) -> float | None:
    """The API's price that is asked for, or the one that the scenarios state (``cost.api_price``)."""
    if options.api_price is not None:
        return options.api_price
    costs = [r.scenario.cost for r in scenarios]
    stated = {cost.api_price for cost in costs if cost is not None and cost.api_price is not None}
    if len(stated) > 1:
        raise InputError([_problem("the scenarios state different cost.api_price: say which with --api-price")])
    serves = all([job.spec.kind for job in r.jobs] == ["serving"] for r in scenarios)
    return stated.pop() if stated and serves and options.curve and None not in costs else None


def _jobs(kinds: Sequence[str]) -> str:
    return kinds[0] if len(kinds) == 1 else f"{len(kinds)} jobs ({', '.join(kinds)})"


def _problem(message: str) -> Problem:
    return Problem(None, None, None, None, message)


# -- runs ---------------------------------------------------------------------------------------------------


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


def _seeds(resolved: Resolved, first: int, count: int) -> list[int]:
    """The seeds a scenario is played with: one will do where nothing is random."""
    return [first + i for i in range(count if is_random(resolved) else 1)]


def _seeded(resolved: Resolved, seed: int) -> Resolved:
    return replace(resolved, scenario=resolved.scenario.model_copy(update={"seed": seed}))


def _refuse_if_none(runs: Sequence[Sequence[Run | Failure]]) -> None:
    """Raise if no scenario has an answer."""
    failures = [_failure(mine) for mine in runs]
    known = [failure for failure in failures if failure is not None]
    if len(known) < len(runs):
        return
    text = "\n".join(dict.fromkeys(failure.reason for failure in known))
    if all(failure.kind == "infeasible" for failure in known):
        raise InfeasibleError(text)
    raise RunError(text)


def _failure(runs: Sequence[Run | Failure]) -> Failure | None:
    return next((run for run in runs if isinstance(run, Failure)), None)


def _answered(runs: Sequence[Run | Failure]) -> list[Run]:
    return [run for run in runs if isinstance(run, Run)]


def _curve_plan(runs: Sequence[Sequence[Run | Failure]]) -> list[tuple[int, int, float]]:
    """Scenario, clients and ramp of every point: from one client to a quarter more than the cluster holds."""
    plan = []
    for i, mine in enumerate(runs):
        first = mine[0]
        if _failure(mine) is None and isinstance(first, Run) and first.most is not None:
            counts = {round(first.most ** (n / (POINTS - 1))) for n in range(POINTS)}
            plan += [(i, clients, first.service_s) for clients in sorted(counts)]
    return plan


# -- differences --------------------------------------------------------------------------------------------


def _columns(runs: Sequence[Run], factor: float) -> dict[str, list[float]]:
    """Every metric that all runs have, over the runs, of ``factor`` copies."""
    names = [name for name in runs[0].metrics if all(name in run.metrics for run in runs)]
    scale = {name: factor if metric_of(name) in EXTENSIVE else 1.0 for name in names}
    return {name: [run.metrics[name] * scale[name] for run in runs] for name in names}


def _amount(runs: Sequence[Run], what: AtEqual) -> float | None:
    """What is made equal, mean over the runs."""
    name = EQUAL[what]
    values = [run.tokens_per_s if name == "tokens" else run.metrics.get(name) for run in runs]
    known = [value for value in values if value]
    return sum(known) / len(known) if len(known) == len(values) else None


def _factors(runs: Sequence[Sequence[Run]], baseline: int, at_equal: AtEqual | None) -> list[float]:
    """Copies of each scenario that have as much as the baseline; 1 for those that cannot be.

    Raises InputError where there is nothing to make equal.
    """
    if at_equal is None:
        return [1.0] * len(runs)
    amounts = [_amount(mine, at_equal) if mine else 0.0 for mine in runs]
    wanted = amounts[baseline]
    if wanted is None or None in amounts:
        raise InputError([_problem(f"--at-equal {at_equal}: a scenario has none")])
    return [wanted / amount if amount else 1.0 for amount in amounts]


def _split(runs: Sequence[Run], name: str) -> dict[str, float]:
    """A metric by bucket of the ledger: value times the bucket's share, mean over the runs; it adds up to the mean."""
    found: dict[str, float] = {}
    for run in runs:
        for bucket, share in run.ledger.items():
            found[bucket] = found.get(bucket, 0.0) + run.metrics[name] * share / len(runs)
    return found


# -- the document -------------------------------------------------------------------------------------------


def _document(
    scenarios: Sequence[Resolved], played: Sequence[Sequence[Run | Failure]], curves: Sequence[Sequence[CurvePoint]],
    seed: int, options: Options,
) -> Comparison:  # fmt: skip
    runs = [[] if _failure(mine) else _answered(mine) for mine in played]
    fit = [i for i, mine in enumerate(runs) if mine]
    baseline = fit[0]
    factors = _factors(runs, baseline, options.at_equal)
    every = [run for mine in runs for run in mine]
    split_by = next((name for name in SPLITS if all(name in run.metrics for run in every)), None)
    parts = [
        _part(r, mine, found, curve, factor, split_by)
        for r, mine, found, curve, factor in zip(scenarios, runs, played, curves, factors, strict=True)
    ]
    parts = _labelled(parts)
    columns = [_columns(mine, factor) if mine else {} for mine, factor in zip(runs, factors, strict=True)]
    pairs = []
    for i in fit[1:]:
        common = [name for name in columns[baseline] if name in columns[i]]
        pairs.append(Pair(
            scenario=i,
            metrics={name: difference(name, columns[i][name], columns[baseline][name]) for name in common},
            waterfall=waterfall(parts[i].split, parts[baseline].split) if split_by else {},
        ))  # fmt: skip
    first = runs[baseline][0].result
    differing = settings(scenarios)
    return Comparison(
        baseline=baseline,
        seed=seed,
        seeds=options.seeds,
        at_equal=options.at_equal,
        api_usd_per_million_tokens=options.api_price,
        scenarios=parts,
        settings=differing,
        pairs=pairs,
        split_by=split_by,
        front=_front(parts),
        cheapest=cheapest([part.curve for part in parts]),
        against_api=against_api(parts, options.api_price),
        against=against(parts),
        by_demand=by_demand(parts, lambda part: part.use),
        by_demand_within=by_demand(parts, lambda part: part.within),
        by_load=by_load(parts),
        warnings=_warnings(parts, scenarios, differing),
        definitions={**first.definitions, **DEFINITIONS},
        not_modelled=list(dict.fromkeys(line for run in every for line in run.result.not_modelled)),
    )


DEFINITIONS: Final = {
    "power_w": "mean electrical power of the run, GPUs and hosts, times PUE where one is stated",
    "capital_usd": "what was paid for the cluster",
    "kwh_per_million_tokens": "energy of a million tokens at that power",
    "gpu_s_per_million_tokens": "GPU-seconds of the whole cluster for a million tokens",
    "gpus": "GPUs of the cluster",
}
"""Of metrics that a single run's definitions do not explain."""


def _part(
    resolved: Resolved, runs: Sequence[Run], played: Sequence[Run | Failure], curve: Sequence[CurvePoint],
    factor: float, split_by: str | None,
) -> ScenarioPart:  # fmt: skip
    scenario = resolved.scenario
    failure = _failure(played)
    bare = ScenarioPart(name=scenario.name, about=scenario.about, cluster=summary(resolved.topology))
    if failure is not None:
        kind = "infeasible" if failure.kind == "infeasible" else "error"
        return bare.model_copy(update={"failed": kind, "reason": failure.reason})
    first = runs[0]
    seconds = {bucket: sum(run.ledger.get(bucket, 0.0) for run in runs) / len(runs) for bucket in first.ledger}
    metrics = {name: estimate(values) for name, values in _columns(runs, factor).items()}
    return bare.model_copy(update={
        "headline": first.result.headline.rpartition(" - seed ")[0],
        "runs": len(runs),
        "random": is_random(resolved),
        "jobs": list(first.jobs),
        "gpus": first.result.gpus * factor,
        "factor": factor,
        "metrics": metrics,
        "ledger": seconds,
        "split": _split(runs, split_by) if split_by else {},
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


def _labelled(parts: Sequence[ScenarioPart]) -> list[ScenarioPart]:
    """Scenarios under names that differ."""
    taken: list[str] = []
    for part in parts:
        name, number = part.name, 2
        while name in taken:
            name, number = f"{part.name} ({number})", number + 1
        taken.append(name)
    return [part.model_copy(update={"name": name}) for part, name in zip(parts, taken, strict=True)]


def _front(parts: Sequence[ScenarioPart]) -> list[FrontPoint]:
    """Points of all curves that nothing beats in speed per user and USD/Mtok."""
    points = [
        (i, n, point.usd_per_million_tokens, point.tokens_per_s_per_user)
        for i, part in enumerate(parts)
        for n, point in enumerate(part.curve)
        if point.usd_per_million_tokens is not None and point.tokens_per_s_per_user is not None
    ]
    found = pareto_front([usd for *_, usd, _ in points], [speed for *_, speed in points])
    return [FrontPoint(scenario=points[at][0], point=points[at][1]) for at in found]


def _warnings(
    parts: Sequence[ScenarioPart], scenarios: Sequence[Resolved], differing: Sequence[Setting]
) -> list[str]:
    """What makes the numbers of the scenarios mean different things."""
    found = []
    keys = {group: [s.key for s in differing if s.group == group and not s.detail] for group in ("load", "model")}
    precision = [s.key for s in differing if s.group == "precision"]
    if keys["load"]:
        found.append(
            f"the loads differ ({', '.join(keys['load'])}): metrics compare the loads too, with what each cluster is "
            "asked for"
        )
    if keys["model"]:
        found.append("the models differ: a token of one is not worth a token of the other")
    if precision:
        found.append(f"the number formats differ ({', '.join(precision)}): quality may differ too")
    if len({tuple(sorted(_claims(r).items())) for r in scenarios}) > 1:
        found.append("the assumptions differ (assume, or stack ideal): numbers on paper are beside measured ones")
    fit = [part.name for part in parts if part.failed is None]
    if parts[0].failed is not None and len(fit) > 1:
        found.append(f"{parts[0].name} cannot be: {fit[0]} is the baseline")
    if len(fit) == 1:
        found.append("only one scenario can be: there is nothing to compare it with")
    return found


def _claims(resolved: Resolved) -> dict[str, str]:
    """What a scenario assumes of hardware and software."""
    ideal = any(getattr(job.stack, "kernels", None) == "datasheet" for job in resolved.jobs)
    return {"assume": resolved.scenario.assume.model_dump_json(exclude_none=True), "ideal": str(ideal)}
