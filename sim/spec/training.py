"""A training job: what is trained, in which number formats, and how it is laid on GPUs.

Degrees multiply to GPUs: ``tp * cp * dp * pp`` (``ep`` divides ``cp * dp``: experts are spread over ranks that hold
different data). One step is ``batch.global`` sequences; each data-parallel rank takes its share in micro-batches.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from sim.spec.base import Count, Name, Spec
from sim.spec.reliability import Checkpoint, Policy, Recovery
from sim.units import Bytes, Seconds, Tokens

Compute = Literal["fp32", "tf32", "fp16", "bf16", "fp8"]
State = Literal["fp32", "bf16"]
Axis = Literal["tp", "cp", "dp", "pp"]
Optimizer = Literal["adam", "sgd-momentum", "sgd", "lion", "adam-8bit"]
ScheduleName = Literal["gpipe", "1f1b", "interleaved", "zb-h1", "stream"]
RecomputeName = Literal["none", "selective", "operators", "full", "from_input"]
Target = Literal["q", "k", "v", "o", "gate", "up", "down"]
Tier = Literal["gpu", "host", "nvme"]

#: Megatron's order of ranks, innermost first (its ``--use-tp-pp-dp-mapping`` is tp, cp, pp, dp).
MEGATRON_ORDER: tuple[Axis, Axis, Axis, Axis] = ("tp", "cp", "dp", "pp")

#: Optimizer states a parameter, by optimizer: how many tensors in the format of ``states``, and bytes of 8-bit ones.
OPTIMIZER_STATES: dict[str, tuple[int, float]] = {
    "adam": (2, 0.0), "sgd-momentum": (1, 0.0), "sgd": (0, 0.0), "lion": (1, 0.0), "adam-8bit": (0, 2.0),
}  # fmt: skip

#: Bytes of a frozen weight. nf4: 4 bits, 8 a block of 64, 32 a 256 blocks (arXiv:2305.14314); int8: 32 bits a row.
BASE_BYTES: dict[str, float] = {
    "fp16": 2.0, "bf16": 2.0, "int8": 1.001, "nf4": (4 + 8 / 64 + 32 / (64 * 256)) / 8,
}  # fmt: skip

_OPERATION = re.compile(r"([FBW])(\d+)(?:\.(\d+))?")


class TrainingPrecision(Spec):
    """Number formats. ``compute`` is that of matrix products; ``gradients`` those that are kept and summed.

    In mixed precision (16 and 8 bit) 16-bit weights have a ``master`` copy in FP32: with Adam 2 + 2 + 12 bytes a
    parameter (gradients in FP32: 18). ``master: false`` trains in pure 16 bit.
    """

    compute: Compute = "bf16"
    gradients: Literal["fp32", "bf16", "fp16"] | None = None
    states: State = "fp32"
    master: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> TrainingPrecision:
        if self.wide and self.gradients in ("bf16", "fp16"):
            raise ValueError(f"{self.compute} training keeps its gradients in fp32: leave gradients out")
        return self

    @property
    def wide(self) -> bool:
        """Whether weights and activations are kept in 32 bits."""
        return self.compute in ("fp32", "tf32")

    @property
    def weight_bytes(self) -> float:
        """Bytes of a weight as the layers read it (fp8 is cast from a 16-bit copy)."""
        return 4.0 if self.wide else 2.0

    @property
    def gradient_bytes(self) -> float:
        """Bytes of a gradient as it is kept and sent."""
        return 4.0 if self.wide or self.gradients == "fp32" else 2.0

    @property
    def master_bytes(self) -> float:
        """Bytes of the FP32 copy of a weight, 0 without one."""
        return 4.0 if self.master and not self.wide else 0.0

    def state_bytes(self, optimizer: str) -> float:
        """Bytes a trained parameter keeps for the optimizer, its master copy included (Adam 12, momentum 8)."""
        tensors, small = OPTIMIZER_STATES[optimizer]
        each = 4.0 if self.states == "fp32" else 2.0
        return self.master_bytes + tensors * each + small


class RecomputeEvery(Spec):
    """Every ``every``-th layer of a chunk is computed again in the backward pass, the others keep their activations."""

    every: Count


class RecomputeGroup(Spec):
    """Only the input of each group of layers is kept; the group is computed again before its backward pass."""

    group: Count


class Offload(Spec):
    """What leaves the GPU between its uses, and where it goes: over the GPU's real links, shared in its node.

    ``optimizer: host`` also makes the CPU do the update (ZeRO-Offload); ``activations: host`` swaps what the forward
    pass keeps.
    """

    optimizer: Tier = "gpu"
    parameters: Tier = "gpu"
    activations: Literal["gpu", "host"] = "gpu"


class UserSchedule(Spec):
    """Each stage's operations in order: ``F3`` forward of micro-batch 3, ``B3`` backward, ``W3`` weight gradients
    on their own (then B3 is of the inputs only); ``F3.1`` is that of the stage's chunk 1."""

    order: Annotated[tuple[tuple[str, ...], ...], Field(min_length=1, max_length=1024)]

    @model_validator(mode="after")
    def _read(self) -> UserSchedule:
        for number, stage in enumerate(self.order):
            for word in stage:
                if _OPERATION.fullmatch(word) is None:
                    raise ValueError(f"order.{number}: '{word}' is no operation, write F0, B0 or W0, of chunk 1 F0.1")
        return self

    @property
    def operations(self) -> tuple[tuple[tuple[str, int, int], ...], ...]:
        """(kind, micro-batch, chunk) of every stage, in order."""
        found = []
        for stage in self.order:
            matches = (_OPERATION.fullmatch(word) for word in stage)
            found.append(tuple((m[1], int(m[2]), int(m[3] or 0)) for m in matches if m is not None))
        return tuple(found)


