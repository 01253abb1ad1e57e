"""The space a size looks through: every machine on every network, laid out in every way, with every varied key.

Serving: a replica takes a part of one machine that divides its GPUs, or whole machines. The smallest number of whole
machines that hold whole replicas is a *unit*; more load takes more units. A unit of one machine needs no network but
the port that brings requests.

Training: 1, 2, 4, ... machines, of which all GPUs train; tensor groups stay within a machine, stages divide the
layers, and what is left is data parallel.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from sim.adapters.offers import Offer
from sim.adapters.resolve import Resolved, ResolvedServing, with_spec
from sim.adapters.yaml_source import KeyPath, Source
from sim.errors import InputError, Problem
from sim.laws.pricing import Counts, PowerDraw, hourly_cost
from sim.spec.plan import ServingPlan
from sim.spec.scenario import ClusterSpec, ServingJob
from sim.spec.sizing import SizeSpec
from sim.spec.training import TrainingJob
from sim.study.sweep_axes import text
from sim.study.sweep_points import PointResolver

PLAN: Final = "jobs.0.plan."
BATCHED: Final = "jobs.0.batching.max_batched_tokens"
CHUNKS: Final = (64, 512)
"""Tokens of a pass that are tried besides the job's own: pipelines want small ones."""
MICRO_BATCH: Final = "jobs.0.batch.micro"
MICRO: Final = (1, 2, 4)
FIXED: Final = (
    "cluster", "cost", "define", "size", "sweep", "seed", "name", "jobs.0.load", "jobs.0.objectives", "faults",
)  # fmt: skip
"""Keys that are the question, not part of the answer."""


@dataclass(frozen=True, slots=True)
class Variant:
    """The scenario with one choice of the varied keys, on its own cluster still."""

    settings: Mapping[str, Any]
    resolved: Resolved


