"""A comparison of scenarios: the same seeds for each, their range of loads, and when which one pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from sim.adapters.resolve import Resolved
from sim.errors import InfeasibleError, InputError, Problem, RunError
from sim.study.compare_config import settings
from sim.study.compare_demand import against, against_api, by_demand, by_load
from sim.study.compare_pairs import difference, waterfall
from sim.study.compare_parts import by_path, failure, is_random, labelled, part
from sim.study.compare_play import Failure, Run, play_point, play_run
from sim.study.compare_schema import (
    AtEqual,
    Comparison,
    CurvePoint,
    FrontPoint,
    Pair,
    ScenarioPart,
    Setting,
    SplitBy,
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


def _seeds(resolved: Resolved, first: int, count: int) -> list[int]:
    """The seeds a scenario is played with: one will do where nothing is random."""
    return [first + i for i in range(count if is_random(resolved) else 1)]


def _seeded(resolved: Resolved, seed: int) -> Resolved:
    return replace(resolved, scenario=resolved.scenario.model_copy(update={"seed": seed}))


def _refuse_if_none(runs: Sequence[Sequence[Run | Failure]]) -> None:
    """Raise if no scenario has an answer."""
    failures = [failure(mine) for mine in runs]
    known = [failure for failure in failures if failure is not None]
    if len(known) < len(runs):
        return
    text = "\n".join(dict.fromkeys(failure.reason for failure in known))
    if all(failure.kind == "infeasible" for failure in known):
        raise InfeasibleError(text)
    raise RunError(text)


def _answered(runs: Sequence[Run | Failure]) -> list[Run]:
    return [run for run in runs if isinstance(run, Run)]


def _curve_plan(runs: Sequence[Sequence[Run | Failure]]) -> list[tuple[int, int, float]]:
    """Scenario, clients and ramp of every point: from one client to a quarter more than the cluster holds."""
    plan = []
    for i, mine in enumerate(runs):
        first = mine[0]
        if failure(mine) is None and isinstance(first, Run) and first.most is not None:
            counts = {round(first.most ** (n / (POINTS - 1))) for n in range(POINTS)}
            plan += [(i, clients, first.service_s) for clients in sorted(counts)]
    return plan


# -- differences --------------------------------------------------------------------------------------------


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


# -- the document -------------------------------------------------------------------------------------------


def _document(
    scenarios: Sequence[Resolved], played: Sequence[Sequence[Run | Failure]], curves: Sequence[Sequence[CurvePoint]],
    seed: int, options: Options,
) -> Comparison:  # fmt: skip
    runs = [[] if failure(mine) else _answered(mine) for mine in played]
    fit = [i for i, mine in enumerate(runs) if mine]
    baseline = fit[0]
    factors = _factors(runs, baseline, options.at_equal)
    every = [run for mine in runs for run in mine]
    split_by = next((name for name in SPLITS if all(name in run.metrics for run in every)), None)
    parts = [
        part(r, mine, found, curve, factor, split_by)
        for r, mine, found, curve, factor in zip(scenarios, runs, played, curves, factors, strict=True)
    ]
    parts = labelled(parts)
    columns = [by_path(mine, factor) if mine else {} for mine, factor in zip(runs, factors, strict=True)]
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