class ParameterServer(Spec):
    """Gradients go to ``servers`` (GPUs of their own, after the workers') that each own a slice, and weights come back.

    ``staleness`` 0 is synchronous; s lets a worker begin step t once all gradients up to t - 1 - s are applied;
    ``unbounded`` never waits. What staleness does to convergence is not modelled.
    """

    servers: Count = 1
    staleness: Annotated[int, Field(ge=0, le=1000, strict=True)] | Literal["unbounded"] = 0


class TrainingPlan(Spec):
    """How the model is laid on ``tp * cp * dp * pp`` GPUs.

    ``vpp`` chunks a stage (interleaved schedule). ``zero`` shards optimizer states (1), gradients (2) and parameters
    (3, which is FSDP) over the data-parallel ranks, with ``shard: node`` over those of one node only. Schedule
    ``stream`` never empties the pipeline between steps (as PipeDream): no bubble, stale weights, and the activations
    of 2 (pp - stage) - 1 micro-batches. ``prefetch`` is how many layers ZeRO-3 gathers ahead. ``order`` lists the axes
    of ranks, innermost first; ``placement`` the GPUs by their number, in rank order. ``layers``: those of each stage,
    or ``even``.
    """

    tp: Count = 1
    cp: Count = 1
    dp: Count = 1
    pp: Count = 1
    vpp: Count = 1
    ep: Count = 1
    zero: Literal[0, 1, 2, 3] = 0
    shard: Literal["all", "node"] = "all"
    prefetch: Annotated[int, Field(ge=0, le=64, strict=True)] = 1
    sequence_parallel: bool = False
    context_parallel: Literal["ring", "all_gather"] = "ring"
    schedule: ScheduleName | UserSchedule | None = None
    recompute: RecomputeName | RecomputeEvery | RecomputeGroup = "none"
    offload: Offload = Offload()
    layers: Literal["even"] | tuple[Annotated[int, Field(ge=0, le=2000)], ...] = "even"
    order: tuple[Axis, Axis, Axis, Axis] = MEGATRON_ORDER
    placement: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    bucket: Annotated[Bytes, Field(gt=0)] | None = None
    overlap: bool = True
    collective: Literal["best", "ring", "tree", "hierarchical"] = "best"
    parameter_server: ParameterServer | None = None
    expert_imbalance: Annotated[float, Field(ge=1, le=1000)] = 1.0
    expert_capacity: Annotated[float, Field(gt=0, le=1000)] | None = None

    @property
    def workers(self) -> int:
        """GPUs that train."""
        return self.tp * self.cp * self.dp * self.pp

    @property
    def gpus(self) -> int:
        """GPUs the plan takes, those of parameter servers included."""
        return self.workers + (self.parameter_server.servers if self.parameter_server else 0)

    @property
    def expert_load(self) -> float:
        """Tokens of the fullest expert rank against the mean: the imbalance, cut off at the capacity; a capacity alone
        is filled up."""
        if self.expert_capacity is None:
            return self.expert_imbalance
        return min(self.expert_imbalance, self.expert_capacity) if self.expert_imbalance > 1 else self.expert_capacity

    @property
    def schedule_name(self) -> str:
        """The schedule in force: 1F1B, or interleaved where stages have chunks."""
        if isinstance(self.schedule, UserSchedule):
            return "user"
        return self.schedule or ("interleaved" if self.vpp > 1 else "1f1b")

    @model_validator(mode="after")
    def _consistent(self) -> TrainingPlan:
        if sorted(self.order) != sorted(MEGATRON_ORDER):
            raise ValueError("order names each of tp, cp, dp, pp once, innermost first")
        chunks = self.pp * self.vpp
        if not isinstance(self.layers, str) and len(self.layers) != chunks:
            raise ValueError(f"layers lists {len(self.layers)} parts, pp {self.pp} x vpp {self.vpp} has {chunks}")
        if self.vpp > 1 and self.pp == 1:
            raise ValueError("vpp cuts the stages of a pipeline into chunks: pp is 1")
        if self.vpp > 1 and self.schedule_name not in ("interleaved", "user"):
            raise ValueError(f"schedule {self.schedule_name} has one chunk a stage: vpp needs schedule interleaved")
        if self.schedule == "interleaved" and self.vpp == 1:
            raise ValueError("schedule interleaved needs chunks: give vpp")
        if (self.cp * self.dp) % self.ep:
            raise ValueError(f"ep {self.ep} does not divide cp x dp = {self.cp * self.dp}")
        if self.parameter_server is not None:
            others = [name for name in ("tp", "cp", "pp", "ep", "zero") if getattr(self, name) not in (0, 1)]
            if others:
                raise ValueError(f"a parameter server serves plain data parallelism: leave {', '.join(others)} out")
        if isinstance(self.schedule, UserSchedule) and len(self.schedule.order) != self.pp:
            raise ValueError(f"schedule orders {len(self.schedule.order)} stages, pp is {self.pp}")
        if self.placement is not None:
            if len(self.placement) != self.gpus:
                raise ValueError(f"placement lists {len(self.placement)} GPUs, the plan takes {self.gpus}")
            if len(set(self.placement)) != len(self.placement):
                raise ValueError("placement names a GPU twice")
        return self


