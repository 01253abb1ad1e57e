"""The document of a search that is over: its answers, the best of every machine, why the others lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from sim.adapters.resolve import Resolved, ResolvedServing
from sim.errors import SimError
from sim.jobs.play import play
from sim.probe import answers
from sim.results.assemble import assemble
from sim.results.cost import licence_warnings
from sim.results.definitions import definitions_of
from sim.results.schema import Capacity, JobResult, TrainingMetrics
from sim.spec.sizing import SizeSpec
from sim.study.capacity import find_capacity, missed
from sim.study.executors import Hear
from sim.study.pareto import pareto_front
from sim.study.size_check import Question
from sim.study.size_play import numbers_of
from sim.study.size_question import Study, asks, measure
from sim.study.size_schema import Answer, Coverage, Loss, MachineRow, Own, Sizing, Why, worth
from sim.study.size_search import Item, Search
from sim.study.size_space import Design, Space
from sim.study.size_winner import winner_scenario
from sim.units import format_seconds, format_usd


def document(search: Search, hear: Hear | None = None) -> Sizing:
    """The document of a search that found an answer."""
    study, space = search.study, search.study.space
    scenario, job = study.base.scenario, study.base.jobs[0]
    exact = [*search.answers, *sorted(item for item in search.rest if item.played is not None)]
    found = [_answer(space, item) for item in exact]
    winner = exact[0]
    assert winner.played is not None
    resolved = space.resolved(winner.design, winner.played.units)
    whole = assemble(play(resolved), [], {})
    found_at = None if winner.played.answer is None else winner.played.answer.capacity
    asked = study.question.rate if found_at is None else found_at.rate
    clients = None if found_at is None else found_at.clients
    trace = study.written.serving[0].trace if study.written.serving else None
    written = winner_scenario(
        study.source, study.folder, space, winner.design, winner.played.units, rate=asked,
        clients=clients, trace=trace,
    )  # fmt: skip
    unplayed = [item for item in search.rest if item.played is None]
    return Sizing(
        name=scenario.name, about=scenario.about, job=job.spec.name, serves=isinstance(job, ResolvedServing),
        model=job.model.id, goal=study.question.goal, measure=measure(study), question=asks(study),
        answers=found, best_by_machine=_by_machine(search, exact), front=_front(found),
        losses=_losses(search, unplayed), capacity=_capacity(resolved, winner, hear),
        coverage=Coverage(
            designs=len(space.designs), do_not_fit=search.misfits, ruled_out_by_laws=search.by_laws,
            simulated=len(space.designs) - search.misfits - search.by_laws - len(unplayed),
            cannot_be_better=len(unplayed), runs=search.runs,
        ),
        own=_own(study), scenario=written, banners=whole.banners, not_modelled=whole.not_modelled,
        definitions=definitions_of({job.spec.kind}),
    )  # fmt: skip


def _answer(space: Space, item: Item) -> Answer:
    played, design = item.played, item.design
    assert played is not None
    assert played.answer is not None
    job = played.answer
    assert job.cost is not None
    offer = space.offers[design.offer]
    cluster = offer.cluster(design.nodes * played.units)
    return Answer(
        machine=offer.machine.id, network=offer.network.id if offer.network is not None else None,
        nodes=cluster.node_count, gpus=cluster.gpus, gpu=" + ".join(cluster.gpu_types),
        plan=space.plan(design, played.units), settings=space.settings(design), value=played.value,
        capital_usd=job.cost.capital_usd, usd_per_hour=job.cost.usd_per_hour,
        usd_per_million_tokens=job.cost.usd_per_million_tokens, metrics=numbers_of(job),
        prices_as_of=offer.as_of, notes=_notes(space, design),
    )  # fmt: skip


def _notes(space: Space, design: Design) -> list[str]:
    """What a buyer should know of the machine besides its numbers."""
    offer = space.offers[design.offer]
    cost = space.variants[design.variant].resolved.scenario.cost
    assert cost is not None
    return licence_warnings(offer.cost(cost), offer.gpus.values())


def _front(found: Sequence[Answer]) -> list[int]:
    """Answers that no other beats in both cost and speed: USD/h and a token's time, or USD and days to finish."""
    trains = "days_to_target" in found[0].metrics
    slow = "days_to_target" if trains else "tpot_s.p50"
    costs = [a.metrics["usd_to_target"] if trains else a.usd_per_hour for a in found]
    return pareto_front(costs, [-a.metrics.get(slow, 0.0) for a in found])