@dataclass(frozen=True, slots=True)
class Design:
    """A machine on a network, and a layout: ``nodes`` of it are a unit that holds ``copies`` replicas.

    ``offer`` and ``variant`` count in the space. Of training ``copies`` is the data-parallel degree.
    """

    offer: int
    variant: int
    tp: int
    pp: int
    nodes: int
    copies: int
    training: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Space:
    """All designs, and what they are made of."""

    spec: SizeSpec
    offers: tuple[Offer, ...]
    variants: tuple[Variant, ...]
    designs: tuple[Design, ...]

    def resolved(self, design: Design, units: int = 1) -> Resolved:
        """The scenario on so many units of the design."""
        offer, base = self.offers[design.offer], self.variants[design.variant].resolved
        scenario, job = base.scenario, base.jobs[0]
        assert scenario.cost is not None
        changed, cluster = with_spec(job, _planned(job.spec, design, units)), offer.cluster(design.nodes * units)
        scenario = scenario.model_copy(update={
            "cluster": ClusterSpec.model_construct(topology=cluster),
            "cost": offer.cost(scenario.cost), "jobs": (changed.spec,), "size": None, "sweep": None,
        })  # fmt: skip
        prices = {**base.prices, **offer.prices}
        return replace(
            base, scenario=scenario, topology=cluster, gpus=dict(offer.gpus),
            links={**base.links, **offer.links}, prices=prices, jobs=(changed,),
        )  # fmt: skip

    def idle_usd_per_hour(self, design: Design, units: int) -> float:
        """What an hour of so many units costs at least: with all GPUs idle."""
        return self._hour(design, units)[0]

    def capital(self, design: Design, units: int) -> float | None:
        """USD paid for so many units; None if they are rented."""
        return self._hour(design, units)[1]

    def _hour(self, design: Design, units: int) -> tuple[float, float | None]:
        offer = self.offers[design.offer]
        resolved = self.variants[design.variant].resolved
        base = resolved.scenario.cost
        assert base is not None
        cluster = offer.cluster(design.nodes * units)
        draws = [
            PowerDraw(name, n, offer.gpus[name].idle_power, offer.gpus[name].tdp, 0.0)
            for name, n in cluster.gpu_types.items()
        ]
        host = cluster.total_host_power
        draws.append(PowerDraw("hosts", 1, host.idle, host.busy, 0.0))
        counts = Counts(cluster.gpus, cluster.node_count, cluster.switch_count)
        found = hourly_cost(offer.cost(base), draws, counts, {**resolved.prices, **offer.prices})
        return found.total, found.capital

    def spot(self, design: Design) -> bool:
        """Whether the machines are rented as long as nobody pays more."""
        rental = self.offers[design.offer].machine.rental
        return rental is not None and rental.terms == "spot"

    def most_units(self, design: Design) -> int:
        """Units within ``most_nodes`` and the budget; 0 if not even one is."""
        numbers = range(1, self.spec.most_nodes // design.nodes + 1)
        return bisect_left(numbers, True, key=lambda units: self.over_budget(design, units))

    def over_budget(self, design: Design, units: int) -> bool:
        """Whether so many units cost more than the budget, were their GPUs idle."""
        spec = self.spec
        usd_per_hour, capital = self._hour(design, units)
        over = spec.budget_per_hour is not None and usd_per_hour > spec.budget_per_hour
        return over or (spec.budget is not None and (capital is None or capital > spec.budget))

    def told(self, design: Design, units: int | None = None) -> str:
        """The design in words."""
        offer = self.offers[design.offer]
        nodes = design.nodes * (units or 1)
        where = f"{nodes} x {offer.machine.id}" + (f" on {offer.network.id}" if offer.network is not None else "")
        settings = [f"{key.rpartition('.')[2]} {text(value)}" for key, value in self.settings(design).items()]
        return ", ".join([where, self.plan(design, units or 1), *settings])

    def plan(self, design: Design, units: int) -> str:
        """The layout in words."""
        copies = design.copies * (units if not design.training else 1)
        degrees = [("tp", design.tp), ("pp", design.pp), ("dp", copies)]
        shown = [f"{name}{n}" for name, n in degrees if n > 1]
        return " x ".join(shown) or "one GPU"

    def settings(self, design: Design) -> dict[str, Any]:
        """Keys of the scenario, besides degrees, that the design chose."""
        return {**self.variants[design.variant].settings, **dict(design.training)}


def _planned(job: ServingJob | TrainingJob, design: Design, units: int) -> ServingJob | TrainingJob:
    """The job with the design's layout; what the scenario says of its own GPUs one by one is dropped."""
    if isinstance(job, ServingJob):
        layers = job.plan.layers if isinstance(job.plan.layers, str) else "even"
        plan = job.plan.model_copy(update={
            "tp": design.tp, "pp": design.pp, "dp": design.copies * units, "placement": None, "layers": layers,
            "micro_batches": job.plan.micro_batches if design.pp > 1 else None, **_spread(job.plan, design.tp),
        })  # fmt: skip
        return job.model_copy(update={"plan": plan})
    extra = dict(design.training)
    update = {key.removeprefix(PLAN): value for key, value in extra.items() if key.startswith(PLAN)}
    planned = job.plan.model_copy(update={
        "tp": design.tp, "pp": design.pp, "dp": design.copies, "placement": None, "layers": "even",
        "schedule": job.plan.schedule if isinstance(job.plan.schedule, str) else None,
        "sequence_parallel": job.plan.sequence_parallel or design.tp > 1, "vpp": job.plan.vpp if design.pp > 1 else 1,
        **update,
    })  # fmt: skip
    batch = job.batch.model_copy(update={"micro": extra.get(MICRO_BATCH, job.batch.micro)})
    return job.model_copy(update={"plan": planned, "batch": batch, "slow": ()})


def _spread(plan: ServingPlan, tp: int) -> dict[str, Any]:
    """Experts that the scenario spreads are spread over the design's tensor ranks."""
    if plan.ep == 1:
        return {}
    attention = plan.attention if tp > 1 else "tensor"
    return {"ep": tp, "attention": attention, "expert_imbalance": min(plan.expert_imbalance, float(tp))}


# -- enumeration --------------------------------------------------------------------------------------------


def space_of(base: Resolved, source: Source, folder: Path, spec: SizeSpec, offers: Sequence[Offer]) -> Space:
    """Every design. Raises InputError for values that are not those of a scenario."""
    axes, degrees = _axes(base, source, spec)
    variants = _variants(source, folder, axes)
    designs: list[Design] = []
    for v, variant in enumerate(variants):
        job = variant.resolved.jobs[0]
        for o, offer in enumerate(offers):
            if isinstance(job, ResolvedServing):
                designs += _serving(o, offer, v, job.model.heads, spec, degrees)
            else:
                assert isinstance(job.spec, TrainingJob)
                shape = job.model.heads, job.model.layers
                designs += _training(o, offer, v, job.spec, shape, spec, degrees, variant.settings)
    return Space(spec, tuple(offers), tuple(variants), tuple(designs))


def _axes(base: Resolved, source: Source, spec: SizeSpec) -> tuple[dict[str, list[Any]], dict[str, set[int]]]:
    """What varies besides machines: keys with their values, and the degrees that are allowed where some are named."""
    axes: dict[str, list[Any]] = {}
    degrees: dict[str, set[int]] = {}
    problems = []
    for path, values in spec.vary.items():
        where = ("size", "vary", path)
        if any(path == key or path.startswith(f"{key}.") for key in FIXED):
            message = "is part of the question: machines, prices, load and objectives are not varied by key"
            problems.append(source.problem(where, f"{path} {message}"))
        elif path == f"{PLAN}dp":
            problems.append(source.problem(where, f"{path} follows from the load: the search finds it"))
        elif path in (f"{PLAN}tp", f"{PLAN}pp"):
            bad = [value for value in values if not isinstance(value, int) or isinstance(value, bool) or value < 1]
            if bad:
                problems.append(source.problem(where, f"{text(bad[0])} is no degree: a whole number from 1 on"))
            else:
                degrees[path.removeprefix(PLAN)] = set(values)
        else:
            axes[path] = list(values)
    if problems:
        raise InputError(problems)
    job = base.jobs[0].spec
    free = not axes.keys() & {BATCHED, "jobs.0.batching.policy", "jobs.0.batching.kv_cache"}
    if isinstance(job, ServingJob) and free and job.batching.policy == "continuous" and job.batching.kv_cache:
        own = job.batching.max_batched_tokens
        stack = base.serving[0].stack.max_batched_tokens
        axes[BATCHED] = list(dict.fromkeys([own or stack, *CHUNKS]))
    return axes, degrees


def _variants(source: Source, folder: Path, axes: Mapping[str, Sequence[Any]]) -> list[Variant]:
    resolver = PointResolver(replace(source, data={k: v for k, v in source.data.items() if k != "size"}), folder)
    found: list[Variant] = []
    good: set[str] = set()
    refused: list[tuple[list[str], list[Problem]]] = []
    for values in itertools.product(*axes.values()):
        settings = dict(zip(axes, values, strict=True))
        written: dict[str, KeyPath] = {f"{key}={text(value)}": ("size", "vary", key) for key, value in settings.items()}
        try:
            resolved, _ = resolver.resolve(list(written))
        except InputError as error:
            refused.append(([*written], [_placed(p, source, written) for p in error.problems]))
            continue
        found.append(Variant(settings, resolved))
        good.update(written)
    # Values that do not go together are left out; one that goes with nothing is a mistake.
    for written_, problems in refused:
        if any(value not in good for value in written_):
            raise InputError(problems)
    return found


def _placed(problem: Problem, source: Source, written: Mapping[str, KeyPath]) -> Problem:
    """A problem of a varied value, at its line of the scenario."""
    label = (problem.file or "").removeprefix("--set ")
    if label not in written:
        return problem
    return source.problem(written[label], f"{label}: {problem.message}", problem.suggestion)


def _serving(
    o: int, offer: Offer, v: int, heads: int, spec: SizeSpec, degrees: Mapping[str, set[int]]
) -> Iterator[Design]:
    """Replicas within a machine (it then stands alone), or of whole machines on a network."""
    each = offer.machine.node.gpu_count
    for tp in range(1, spec.most_gpus + 1):
        if heads % tp or ("tp" in degrees and tp not in degrees["tp"]):
            continue
        for pp in range(1, spec.most_gpus // tp + 1):
            if "pp" in degrees and pp not in degrees["pp"]:
                continue
            size = tp * pp
            if offer.network is None and each % size == 0:
                yield Design(o, v, tp, pp, 1, each // size)
            elif offer.network is not None and size % each == 0 and size > each:
                nodes = size // each
                if nodes <= min(offer.most_nodes, spec.most_nodes):
                    yield Design(o, v, tp, pp, nodes, 1)


def _training(
    o: int, offer: Offer, v: int, job: TrainingJob, shape: tuple[int, int], spec: SizeSpec,
    degrees: Mapping[str, set[int]], settings: Mapping[str, Any],
) -> Iterator[Design]:  # fmt: skip
    """All GPUs of 1, 2, 4, ... machines."""
    each, (heads, layers), cp = offer.machine.node.gpu_count, shape, job.plan.cp
    choices: dict[str, list[Any]] = {
        f"{PLAN}zero": list(dict.fromkeys([job.plan.zero, 0, 1, 3])),
        f"{PLAN}recompute": list(dict.fromkeys([job.plan.recompute, "none", "full"])),
        MICRO_BATCH: list(dict.fromkeys([job.batch.micro, *MICRO])),
    }
    free = {key: values for key, values in choices.items() if key not in settings}
    for nodes in _powers(min(offer.most_nodes, spec.most_nodes)):
        if (nodes == 1) != (offer.network is None):
            continue
        for tp, pp in itertools.product(_powers(each), _powers(layers)):
            group = tp * pp * cp
            if heads % tp or layers % pp or each % tp or each * nodes % group:
                continue
            if any(name in degrees and n not in degrees[name] for name, n in (("tp", tp), ("pp", pp))):
                continue
            dp = each * nodes // group
            if cp * dp % job.plan.ep:
                continue
            for values in itertools.product(*free.values()):
                chosen = dict(zip(free, values, strict=True))
                zero = chosen.get(f"{PLAN}zero", job.plan.zero)
                micro = chosen.get(MICRO_BATCH, job.batch.micro)
                # Sharded parameters and stages are not combined; sharding over one rank is none.
                if (zero == 3 and pp > 1) or (zero and dp * cp == 1) or job.batch.whole % (dp * micro):
                    continue
                yield Design(o, v, tp, pp, nodes, dp, tuple(chosen.items()))


def _powers(most: int) -> list[int]:
    return [2**k for k in range(most.bit_length()) if 2**k <= most]
