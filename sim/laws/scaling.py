"""Scaling laws: the loss that parameters and tokens buy, and how to split a budget of compute between them.

    compute     C = 6 N D                                  2 FLOP forward, 4 backward a parameter and token
    kaplan      L(N) = (Nc/N)^aN    L(D) = (Dc/D)^aD    L(C) = (Cc/C)^aC
                L(N, D) = [ (Nc/N)^(aN/aD) + Dc/D ]^aD
                N_opt = 1.3e9 (C / PF-day)^0.73            Kaplan et al. 2020 (arXiv:2001.08361)
    chinchilla  L(N, D) = E + A/N^alpha + B/D^beta         Hoffmann et al. 2022 (arXiv:2203.15556), approach 3
                N_opt = G (C/6)^a    D_opt = (C/6)^b / G
                a = beta/(alpha+beta)    b = alpha/(alpha+beta)    G = (alpha A / (beta B))^(1/(alpha+beta))
    20x         D = 20 N                                   the same paper's approaches 1 and 2, as it is quoted

Symbols: N parameters, D training tokens, C FLOP, L cross-entropy in nats a token. The optimum of chinchilla is
its loss minimised at C = 6 N D, where alpha A / N^alpha = beta B / D^beta. With 1 + alpha/beta that gives the
loss at the optimum, and from a loss the least compute that reaches it.

Kaplan's L(N, D) is of models trained on D tokens until they stop improving; the split N_opt and L(C) are of
models stopped early, so that the split does not minimise L(N, D) (that would be C^0.58) and the two losses are
not to be subtracted. N counts no embeddings there. D = C/(6 N): the paper's own 2e10 tokens a PF-day is at the
critical batch, where twice the least compute is spent.

A law knows the data, tokenizer and sizes it was fitted on and nothing else: dense models, one pass over the
data, no quality. Constants are those of the papers; the copies were compared in public implementations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

PF_DAY = 1e15 * 86_400
"""FLOP in a petaflop/s-day."""
FLOP_PER_PARAMETER_TOKEN = 6.0
TOKENS_PER_PARAMETER = 20.0
NEAR = 2.0
"""Within this factor of the rule of 20 a model is called neither under- nor over-trained: a judgement."""


def training_compute(parameters: float, tokens: float) -> float:
    """FLOP to train: 6 N D, without attention's square term and without recomputation."""
    return FLOP_PER_PARAMETER_TOKEN * parameters * tokens


@dataclass(frozen=True, slots=True)
class Allocation:
    """A size and an amount of data."""

    parameters: float
    tokens: float

    @property
    def compute(self) -> float:
        """FLOP."""
        return training_compute(self.parameters, self.tokens)

    @property
    def tokens_per_parameter(self) -> float:
        """D / N."""
        return self.tokens / self.parameters


@dataclass(frozen=True, slots=True)
class Frontier:
    """Compute-optimal splits: N = ``scale`` (C / ``unit``)^``exponent``, D = C / (6 N)."""

    scale: float
    unit: float
    exponent: float

    @property
    def token_exponent(self) -> float:
        """D grows as C to this power."""
        return 1.0 - self.exponent

    def optimum(self, compute: float) -> Allocation:
        """The split of a budget (FLOP)."""
        parameters = self.scale * (compute / self.unit) ** self.exponent
        return Allocation(parameters, compute / (FLOP_PER_PARAMETER_TOKEN * parameters))

    def at_parameters(self, parameters: float) -> Allocation:
        """The split in which this size is optimal."""
        compute = self.unit * (parameters / self.scale) ** (1.0 / self.exponent)
        return Allocation(parameters, compute / (FLOP_PER_PARAMETER_TOKEN * parameters))

    def at_tokens(self, tokens: float) -> Allocation:
        """The split in which this amount of data is optimal."""
        per_unit = FLOP_PER_PARAMETER_TOKEN * tokens * self.scale / self.unit
        compute = self.unit * per_unit ** (1.0 / self.token_exponent)
        return Allocation(compute / (FLOP_PER_PARAMETER_TOKEN * tokens), tokens)


