"""How long a transformer layer takes to train: forward, backward and recomputation of one micro-batch on one rank.

T = micro * s / cp tokens a rank, sph = tp with sequence parallelism else 1, B = em * BW, knee(x, y) =
(x^2.5 + y^2.5)^(1/2.5). Constants of the stack (:class:`sim.spec.training_stack.TrainingConstants`) in brackets.

    GEMM(M,N,K) = t0 + knee( 2MNK / ([ec] P), (wb (NK + MK) + 2 MN) / B )
    products    = GEMM of Q,K,V + of the output projection + of the MLP's way up and down            forward
                  twice that, and the gradients' accumulation: gb * weights * (2 if micro-batches > 1) / B   backward
    attention   = t0 + F / ([ea] P), causal: F = 2 micro (a/tp) (s^2/cp) hd forward, 2.5 times that backward (fused)
                  unfused: 3 t0 + 2F / (al [ea] P) + 13 el / B, backward 6 t0 + 4F / (al [ea] P) + 17 el / B,
                  el = micro (a/tp) s^2/cp, al = 1, or [mis] where the head width is no multiple of 8
    elementwise = 2 T [ke] (10 h/sph + (mats ffn + 2 (a + 2 kv) hd) / tp) / B, 1.5 times that backward
    collectives = two all-reduces of 2 T h bytes (with sequence parallelism all-gather and reduce-scatter), times [xt]

A pass of a layer takes knee(all of that, [th]): the host launches while the GPU works, and binds where the GPU is
faster. Mixtures of experts multiply the tokens of the MLP's products by the experts a token meets and add two
all-to-alls of those tokens. Source: docs/model.md; byte counts (13, 17, 24) are counted by hand, not fitted.

Every time comes as a :class:`Work` by what it is limited by, and its communication as flows on a kind of group.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

from sim.laws.collective import CollectiveParameters, pieces, wire_bytes
from sim.laws.roofline import INFINITE
from sim.spec.hardware import Gpu, KernelConstants
from sim.spec.training import Finetune, TrainingJob
from sim.spec.training_stack import TrainingConstants, TrainingStack
from sim.spec.transformer import Transformer

PCIE_KINDS = ("pcie", "staged")

#: Flows of one GPU with its host, which have no group: where they go (:meth:`sim.laws.topology.Topology.host_way`).
HOST_WAYS: dict[str, tuple[str, ...]] = {
    "to host": ("gpu", "memory"), "from host": ("memory", "gpu"),
    "to nvme": ("gpu", "memory", "storage"), "from nvme": ("storage", "memory", "gpu"),
    "nvme write": ("memory", "storage"), "nvme read": ("storage", "memory"), "host update": ("memory",),
}  # fmt: skip


class Work(NamedTuple):
    """Kernels of one GPU: seconds by cause, FLOP and bytes."""

    compute: float = 0.0
    memory: float = 0.0
    launch: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of the GPU."""
        return self.compute + self.memory + self.launch

    def plus(self, other: Work) -> Work:
        """Both, one after the other."""
        return Work(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, factor: float) -> Work:
        """``factor`` such pieces of work."""
        return Work(*(factor * a for a in self))

    def slowed(self, factor: float) -> Work:
        """The same work on a GPU that takes ``factor`` times as long."""
        return Work(self.compute * factor, self.memory * factor, self.launch * factor, self.flops, self.bytes)


NOTHING = Work()


