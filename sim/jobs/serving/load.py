"""Drawing the load: arrival times and lengths of all requests, before the clock starts.

Arrivals, lengths, what prompts share: one random stream each, so a change of rate leaves the lengths alone (common
random numbers). Lengths of a named distribution keep the measured rank correlation between prompt and answer
through a Gaussian copula: correlated normals, their ranks looked up in the two quantile tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, log1p, pi, sin
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from sim.adapters.traces import RequestTrace
from sim.jobs.serving.prefix_cache import Path
from sim.jobs.serving.prompts import Prompts, conversations, hashed, sampled
from sim.spec.workload import RATED, Diurnal, Exponential, LengthDistribution, LengthModel, Load

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# The 90th percentile of the standard normal distribution.
_Z90 = 1.2815515655446004


@dataclass(frozen=True, slots=True)
class DrawnLoad:
    """Requests in order of arrival; ``arrival`` is empty for a closed loop, and NaN for those that follow others.

    ``prompts`` is what prompts have in common, None where nothing is known of that; ``tenant`` the number of each
    request's tenant, None where there are none.
    """

    prompt: list[int]
    output: list[int]
    arrival: list[float]
    prompts: Prompts | None = None
    tenant: list[int] | None = None


def draw_load(
    load: Load, trace: RequestTrace | None, lengths: LengthDistribution | None, context: int,
    seeds: np.random.SeedSequence, of_tenants: Mapping[str, LengthDistribution] | None = None,
) -> DrawnLoad:  # fmt: skip
    """All requests of ``load`` for a model of that ``context``. ``seeds`` spawns the streams for arrivals, lengths and
    prompts; ``of_tenants`` are named distributions of lengths, by tenant."""
    arrival_seed, length_seed = seeds.spawn(2)
    if load.tenants:
        return _tenants(load, of_tenants or {}, context, length_seed)
    (prompt_seed,) = length_seed.spawn(1)
    if trace is not None:
        known = hashed(trace.blocks, trace.prompt.tolist(), trace.block_tokens) if trace.blocks is not None else None
        return DrawnLoad(trace.prompt.tolist(), trace.output.tolist(), trace.arrival.tolist(), known)
    n = load.requests or 0
    prompt, output = _lengths(load, lengths, n, np.random.default_rng(length_seed))
    arrival_rng, prompt_rng = np.random.default_rng(arrival_seed), np.random.default_rng(prompt_seed)
    if load.conversation is not None:
        turns = load.conversation.turns
        z = prompt_rng.standard_normal(n)
        prompt, prompts = conversations(load, prompt, output, _marginal(turns, z).tolist(), context, prompt_rng)
        opened = _arrivals(load, len(prompts.openings), arrival_rng)
        if opened is None:
            return DrawnLoad(prompt.tolist(), output.tolist(), [], prompts)
        arrival = np.full(n, np.nan)
        arrival[prompts.openings] = opened
        return DrawnLoad(prompt.tolist(), output.tolist(), arrival.tolist(), prompts)
    known = None
    if load.prefix is not None or load.samples > 1:
        prompt, known = sampled(prompt, load.samples, load.prefix, prompt_rng)
    come = _arrivals(load, -(-n // load.samples), arrival_rng)
    if come is not None and load.samples > 1:
        come = np.repeat(come, load.samples)[:n]
    return DrawnLoad(prompt.tolist(), output.tolist(), [] if come is None else come.tolist(), known)


def requests_per_arrival(load: Load) -> float:
    """Requests that an arrival brings, as long as conversations do not outgrow the model's context: their mean."""
    if load.conversation is None:
        return float(load.samples)
    middle = [NormalDist().inv_cdf((i + 0.5) / 1000) for i in range(1000)]
    return float(_marginal(load.conversation.turns, np.array(middle)).mean())


def _tenants(
    load: Load, lengths: Mapping[str, LengthDistribution], context: int, seeds: np.random.SeedSequence
) -> DrawnLoad:
    """The first requests of all tenants together, each with streams of its own; without instants in a closed loop."""
    n, rows = load.requests or 0, list[tuple[float, int, int]]()
    drawn: list[DrawnLoad] = []
    for number, (tenant, seed) in enumerate(zip(load.tenants, seeds.spawn(len(load.tenants)), strict=True)):
        keys = {key: getattr(tenant, key) for key in (*RATED, "prompt_tokens", "output_tokens", "lengths", "prefix")}
        own = Load.model_validate({key: value for key, value in keys.items() if value is not None} | {"requests": n})
        drawn.append(draw_load(own, None, lengths.get(tenant.name), context, seed))
        rows += [(at, number, r) for r, at in enumerate(drawn[-1].arrival)]
    rows = sorted(rows)[:n]
    paths: list[Path] | None = None
    if any(one.prompts is not None for one in drawn):
        paths = []
        for _, number, r in rows:
            known = drawn[number].prompts
            # Numbers of a tenant's segments are its own.
            told = known.paths[r] if known is not None else []
            paths.append([(segment * len(drawn) + number, end) for segment, end in told])
    return DrawnLoad(
        [drawn[number].prompt[r] for _, number, r in rows], [drawn[number].output[r] for _, number, r in rows],
        [] if load.closed_loop is not None else [at for at, _, _ in rows],
        Prompts(paths, list(range(len(rows)))) if paths is not None else None, [number for _, number, _ in rows],
    )  # fmt: skip


