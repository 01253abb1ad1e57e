"""Requests: when they arrive, how long their prompts and answers are, and what was promised about them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sim.spec.base import Name, Prose, Spec
from sim.units import Fraction, PerSecond, Seconds, Tokens

Rate = Annotated[PerSecond, Field(gt=0)]
Requests = Annotated[int, Field(ge=1, le=10_000_000, strict=True)]


class Lognormal(Spec):
    """Lengths whose logarithm is normal, from the median and a percentile; clipped to [min, max]."""

    median: Tokens
    p90: Tokens
    min: Tokens = 1
    max: Tokens = 1_000_000

    @model_validator(mode="after")
    def _ordered(self) -> Lognormal:
        if not self.min <= self.median <= self.p90 <= self.max:
            raise ValueError("min <= median <= p90 <= max must hold")
        return self


class Exponential(Spec):
    """Memoryless lengths of one token or more: whole exponential draws, which is a geometric law of this mean."""

    mean: Annotated[Tokens, Field(ge=1)]
    max: Tokens = 1_000_000


class Empirical(Spec):
    """Lengths drawn from a quantile table: ``values[i]`` is the quantile i/(n-1), linear in between."""

    values: Annotated[tuple[Tokens, ...], Field(min_length=2, max_length=10_001)]

    @model_validator(mode="after")
    def _rising(self) -> Empirical:
        if any(b < a for a, b in zip(self.values, self.values[1:], strict=False)):
            raise ValueError("a quantile table must not fall")
        return self


class LengthModel(Spec):
    """One of the ways to draw lengths."""

    lognormal: Lognormal | None = None
    exponential: Exponential | None = None
    empirical: Empirical | None = None

    @model_validator(mode="after")
    def _one(self) -> LengthModel:
        if sum(law is not None for law in (self.lognormal, self.exponential, self.empirical)) != 1:
            raise ValueError("give exactly one of lognormal, exponential, empirical")
        return self


class LengthDistribution(Spec):
    """A named joint distribution of prompt and output lengths, computed from a real trace.

    ``spearman`` is the rank correlation between the two; draws keep it through a Gaussian copula.
    ``arrivals_per_s`` and ``arrivals_cv`` describe the trace's inter-arrival times.
    """

    id: Name
    prompt: Empirical
    output: Empirical
    spearman: Annotated[float, Field(ge=-1, le=1)]
    arrivals_per_s: PerSecond
    arrivals_cv: Annotated[float, Field(ge=0)]
    requests: Requests
    source: Prose


class ClosedLoop(Spec):
    """``clients`` users, each sending its next request ``think_time`` after the last one was answered.

    They come one by one over ``ramp``: with lengths that hardly vary, users who all start at once stay in
    step, and their prompts come in waves.
    """

    clients: Requests
    think_time: Seconds = 0.0
    ramp: Seconds = 0.0


class Poisson(Spec):
    """Independent arrivals at a mean rate."""

    rate: Rate


class GammaBurst(Spec):
    """Gamma inter-arrival times: ``cv`` is their coefficient of variation (1 is Poisson, above is bursty)."""

    rate: Rate
    cv: Annotated[float, Field(gt=0, le=100)]


class Deterministic(Spec):
    """Arrivals at equal distances."""

    rate: Rate


class Diurnal(Spec):
    """Poisson arrivals whose rate swings as a cosine between ``valley`` and ``peak`` over ``period``."""

    peak: Rate
    valley: PerSecond
    period: Annotated[Seconds, Field(gt=0)] = 86400.0
    peak_at: Seconds = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> Diurnal:
        if self.valley > self.peak:
            raise ValueError("the valley rate is above the peak rate")
        return self


class Trace(Spec):
    """Recorded requests. ``time_scale`` stretches the recorded times (2 halves the rate)."""

    file: Prose
    format: Literal["auto", "azure", "mooncake", "burstgpt", "vidur"] = "auto"
    time_scale: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    limit: Requests | None = None
    too_long: Literal["reject", "truncate"] = "reject"


class SharedPrefix(Spec):
    """``tokens`` with which a prompt begins, as others do: one of ``variants`` texts, of which the k-th is asked for as
    often as 1/k^``skew`` says (0: all alike). They come before the prompt's own tokens."""

    tokens: Annotated[Tokens, Field(ge=1)]
    variants: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    skew: Annotated[float, Field(ge=0, le=10)] = 0.0


class Conversation(Spec):
    """Requests that go on from each other: each of ``turns`` repeats all that was said before its own prompt, and comes
    ``think_time`` (a mean; times are exponential) after the answer to the last. An arrival opens a conversation."""

    turns: Annotated[int, Field(ge=1, le=10_000)] | LengthModel
    think_time: Seconds = 0.0


