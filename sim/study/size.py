"""The search for a size: the cheapest hardware for a load, the least latency or the most tokens for a budget.

Every design is checked by its laws first: memory, and bounds that no simulation of it can beat. Those that remain are
taken best bound first. A design's bound is replaced by its simulated value, and once that comes first it is an answer:
no other design, simulated or not, can be better. The search ends when ``TOP`` answers and the best of every kind of
machine are known; the rest cannot be better and is not simulated. So the answers are those that simulating every
design would give, whatever the number of workers.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, inf
from pathlib import Path
from typing import Any, Final

from sim.adapters.offers import offers_of
from sim.adapters.resolve import Resolved, ResolvedServing, resolve
from sim.adapters.yaml_source import Source, apply_overrides, load_yaml
from sim.errors import InfeasibleError, InputError, Problem, SimError
from sim.jobs.play import play
from sim.probe import answers
from sim.results.assemble import assemble
from sim.results.definitions import definitions_of
from sim.results.schema import Capacity, JobResult, ServingMetrics, TrainingMetrics
from sim.spec.economics import Hosting
from sim.spec.scenario import ServingJob
from sim.spec.sizing import Goal, SizeSpec
from sim.spec.training import TrainingJob
from sim.study.capacity import MOST_REQUESTS, at_rate, find_capacity, missed
from sim.study.executors import Hear, OpenExecutor
from sim.study.pareto import pareto_front
from sim.study.size_play import Checked, Checker, Played, Question, lengths_of, numbers_of, only, play_design
from sim.study.size_schema import TOP, Answer, Coverage, Loss, MachineRow, Own, Sizing, Why, worth
from sim.study.size_space import Design, Space, Variant, space_of
from sim.study.size_winner import winner_scenario
from sim.units import format_count, format_seconds, format_usd

ROUNDS: Final = 3
"""How many times as long as a request may take the load lasts."""
EXCESS: Final = 0.05
"""A rate that is too high by this share lets a queue grow, while the load lasts, to the longest wait allowed."""
WIDTH: Final = 4
"""Designs that are simulated at a time, on however many workers, so that the answer does not depend on them."""


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
    if base.scenario.cost is not None and base.scenario.cost.capital is None and any(o.machine.capital for o in offers):
        text = "machines are bought too: give capital and electricity instead, or name rented machines only"
        raise InputError([source.problem(("cost", "rental"), text)])
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
    limits = job.objectives.model_dump(exclude_none=True)
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
        text = "a sum for one cluster says nothing of another: give per_kw or per_rack, or leave it to the machines"
        problems.append(source.problem(("cost", "hosting"), text))
    if isinstance(job, ServingJob):
        problems += _check_serving(base, job, spec, source)
    else:
        problems += _check_training(job, spec, source)
    if problems:
        raise InputError(problems)


def _check_serving(base: Resolved, job: ServingJob, spec: SizeSpec, source: Source) -> list[Problem]:
    problems = []
    limits = job.objectives.model_dump(exclude_none=True)
    if spec.deadline is not None:
        problems.append(source.problem(("size", "deadline"), "a deadline is for training: requests have objectives"))
    if spec.goal == "latency" and spec.latency == "tpot" and max(lengths_of(base).output) == 1:
        text = "answers of one token have no time between tokens: make ttft small"
        problems.append(source.problem(("size", "latency"), text))
    if spec.goal == "cost" and not limits:
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
        rate = steady.rate if steady is not None else None
    return Question(spec.goal, spec.latency, limits, rate, None)


# -- the search ---------------------------------------------------------------------------------------------


@dataclass(order=True, slots=True)
class _Item:
    """A design in the queue by its best possible value (smaller is better), or by its true one."""

    key: float
    promise: float
    number: int
    design: Design = field(compare=False)
    checked: Checked = field(compare=False)
    played: Played | None = field(compare=False, default=None)


@dataclass(slots=True)
class _Search:
    """What is known while the search goes on."""

    study: Study
    queue: list[_Item] = field(default_factory=list)
    answers: list[_Item] = field(default_factory=list)
    lost: list[tuple[Design, Why, str]] = field(default_factory=list)
    rest: list[_Item] = field(default_factory=list)
    by_laws: int = 0
    misfits: int = 0
    runs: int = 0
    known: dict[str, list[float]] = field(default_factory=dict)

    def ceiling(self, item: _Item) -> float:
        """The value above which a design is neither among the first ``TOP`` nor the best of its machine."""
        every, mine = self.known.get("", []), self.known.get(self.machine(item), [])
        return max(every[TOP - 1] if len(every) >= TOP else inf, mine[0] if mine else inf)

    def machine(self, item: _Item) -> str:
        """The kind of machine of a design."""
        return self.study.space.offers[item.design.offer].machine.id


def size(study: Study, open_executor: OpenExecutor, hear: Hear | None = None) -> Sizing:
    """Search the space. Raises InfeasibleError, with why each kind of design lost, if nothing does what is asked."""
    search = _Search(study)
    _check_all(search, hear)
    with open_executor() as (executor, slots):
        mapped = map if slots == 1 else executor.map
        total, done = len(search.queue), 0
        while search.queue:
            batch = _next(search)
            if not batch:
                break
            alone = [only(study.space, item.design) for item in batch]
            spaces, designs = zip(*alone, strict=True)
            checked, ceilings = [item.checked for item in batch], [search.ceiling(item) for item in batch]
            found = mapped(play_design, spaces, designs, [study.question] * len(batch), checked, ceilings)
            for item, played in zip(batch, found, strict=True):
                _note(search, item, played)
            done += len(batch)
            if hear is not None:
                hear(f"designs: {done} of {total} at most", done / total)
        search.rest += search.queue
        if not search.answers:
            raise InfeasibleError(_nothing(search))
        return _document(search, hear)


def _check_all(search: _Search, hear: Hear | None) -> None:
    study = search.study
    checker = Checker(study.space, study.question)
    sign = -1.0 if study.question.goal == "throughput" else 1.0
    for number, design in enumerate(study.space.designs):
        checked = checker.check(design)
        if checked.lost is None:
            search.queue.append(_Item(sign * checked.best, -checked.promise, number, design, checked))
        else:
            search.lost.append((design, checked.lost, checked.reason))
            search.misfits += checked.lost == "does not fit"
            search.by_laws += checked.lost != "does not fit"
        if hear is not None and number % 100 == 0:
            hear(f"laws: {number} of {len(study.space.designs)}", number / len(study.space.designs))
    heapq.heapify(search.queue)


def _next(search: _Search) -> list[_Item]:
    """The next designs to simulate; answers that come before them are taken on the way."""
    batch: list[_Item] = []
    while search.queue and len(batch) < WIDTH:
        first = search.queue[0]
        if first.played is not None and batch:
            break  # what is simulated now may come before it
        heapq.heappop(search.queue)
        if first.played is not None:
            search.answers.append(first)
        elif first.key <= search.ceiling(first):
            batch.append(first)
        else:
            search.rest.append(first)
    return batch


def _note(search: _Search, item: _Item, played: Played) -> None:
    search.runs += played.runs
    if played.lost is not None:
        search.lost.append((item.design, played.lost, played.reason))
        return
    sign = -1.0 if search.study.question.goal == "throughput" else 1.0
    heapq.heappush(search.queue, _Item(sign * played.value, -inf, item.number, item.design, item.checked, played))
    bisect.insort(search.known.setdefault("", []), sign * played.value)
    bisect.insort(search.known.setdefault(search.machine(item), []), sign * played.value)


# -- the document -------------------------------------------------------------------------------------------


def _document(search: _Search, hear: Hear | None) -> Sizing:
    study, space = search.study, search.study.space
    scenario, job = study.base.scenario, study.base.jobs[0]
    exact = [*search.answers, *sorted(item for item in search.rest if item.played is not None)]
    found = [_answer(space, item, study.question.goal) for item in exact]
    winner = exact[0]
    assert winner.played is not None
    resolved = space.resolved(winner.design, winner.played.units)
    whole = assemble(play(resolved), [], {})
    asked = study.question.rate
    if winner.played.answer is not None and winner.played.answer.capacity is not None:
        asked = winner.played.answer.capacity.rate
    trace = study.written.serving[0].trace if study.written.serving else None
    written = winner_scenario(
        study.source, study.folder, space, winner.design, winner.played.units, rate=asked, trace=trace
    )  # fmt: skip
    unplayed = [item for item in search.rest if item.played is None]
    return Sizing(
        name=scenario.name, about=scenario.about, job=job.spec.name, serves=isinstance(job, ResolvedServing),
        model=job.model.id, goal=study.question.goal, measure=_measure(study), question=_asks(study),
        answers=found, best_by_machine=_by_machine(search, exact), front=_front(found, study.question),
        losses=_losses(search, unplayed), capacity=_capacity(resolved, winner, hear),
        coverage=Coverage(
            designs=len(space.designs), do_not_fit=search.misfits, ruled_out_by_laws=search.by_laws,
            simulated=len(space.designs) - search.misfits - search.by_laws - len(unplayed),
            cannot_be_better=len(unplayed), runs=search.runs,
        ),
        own=_own(study), scenario=written, banners=whole.banners, not_modelled=whole.not_modelled,
        definitions=definitions_of({job.spec.kind}),
    )  # fmt: skip


def _answer(space: Space, item: _Item, goal: Goal) -> Answer:
    played, design = item.played, item.design
    assert played is not None
    assert played.answer is not None
    job = played.answer
    assert job.cost is not None
    offer = space.offers[design.offer]
    cluster = offer.cluster(design.nodes * played.units)
    m = job.metrics
    usd = m.usd_to_target if isinstance(m, TrainingMetrics) else job.cost.usd_per_million_tokens
    return Answer(
        machine=offer.machine.id, network=offer.network.id if offer.network is not None else None,
        nodes=cluster.node_count, gpus=cluster.gpus, gpu=" + ".join(cluster.gpu_types),
        plan=space.plan(design, played.units), settings=space.settings(design), value=played.value,
        capital_usd=job.cost.capital_usd, usd_per_hour=job.cost.usd_per_hour,
        usd_per_million_tokens=usd if isinstance(m, ServingMetrics) else job.cost.usd_per_million_tokens,
        metrics=numbers_of(job), prices_as_of=offer.as_of, notes=_notes(space, design),
    )  # fmt: skip


def _notes(space: Space, design: Design) -> list[str]:
    """What a buyer should know of the machine besides its numbers."""
    offer = space.offers[design.offer]
    cost = space.variants[design.variant].resolved.scenario.cost
    assert cost is not None
    hosted = bool(offer.cost(cost).hosting)
    text = "the licence of its driver does not allow data centres, and this machine is hosted"
    return [f"{gpu.id}: {text}" for gpu in offer.gpus.values() if hosted and not gpu.datacenter]


def _front(found: Sequence[Answer], question: Question) -> list[int]:
    """Answers that no other beats in both cost and speed: a token's time, or days."""
    slow = "days_to_target" if found and "days_to_target" in found[0].metrics else "tpot_s.p50"
    if slow == "days_to_target":
        costs = [a.metrics.get("usd_to_target", a.usd_per_hour) for a in found]
    else:
        costs = [a.usd_per_hour for a in found]
    return pareto_front(costs, [-a.metrics.get(slow, 0.0) for a in found])


