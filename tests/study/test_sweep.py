"""Sweeps as users run them: points, failures, the journal, and the same bytes from every executor."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

import sim.cli
from sim.adapters.resolve import resolve_file
from sim.adapters.yaml_source import load_yaml
from sim.errors import InputError, RunError
from sim.report.sweep_text import render_sweep
from sim.run import run
from sim.study import sweep_points
from sim.study.executors import open_executor
from sim.study.sweep import Sweep, prepare, run_sweep
from sim.study.sweep_axes import from_options
from sim.study.sweep_points import PointResolver, tasks_of
from sim.study.sweep_store import Journal
from sim.study.sweep_tables import csv_text, document, document_text, study_of

from ..helpers import SCENARIOS, desktops, scenario, toy

JOB = {
    "plan": {"pp": 2},
    "load": {"closed_loop": {"clients": 4}, "prompt_tokens": 50, "output_tokens": 20, "requests": 30},
    "objectives": {"ttft_p99": "1 s"},
}
COST = {"capital": "1000 USD", "amortisation": "1 year", "electricity": "0.1 USD/kWh"}
CLIENTS = "jobs.0.load.closed_loop.clients"
NETWORK = "cluster.network.bandwidth=1 Gbps,10 Gbps"
AXES = [NETWORK, f"{CLIENTS}=1,4,9"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(toy(JOB, gpus=4, cost=COST), sort_keys=False))
    return path


def swept(file: Path, vary: list[str], folder: Path, executor: str = "serial", **more: Any) -> Sweep:
    study = prepare(file, vary=from_options(vary), **more)
    with Journal(folder / "points.jsonl") as journal:
        return run_sweep(study, journal, partial(open_executor, executor, 2))


def command(*words: object) -> list[str]:
    """The command line in a process of its own."""
    start = "import sim.cli; sim.cli.VERBS.setdefault('sweep', ''); sim.cli.main()"
    return [sys.executable, "-c", start, "sweep", *map(str, words)]


def called(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, check=False)


# -- points -------------------------------------------------------------------------------------------------


def test_each_point_is_what_a_run_of_it_answers(file: Path, tmp_path: Path) -> None:
    sweep = swept(file, AXES, tmp_path)
    assert len(sweep.outcomes) == 6
    for (network, clients), outcome in zip(sweep.study.design.points, sweep.outcomes, strict=True):
        settings = [f"cluster.network.bandwidth={network}", f"{CLIENTS}={clients}"]
        result = run(resolve_file(file, settings), effects=False)
        assert result.metrics is not None
        assert result.cost is not None
        assert outcome.metrics["output_tokens_per_s"] == result.metrics.output_tokens_per_s
        assert outcome.metrics["ttft_s.p50"] == result.metrics.ttft_s.p50
        assert outcome.metrics["usd_per_million_tokens"] == result.cost.usd_per_million_tokens
        assert outcome.state == result.verdict.state


@pytest.mark.parametrize("settings", [
    ["cluster.network.latency=1 ms", "seed=7", "jobs.0.plan.pp=4"],
    ["jobs.0.load.poisson.rate=3/s", "jobs.0.load.requests=11"],
    ["jobs.0.batching.max_sequences=3", "jobs.0.objectives.tpot_p99=2 ms", "cost.capital=5 USD"],
    ["model=llama-2-7b", "stack=vllm"],
    ["define.gpus.toy.memory_bandwidth=2 TB/s", "assume.kv_reads=free"],
    ["jobs.0.precision.kv=fp8", "cost={rental: {per_gpu: 1 USD/h}}"],
    ["cost.capital=[{what: card, per: gpu, price: rtx4090}]"],
    ["cost.demand={peak: 9 req/s, valley: 1 req/s, burst: {price: runpod-community-rtx4090-on-demand}}"],
])  # fmt: skip
def test_names_looked_up_once_stand_for_the_same(file: Path, settings: list[str]) -> None:
    """A resolver that has resolved other points first gives what reading the file afresh gives."""
    resolver = PointResolver(load_yaml(file), file.parent)
    resolver.resolve([])
    resolver.resolve([f"{CLIENTS}=2"])
    assert resolver.resolve(settings)[0] == resolve_file(file, settings)


def key(file: Path, *settings: str) -> str:
    resolved, digest = PointResolver(load_yaml(file), file.parent).resolve(settings)
    return tasks_of(resolved, digest, 1)[0].key


def test_keys_are_of_content_not_of_spelling(file: Path) -> None:
    assert key(file, "cluster.network.bandwidth=1Gbps") == key(file, "cluster.network.bandwidth=1000 Mbit/s")
    settings = ["", "seed=1", f"{CLIENTS}=5", "cost.capital=2 USD", "stack=ideal", "define.links.toy-net.latency=9 us",
                "define.gpus.toy.memory_bandwidth=2 TB/s", "define.stacks.toy.host_per_step=1 ms"]  # fmt: skip
    keys = [key(file, *filter(None, [setting])) for setting in settings]
    assert len(set(keys)) == len(keys)


def test_keys_do_not_depend_on_the_process(file: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from sim.adapters.yaml_source import load_yaml;"
        "from sim.study.sweep_points import PointResolver, tasks_of; p = Path(sys.argv[1]);"
        "print(tasks_of(*PointResolver(load_yaml(p), p.parent).resolve([]), 1)[0].key)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "5"}
    found = subprocess.run([sys.executable, "-c", code, file], capture_output=True, env=environment, check=True)
    assert found.stdout.decode().strip() == key(file)


def test_prices_share_a_story_and_get_the_answers_they_get_alone(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = []
    original = sweep_points.play
    monkeypatch.setattr(sweep_points, "play", lambda *args, **how: played.append(1) or original(*args, **how))
    axis = "cost.electricity=0.1 USD/kWh,0.5 USD/kWh,1 USD/kWh"
    together = swept(file, [axis, f"{CLIENTS}=1,4"], tmp_path / "together")
    assert len(played) == 2
    for number, (price, clients) in enumerate(together.study.design.points):
        alone = swept(file, [f"cost.electricity={price}", f"{CLIENTS}={clients}"], tmp_path / str(number))
        assert alone.outcomes == (together.outcomes[number],)
    assert len({outcome.metrics["usd_per_hour"] for outcome in together.outcomes}) == 6


def test_bought_parts_at_the_prices_of_the_catalogue(file: Path, tmp_path: Path) -> None:
    cards = yaml.safe_load(file.read_text())
    cards["cost"]["capital"] = [{"what": "card", "per": "gpu", "price": "rtx4090"}]
    file.write_text(yaml.safe_dump(cards, sort_keys=False))
    sweep = swept(file, ["cost.capital.0.price=rtx4090,rtx3090"], tmp_path)
    assert [outcome.jobs["job0"]["capital_usd"] for outcome in sweep.outcomes] == [4 * 1599, 4 * 750]


def test_a_column_of_the_points_is_a_number_a_state_or_a_flag(file: Path, tmp_path: Path) -> None:
    """Bounds, tables and a day of peak and valley are not: there is no column of them, empty or not."""
    header = csv_text(swept(file, [f"{CLIENTS}=1,4"], tmp_path)).splitlines()[0].split(",")
    numbers = {name.removeprefix("job0.") for name in header if name.startswith("job0.")}
    wrong = {"curve", "swing", "saturation", "usd_per_million_tokens_range", "breakdown_usd_per_hour"}
    assert {"usd_per_million_tokens", "fixed_usd_per_hour", "capital_usd"} <= numbers
    assert not numbers & wrong


def test_values_of_equal_meaning_are_simulated_once(file: Path, tmp_path: Path) -> None:
    sweep = swept(file, ["cluster.network.bandwidth=1 Gbps,1000 Mbps"], tmp_path)
    assert sweep.simulated == 1
    assert sweep.outcomes[0] == sweep.outcomes[1]


def test_seeds_are_replicas_with_an_interval(file: Path, tmp_path: Path) -> None:
    lengths = "jobs.0.load.output_tokens={lognormal: {median: 20, p90: 60}}"
    sweep = swept(file, [f"{CLIENTS}=1,4"], tmp_path, overrides=[lengths], seeds=3)
    assert sweep.simulated == 6
    for (clients,), outcome in zip(sweep.study.design.points, sweep.outcomes, strict=True):
        runs = [run(resolve_file(file, [lengths, f"{CLIENTS}={clients}"], seed), effects=False) for seed in range(3)]
        speeds = [r.metrics.output_tokens_per_s for r in runs if r.metrics]
        assert outcome.metrics["output_tokens_per_s"] == pytest.approx(sum(speeds) / 3)
        low, high = outcome.intervals["output_tokens_per_s"]
        assert low < min(speeds) < max(speeds) < high
    assert {"output_tokens_per_s.low", "output_tokens_per_s.high"} <= set(csv_text(sweep).splitlines()[0].split(","))


def test_several_jobs_are_taken_together(tmp_path: Path) -> None:
    data = toy(JOB, gpus=4, cost=COST)
    data["jobs"].append({**data["jobs"][0], "name": "other"})
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(data))
    (outcome,) = swept(path, ["jobs.1.load.requests=20"], tmp_path).outcomes
    mine, other = outcome.jobs["job0"], outcome.jobs["other"]
    assert outcome.metrics["output_tokens_per_s"] == mine["output_tokens_per_s"] + other["output_tokens_per_s"]
    assert outcome.metrics["ttft_s.p50"] == max(mine["ttft_s.p50"], other["ttft_s.p50"])
    costs = sorted([mine["usd_per_million_tokens"], other["usd_per_million_tokens"]])
    assert costs[0] <= (outcome.metrics["usd_per_million_tokens"] or 0) <= costs[1]


# -- what is wrong ------------------------------------------------------------------------------------------


def test_all_wrong_values_are_reported_before_anything_runs(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = ["jobs.0.plan.ppp=1,2", "cluster.network.bandwidth=1Gbps,10 GB", "stack=ideal,vlm", "jobs.7.plan.pp=2"]
    with pytest.raises(InputError) as caught:
        prepare(file, vary=from_options(axes))
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("--vary jobs.0.plan.ppp=1: jobs.0.plan.ppp: unknown key, did you mean 'pp'?")
    assert [line.split(": ")[0] for line in lines] == [
        "--vary jobs.0.plan.ppp=1", "--vary jobs.0.plan.ppp=2", "--vary cluster.network.bandwidth=10 GB",
        "--vary stack=vlm", "--vary jobs.7.plan.pp=2",
    ]  # fmt: skip
    assert lines[3].endswith("did you mean 'vllm'?")


def test_wrong_values_of_the_block_are_reported_at_their_line(file: Path) -> None:
    before = len(file.read_text().splitlines())
    file.write_text(file.read_text() + "sweep:\n  grid:\n    stack: [ideal, vlm]\n")
    with pytest.raises(InputError) as caught:
        prepare(file)
    assert str(caught.value) == f"{file}:{before + 3}:20: stack: unknown stack 'vlm', did you mean 'vllm'?"


def test_a_scenario_without_a_sweep_says_what_to_give(file: Path) -> None:
    with pytest.raises(InputError, match="nothing varies: give --vary"):
        prepare(file)
    with pytest.raises(InputError, match="cannot vary itself"):
        prepare(file, vary=from_options(["sweep.grid.seed=[1]"]))


def test_a_fault_of_the_scenario_itself_is_reported_once(file: Path) -> None:
    file.write_text(file.read_text().replace("link: toy-net", "link: toy-ner"))
    with pytest.raises(InputError) as caught:
        prepare(file, vary=from_options(AXES))
    (problem,) = caught.value.problems
    assert (problem.file, problem.message, problem.suggestion) == (str(file), "unknown link 'toy-ner'", "toy-net")


def test_failures_are_the_points_own(file: Path, tmp_path: Path) -> None:
    """pp 8 does not fit four GPUs, and policy static only goes with its size: the rest is answered."""
    sweep = swept(file, ["jobs.0.plan.pp=2,8", "jobs.0.batching.policy=continuous,static",
                         "jobs.0.batching.batch_size=null,2"], tmp_path)  # fmt: skip
    kinds = Counter(outcome.failed for outcome in sweep.outcomes)
    assert kinds == {"invalid": 4, "infeasible": 2, None: 2}
    assert any("takes 8 GPUs, the cluster has 4" in (o.reason or "") for o in sweep.outcomes)
    assert any("batch_size belongs to policy static" in (o.reason or "") for o in sweep.outcomes)
    text = render_sweep(study_of(sweep))
    assert "6 failed" in text
    assert "infeasible: job job0: tp 1 x pp 8" in text
    assert len(list(csv.DictReader(csv_text(sweep).splitlines()))) == 8


def test_a_defect_spoils_its_point_only_and_is_tried_again(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = sweep_points.play

    def broken(resolved: Any, **how: Any) -> Any:
        if resolved.jobs[0].spec.load.closed_loop.clients == 4:
            raise ZeroDivisionError("by zero")
        return original(resolved, **how)

    with monkeypatch.context() as patch:
        patch.setattr(sweep_points, "play", broken)
        sweep = swept(file, AXES, tmp_path)
    assert [o.failed for o in sweep.outcomes] == [None, "internal error", None] * 2
    assert sweep.outcomes[1].reason == "ZeroDivisionError: by zero"
    again = swept(file, AXES, tmp_path)
    assert again.simulated == 2
    assert not any(o.failed for o in again.outcomes)


def test_a_worker_of_another_version_is_refused() -> None:
    with pytest.raises(RunError, match="a worker runs version"):
        sweep_points.answer_chunk("0.0.0.other", [])


# -- the journal --------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
import sim.cli
from sim.study import sweep_points
sim.cli.VERBS.setdefault("sweep", "")
marker, most, play = sys.argv[1], int(sys.argv[2]), sweep_points.play

def marked(resolved, **how):
    if most and os.path.exists(marker) and len(open(marker).readlines()) >= most:
        os.kill(os.getpid(), signal.SIGKILL)
    recording = play(resolved, **how)
    with open(marker, "a") as file:
        print(resolved.scenario.cluster.network.bandwidth, resolved.jobs[0].spec.load.closed_loop.clients, file=file)
    return recording

sweep_points.play = marked
sim.cli.main(["sweep", *sys.argv[3:]])
"""


