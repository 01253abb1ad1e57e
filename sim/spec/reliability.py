"""What breaks, how a job saves itself, and how it comes back.

Faults strike units of the cluster (GPUs, nodes, their links, switches) or the job itself (software); the graph says
whom they take with them: a GPU or a link its node, a switch all nodes under it, software nobody. Rates are times
between failures of one unit.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sim.spec.base import Count, Name, Prose, Spec
from sim.spec.hardware import Origin
from sim.units import BytesPerSecond, Fraction, Seconds

SomeTime = Annotated[Seconds, Field(gt=0)]
#: Levels of checkpoints of one job.
MOST_LEVELS = 4
Unit = Literal["gpu", "node", "link", "switch", "job"]
#: What becomes of the requests of a replica that dies.
Failover = Literal["retry", "wait", "fail"]


class Spread(Spec):
    """A time that varies: lognormal with this ``median``, nine of ten below ``p90``."""

    median: SomeTime
    p90: SomeTime

    @model_validator(mode="after")
    def _ordered(self) -> Spread:
        if self.p90 < self.median:
            raise ValueError("p90 is below the median")
        if self.p90 > 1000 * self.median:
            raise ValueError("p90 is more than a thousand times the median")
        return self


Duration = Seconds | Spread


class FaultClass(Spec):
    """One kind of fault. ``mtbf``: mean time between failures of one unit.

    A *link* is a node's way to the switch, its cards together: a job has one on each of its nodes, none where it is on
    one node alone. ``effect``: *stop* ends the job; *slow* makes its steps ``factor`` times as long for ``lasts`` (of a
    link: divides its bandwidth, so that only waiting for links between nodes takes longer); *stall* holds it up for
    ``lasts``, and stops it where that is over ``timeout`` (the watchdog's); *corrupt* is found after ``lasts``, and
    rolls back to a checkpoint from before it. ``repair``: whether nodes must be replaced. ``law``: exponential, or
    Weibull and lognormal with a ``shape`` (k, sigma). ``planned`` stops save first.

    ``notice`` (of stops, seconds): the fault tells of itself so long before the machine goes, as preemptible ones do. A
    job that can make its state durable in that time saves and stops at once; another works on, and is stopped when the
    machine goes. Nothing has to be detected then.
    """

    name: Name
    per: Unit = "gpu"
    mtbf: SomeTime
    effect: Literal["stop", "slow", "stall", "corrupt"] = "stop"
    repair: bool = True
    law: Literal["exponential", "weibull", "lognormal"] = "exponential"
    shape: Annotated[float, Field(gt=0, le=10)] = 1.0
    factor: Annotated[float, Field(ge=1, le=1000)] = 1.0
    lasts: Duration = 0.0
    timeout: SomeTime | None = None
    planned: bool = False
    notice: SomeTime | None = None

    @model_validator(mode="after")
    def _consistent(self) -> FaultClass:
        if self.effect == "slow" and self.factor == 1.0:
            raise ValueError("effect slow needs a factor above 1")
        if self.effect in ("slow", "stall", "corrupt") and self.lasts == 0.0:
            raise ValueError(f"effect {self.effect} needs lasts: how long it takes (or until it is found)")
        if self.timeout is not None and self.effect != "stall":
            raise ValueError("timeout belongs to effect stall")
        if self.planned and self.effect != "stop":
            raise ValueError("planned belongs to effect stop")
        if self.notice is not None and self.effect != "stop":
            raise ValueError("notice belongs to effect stop")
        if self.notice is not None and self.planned:
            raise ValueError("give either planned (it waits until the job has saved) or notice (it does not wait)")
        if self.notice is not None and self.per == "job":
            raise ValueError("notice belongs to machines: software (per: job) does not give any")
        if self.law == "weibull" and self.shape < 0.2:
            raise ValueError("a Weibull's shape is 0.2 or more")
        if self.law == "lognormal" and self.shape > 3.0:
            raise ValueError("a lognormal's shape is 3 or less")
        return self


class FaultPreset(Spec):
    """Faults as somebody saw them on a real cluster."""

    id: Name
    name: Prose
    classes: Annotated[tuple[FaultClass, ...], Field(min_length=1)]
    origin: Origin
    source: Prose
    notes: Prose = ""


class Lemons(Spec):
    """A ``share`` of the units fails ``factor`` times as often as the others."""

    share: Fraction
    factor: Annotated[float, Field(ge=1, le=1000)]


class RecordedFault(Spec):
    """A fault that is known to happen: ``name`` is its class, ``unit`` the number of the GPU, node or switch in the
    topology (of software: of the replica)."""

    time: Seconds
    name: Name
    unit: Annotated[int, Field(ge=0, le=10_000_000)] = 0


class Faults(Spec):
    """What breaks on the cluster. One of: a catalogue ``preset``, a ``rate`` of failures per 1,000 node-days, a mean
    time between failures ``mtbf_per_gpu``, own ``classes``, or a recorded ``trace`` (a CSV of time, class, unit, or a
    list); beside a trace, ``classes`` say what its classes do.

    ``scale`` multiplies all rates. ``spares`` are nodes that stand by (left out: as many as are needed), a node is
    back after ``repair``.
    """

    preset: Name | None = None
    rate: Annotated[float, Field(gt=0, le=1e6)] | None = None
    mtbf_per_gpu: SomeTime | None = None
    classes: Annotated[tuple[FaultClass, ...], Field(min_length=1, max_length=100)] | None = None
    trace: Prose | Annotated[tuple[RecordedFault, ...], Field(min_length=1, max_length=10_000)] | None = None
    scale: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    lemons: Lemons | None = None
    spares: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    repair: Duration = 86_400.0

    @model_validator(mode="after")
    def _one(self) -> Faults:
        ways = ("preset", "rate", "mtbf_per_gpu", "classes", "trace")
        given = [way for way in ways if getattr(self, way) is not None]
        if len(given) != 1 and given != ["classes", "trace"]:
            raise ValueError(f"give exactly one of {', '.join(ways)}, not {' and '.join(given) or 'none'}")
        if self.trace is not None and (self.scale != 1.0 or self.lemons is not None):
            raise ValueError("a trace is replayed as it is: scale and lemons belong to drawn faults")
        names = [c.name for c in self.classes or ()]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two classes are called {twice}")
        return self


class Recovery(Spec):
    """From a failure to the next step of work, phase by phase; ``time`` is one number for all of it.

    ``detect`` (a crash; hangs take the watchdog's ``timeout`` of their class), ``diagnose``, ``replace`` (a spare takes
    the node's place), ``launch`` (containers, imports), ``connect`` (communicators) plus ``connect_per_rank``; then
    the checkpoint is loaded over the real links, which ``load`` replaces.
    """

    time: Duration | None = None
    detect: Duration = 30.0
    diagnose: Duration = 120.0
    replace: Duration = 120.0
    launch: Duration = 120.0
    connect: Seconds = 5.0
    connect_per_rank: Seconds = 1e-3
    load: Duration | None = None
    startup: Seconds | None = None

    def times(self, factor: float) -> Recovery:
        """The same with every part ``factor`` times as long, but the loading that follows from links."""

        def scaled(part: Duration | None) -> Duration | None:
            if isinstance(part, Spread):
                return part.model_copy(update={"median": part.median * factor, "p90": part.p90 * factor})
            return None if part is None else part * factor

        return self.model_copy(update={name: scaled(getattr(self, name)) for name in Recovery.model_fields})


class Storage(Spec):
    """Where checkpoints go that leave the nodes: what the store takes and gives in all, on top of the nodes' cards."""

    write: Annotated[BytesPerSecond, Field(gt=0)]
    read: Annotated[BytesPerSecond, Field(gt=0)] | None = None


class Checkpoint(Spec):
    """How a training job saves. ``every``: a time of work, ``auto`` (Daly's optimum), or a number of ``steps``.

    ``mode``: *sync* stands still until all is written; *async* copies to host memory, writes beside the work and is
    durable only at the end; *memory* copies to a peer node's memory, which outlives the loss of one node, not of
    several at once. ``to``: a store of stated rates over the nodes' cards, which outlives every failure, or each node's
    own ``nvme``, which leaves with its node when that is replaced. ``sharded``: every rank writes its part,
    else one data-parallel rank of each group writes all. ``blocking``, ``persist`` and ``bytes_per_parameter`` replace
    what follows from links and the memory model. ``keep``: how many are kept; corruption older than all of them takes
    the run back to its start. ``then``: the next level, for what the copies of this one do not outlive.
    """

    every: SomeTime | Literal["auto"] | None = None
    steps: Count | None = None
    mode: Literal["sync", "async", "memory"] = "sync"
    to: Literal["nvme"] | Storage | None = None
    sharded: bool = True
    blocking: Seconds | None = None
    persist: Seconds | None = None
    bytes_per_parameter: Annotated[float, Field(gt=0, le=100)] | None = None
    keep: Annotated[int, Field(ge=1, le=1000)] = 1000
    then: Checkpoint | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Checkpoint:
        if (self.every is None) == (self.steps is None):
            raise ValueError("give either every (a time of work, or auto) or steps")
        if self.mode == "sync" and self.persist is not None:
            raise ValueError("persist belongs to modes async and memory: sync stands still until all is written")
        if self.mode == "memory" and self.to is not None:
            raise ValueError("mode memory writes to a peer's memory: leave to out")
        if self.mode != "memory" and self.to is None and self.blocking is None:
            raise ValueError("say where checkpoints go (to: nvme, to: {write: 1 GB/s}) or how long one takes: blocking")
        if len(self.levels) > MOST_LEVELS:
            raise ValueError(f"{len(self.levels)} levels of checkpoints: {MOST_LEVELS} at most")
        return self

    @property
    def levels(self) -> tuple[Checkpoint, ...]:
        """This level and those after it."""
        return (self, *(self.then.levels if self.then is not None else ()))

    @property
    def place(self) -> str:
        """Where its copies go, in a word or two; nothing where only their times are stated."""
        if self.mode == "memory":
            return "peer memory"
        return "nvme" if self.to == "nvme" else "store" if self.to is not None else ""

    def outlives(self, nodes: int) -> bool:
        """Whether its copies are left where ``nodes`` nodes have to be replaced at once."""
        if self.to == "nvme":
            return nodes == 0
        return self.mode != "memory" or nodes <= 1


Policy = Literal["restart", "wait", "elastic", "migrate"]