def _lengths(load: Load, joint: LengthDistribution | None, n: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    z = rng.standard_normal((n, 2))
    if joint is not None:
        # Spearman's rho of a Gaussian copula is 6/pi asin(r/2).
        r = 2 * sin(joint.spearman * pi / 6)
        second = r * z[:, 0] + (1 - r * r) ** 0.5 * z[:, 1]
        return _table(joint.prompt.values, z[:, 0]), _table(joint.output.values, second)
    assert load.prompt_tokens is not None
    assert load.output_tokens is not None
    return _marginal(load.prompt_tokens, z[:, 0]), _marginal(load.output_tokens, z[:, 1])


def _table(values: tuple[int, ...], z: Floats) -> Ints:
    """Quantile-table values at the normal deviates ``z``."""
    cdf = NormalDist().cdf
    u = np.fromiter((cdf(x) for x in z), dtype=float, count=len(z))
    drawn = np.interp(u, np.linspace(0.0, 1.0, len(values)), values)
    rounded: Ints = np.maximum(1, np.rint(drawn)).astype(np.int64)
    return rounded


def _geometric(law: Exponential, z: Floats) -> Ints:
    """Exponential draws rounded up: a geometric law, whose mean is exact for p = 1 - exp(-1/scale) = 1/mean."""
    scale = -1.0 / log1p(-1.0 / law.mean) if law.mean > 1 else 0.0
    survives = np.fromiter((NormalDist().cdf(-x) for x in z), dtype=float, count=len(z))
    drawn: Ints = np.clip(np.ceil(-scale * np.log(survives)), 1, law.max).astype(np.int64)
    return drawn


def _marginal(model: int | LengthModel, z: Floats) -> Ints:
    if isinstance(model, int):
        return np.full(len(z), model, dtype=np.int64)
    if model.empirical is not None:
        return _table(model.empirical.values, z)
    if model.exponential is not None:
        return _geometric(model.exponential, z)
    law = model.lognormal
    assert law is not None
    sigma = log(law.p90 / law.median) / _Z90
    drawn = np.rint(np.exp(log(law.median) + sigma * z))
    return np.clip(drawn, law.min, law.max).astype(np.int64)


def _arrivals(load: Load, n: int, rng: np.random.Generator) -> Floats | None:
    if load.closed_loop is not None:
        return None
    if load.poisson is not None:
        return np.cumsum(rng.exponential(1 / load.poisson.rate, n))
    if load.gamma is not None:
        shape = load.gamma.cv**-2
        return np.cumsum(rng.gamma(shape, 1 / (load.gamma.rate * shape), n))
    if load.deterministic is not None:
        return np.arange(1, n + 1) / load.deterministic.rate
    if load.diurnal is not None:
        return _diurnal(load.diurnal, n, rng)
    return np.zeros(n)


def _diurnal(law: Diurnal, n: int, rng: np.random.Generator) -> Floats:
    """Poisson arrivals by inversion: arrivals at rate 1, moved to the instants by which so many are expected.

    With w = 2 pi/period a rate of mean + swing cos(w(t - peak_at)) lets
    mean t + swing/w (sin(w(t - peak_at)) + sin(w peak_at))  arrive by time t. That rises, lies between
    mean (t - period) and peak t, and is inverted by bisection.
    """
    mean, swing, w = (law.peak + law.valley) / 2, (law.peak - law.valley) / 2, 2 * pi / law.period
    due = np.cumsum(rng.exponential(1.0, n))
    early, late = due / law.peak, due / mean + law.period
    for _ in range(64):
        now = (early + late) / 2
        expected = mean * now + swing / w * (np.sin(w * (now - law.peak_at)) + sin(w * law.peak_at))
        early, late = np.where(expected < due, now, early), np.where(expected < due, late, now)
    found: Floats = np.maximum.accumulate(late)
    return found