@dataclass(frozen=True, slots=True)
class Range:
    """Smallest and largest of what a law was fitted on."""

    low: float
    high: float

    def beyond(self, value: float) -> float | None:
        """The factor by which ``value`` lies above (> 1) or below (< 1) the range; None inside it."""
        if value > self.high:
            return value / self.high
        return value / self.low if value < self.low else None


class Law(Protocol):
    """What every law answers. A loss is None where the law has none."""

    @property
    def source(self) -> str:
        """Paper."""

    @property
    def counts_embeddings(self) -> bool:
        """Whether N includes the token table."""

    @property
    def fitted_parameters(self) -> Range:
        """Sizes that the law was fitted on."""

    @property
    def fitted_tokens(self) -> Range:
        """Amounts of data that the law was fitted on."""

    @property
    def frontier(self) -> Frontier:
        """Its optimal splits."""

    def loss(self, parameters: float, tokens: float) -> float | None:
        """L(N, D)."""

    def best_loss(self, compute: float) -> float | None:
        """The loss at the optimal split of a budget."""

    def least_compute(self, loss: float) -> float | None:
        """FLOP at which the optimal split has this L(N, D); None if the two are not of the same kind."""


@dataclass(frozen=True, slots=True)
class Kaplan:
    """Power laws in one variable each, and one in N and D with constants of its own."""

    source: str
    parameters_scale: float
    parameters_exponent: float
    tokens_scale: float
    tokens_exponent: float
    compute_scale: float
    compute_exponent: float
    joint_parameters_scale: float
    joint_parameters_exponent: float
    joint_tokens_scale: float
    joint_tokens_exponent: float
    frontier: Frontier
    fitted_parameters: Range
    fitted_tokens: Range
    counts_embeddings: bool = False

    def loss_of_parameters(self, parameters: float) -> float:
        """L(N): data is no limit."""
        return float((self.parameters_scale / parameters) ** self.parameters_exponent)

    def loss_of_tokens(self, tokens: float) -> float:
        """L(D): size is no limit."""
        return float((self.tokens_scale / tokens) ** self.tokens_exponent)

    def best_loss(self, compute: float) -> float:
        """L(C): the optimal split of ``compute`` FLOP."""
        return float((self.compute_scale / compute) ** self.compute_exponent)

    def loss(self, parameters: float, tokens: float) -> float:
        """L(N, D): trained until it stops improving."""
        ratio = self.joint_parameters_exponent / self.joint_tokens_exponent
        size = (self.joint_parameters_scale / parameters) ** ratio
        return float((size + self.joint_tokens_scale / tokens) ** self.joint_tokens_exponent)

    def least_compute(self, loss: float) -> None:
        """None: L(N, D) is of training to the end, the frontier of training stopped early."""
        return None


@dataclass(frozen=True, slots=True)
class Chinchilla:
    """An irreducible loss, a term for size and a term for data."""

    source: str
    irreducible: float
    parameters_factor: float
    parameters_exponent: float
    tokens_factor: float
    tokens_exponent: float
    fitted_parameters: Range
    fitted_tokens: Range
    counts_embeddings: bool = True

    @property
    def frontier(self) -> Frontier:
        """The loss minimised at C = 6 N D."""
        alpha, beta = self.parameters_exponent, self.tokens_exponent
        scale = (alpha * self.parameters_factor / (beta * self.tokens_factor)) ** (1.0 / (alpha + beta))
        return Frontier(scale, FLOP_PER_PARAMETER_TOKEN, beta / (alpha + beta))

    def loss(self, parameters: float, tokens: float) -> float:
        """L(N, D)."""
        size = self.parameters_factor / parameters**self.parameters_exponent
        data = self.tokens_factor / tokens**self.tokens_exponent
        return float(self.irreducible + size + data)

    def best_loss(self, compute: float) -> float:
        """The loss at the optimal split."""
        best = self.frontier.optimum(compute)
        return self.loss(best.parameters, best.tokens)

    def least_compute(self, loss: float) -> float:
        """FLOP at which the optimal split has this loss. Raises ValueError at or below the irreducible loss."""
        reducible = loss - self.irreducible
        if reducible <= 0.0:
            raise ValueError(f"a loss of {loss} is not above the irreducible {self.irreducible}")
        alpha, beta = self.parameters_exponent, self.tokens_exponent
        parameters = (self.parameters_factor * (1.0 + alpha / beta) / reducible) ** (1.0 / alpha)
        tokens = (self.tokens_factor * (1.0 + beta / alpha) / reducible) ** (1.0 / beta)
        return training_compute(parameters, tokens)


