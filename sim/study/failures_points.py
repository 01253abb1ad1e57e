"""Points of a study of failures: sizes, times between failures, intervals and policies of one training job.

More nodes scale weakly: nodes, data-parallel replicas and the global batch grow together, the work of one GPU stays.
A time between failures is a factor on the scenario's own (``x0.5``: everything fails twice as often), or a time per
GPU (``50000 h``), which replaces the scenario's faults by one kind that stops the job.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from typing import Any, Final, Literal, TypeVar, get_args

from sim.adapters.resolve import Resolved, ResolvedTraining, with_spec
from sim.errors import InputError, Problem, did_you_mean
from sim.spec.reliability import FaultClass, Faults, Policy
from sim.spec.topology import MAX_NODES, TopologySpec
from sim.spec.training import TrainingJob
from sim.units import SECONDS, UnitError, parse

T = TypeVar("T")

MAX_POINTS: Final = 500
"""More points than this are a slip of the pen."""
POLICIES: Final[tuple[Policy, ...]] = get_args(Policy)


@dataclass(frozen=True, slots=True)
class Mtbf:
    """A time between failures as the user wrote it: a ``factor`` on the scenario's, or ``seconds`` of one GPU."""

    text: str
    factor: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Every:
    """Work between checkpoints: seconds, or Daly's optimum."""

    text: str
    value: float | Literal["auto"]


@dataclass(frozen=True, slots=True)
class Point:
    """One setting of all axes; None keeps the scenario's own value."""

    nodes: int | None = None
    mtbf: Mtbf | None = None
    every: Every | None = None
    policy: Policy | None = None


@dataclass(frozen=True, slots=True)
class Axes:
    """What a study varies; an empty axis keeps the scenario's own value."""

    nodes: tuple[int, ...] = ()
    mtbf: tuple[Mtbf, ...] = ()
    every: tuple[Every, ...] = ()
    policies: tuple[Policy, ...] = ()

    def points(self) -> tuple[Point, ...]:
        """Every combination, policies fastest. Raises InputError for too many."""
        axes: list[Sequence[Any]] = [axis or (None,) for axis in (self.nodes, self.mtbf, self.every, self.policies)]
        points = tuple(Point(*values) for values in product(*axes))
        if len(points) > MAX_POINTS:
            raise _wrong(None, f"{len(points):,} points are more than {MAX_POINTS}")
        return points


# -- what the user wrote ------------------------------------------------------------------------------------


def read_axes(nodes: str | None, mtbf: str | None, checkpoint: str | None, policy: str | None) -> Axes:
    """The options' lists. Raises InputError with everything that is wrong with them."""
    problems: list[Problem] = []

    def read(option: str, text: str | None, one: Callable[[str, str], T]) -> tuple[T, ...]:
        try:
            return _list(option, text, one)
        except InputError as error:
            problems.extend(error.problems)
            return ()

    axes = Axes(
        read("--nodes", nodes, _nodes), read("--mtbf", mtbf, _mtbf), read("--checkpoint", checkpoint, _every),
        read("--policy", policy, _policy),
    )  # fmt: skip
    if problems:
        raise InputError(problems)
    return axes


def read_duration(text: str | None) -> float | None:
    """The option ``--duration``. Raises InputError."""
    return None if text is None else _seconds("--duration", text, "30 days")


def _list(option: str, text: str | None, one: Callable[[str, str], T]) -> tuple[T, ...]:
    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise _wrong(option, f"'{text}' is not a list of values with commas between them")
    repeated = next((part for part in parts if parts.count(part) > 1), None)
    if repeated is not None:
        raise _wrong(option, f"'{repeated}' is there twice")
    problems: list[Problem] = []
    found = []
    for part in parts:
        try:
            found.append(one(option, part))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return tuple(found)


