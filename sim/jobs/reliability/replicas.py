"""Many lives of one training job among failures: the step is played once, each life costs a few events a failure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.adapters.resolve import Resolved, ResolvedTraining
from sim.engine.clock import Clock
from sim.errors import InfeasibleError
from sim.jobs.reliability.effects import Terms
from sim.jobs.reliability.life import Life
from sim.jobs.reliability.progress import Saving
from sim.jobs.reliability.terms import Reliability, reliability_of
from sim.jobs.training.build import Builder
from sim.jobs.training.run import network_share, play_training, steps_of
from sim.laws.arrange import layouts, topology_of
from sim.laws.topology import Topology
from sim.laws.training.layout import TrainingLayout


@dataclass(frozen=True, slots=True)
class Prepared:
    """A training job ready to live: ``step`` s and ``tokens`` a step, ``network_share`` of it waits for cards."""

    name: str
    gpus: int
    nodes: int
    step: float
    tokens: int
    steps: int
    network_share: float
    reliability: Reliability

    @property
    def terms(self) -> Terms:
        """What a life depends on but the failures."""
        return self.reliability.terms

    @property
    def saving(self) -> Saving:
        """How it saves."""
        return self.reliability.terms.saving

    @property
    def interval(self) -> float:
        """Useful seconds between checkpoints; inf: never."""
        return self.reliability.interval

    @property
    def mtbf(self) -> float:
        """Mean seconds between what stops the job; inf: nothing does."""
        return self.reliability.mtbf


def prepare(resolved: Resolved, like: Prepared | None = None) -> Prepared:
    """The scenario's first training job, its step played once or that of ``like`` (same plan and cluster).

    Raises InfeasibleError where no job trains, or where it cannot be laid out.
    """
    topology = topology_of(resolved)
    pairs = list(zip(resolved.jobs, layouts(resolved, topology), strict=True))
    job, layout = next(((j, x) for j, x in pairs if isinstance(j, ResolvedTraining)), (None, None))
    if job is None:
        raise InfeasibleError("no job of this scenario trains: only training jobs are lived by themselves")
    assert isinstance(layout, TrainingLayout)
    return _again(resolved, job, topology, layout, like) if like else _played(resolved, job, topology, layout)


def _played(resolved: Resolved, job: ResolvedTraining, topology: Topology, layout: TrainingLayout) -> Prepared:
    seed = np.random.SeedSequence(resolved.scenario.seed)
    recording = play_training(resolved, job, topology, layout, Clock(), seed, full=False)
    share, step = network_share(recording), recording.step.seconds
    network = recording.build.network
    found = reliability_of(resolved, job, topology, layout.ranks, network, step=step, network_share=share)
    tokens = job.spec.batch.whole * job.spec.batch.sequence
    steps = steps_of(job, step)
    return Prepared(job.spec.name, len(layout.gpus), found.terms.nodes, step, tokens, steps, share, found)


def _again(
    resolved: Resolved, job: ResolvedTraining, topology: Topology, layout: TrainingLayout, like: Prepared
) -> Prepared:
    network = Builder(resolved, job, topology, layout.ranks).network
    found = reliability_of(
        resolved, job, topology, layout.ranks, network, step=like.step, network_share=like.network_share
    )  # fmt: skip
    steps = steps_of(job, like.step)
    return Prepared(like.name, like.gpus, like.nodes, like.step, like.tokens, steps, like.network_share, found)


def replica(prepared: Prepared, seed: int) -> Life:
    """One life. The same seed gives the same faults whatever the policy, the interval or the scale of rates."""
    clock = Clock()
    run = prepared.reliability.start(clock, np.random.SeedSequence(seed))
    clock.watch(clock.process(run.process()), f"training job {prepared.name} waits for its next event")
    clock.play()
    return run.life
