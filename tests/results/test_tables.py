"""Side tables: what a trace viewer gets of requests and faults."""

from __future__ import annotations

from itertools import pairwise

import pytest

from sim.results.tables import trace_tables

from ..helpers import played, simulate, toy

LOAD = {"deterministic": {"rate": "20 req/s"}, "requests": 100, "prompt_tokens": 200, "output_tokens": 400}


def test_a_requests_time_is_in_its_spans():
    recording = simulate(toy({"load": LOAD})).recording
    table = recording.jobs[0].table
    found = trace_tables(recording, 0.0)
    assert ("job0 1", "requests of job0") in found.tracks
    for r in range(len(table)):
        mine = [span for span in found.spans if span[4].get("request") == r]
        assert [span[1] for span in mine][-2:] == ["prefill", "decode"]
        assert mine[0][2] == table.arrival[r]
        assert sum(end - start for _, _, start, end, _ in mine) == pytest.approx(table.finish[r] - table.arrival[r])


def test_requests_of_a_lane_follow_each_other():
    recording = simulate(toy({"load": LOAD | {"deterministic": {"rate": "200 req/s"}}})).recording
    spans = [span for span in trace_tables(recording, 0.0).spans if "request" in span[4]]
    lanes = {span[0] for span in spans}
    assert len(lanes) > 1
    for lane in lanes:
        mine = sorted((start, end) for track, _, start, end, _ in spans if track == lane)
        assert all(end <= start + 1e-12 for (_, end), (start, _) in pairwise(mine))


def test_outages_are_told_by_phase():
    faults = {"classes": [{"name": "n", "per": "node", "mtbf": "1 year"}], "trace": [{"time": "1 s", "name": "n"}]}
    recovery = {"detect": "100 ms", "diagnose": "0 s", "replace": "0 s", "launch": "300 ms", "connect": "0 s",
                "connect_per_rank": "0 s", "load": "0 s"}  # fmt: skip
    found = trace_tables(simulate(toy({"load": LOAD, "recovery": recovery}, faults=faults)).recording, 0.0)
    told = [(kind, round(start, 6), round(end, 6)) for track, kind, start, end, _ in found.spans if "replica" in track]
    assert [one for one in told if one[2] > one[1]] == [("failure detection", 1.0, 1.1), ("restart", 1.1, 1.4)]


def test_a_training_runs_failures_have_a_track():
    found = trace_tables(played("bloom_176b_failures").recording, 0.0)
    job = played("bloom_176b_failures").recording.jobs[0].name
    assert (job, f"faults of {job}") in found.tracks
    assert "restart" in {kind for track, kind, *_ in found.spans if track == job}
