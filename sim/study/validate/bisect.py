"""The highest rate of independent requests that one replica answers within its objectives, by bisection.

What a benchmark with a latency bound does (MLPerf's server scenario): requests come as a Poisson process, and the
percentiles of TTFT and TPOT over the run must be within their limits. The same random numbers serve every rate.
``sim run --find-capacity`` searches longer runs of a whole scenario; this needs a few tens of milliseconds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sim.adapters.resolve import Resolved, ResolvedServing, with_spec
from sim.jobs.play import play
from sim.results.metrics import Table, spread
from sim.spec.workload import ARRIVALS, Load, Poisson

#: Halvings: the rate is known to 2^-7 of the saturated one.
HALVINGS: Final = 7


def highest_rate(resolved: Resolved, job: ResolvedServing) -> float:
    """Output tokens/s at the highest rate within the objectives; 0 if none is."""
    recording = play(_at(resolved, job, None))
    table = Table.of(recording.serving[0].table)
    most, each = len(table) / recording.end, float(table.output.mean())
    low, high = 0.0, most
    for _ in range(HALVINGS):
        rate = (low + high) / 2
        if _met(_at(resolved, job, rate)):
            low = rate
        else:
            high = rate
    return low * each


def _at(resolved: Resolved, job: ResolvedServing, rate: float | None) -> Resolved:
    """The scenario with requests at that rate; all at once where none is given."""
    load = job.spec.load.model_dump(exclude=set(ARRIVALS), exclude_none=True)
    arrivals = {"all_at_once": True} if rate is None else {"poisson": Poisson.model_construct(rate=rate)}
    spec = job.spec.model_copy(update={"load": Load.model_construct(**load, **arrivals)})
    jobs = (with_spec(job, spec),)
    scenario = resolved.scenario.model_copy(update={"jobs": (spec,)})
    return replace(resolved, jobs=jobs, scenario=scenario)


def _met(resolved: Resolved) -> bool:
    """Whether every stated percentile of the run is within its limit."""
    recording = play(resolved)
    (served,) = recording.serving
    table = Table.of(served.table)
    spreads = {"ttft": spread(table.first - table.arrival), "tpot": spread(table.tpot)}
    for name, limit in served.job.spec.objectives.model_dump(exclude_none=True).items():
        kind, _, percentile = name.partition("_")
        if kind in spreads and (getattr(spreads[kind], percentile) or 0.0) > limit:
            return False
    return True
