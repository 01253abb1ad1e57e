"""The scenario: one cluster, one or more jobs on it, what they cost, and every assumption in sight.

These keys are the contract with users; ``sim schema`` prints them as JSON Schema.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sim.spec.base import Name, Prose, Spec
from sim.spec.economics import CostSpec
from sim.spec.extras import Adapters, Speculative
from sim.spec.plan import KV_BYTES, ServingPlan, ServingPrecision
from sim.spec.reliability import Failover, Faults, Recovery
from sim.spec.sizing import SizeSpec
from sim.spec.topology import TopologySpec
from sim.spec.training import TrainingJob
from sim.spec.workload import Load, Objectives
from sim.units import Bandwidth, Bytes, BytesPerSecond, FlopRate, Seconds

# A catalogue id, or a path to a local Hugging Face config.json.
Reference = Annotated[str, Field(min_length=1, max_length=400)]
# A path as --set takes it, and the values it takes in turn.
AxisPath = Annotated[str, Field(min_length=1, max_length=400)]
AxisValues = Annotated[tuple[Any, ...], Field(min_length=1, max_length=100_000)]
Number = (
    Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True)] | Annotated[str, Field(max_length=100)]
)


class NetworkOverride(Spec):
    """Changes to the links between nodes, for what-if questions without a new topology file."""

    bandwidth: Annotated[Bandwidth, Field(gt=0)] | None = None
    latency: Seconds | None = None
    message_overhead: Seconds | None = None


class ClusterSpec(Spec):
    """The hardware: a topology file (path from the scenario's own folder) or the short form inline."""

    topology: Reference | TopologySpec
    network: NetworkOverride = NetworkOverride()


class KvOffload(Spec):
    """KV blocks of prompts that the GPUs have no room for: ``capacity`` for each replica, in host memory or on NVMe."""

    to: Literal["host", "nvme"] = "host"
    capacity: Annotated[Bytes, Field(gt=0)]


class Batching(Spec):
    """How requests share passes. Limits and ``admission`` left out are the stack's own.

    ``prefill_chunk`` bounds the prompt tokens of one pass; ``max_batched_tokens`` all tokens of one pass. Admission
    *reserve* sets blocks for the whole answer aside, *preempt* pushes sequences out when blocks run short: what they
    had computed is computed again (``preemption: recompute``) or goes to host memory and back (*swap*).
    ``prefix_caching`` keeps KV blocks of prompts for others that begin alike; ``kv_offload`` those that have to go.
    Without a ``kv_cache`` nothing is kept from one pass to the next: each pass computes whole contexts again.
    """

    policy: Literal["continuous", "prefill_first", "decode_first", "static"] = "continuous"
    admission: Literal["preempt", "reserve"] | None = None
    preemption: Literal["recompute", "swap"] = "recompute"
    kv_cache: bool = True
    prefix_caching: bool = False
    kv_offload: KvOffload | None = None
    max_batched_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    prefill_chunk: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    max_sequences: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] | None = None

    @model_validator(mode="after")
    def _static_has_a_size(self) -> Batching:
        if (self.policy == "static") != (self.batch_size is not None):
            raise ValueError("batch_size belongs to policy static, which needs it")
        if self.policy == "static" and (self.prefill_chunk or self.max_batched_tokens or self.max_sequences):
            raise ValueError("policy static runs whole batches: give batch_size only")
        if self.policy == "static" and (self.prefix_caching or self.admission == "preempt"):
            raise ValueError("policy static computes whole prompts and sets their blocks aside: no prefix_caching, "
                             "no admission: preempt")  # fmt: skip
        if self.kv_offload is not None and not self.prefix_caching:
            raise ValueError("kv_offload keeps what prefix_caching has no room for: set prefix_caching: true")
        if self.preemption == "swap" and (self.policy == "static" or self.admission == "reserve"):
            raise ValueError("preemption: swap does nothing where blocks are set aside and nobody is pushed out")
        return self

    @model_validator(mode="after")
    def _nothing_is_kept(self) -> Batching:
        whole = "each pass computes whole contexts, however long (max_sequences or batch_size bounds it)"
        clashes = (
            ("prefix_caching", self.prefix_caching, "no prompt is kept for others"),
            ("admission", self.admission is not None, "there are no blocks to set aside or to run out of"),
            ("preemption", self.preemption == "swap", "there is nothing to copy to the host"),
            ("max_batched_tokens", self.max_batched_tokens is not None, whole),
            ("prefill_chunk", self.prefill_chunk is not None, whole),
        )
        if not self.kv_cache:
            _refuse(clashes)
        return self


def _refuse(clashes: Iterable[tuple[str, bool, str]]) -> None:
    """ValueError where a key does not go without a KV cache."""
    for key, clash, why in clashes:
        if clash:
            raise ValueError(f"without a KV cache (kv_cache: false) {why}: leave {key} out")