class TrainingBatch(Spec):
    """One step: ``global`` sequences of ``sequence`` tokens, in micro-batches of ``micro``."""

    model_config = ConfigDict(populate_by_name=True)

    whole: Count = Field(alias="global")
    micro: Count = 1
    sequence: Tokens


class Finetune(Spec):
    """Training a few parameters of a frozen model.

    ``lora`` adds two matrices of ``rank`` to each of ``targets``; ``base`` is the format the frozen weights are kept in
    (``nf4`` is QLoRA). ``adapter`` adds a bottleneck of ``rank`` after attention and MLP, ``prompt`` trains ``rank``
    virtual tokens.
    """

    method: Literal["lora", "adapter", "prompt"]
    rank: Count = 16
    targets: Annotated[tuple[Target, ...], Field(min_length=1)] = ("q", "v")
    base: Literal["fp16", "bf16", "int8", "nf4"] = "bf16"


class SlowGpu(Spec):
    """A GPU whose kernels take ``factor`` times as long (heat, a bad card)."""

    gpu: Annotated[int, Field(ge=0)]
    factor: Annotated[float, Field(gt=0, le=1000)]


class TrainingLength(Spec):
    """How long to train: ``steps``, or ``tokens``, or a ``duration`` of the clock; ``target_tokens`` is what days and
    dollars are told for."""

    steps: Count | None = None
    tokens: Tokens | None = None
    duration: Annotated[Seconds, Field(gt=0)] | None = None
    target_tokens: Tokens | None = None

    @model_validator(mode="after")
    def _one(self) -> TrainingLength:
        given = [name for name in ("steps", "tokens", "duration") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of steps, tokens and duration, not {' and '.join(given)}")
        return self


class TrainingJob(Spec):
    """A training job: a model, how it is laid out, one step's batch, how it saves itself, and for how long."""

    name: Name
    kind: Literal["training"]
    model: str | None = Field(default=None, min_length=1, max_length=400)
    stack: Name | None = None
    precision: TrainingPrecision = TrainingPrecision()
    plan: TrainingPlan = TrainingPlan()
    batch: TrainingBatch
    optimizer: Optimizer = "adam"
    finetune: Finetune | None = None
    data_loading: Seconds = 0.0
    slow: tuple[SlowGpu, ...] = ()
    checkpoint: Checkpoint | None = None
    recovery: Recovery = Recovery()
    policy: Policy = "restart"
    run: TrainingLength = TrainingLength()
