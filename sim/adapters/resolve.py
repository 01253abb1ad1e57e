"""From a scenario to values: every name looked up, every file read, before anything is computed.

After this nothing refers to a file or an id: a ``Resolved`` scenario can be simulated anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from sim.adapters.extras import contradictions
from sim.adapters.fault_traces import read_fault_trace
from sim.adapters.lookup import Library
from sim.adapters.validation import validate
from sim.adapters.yaml_source import KeyPath, Source, apply_overrides, load_yaml
from sim.errors import InputError, Problem, did_you_mean
from sim.spec.economics import Hosting, Price
from sim.spec.hardware import Fabric, Gpu, KernelConstants, LinkType
from sim.spec.reliability import Checkpoint, FaultClass, FaultPreset, RecordedFault
from sim.spec.scenario import Scenario, ServingJob
from sim.spec.stack import Stack
from sim.spec.topology import TopologySpec
from sim.spec.training import TrainingJob
from sim.spec.training_stack import TrainingStack
from sim.spec.transformer import Transformer
from sim.spec.workload import ARRIVALS, OF_A_TRACE, LengthDistribution, Load, Trace
from sim.units import format_seconds

if TYPE_CHECKING:
    from sim.adapters.traces import RequestTrace

T = TypeVar("T")
PricedBy = Literal["piece", "GPU-hour", "kilowatt and month"]


@dataclass(frozen=True, slots=True)
class ResolvedServing:
    """A serving job with its model, its stack and its requests at hand."""

    spec: ServingJob
    model: Transformer
    stack: Stack
    trace: RequestTrace | None
    lengths: LengthDistribution | None
    of_tenants: Mapping[str, LengthDistribution] = field(default_factory=dict)
    draft: Transformer | None = None


@dataclass(frozen=True, slots=True)
class ResolvedTraining:
    """A training job with its model and its stack at hand."""

    spec: TrainingJob
    model: Transformer
    stack: TrainingStack


ResolvedJob = ResolvedServing | ResolvedTraining


def with_spec(job: ResolvedJob, spec: ServingJob | TrainingJob) -> ResolvedJob:
    """The same job described otherwise; what its names stand for stays."""
    if isinstance(job, ResolvedServing):
        assert isinstance(spec, ServingJob)
        return replace(job, spec=spec)
    assert isinstance(spec, TrainingJob)
    return replace(job, spec=spec)


@dataclass(frozen=True, slots=True)
class Resolved:
    """Everything a simulation needs: the scenario, and the value behind every name in it."""

    scenario: Scenario
    topology: TopologySpec
    gpus: dict[str, Gpu]
    links: dict[str, LinkType]
    fabrics: tuple[Fabric, ...]
    default_kernels: KernelConstants
    jobs: tuple[ResolvedJob, ...]
    prices: Mapping[str, Price]
    faults: tuple[FaultClass, ...] = ()
    fault_trace: tuple[tuple[float, str, int], ...] | None = None
    fault_preset: FaultPreset | None = None

    def kernels(self, gpu: Gpu) -> KernelConstants:
        """The GPU's measured constants, or the median of the measured GPUs."""
        return gpu.kernels or self.default_kernels

    @property
    def serving(self) -> tuple[ResolvedServing, ...]:
        """The jobs that serve requests."""
        return tuple(job for job in self.jobs if isinstance(job, ResolvedServing))


def resolve_file(path: str | Path, overrides: Sequence[str] = (), seed: int | None = None) -> Resolved:
    """Read a scenario file, apply ``--set`` overrides and ``--seed``, and look everything up.

    Raises InputError with every problem found, each at its line.
    """
    source = load_yaml(path)
    if overrides:
        source = apply_overrides(source, overrides)
    if seed is not None:
        source = apply_overrides(source, [f"seed={seed}"])
    return resolve(_with_new_arrivals(source), Path(path).parent)


def _with_new_arrivals(source: Source) -> Source:
    """Arrivals set on the command line replace the file's: a load has one kind."""
    jobs = source.data.get("jobs") if isinstance(source.data, dict) else None
    for i, job in enumerate(jobs if isinstance(jobs, list) else []):
        load = job.get("load") if isinstance(job, dict) else None
        if not isinstance(load, dict):
            continue
        at: KeyPath = ("jobs", i, "load")
        new = {path[3] for path in source.overrides if path[:3] == at and len(path) > 3}
        if new & set(ARRIVALS):
            replaced = (*ARRIVALS, *OF_A_TRACE, "requests") if "trace" in new else ARRIVALS
            for key in set(replaced) - new:
                load.pop(key, None)
    return source


