"""The Chrome trace format, which Perfetto and chrome://tracing open.

A process is a group of tracks ("GPUs", "links"), a thread is one track, an `X` event is one stretch of work,
a `C` event is one value of a counter, and `M` events carry the names. Times are microseconds. Events of one
thread must nest; work that overlaps on a track is therefore put on further lanes of it. Format:
https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from sim.results.schema import Result

TraceSpan = tuple[str, str, float, float, Mapping[str, Any]]
"""(track, kind, start_s, end_s, args)."""
Counter = tuple[str, float, Sequence[float]]
"""(name, bin_s, one value a bin)."""

COUNTERS: Final = "counters"
UNLISTED: Final = "other"
PASSES: Final = {"forward": "F", "backward": "B", "weight gradient": "W"}
"""Work of a training step that is told by its micro-batch."""


def chrome_trace(
    tracks: Iterable[tuple[str, str]], spans: Iterable[TraceSpan], counters: Iterable[Counter] = ()
) -> str:
    """One JSON document. `tracks` are (track, process) in the order to be shown; unknown ones follow."""
    home = dict(tracks)
    lanes: dict[tuple[str, int], list[TraceSpan]] = {(track, 0): [] for track in home}
    for lane, span in _in_lanes(spans):
        home.setdefault(span[0], UNLISTED)
        lanes.setdefault((span[0], lane), []).append(span)
    pids = {name: index for index, name in enumerate(dict.fromkeys([*home.values(), COUNTERS]), start=1)}
    order = {track: index for index, track in enumerate(home)}
    events = [_meta("process_name", pid, 0, {"name": name}) for name, pid in pids.items()]
    events += [_meta("process_sort_index", pid, 0, {"sort_index": pid}) for pid in pids.values()]
    for tid, (track, lane) in enumerate(sorted(lanes, key=lambda key: (order[key[0]], key[1])), start=1):
        pid = pids[home[track]]
        name = f"{track} ({lane + 1})" if lane else track
        events.append(_meta("thread_name", pid, tid, {"name": name}))
        events.append(_meta("thread_sort_index", pid, tid, {"sort_index": tid}))
        events += [_complete(pid, tid, span) for span in lanes[track, lane]]
    for counter in counters:
        events += _counted(pids[COUNTERS], counter)
    document = {"displayTimeUnit": "ms", "traceEvents": events}
    return json.dumps(document, separators=(",", ":"), allow_nan=False)


def result_trace(result: Result) -> str:
    """The trace of what a Result holds: its window of spans, utilisations, queues and batches."""
    tracks = [(device.name, "GPUs") for device in result.devices]
    spans = [
        (s.device, s.kind, s.start_s, s.end_s, s.model_dump(include={"batch", "tokens", "micro_batch", "chunk"}))
        for s in result.timeline.spans
    ]
    step = result.timeline.bin_s
    counters = [(f"link {name}: utilisation", step, values) for name, values in result.timeline.links.items()]
    for job, series in result.timeline.jobs.items():
        counters += [(f"{job}: {name}", step, values) for name, values in series.items()]
    return chrome_trace(tracks, spans, counters)


def _in_lanes(spans: Iterable[TraceSpan]) -> Iterator[tuple[int, TraceSpan]]:
    """Each span with the first lane of its track that is free at its start."""
    free: dict[str, list[float]] = {}
    for span in sorted(spans, key=lambda item: (item[2], item[3])):
        ends = free.setdefault(span[0], [])
        lane = next((index for index, end in enumerate(ends) if end <= span[2] + 1e-12), len(ends))
        if lane == len(ends):
            ends.append(0.0)
        ends[lane] = span[3]
        yield lane, span


def _meta(name: str, pid: int, tid: int, args: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "M", "name": name, "pid": pid, "tid": tid, "args": args}


def _complete(pid: int, tid: int, span: TraceSpan) -> dict[str, Any]:
    _, kind, start, end, args = span
    return {
        "ph": "X",
        "name": _name(kind, args),
        "cat": kind,
        "pid": pid,
        "tid": tid,
        "ts": _microseconds(start),
        "dur": _microseconds(max(end - start, 0.0)),
        "args": {key: _finite(value) for key, value in args.items()},
    }


def _name(kind: str, args: Mapping[str, Any]) -> str:
    """ "F3" for the forward pass of micro-batch 3, "F3.1" for that of chunk 1; other work by its kind.

    These are the words of a schedule in a scenario; Perfetto gives names that differ in digits one colour.
    """
    letter, micro = PASSES.get(kind), args.get("micro_batch")
    if letter is None or micro is None:
        return kind
    return f"{letter}{micro}.{args['chunk']}" if args.get("chunk") else f"{letter}{micro}"


def _counted(pid: int, counter: Counter) -> Iterator[dict[str, Any]]:
    """One event per change of value: a counter keeps its value until the next event."""
    name, step, values = counter
    last: float | None = None
    for index, value in enumerate(values):
        if value != last and math.isfinite(value):
            last = value
            at = _microseconds(index * step)
            yield {"ph": "C", "name": name, "pid": pid, "tid": 0, "ts": at, "args": {"value": value}}


def _microseconds(seconds: float) -> float:
    return round(seconds * 1e6, 3)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
