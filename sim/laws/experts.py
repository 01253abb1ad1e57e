"""The MLP of a layer with experts on one rank: which experts a pass reads, and what they cost.

Of E experts each of M tokens meets k, drawn evenly, so that a pass of M tokens reads

    touched = E [ 1 - (1 - k/E)^M ]

of them: k for one token, all of them for many. That decides the bytes of weights; FLOP are those of the k experts.

*Sliced* (ep = 1): every rank of the tensor group has 1/tp of every expert's width, and works for all M tokens.

*Spread* (ep = tp): every rank has E/ep whole experts, and a share M/ep of the tokens for what is not routed: its router
and its shared experts are whole (vLLM's sequence-parallel mixtures do so). The pass waits for the fullest rank,

    rows    = load M k/ep + z sqrt(load M k/ep (1 - 1/ep))
    touched = mean + z sqrt(mean (1 - mean / (E/ep))),    mean = (E/ep) [ 1 - (1 - load k/E)^M ],  at most E/ep

with ``load`` the lasting imbalance (tokens of the fullest rank over the mean, as it is stated) and z the expected
largest of ep normal deviates, by which chance alone fills one rank more than the others (Blom 1958: z is the normal
quantile of (ep - 3/8) / (ep + 1/4)).

Launches: the router, a grouped product up (with the gate) and one down; besides the activation's kernel the choice of
experts, the sorting of rows and the sum of the k answers; shared experts two products and an activation (as in vLLM's
fused mixtures). Rows are not rounded up to a kernel's tiles.
"""

from __future__ import annotations

from math import ceil, expm1, log1p, sqrt
from statistics import NormalDist
from typing import NamedTuple

from sim.laws.roofline import KernelRates
from sim.spec.transformer import Transformer

#: Bytes of a router's weight: engines keep it in 16 bits whatever the experts' format.
ROUTER_BYTES = 2.0


class Work(NamedTuple):
    """Kernels of one layer: seconds by cause on the fullest rank, FLOP and bytes of the mean rank; and the bytes of
    weights that the fullest one reads."""

    compute: float
    memory: float
    launch: float
    flops: float
    bytes: float
    weights: float


def touched(experts: float, chance: float, tokens: float) -> float:
    """Of ``experts`` those that at least one of ``tokens`` meets, each of which meets any one with this ``chance``."""
    if chance >= 1.0:
        return experts if tokens > 0 else 0.0
    return -experts * expm1(tokens * log1p(-chance))


def fullest(mean: float, spread: float, ranks: int) -> float:
    """The largest of ``ranks`` normal variables of this mean and standard deviation, as it is expected."""
    if ranks < 2:
        return mean
    return mean + NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25)) * spread


def mixture_weights(model: Transformer, tp: int, ep: int) -> tuple[float, float]:
    """Parameters of one layer's MLP on a rank: of experts, and of the router."""
    each = model.expert_parameters
    held = model.experts * each / tp + model.shared_experts * each / (1 if ep > 1 else tp)
    return held, float(model.hidden * model.experts)


class MixtureLaw:
    """The MLP of one layer with experts, on one rank: by the tokens of the whole group's pass."""

    def __init__(
        self, model: Transformer, rates: KernelRates, *, tp: int, ep: int, load: float, weight_bytes: float,
        on_chip: bool, scale: float,
    ) -> None:  # fmt: skip
        self.model, self.rates, self.ep, self.load = model, rates, ep, load
        self.weight_bytes, self.on_chip = weight_bytes, on_chip
        wide = model.expert_intermediate or model.intermediate
        self.width = wide * ep / tp  # of an expert on the rank
        self.each = model.matrices * model.hidden * self.width * scale
        self.shared_width = model.shared_experts * wide / (1 if ep > 1 else tp)
        self.shared = model.matrices * model.hidden * self.shared_width * scale

    def rows(self, tokens: float) -> float:
        """Rows of the fullest rank's grouped products: a token's for each expert it meets there."""
        mean = self.load * tokens * self.model.experts_per_token / self.ep
        most = tokens * min(self.model.experts_per_token, self.model.experts / self.ep)
        return min(most, fullest(mean, sqrt(mean * (1 - 1 / self.ep)), self.ep))

    def experts(self, tokens: float) -> float:
        """Experts that the fullest rank reads for a pass of so many tokens."""
        m, held = self.model, self.model.experts / self.ep
        mean = touched(held, min(1.0, self.load * m.experts_per_token / m.experts), tokens)
        return min(held, self.rows(tokens), fullest(mean, sqrt(mean * max(0.0, 1 - mean / held)), self.ep))

    def work(self, tokens: int, own: int | None = None) -> Work:
        """A pass of ``tokens`` of the whole group, on its fullest rank, which has its ``own`` of them for what is not
        routed: an even share if left out."""
        m, r = self.model, self.rates
        own = ceil(tokens / self.ep) if own is None else own
        rows, h, mats = self.rows(tokens), m.hidden, m.matrices
        mean = tokens * m.experts_per_token / self.ep
        read = self.weight_bytes * self.each
        even = read * touched(m.experts / self.ep, m.experts_per_token / m.experts, tokens)
        wide = 2 * h + mats * self.width
        # FLOP, their rate, bytes of weights, elements of activations; and what of these the mean rank has.
        parts = [
            (2.0 * own * h * m.experts, r.matmul_16, ROUTER_BYTES * h * m.experts, own * (h + m.experts), None),
            (2.0 * rows * self.each, r.matmul, read * self.experts(tokens), rows * wide,
             (2.0 * mean * self.each, even, mean * wide)),
        ]  # fmt: skip
        if self.shared:
            weights = self.weight_bytes * self.shared
            elements = own * (2 * h + mats * self.shared_width)
            parts.append((2.0 * own * self.shared, r.matmul, weights, elements, None))
        compute = memory = flops = nbytes = held = 0.0
        activations = 0.0 if self.on_chip else 2.0
        for arithmetic, rate, weights, elements, whole in parts:
            moved = weights + activations * elements
            tc, tm = arithmetic / rate, moved / r.weights
            if tc > tm:
                compute += r.knee(tc, tm)
            else:
                memory += r.knee(tc, tm)
            done, loaded, others = whole or (arithmetic, weights, elements)
            flops, nbytes, held = flops + done, nbytes + loaded + activations * others, held + weights
        if not self.on_chip:
            # Activations as in a plain MLP, and the sum of a token's answers: read each, write one.
            memory += self._between(rows, own) / r.elementwise
            nbytes += self._between(mean, own)
        again = bool(self.shared)
        launch = (3 + 2 * again) * r.matmul_launch + (3 + again) * r.elementwise_launch
        return Work(compute, memory, launch, flops, nbytes, held)

    def _between(self, rows: float, own: int) -> float:
        """Bytes of the kernels between the products, for so many rows of experts and tokens of the rank."""
        return 6.0 * (rows * self.width + own * self.shared_width) + 2.0 * (rows + own) * self.model.hidden


def dispatched(model: Transformer, ep: int, load: float, weights: str) -> tuple[float, float]:
    """Bytes a rank starts with, for each token of the group's pass, of the all-to-alls to the experts and back.

    Each copy of a token goes by itself. With FP8 weights the way there is in FP8 with a scale of 4 bytes for 128
    elements, the way back in 16 bits (DeepEP's README; DeepSeek-V3, arXiv:2412.19437, section 3.3).
    """
    copies = load * model.experts_per_token * model.hidden / ep
    return copies * (1 + 4 / 128 if weights == "fp8" else 2.0), copies * 2.0
