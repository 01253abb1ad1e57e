"""Numbers of one serving job, from its table of requests.

The measured window leaves out the filling and the draining of the cluster. In a closed loop it opens when
as many requests are answered as there are clients, otherwise after a tenth of the requests has come; it
closes when the last request comes. Where that leaves fewer than ``FEWEST`` requests, or less time than
one request is served, the whole run counts.

A request's tokens count evenly between its first and its last token, so throughput over any window is a
function of the table alone, whichever way the run was played. Latencies are those of the requests that came
within the window; all of them were answered, for the run goes on until they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.engine.histogram import merged, percentiles
from sim.jobs.serving.recording import ServingRecording
from sim.jobs.serving.requests import RequestTable
from sim.results.schema import ServingMetrics, Spread, TenantResult, Window
from sim.spec.scenario import ServingJob
from sim.spec.workload import Load, Objectives

Floats = NDArray[np.float64]
FEWEST = 20
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Table:
    """The request table as arrays, answered requests only, in order of arrival.

    ``lost`` are arrivals of requests that were given up, and beside them when that was; ``parts`` first token, last
    token and tokens of each stretch in which tokens came, where those are not just one a request; ``tenant`` is whose
    request it is, by number.
    """

    arrival: Floats
    scheduled: Floats
    first: Floats
    finish: Floats
    prompt: Floats
    output: Floats
    lost: Floats = field(default_factory=lambda: np.empty((0, 2)))
    parts: Floats | None = None
    tenant: Floats | None = None

    @classmethod
    def of(cls, table: RequestTable, tenant: int | None = None) -> Table:
        """Arrays of the answered requests, or of one ``tenant``'s: a stretch of tokens each, or several where replicas
        died under it."""
        finish = np.array(table.finish)
        mine = np.ones(len(finish), dtype=bool)
        if tenant is not None:
            mine = np.array(table.tenant) == tenant
        done = np.flatnonzero(~np.isnan(finish) & mine)
        arrival = np.array(table.arrival)[done]
        order = done[np.argsort(arrival, kind="stable")]
        columns = (table.arrival, table.scheduled, table.first, table.finish, table.prompt, table.output)
        pick = tuple(np.array(column, dtype=float)[order] for column in columns)
        lost = np.array([(table.arrival[r], at) for r, at in sorted(table.failed.items()) if mine[r]]).reshape(-1, 2)
        parts = None
        if table.parts:
            parts = np.column_stack((pick[2], pick[3], pick[5]))
            went_on = np.array([table.resumed.get(r, (table.first[r], 0)) for r in order.tolist()]).reshape(-1, 2)
            parts[:, 0], parts[:, 2] = went_on[:, 0], parts[:, 2] - went_on[:, 1]
            answered = set(order.tolist())
            earlier = [part[1:] for part in table.parts if part[0] in answered and part[3] > 0]
            parts = np.vstack((parts, np.array(earlier).reshape(-1, 3)))
        arrived, scheduled, first, finished, prompt, output = pick
        whose = np.array(table.tenant, dtype=float)[order] if table.tenant is not None else None
        return cls(arrived, scheduled, first, finished, prompt, output, lost, parts, whose)

    def __len__(self) -> int:
        return len(self.finish)

    @property
    def tpot(self) -> Floats:
        """(latency - TTFT) / (n - 1); NaN for one-token answers."""
        gaps = self.output - 1
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(gaps > 0, (self.finish - self.first) / gaps, np.nan)

    def output_tokens(self, start: float, end: float) -> float:
        """Generated tokens of answered requests that fall into [start, end)."""
        first, last, tokens = (self.first, self.finish, self.output) if self.parts is None else self.parts.T
        firsts = (first >= start) & (first < end)
        span = last - first
        overlap = np.minimum(last, end) - np.maximum(first, start)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(span > 0, np.clip(overlap, 0, None) / span, firsts.astype(float))
        return float(firsts.sum() + (share * (tokens - 1)).sum())

    def prompt_tokens(self, start: float, end: float) -> float:
        """Prompt tokens of requests whose first token falls into [start, end)."""
        return float(self.prompt[(self.first >= start) & (self.first < end)].sum())


def sums_at(times: Floats, begin: Floats, end: Floats, weights: Floats) -> Floats:
    """Sum of ``weights`` of the intervals [begin, end) that cover each instant."""

    def upto(points: Floats) -> Floats:
        order = np.argsort(points, kind="stable")
        total = np.concatenate(([0.0], np.cumsum(weights[order])))
        picked: Floats = total[np.searchsorted(points[order], times, side="right")]
        return picked

    return upto(begin) - upto(end)


def measured_window(load: Load, table: Table) -> Window:
    """The measured part of the run, and the rule in words."""
    arrival = np.sort(np.concatenate((table.arrival, table.lost[:, 0])))
    over = np.sort(np.concatenate((table.finish, table.lost[:, 1])))
    n = len(arrival)
    whole_end = float(over.max()) if n else 0.0
    if len(table) == 0:
        return Window(start_s=0.0, end_s=whole_end, rule="no request was answered")
    end = float(arrival.max())
    if load.closed_loop is not None:
        share = load.warm_up if load.warm_up is not None else min(load.closed_loop.clients / n, 0.5)
        start = float(over[min(n - 1, max(0, int(share * n) - 1))])
        why = "as stated" if load.warm_up is not None else "every client once, at most half"
        opens = f"opens when {int(share * n)} requests are answered ({why})"
    else:
        share = load.warm_up if load.warm_up is not None else 0.1
        start = float(arrival[min(n - 1, int(share * n))])
        opens = f"opens with request {int(share * n) + 1} of {n}"
    inside = int(((arrival >= start) & (arrival <= end)).sum())
    service = float(np.median(table.finish - table.scheduled))
    if inside < FEWEST or end - start < service:
        rule = (
            f"the whole run, filling and draining included: between them lie fewer than {FEWEST} requests, or less "
            "time than one is served"
        )
        if load.warm_up is not None:
            rule += "; the stated warm-up is not applied"
        return Window(start_s=0.0, end_s=whole_end, rule=rule)
    return Window(start_s=start, end_s=end, rule=f"{opens}, closes when the last request comes")


def spread(values: Floats) -> Spread:
    """Mean and percentiles, None where nothing was measured."""
    values = values[~np.isnan(values)]
    if not len(values):
        return Spread(mean=None, p50=None, p90=None, p99=None)
    p50, p90, p99 = (float(x) for x in np.percentile(values, PERCENTILES))
    return Spread(mean=float(values.mean()), p50=p50, p90=p90, p99=p99)


def gap_spread(recording: ServingRecording) -> Spread:
    """Times between consecutive tokens, over all tokens of the run."""
    gaps = merged(replica.scheduler.gaps for replica in recording.replicas)
    found = percentiles(gaps, PERCENTILES)
    if found is None:
        return Spread(mean=None, p50=None, p90=None, p99=None)
    return Spread(mean=gaps.total / gaps.number, p50=found[0], p90=found[1], p99=found[2])


def attains(table: Table, objectives: Objectives) -> NDArray[np.bool_] | None:
    """Which requests are within every stated limit; None when nothing was promised.

    A limit on a percentile is applied to each request; of several percentiles of one kind, the widest.
    """
    ok: NDArray[np.bool_] | None = None
    kinds = {"ttft": table.first - table.arrival, "tpot": table.tpot, "latency": table.finish - table.arrival}
    for kind, values in kinds.items():
        limits = [x for p in PERCENTILES if (x := getattr(objectives, f"{kind}_p{p}")) is not None]
        if limits:
            with np.errstate(invalid="ignore"):
                within = np.isnan(values) | (values <= max(limits))
            ok = within if ok is None else ok & within
    return ok


def attained(table: Table, job: ServingJob) -> NDArray[np.bool_] | None:
    """The same by the job's objectives, and each tenant's requests by its tenant's too."""
    ok = attains(table, job.objectives)
    for number, tenant in enumerate(job.load.tenants):
        own = attains(table, tenant.objectives)
        if own is not None and table.tenant is not None:
            others = own | (table.tenant != number)
            ok = others if ok is None else ok & others
    return ok


