"""The question of a size: what the scenario asks for, checked and put in words, and the space it is looked for in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Final

from sim.adapters.offers import Offer, offers_of
from sim.adapters.resolve import Resolved, ResolvedServing, resolve
from sim.adapters.yaml_source import Source, apply_overrides, load_yaml
from sim.errors import InputError, Problem
from sim.jobs.serving.load import requests_per_arrival
from sim.spec.economics import Hosting
from sim.spec.scenario import ServingJob
from sim.spec.sizing import SizeSpec
from sim.spec.training import TrainingJob
from sim.study.loads import MOST_REQUESTS, at_rate
from sim.study.size_check import Question, lengths_of
from sim.study.size_space import Space, Variant, space_of
from sim.units import format_count, format_seconds, format_usd

ROUNDS: Final = 3
"""How many times as long as a request may take the load lasts."""
EXCESS: Final = 0.05
"""A rate that is too high by this share lets a queue grow, while the load lasts, to the longest wait allowed."""


@dataclass(frozen=True, slots=True)
class Study:
    """A search that can begin."""

    base: Resolved
    space: Space
    question: Question
    source: Source
    folder: Path
    written: Resolved
    """The scenario before its load was changed to what is asked."""


def prepare(path: Path, overrides: Sequence[str], seed: int | None, vary: Mapping[str, Sequence[Any]]) -> Study:
    """Read the scenario, what hardware there is, and list every design. ``vary`` replaces that of the file.

    Raises InputError for anything that is wrong with the scenario, or does not make a question.
    """
    source = load_yaml(path)
    if overrides or seed is not None:
        source = apply_overrides(source, [*overrides, *([f"seed={seed}"] if seed is not None else [])])
    folder = Path(path).parent
    base = resolve(source, folder)
    spec = base.scenario.size or SizeSpec()
    if vary:
        spec = spec.model_copy(update={"vary": {key: tuple(values) for key, values in vary.items()}})
    _check(base, spec, source)
    offers = offers_of(base.scenario, source, spec.machines, spec.networks)
    _check_terms(base, offers, source)
    space = space_of(base, source, folder, spec, offers)
    question, written = _question(base, spec), base
    if question.rate is not None:
        variants = tuple(_asked(variant, question.rate) for variant in space.variants)
        space = Space(space.spec, space.offers, variants, space.designs)
        base = _asked(Variant({}, base), question.rate).resolved
    return Study(base, space, question, source, folder, written)


def _asked(variant: Variant, rate: float) -> Variant:
    """The variant under so many requests/s, for at least ``ROUNDS`` times as long as one may take."""
    job = variant.resolved.serving[0].spec
    output = lengths_of(variant.resolved).output
    limits = job.limits
    longest = sum(
        max((v for name, v in limits.items() if name.startswith(measure)), default=0.0) * times
        for measure, times in (("ttft", 1.0), ("tpot", sum(output) / len(output)), ("latency", 1.0))
    )
    wait = max((v for name, v in limits.items() if not name.startswith("tpot")), default=0.0)
    needed = min(MOST_REQUESTS, ceil(rate * max(ROUNDS * longest, wait / EXCESS)))
    requests = max(job.load.requests or 1, needed)
    return Variant(variant.settings, at_rate(variant.resolved, 0, rate, requests))


def _check(base: Resolved, spec: SizeSpec, source: Source) -> None:
    """Raise InputError where there is nothing to search for."""
    scenario, problems = base.scenario, []
    job = scenario.jobs[0]
    if len(scenario.jobs) > 1:
        problems.append(source.problem(("jobs",), f"a size is for one job, this scenario has {len(scenario.jobs)}"))
    paid = scenario.cost
    if paid is None:
        text = "hardware is bought and runs on power: say what that costs (cost: capital, electricity, amortisation)"
        problems.append(source.problem((), text))
    elif not isinstance(paid.hosting, Hosting) and paid.hosting > 0.0:
        text = "a sum for one cluster says nothing of another: give per_kw, price or per_rack, or leave it to machines"
        problems.append(source.problem(("cost", "hosting"), text))
    if isinstance(job, ServingJob):
        problems += _check_serving(base, job, spec, source)
    else:
        problems += _check_training(job, spec, source)
    if problems and scenario.size is None:
        text = "has no size block (goal, throughput, machines, networks), which says what to look for and among what"
        problems.insert(0, source.problem((), text))
    if problems:
        raise InputError(problems)


def _check_terms(base: Resolved, offers: Sequence[Offer], source: Source) -> None:
    """Raise InputError where machines are bought and nothing is said of what power costs."""
    cost = base.scenario.cost
    if cost is not None and cost.capital is None and any(offer.machine.capital for offer in offers):
        bought = list(dict.fromkeys(offer.machine.id for offer in offers if offer.machine.capital))
        some = ", ".join(bought[:3]) + (" and others" if len(bought) > 3 else "")
        text = (
            f"bought machines ({some}) pay for power: in place of rental give capital (of the scenario's own cluster) "
            "and electricity, or name rented machines only (size: machines)"
        )
        raise InputError([source.problem(("cost", "rental"), text)])


def _check_serving(base: Resolved, job: ServingJob, spec: SizeSpec, source: Source) -> list[Problem]:
    problems = []
    for key in ("disaggregate", "autoscale"):
        if getattr(job, key) is not None:
            text = "a search lays replicas out itself, all alike and all on: leave this out"
            problems.append(source.problem(("jobs", 0, key), text))
    if spec.deadline is not None:
        problems.append(source.problem(("size", "deadline"), "a deadline is for training: requests have objectives"))
    if spec.goal == "latency" and spec.latency == "tpot" and max(lengths_of(base).output) == 1:
        text = "answers of one token have no time between tokens: make ttft small"
        problems.append(source.problem(("size", "latency"), text))
    if spec.goal == "cost" and not job.limits:
        text = "the cheapest hardware is sought within latency limits: state some, e.g. {tpot_p99: 200 ms}"
        problems.append(source.problem(("jobs", 0, "objectives"), text))
    if spec.goal == "throughput" and spec.throughput is not None:
        text = "goal throughput finds how many tokens/s a budget buys: leave throughput out, or take goal cost"
        problems.append(source.problem(("size", "throughput"), text))
    return problems


def _check_training(job: TrainingJob, spec: SizeSpec, source: Source) -> list[Problem]:
    problems = []
    if spec.throughput is not None:
        problems.append(source.problem(("size", "throughput"), "throughput is for serving: training has a deadline"))
    if not job.run.target_tokens and not job.run.tokens:
        text = "say how many tokens to train on (run: target_tokens): the search prices the whole of it"
        problems.append(source.problem(("jobs", 0, "run"), text))
    if job.plan.parameter_server is not None:
        text = "plans with parameter servers are not searched: leave it out"
        problems.append(source.problem(("jobs", 0, "plan", "parameter_server"), text))
    return problems


def _question(base: Resolved, spec: SizeSpec) -> Question:
    job = base.jobs[0]
    if not isinstance(job, ResolvedServing):
        return Question(spec.goal, spec.latency, {}, None, spec.deadline)
    limits = job.spec.objectives.model_dump(exclude_none=True)
    drawn = lengths_of(base)
    rate: float | None = None
    if spec.throughput is not None:
        rate = spec.throughput * len(drawn.output) / sum(drawn.output)
    elif spec.goal != "throughput":
        load = job.spec.load
        steady = load.poisson or load.gamma or load.deterministic
        rate = steady.rate * requests_per_arrival(load) if steady is not None else None
    return Question(spec.goal, spec.latency, limits, rate, None)


# -- in words -----------------------------------------------------------------------------------------------


def measure(study: Study) -> str:
    """What the goal's value is, with its unit."""
    serves = isinstance(study.base.jobs[0], ResolvedServing)
    goal = study.question.goal
    if goal == "cost":
        return "USD/h" if serves else "USD to finish"
    if goal == "throughput":
        return "tok/s"
    return f"{study.question.latency.upper()} p50" if serves else "days to finish"