def test_a_killed_sweep_goes_on_where_it_stopped(file: Path, tmp_path: Path) -> None:
    marker, out = tmp_path / "marker", tmp_path / "out"
    words = [str(file), "--vary", AXES[0], "--vary", AXES[1], "--out", str(out)]

    def start(most: int) -> int:
        return subprocess.run([sys.executable, "-c", KILLED, marker, str(most), *words],
                              capture_output=True, check=False).returncode  # fmt: skip

    assert start(3) == -signal.SIGKILL
    kept = (out / "points.jsonl").read_bytes()
    finished = kept.count(b"\n")
    assert 1 <= finished <= 3
    assert start(0) == 0
    played = Counter(marker.read_text().splitlines())
    assert len(played) == 6
    # What was on disk is not played again; what was in a worker's hands when it died is.
    assert sum(played.values()) == 6 + (3 - finished)
    journal = (out / "points.jsonl").read_bytes()
    assert journal.startswith(kept)
    keys = [json.loads(line)["key"] for line in journal.splitlines()]
    assert len(keys) == len(set(keys)) == 6
    assert (out / "points.csv").read_text() == csv_text(swept(file, AXES, tmp_path / "whole"))


def test_a_line_cut_short_is_dropped_and_a_damaged_one_ignored(file: Path, tmp_path: Path) -> None:
    whole = document_text(swept(file, AXES, tmp_path))
    path = tmp_path / "points.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"{broken}\n" + b"[]\n" + b"".join(lines[2:5]) + lines[5][: len(lines[5]) // 2])
    sweep = swept(file, AXES, tmp_path)
    assert (sweep.simulated, sweep.stored) == (2, 4)
    assert document_text(sweep) == whole
    assert swept(file, AXES, tmp_path).simulated == 0


