"""From what a scenario says to the terms of a training run: classes of units on the graph, phases, saving times."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, erfc, inf, log, sqrt

import numpy as np

from sim.adapters.resolve import Resolved, ResolvedTraining
from sim.engine.clock import Clock
from sim.errors import InfeasibleError, RunError
from sim.jobs.reliability.effects import Draw, Effect, Terms, always
from sim.jobs.reliability.faults import Failure, Units, failures
from sim.jobs.reliability.progress import Saving
from sim.jobs.reliability.run import Run
from sim.laws.checkpointing import daly_interval, efficiency
from sim.laws.topology import Topology
from sim.laws.training.groups import GroupNetwork
from sim.laws.training.ranks import Ranks
from sim.laws.training.saving import SavingTimes, moving_time, nodes_of, saving_times
from sim.spec.reliability import Checkpoint, Duration, FaultClass, Recovery, Spread, Unit
from sim.spec.training import TrainingJob
from sim.units import format_seconds

#: The 90th percentile of a standard normal variable: what p90 over median says of a lognormal's sigma.
Z90 = 1.2815515655446004
#: Faults of one life at most.
MOST_FAULTS = 300_000


@dataclass(frozen=True, slots=True)
class Reliability:
    """A job's terms, the units that can fail, and how it saves.

    ``recovery``: mean seconds from a fault to the next step, by class. ``interval`` in useful seconds (inf: never),
    ``mtbf`` of what stops the job (inf: nothing), ``recorded`` the faults of a trace: (time, class, unit), ``sizes``
    the bytes of a checkpoint by level.
    """

    terms: Terms
    units: tuple[Units, ...]
    recovery: dict[str, float]
    saving: SavingTimes | None
    interval: float
    mtbf: float
    recorded: tuple[tuple[float, str, int], ...] | None = None
    sizes: tuple[float, ...] = ()

    def start(self, clock: Clock, seed: np.random.SeedSequence) -> Run:
        """A run on ``clock``: faults and durations are drawn from streams of their own."""
        faults, durations = seed.spawn(2)
        return Run(clock, self.terms, self.failures(faults), np.random.default_rng(durations))

    def failures(self, seed: np.random.SeedSequence) -> Iterator[Failure]:
        """The faults of a run: drawn, or those of the trace."""
        if self.recorded is not None:
            return iter([Failure(time, name, unit) for time, name, unit in self.recorded])
        return bounded(failures([u for u in self.units if u.rate > 0.0], seed))

    def without_checkpoint(self) -> list[str]:
        """Classes of faults that take the copies of every level with them."""
        levels = len(self.terms.saving.levels) if self.saving is not None else 0
        struck = {u.name for u in self.units if u.rate > 0.0}
        return [name for name, e in self.terms.effects.items() if levels and len(e.lost) == levels and name in struck]

    def expected(self) -> float | None:
        """Share of wall time that is progress by Daly's law, for a job that restarts after mean recoveries and saves
        in one piece; None where the law does not apply."""
        plain = all(e.kind == "stop" for e in self.terms.effects.values()) and self.terms.policy == "restart"
        saving = self.terms.saving
        kept = saving.then is None and not any(e.lost for e in self.terms.effects.values())
        whole = kept and saving.persist == 0.0 and self.recorded is None and self.terms.spares == inf
        random = all(u.law == "exponential" for u in self.units)
        length = min(self.terms.total, self.terms.horizon)
        if not (plain and whole and random) or self.interval == inf or self.interval > length:
            return None
        rates = {u.name: u.rate for u in self.units}
        total = sum(rates.values())
        if total == 0.0:
            return efficiency(self.interval, self.terms.saving.blocking, 0.0, None)
        recovery = sum(rates[name] * seconds for name, seconds in self.recovery.items()) / total
        return efficiency(self.interval, self.terms.saving.blocking, recovery, 1.0 / total)


def bounded(
    stream: Iterator[Failure], advice: str = "it makes hardly any progress between them; save more often, or shorten it"
) -> Iterator[Failure]:
    """The same. Raises RunError where a run meets more faults than anyone would sit through."""
    for number, failure in enumerate(stream):
        if number >= MOST_FAULTS:
            raise RunError(
                f"{MOST_FAULTS:,} faults in {format_seconds(failure.time)} and the run is not done: {advice}"
            )
        yield failure


def drawn(time: Duration) -> Draw:
    """A time as something to draw: a number, or a lognormal by its median and p90."""
    if not isinstance(time, Spread):
        return always(float(time))
    median, sigma = time.median, log(time.p90 / time.median) / Z90
    return lambda rng: float(median * rng.lognormal(0.0, sigma)) if sigma > 0 else median


def mean_of(time: Duration) -> float:
    """The mean of a time."""
    if not isinstance(time, Spread):
        return float(time)
    sigma = log(time.p90 / time.median) / Z90
    return float(time.median * np.exp(sigma * sigma / 2.0))


def units_of(resolved: Resolved, topology: Topology, gpus: Sequence[int]) -> tuple[Units, ...]:
    """The units of each class that a job on ``gpus`` depends on, and their rates.

    A switch takes all nodes under it, so every switch with one of the job's nodes counts; links are the nodes' ways to
    the network, which a job on one node does not use; software is one unit.
    """
    nodes = nodes_of(topology, gpus)
    links = len(nodes) if len(nodes) > 1 else 0
    counts: dict[Unit, int] = {
        "gpu": len(gpus), "node": len(nodes), "link": links, "switch": _switches(topology, nodes), "job": 1,
    }  # fmt: skip
    return units_among(resolved, counts)


def units_among(resolved: Resolved, counts: Mapping[Unit, int]) -> tuple[Units, ...]:
    """The units of each class of faults where a job has so many of each kind, and their rates."""
    faults = resolved.scenario.faults
    if faults is None:
        return ()
    lemons = faults.lemons
    return tuple(
        Units(
            c.name, counts[c.per], c.mtbf / faults.scale, c.law, c.shape,
            lemons.share if lemons and c.per != "job" else 0.0, lemons.factor if lemons else 1.0,
        )
        for c in resolved.faults
    )  # fmt: skip


def mtbf_of(resolved: Resolved, units: tuple[Units, ...], names: Collection[str] | None = None) -> float:
    """Mean seconds between faults (of some classes) that stop the job; inf: there are none, or only recorded ones."""
    share = {c.name: _stopping(c) if names is None or c.name in names else 0.0 for c in resolved.faults}
    rate = sum(u.rate * share[u.name] for u in units)
    return 1.0 / rate if rate > 0.0 and resolved.fault_trace is None else inf


def _stopping(c: FaultClass) -> float:
    """Share of a class's faults that stop the job: of stalls those that outlast the watchdog."""
    if c.effect != "stall":
        return 0.0 if c.effect == "slow" else 1.0
    if c.timeout is None:
        return 0.0
    if not isinstance(c.lasts, Spread) or c.lasts.p90 == c.lasts.median:
        lasts = c.lasts.median if isinstance(c.lasts, Spread) else c.lasts
        return float(lasts > c.timeout)
    sigma = log(c.lasts.p90 / c.lasts.median) / Z90
    return 0.5 * erfc(log(c.timeout / c.lasts.median) / sigma / sqrt(2.0))


