"""Which GPU does what: ranks of a training plan on the cluster, and the groups that talk to each other.

A rank's coordinates along the axes tp, cp, dp, pp are the digits of its number, innermost axis first (Megatron's
order by default: tp, cp, dp, pp), so that tensor groups take neighbours and pipeline stages lie farthest apart.
Experts are spread along cp and dp taken together: ``ep`` neighbours of that line hold different experts, and ranks
``ep`` apart hold the same.

Group names: ``tp``, ``cp``, ``dp`` vary along one axis; ``data`` along cp and dp (gradients are summed over it);
``node`` is the part of ``data`` within one node and ``across`` the ranks at the same place of every node (hybrid
sharding); ``ep`` and ``expert_data`` cut ``data`` for experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

from sim.errors import InfeasibleError
from sim.spec.training import MEGATRON_ORDER, TrainingPlan

AXES = MEGATRON_ORDER


@dataclass(frozen=True)
class Ranks:
    """A plan's ranks: ``gpus[r]`` is the GPU of rank r, ``servers`` those of parameter servers."""

    plan: TrainingPlan
    gpus: Sequence[int]
    servers: tuple[int, ...] = ()
    sizes: dict[str, int] = field(init=False)
    strides: dict[str, int] = field(init=False)
    _rank_of: dict[int, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        sizes = {axis: int(getattr(self.plan, axis)) for axis in AXES}
        strides, stride = {}, 1
        for axis in self.plan.order:
            strides[axis] = stride
            stride *= sizes[axis]
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "strides", strides)
        if not isinstance(self.gpus, range):
            self._rank_of.update({gpu: rank for rank, gpu in enumerate(self.gpus)})

    def rank_of(self, gpu: int) -> int | None:
        """The rank a GPU holds, None where it holds none."""
        if isinstance(self.gpus, range):
            return gpu - self.gpus.start if gpu in self.gpus else None
        return self._rank_of.get(gpu)

    def coordinate(self, rank: int, axis: str) -> int:
        """Where a rank stands along an axis."""
        return rank // self.strides[axis] % self.sizes[axis]

    def at(self, **coordinates: int) -> int:
        """The GPU at the given coordinates (0 along the others)."""
        return self.gpus[sum(self.strides[axis] * i for axis, i in coordinates.items())]

    def stage(self, number: int, dp: int = 0) -> tuple[int, ...]:
        """The GPUs that hold a pipeline stage of one data-parallel replica: its tensor and context ranks."""
        cp, tp = range(self.sizes["cp"]), range(self.sizes["tp"])
        return tuple(self.at(pp=number, dp=dp, cp=c, tp=t) for c in cp for t in tp)

    def group_of(self, kind: str, gpu: int) -> tuple[int, ...]:
        """The members of the group of that kind that a GPU belongs to, itself included."""
        rank = self.rank_of(gpu)
        if rank is None:
            raise ValueError(f"GPU {gpu} has no rank in this plan")
        if kind in AXES:
            base = rank - self.coordinate(rank, kind) * self.strides[kind]
            return tuple(self.gpus[base + i * self.strides[kind]] for i in range(self.sizes[kind]))
        line, place = self._data_line(rank)
        if kind == "data":
            return line
        ep = self.plan.ep
        if kind == "ep":
            return line[place // ep * ep : (place // ep + 1) * ep]
        if kind == "expert_data":
            return line[place % ep :: ep]
        raise ValueError(f"unknown kind of group '{kind}'")

    def _data_line(self, rank: int) -> tuple[tuple[int, ...], int]:
        """The ranks along cp and dp, in the order of their numbers, and the place of ``rank`` among them."""
        inner, outer = sorted(("cp", "dp"), key=lambda axis: self.strides[axis])
        i, j = self.coordinate(rank, inner), self.coordinate(rank, outer)
        base = rank - i * self.strides[inner] - j * self.strides[outer]
        steps = product(range(self.sizes[outer]), range(self.sizes[inner]))
        line = tuple(self.gpus[base + a * self.strides[outer] + b * self.strides[inner]] for a, b in steps)
        return line, j * self.sizes[inner] + i


def place_ranks(plan: TrainingPlan, taken: set[int], available: int, job: str) -> Ranks:
    """The GPUs of a plan: its own placement, or the first free ones in order, parameter servers last.

    Raises InfeasibleError when the cluster lacks them, naming the nearest number of replicas that it has.
    """
    if plan.placement is not None:
        wrong = [g for g in plan.placement if g >= available]
        if wrong:
            raise InfeasibleError(
                f"job {job}: placement names GPU {wrong[0]}, the cluster has GPUs 0 to {available - 1}"
            )
        clash = [g for g in plan.placement if g in taken]
        if clash:
            raise InfeasibleError(f"job {job}: GPU {clash[0]} already belongs to another job")
        return Ranks(plan, plan.placement[: plan.workers], plan.placement[plan.workers :])
    if not taken:
        free: Sequence[int] = range(available)
    else:
        free = [g for g in range(available) if g not in taken]
    if plan.gpus > len(free):
        raise InfeasibleError(_too_many(plan, len(free), available, job))
    return Ranks(plan, free[: plan.workers], tuple(free[plan.workers : plan.gpus]))


def _too_many(plan: TrainingPlan, free: int, available: int, job: str) -> str:
    degrees = " x ".join(f"{axis} {getattr(plan, axis)}" for axis in AXES)
    servers = f" + {plan.parameter_server.servers} servers" if plan.parameter_server else ""
    left = f"{free} left of {available}" if free != available else str(available)
    text = f"job {job}: {degrees}{servers} takes {plan.gpus} GPUs, the cluster has {left}"
    rest = plan.tp * plan.cp * plan.pp
    if rest <= free:
        return f"{text}; dp {free // rest} would fit"
    return f"{text}; one replica alone takes {rest}: lower tp, cp or pp"
