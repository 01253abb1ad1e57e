"""What is left of a serving job when it has been played."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sim.adapters.resolve import ResolvedServing
from sim.engine.timeline import ChannelTrack, DeviceTrack
from sim.jobs.serving.build import Flow
from sim.jobs.serving.fleet import Fleet
from sim.jobs.serving.handover import Handover
from sim.jobs.serving.incidents import Incidents
from sim.jobs.serving.replica import Replica
from sim.jobs.serving.requests import RequestTable
from sim.laws.layout import Layout


@dataclass(frozen=True, slots=True)
class ServingRecording:
    """One serving job as it was played."""

    job: ResolvedServing
    layout: Layout
    table: RequestTable
    replicas: tuple[Replica, ...]
    too_long: int
    cut: int
    incidents: Incidents | None = None
    handover: Handover | None = None
    fleet: Fleet | None = None

    @property
    def name(self) -> str:
        """The job's name."""
        return self.job.spec.name

    @property
    def gpus(self) -> Sequence[int]:
        """The GPUs the job holds."""
        return self.layout.gpus

    @property
    def tracks(self) -> list[tuple[DeviceTrack, float, float]]:
        """Every class of GPUs, with its peak (FLOP/s) and memory bandwidth (B/s)."""
        members = [m for r in self.replicas for s in r.stages for m in s.members]
        return [(m.track, m.law.shape.rates.peak, m.law.shape.rates.bandwidth) for m in members]

    @property
    def handed_over(self) -> list[Flow]:
        """What KV caches on their way to other replicas can ask of links: any number may be on one. Left out is NVLink,
        where they are there in a few milliseconds (docs/not-modelled.md)."""
        flows = self.handover.flows.values() if self.handover is not None else ()
        return [
            Flow(one.track.links, float("inf"), one.queue)
            for several in flows
            for one in several
            if one.track.kind != "nvlink"
        ]

    @property
    def channels(self) -> list[ChannelTrack]:
        """All hops and collectives, with what they carried."""
        stages = [stage for replica in self.replicas for stage in replica.stages]
        found = [t for s in stages for t in (s.collectives, s.hop.track if s.hop else None) if t]
        if self.handover is not None:
            found += [flow.track for flows in self.handover.flows.values() for flow in flows]
        return found