def resolve(source: Source, folder: Path) -> Resolved:
    """Look up every name of a scenario; paths in it count from ``folder``."""
    scenario: Scenario = validate(Scenario, source)
    return _Resolver(source, scenario, folder).resolve()


def _any_fault(name: str, per: str, mtbf: float) -> FaultClass:
    """A class of faults of which only the rate is known: it stops the job and its node needs repair."""
    return FaultClass.model_validate({"name": name, "per": per, "mtbf": f"{mtbf!r} s"})


class _Resolver:
    """Collects all problems before it gives up."""

    def __init__(self, source: Source, scenario: Scenario, folder: Path) -> None:
        self.source, self.scenario, self.folder = source, scenario, folder
        self.library = Library(scenario.define, source)
        self.problems: list[Problem] = []
        self.drawn: tuple[Source, KeyPath] = source, ("cluster", "topology")

    def _try(self, path: KeyPath, look_up: Callable[[], T], source: Source | None = None) -> T | None:
        """The value, or None and a problem: at its own place if it has one, else at ``path`` of the scenario
        (or of ``source``)."""
        try:
            return look_up()
        except InputError as error:
            for problem in error.problems:
                if problem.file and (problem.line or problem.path):
                    self.problems.append(problem)
                else:
                    found = (source or self.source).problem(path, problem.message, problem.suggestion)
                    self.problems.append(found)
        except OSError as error:  # a path that the system does not even look at, such as one too long
            self.problems.append(self.source.problem(path, f"cannot be read ({error.strerror or error})"))
        return None

    def _of_topology(self, name: str, look_up: Callable[[str], T]) -> T | None:
        """What the topology calls ``name``; a problem is told where it does."""
        source, path = self.drawn
        data = source.data
        for step in path:
            data = data[step]
        return self._try((*path, *_naming(data, name)), partial(look_up, name), source)

    def _check_defined(self) -> None:
        """The user's own entries, used or not: a mistake in one is not kept for the day it is used."""
        library, define = self.library, self.scenario.define
        look_ups: dict[str, Callable[[str], object]] = {
            "gpus": library.gpu, "links": library.link, "models": library.model, "stacks": library.stack,
            "training_stacks": library.training_stack, "lengths": library.lengths, "failures": library.failure,
            "prices": library.price, "machines": library.machine, "networks": library.network,
        }  # fmt: skip
        for kind, look_up in look_ups.items():
            for name in getattr(define, kind):
                self._try(("define", kind, name), partial(look_up, name))

    def resolve(self) -> Resolved:
        """All values, or InputError."""
        scenario = self.scenario
        topology = self._topology()
        gpus: dict[str, Gpu] = {}
        links: dict[str, LinkType] = {}
        if topology is not None:
            for name in topology.gpu_types:
                if (gpu := self._of_topology(name, self.library.gpu)) is not None:
                    gpus[name] = gpu
            for name in self._link_names(topology, gpus):
                if (link := self._of_topology(name, self.library.link)) is not None:
                    links[name] = link
        jobs = [self._job(i, job) for i, job in enumerate(scenario.jobs)]
        prices = self._prices()
        faults, recorded, preset = self._faults()
        self._check_lives()
        self._check_choice()
        if topology is not None:
            self._check_recorded(topology, recorded)
        self._check_defined()
        fabrics = self._try(("define", "fabrics"), self.library.fabrics)
        if self.problems:
            problems = dict.fromkeys(self.problems)
            raise InputError(sorted(problems, key=lambda p: (p.file or "", p.line or 0, p.column or 0)))
        assert topology is not None
        assert fabrics is not None
        return Resolved(
            scenario=scenario,
            topology=topology,
            gpus=gpus,
            links=links,
            fabrics=fabrics,
            default_kernels=self.library.default_kernels(),
            jobs=tuple(job for job in jobs if job is not None),
            prices=prices,
            faults=faults,
            fault_trace=recorded,
            fault_preset=preset,
        )

    def _topology(self) -> TopologySpec | None:
        topology = self.scenario.cluster.topology
        if isinstance(topology, TopologySpec):
            return topology

        def read() -> TopologySpec:
            path = self._path(("cluster", "topology"), topology)
            if not path.is_file():
                raise InputError([self.source.problem(("cluster", "topology"), f"no such file: {topology}",
                                                      _near(path))])  # fmt: skip
            self.drawn = load_yaml(path), ()
            found: TopologySpec = validate(TopologySpec, self.drawn[0])
            return found

        return self._try(("cluster", "topology"), read)

    def _link_names(self, topology: TopologySpec, gpus: dict[str, Gpu]) -> list[str]:
        """Link types that the topology names, or that its GPUs bring."""
        own = [gpu.pcie for gpu in gpus.values() if gpu.pcie]
        return list(dict.fromkeys([*topology.link_types, *own]))

    def _job(self, i: int, spec: ServingJob | TrainingJob) -> ResolvedJob | None:
        scenario, at = self.scenario, ("jobs", i)
        name = spec.model or scenario.model
        if name is None:
            self.problems.append(self.source.problem(at, "model is missing: give it here or at the top"))
            return None
        where: KeyPath = (*at, "model") if spec.model else ("model",)
        model = self._try(where, lambda: self.library.model(name, self._path(where, name)))
        stack_path: KeyPath = (*at, "stack") if spec.stack else ("stack",)
        wanted = spec.stack or scenario.stack
        if isinstance(spec, TrainingJob):
            if model is not None and model.latent:
                text = f"{model.id} has latent attention (MLA), which training jobs do not model (serving jobs do)"
                self.problems.append(self.source.problem(where, text))
            framework = self._try(stack_path, lambda: self.library.training_stack(wanted))
            return ResolvedTraining(spec, model, framework) if model is not None and framework is not None else None
        stack = self._try(stack_path, lambda: self.library.stack(wanted))
        if model is not None and not model.experts and spec.plan.ep > 1:
            self.problems.append(self.source.problem((*at, "plan", "ep"), f"{model.id} has no experts to spread"))
        if spec.plan.attention == "data" and scenario.assume.tp_overlap == "double_buffer":
            text = "ranks with sequences of their own reduce nothing that could hide (assume.tp_overlap: double_buffer)"
            self.problems.append(self.source.problem((*at, "plan", "attention"), text))
        trace, lengths = None, None
        of_tenants: dict[str, LengthDistribution] = {}
        for k, tenant in enumerate(spec.load.tenants):
            if tenant.lengths is not None:
                look_up = partial(self.library.lengths, tenant.lengths)
                if (found := self._try((*at, "load", "tenants", k, "lengths"), look_up)) is not None:
                    of_tenants[tenant.name] = found
        if spec.load.trace is not None:
            of_trace: KeyPath = (*at, "load", "trace")
            trace = self._try(of_trace, lambda: self._trace(of_trace, spec.load))
        if spec.load.lengths is not None:
            lengths_name = spec.load.lengths
            lengths = self._try((*at, "load", "lengths"), lambda: self.library.lengths(lengths_name))
        draft = None
        if spec.speculative is not None and (guesses := spec.speculative.model) is not None:
            drafts: KeyPath = (*at, "speculative", "draft")
            draft = self._try(drafts, lambda: self.library.model(guesses, self._path(drafts, guesses)))
        if model is None or stack is None:
            return None
        for path, text in contradictions(spec, scenario.assume, model, draft, stack):
            self.problems.append(self.source.problem((*at, *path), text))
        return ResolvedServing(spec, model, stack, trace, lengths, of_tenants, draft)

    def _path(self, where: KeyPath, name: str) -> Path:
        """A path counts from the file that names it: the scenario's folder, or here if the command line does."""
        path = Path(name)
        said_here = any(set_ == where[: len(set_)] or where == set_[: len(where)] for set_ in self.source.overrides)
        beside_scenario = self.folder / path
        return path if said_here and not beside_scenario.exists() else beside_scenario

    def _trace(self, where: KeyPath, load: Load) -> RequestTrace:
        # A trace is arrays: only runs that replay one pay for the import of numpy.
        from sim.adapters.traces import read_trace

        wanted = Trace(file=load.trace) if isinstance(load.trace, str) else load.trace
        assert wanted is not None
        limits = [n for n in (wanted.limit, load.requests) if n is not None]
        path = self._path(where, wanted.file)
        return read_trace(path, wanted.format, limit=min(limits, default=None), time_scale=wanted.time_scale)

    def _check_choice(self) -> None:
        """Machines and networks that ``sim size`` would choose from are known to every command."""
        size = self.scenario.size
        if size is not None:
            for i, name in enumerate(size.machines):
                self._try(("size", "machines", i), partial(self.library.machine, name))
            for i, name in enumerate(size.networks):
                self._try(("size", "networks", i), partial(self.library.network, name))

    def _check_lives(self) -> None:
        """What faults, checkpoints and recoveries need of each other."""
        faults = self.scenario.faults
        for i, job in enumerate(self.scenario.jobs):
            if faults is None:
                for key in job.model_fields_set & {"recovery", "policy", "failover"}:
                    text = "nothing fails in this scenario, which has no faults, so this would do nothing"
                    self.problems.append(self.source.problem(("jobs", i, key), text))
            if not isinstance(job, TrainingJob):
                for key, what in (("disaggregate", "take prompts and tokens apart"), ("autoscale", "come and go")):
                    if faults is not None and getattr(job, key) is not None:
                        text = f"faults of replicas that {what} are not modelled: leave one out"
                        self.problems.append(self.source.problem(("jobs", i, key), text))
                continue
            run, where = job.run, ("jobs", i)
            open_ended = run.steps is None and run.tokens is None and run.duration is None
            if open_ended and (faults is not None or job.checkpoint is not None):
                what = "faults strike" if faults is not None else "checkpoints are taken"
                text = f"{what} over time: say how long the job runs (run: duration, tokens or steps)"
                self.problems.append(self.source.problem((*where, "run"), text))
            levels = job.checkpoint.levels if job.checkpoint is not None else ()
            if faults is None and any(level.every == "auto" for level in levels):
                text = "auto is the interval that suits the faults, and this scenario has none: give a time"
                self.problems.append(self.source.problem((*where, "checkpoint", "every"), text))
            elif faults is not None and faults.trace is not None:
                self._refuse_auto(job.checkpoint, (*where, "checkpoint"))
            self._check_levels(levels, (*where, "checkpoint"))

    def _check_levels(self, levels: Sequence[Checkpoint], where: KeyPath) -> None:
        """A level is for what the one before it does not outlive: one that is taken more often makes that useless."""
        for near, far in pairwise(levels):
            where = (*where, "then")
            for key in ("every", "steps"):
                first, second = getattr(near, key), getattr(far, key)
                if isinstance(first, int | float) and isinstance(second, int | float) and second < first:
                    often, rarely = (format_seconds(x) if key == "every" else f"{x:,} steps" for x in (second, first))
                    text = (
                        f"a level that saves every {often}, more often than the one before it (every {rarely}), leaves "
                        f"that without use: save every {rarely} or more rarely here, or swap the two"
                    )
                    self.problems.append(self.source.problem((*where, key), text))

    def _refuse_auto(self, checkpoint: Checkpoint | None, where: KeyPath) -> None:
        """Recorded faults have no rate that an interval could suit, on any level."""
        if checkpoint is not None and checkpoint.every == "auto":
            text = "auto is the interval that suits the rate of faults, and a trace has none: give a time"
            self.problems.append(self.source.problem((*where, "every"), text))
        if checkpoint is not None:
            self._refuse_auto(checkpoint.then, (*where, "then"))

    def _faults(
        self,
    ) -> tuple[tuple[FaultClass, ...], tuple[tuple[float, str, int], ...] | None, FaultPreset | None]:
        """What breaks, by class; the recorded trace of it and the catalogue's preset, where one is named."""
        faults = self.scenario.faults
        if faults is None:
            return (), None, None
        if faults.trace is not None:
            recorded = self._recorded(faults.trace)
            known = {c.name for c in faults.classes or ()}
            names = dict.fromkeys(name for _, name, _ in recorded if name not in known)
            return (*(faults.classes or ()), *(_any_fault(name, "node", 1e13) for name in names)), recorded, None
        if faults.classes is not None:
            return faults.classes, None, None
        if faults.preset is not None:
            name = faults.preset
            preset = self._try(("faults", "preset"), lambda: self.library.failure(name))
            return (preset.classes if preset is not None else ()), None, preset
        if faults.mtbf_per_gpu is not None:
            return (_any_fault("any", "gpu", faults.mtbf_per_gpu),), None, None
        assert faults.rate is not None
        return (_any_fault("any", "node", 1000 * 86_400.0 / faults.rate),), None, None

    def _check_recorded(self, topology: TopologySpec, recorded: Sequence[tuple[float, str, int]] | None) -> None:
        """Recorded faults name a class that stands beside them, if any do, and (of serving jobs) units there are.

        Of a file the first such fault is told.
        """
        faults = self.scenario.faults
        if faults is None or recorded is None or faults.trace is None:
            return
        listed = not isinstance(faults.trace, str)
        classes = {c.name: c for c in faults.classes or ()}
        serving = [job.plan.dp for job in self.scenario.jobs if isinstance(job, ServingJob)]
        units = {
            "gpu": topology.gpus, "node": topology.node_count, "link": topology.node_count,
            "switch": max(1, topology.switch_count), "job": max(serving, default=0),
        }  # fmt: skip
        told = [(f.time, f.name, f.unit) for f in faults.trace] if not isinstance(faults.trace, str) else recorded
        for i, (_, name, unit) in enumerate(told):
            where: KeyPath = ("faults", "trace", *((i,) if listed else ()))
            per = classes[name].per if name in classes else "node"
            if classes and name not in classes:
                text, near = f"no class is called {name}", did_you_mean(name, list(classes))
                self.problems.append(self.source.problem((*where, *(("name",) if listed else ())), text, near))
            elif serving and unit >= units[per]:
                text = f"there is no {per} {unit}: there are 0 to {units[per] - 1}"
                self.problems.append(self.source.problem((*where, *(("unit",) if listed else ())), text))
            else:
                continue
            if not listed:
                return

    def _recorded(self, trace: str | tuple[RecordedFault, ...]) -> tuple[tuple[float, str, int], ...]:
        """(time, class, unit) of recorded faults, in order of time."""
        if not isinstance(trace, str):
            return tuple(sorted((fault.time, fault.name, fault.unit) for fault in trace))
        path = self._path(("faults", "trace"), trace)
        return self._try(("faults", "trace"), lambda: read_fault_trace(path)) or ()

    def _prices(self) -> dict[str, Price]:
        """The catalogue's prices that the scenario names, by id."""
        cost, found = self.scenario.cost, dict[str, Price]()
        if cost is None:
            return found
        named: list[tuple[KeyPath, str, PricedBy]] = []
        several = isinstance(cost.rental, tuple)
        for i, rent in enumerate(cost.rents):
            if rent.price:
                named.append((("cost", "rental", *((i,) if several else ()), "price"), rent.price, "GPU-hour"))
        if cost.demand is not None and cost.demand.burst is not None and cost.demand.burst.price:
            named.append((("cost", "demand", "burst", "price"), cost.demand.burst.price, "GPU-hour"))
        if cost.income is not None and cost.income.price:
            named.append((("cost", "income", "price"), cost.income.price, "GPU-hour"))
        if isinstance(cost.hosting, Hosting) and cost.hosting.price:
            named.append((("cost", "hosting", "price"), cost.hosting.price, "kilowatt and month"))
        items = cost.capital if isinstance(cost.capital, tuple) else ()
        named += [(("cost", "capital", i, "price"), item.price, "piece") for i, item in enumerate(items) if item.price]
        for where, name, unit in named:
            price = self._try(where, partial(self.library.price, name))
            if price is None:
                continue
            found[name] = price
            if (text := not_priced_by(price, unit)) is not None:
                self.problems.append(self.source.problem(where, text))
        return found