class Disaggregation(Spec):
    """Prompts and tokens on replicas of their own: the first ``prefill`` of the plan's replicas compute prompts, the
    others generate tokens, and KV caches go from the ones to the others over the network."""

    prefill: Annotated[int, Field(ge=1, le=100_000)]


class Autoscale(Spec):
    """Replicas that come and go with the load, ``min`` at least and the plan's ``dp`` at most: one for each
    ``requests`` running or waiting, counted ``every`` so often. A new one takes requests after ``start_up``; one goes
    when fewer were wanted for ``cool_down``."""

    requests: Annotated[float, Field(gt=0, le=1e6)]
    min: Annotated[int, Field(ge=1, le=100_000)] = 1
    every: Annotated[Seconds, Field(gt=0)] = 15.0
    start_up: Seconds = 120.0
    cool_down: Seconds = 300.0


class ServingJob(Spec):
    """An inference job: a model, how it is laid out, how requests are batched, and who asks.

    ``router`` says which replica a request goes to (:mod:`sim.jobs.serving.balancing`); *sticky*: openings take turns,
    and who comes again stays. Among faults ``recovery`` says how a replica comes back, and ``failover`` what becomes of
    the requests of one that dies: *retry* sends them to other replicas, *wait* keeps them for their own, *fail* gives
    them up.
    """

    name: Name
    kind: Literal["serving"]
    model: Reference | None = None
    stack: Name | None = None
    precision: ServingPrecision = ServingPrecision()
    plan: ServingPlan = ServingPlan()
    batching: Batching = Batching()
    speculative: Speculative | None = None
    adapters: Adapters | None = None
    load: Load
    objectives: Objectives = Objectives()
    recovery: Recovery = Recovery()
    failover: Failover = "retry"
    router: Literal["sticky", "round_robin", "least_loaded", "kv_aware"] = "sticky"
    disaggregate: Disaggregation | None = None
    autoscale: Autoscale | None = None

    @model_validator(mode="after")
    def _extras(self) -> ServingJob:
        if self.adapters is None:
            return self
        if self.speculative is not None:
            raise ValueError("a draft knows nothing of adapters: leave speculative or adapters out")
        if self.batching.prefix_caching:
            raise ValueError("what adapters computed is theirs: no batching.prefix_caching across them")
        if self.disaggregate is not None and self.adapters.slots < self.adapters.count:
            raise ValueError("replicas that take prompts over load no adapters: leave resident or disaggregate out")
        return self

    @model_validator(mode="after")
    def _nothing_is_cached(self) -> ServingJob:
        kv, adapters = self.precision.kv, self.adapters
        some = adapters is not None and adapters.slots < adapters.count
        clashes = (
            ("precision.kv", KV_BYTES[kv] < KV_BYTES["fp16"], f"nothing is kept in {kv}"),
            ("router: kv_aware", self.router == "kv_aware", "no replica has any part of a prompt"),
            ("disaggregate", self.disaggregate is not None, "no replica has prompts to hand over"),
            ("speculative", self.speculative is not None, "guesses have no cached tokens to be checked behind"),
            ("adapters.resident", some, "each pass begins all prompts anew, and would wait for their adapters"),
        )
        if not self.batching.kv_cache:
            _refuse(clashes)
        return self

    @property
    def limits(self) -> dict[str, float]:
        """The longest stated limit by name, of the job's objectives and its tenants'."""
        found: dict[str, float] = {}
        for objectives in (self.objectives, *(tenant.objectives for tenant in self.load.tenants)):
            for name, limit in objectives.model_dump(exclude_none=True).items():
                found[name] = max(limit, found.get(name, 0.0))
        return found

    @model_validator(mode="after")
    def _scales(self) -> ServingJob:
        if self.autoscale is None:
            return self
        if self.autoscale.min >= self.plan.dp:
            raise ValueError(
                f"autoscale keeps at least {self.autoscale.min} replicas, plan.dp is {self.plan.dp}: there is nothing "
                "to scale"
            )
        if self.disaggregate is not None:
            raise ValueError("autoscale and disaggregate do not go together: pools keep their size")
        return self

    @model_validator(mode="after")
    def _pools(self) -> ServingJob:
        if self.disaggregate is None:
            return self
        if self.disaggregate.prefill >= self.plan.dp:
            raise ValueError(
                f"disaggregate takes {self.disaggregate.prefill} replicas for prompts, plan.dp is {self.plan.dp}: at "
                "least one must be left for tokens"
            )
        if self.batching.policy != "continuous":
            raise ValueError("disaggregate needs policy continuous: prompts and tokens do not meet in a replica")
        return self


Job = Annotated[ServingJob | TrainingJob, Field(discriminator="kind")]


