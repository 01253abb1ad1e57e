"""The Chrome trace: names, units, lanes and counters."""

from __future__ import annotations

import json
from typing import Any

from sim.report.trace import chrome_trace, result_trace
from sim.results.schema import Result


def events(text: str, phase: str) -> list[dict[str, Any]]:
    return [event for event in json.loads(text)["traceEvents"] if event["ph"] == phase]


def test_spans_are_microseconds_on_named_threads() -> None:
    text = chrome_trace([("stage 0", "GPUs")], [("stage 0", "decode", 0.5, 0.75, {"batch": 3})])
    (span,) = events(text, "X")
    assert (span["ts"], span["dur"], span["name"], span["args"]) == (500_000, 250_000, "decode", {"batch": 3})
    names = {(e["name"], e["pid"], e["tid"]): e["args"] for e in events(text, "M")}
    assert names["process_name", span["pid"], 0] == {"name": "GPUs"}
    assert names["thread_name", span["pid"], span["tid"]] == {"name": "stage 0"}


def test_overlapping_work_goes_on_further_lanes() -> None:
    spans = [("gpu", "decode", 0.0, 2.0, {}), ("gpu", "comm", 1.0, 3.0, {}), ("gpu", "decode", 2.0, 4.0, {})]
    text = chrome_trace([("gpu", "GPUs")], spans)
    lanes = [event["tid"] for event in sorted(events(text, "X"), key=lambda e: e["ts"])]
    assert lanes[0] == lanes[2] != lanes[1]
    threads = {e["args"]["name"] for e in events(text, "M") if e["name"] == "thread_name"}
    assert threads == {"gpu", "gpu (2)"}


def test_counters_have_an_event_per_change() -> None:
    text = chrome_trace([], [], [("queue", 0.5, [1.0, 1.0, 4.0, 4.0, 0.0, float("nan")])])
    found = [(event["ts"], event["args"]["value"]) for event in events(text, "C")]
    assert found == [(0, 1.0), (1_000_000, 4.0), (2_000_000, 0.0)]


def test_unlisted_tracks_are_kept_and_infinity_is_not_written() -> None:
    text = chrome_trace([], [("x", "decode", 0.0, 1.0, {"rate": float("inf")})])
    assert events(text, "X")[0]["args"] == {"rate": None}
    assert "other" in {e["args"].get("name") for e in events(text, "M")}


def test_a_result_gives_the_same_trace_each_time(result: Result, hostile: Result) -> None:
    text = result_trace(result)
    assert text == result_trace(result)
    assert len(events(text, "X")) == len(result.timeline.spans)
    assert len({event["tid"] for event in events(text, "X")}) == len(result.devices)
    assert {"chat: waiting", "link pcie gpu to host: utilisation"} <= {e["name"] for e in events(text, "C")}
    json.loads(result_trace(hostile))


def test_passes_of_a_training_step_are_told_by_their_micro_batch(training: Result) -> None:
    found = events(result_trace(training), "X")
    first = [event for event in found if event["tid"] == found[0]["tid"]]
    assert [event["name"] for event in first][:6] == ["F0", "F1", "F2", "F3", "B0", "F4"]
    assert [event["name"] for event in first][-2:] == ["comm", "update"]
    assert {event["cat"] for event in first} == {"forward", "backward", "comm", "update"}
    assert len({event["tid"] for event in found}) == len(training.devices) == 4
    names = [e["args"]["name"] for e in events(result_trace(training), "M") if e["name"] == "thread_name"]
    assert names == [f"pretrain.s{stage}" for stage in range(4)]


def test_a_later_chunk_is_part_of_the_name() -> None:
    spans = [("s0", "weight gradient", 0.0, 1.0, {"micro_batch": 3, "chunk": 1}), ("s0", "forward", 1.0, 2.0, {})]
    assert [event["name"] for event in events(chrome_trace([], spans), "X")] == ["W3.1", "forward"]