@dataclass(frozen=True, slots=True)
class TokenRatio:
    """So many tokens a parameter, whatever the budget. It says nothing of the loss."""

    source: str
    tokens_per_parameter: float
    fitted_parameters: Range
    fitted_tokens: Range
    counts_embeddings: bool = True

    @property
    def frontier(self) -> Frontier:
        """N = sqrt(C / (6 r))."""
        return Frontier(1.0, FLOP_PER_PARAMETER_TOKEN * self.tokens_per_parameter, 0.5)

    def loss(self, parameters: float, tokens: float) -> None:
        """None."""
        return None

    def best_loss(self, compute: float) -> None:
        """None."""
        return None

    def least_compute(self, loss: float) -> None:
        """None."""
        return None


KAPLAN = Kaplan(
    source="Kaplan et al. 2020, arXiv:2001.08361",
    parameters_scale=8.8e13,
    parameters_exponent=0.076,
    tokens_scale=5.4e13,
    tokens_exponent=0.095,
    compute_scale=3.1e8 * PF_DAY,
    compute_exponent=0.050,
    joint_parameters_scale=6.4e13,
    joint_parameters_exponent=0.076,
    joint_tokens_scale=1.8e13,
    joint_tokens_exponent=0.103,
    frontier=Frontier(1.3e9, PF_DAY, 0.73),
    fitted_parameters=Range(768, 1.5e9),
    fitted_tokens=Range(22e6, 23e9),
)
CHINCHILLA = Chinchilla(
    source="Hoffmann et al. 2022, arXiv:2203.15556, approach 3 as printed",
    irreducible=1.69,
    parameters_factor=406.4,
    parameters_exponent=0.34,
    tokens_factor=410.7,
    tokens_exponent=0.28,
    fitted_parameters=Range(70e6, 16e9),
    fitted_tokens=Range(5e9, 500e9),
)
REFIT = Chinchilla(
    source="Besiroglu et al. 2024, arXiv:2404.10102, approach 3 fitted again to the points of its figure",
    irreducible=1.8172,
    parameters_factor=482.01,
    parameters_exponent=0.3478,
    tokens_factor=2085.43,
    tokens_exponent=0.3658,
    fitted_parameters=Range(57e6, 16e9),
    fitted_tokens=Range(250e6, 320e9),
)
TWENTY = TokenRatio(
    source="the rule of thumb drawn from Hoffmann et al. 2022, approaches 1 and 2",
    tokens_per_parameter=TOKENS_PER_PARAMETER,
    fitted_parameters=Range(70e6, 16e9),
    fitted_tokens=Range(5e9, 500e9),
)
LAWS: dict[str, Law] = {"kaplan": KAPLAN, "chinchilla": CHINCHILLA, "chinchilla-refit": REFIT, "20x": TWENTY}


@dataclass(frozen=True, slots=True)
class Distance:
    """How far a split is from the best one of the same compute, and the same loss from its least compute."""

    loss: float | None
    best_loss: float | None
    excess: float | None
    least_compute: float | None
    saved: float | None
    """Share of the compute that the best split of the same loss would not need."""
    optimum: Allocation