#: The kinds of arrivals, of which a load has one.
ARRIVALS = ("closed_loop", "poisson", "gamma", "deterministic", "diurnal", "all_at_once", "trace")
#: Those with a rate.
RATED = ("poisson", "gamma", "deterministic", "diurnal")
#: What a trace brings along.
OF_A_TRACE = ("lengths", "prompt_tokens", "output_tokens", "prefix", "conversation", "samples")


class Objectives(Spec):
    """Promises about latency. A request attains them if its own values are within the limits;
    the job meets them if the named percentile of all measured requests is."""

    ttft_p50: Seconds | None = None
    ttft_p90: Seconds | None = None
    ttft_p99: Seconds | None = None
    tpot_p50: Seconds | None = None
    tpot_p90: Seconds | None = None
    tpot_p99: Seconds | None = None
    latency_p50: Seconds | None = None
    latency_p90: Seconds | None = None
    latency_p99: Seconds | None = None


class Tenant(Spec):
    """One of several kinds of users of a job: their own arrivals, lengths and objectives.

    Requests of a higher ``priority`` are let in before others, and pushed out after them.
    """

    name: Name
    poisson: Poisson | None = None
    gamma: GammaBurst | None = None
    deterministic: Deterministic | None = None
    diurnal: Diurnal | None = None
    lengths: Name | None = None
    prompt_tokens: Tokens | LengthModel | None = None
    output_tokens: Tokens | LengthModel | None = None
    prefix: SharedPrefix | None = None
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    objectives: Objectives = Objectives()

    @model_validator(mode="after")
    def _complete(self) -> Tenant:
        given = [k for k in RATED if getattr(self, k) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"give exactly one kind of arrivals ({', '.join(RATED)}), not {found}")
        _check_lengths(self)
        return self


def _check_lengths(asked: Tenant | Load) -> None:
    """ValueError unless lengths are given in one of their two ways."""
    own = [asked.prompt_tokens, asked.output_tokens]
    if asked.lengths is None and None in own:
        raise ValueError("give prompt_tokens and output_tokens, or lengths: a catalogue distribution")
    if asked.lengths is not None and own != [None, None]:
        raise ValueError("give either lengths or prompt_tokens and output_tokens, not both")


class Load(Spec):
    """What is asked of a serving job: one kind of arrivals, and lengths.

    ``requests`` bounds the run (a trace may go without); ``lengths`` names a catalogue distribution for prompt
    and output together. Setting one kind of arrivals with ``--set`` replaces the kind in the file.

    ``prefix`` is what prompts have in common, ``conversation`` makes of each arrival several turns, and ``samples`` are
    answers to each prompt, each of which counts as a request. ``tenants`` are several kinds of users in place of
    one; ``requests`` bounds them together.
    """

    closed_loop: ClosedLoop | None = None
    poisson: Poisson | None = None
    gamma: GammaBurst | None = None
    deterministic: Deterministic | None = None
    diurnal: Diurnal | None = None
    all_at_once: Literal[True] | None = None
    trace: Trace | Prose | None = None
    lengths: Name | None = None
    prompt_tokens: Tokens | LengthModel | None = None
    output_tokens: Tokens | LengthModel | None = None
    prefix: SharedPrefix | None = None
    conversation: Conversation | None = None
    samples: Annotated[int, Field(ge=1, le=1000)] = 1
    tenants: Annotated[tuple[Tenant, ...], Field(max_length=1000)] = ()
    requests: Requests | None = None
    warm_up: Fraction | None = None

    @model_validator(mode="after")
    def _complete(self) -> Load:
        given = [k for k in ARRIVALS if getattr(self, k) is not None]
        if self.tenants:
            return self._of_tenants(given)
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"give exactly one kind of arrivals ({', '.join(ARRIVALS)}), not {found}")
        own = [self.prompt_tokens, self.output_tokens]
        if given == ["trace"]:
            if self.lengths or any(x is not None for x in own):
                raise ValueError("a trace brings its own lengths: leave lengths, prompt_tokens, output_tokens out")
            if self.prefix or self.conversation or self.samples > 1:
                raise ValueError("a trace brings its own prompts: leave prefix, conversation, samples out")
            return self
        if self.samples > 1 and (self.conversation or self.closed_loop):
            raise ValueError("samples of one prompt come at once: they do not go with conversation or closed_loop")
        if self.requests is None:
            raise ValueError("requests is missing: how many requests to simulate")
        _check_lengths(self)
        return self

    def _of_tenants(self, given: list[str]) -> Load:
        own = [*given, *(key for key in OF_A_TRACE if self.model_fields_set & {key})]
        if own:
            raise ValueError(f"tenants bring their own arrivals and prompts: leave {', '.join(own)} out")
        if self.requests is None:
            raise ValueError("requests is missing: how many requests of all tenants to simulate")
        names = [tenant.name for tenant in self.tenants]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two tenants are called {twice[0]}")
        return self
