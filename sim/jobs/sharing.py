"""Which jobs of a scenario slow each other, and starting the training runs that do.

Two jobs are beside each other where a link could be asked for more than it has: the caps of all flows that may use it
exceed its capacity together, and flows of both are among them (:func:`sim.jobs.training.shared.beside`). Serving jobs
find out the same for themselves; here they get to know what training jobs ask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import simpy

from sim.adapters.resolve import Resolved
from sim.engine.clock import Clock
from sim.engine.network import Network
from sim.jobs.serving.build import Flow
from sim.jobs.training.build import Builder, TrainingBuild
from sim.jobs.training.run import TrainingRecording
from sim.jobs.training.shared import SharedRun, beside, can_be_asked, can_share, flows_of
from sim.jobs.training.writing import Writing, writing_of
from sim.laws.topology import Topology
from sim.spec.reliability import Storage


class Sharing:
    """The training jobs whose steps are played beside other jobs.

    ``asked`` is what each serving job's flows may ask of links. ``beside`` has for each of those training jobs the
    others on its links, ``flows`` what they may ask. ``capacities`` (B/s) are those of the cluster's links, and after
    them of the stores that checkpoints go to. ``stories`` are the processes of serving jobs, to be added as they start.
    ``full``: every rank has its rate alone, as with --detail full.
    """

    def __init__(
        self, resolved: Resolved, topology: Topology, asked: Mapping[str, Sequence[Flow]],
        training: Sequence[TrainingRecording], *, full: bool,
    ) -> None:  # fmt: skip
        self.topology, self.training = topology, training
        alone = len(asked) + len(training) == 1
        self.capacities = topology.capacities() if asked or not alone else []
        self.stories: dict[str, list[simpy.Process]] = {}
        self.flows: list[Flow] = []
        self.beside: dict[str, tuple[str, ...]] = {}
        self._builds: dict[str, tuple[TrainingBuild, Writing | None]] = {}
        if training and not alone:
            self._find(resolved, asked, full=full)

    def _find(self, resolved: Resolved, served: Mapping[str, Sequence[Flow]], *, full: bool) -> None:
        """Who is beside whom on which links."""
        asked: dict[str, Sequence[Flow]] = dict(served)
        others: dict[str, Sequence[Flow]] = {}
        for job in self.training:
            build = job.build
            if can_share(build, faults=resolved.scenario.faults is not None):
                if full:
                    build = Builder(resolved, job.job, self.topology, build.ranks, alone=True).build()
                writing = self._writing(job)
                self._builds[job.name] = build, writing
                asked[job.name] = flows_of(build, self.topology, writing)
            elif can_be_asked(build):
                others[job.name] = flows_of(build, self.topology)
        self.beside = beside(asked, self._builds, self.capacities.__getitem__)
        self.flows = [flow for name in self.beside for flow in asked[name]]
        ignored = beside(asked | others, others, self.capacities.__getitem__)
        for job in self.training:
            job.ignored = ignored.get(job.name, ())

    def _writing(self, job: TrainingRecording) -> Writing | None:
        """A job's checkpoints, and a link for the store they go to."""
        checkpoint, found = job.job.spec.checkpoint, job.reliability
        if checkpoint is None or found is None or found.saving is None:
            return None
        store = None
        if isinstance(checkpoint.to, Storage):
            store = len(self.capacities)
            self.capacities.append(checkpoint.to.write)
        return writing_of(job.job.spec, found.saving, job.build.ranks, self.topology, store)

    def start(self, clock: Clock, network: Network) -> None:
        """Start the runs of training jobs beside others, once all serving jobs have started."""
        runs: dict[str, SharedRun] = {}
        for job in self.training:
            if job.name in self.beside:
                build, writing = self._builds[job.name]
                run = SharedRun(clock, network, job, build, self.topology, writing, self.beside[job.name])
                runs[job.name] = run
                clock.watch(clock.process(run.process()), f"training job {job.name} waits for a step")
        for run in runs.values():
            for name in run.shared.others:
                if name in runs:
                    run.others.append(partial(getattr, runs[name], "active"))
                run.others += [partial(getattr, story, "is_alive") for story in self.stories.get(name, ())]