def tenants_of(recording: ServingRecording, table: Table, window: Window) -> list[TenantResult]:
    """What each tenant got in the job's window."""
    found = []
    for number, tenant in enumerate(recording.job.spec.load.tenants):
        own = Table.of(recording.table, number)
        mine = (own.arrival >= window.start_s) & (own.arrival <= window.end_s)
        seconds = window.end_s - window.start_s
        ok = attains(own, tenant.objectives)
        spreads = {
            "ttft": spread((own.first - own.arrival)[mine]), "tpot": spread(own.tpot[mine]),
            "latency": spread((own.finish - own.arrival)[mine]),
        }  # fmt: skip
        found.append(TenantResult(
            name=tenant.name, priority=tenant.priority, measured_requests=int(mine.sum()),
            output_tokens_per_s=own.output_tokens(window.start_s, window.end_s) / seconds if seconds else 0.0,
            ttft_s=spreads["ttft"], tpot_s=spreads["tpot"], latency_s=spreads["latency"],
            slo_attainment=_attainment(recording.table, ok, mine, window, number),
            objectives=check_objectives(spreads, int(mine.sum()), tenant.objectives, own, window, f"{tenant.name} "),
        ))  # fmt: skip
    return found


def check_objectives(
    spreads: Mapping[str, Spread], measured: int, objectives: Objectives, table: Table, window: Window,
    whose: str = "",
) -> list[dict[str, object]]:  # fmt: skip
    """Each stated objective with the measured percentile and whether it is met, by the distributions over the
    ``measured`` requests. A request that was given up takes longer than any limit."""
    rows: list[dict[str, object]] = []
    lost = int(((table.lost[:, 0] >= window.start_s) & (table.lost[:, 0] <= window.end_s)).sum())
    asked = measured + lost
    for kind, values in spreads.items():
        for p in PERCENTILES:
            limit = getattr(objectives, f"{kind}_p{p}")
            if limit is not None:
                got = getattr(values, f"p{p}") if lost <= asked * (1.0 - p / 100.0) else None
                rows.append({
                    "name": f"{whose}{kind}_p{p}", "limit_s": limit, "measured_s": got,
                    "met": got is not None and got <= limit,
                })  # fmt: skip
    return rows