def distance(law: Law, parameters: float, tokens: float) -> Distance:
    """The distance of (N, D) from the law's optimum; what the law cannot say is None."""
    compute = training_compute(parameters, tokens)
    best = law.frontier.optimum(compute)
    loss = law.loss(parameters, tokens)
    least = None if loss is None else law.least_compute(loss)
    if loss is None or least is None:
        return Distance(loss, None, None, None, None, best)
    best_loss = law.best_loss(compute)
    assert best_loss is not None
    saved = max(0.0, 1.0 - least / compute)  # at the optimum rounding may leave -1e-16
    return Distance(loss, best_loss, max(0.0, loss - best_loss), min(least, compute), saved, best)


def training_state(tokens_per_parameter: float) -> str:
    """"under-trained", "near the rule of 20" or "over-trained": within a factor of two."""
    ratio = tokens_per_parameter / TOKENS_PER_PARAMETER
    if ratio < 1.0 / NEAR:
        return "under-trained"
    return "over-trained" if ratio > NEAR else "near the rule of 20"


@dataclass(frozen=True, slots=True)
class PowerFit:
    """L(x) = (``scale`` / x)^``exponent``, with the worst relative error of its points and their range."""

    scale: float
    exponent: float
    worst: float
    points: int
    fitted: Range

    def loss(self, x: float) -> float:
        """The predicted loss."""
        return float((self.scale / x) ** self.exponent)


def fit_power_law(xs: Sequence[float], losses: Sequence[float]) -> PowerFit:
    """Least squares of log L on log x: how small models predict large ones.

    Raises ValueError where there are not two sizes, or the loss does not fall with them.
    """
    u, v = [math.log(x) for x in xs], [math.log(loss) for loss in losses]
    mean_u, mean_v = math.fsum(u) / len(u), math.fsum(v) / len(v)
    spread = math.fsum((a - mean_u) ** 2 for a in u)
    if len(set(xs)) < 2 or spread == 0.0:
        raise ValueError("a power law needs points at two sizes or more")
    exponent = -math.fsum((a - mean_u) * (b - mean_v) for a, b in zip(u, v, strict=True)) / spread
    if exponent <= 0.0:
        raise ValueError("the loss does not fall from small to large: there is no power law to fit")
    log_scale = mean_u + mean_v / exponent
    if abs(log_scale) > 600.0:  # e^600 is near the end of floats
        raise ValueError("the loss hardly changes from small to large: there is no power law to fit")
    off = [math.exp(exponent * (log_scale - a) - b) - 1.0 for a, b in zip(u, v, strict=True)]
    return PowerFit(math.exp(log_scale), exponent, max(map(abs, off)), len(xs), Range(min(xs), max(xs)))


@dataclass(frozen=True, slots=True)
class Hardware:
    """What trains: one GPU's peak FLOP/s, the share of it that is used (MFU), how many, and USD an hour of each."""

    peak: float
    mfu: float
    gpus: float | None = None
    usd_per_gpu_hour: float | None = None

    @property
    def flop_per_gpu_hour(self) -> float:
        """FLOP that one GPU does in an hour."""
        return self.peak * self.mfu * 3600.0

    def compute_in(self, days: float) -> float:
        """FLOP of all GPUs. Raises ValueError without a count."""
        if self.gpus is None:
            raise ValueError("the number of GPUs is not known")
        return self.gpus * days * 24.0 * self.flop_per_gpu_hour

    def compute_for(self, usd: float) -> float:
        """FLOP that the money buys. Raises ValueError without a price."""
        if self.usd_per_gpu_hour is None:
            raise ValueError("the price of a GPU is not known")
        return usd / self.usd_per_gpu_hour * self.flop_per_gpu_hour

    def gpu_hours(self, compute: float) -> float:
        """GPU-hours that the compute takes."""
        return compute / self.flop_per_gpu_hour

    def days(self, compute: float) -> float | None:
        """Days on all GPUs; None without a count. Failures and restarts are not in it."""
        return None if self.gpus is None else self.gpu_hours(compute) / self.gpus / 24.0

    def usd(self, compute: float) -> float | None:
        """The bill; None without a price."""
        return None if self.usd_per_gpu_hour is None else self.gpu_hours(compute) * self.usd_per_gpu_hour