def asks(study: Study) -> str:
    """The question in a sentence."""
    spec, question, job = study.space.spec, study.question, study.base.jobs[0]
    goals = {"cost": "The cheapest hardware", "latency": "The least latency", "throughput": "The most tokens/s"}
    if not isinstance(job, ResolvedServing):
        goals["latency"] = "The fewest days"
    parts = [f"{goals[question.goal]} for {job.model.id}"]
    if isinstance(job, ResolvedServing):
        loop = job.spec.load.closed_loop
        if question.goal != "throughput" and spec.throughput is not None:
            parts.append(f"at {format_count(spec.throughput)} tok/s")
        elif question.goal != "throughput" and loop is not None:
            parts.append(f"for {loop.clients:,} {'client' if loop.clients == 1 else 'clients'} at once")
        elif question.goal != "throughput" and question.rate is not None:
            parts.append(f"at {format_count(question.rate)} req/s")
        limits = [f"{name.replace('_', ' ')} {format_seconds(limit)}" for name, limit in question.limits.items()]
        parts += [f"within {', '.join(limits)}"] if limits else []
    else:
        tokens = job.spec.run.target_tokens or job.spec.run.tokens or 0
        parts.append(f"on {format_count(float(tokens))} tokens")
        parts += [f"within {format_seconds(question.deadline)}"] if question.deadline is not None else []
    parts += [f"for {format_usd(spec.budget)}"] if spec.budget is not None else []
    parts += [f"for {format_usd(spec.budget_per_hour)}/h"] if spec.budget_per_hour is not None else []
    return ", ".join(parts).replace(", at ", " at ", 1).replace(", on ", " on ", 1) + "."