def serving_metrics(
    recording: ServingRecording, end: float, utilisation: float, failures: Mapping[str, Any]
) -> tuple[ServingMetrics, Window, Table]:
    """All numbers of one job. ``end`` is the simulated time, ``utilisation`` its GPUs' busy share, ``failures`` what
    failures add."""
    table = Table.of(recording.table)
    window = measured_window(recording.job.spec.load, table)
    a, b = window.start_s, window.end_s
    seconds = b - a
    rate = (lambda x: x / seconds) if seconds > 0 else (lambda x: 0.0)
    mine = (table.arrival >= a) & (table.arrival <= b)
    finished = (table.finish > a) & (table.finish <= b)
    ok = attained(table, recording.job.spec)
    tpot = spread(table.tpot[mine])
    tallies = [r.tally for r in recording.replicas]
    passes = sum(t.pass_seconds for t in tallies)
    kv_mean, kv_peak = _kv_occupancy(recording, a, b)
    generated = table.output_tokens(a, b)
    metrics = ServingMetrics(
        output_tokens_per_s=rate(generated),
        total_tokens_per_s=rate(generated + table.prompt_tokens(a, b)),
        requests_per_s=rate(float(finished.sum())),
        completed_requests=len(table),
        rejected_requests=len(recording.table.rejected),
        measured_requests=int(mine.sum()),
        ttft_s=spread((table.first - table.arrival)[mine]),
        tpot_s=tpot,
        inter_token_s=gap_spread(recording),
        latency_s=spread((table.finish - table.arrival)[mine]),
        queue_s=spread((table.scheduled - table.arrival)[mine]),
        batch_size_mean=sum(t.sequence_seconds for t in tallies) / passes if passes else 0.0,
        kv_occupancy_mean=kv_mean,
        kv_occupancy_peak=kv_peak,
        kv_blocked_fraction=sum(t.blocked for t in tallies) / (len(tallies) * end) if end else 0.0,
        utilisation_mean=utilisation,
        slo_attainment=_attainment(recording.table, ok, mine, window),
        goodput_requests_per_s=None if ok is None else rate(float((finished & ok).sum())),
        tokens_per_s_per_user=1 / tpot.p50 if tpot.p50 else None,
        preemptions=sum(recording.table.preempted),
        recomputed_tokens=recording.table.recomputed,
        **failures,
        **_found(recording),
        **_handed_over(recording),
        **_scaled(recording),
    )
    return metrics, window, table