class AssumedGpu(Spec):
    """Datasheet rates replaced by the reader's."""

    flops: Annotated[FlopRate, Field(gt=0)] | None = None
    memory_bandwidth: Annotated[BytesPerSecond, Field(gt=0)] | None = None


class Assume(Spec):
    """Assumptions that physics or engines forbid, in sight and off by default.

    A report that uses one says so in a banner. They exist to replay arithmetic made on paper.
    """

    gpu: AssumedGpu | None = None
    parameters: Annotated[float, Field(gt=1e6, le=1e14)] | None = None
    kv_capacity: Literal["checked", "unchecked"] = "checked"
    memory: Literal["checked", "unchecked"] = "checked"
    attention: Literal["counted", "free"] = "counted"
    kv_reads: Literal["counted", "free"] = "counted"
    tp_volume: Literal["ring", "one_copy"] = "ring"
    tp_latency: Seconds | None = None
    tp_overlap: Literal["none", "double_buffer"] = "none"
    pp_return_hop: Literal["token_ids", "counted"] = "token_ids"


class Define(Spec):
    """The user's own GPUs, links, fabrics, models, stacks (serving and training), lengths, fault presets, prices,
    machines and networks, by id.

    An entry with ``like: ID`` starts from that catalogue entry and changes the keys it names.
    """

    gpus: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    links: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    fabrics: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    models: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    stacks: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    training_stacks: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    lengths: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    failures: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    prices: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    machines: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    networks: dict[Name, dict[str, Any]] = Field(default_factory=dict)


class SweepRange(Spec):
    """Values drawn between two ends, written alike: numbers, or text with one unit ("1 Gbps", "25 Gbps").

    Two whole numbers give whole numbers. ``scale: log`` draws as many from 1 to 10 as from 10 to 100.
    """

    min: Number
    max: Number
    scale: Literal["linear", "log"] = "linear"


class SweepRandom(Spec):
    """``samples`` different points, each axis drawn from its list or its range. The seed is the draw's own."""

    samples: Annotated[int, Field(ge=1, le=100_000, strict=True)]
    axes: Annotated[dict[AxisPath, SweepRange | AxisValues], Field(min_length=1)]
    seed: Annotated[int, Field(ge=0, le=2**63 - 1, strict=True)] = 0


class SweepSpec(Spec):
    """What ``sim sweep`` varies: paths of this scenario, as in ``--set``, and their values.

    ``grid`` takes every combination, the lists of ``zip`` go in step, ``random`` is drawn; where more than one
    is given, every combination of their points is taken.
    """

    grid: dict[AxisPath, AxisValues] = Field(default_factory=dict)
    zip: dict[AxisPath, AxisValues] = Field(default_factory=dict)
    random: SweepRandom | None = None

    @model_validator(mode="after")
    def _consistent(self) -> SweepSpec:
        paths = [*self.grid, *self.zip, *(self.random.axes if self.random else ())]
        if not paths:
            raise ValueError("nothing varies: give grid, zip or random")
        twice = sorted({path for path in paths if paths.count(path) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is varied twice")
        lengths = {path: len(values) for path, values in self.zip.items()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{path} has {n}" for path, n in lengths.items())
            raise ValueError(f"lists of zip go in step and must be of one length: {found}")
        return self


class Scenario(Spec):
    """Everything a run depends on."""

    name: Name
    about: Prose = ""
    cluster: ClusterSpec
    model: Reference | None = None
    stack: Name = "generic"
    jobs: Annotated[tuple[Job, ...], Field(min_length=1, max_length=64)]
    cost: CostSpec | None = None
    faults: Faults | None = None
    assume: Assume = Assume()
    define: Define = Define()
    sweep: SweepSpec | None = None
    size: SizeSpec | None = None
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0

    @model_validator(mode="after")
    def _halves_do_not_fail(self) -> Scenario:
        if self.assume.tp_overlap == "double_buffer" and self.faults is not None:
            raise ValueError("assume.tp_overlap: double_buffer knows no slow links: leave faults out, or take none")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Scenario:
        names = [job.name for job in self.jobs]
        if len(set(names)) != len(names):
            raise ValueError("two jobs have the same name")
        return self

    @model_validator(mode="after")
    def _demand_of_one(self) -> Scenario:
        demand = None if self.cost is None else self.cost.demand
        if demand is not None and [job.kind for job in self.jobs] != ["serving"]:
            raise ValueError("cost.demand is the demand of a scenario's only job, which serves")
        return self

    @model_validator(mode="after")
    def _tokens_to_sell(self) -> Scenario:
        income = None if self.cost is None else self.cost.income
        if income is not None and income.tokens and all(job.kind != "serving" for job in self.jobs):
            raise ValueError("cost.income.tokens sells what is generated: no job serves, give per_gpu or price")
        return self
