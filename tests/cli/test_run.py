"""``sim run``: what it writes and where, what it prints and where, seeds, processes and exit codes."""

import csv
import io
import itertools
import json
import os
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest


def without_wall_clock(document):
    return {key: value for key, value in document.items() if key != "run_info"}


# ---- Files


def test_a_run_writes_four_files_and_no_more(flagship):
    assert [path.name for path in flagship.out.iterdir()] == ["4090_pp_home"]
    assert sorted(path.name for path in flagship.folder.iterdir()) == [
        "index.html", "requests.csv", "result.json", "trace.json",
    ]  # fmt: skip


def test_the_verdict_is_on_standard_output(flagship):
    lines = flagship.answer.out.splitlines()
    assert lines[0].startswith("llama-2-70b fp16, pp8, stack vllm")
    assert lines[1].startswith("VERDICT     ")
    assert flagship.document["verdict"]["sentence"].split(";")[0] in lines[1]
    assert lines[-1] == f"report      {flagship.folder / 'index.html'}"
    assert "\x1b" not in flagship.answer.out


def test_requests_have_a_row_each(flagship):
    with (flagship.folder / "requests.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["request"]) for row in rows] == list(range(30))
    for row in rows:
        assert row["status"] == "completed"
        times = [float(row[key]) for key in ("arrival_s", "scheduled_s", "first_token_s", "finish_s")]
        assert times == sorted(times)
        assert float(row["latency_s"]) == pytest.approx(times[3] - times[0], abs=1e-6)
    assert flagship.document["metrics"]["completed_requests"] == 30


def test_the_trace_is_one_a_viewer_opens(flagship):
    events = json.loads((flagship.folder / "trace.json").read_text())["traceEvents"]
    kinds = {event["ph"] for event in events}
    assert kinds == {"M", "X", "C"}
    end = flagship.document["simulated_s"] * 1e6
    for event in events:
        if event["ph"] == "X":
            assert event["dur"] >= 0
            assert 0 <= event["ts"] <= end * (1 + 1e-9)


def test_the_page_is_one_file_that_needs_no_other(flagship):
    page = (flagship.folder / "index.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert 'src="http' not in page
    assert 'href="http' not in page.split("<script", 1)[0]


def test_the_command_that_made_it_can_be_run_again(desk, tmp_path, monkeypatch):
    asked = ["sim", "run", "small.yaml", "--set", "jobs.0.load.closed_loop={clients: 3}"]
    monkeypatch.setattr(sys, "argv", asked)
    info = desk.run("--json").json["run_info"]
    assert shlex.split(info["command"]) == asked
    assert info["wall_s"] >= info["simulation_wall_s"] > 0


def test_a_second_run_replaces_the_first(desk, sim, tmp_path):
    for seed in (1, 2):
        answer = sim("run", desk.scenario, "--out", tmp_path / "out", "--no-effects", "--seed", seed)
        assert answer.code == 0
        assert json.loads((tmp_path / "out" / "small" / "result.json").read_text())["seed"] == seed
    assert len(list((tmp_path / "out" / "small").iterdir())) == 4


def test_reports_go_below_the_working_folder_by_default(desk, sim, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert sim("run", desk.scenario, "--no-effects").code == 0
    assert (tmp_path / "reports" / "small" / "index.html").is_file()


def test_without_a_report_nothing_is_written(desk, sim, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    answer = sim("run", desk.scenario, "--no-report", "--no-effects")
    assert (answer.code, answer.err) == (0, "")
    assert "report " not in answer.out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_place_that_cannot_be_written_to_is_named(desk, sim, tmp_path):
    (tmp_path / "taken").write_text("")
    answer = sim("run", desk.scenario, "--no-effects", "--out", tmp_path / "taken" / "below")
    assert (answer.code, answer.out, len(answer.complaints)) == (1, "", 1)
    assert str(tmp_path / "taken") in answer.err


# ---- Standard output and standard error


def test_json_is_the_document_and_nothing_else(desk, sim, tmp_path):
    answer = sim("run", desk.scenario, "--json", "--no-effects", "--out", tmp_path / "out")
    assert (answer.code, answer.err) == (0, "")
    assert answer.json == json.loads((tmp_path / "out" / "small" / "result.json").read_text())


@pytest.fixture
def slow():
    """A wall clock on which ten seconds pass between any two looks."""
    now = itertools.count(0.0, 10.0)
    return lambda: next(now)


def test_progress_goes_to_standard_error_only(desk, sim, slow, tmp_path):
    answer = sim("run", desk.scenario, "--json", "--out", tmp_path / "out", clock=slow)
    assert answer.json["scenario"] == "small"
    assert any(line.startswith("what binds: ") for line in answer.complaints)
    assert any(line.startswith("writing the report: 100% ") for line in answer.complaints)
    assert "\x1b" not in answer.err


def test_a_terminal_gets_a_bar(slow, monkeypatch):
    from sim.cli.common import progress

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sim.cli.common.time", SimpleNamespace(monotonic=slow))
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with progress() as hear:
        hear("simulating", 0.1)
        hear("simulating", 0.5)
    assert "simulating" in screen.getvalue()


def test_a_short_run_is_silent(desk):
    assert desk.run().err == ""


# ---- Values from the command line


def test_a_set_value_shows_in_the_answer(desk):
    answer = desk.run("--json", "--set", "jobs.0.load.requests=7", "--set", "name=renamed").json
    assert answer["metrics"]["completed_requests"] == 7
    assert answer["scenario"] == "renamed"
    assert answer["resolved_scenario"]["jobs"][0]["load"]["requests"] == 7


def test_the_name_chooses_the_folder(desk, sim, tmp_path):
    answer = sim("run", desk.scenario, "--no-effects", "--set", "name=renamed", "--out", tmp_path / "out")
    assert answer.code == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["renamed"]


RANDOM = "--set=jobs.0.load={poisson: {rate: 2 req/s}, lengths: azure-2023-conversation, requests: 30}"


def test_a_seed_decides_the_answer(desk):
    first, again, other = (desk.run("--json", RANDOM, "--seed", seed).json for seed in (7, 7, 8))
    assert first["seed"] == 7
    assert without_wall_clock(first) == without_wall_clock(again)
    assert first["metrics"] != other["metrics"]


def test_the_seed_option_wins_over_the_file(desk):
    desk.edit("stack: vllm", "stack: vllm\nseed: 3")
    assert desk.run("--json").json["seed"] == 3
    assert desk.run("--json", "--seed", "5").json["seed"] == 5
    assert desk.run("--json", "--set", "seed=4", "--seed", "5").json["seed"] == 5


def test_full_detail_gives_the_same_metrics(desk):
    fast, full = (desk.run("--json", "--detail", detail).json for detail in ("auto", "full"))
    assert (fast["detail"], full["detail"]) == ("auto", "full")
    assert full["events"] > fast["events"]
    assert full["metrics"]["latency_s"]["p99"] == pytest.approx(fast["metrics"]["latency_s"]["p99"], rel=1e-9)


# ---- Several seeds


def test_seeds_give_means_and_intervals_over_runs(desk):
    answer = desk.run("--json", RANDOM, "--seeds", "3", "--seed", "10").json
    assert answer["intervals_method"].startswith("95%, Student's t over 3 runs with seeds 10 to 12")
    low, high = answer["intervals"]["metrics.output_tokens_per_s"]
    alone = [desk.run("--json", RANDOM, "--seed", seed).json["metrics"]["output_tokens_per_s"] for seed in (10, 11, 12)]
    mean = sum(alone) / 3
    deviation = (sum((x - mean) ** 2 for x in alone) / 2) ** 0.5
    assert (low + high) / 2 == pytest.approx(mean)
    assert (high - low) / 2 == pytest.approx(4.303 * deviation / 3**0.5)
    assert answer["metrics"]["output_tokens_per_s"] == pytest.approx(mean)
    assert answer["jobs"][0]["metrics"] == answer["metrics"]


def test_seeds_of_a_load_without_chance_say_so(desk):
    alone, three = desk.run("--json").json, desk.run("--json", "--seeds", "3").json
    assert "nothing in this load is random" in three["intervals_method"]
    assert three["metrics"] == alone["metrics"]


def test_processes_change_nothing(desk, tmp_path):
    """In a process of its own: forking a test runner is nobody's wish."""

    def run(jobs):
        command = [sys.executable, "-m", "sim", "run", str(desk.scenario), "--no-report", "--no-effects", "--json"]
        command += [RANDOM, "--seeds", "3", "-j", str(jobs)]
        env = {**os.environ, "PYTHONWARNINGS": "ignore"}
        found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=env)
        return without_wall_clock(json.loads(found.stdout))

    assert run(2) == run(1)


# ---- Objectives


def test_a_missed_objective_is_code_4_where_asked_for(desk):
    desk.edit("ttft_p99: 60 s", "ttft_p99: 1 us, latency_p50: 1 h")
    assert desk.run().code == 0
    answer = desk.run("--fail-on", "objectives")
    assert answer.code == 4
    assert len(answer.complaints) == 1
    assert answer.err.startswith("chat: ttft_p99 ")
    assert answer.err.rstrip().endswith("promised 1e-06 s")
    assert "VERDICT" in answer.out


def test_met_objectives_are_code_0(desk):
    assert desk.run("--fail-on", "objectives").code == 0


def test_overload_is_code_4_where_asked_for(shipped, sim):
    args = (shipped / "4090_pp_home_overload.yaml", "--no-report", "--no-effects", "--set", "jobs.0.load.requests=400")
    answer = sim("run", *args, "--fail-on", "overload", "--json")
    assert (answer.code, answer.json["verdict"]["state"]) == (4, "overloaded")
    assert answer.err.startswith("overloaded: ")
    assert sim("run", *args, "--fail-on", "objectives").code == 0


def test_a_stable_run_is_not_overloaded(desk):
    assert desk.run("--fail-on", "overload").code == 0
