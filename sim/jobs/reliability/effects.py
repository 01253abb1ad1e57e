"""What a job among failures depends on: the effect of each class of failures, and the terms of its run.

Times are drawn anew for every failure (``Draw``); a recovery is a sequence of phases, each in a bucket of the ledger.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Literal

import numpy as np

from sim.jobs.reliability.progress import Saving
from sim.spec.reliability import Policy

Draw = Callable[[np.random.Generator], float]
#: A part of a recovery: what it is spent on, and how long it takes.
Phase = tuple[str, Draw]
#: What a life is spent on but progress -> the ledger's bucket, named as practice does.
BADPUT = {
    "redone": "lost work redone", "checkpoint": "checkpoint saving", "degraded": "degraded speed",
    "detection": "failure detection", "restart": "restart", "down": "waiting for repair", "stalled": "stalled",
    "startup": "start-up", "shrink": "elastic resizing", "grow": "elastic resizing",
    "migrate": "migration",
}  # fmt: skip


def always(seconds: float) -> Draw:
    """The same time whenever it is drawn."""
    return lambda rng: seconds


@dataclass(frozen=True, slots=True)
class Effect:
    """What a class of failures does.

    ``nodes`` need repair after it (0: the job only restarts). *save and stop*: a planned one, which saves first;
    *notice*: a stop that tells of itself ``notice`` s before (of both, a job that migrates needs ``ready`` s for new
    nodes, beside its work); *slow*: work takes ``factor`` times as long for ``seconds``; *stall*: it stands still for
    ``seconds``, and stops if that is over ``timeout``; *corrupt*: found after ``seconds``. ``phases`` are (bucket,
    time) of its recovery, after which the checkpoint is loaded; copies of levels that are ``lost`` went with the nodes.
    """

    kind: Literal["stop", "save and stop", "notice", "slow", "stall", "corrupt"]
    phases: tuple[Phase, ...] = ()
    nodes: int = 0
    factor: float = 1.0
    seconds: Draw = field(default=always(0.0))
    timeout: float = inf
    notice: float = 0.0
    ready: Draw = field(default=always(0.0))
    lost: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Terms:
    """Everything a run depends on but the failures themselves.

    ``total`` useful seconds are to be done, for at most ``horizon`` s. ``replicas`` of ``nodes`` nodes together;
    ``shrink`` and ``grow`` are what an elastic job takes to go on without, and to take back, a replica; ``move`` is
    what a job that migrates takes to send a node's state to another and to connect.
    """

    saving: Saving
    effects: dict[str, Effect]
    total: float = inf
    horizon: float = inf
    policy: Policy = "restart"
    spares: float = inf
    repair: Draw = field(default=always(0.0))
    nodes: int = 1
    replicas: int = 1
    shrink: float = 0.0
    grow: float = 0.0
    move: float = 0.0
    startup: float = 0.0