def _switches(topology: Topology, nodes: Sequence[int]) -> int:
    """Switches with a node of the job under them."""
    leaf_spine = topology.spec.network.leaf_spine
    if leaf_spine is not None:
        return len({node // leaf_spine.nodes_per_leaf for node in nodes})
    return max(1, len(topology.spec.network.switches)) if len(nodes) > 1 else 0


def reliability_of(
    resolved: Resolved, job: ResolvedTraining, topology: Topology, ranks: Ranks, network: GroupNetwork, *,
    step: float, network_share: float,
) -> Reliability:  # fmt: skip
    """The terms of a run whose steps take ``step`` s, of which ``network_share`` waits for nodes' cards.

    Raises InfeasibleError where checkpoints have no place to go or the policy does not suit the plan.
    """
    spec, faults = job.spec, resolved.scenario.faults
    units = units_of(resolved, topology, (*ranks.gpus, *ranks.servers) if ranks.servers else ranks.gpus)
    mtbf = mtbf_of(resolved, units)
    recovery, nodes = spec.recovery, len(nodes_of(topology, ranks.gpus))
    lost = {c.name: _lost(spec, _nodes_lost(c, topology, nodes)) for c in resolved.faults}
    scale = job.model.scale_to(resolved.scenario.assume.parameters)
    saving, saved, sizes = None, Saving(inf), list[float]()
    for number, level in reversed(list(enumerate(spec.checkpoint.levels if spec.checkpoint is not None else ()))):
        saving = saving_times(job.model, spec, ranks, topology, network, scale, level)
        sizes.insert(0, saving.size)
        stretch = 1.0 + network_share * (saving.stretch - 1.0)
        needed = [name for name, gone in lost.items() if gone.issuperset(range(number))]
        interval = _interval(spec, level, saving, mtbf_of(resolved, units, needed), step)
        load = saving.load if recovery.load is None and recovery.time is None else 0.0
        then = saved if saved.interval < inf else None
        saved = Saving(interval, saving.blocking, saving.persist, stretch, level.keep, load, then)
    healing = saving.load if saving is not None else 0.0
    connect = recovery.connect + recovery.connect_per_rank * spec.plan.workers
    phases = {c.name: recovery_phases(c, recovery, connect) for c in resolved.faults}
    terms = Terms(
        saving=saved,
        effects={
            c.name: _effect(c, phases[c.name], _nodes_lost(c, topology, nodes), lost[c.name], network_share, recovery)
            for c in resolved.faults
        },
        total=_total(spec, step), horizon=spec.run.duration or inf, policy=spec.policy,
        spares=inf if faults is None or faults.spares is None else float(faults.spares),
        repair=drawn(faults.repair) if faults is not None else always(0.0),
        nodes=nodes, replicas=_replicas(spec, topology, ranks),
        shrink=connect, grow=connect + healing / max(1, spec.plan.dp), startup=recovery.startup or 0.0,
        move=connect + moving_time(job.model, spec, ranks, topology, scale),
    )  # fmt: skip
    expected = sum(u.rate for u in units) * min(terms.horizon, terms.total)
    if expected > MOST_FAULTS and resolved.fault_trace is None:
        raise InfeasibleError(
            f"job {spec.name}: {expected:,.0f} faults are to be expected in the run, more than the {MOST_FAULTS:,} "
            "that are played: are the rates and the length meant?"
        )
    means = {name: sum(mean_of(time) for _, time in parts) for name, parts in phases.items()}
    for name, gone in lost.items():
        means[name] += next((level.load for n, level in enumerate(saved.levels) if n not in gone), 0.0)
    return Reliability(terms, units, means, saving, saved.interval, mtbf, resolved.fault_trace, tuple(sizes))


def _total(spec: TrainingJob, step: float) -> float:
    """Useful seconds of the run; inf where only its duration ends it."""
    if spec.run.tokens is not None:
        return max(1, ceil(spec.run.tokens / (spec.batch.whole * spec.batch.sequence))) * step
    return spec.run.steps * step if spec.run.steps is not None else inf


def _replicas(spec: TrainingJob, topology: Topology, ranks: Ranks) -> int:
    """The data-parallel replicas that an elastic job can lose one by one; 1 for other policies.

    Raises InfeasibleError where they are not whole, or where a node holds parts of more than it must.
    """
    dp = spec.plan.dp
    if spec.policy != "elastic":
        return 1
    if spec.plan.zero or dp == 1 or ranks.servers:
        served = ", with parameter servers" if ranks.servers else ""
        raise InfeasibleError(
            f"job {spec.name}: policy elastic goes on without a replica, which takes dp above 1 and whole replicas: "
            f"dp is {dp}, zero {spec.plan.zero}{served}"
        )
    held: dict[int, set[int]] = {}
    for rank, gpu in enumerate(ranks.gpus):
        held.setdefault(topology.gpus[gpu].node, set()).add(ranks.coordinate(rank, "dp"))
    most = max(len(replicas) for replicas in held.values())
    if most == dp or most > ceil(dp / len(held)):
        raise InfeasibleError(
            f"job {spec.name}: policy elastic goes on without the replicas of a node, and a node holds parts of {most} "
            f"of {dp}: plan.order [tp, cp, pp, dp] keeps replicas together"
        )
    return dp


def _interval(spec: TrainingJob, checkpoint: Checkpoint, saving: SavingTimes, mtbf: float, step: float) -> float:
    """Useful seconds between checkpoints: as stated, in whole steps, or Daly's optimum for ``mtbf`` between what needs
    them."""
    if checkpoint.steps is not None:
        return checkpoint.steps * step
    if checkpoint.every == "auto":
        if mtbf == inf:
            needs = "stop it" if checkpoint is spec.checkpoint else "take the copies of the levels before this one"
            raise InfeasibleError(f"job {spec.name}: checkpoint.every auto: no rate of faults that {needs} is known")
        wanted = daly_interval(max(saving.blocking, 1e-3), mtbf)
        return max(1, round(wanted / step), ceil(saving.persist / step)) * step  # one is durable before the next
    assert checkpoint.every is not None
    return max(step, float(checkpoint.every))


def recovery_phases(c: FaultClass, recovery: Recovery, connect: float) -> list[tuple[str, Duration]]:
    """What comes between a fault of a class and the next step, by bucket, but loading that follows from links.

    A stall that stops a job was noticed by the watchdog, whose timeout has passed.
    """
    if recovery.time is not None:
        return [("restart", recovery.time)]
    found: list[tuple[str, Duration]] = []
    if not c.planned and c.notice is None:
        found += [] if c.effect == "stall" else [("detection", recovery.detect)]
        found.append(("detection", recovery.diagnose))
    if c.repair and c.per != "job":
        found.append(("restart", recovery.replace))
    found += [("restart", recovery.launch), ("restart", connect)]
    return found if recovery.load is None else [*found, ("restart", recovery.load)]


def _ready(recovery: Recovery) -> Draw:
    """Until a spare can take over from a node beside the work: replaced and launched; with one time for all, that."""
    if recovery.time is not None:
        return drawn(recovery.time)
    replace, launch = drawn(recovery.replace), drawn(recovery.launch)
    return lambda rng: replace(rng) + launch(rng)


def _lost(spec: TrainingJob, nodes: int) -> frozenset[int]:
    """Levels of checkpoints whose copies go where so many nodes have to be replaced at once."""
    levels = spec.checkpoint.levels if spec.checkpoint is not None else ()
    return frozenset(number for number, level in enumerate(levels) if not level.outlives(nodes))


def _nodes_lost(c: FaultClass, topology: Topology, held: int) -> int:
    """Nodes of a job of ``held`` nodes that have to be replaced after a fault of a class."""
    if not c.repair or c.per == "job":
        return 0
    return min(held, _nodes_under_a_switch(topology)) if c.per == "switch" else 1


def _effect(
    c: FaultClass, phases: list[tuple[str, Duration]], nodes: int, lost: frozenset[int], network_share: float,
    recovery: Recovery,
) -> Effect:  # fmt: skip
    """What a class does to the job: takes ``nodes`` and levels of checkpoints that are ``lost`` with them.

    Of slow links the slowest sets the pace: the share of a step that waits for links takes ``factor`` times as long.
    """
    factor = 1.0 + network_share * (c.factor - 1.0) if c.per in ("link", "switch") else c.factor
    return Effect(
        kind="save and stop" if c.planned else "notice" if c.notice is not None else c.effect,
        phases=tuple((bucket, drawn(time)) for bucket, time in phases),
        nodes=nodes, factor=factor, seconds=drawn(c.lasts), timeout=c.timeout if c.timeout is not None else inf,
        notice=c.notice or 0.0, lost=lost, ready=_ready(recovery),
    )  # fmt: skip


def _nodes_under_a_switch(topology: Topology) -> int:
    leaf_spine = topology.spec.network.leaf_spine
    return leaf_spine.nodes_per_leaf if leaf_spine is not None else topology.node_count