def test_only_what_changed_is_simulated(file: Path, tmp_path: Path) -> None:
    assert swept(file, AXES, tmp_path).simulated == 6
    assert swept(file, [NETWORK, f"{CLIENTS}=1,4,12"], tmp_path).simulated == 2
    assert swept(file, AXES, tmp_path, seed=1).simulated == 6
    assert swept(file, AXES, tmp_path, overrides=["jobs.0.load.requests=31"]).simulated == 6


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with Journal(tmp_path / "points.jsonl"), pytest.raises(RunError, match="another sweep is writing here"):
        Journal(tmp_path / "points.jsonl")


def test_fresh_forgets(file: Path, tmp_path: Path) -> None:
    swept(file, AXES, tmp_path)
    with Journal(tmp_path / "points.jsonl", fresh=True) as journal:
        assert journal.answers == {}


# -- executors ----------------------------------------------------------------------------------------------


def written(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("points.csv", "sweep.json")}


@contextmanager
def dask_cluster() -> Iterator[str]:
    """A Dask scheduler with two worker processes; its address."""
    code = """
if __name__ == "__main__":
    import sys
    from distributed import LocalCluster
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "cluster.py"
        script.write_text(code)
        process = subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, text=True, cwd=folder)  # fmt: skip
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip().removeprefix("tcp://")
        finally:
            process.communicate(timeout=30)


WORDS = ["--vary", "jobs.0.plan.pp=2,8", "--vary", f"{CLIENTS}=1,4,9", "--vary", NETWORK, "--seeds", "2"]


def test_processes_give_the_bytes_of_serial(file: Path, tmp_path: Path) -> None:
    one = called(file, *WORDS, "--out", tmp_path / "one")
    two = called(file, *WORDS, "--out", tmp_path / "two", "-j", "2")
    assert (one.returncode, two.returncode) == (0, 0), two.stderr
    assert written(tmp_path / "one") == written(tmp_path / "two")


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="needs distributed (extra: cluster)")
def test_a_dask_cluster_gives_the_bytes_of_serial(file: Path, tmp_path: Path) -> None:
    one = called(file, *WORDS, "--out", tmp_path / "one")
    with dask_cluster() as address:
        two = called(file, *WORDS, "--out", tmp_path / "two", "--executor", f"dask://{address}")
    assert (one.returncode, two.returncode) == (0, 0), two.stderr
    assert written(tmp_path / "one") == written(tmp_path / "two")


def test_executors_that_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("threads", "dask://"):
        with pytest.raises(InputError, match="there are serial, processes and dask"), open_executor(name):
            pass
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'gpu-cluster-sim\[cluster\]'"), open_executor("dask://h:1"):
        pass


def test_a_lost_worker_says_how_to_go_on(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.study.sweep.answer_chunk", partial(_die))
    with pytest.raises(RunError, match="0 of 6 simulations are on disk"):
        swept(file, AXES, tmp_path, "processes")


def _die(*_: object) -> None:
    os._exit(9)


def test_points_can_be_pickled(file: Path) -> None:
    for tasks in prepare(file, vary=from_options(AXES)).tasks:
        assert pickle.loads(pickle.dumps(tasks)) == tasks


# -- the command line ---------------------------------------------------------------------------------------


def in_process(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> tuple[int, str]:
    monkeypatch.setitem(sim.cli.VERBS, "sweep", "")
    with pytest.raises(SystemExit) as ended:
        sim.cli.main(["sweep", *map(str, words)])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out + captured.err


def test_the_block_of_the_scenario(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(file.read_text() + f"sweep: {{grid: {{{CLIENTS}: [1, 4], cluster.network.bandwidth: [1Gbps]}}}}\n")
    table = tmp_path / "elsewhere.csv"
    code, text = in_process(capsys, monkeypatch, file, "--out", tmp_path / "o", "--csv", table)
    assert code == 0, text
    assert "test: 2 points (clients x bandwidth)" in text
    assert table.read_bytes() == (tmp_path / "o" / "points.csv").read_bytes()
    code, text = in_process(capsys, monkeypatch, file, "--out", tmp_path / "o", "--json", "--vary", f"{CLIENTS}=4,5,6")
    answer = json.loads(text)
    assert answer == json.loads((tmp_path / "o" / "sweep.json").read_text())
    assert [point["values"] for point in answer["points"]] == [{CLIENTS: n} for n in (4, 5, 6)]
    assert answer["sensitivity"]["output_tokens_per_s"][0]["axis"] == CLIENTS


@pytest.mark.parametrize(("words", "code", "message"), [
    (["--vary", "jobs.0.plan.pp=8,16"], 3, "2 failed"),
    (["--vary", "jobs.0.plan.pq=8"], 2, "unknown key"),
    (["--zip"], 2, "give some"),
    (["--vary", "seed=1", "--zip", "--samples", "3"], 2, "exclude each other"),
    (["--vary", "seed=1", "--executor", "fast"], 2, "unknown executor 'fast'"),
])  # fmt: skip
def test_exit_codes(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    words: list[str], code: int, message: str,
) -> None:  # fmt: skip
    found, text = in_process(capsys, monkeypatch, file, *words, "--out", tmp_path / "o")
    assert (found, message in text) == (code, True), text


def test_parquet(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [file, "--vary", f"{CLIENTS}=1,4", "--out", tmp_path / "o", "--parquet", tmp_path / "p.parquet"]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "polars", None)
        code, text = in_process(capsys, monkeypatch, *words)
    assert (code, "pip install 'gpu-cluster-sim[parquet]'" in text) == (2, True)
    assert not (tmp_path / "o").exists()
    polars = pytest.importorskip("polars", reason="needs polars (extra: parquet)")
    assert in_process(capsys, monkeypatch, *words)[0] == 0
    table = polars.read_parquet(tmp_path / "p.parquet")
    assert table[CLIENTS].to_list() == [1, 4]
    assert table["output_tokens_per_s"].null_count() == 0


def test_the_shipped_sweep_can_be_read() -> None:
    study = prepare(SCENARIOS / "sweep_home_network.yaml")
    assert len(study.design.points) == 12
    assert not study.refused


def test_a_sweep_without_costs_has_a_table_and_no_front(tmp_path: Path) -> None:
    path = tmp_path / "free.yaml"
    data = scenario(desktops(1, "rtx4090", "ethernet-10g"), {**JOB, "plan": {}}, model="llama-2-7b", name="free")
    path.write_text(yaml.safe_dump(data))
    sweep = swept(path, ["jobs.0.load.requests=5,10"], tmp_path)
    assert [o.failed for o in sweep.outcomes] == [None, None]
    assert document(sweep)["pareto"][0]["points"] == []
    assert "Pareto" not in render_sweep(study_of(sweep))
    assert "USD" not in render_sweep(study_of(sweep))
