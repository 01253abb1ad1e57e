"""``sim init --from-vllm``: a scenario that checks, from the arguments of an engine; nothing where it cannot be."""

import io

import pytest

COMMAND = (
    "vllm serve meta-llama/Llama-3.1-70B-Instruct --tensor-parallel-size 8 --max-num-seqs 256 --max-num-batched-tokens "
    "8192 --enable-chunked-prefill --gpu-memory-utilization 0.92 --kv-cache-dtype fp8 --quantization awq "
    "--enable-prefix-caching --max-model-len 8192 --block-size 32 --swap-space 4 --port 8000"
)
GUESSES = """ --speculative-config '{"model": "meta-llama/Llama-3.2-1B", "num_speculative_tokens": 4}'"""


@pytest.mark.parametrize(
    "words",
    [
        COMMAND,
        COMMAND + GUESSES,
        "vllm serve meta-llama/Llama-3.1-8B --enable-lora --max-loras 8 --max-cpu-loras 64 --max-num-seqs 8 -dp 4",
        "vllm serve meta-llama/Llama-3.1-8B --max-model-len 100",
        "vllm serve Qwen/Qwen2.5-72B-Instruct-GPTQ-Int4 -tp 2 -pp 4 --no-enable-chunked-prefill --preemption-mode swap",
        "vllm serve meta-llama/Llama-3.1-8B --kv-offloading-size 64",
    ],
)
def test_what_is_written_checks_and_runs(sim, tmp_path, words):
    answer = sim("init", "mine", "--from-vllm", words, "--topology", "dgx_h100_8", "--to", tmp_path)
    assert (answer.code, answer.err) == (0, "")
    scenario = tmp_path / "scenarios" / "mine.yaml"
    assert answer.out.splitlines()[0] == f"wrote {scenario}"
    assert answer.out.splitlines()[-1] == f"next: sim check {scenario}"
    assert (tmp_path / "topologies" / "dgx_h100_8.yaml").is_file()
    assert sim("check", scenario).code == 0
    assert sim("run", scenario, "--no-report", "--no-effects", "--set=jobs.0.load.requests=20").code == 0


@pytest.mark.parametrize(("topology", "expected"), [("dgx_h100_8", (1024, 8192)), ("dgx_a100_8", (256, 2048))])
def test_limits_are_those_that_vllm_takes_on_the_gpus_of_the_cluster(sim, tmp_path, topology, expected):
    words = "vllm serve meta-llama/Llama-3.1-70B-Instruct -tp 8"
    assert sim("init", "mine", "--from-vllm", words, "--topology", topology, "--to", tmp_path).code == 0
    text = (tmp_path / "scenarios" / "mine.yaml").read_text()
    sequences, tokens = expected
    assert f"max_batched_tokens: {tokens}, max_sequences: {sequences}, prefix_caching: true" in text
    assert "# - --max-num-seqs not given: vLLM's default on " in text


def test_what_is_not_mapped_is_said(sim, tmp_path):
    answer = sim("init", "--from-vllm", COMMAND, "--topology", "dgx_h100_8", "--to", tmp_path)
    left = [line for line in answer.out.splitlines() if line.startswith("not mapped")]
    assert left == [
        "not mapped  --swap-space 4: used with preemption-mode swap only; host memory is the topology's",
        "not mapped  --port 8000: the HTTP server",
    ]
    assert (tmp_path / "scenarios" / "vllm-llama-3.1-70b.yaml").is_file()


def test_a_topology_file_is_named_from_where_the_scenario_lies(sim, tmp_path, monkeypatch):
    sim("init", "h100_tp8", "--to", tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    options = ("--topology", "other/topologies/dgx_h100_8.yaml", "--to", "here")
    assert sim("init", "mine", "--from-vllm", COMMAND, *options).code == 0
    text = (tmp_path / "here" / "scenarios" / "mine.yaml").read_text()
    assert "cluster: {topology: ../../other/topologies/dgx_h100_8.yaml}" in text
    assert not (tmp_path / "here" / "topologies").exists()
    assert sim("check", "here/scenarios/mine.yaml").code == 0


def test_a_command_may_come_from_a_pipe(sim, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(COMMAND.encode())))
    assert sim("init", "--from-vllm", "-", "--topology", "dgx_h100_8", "--to", tmp_path).code == 0
    assert "(standard input)" in (tmp_path / "scenarios" / "vllm-llama-3.1-70b.yaml").read_text()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--from-vllm", COMMAND), 2, "add --topology (sim init --list has some)"),
        (("--from-vllm", COMMAND, "--topology", "dgx_h100"), 2, "nor a shipped topology, did you mean 'dgx_h100_8'?"),
        (("--from-vllm", COMMAND + " --max-num-seq 3", "--topology", "dgx_h100_8"), 2, "mean '--max-num-seqs'?"),
        (("--from-vllm", COMMAND, "--topology", "desktop_1x4090"), 3, "the cluster has 1"),
        (("--from-vllm", "vllm serve meta-llama/Llama-3.1-405B", "--topology", "dgx_h100_8"), 3, "does not fit"),
        (("--from-vllm", COMMAND, "--topology", "dgx_h100_8", "--list"), 2, "leave --list out"),
        (("--from-vllm", COMMAND, "--from-topo", "x"), 2, "leave --from-topo out"),
        (("--topology", "dgx_h100_8"), 2, "which is not given"),
        (("a b", "--from-vllm", COMMAND, "--topology", "dgx_h100_8"), 2, "NAME 'a b' must be letters"),
    ],
)
def test_nothing_is_written_of_what_cannot_be(sim, tmp_path, options, code, said):
    answer = sim("init", *options, "--to", tmp_path)
    assert (answer.code, answer.out) == (code, "")
    assert said in answer.err
    assert list(tmp_path.iterdir()) == []