def _nodes(option: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MAX_NODES:
        raise _wrong(option, f"'{text}' is not a number of nodes: write a whole number from 1 to {MAX_NODES:,}")
    return int(text)


def _mtbf(option: str, text: str) -> Mtbf:
    if text[:1] not in ("x", "X"):
        return Mtbf(text, seconds=_seconds(option, text, "50000 h"))
    try:
        factor = float(text[1:])
    except ValueError:
        factor = 0.0
    if not 1e-6 <= factor <= 1e6:
        raise _wrong(option, f"'{text}' is not a factor from 1e-6 to 1e6: write it like x0.5")
    return Mtbf(text, factor=factor)


def _every(option: str, text: str) -> Every:
    if text == "auto":
        return Every(text, "auto")
    if not any(c.isdigit() for c in text):
        hint = did_you_mean(text, ("auto",))
        raise _wrong(option, f"'{text}' is neither auto nor a time such as 10 min", hint)
    return Every(text, _seconds(option, text, "10 min"))


def _policy(option: str, text: str) -> Policy:
    for policy in POLICIES:
        if text == policy:
            return policy
    message = f"unknown policy '{text}': there are {', '.join(POLICIES)}"
    raise _wrong(option, message, did_you_mean(text, POLICIES))


def _seconds(option: str, text: str, example: str) -> float:
    try:
        seconds = parse(text, replace(SECONDS, example=example))
    except UnitError as error:
        raise _wrong(option, str(error)) from None
    if seconds <= 0.0:
        raise _wrong(option, f"'{text}' must be above zero")
    return seconds


def _wrong(option: str | None, message: str, suggestion: str | None = None) -> InputError:
    return InputError([Problem(option, None, None, None, message, suggestion)])


# -- a scenario at a point ----------------------------------------------------------------------------------


def job_of(resolved: Resolved) -> tuple[int, ResolvedTraining]:
    """The job that is studied: the first that trains. Raises InputError where there is none."""
    for number, job in enumerate(resolved.jobs):
        if isinstance(job, ResolvedTraining):
            return number, job
    text = (
        "no job trains, and only jobs of kind training are lived through failures here; for serving jobs take "
        "sim run --seeds N (N runs, each with faults of its own) and faults.trace (faults at times that you state)"
    )
    raise _wrong(resolved.scenario.name, text)


def with_length(resolved: Resolved, duration: float | None) -> Resolved:
    """The job with a length: ``duration``, its own, or its target. Raises InputError where it has none."""
    number, job = job_of(resolved)
    run = job.spec.run
    if duration is not None:
        run = run.model_copy(update={"steps": None, "tokens": None, "duration": duration})
    elif run.steps is None and run.tokens is None and run.duration is None:
        if run.target_tokens is None:
            raise _wrong(f"jobs.{number}.run", "says not how long the job trains: give --duration, e.g. '30 days'")
        run = run.model_copy(update={"tokens": run.target_tokens})
    return _with_job(resolved, number, job.spec.model_copy(update={"run": run}))


def check(resolved: Resolved, axes: Axes) -> None:
    """Raise InputError for axes that this scenario does not have."""
    number, job = job_of(resolved)
    problems: list[Problem] = []

    def refuse(option: str, message: str) -> None:
        problems.append(Problem(option, None, None, None, message))

    faults = resolved.scenario.faults
    if faults is None and any(m.factor is not None for m in axes.mtbf):
        refuse("--mtbf", "the scenario has no faults to scale: give times of one GPU, e.g. '50000 h'")
    elif faults is None and not axes.mtbf:
        refuse(resolved.scenario.name, "nothing fails in it: add faults, e.g. faults: {mtbf_per_gpu: 50000 h}, "
               "or give --mtbf '50000 h'")  # fmt: skip
    if resolved.fault_trace is not None and any(m.factor is not None for m in axes.mtbf):
        refuse("--mtbf", "recorded faults cannot be scaled: give times of one GPU, e.g. '50000 h'")
    if axes.every and job.spec.checkpoint is None:
        refuse("--checkpoint", f"job {job.spec.name} takes no checkpoints: say in jobs.{number}.checkpoint where they "
               "go, or how long one takes")  # fmt: skip
    for nodes in axes.nodes:
        reason = _why_not(resolved, nodes)
        if reason is not None:
            refuse(f"--nodes {nodes}", reason)
            if len(problems) > 8:
                break
    if problems:
        raise InputError(dict.fromkeys(problems))


def at(resolved: Resolved, point: Point) -> Resolved:
    """The scenario at a point that :func:`check` let pass."""
    if point.nodes is not None:
        resolved = _of_size(resolved, point.nodes)
    if point.mtbf is not None:
        resolved = _failing(resolved, point.mtbf)
    number, job = job_of(resolved)
    update: dict[str, Any] = {}
    if point.every is not None and job.spec.checkpoint is not None:
        update["checkpoint"] = job.spec.checkpoint.model_copy(update={"every": point.every.value, "steps": None})
    if point.policy is not None:
        update["policy"] = point.policy
    return _with_job(resolved, number, job.spec.model_copy(update=update))


def _with_job(resolved: Resolved, number: int, spec: TrainingJob) -> Resolved:
    """Another description of a job, in both places that hold it."""
    jobs = tuple(with_spec(job, spec) if i == number else job for i, job in enumerate(resolved.jobs))
    described = tuple(spec if i == number else old for i, old in enumerate(resolved.scenario.jobs))
    return replace(resolved, jobs=jobs, scenario=resolved.scenario.model_copy(update={"jobs": described}))


def _failing(resolved: Resolved, mtbf: Mtbf) -> Resolved:
    """Faults at another rate, or of one kind."""
    faults = resolved.scenario.faults
    if mtbf.factor is not None:
        assert faults is not None
        scaled = faults.model_copy(update={"scale": faults.scale / mtbf.factor})
        return replace(resolved, scenario=resolved.scenario.model_copy(update={"faults": scaled}))
    assert mtbf.seconds is not None
    kept = {} if faults is None else {name: getattr(faults, name) for name in ("spares", "repair", "lemons")}
    one = Faults.model_construct(mtbf_per_gpu=mtbf.seconds, **kept)
    classes = (FaultClass.model_construct(name="any", per="gpu", mtbf=mtbf.seconds),)
    scenario = resolved.scenario.model_copy(update={"faults": one})
    return replace(resolved, scenario=scenario, faults=classes, fault_trace=None, fault_preset=None)


# -- size ---------------------------------------------------------------------------------------------------


def _why_not(resolved: Resolved, nodes: int) -> str | None:
    """Why the job cannot be scaled to so many nodes."""
    topology, (_, job) = resolved.topology, job_of(resolved)
    network, plan = topology.network, job.spec.plan
    if len(resolved.jobs) > 1:
        return f"scales a cluster with one job, this has {len(resolved.jobs)}"
    if topology.explicit or len(topology.nodes) != 1:
        return "scales clusters of one kind of node with a count, not lists of vertices or of several kinds"
    if network.cables or any(switch.nodes for switch in network.switches):
        return "scales networks without lists of nodes: leave out network.cables and switches.nodes"
    if plan.placement is not None:
        return "scales data-parallel plans without a placement"
    if plan.parameter_server is not None:
        return "does not scale parameter servers"
    each = topology.nodes[0].gpu_count
    if plan.workers % each:
        return f"scales jobs on whole nodes: the plan takes {plan.workers} GPUs, a node has {each}"
    ratio = Fraction(nodes, _own_nodes(topology, job.spec))
    if (plan.dp * ratio).denominator > 1 or (job.spec.batch.whole * ratio).denominator > 1:
        step = _own_nodes(topology, job.spec) // plan.dp or 1
        return (
            f"dp {plan.dp} and the global batch {job.spec.batch.whole} scale with the nodes, of which the plan takes "
            f"{_own_nodes(topology, job.spec)}: give a multiple of {step} with which both stay whole"
        )
    return None


def _own_nodes(topology: TopologySpec, job: TrainingJob) -> int:
    return job.plan.workers // topology.nodes[0].gpu_count


def _of_size(resolved: Resolved, nodes: int) -> Resolved:
    """Weak scaling: nodes, replicas and batch in proportion; nodes the job leaves idle stay as many."""
    number, job = job_of(resolved)
    topology, spec = resolved.topology, job.spec
    own = _own_nodes(topology, spec)
    kind = topology.nodes[0]
    grown = topology.model_copy(update={"nodes": (kind.model_copy(update={"count": kind.count + nodes - own}),)})
    plan = spec.plan.model_copy(update={"dp": spec.plan.dp * nodes // own})
    batch = spec.batch.model_copy(update={"whole": spec.batch.whole * nodes // own})
    resized = _with_job(resolved, number, spec.model_copy(update={"plan": plan, "batch": batch}))
    return replace(resized, topology=grown)
