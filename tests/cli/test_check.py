"""``sim check``: what fits and what does not, without simulating."""

import re

import pytest


def test_every_shipped_scenario_fits(sim, shipped):
    scenarios = sorted(shipped.glob("*.yaml"))
    assert len(scenarios) >= 12
    for scenario in scenarios:
        answer = sim("check", scenario)
        assert (answer.code, answer.err) == (0, ""), scenario.name
        assert answer.out.splitlines()[0].startswith(f"{scenario.stem} - ")
        assert answer.out.splitlines()[-1] == "fits        yes"


def test_nothing_is_simulated_or_written(desk, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def play(*args, **kwargs):
        raise AssertionError("simulated")

    monkeypatch.setattr("sim.jobs.play.play", play)
    before = sorted(tmp_path.rglob("*"))
    assert desk.check().code == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_json_holds_memory_routes_and_plan(desk):
    answer = desk.check("--json").json
    assert answer["feasible"] is True
    assert (answer["scenario"], answer["gpus"]) == ("small", 8)
    (job,) = answer["jobs"]
    assert (job["model"], job["stack"], job["tp"], job["pp"], job["dp"]) == ("llama-2-70b", "vllm", 1, 8, 1)
    assert [stage["stage"] for stage in job["memory"]] == list(range(8))
    assert sum(stage["layers"] for stage in job["memory"]) == 80
    for stage in job["memory"]:
        assert sum(stage["parts"].values()) == pytest.approx(stage["capacity_bytes"])
    (route,) = job["routes"]
    assert "ethernet, 1.17 GB/s" in route["way"]


def test_idle_gpus_are_told(desk):
    assert desk.check("--json").json["idle_gpus"] == 0
    half = ("--set", "jobs.0.plan.pp=4", "--set", "jobs.0.precision.weights=int4")
    assert desk.check(*half, "--json").json["idle_gpus"] == 4
    assert "\nidle        4 of the 8 GPUs have no job; all of them are paid for\n" in desk.check(*half).out
    assert "idle  " not in desk.check().out


def test_the_text_shows_what_the_json_holds(desk):
    text, answer = desk.check().out, desk.check("--json").json
    tokens = answer["jobs"][0]["kv_tokens_per_replica"]
    assert f"KV cache    {tokens:,} tokens a replica, {tokens // 4096} requests" in text
    assert "stage 0 to stage 1: ethernet" in text


def test_tokens_of_kv_cache_add_up(desk):
    """Two tensors of 80 layers x 8 KV heads x 128 x 2 bytes over eight stages: 40,960 bytes a token and stage."""
    (job,) = desk.check("--json").json["jobs"]
    fullest = min(job["memory"], key=lambda stage: stage["parts"]["unused"])
    assert fullest["parts"]["KV cache"] == pytest.approx(40_960 * job["kv_tokens_per_replica"], rel=1e-3)


def test_without_a_cache_no_tokens_are_held(desk):
    answer = desk.check("--set", "jobs.0.batching.kv_cache=off")
    assert "\nKV cache    none (batching.kv_cache): nothing is held between passes" in answer.out
    assert "fp16 weights, no KV, tp 1 pp 8" in answer.out
    (job,) = desk.check("--json", "--set", "jobs.0.batching.kv_cache=off").json["jobs"]
    assert (job["kv_cache"], job["kv_tokens_per_replica"]) == (False, 0)
    assert {stage["parts"]["KV cache"] for stage in job["memory"]} == {0.0}


def test_assumptions_are_in_sight(desk):
    assert "assumed" not in desk.check().out
    answer = desk.check("--set", "assume.kv_capacity=unchecked", "--set", "assume.parameters=70e9")
    assert "assumed     kv_capacity: unchecked" in answer.out
    assert "assumed     parameters: 70000000000.0" in answer.out
    assert "not checked in the run" in answer.out


def test_failures_and_checkpoints_are_told_without_a_step(sim, shipped):
    lines = sim("check", shipped / "llama3_405b_54_days.yaml").out.splitlines()
    assert "failures    one stop every 2.78 h expected" in lines
    assert any(line.startswith("checkpoint  5.68 TB, standing still for 5 s, then written in ") for line in lines)
    (job,) = sim("check", shipped / "llama3_405b_54_days.yaml", "--json").json["jobs"]
    assert job["reliability"]["mtbf_s"] == pytest.approx(54 * 86_400 / 466, rel=0.001)


def test_two_jobs_share_the_cluster(sim, shipped):
    answer = sim("check", shipped / "two_jobs_one_switch.yaml", "--json").json
    gpus = [{gpu for stage in job["memory"] for gpu in stage["gpus"]} for job in answer["jobs"]]
    assert gpus == [{0, 4, 1, 5}, {2, 6, 3, 7}]


@pytest.mark.parametrize(
    ("plan", "complaint"),
    [
        ("{tp: 3}", "job chat: tp 3 does not divide the 64 attention heads of llama-2-70b; the nearest that does is 2"),
        ("{tp: 7}", "job chat: tp 7 does not divide the 64 attention heads of llama-2-70b; the nearest that does is 8"),
        ("{pp: 100}", "job chat: tp 1 x pp 100 x dp 1 takes 100 GPUs, the cluster has 8"),
        ("{pp: 8, dp: 2}", "job chat: tp 1 x pp 8 x dp 2 takes 16 GPUs, the cluster has 8"),
        (
            "{pp: 8, placement: [0, 1, 2, 3, 4, 5, 6, 8]}",
            "job chat: placement names GPU 8, the cluster has GPUs 0 to 7",
        ),
        (
            "{pp: 8, layers: [10, 10, 10, 10, 10, 10, 10, 9]}",
            "job chat: the stages hold 79 layers together, llama-2-70b has 80",
        ),
    ],
)
def test_a_plan_that_cannot_be_is_code_3_in_one_line(desk, plan, complaint):
    desk.edit("plan: {pp: 8}", f"plan: {plan}")
    answer = desk.check()
    assert (answer.code, answer.out, answer.complaints) == (3, "", [complaint])
    assert desk.run()[0] == 3


def test_more_stages_than_layers(desk):
    desk.edit("count: 8", "count: 100", desk.topology)
    desk.edit("plan: {pp: 8}", "plan: {pp: 81}")
    assert desk.check().complaints == ["job chat: pp 81 is more stages than the 80 layers of llama-2-70b"]


def test_two_jobs_on_one_gpu(sim, shipped):
    place = "--set=jobs.1.plan.placement=[2, 6, 3, 0]"
    answer = sim("check", shipped / "two_jobs_one_switch.yaml", place)
    assert (answer.code, answer.complaints) == (3, ["job right: GPU 0 already belongs to another job"])


def test_a_model_that_does_not_fit_shows_the_budget(desk):
    desk.edit("plan: {pp: 8}", "plan: {pp: 4}")
    for answer in (desk.check(), desk.check("--json"), desk.run()):
        assert (answer.code, answer.out) == (3, "")
        first, header, *rows = answer.complaints
        assert first.startswith("job chat: llama-2-70b with fp16 weights does not fit: a GPU needs 36 GB")
        columns = ["stage", "gpu", "layers", "capacity", "weights", "embeddings", "runtime", "kept back", "left for KV"]
        assert re.split("  +", header.strip()) == columns
        assert len(rows) == 4
        assert all(row.split()[:3] == [str(i), "rtx4090", "20"] for i, row in enumerate(rows))
        assert all(" -1" in row for row in rows), "what is missing is negative"


def test_fewer_bytes_a_weight_make_it_fit(desk):
    desk.edit("plan: {pp: 8}", "plan: {pp: 4}")
    desk.edit("{weights: fp16, kv: fp16}", "{weights: int4, kv: fp16}")
    assert desk.check().code == 0


def test_a_request_longer_than_the_context_is_code_3(desk):
    desk.edit("prompt_tokens: 64", "prompt_tokens: 4090")
    for answer in (desk.check(), desk.run()):
        complaint = "job chat: the shortest request has 4098 tokens, llama-2-70b reads at most 4096"
        assert (answer.code, answer.out, answer.complaints) == (3, "", [complaint])
    desk.edit("output_tokens: 8", "output_tokens: 6")
    assert desk.check().code == 0


def test_a_request_larger_than_the_cache_is_code_3(desk):
    desk.edit("plan: {pp: 8}", "plan: {pp: 1}")
    desk.edit("model: llama-2-70b", "model: llama-2-13b")
    desk.edit("{weights: fp16, kv: fp16}", "{weights: int8, kv: fp16}")
    answer = desk.check("--set", "define.gpus={rtx4090: {like: rtx4090, usable_memory: 17.5 GB}}")
    assert answer.code == 0
    tokens = desk.check("--json", "--set", "define.gpus={rtx4090: {like: rtx4090, usable_memory: 17.5 GB}}").json
    room = tokens["jobs"][0]["kv_tokens_per_replica"]
    assert room < 4096
    answer = desk.check(
        "--set", "define.gpus={rtx4090: {like: rtx4090, usable_memory: 17.5 GB}}",
        "--set", f"jobs.0.load.prompt_tokens={room}",
    )  # fmt: skip
    assert answer.code == 3
    assert answer.complaints[0] == (
        f"job chat: the shortest request has {room + 8} tokens, the KV cache of a replica holds {room}"
    )


def test_stacks_that_measure_links_differently_cannot_share_a_cluster(sim, shipped):
    answer = sim("check", shipped / "two_jobs_one_switch.yaml", "--set", "jobs.0.stack=ideal")
    assert (answer.code, len(answer.complaints)) == (3, 1)


@pytest.mark.parametrize(("kept", "told"), [
    ("{to: nvme, capacity: 1 GB}", "has no nvme"),
    ("{to: host, capacity: 600 GB}", "2.4 TB on a node, whose memory holds 2 TB"),
])  # fmt: skip
def test_stores_that_nodes_have_no_room_for_do_not_fit(sim, shipped, kept, told):
    answer = sim("check", shipped / "h100_conversations.yaml", "--set", f"jobs.0.batching.kv_offload={kept}")
    assert answer.code == 3
    assert told in answer.err