def _by_machine(search: Search, exact: Sequence[Item]) -> list[MachineRow]:
    """The best of each kind of machine in the order of their values; then those that do not do what is asked."""
    space = search.study.space
    count = Counter(search.machine(design) for design in space.designs)
    best: dict[str, int] = {}
    for i, item in enumerate(exact):
        best.setdefault(search.machine(item.design), i)
    rows = [MachineRow(machine=name, designs=count[name], answer=i, why="") for name, i in best.items()]
    for name in dict.fromkeys(offer.machine.id for offer in space.offers if offer.machine.id not in best):
        mine = [entry for entry in search.lost if search.machine(entry[0]) == name]
        why = "no layout of the model divides its GPUs" if not mine else _nearest(space, mine)
        rows.append(MachineRow(machine=name, designs=count[name], answer=None, why=why))
    return rows


#: Reasons from the one that is furthest from what is asked to the nearest.
ORDER: Final[tuple[Why, ...]] = (
    "does not fit", "too many nodes", "over budget", "too late", "misses an objective", "costs more", "slower",
)  # fmt: skip


def _nearest(space: Space, lost: Sequence[tuple[Design, Why, str]]) -> str:
    """The reason of the design that got furthest, in words."""
    design, why, reason = max(lost, key=lambda entry: ORDER.index(entry[1]))
    return f"{why}: {space.told(design)}: {reason}" if why != "does not fit" else reason


def _losses(search: Search, unplayed: Sequence[Item]) -> list[Loss]:
    space, goal = search.study.space, search.study.question.goal
    rows: list[Loss] = []
    for kind in ORDER:
        mine = [entry for entry in search.lost if entry[1] == kind]
        if mine:
            design, _, reason = mine[-1]
            rows.append(Loss(why=kind, designs=len(mine), example=f"{space.told(design)}: {reason}"))
    if unplayed:
        first = min(unplayed)
        bound = worth(goal, isinstance(search.study.base.jobs[0], ResolvedServing), abs(first.key))
        most = "at most" if goal == "throughput" else "at least"
        why: Why = "costs more" if goal == "cost" else "slower"
        others = sum(row.designs for row in rows if row.why == why)
        rows = [row for row in rows if row.why != why]
        example = f"{space.told(first.design, first.checked.least)}: {bound} {most}"
        rows.append(Loss(why=why, designs=others + len(unplayed), example=example))
    return rows


def _capacity(resolved: Resolved, winner: Item, hear: Hear | None) -> Capacity | None:
    """The most that the winner carries within the objectives."""
    job = resolved.jobs[0]
    if not isinstance(job, ResolvedServing) or not job.spec.limits:
        return None
    if winner.played is not None and winner.played.answer is not None and winner.played.answer.capacity is not None:
        return winner.played.answer.capacity
    return find_capacity(resolved, play(resolved), 0, hear)


def nothing(search: Search) -> str:
    """Why no design does what is asked."""
    count = len(search.study.space.designs)
    if not count:
        return "there is no design to look at: no layout of the model divides the GPUs of these machines"
    lines = [f"none of {count:,} designs does what is asked: {asks(search.study)}"]
    lines += [f"{loss.designs:,} {loss.why}, for example {loss.example}" for loss in _losses(search, [])]
    return "\n".join(lines)


def _own(study: Study) -> Own:
    """What the scenario's own cluster does."""
    question, resolved = study.question, study.base
    try:
        (job,) = answers(resolved)
    except SimError as error:
        return Own(value=None, why=str(error).splitlines()[0])
    if (why := _fails(job, question, study.space.spec)) is not None:
        return Own(value=None, why=why)
    m = job.metrics
    if question.goal == "cost":
        usd = job.cost.usd_per_hour if job.cost is not None else None
        return Own(value=m.usd_to_target if isinstance(m, TrainingMetrics) else usd, why="")
    if isinstance(m, TrainingMetrics):
        return Own(value=m.days_to_target if question.goal == "latency" else m.tokens_per_s, why="")
    if question.goal == "latency":
        median = getattr(m, f"{question.latency}_s").p50
        return Own(value=median, why="" if median is not None else f"it has no {question.latency}")
    return Own(value=m.output_tokens_per_s, why="at its own load")


def _fails(job: JobResult, question: Question, spec: SizeSpec) -> str | None:
    m, cost = job.metrics, job.cost
    if spec.budget is not None and cost is not None and (cost.capital_usd is None or cost.capital_usd > spec.budget):
        return "it is over the budget" if cost.capital_usd is not None else "it is rented, and the budget is for buying"
    if spec.budget_per_hour is not None and cost is not None and cost.usd_per_hour > spec.budget_per_hour:
        return f"it costs {format_usd(cost.usd_per_hour)}/h"
    if isinstance(m, TrainingMetrics):
        days = m.days_to_target
        late = days is None or (question.deadline is not None and days * 86_400 > question.deadline)
        return f"takes {format_seconds((days or 0) * 86_400)}" if late else None
    return missed(job) or None