def _found(recording: ServingRecording) -> dict[str, Any]:
    """What the prefix caches found."""
    caches = [r.scheduler.cache for r in recording.replicas if r.scheduler.cache is not None]
    asked = sum(cache.asked for cache in caches)
    if not asked:
        return {}
    rate = sum(cache.found for cache in caches) / asked
    stored = any(cache.store is not None for cache in caches)
    return {"prefix_hit_rate": rate, "fetched_tokens": sum(c.fetched for c in caches) if stored else None}


def _handed_over(recording: ServingRecording) -> dict[str, Any]:
    """What went from replicas that compute prompts to others."""
    handover = recording.handover
    if handover is None:
        return {}
    mean = handover.seconds / handover.count if handover.count else None
    return {"kv_transfer_bytes": handover.bytes, "kv_transfer_s": mean}


def _scaled(recording: ServingRecording) -> dict[str, Any]:
    """Replicas that came and went."""
    fleet = recording.fleet
    if fleet is None:
        return {}
    end = max(replica.tally.ended for replica in recording.replicas)
    mean = fleet.paid(end) / end if end else None
    return {"replicas_mean": mean, "replicas_started": fleet.started}


def _attainment(
    requests: RequestTable, ok: NDArray[np.bool_] | None, mine: NDArray[np.bool_], window: Window,
    tenant: int | None = None,
) -> float | None:  # fmt: skip
    """Share of the window's requests (of a tenant's alone) that attained the objectives; one that was refused or given
    up did not."""
    if ok is None:
        return None
    lost = [r for r in (*requests.rejected, *requests.failed)
            if tenant is None or requests.tenant is None or requests.tenant[r] == tenant]  # fmt: skip
    refused = sum(window.start_s <= requests.arrival[r] <= window.end_s for r in lost)
    asked = int(mine.sum()) + refused
    return float(ok[mine].sum()) / asked if asked else None


def _kv_occupancy(recording: ServingRecording, start: float, end: float) -> tuple[float, float]:
    """Mean share of the KV cache in use over the window, and its largest share in a bin of the timeline."""
    capacity = float(sum(recording.layout.tokens))
    if end <= start or capacity <= 0:
        return 0.0, 0.0
    bins = [r.tally.cached for r in recording.replicas]
    mean = sum(b.between(start, end) for b in bins) / (end - start) / capacity
    width = max(b.width for b in bins)
    series = np.zeros(1)
    for b in bins:
        values, factor = np.array(b.values), round(width / b.width)
        values = np.pad(values, (0, -len(values) % factor)).reshape(-1, factor).sum(axis=1)
        series = np.pad(series, (0, max(0, len(values) - len(series))))
        series[: len(values)] += values
    last = int(end / width)
    return mean, max(mean, float(series[: max(1, last)].max()) / width / capacity)
