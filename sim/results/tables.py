"""Side tables of a run: every request, and spans and counters for a trace viewer."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sim.engine.timeline import SpanLog
from sim.jobs.play import Recording
from sim.results.collect import link_classes, timeline_of
from sim.results.incidents import ended
from sim.results.metrics import Table

COLUMNS = (
    "job", "request", "replica", "prompt_tokens", "output_tokens", "arrival_s", "scheduled_s", "first_token_s",
    "finish_s", "ttft_s", "tpot_s", "latency_s", "preemptions", "status", "restarts",
    "cached_tokens",
)  # fmt: skip

#: Spans a device in the trace: viewers slow down beyond a hundred thousand events.
SPANS = 2000
#: Requests of a job in the trace.
REQUESTS = 1000

Span = tuple[str, str, float, float, dict[str, Any]]


def requests_csv(recording: Recording) -> str:
    """One row a request, in the order they were drawn; times in seconds, empty where it did not happen."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for job in recording.serving:
        t = job.table
        rejected = set(t.rejected)
        for r in range(len(t)):
            times = [_time(x[r]) for x in (t.arrival, t.scheduled, t.first, t.finish)]
            done = t.finish[r] == t.finish[r]
            ttft = _time(t.first[r] - t.arrival[r])
            tpot = _time((t.finish[r] - t.first[r]) / (t.output[r] - 1)) if done and t.output[r] > 1 else ""
            latency = _time(t.finish[r] - t.arrival[r])
            lost = "rejected" if r in rejected else "failed" if r in t.failed else "not sent"
            writer.writerow([job.job.spec.name, r, t.replica[r], t.prompt[r], t.output[r], *times, ttft, tpot, latency,
                             t.preempted[r], "completed" if done else lost, t.restarts[r],
                             t.found.get(r, 0)])  # fmt: skip
    return out.getvalue()


def _time(value: float) -> str:
    return "" if value != value else f"{value:.9g}"


@dataclass(frozen=True, slots=True)
class TraceTables:
    """What a trace viewer shows: tracks in order, spans (track, kind, start, end, facts), and counters."""

    tracks: list[tuple[str, str]]
    spans: list[Span]
    counters: list[tuple[str, float, list[float]]]


def trace_tables(recording: Recording, begin: float) -> TraceTables:
    """Spans of each device class and hop (the first ``SPANS`` after ``begin``), of requests and of faults, and counters
    of links and queues."""
    tables = [Table.of(job.table) for job in recording.serving]
    line = timeline_of(recording, tables, begin)
    tracks: list[tuple[str, str]] = []
    spans: list[Span] = []
    logs: list[tuple[str, str, SpanLog]] = []
    for job in recording.jobs:
        logs += [(track.name, f"GPUs of {job.name}", track.spans) for track, _, _ in job.tracks]
        logs += [(c.name, f"links of {job.name}", c.spans) for c in job.channels if len(c.spans)]
    for track, process, log in logs:
        tracks.append((track, process))
        for s in log.after(begin, SPANS):
            facts = {"sequences": s.batch, "tokens": s.tokens, "micro_batch": s.micro_batch, "chunk": s.chunk}
            spans.append((track, s.kind, s.start, s.end, facts))
    for name, found in [*_requests(recording, begin), *_faults(recording)]:
        tracks += [(track, name) for track in dict.fromkeys(span[0] for span in found)]
        spans += found
    counters = [(f"link {name}", line.bin_s, values) for name, values in link_classes(recording)[1].items()]
    for name, series in line.jobs.items():
        counters += [(f"{name} {what}", line.bin_s, values) for what, values in series.items() if values]
    return TraceTables(tracks, spans, counters)


def _requests(recording: Recording, begin: float) -> Iterator[tuple[str, list[Span]]]:
    """Each job's requests that were there after ``begin``, in as many lanes as were there at once."""
    for job in recording.serving:
        table, lanes, spans = job.table, list[float](), list[Span]()
        there = [r for r in range(len(table)) if table.finish[r] > begin]
        for r in sorted(there, key=lambda r: table.arrival[r])[:REQUESTS]:
            lane = next((n for n, end in enumerate(lanes) if end <= table.arrival[r]), len(lanes))
            lanes[lane : lane + 1] = [table.finish[r]]
            facts = {
                "request": r, "prompt": table.prompt[r], "output": table.output[r], "replica": table.replica[r],
                "preemptions": table.preempted[r], "restarts": table.restarts[r],
            }  # fmt: skip
            edges = (table.arrival[r], table.scheduled[r], table.first[r], table.finish[r])
            for kind, (start, end) in zip(("queue", "prefill", "decode"), pairwise(edges), strict=True):
                if end > start:
                    spans.append((f"{job.name} {lane + 1}", kind, start, end, facts))
        yield f"requests of {job.name}", spans


def _faults(recording: Recording) -> Iterator[tuple[str, list[Span]]]:
    """Outages of replicas by what they were spent on, and what a training run did but work."""
    for served in recording.serving:
        if served.incidents is not None:
            end = ended(served)
            yield f"faults of {served.name}", [
                (f"{served.name} replica {replica}", piece.bucket, piece.start, min(piece.end, end),
                 {"cause": outage.cause})
                for replica, outages in enumerate(served.incidents.outages)
                for outage in outages
                for piece in outage.pieces
                if piece.start < end
            ]  # fmt: skip
    for trained in recording.training:
        if trained.life is not None:
            stretches = [s for s in trained.life.stretches if s.kind not in ("work", "checkpoint")][:SPANS]
            yield f"faults of {trained.name}", [(trained.name, s.kind, s.start, s.end, {}) for s in stretches]