#: Units of catalogue prices of things that can be bought, and of places in a data centre.
_PIECES, _KILOWATT = ("USD/unit", "USD/GPU", "USD/rack"), ("USD/kW-month",)


def not_priced_by(price: Price, unit: PricedBy) -> str | None:
    """What is wrong with a price that is to be paid by the ``unit``; None if it can be."""
    fits = "GPU-h" in price.unit if unit == "GPU-hour" else price.unit in (_PIECES if unit == "piece" else _KILOWATT)
    return None if fits and price.usd is not None else f"{price.id} is priced in {price.unit}, not by the {unit}"


#: Keys of a topology (and the place in a cable) whose value names a GPU or a link.
_NAMING = ("type", "gpu", "link", "uplink", "socket_link", "pcie", 2)


def _naming(data: object, name: str) -> KeyPath:
    """Where a topology first names a GPU or link ``name``; () if a GPU's own entry does."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        if value == name and key in _NAMING:
            return (key,)
        if within := _naming(value, name):
            return (key, *within)
    return ()


def _near(path: Path) -> str | None:
    """A file of a similar name in the same folder."""
    folder = path.parent
    if not folder.is_dir():
        return None
    near = did_you_mean(path.name, [p.name for p in folder.iterdir() if p.is_file()])
    return near
