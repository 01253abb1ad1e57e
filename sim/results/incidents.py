"""What failures did to a serving job: how long replicas were down, what was lost, and what users saw of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.engine.timeline import Bins
from sim.jobs.serving.incidents import START_UP
from sim.jobs.serving.recording import ServingRecording
from sim.results.metrics import Table, attained
from sim.results.schema import Incident

#: Outages told one by one.
MOST = 100


def down_time(recording: ServingRecording, whole: float) -> Bins:
    """Seconds of replicas down over the ``whole`` of a simulation, as long as the job has requests."""
    bins, end = Bins(), ended(recording)
    bins.add(whole, whole, 0.0)  # they grow to their width once
    if recording.incidents is not None:
        for outages in recording.incidents.outages:
            for outage in outages:
                if outage.start < end:
                    bins.add(outage.start, min(outage.up, end), min(outage.up, end) - outage.start)
    return bins


def ended(recording: ServingRecording) -> float:
    """When the job's last request was settled; what befalls its replicas later is nobody's."""
    return max(replica.tally.ended for replica in recording.replicas)


def nodes_missing(recording: ServingRecording) -> float:
    """Node-seconds, as long as the job has requests, in which a replica's place stood without a node."""
    if recording.incidents is None:
        return 0.0
    end = ended(recording)
    return sum(max(0.0, min(back, end) - start) for start, back in recording.incidents.pool.gone)


def failure_metrics(recording: ServingRecording) -> dict[str, Any]:
    """The numbers of :class:`ServingMetrics` that jobs have whose replicas can fail, over the job's own life."""
    incidents, table, end = recording.incidents, recording.table, ended(recording)
    if incidents is None:
        return {}
    met = [name for time, name in incidents.met if time <= end]
    down = [(o, min(o.up, end) - o.start) for outages in incidents.outages for o in outages if o.start < end]
    lasted = [seconds for outage, seconds in down if outage.cause != START_UP]
    replicas = len(recording.replicas)
    return {
        "failures": len(met),
        "failures_by_class": {name: met.count(name) for name in dict.fromkeys(met)},
        "outages": len(lasted),
        "availability": 1.0 - sum(seconds for _, seconds in down) / (replicas * end) if end > 0.0 else 1.0,
        "outage_s": sum(lasted) / len(lasted) if lasted else None,
        "restarted_requests": sum(count > 0 for count in table.restarts),
        "failed_requests": len(table.failed),
        "lost_tokens": sum(min(table.generated[r], table.output[r]) for r in table.failed),
        "lost_kv_tokens": table.lost_kv,
    }


def incidents_of(recording: ServingRecording, table: Table) -> list[Incident]:
    """The job's outages in order of time, the first hundred."""
    incidents, requests, end = recording.incidents, recording.table, ended(recording)
    if incidents is None:
        return []
    ok = attained(table, recording.job.spec)
    arrival, first = np.array(requests.arrival), np.array(requests.first)
    refused = arrival[np.array(requests.rejected, dtype=np.int64)]
    found = [
        (outage, replica, number)
        for replica, outages in enumerate(incidents.outages)
        for number, outage in enumerate(outages)
        if outage.start < end and outage.cause != START_UP
    ]
    told = []
    for outage, replica, number in sorted(found, key=lambda one: (one[0].start, one[1]))[:MOST]:
        up = min(outage.up, end)
        held, lost_kv = incidents.losses.get((replica, number), (0, 0))
        failed = incidents.given_up.get((replica, number), 0)
        lost = failed + int(((refused >= outage.start) & (refused <= up)).sum())
        made = table.output_tokens(outage.start, up) / (up - outage.start) if up > outage.start else 0.0
        came = first[(arrival >= outage.start) & (arrival <= up)]
        came = came[~np.isnan(came)]
        told.append(Incident(
            cause=outage.cause, replica=replica, start_s=outage.start, known_s=min(outage.known, up), up_s=up,
            held_requests=held, lost_kv_tokens=lost_kv, failed_requests=failed, output_tokens_per_s=made,
            slo_attainment=_attained(table, ok, outage.start, up, lost),
            first_tokens_s=max(0.0, float(came.max()) - up) if len(came) else None,
        ))  # fmt: skip
    return told


def _attained(table: Table, ok: NDArray[np.bool_] | None, start: float, up: float, lost: int) -> float | None:
    """Share of the requests that were there during an outage and attained the objectives; ``lost`` ones did not."""
    if ok is None:
        return None
    there = (table.arrival <= up) & (table.finish >= start)
    asked = int(there.sum()) + lost
    return float(ok[there].sum()) / asked if asked else None