def _by_machine(search: _Search, exact: Sequence[_Item]) -> list[MachineRow]:
    """The best of each kind of machine in the order of their values; then those that do not do what is asked."""
    space = search.study.space
    count: dict[str, int] = {}
    for design in space.designs:
        machine = space.offers[design.offer].machine.id
        count[machine] = count.get(machine, 0) + 1
    best: dict[str, int] = {}
    for i, item in enumerate(exact):
        best.setdefault(search.machine(item), i)
    rows = [MachineRow(machine=name, designs=count[name], answer=i, why="") for name, i in best.items()]
    for offer in space.offers:
        name = offer.machine.id
        if name in best or any(row.machine == name for row in rows):
            continue
        mine = [entry for entry in search.lost if space.offers[entry[0].offer].machine.id == name]
        why = "no layout of the model divides its GPUs" if not mine else _nearest(space, mine)
        rows.append(MachineRow(machine=name, designs=count.get(name, 0), answer=None, why=why))
    return rows


#: Reasons from the one that is furthest from what is asked to the nearest.
ORDER: Final[tuple[Why, ...]] = (
    "does not fit", "too many nodes", "over budget", "too late", "misses an objective", "costs more", "slower",
)  # fmt: skip


def _nearest(space: Space, lost: Sequence[tuple[Design, Why, str]]) -> str:
    """The reason of the design that got furthest, in words."""
    design, why, reason = max(lost, key=lambda entry: ORDER.index(entry[1]))
    return f"{why}: {space.told(design)}: {reason}" if why != "does not fit" else reason