class Flow(NamedTuple):
    """Communication of one kind of group as one coupled flow: ``fixed`` s, then ``wire`` bytes a member at ``cap``.

    ``number`` collectives are in it. ``hidden`` is the share of it that moves while kernels run. A kind of
    :data:`HOST_WAYS` is what one GPU moves.
    """

    kind: str
    fixed: float
    wire: float
    cap: float
    number: float = 1.0
    hidden: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds alone on its links."""
        return self.fixed + (self.wire / self.cap if self.wire else 0.0)

    @property
    def exposed(self) -> float:
        """Seconds in which kernels wait for it."""
        return self.seconds * (1.0 - self.hidden)

    def times(self, factor: float) -> Flow:
        """``factor`` such flows, one after another."""
        return self._replace(fixed=self.fixed * factor, wire=self.wire * factor, number=self.number * factor)


def flow_of(kind: str, op: str, size: float, parameters: CollectiveParameters, algorithm: str = "best") -> Flow:
    """One collective of ``size`` bytes as a flow."""
    way = algorithm if algorithm in ("best", "ring") or op == "all_reduce" else "best"
    fixed, slope = min(pieces(op, parameters, way), key=lambda piece: piece[0] + size * piece[1])
    wire = size if parameters.one_copy and op == "all_reduce" else wire_bytes(op, parameters.n, size)
    return Flow(kind, fixed, wire, wire / (slope * size) if slope * size > 0 else INFINITE)


@dataclass(frozen=True, slots=True)
class Pass:
    """Kernels and what they wait for: one direction of a layer, a stage or a chunk of it."""

    work: Work = NOTHING
    flows: tuple[Flow, ...] = ()

    @property
    def exposed(self) -> float:
        """Seconds of communication that kernels wait for."""
        return sum(flow.exposed for flow in self.flows)

    @property
    def seconds(self) -> float:
        """Seconds of the whole pass."""
        return self.work.seconds + self.exposed

    def plus(self, other: Pass) -> Pass:
        """Both, one after the other; flows of one kind and rate become one."""
        return Pass(self.work.plus(other.work), _joined((*self.flows, *other.flows)))

    def times(self, factor: float) -> Pass:
        """``factor`` such passes."""
        return Pass(self.work.times(factor), tuple(flow.times(factor) for flow in self.flows if factor))


IDLE = Pass()


def _joined(flows: Iterable[Flow]) -> tuple[Flow, ...]:
    total: dict[tuple[str, float, float], Flow] = {}
    for flow in flows:
        key = (flow.kind, flow.cap, flow.hidden)
        old = total.get(key)
        total[key] = flow if old is None else old._replace(
            fixed=old.fixed + flow.fixed, wire=old.wire + flow.wire, number=old.number + flow.number
        )  # fmt: skip
    return tuple(total.values())


def total(parts: Iterable[Pass]) -> Pass:
    """All passes one after the other."""
    return reduce(Pass.plus, parts, IDLE)


@dataclass(frozen=True, slots=True)
class Rates:
    """What a GPU's kernels reach in training: FLOP/s, bytes/s, and seconds of a launch.

    ``matmul`` is that of the layers' products, ``matmul_16`` that of the output head, ``peak`` the datasheet's of the
    layers' format and ``bandwidth`` of memory; ``operand`` bytes of a product's operands.
    """

    peak: float
    bandwidth: float
    matmul: float
    matmul_16: float
    attention: float
    memory: float
    launch: float
    exponent: float
    operand: float
    on_chip: bool

    def knee(self, x: float, y: float) -> float:
        """The larger of two times, rounded where they are near."""
        larger, smaller = (x, y) if x > y else (y, x)
        if self.exponent == INFINITE or larger <= 0.0 or smaller <= 0.0:
            return larger
        return float(larger * (1.0 + (smaller / larger) ** self.exponent) ** (1.0 / self.exponent))

    def gemm(self, m: float, n: float, k: float, *, head: bool = False, copies: float = 1.0) -> Work:
        """A product of (m x k) by ``copies`` weights of (k x n), whose rows share the m."""
        flops = 2.0 * m * n * k
        wb = 2.0 if head else self.operand
        moved = wb * copies * n * k + (0.0 if self.on_chip else wb * m * k + 2.0 * m * n)
        tc, tm = flops / (self.matmul_16 if head else self.matmul), moved / self.memory
        seconds = self.knee(tc, tm)
        return Work(seconds if tc > tm else 0.0, 0.0 if tc > tm else seconds, self.launch, flops, moved)

    def move(self, nbytes: float) -> Work:
        """Reading and writing ``nbytes`` of memory."""
        return Work(memory=nbytes / self.memory, bytes=nbytes)


def peak_of(gpu: Gpu, compute: str) -> float:
    """Dense peak of a training format on a card; one without it computes in the next wider format it has."""
    f = gpu.flops
    sixteen = f.bf16 or f.fp16 if compute != "fp16" else f.fp16
    if compute == "fp8":
        return f.fp8 or sixteen
    if compute == "fp32":
        return f.fp32 or f.tf32 or sixteen / 2
    if compute == "tf32":
        return f.tf32 or f.fp32 or sixteen / 2
    return sixteen


def rates_of(
    gpu: Gpu, stack: TrainingStack, kernels: KernelConstants, compute: str, *,
    flops: float | None = None, memory_bandwidth: float | None = None,
) -> Rates:  # fmt: skip
    """Rates of ``gpu`` under ``stack``; ``flops`` and ``memory_bandwidth`` override the datasheet."""
    peak, bandwidth = flops or peak_of(gpu, compute), memory_bandwidth or gpu.memory_bandwidth
    sixteen = flops or peak_of(gpu, "fp16" if compute == "fp16" else "bf16")
    if compute in ("fp32", "tf32"):
        sixteen = peak
    exponent = INFINITE if stack.roofline_exponent == "max" else float(stack.roofline_exponent)
    operand = {"fp8": 1.0, "fp32": 4.0, "tf32": 4.0}.get(compute, 2.0)
    on_chip = stack.activations == "on_chip"
    if stack.kernels == "datasheet":
        return Rates(peak, bandwidth, peak, sixteen, sixteen, bandwidth, 0.0, exponent, operand, on_chip)
    c = stack.constants_for(gpu.id)
    narrow = compute == "fp8" and (gpu.flops.fp8 is not None or flops is not None)
    return Rates(
        peak=peak, bandwidth=bandwidth, matmul=peak * (c.matmul_8 if narrow else c.matmul_16),
        matmul_16=sixteen * c.matmul_16, attention=sixteen * c.attention, memory=bandwidth * kernels.gemm_memory,
        launch=kernels.gemm_launch, exponent=exponent, operand=operand if narrow or compute != "fp8" else 2.0,
        on_chip=on_chip,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class LayerPasses:
    """One layer: forward; backward of the inputs and of the weights; what recomputation adds before the backward."""

    forward: Pass
    backward: Pass
    weight: Pass
    recompute: Pass


class LayerLaw:
    """Times of the layers and the output head of one job on one kind of GPU.

    ``collectives`` gives the parameters of ``tp``, ``cp`` and ``ep`` groups; ``pcie`` whether tensor groups go over
    PCIe, where nothing hides.
    """

    def __init__(
        self, model: Transformer, job: TrainingJob, stack: TrainingStack, constants: TrainingConstants, rates: Rates,
        collectives: dict[str, CollectiveParameters], tp_kind: str, micro_batches: int, scale: float = 1.0,
        *, attention_free: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.job, self.stack, self.c, self.rates = model, job, stack, constants, rates
        self.groups, self.tp_kind, self.scale = collectives, tp_kind, scale
        self.micro_batches = micro_batches
        plan = job.plan
        self.tokens = job.batch.micro * job.batch.sequence / plan.cp
        self.sequence_split = plan.tp if plan.sequence_parallel else 1
        self.q = model.heads * model.head_dim / plan.tp
        self.kv = max(model.kv_heads / plan.tp, 1.0) * model.head_dim
        self.ffn = model.intermediate / plan.tp
        self.frozen = job.finetune is not None
        self.attention_free = attention_free

    # ---- parts

    def _products(self, mixture: bool) -> Work:
        """The layer's matrix products, forward."""
        m, r, t, s = self.model, self.rates, self.tokens, self.scale
        up, tp = m.matrices - 1, self.job.plan.tp
        work = r.gemm(t, (self.q + 2 * self.kv) * s, m.hidden).plus(r.gemm(t, m.hidden, self.q * s))
        if not mixture:
            return work.plus(r.gemm(t, up * self.ffn * s, m.hidden)).plus(r.gemm(t, m.hidden, self.ffn * s))
        width = (m.expert_intermediate or m.intermediate) / tp * s
        held = m.experts / self.job.plan.ep
        rows = t * m.experts_per_token * self.job.plan.expert_load
        parts = [r.gemm(rows, up * width, m.hidden, copies=held), r.gemm(rows, m.hidden, width, copies=held)]
        if m.shared_experts:
            width *= m.shared_experts
            parts += [r.gemm(t, up * width, m.hidden), r.gemm(t, m.hidden, width)]
        return reduce(Work.plus, parts, work)

    def parameters(self, mixture: bool) -> float:
        """Weights of the layer on one rank."""
        m, plan = self.model, self.job.plan
        attention = m.hidden * (self.q + 2 * self.kv) + self.q * m.hidden
        if not mixture:
            return (attention + m.mlp_parameters / plan.tp) * self.scale
        experts = (m.experts / plan.ep + m.shared_experts) * m.expert_parameters / plan.tp
        return (attention + experts + m.hidden * m.experts) * self.scale

    def _attention(self) -> tuple[Work, Work]:
        """Attention's core, forward and backward."""
        m, r, plan, b = self.model, self.rates, self.job.plan, self.job.batch
        if self.attention_free:
            return NOTHING, NOTHING
        heads, s = m.heads / plan.tp, float(b.sequence)
        causal = 2.0 * b.micro * heads * s * s / plan.cp * m.head_dim
        if r.on_chip or self.stack.attention == "flash":
            return (
                Work(compute=causal / r.attention, launch=r.launch, flops=causal),
                Work(compute=2.5 * causal / r.attention, launch=r.launch, flops=2.5 * causal),
            )
        elements = b.micro * heads * s * s / plan.cp
        rate = r.attention * (1.0 if m.head_dim % 8 == 0 else self.c.misaligned)
        forward = Work(compute=2 * causal / rate, launch=3 * r.launch, flops=2 * causal).plus(r.move(13 * elements))
        backward = Work(compute=4 * causal / rate, launch=6 * r.launch, flops=4 * causal).plus(r.move(17 * elements))
        return forward, backward

    def _elementwise(self, mixture: bool) -> tuple[Work, Work]:
        """Everything between the products, FP8 casts and the unpacking of frozen weights included."""
        m, r, t, c = self.model, self.rates, self.tokens, self.c
        width = self.ffn
        if mixture:
            tokens = m.experts_per_token * self.job.plan.expert_load + m.shared_experts
            width = (m.expert_intermediate or m.intermediate) / self.job.plan.tp * tokens
        attention = self.q + 2 * self.kv
        if r.on_chip:
            return NOTHING, NOTHING
        passes = 2.0 * t * c.elementwise
        moved = passes * (10 * m.hidden / self.sequence_split + m.matrices * width + 2 * attention)
        if self.frozen:
            moved += passes * 6 * m.hidden / self.sequence_split
        forward, backward = moved, 1.5 * moved
        if self.job.precision.compute == "fp8":
            forward += 4 * c.cast * t * (2 * m.hidden + self.q + width)
            backward += 4 * c.cast * t * (m.hidden + attention + m.matrices * width)
        if self.job.finetune is not None and self.job.finetune.base == "nf4":
            unpacked = 10 * c.dequantise * self.parameters(mixture)
            forward, backward = forward + unpacked, backward + unpacked
        return r.move(forward), r.move(backward)

    # ---- communication

    def _flow(self, kind: str, op: str, size: float, count: float, factor: float = 1.0, hidden: float = 0.0) -> Flow:
        """``count`` collectives of ``size`` bytes among a group; ``factor`` times the law's time."""
        one = flow_of(kind, op, size, self.groups[kind])
        return Flow(kind, count * one.fixed * factor, count * one.wire, one.cap / factor, count, hidden)

    def _tensor(self) -> tuple[Flow, ...]:
        """Collectives of one direction of a layer among tensor ranks."""
        plan, size = self.job.plan, 2.0 * self.tokens * self.model.hidden
        if self.job.precision.wide:
            size *= 2
        if plan.tp == 1:
            return ()
        narrow = self.job.precision.compute == "fp8"
        factor = (self.c.tp_exposed_8 or self.c.tp_exposed) if narrow else self.c.tp_exposed
        if self.tp_kind in PCIE_KINDS:
            factor = max(1.0, factor)
        if not plan.sequence_parallel:
            return (self._flow("tp", "all_reduce", size, 2, factor),)
        if narrow:  # what is gathered travels in FP8
            factor *= 0.75
        gathered, scattered = (self._flow("tp", op, size, 2, factor) for op in ("all_gather", "reduce_scatter"))
        return _joined((gathered, scattered))

    def _context(self, attention: float, backward: bool) -> tuple[Flow, ...]:
        """Keys and values among context ranks: round the ring beside attention, or gathered before it."""
        plan, b = self.job.plan, self.job.batch
        if plan.cp == 1:
            return ()
        size = b.micro * b.sequence * 4.0 * self.kv * (2 if backward else 1)
        if plan.context_parallel == "all_gather":
            return (self._flow("cp", "all_gather", size, 1),)
        flow = self._flow("cp", "all_gather", size, 1)  # n - 1 steps, (n-1)/n of all keys and values: the same ring
        hidden = min(flow.seconds, attention / 2) / flow.seconds if flow.seconds > 0 else 0.0
        return (flow._replace(hidden=hidden),)

    def _exchange(self) -> tuple[Flow, ...]:
        """Tokens to their experts and back."""
        plan, m = self.job.plan, self.model
        if plan.ep == 1:
            return ()
        size = 2.0 * self.tokens * m.experts_per_token * m.hidden * self.job.plan.expert_load
        return (self._flow("ep", "all_to_all", size, 2),)

    # ---- passes

    def layer(self, mixture: bool = False) -> LayerPasses:
        """A layer's passes, recomputation included, for one micro-batch."""
        products, (af, ab), (ef, eb) = self._products(mixture), self._attention(), self._elementwise(mixture)
        exchange = self._exchange() if mixture else ()
        flows_f = (*self._tensor(), *self._context(af.seconds, False), *exchange)
        flows_b = (*self._tensor(), *self._context(ab.seconds, True), *exchange)
        forward = self._hosted(Pass(products.plus(af).plus(ef), _joined(flows_f)))
        inputs = Pass(products.plus(ab).plus(eb), _joined(flows_b))
        backward, weight = self._split(inputs, self._weights(products, mixture))
        return LayerPasses(forward, backward, weight, self._recomputed(forward, products, af, ef))

    def _weights(self, products: Work, mixture: bool) -> Work:
        """Gradients of the weights: as many products again, and adding them up; those of adapters are small."""
        adapters = adapter_work(self.model, self.job, self.rates, self.tokens)
        if self.frozen:
            return adapters
        rounds = 2.0 if self.micro_batches > 1 else 1.0
        if self.rates.on_chip:
            return products
        return products.plus(self.rates.move(self.job.precision.gradient_bytes * self.parameters(mixture) * rounds))

    def _hosted(self, work: Pass) -> Pass:
        """A pass stretched to what the host's launches allow; the rest of the time is the host's."""
        busy = work.seconds
        extra = self.rates.knee(busy, self.c.host_per_layer) - busy if self.c.host_per_layer > 0 else 0.0
        return Pass(work.work._replace(launch=work.work.launch + extra), work.flows)

    def _split(self, inputs: Pass, weights: Work) -> tuple[Pass, Pass]:
        """The backward pass of inputs and weights, the host's part shared by their length."""
        both = inputs.plus(Pass(weights))
        extra = self._hosted(both).seconds - both.seconds
        share = weights.seconds / both.seconds if both.seconds > 0 else 0.0
        work = inputs.work._replace(launch=inputs.work.launch + extra * (1 - share))
        return Pass(work, inputs.flows), Pass(weights._replace(launch=weights.launch + extra * share))

    def _recomputed(self, forward: Pass, products: Work, attention: Work, elementwise: Work) -> Pass:
        """What is computed again before a layer's backward pass. ``group`` and ``every`` are the stage's business."""
        method = self.job.plan.recompute
        if method == "none" or not isinstance(method, str):
            return IDLE
        if method == "selective":
            return Pass(attention)
        if method == "operators":
            return Pass(attention.plus(products.plus(elementwise).times(0.5)))
        return forward

    def head(self) -> tuple[Pass, Pass, Pass]:
        """The output head and the loss: forward, backward of the inputs, of the weights (24 B a logit in all)."""
        m, r, t = self.model, self.rates, self.tokens
        width = m.vocabulary / self.job.plan.tp
        product = r.gemm(t, width * self.scale, m.hidden, head=True)
        product = product._replace(launch=product.launch + r.launch)
        if r.on_chip:
            return Pass(product), Pass(product), IDLE if self.frozen else Pass(product)
        read = r.move(2.0 * self.job.precision.gradient_bytes * m.hidden * width)
        forward, backward = product.plus(r.move(8 * t * width)), product.plus(r.move(16 * t * width))
        return Pass(forward), Pass(backward), IDLE if self.frozen else Pass(product.plus(read))


def adapter_work(model: Transformer, job: TrainingJob, rates: Rates, tokens: float) -> Work:
    """Products of the trained adapters of one layer: forward, backward of inputs and of weights."""
    tune: Finetune | None = job.finetune
    if tune is None or tune.method == "prompt":
        return NOTHING
    parameters = adapter_parameters(model, tune) / job.plan.tp
    if not parameters:
        return NOTHING
    return rates.gemm(tokens, parameters / model.hidden, model.hidden).times(3)


def adapter_parameters(model: Transformer, tune: Finetune) -> float:
    """Trained parameters a layer of ``tune``: LoRA rank * (in + out) of each target, an adapter's two bottlenecks."""
    h, q, kv, f = model.hidden, model.heads * model.head_dim, model.kv_heads * model.head_dim, model.intermediate
    if tune.method == "adapter":
        return 2 * 2 * h * tune.rank
    if tune.method == "prompt":
        return 0.0
    shapes = {"q": (h, q), "k": (h, kv), "v": (h, kv), "o": (q, h), "gate": (h, f), "up": (h, f), "down": (f, h)}
    chosen = [shapes[t] for t in tune.targets if t != "gate" or model.gated]
    return float(tune.rank * sum(a + b for a, b in chosen))
