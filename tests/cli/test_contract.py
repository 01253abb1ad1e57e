"""The JSON document's keys are a contract: other programs read them by these names."""

import math

import pytest

from sim.results.schema import SCHEMA_VERSION, Result

SPREAD = {"mean", "p50", "p90", "p99"}
METRICS = {
    "output_tokens_per_s", "total_tokens_per_s", "requests_per_s", "completed_requests", "ttft_s", "tpot_s",
    "latency_s", "queue_s", "batch_size_mean", "kv_occupancy_mean", "utilisation_mean", "slo_attainment",
}  # fmt: skip
TOP = {
    "schema_version", "scenario", "version", "seed", "resolved_scenario", "verdict", "jobs", "metrics", "cost",
    "memory", "ledger", "gpus", "simulated_s", "events", "devices", "links", "timeline", "topology", "intervals",
    "assumptions", "run_info",
}  # fmt: skip


@pytest.fixture(scope="module")
def document(flagship):
    return flagship.document


def test_the_top_level(document):
    assert document.keys() >= TOP
    assert document["schema_version"] == SCHEMA_VERSION == 1
    assert document["scenario"] == "4090_pp_home"
    assert document["seed"] == 0
    assert isinstance(document["gpus"], int)
    assert document["gpus"] == 8
    assert document["simulated_s"] > 0
    assert isinstance(document["events"], int)
    assert document["events"] > 0


def test_the_verdict(document):
    verdict = document["verdict"]
    assert verdict.keys() >= {"state", "bottleneck", "not_binding"}
    assert verdict["state"] in ("stable", "saturated", "overloaded")
    assert verdict["bottleneck"]
    assert isinstance(verdict["not_binding"], list)
    assert verdict["effects"], "the re-runs that find what binds"


def test_a_job(document):
    (job,) = document["jobs"]
    assert job.keys() >= {"name", "kind", "metrics", "cost"}
    assert (job["name"], job["kind"]) == ("chat", "serving")


def test_metrics_of_a_single_job_stand_at_the_top_too(document):
    assert document["metrics"] == document["jobs"][0]["metrics"]
    assert document["cost"] == document["jobs"][0]["cost"]


def test_metrics(document):
    metrics = document["metrics"]
    assert metrics.keys() >= METRICS
    for name in ("ttft_s", "tpot_s", "latency_s", "queue_s"):
        assert set(metrics[name]) == SPREAD
        values = [metrics[name][p] for p in ("p50", "p90", "p99")]
        assert values == sorted(values)
        assert all(value >= 0 for value in values)
    assert metrics["completed_requests"] == 30
    assert metrics["total_tokens_per_s"] == pytest.approx(5 * metrics["output_tokens_per_s"], rel=0.3)  # 64 in, 16 out
    for name in ("kv_occupancy_mean", "utilisation_mean", "slo_attainment"):
        assert 0 <= metrics[name] <= 1
    assert 0 < metrics["batch_size_mean"] <= 6


def test_cost(document):
    cost = document["cost"]
    assert cost.keys() >= {"usd_per_hour", "usd_per_million_tokens", "tokens_per_usd"}
    assert cost["usd_per_million_tokens"] * cost["tokens_per_usd"] == pytest.approx(1e6)
    hourly = cost["usd_per_million_tokens"] * document["metrics"]["output_tokens_per_s"] * 3600 / 1e6
    assert hourly == pytest.approx(cost["usd_per_hour"])


def test_no_point_is_beyond_what_a_figure_draws(document):
    timeline = document["timeline"]
    traces = [*timeline["devices"].values(), *timeline["links"].values()]
    traces += [values for job in timeline["jobs"].values() for values in job.values()]
    assert traces
    assert all(len(values) <= 2000 for values in traces)
    assert len(timeline["spans"]) <= 2000
    points = [points for job in document["jobs"] for points in job["cdf"].values()]
    assert all(len(values) <= 2000 for values in points)


def test_every_gpu_second_is_in_one_bucket(document):
    assert sum(document["ledger"].values()) == pytest.approx(document["gpus"] * document["simulated_s"])
    assert sum(device["count"] for device in document["devices"]) == document["gpus"]


def test_memory_and_links(document):
    for stage in document["memory"]:
        assert sum(stage["parts"].values()) == pytest.approx(stage["capacity_bytes"])
    assert any(link["kind"] == "ethernet" and link["bytes"] > 0 for link in document["links"])
    assert {"nodes", "edges"} <= document["topology"].keys()


def test_assumptions_carry_value_origin_and_source(document):
    names = {row["name"] for row in document["assumptions"]}
    assert {"rtx4090: memory bandwidth", "rtx4090: kernel constants"} <= names
    assert all(row["value"] and row["origin"] and row["source"] for row in document["assumptions"])


def test_intervals_name_metrics_that_exist(document):
    assert document["intervals"]
    for path, (low, high) in document["intervals"].items():
        value = document
        for step in path.split("."):
            value = value[int(step)] if isinstance(value, list) else value[step]
        assert low <= high
        assert not math.isnan(low)
        assert isinstance(value, float | int)


def test_every_metric_has_a_definition(document):
    numbers = METRICS | {"usd_per_hour", "usd_per_million_tokens", "tokens_per_usd"}
    assert numbers <= document["definitions"].keys()
    buckets = {name.split(":")[0] for name in document["ledger"]}  # communication: by kind of link
    assert buckets <= document["definitions"].keys()


def test_the_document_reads_back_as_a_result(document):
    assert Result.model_validate(document).model_dump(mode="json") == document


def test_the_resolved_scenario_is_in_si(document):
    job = document["resolved_scenario"]["jobs"][0]
    assert job["objectives"] == {"ttft_p99": 60.0, "tpot_p99": 0.25}
    assert document["resolved_scenario"]["resolved"]["gpus"]["rtx4090"]["memory_bandwidth"] == 1008e9


def test_two_jobs_have_no_metrics_in_common(sim, shipped):
    small = "{closed_loop: {clients: 3}, prompt_tokens: 32, output_tokens: 4, requests: 6}"
    sets = [f"--set=jobs.{i}.load={small}" for i in (0, 1)]
    answer = sim("run", shipped / "two_jobs_one_switch.yaml", "--no-report", "--no-effects", "--json", *sets)
    assert (answer.code, answer.err) == (0, "")
    document = answer.json
    assert document["metrics"] is None
    assert document["cost"] is None
    assert [job["name"] for job in document["jobs"]] == ["left", "right"]
    assert all(job["metrics"].keys() >= METRICS and job["cost"]["usd_per_hour"] > 0 for job in document["jobs"])
    assert not any(path.startswith("metrics.") for path in document["intervals"])
    assert document["gpus"] == 8


def test_without_prices_there_is_no_cost(desk):
    desk.edit("cost:\n  capital: 20000 USD\n  electricity: 0.10 USD/kWh\n", "")
    document = desk.run("--json").json
    assert document["cost"] is None
    assert document["jobs"][0]["cost"] is None
