"""What is kept of a training run that was lived through its failures."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

import numpy as np

from sim.engine.timeline import Bins
from sim.jobs.reliability.progress import Progress


class Stretch(NamedTuple):
    """What a run did between two instants."""

    kind: str
    start: float
    end: float


@dataclass(slots=True)
class Life:
    """A run that was lived: when it ended, its seconds by bucket, its failures by class, and what it did when.

    ``stops`` counts what ended work, ``interrupted_recoveries`` what started a recovery or the start-up over; ``lost``
    are useful seconds that they took back. ``gone``: from when until when a node was away that no spare stood in for.
    """

    progress: Progress
    end: float = 0.0
    finished: bool = False
    failures: dict[str, int] = field(default_factory=dict)
    stops: int = 0
    interrupted_recoveries: int = 0
    lost: float = 0.0
    spares_least: float = inf
    stretches: list[Stretch] = field(default_factory=list)
    gone: list[tuple[float, float]] = field(default_factory=list)

    @property
    def missing(self) -> float:
        """Node-seconds of the life in which nodes were away that no spare stood in for."""
        return sum(max(0.0, min(end, self.end) - start) for start, end in self.gone)

    @property
    def buckets(self) -> dict[str, float]:
        """Seconds by what they were spent on; they add up to the run's length."""
        return self.progress.buckets

    def over_time(self, *kinds: str) -> Bins:
        """Seconds spent on some kinds of stretches over time; the bins are those of the whole life."""
        bins = Bins()
        bins.add(self.end, self.end, 0.0)  # they grow to their width once
        held = [s for s in self.stretches if s.kind in kinds]
        starts, ends = np.array([s.start for s in held]), np.array([s.end for s in held])
        bins.add_many(starts, ends, ends - starts)
        return bins

    @property
    def ettr(self) -> float:
        """Effective training time ratio: progress over wall time."""
        return self.progress.high / self.end if self.end > 0.0 else 1.0