def _losses(search: _Search, unplayed: Sequence[_Item]) -> list[Loss]:
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


def _measure(study: Study) -> str:
    serves = isinstance(study.base.jobs[0], ResolvedServing)
    goal = study.question.goal
    if goal == "cost":
        return "USD/h" if serves else "USD to finish"
    if goal == "throughput":
        return "tok/s"
    return f"{study.question.latency.upper()} p50" if serves else "days to finish"


def _asks(study: Study) -> str:
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


def _capacity(resolved: Resolved, winner: _Item, hear: Hear | None) -> Capacity | None:
    """The most that the winner carries within the objectives."""
    job = resolved.jobs[0]
    if not isinstance(job, ResolvedServing) or not job.spec.objectives.model_dump(exclude_none=True):
        return None
    if winner.played is not None and winner.played.answer is not None and winner.played.answer.capacity is not None:
        return winner.played.answer.capacity
    return find_capacity(resolved, play(resolved), 0, hear)


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
        return Own(value=getattr(m, f"{question.latency}_s").p50, why="")
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


def _nothing(search: _Search) -> str:
    """Why no design does what is asked."""
    count = len(search.study.space.designs)
    if not count:
        return "there is no design to look at: no layout of the model divides the GPUs of these machines"
    lines = [f"none of {count:,} designs does what is asked: {_asks(search.study)}"]
    lines += [f"{loss.designs:,} {loss.why}, for example {loss.example}" for loss in _losses(search, [])]
    return "\n".join(lines)


