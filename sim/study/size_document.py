"""The document of a search that is over: its answers, the best of every machine, why the others lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import isfinite
from typing import Final

from sim.adapters.resolve import Resolved, ResolvedServing
from sim.errors import SimError
from sim.jobs.play import play
from sim.probe import answers, with_saturation
from sim.results.assemble import assemble
from sim.results.cost import licence_warnings
from sim.results.definitions import definitions_of
from sim.results.schema import Capacity, JobResult, TrainingMetrics
from sim.spec.sizing import SizeSpec
from sim.study.capacity import find_capacity
from sim.study.executors import Hear
from sim.study.pareto import pareto_front
from sim.study.size_check import Question
from sim.study.size_play import numbers_of
from sim.study.size_question import Study, asks, measure
from sim.study.size_schema import Answer, Coverage, Loss, MachineRow, Miss, Own, Sizing, Why, worth
from sim.study.size_search import Item, Lost, Search
from sim.study.size_space import Design, Space
from sim.study.size_winner import winner_scenario
from sim.study.trials import missed
from sim.units import format_seconds, format_usd


def document(search: Search, hear: Hear | None = None) -> Sizing:
    """The document of a search that found an answer."""
    study, space = search.study, search.study.space
    exact = search.found
    found = [_answer(space, item) for item in exact]
    winner = exact[0]
    assert winner.played is not None
    resolved = space.resolved(winner.design, winner.played.units)
    recording = play(resolved)
    whole = with_saturation(assemble(recording, [], {}), resolved, recording)
    found_at = None if winner.played.answer is None else winner.played.answer.capacity
    asked = study.question.rate if found_at is None else found_at.rate
    clients = None if found_at is None else found_at.clients
    trace = study.written.serving[0].trace if study.written.serving else None
    written = winner_scenario(
        study.source, study.folder, space, winner.design, winner.played.units, rate=asked,
        clients=clients, trace=trace, requests=winner.played.requests,
    )  # fmt: skip
    (told,) = whole.jobs
    return _frame(search).model_copy(update={
        "answers": found, "best_by_machine": _by_machine(search, exact), "front": _front(found),
        "capacity": _capacity(resolved, winner, study.question, hear), "scenario": written,
        "expected_error": told.expected_error, "expected_ttft_error": told.expected_ttft_error,
        "expected_tpot_error": told.expected_tpot_error, "warnings": whole.verdict.warnings,
        "notes": [*told.notes, *_asked_for_more(resolved, study.question, found)],
        "banners": whole.banners, "not_modelled": whole.not_modelled,
    })  # fmt: skip


def _asked_for_more(resolved: Resolved, question: Question, answers: list[Answer]) -> list[str]:
    """That clients who wait for their answers ask less of a slow cluster, where another makes tokens for less."""
    job, first = resolved.jobs[0], answers[0]
    if not isinstance(job, ResolvedServing) or job.spec.load.closed_loop is None or question.goal != "cost":
        return []
    priced = [(a.usd_per_million_tokens, a) for a in answers if a.usd_per_million_tokens is not None]
    usd, least = min(priced, key=lambda pair: pair[0], default=(0.0, first))
    if first.usd_per_million_tokens is None or usd >= first.usd_per_million_tokens:
        return []
    return [
        f"its clients wait for their answers and ask less of a slower cluster; of these designs {least.nodes:,} x "
        f"{least.machine} ({least.plan}) makes tokens for least, {format_usd(usd)}/Mtok against "
        f"{format_usd(first.usd_per_million_tokens)}/Mtok"
    ]


def unanswered(search: Search) -> Sizing:
    """The document of a search that found nothing: why, and what came nearest."""
    return _frame(search).model_copy(update={"nearest": _nearest_miss(search)})


def _frame(search: Search) -> Sizing:
    """What there is to say whether anything was found or not."""
    study, space = search.study, search.study.space
    scenario, job = study.base.scenario, study.base.jobs[0]
    unplayed = [item for item in (*search.rest, *search.queue) if item.played is None]
    return Sizing(
        name=scenario.name, about=scenario.about, job=job.spec.name, serves=isinstance(job, ResolvedServing),
        model=job.model.id, goal=study.question.goal, measure=measure(study), question=asks(study),
        answers=[], best_by_machine=_by_machine(search, []), front=[], losses=_losses(search, unplayed), capacity=None,
        coverage=Coverage(
            designs=len(space.designs), do_not_fit=search.misfits, ruled_out_by_laws=search.by_laws,
            simulated=len(space.designs) - search.misfits - search.by_laws - len(unplayed),
            cannot_be_better=len(unplayed), runs=search.runs,
        ),
        own=_own(study), scenario=None, definitions=definitions_of({job.spec.kind}),
    )  # fmt: skip


def _nearest_miss(search: Search) -> Miss | None:
    """The lost design that is over by the fewest times; None if there is no design."""
    if not search.lost:
        return None
    space, lost = search.study.space, _nearest(search.lost)
    return Miss(
        design=space.told(lost.design, lost.units), why=lost.why, reason=lost.reason,
        over=lost.over if isfinite(lost.over) else None, capital_usd=space.capital(lost.design, lost.units),
        usd_per_hour=space.idle_usd_per_hour(lost.design, lost.units),
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
        prices_as_of=offer.as_of, notes=_notes(space, design), confirmed=played.settled, requests=played.requests,
        seeds=list(played.seeds),
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
        mine = [lost for lost in search.lost if search.machine(lost.design) == name]
        why = "no layout of the model divides its GPUs" if not mine else _in_words(space, _nearest(mine))
        rows.append(MachineRow(machine=name, designs=count[name], answer=None, why=why))
    return rows


#: Reasons from the one that is furthest from what is asked to the nearest.
ORDER: Final[tuple[Why, ...]] = (
    "does not fit", "too many nodes", "over budget", "too late", "misses an objective", "costs more", "slower",
)  # fmt: skip


def _nearest(lost: Sequence[Lost]) -> Lost:
    """The design that is over by the fewest times or, where that is not known, got furthest."""
    return min(lost, key=lambda one: (one.over, -ORDER.index(one.why)))


def _in_words(space: Space, lost: Lost) -> str:
    told = f"{lost.why}: {space.told(lost.design, lost.units)}: {lost.reason}"
    return told if lost.why != "does not fit" else lost.reason


def _losses(search: Search, unplayed: Sequence[Item]) -> list[Loss]:
    space, goal = search.study.space, search.study.question.goal
    rows: list[Loss] = []
    for kind in ORDER:
        mine = [lost for lost in search.lost if lost.why == kind]
        if mine:
            one = _nearest(mine)
            example = f"{space.told(one.design, one.units)}: {one.reason}"
            rows.append(Loss(why=kind, designs=len(mine), example=example))
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


def _capacity(resolved: Resolved, winner: Item, question: Question, hear: Hear | None) -> Capacity | None:
    """The most that the winner carries within the objectives; no less than what it is known to carry."""
    job = resolved.jobs[0]
    if not isinstance(job, ResolvedServing) or not job.spec.limits:
        return None
    if winner.played is not None and winner.played.answer is not None and winner.played.answer.capacity is not None:
        return winner.played.answer.capacity
    loop = job.spec.load.closed_loop
    floor = question.rate if loop is None else float(loop.clients)
    return find_capacity(resolved, play(resolved), 0, hear, floor=floor or 0.0)


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


def so_far(search: Search) -> str:
    """What a search that was interrupted knows."""
    c, known = len(search.study.space.designs), search.found
    looked = f"interrupted after {search.runs:,} runs, {len(search.queue):,} of {c:,} designs not looked at to the end"
    if not known:
        return f"{looked}; nothing that does what is asked was found yet"
    best = known[0]
    assert best.played is not None
    serves = isinstance(search.study.base.jobs[0], ResolvedServing)
    design = search.study.space.told(best.design, best.played.units)
    sure = "" if best.played.settled else ", by short runs of one seed: not confirmed"
    return f"{looked}; the best so far: {design}: {worth(search.study.question.goal, serves, best.played.value)}{sure}"
