"""Input from a stranger: nothing executes, nothing explodes, nothing leaves its folder, and every refusal is clear.

A command may answer (0), find the input wrong (2) or the configuration impossible (3). It may not show a
traceback or an internal error, hang, or take memory that the file's size does not explain.
"""

import contextlib
import gzip
import io
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.cli import main

ROOT = Path(__file__).parents[1]
SCENARIOS = sorted((ROOT / "scenarios").glob("*.yaml"))
TOPOLOGIES = sorted((ROOT / "topologies").glob("*.yaml"))

SCENARIO = """\
name: x
about: ABOUT
cluster: {topology: {name: desks, nodes: [{name: desk, count: 8, gpus: [{type: rtx4090}], nics: [{link: roce-25g}]}]}}
model: llama-2-70b
stack: vllm
jobs:
  - name: chat
    kind: serving
    plan: {pp: 8}
    load: {closed_loop: {clients: 4}, prompt_tokens: 16, output_tokens: 4, requests: 8}
cost: {capital: 20000 USD, electricity: 0.10 USD/kWh}
"""


def call(*args):
    """Exit code, standard output and standard error of a command run in this process (without progress lines)."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch("sim.cli.common.time", SimpleNamespace(monotonic=lambda: 0.0)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as left,
    ):
        main([str(arg) for arg in args])
    return left.value.code, out.getvalue(), err.getvalue()


def run(file, *args):
    return call("run", file, "--no-report", "--no-effects", *args)


@pytest.fixture
def write(tmp_path):
    """Writes a scenario (or a part of it replaced) and gives its path."""

    def put(content=SCENARIO, *changes, name="x.yaml"):
        for old, new in changes:
            assert content.count(old) == 1
            content = content.replace(old, new)
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return put


def refused(answer, words=""):
    """Whether the answer is one clear line on standard error."""
    code, out, err = answer
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.isprintable()
    assert "internal error" not in line
    assert words in line
    return line


def test_the_plain_scenario_runs(write):
    assert run(write())[0] == 0


# ---- YAML

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
FILES = {
    "empty": (b"", ":1:1: the file is empty"),
    "comment": (b"# nothing\n", ":1:1: the file is empty"),
    "a number": (b"42\n", "must be a mapping, not 42"),
    "a list": (b"[1, 2]\n", "must be a mapping, not a list"),
    "binary": (bytes(range(256)), "not UTF-8 text"),
    "an image": (b"\x89PNG\r\n\x1a\n" + bytes(64), "not UTF-8 text"),
    "latin-1": (b"name: caf\xe9\n", ":1:10: not UTF-8 text (byte 0xe9)"),
    "utf-16": ("name: x\n".encode("utf-16"), "not UTF-8 text"),
    "nul": (b"name: a\0b\n", "a NUL byte is not text"),
    "escape": (b"name: \x1b[31mred\n", "a control character (U+001B) is not text"),
    "compressed": (gzip.compress(SCENARIO.encode(), mtime=0), "not"),
    "python object": (b'name: !!python/object/apply:os.system ["touch hacked"]\n', "YAML tags such as !!python/object"),
    "python name": (b"name: !!python/name:os.system\n", "YAML tags such as !!python/name"),
    "own tag": (b"name: !include /etc/passwd\n", "YAML tags such as !include are not accepted"),
    "binary tag": (b"name: !!binary aGk=\n", "YAML tags such as !!binary are not accepted"),
    "set": (b"name: !!set {a, b}\n", "YAML tags such as !!set are not accepted"),
    "bomb": (BOMB.encode(), "over 100,000 values once its aliases are written out"),
    "merge bomb": (
        b"a: &a {k0: 1}\n" + b"".join(b"b%d: &a {<<: [%s]}\n" % (i, b", ".join([b"*a"] * 40)) for i in range(9)),
        "",
    ),
    "itself": (b"a: &a [*a]\n", "alias '*a' stands before the end of its anchor"),
    "no anchor": (b"a: *b\n", "alias '*b' stands before"),
    "deep lists": (b"a: " + b"[" * 10_000 + b"]" * 10_000, "nested more than 50 deep"),
    "deep mappings": (b"{a: " * 5_000, "nested more than 50 deep"),
    "deep blocks": (b"".join(b" " * i + b"a:\n" for i in range(500)), "nested more than 50 deep"),
    "many values": (b"a: [" + b"1," * 100_001 + b"]", "over 100,000 values"),
    "large": (b"a: " + b"x" * 6_000_000, "larger than 5 MB"),
    "long number": (b"seed: " + b"9" * 10_000, "a number of more than 300 characters"),
    "huge float": (b"seed: 1e999\n", "the number 1e999 is too large"),
    "two documents": (b"a: 1\n---\nb: 2\n", "only one YAML document per file"),
    "unclosed": (b"a: [1, 2\n", "not valid YAML"),
    "tabs": (b"a:\n\tb: 1\n", "not valid YAML"),
    "keys that are lists": (b"? [a, b]\n: 1\n", "a key must be text"),
    "keys that are numbers": (b"1: x\n", "a key must be text: put '1' in quotes"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_no_scenario_is_refused_in_one_line(write, kind, monkeypatch, tmp_path):
    content, words = FILES[kind]
    path = write(content)
    monkeypatch.chdir(tmp_path)
    assert refused(call("check", path), words).startswith(f"{path}:")
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("kind", FILES)
def test_a_topology_of_that_kind_is_refused_too(write, kind):
    content, words = FILES[kind]
    broken = write(content, name="t.yaml")
    scenario = write(re.sub(r"cluster: .*", "cluster: {topology: t.yaml}", SCENARIO))
    place = f"{scenario}:3:21: cluster.topology: " if kind == "large" else f"{broken}:"  # nothing of it was read
    assert refused(call("check", scenario), words).startswith(place)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/", "/nope/x.yaml", "", "x" * 5000])
def test_a_path_that_is_no_file(path):
    refused(call("check", path))


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin", "/", ".", "nope.yaml", "a\\0b", "x" * 390])
@pytest.mark.parametrize("key", ["model", "topology", "trace"])
def test_a_path_within_the_scenario_that_is_no_file(write, key, path):
    if key == "model":
        text = SCENARIO.replace("llama-2-70b", f'"./{path}"' if not path.startswith("/") else path)
    elif key == "topology":
        text = re.sub(r"topology: .*", f'topology: "{path}"}}', SCENARIO)
    else:
        text = re.sub(r"load: .*", f'load: {{trace: "{path}"}}', SCENARIO)
    refused(call("check", write(text)))


# ---- Numbers


LOADS = [
    "{poisson: {rate: 0 req/s}, LENGTHS}",
    "{poisson: {rate: -1 req/s}, LENGTHS}",
    "{poisson: {rate: .nan}, LENGTHS}",
    "{poisson: {rate: .inf}, LENGTHS}",
    "{poisson: {rate: 1e400 req/s}, LENGTHS}",
    "{poisson: {rate: 3}, LENGTHS}",
    "{gamma: {rate: 0 req/s, cv: 1}, LENGTHS}",
    "{gamma: {rate: 1 req/s, cv: 0}, LENGTHS}",
    "{gamma: {rate: 1 req/s, cv: .nan}, LENGTHS}",
    "{gamma: {rate: 1 req/s, cv: -1}, LENGTHS}",
    "{deterministic: {rate: 0 req/s}, LENGTHS}",
    "{diurnal: {peak: 0 req/s, valley: 0 req/s}, LENGTHS}",
    "{diurnal: {peak: 1 req/s, valley: 2 req/s}, LENGTHS}",
    "{diurnal: {peak: 1 req/s, valley: 0 req/s, period: 0 s}, LENGTHS}",
    "{closed_loop: {clients: 1000000000000}, LENGTHS}",
    "{closed_loop: {clients: 0}, LENGTHS}",
    "{closed_loop: {clients: 1, think_time: -1 s}, LENGTHS}",
    "{closed_loop: {clients: 1, ramp: 1e30 s}, LENGTHS}",
    "{all_at_once: false, LENGTHS}",
    "{all_at_once: true, prompt_tokens: 5, output_tokens: 5, requests: 1000000000}",
    "{all_at_once: true, prompt_tokens: 5, output_tokens: 5, requests: 0}",
    "{all_at_once: true, prompt_tokens: 0, output_tokens: 5, requests: 9}",
    "{all_at_once: true, prompt_tokens: 5, output_tokens: -5, requests: 9}",
    "{all_at_once: true, prompt_tokens: 1e30, output_tokens: 5, requests: 9}",
    "{all_at_once: true, prompt_tokens: {lognormal: {median: 9, p90: 3}}, output_tokens: 5, requests: 9}",
    "{all_at_once: true, prompt_tokens: {empirical: {values: [9]}}, output_tokens: 5, requests: 9}",
    "{all_at_once: true, prompt_tokens: {empirical: {values: [9, 3]}}, output_tokens: 5, requests: 9}",
    "{trace: {file: x.csv, time_scale: 0}}",
    "{trace: {file: x.csv, time_scale: .nan}}",
    "{trace: {file: x.csv, limit: 0}}",
]


@pytest.mark.parametrize("load", LOADS)
def test_a_load_that_cannot_be_is_refused(write, load):
    text = load.replace("LENGTHS", "prompt_tokens: 5, output_tokens: 5, requests: 9")
    path = write(re.sub(r"load: .*", f"load: {text}", SCENARIO))
    assert ": jobs.0.load" in refused(run(path))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("jobs.0.plan={tp: 1000000000000}", "less than or equal to 1000000"),
        ("jobs.0.plan={pp: 8, micro_batches: 1000000}", "less than or equal to 1024"),
        ("jobs.0.batching={max_sequences: 1000000000}", "less than or equal to 1000000"),
        ("jobs.0.batching={prefill_chunk: 0}", "greater than or equal to 1"),
        ("seed=99999999999999999999", "less than or equal to 9223372036854775807"),
        ("seed=.nan", "finite number"),
        ("cluster.network.bandwidth=0 Gbps", "greater than 0"),
        ("cluster.network.bandwidth=.inf", "not a rate"),
        ("cluster.network.latency=-1 s", "below zero"),
        ("cost.amortisation=0 s", "amortisation must be longer than 0"),
        ("cost.amortisation=.nan", "not a length of time"),
        ("cost.capital=-1 USD", "below zero"),
        ("cost.pue=.inf", "finite"),
        ("cost.pue=0.5", "greater than or equal to 1"),
        ("assume.gpu={flops: 0 TFLOPS}", "greater than 0"),
        ("assume.gpu={memory_bandwidth: 0 TB/s}", "greater than 0"),
        ("assume.parameters=.nan", "finite"),
        ("define.links={roce-25g: {like: roce-25g, bandwidth: 0 Gbps}}", "greater than 0"),
        ("define.links={roce-25g: {like: roce-25g, efficiency: 0}}", "greater than 0"),
        ("define.gpus={rtx4090: {like: rtx4090, memory_bandwidth: 0 GB/s}}", "greater than 0"),
        ("define.gpus={rtx4090: {like: rtx4090, flops: {fp16: 0 TFLOPS}}}", "greater than 0"),
        ("define.gpus={rtx4090: {like: rtx4090, kernels: {gemm_memory: 0}}}", "greater than 0"),
        ("define.gpus={rtx4090: {like: rtx4090, idle_power: 900 W}}", "idle_power is above tdp"),
        ("define.stacks={vllm: {like: vllm, compute_scale: 0}}", "greater than 0"),
        ("define.models={m: {like: llama-2-70b, layers: 1000000000}}", "less than or equal to 2000"),
        ("define.prices={p: {like: reference-rack, usd: -1}}", "greater than or equal to 0"),
    ],
)
def test_a_number_that_cannot_be_is_refused(write, setting, words):
    refused(run(write(), "--set", setting), words)


ZERO_LINK = (
    "{name: x, vertices: [{name: a, kind: gpu, gpu: rtx4090, node: n}, {name: b, kind: gpu, gpu: rtx4090, node: n}], "
    "edges: [{from: a, to: b, kind: pcie, bandwidth: 0 GB/s}]}"
)


@pytest.mark.parametrize(
    ("topology", "words"),
    [
        ("{name: x, nodes: [{name: a, count: 1000000000, gpus: [{type: rtx4090}]}]}", "less than or equal to 100000"),
        ("{name: x, nodes: [{name: a, gpus: [{type: rtx4090, count: 1000000000}]}]}", "less than or equal to 64"),
        (f"{{name: x, nodes: [{', '.join(['{name: a, gpus: [{type: rtx4090}]}'] * 300)}]}}", "at most 256"),
        (ZERO_LINK, "bandwidth: must be greater than 0"),
        ("{name: x, nodes: [{name: a, gpus: [{type: rtx4090}], host_memory: {bandwidth: 0 GB/s}}]}", "greater than 0"),
        ("{name: x, nodes: [{name: a, gpus: [{type: rtx4090}], staging: {efficiency: 0}}]}", "greater than 0"),
        ("{name: x, nodes: [{name: a, count: 2, gpus: [{type: rtx4090}], nics: [{link: ethernet-1g}]}], "
         "network: {switches: [{name: s, backplane: 0 Gbps}]}}", "greater than 0"),
        ("{name: x, nodes: []}", "either by nodes or by vertices"),
        ("{name: x, nodes: [{name: a, gpus: []}]}", "at least 1 item"),
    ],
)  # fmt: skip
def test_a_cluster_that_cannot_be_is_refused(write, topology, words):
    path = write(re.sub(r"cluster: .*", lambda _: f"cluster: {{topology: {topology}}}", SCENARIO))
    assert ": cluster.topology" in refused(call("check", path), words)


def test_a_plan_larger_than_any_cluster_is_impossible_not_fatal(write):
    code, out, err = call("check", write(), "--set", "jobs.0.plan={tp: 64, pp: 80, dp: 1000000}")
    assert (code, out) == (3, "")
    assert err == "job chat: tp 64 x pp 80 x dp 1000000 takes 5120000000 GPUs, the cluster has 8\n"


def test_the_largest_cluster_is_checked_in_little_memory(write):
    """100,000 nodes, 800,000 GPUs: a process of its own may take a gigabyte."""
    path = write(SCENARIO, ("count: 8, gpus: [{type: rtx4090}]", "count: 100000, gpus: [{type: rtx4090, count: 8}]"))

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    command = [sys.executable, "-m", "sim", "check", str(path), "--json"]
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, env=env, timeout=120, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    assert json.loads(found.stdout)["gpus"] == 800_000


# ---- Names

NAMES = [
    "../x", "a/b", "/etc/passwd", "..", ".", "", "-x", "<script>alert(1)</script>", "a b", "x" * 81, "é", "a\\nb",
    "a\\0b", "\\e[31m", "a\\u202eb", "CON:", "a\\\\b", "$(reboot)", "x\\n",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["name: x", "name: chat", "name: desks", "name: desk,"])
def test_a_name_that_could_do_harm_is_refused(write, where, name):
    path = write(SCENARIO, (where, where.replace(where.split(": ")[1].rstrip(","), f'"{name}"')))
    refused(run(path), "name: must match pattern")


@pytest.mark.parametrize("name", NAMES)
def test_the_same_as_a_key(write, name):
    text = f'define: {{gpus: {{"{name}": {{like: rtx4090}}}}}}\nmodel:'
    refused(call("check", write(SCENARIO, ("model:", text))))


def test_nothing_is_written_outside_the_folder_for_reports(write, tmp_path):
    out = tmp_path / "deep" / "out"
    code, _, _ = call("run", write(), "--no-effects", "--out", out, "--set", "name=../../escaped")
    assert code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.yaml"]


def test_text_that_reaches_an_error_cannot_steer_a_terminal(write):
    path = write(SCENARIO, ("kind: serving", r'kind: "a\e]0;owned\ab\nfake.yaml:1:1: all is well"'))
    line = refused(call("check", path), "jobs.0.kind: must be 'serving'")
    assert r"\x1b]0;owned\x07" in line


def test_an_unknown_key_with_terminal_codes(write):
    refused(call("check", write(SCENARIO + r'"\e[2J": 1' + "\n")), r"\x1b[2J: unknown key")


# ---- Markup

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>&amp;'\"{{7*7}}</title></style>"


def test_markup_in_prose_is_shown_as_text_in_the_page(write, tmp_path):
    path = write(SCENARIO, ("about: ABOUT", f"about: {json.dumps(MARKUP)}"))
    assert call("run", path, "--no-effects", "--out", tmp_path / "out")[0] == 0
    page = (tmp_path / "out" / "x" / "index.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=x onerror=alert(2)&gt;&amp;amp;" in page
    assert "<script>alert(1)" not in page
    assert "<img src=x" not in page
    assert "{{7*7}}" in page
    assert page.lower().count("</title>") == 1
    assert json.loads((tmp_path / "out" / "x" / "result.json").read_text())["about"] == MARKUP


def test_markup_in_sources_and_units_is_text_too(write, tmp_path):
    define = {"stacks": {"mine": {"like": "vllm", "version": MARKUP, "source": MARKUP}}}
    path = write(SCENARIO, ("stack: vllm", f"stack: mine\ndefine: {json.dumps(define)}"))
    assert call("run", path, "--no-effects", "--out", tmp_path / "out")[0] == 0
    page = (tmp_path / "out" / "x" / "index.html").read_text()
    assert "alert(1)" in page
    assert "<script>alert(1)" not in page
    assert "<img src=x" not in page


def test_control_characters_in_prose_do_not_reach_the_terminal(write):
    define = r'define: {stacks: {mine: {like: vllm, version: "\e[31mred", source: "\e[2J"}}}'
    path = write(SCENARIO, ("stack: vllm", f"stack: mine\n{define}"), ("about: ABOUT", r'about: "\e[2J"'))
    code, out, err = run(path)
    assert (code, err) == (0, "")
    assert "\x1b" not in out


# ---- Traces

HEAD = b"arrived_at,num_prefill_tokens,num_decode_tokens\n"
TRACES = {
    "empty": b"",
    "header": HEAD,
    "binary": bytes(range(256)) * 10,
    "words": b"it was a dark and stormy night\n",
    "negative": HEAD + b"0,-5,3\n",
    "no number": HEAD + b"0,five,3\n",
    "nan": HEAD + b"nan,5,3\n",
    "infinite": HEAD + b"inf,5,3\n",
    "huge": HEAD + b"0,99999999999999999999,3\n",
    "far future": HEAD + b"1e300,5,3\n",
    "fraction": HEAD + b"0,5.5,3\n",
    "short": HEAD + b"0,5\n",
    "zeros": HEAD + b"0,0,0\n",
    "compressed": gzip.compress(HEAD + b"0,5,3\n", mtime=0),
    "nul": HEAD + b"0,5,\0\n",
    "a long line": HEAD + b"0," + b"5" * 2_000_000 + b",3\n",
    "quote": HEAD + b'0,"5,3\n',
    "json": b'{"timestamp": 1, "input_length": [], "output_length": {}}\n',
    "broken json": b'{"timestamp": 1,\n',
    "deep json": b'{"timestamp": ' + b"[" * 50_000 + b"\n",
    "formula": HEAD + b"=cmd|'/c calc'!A1,5,3\n",
    "latin-1": HEAD + b"0,5,\xe9\n",
}


@pytest.mark.parametrize("kind", TRACES)
def test_a_trace_that_is_none_is_refused(write, kind, tmp_path):
    (tmp_path / "t.csv").write_bytes(TRACES[kind])
    path = write(re.sub(r"load: .*", "load: {trace: t.csv}", SCENARIO))
    code, out, err = run(path)
    assert (code, out) == (2, "")
    assert "internal error" not in err
    assert err.count("\n") <= 20
    for line in err.splitlines():
        assert line.isprintable()
        assert line.startswith((f"{tmp_path / 't.csv'}:", f"{path}:"))
        assert len(line) < 600


def test_a_trace_of_many_faults_stops_complaining(write, tmp_path):
    (tmp_path / "t.csv").write_bytes(HEAD + b"x,x,x\n" * 10_000)
    code, _, err = run(write(re.sub(r"load: .*", "load: {trace: t.csv}", SCENARIO)))
    assert code == 2
    assert err.count("\n") == 20


# ---- Anything

WORDS = [
    "0", "-1", "1e9", "1e300", ".nan", ".inf", "null", "true", "[]", "{}", '""', "~", "[1]", "{a: 1}", "x", "10 GB",
    "0 s", "1e-20", "&a", "*a", "!!int", "<<", "? ", "- ", '"', "'", "\t", "\n", "9" * 25, "5 req/s", "100%", "vllm",
    "rtx4090", "trace", "poisson", "fp8", "even", "...", "---", "é", "\u2028", "\\", ":", ",", "#", "{", "}", "[", "]",
]  # fmt: skip
TOKEN = re.compile(r"[A-Za-z0-9_.]+|[^\sA-Za-z0-9_.]|\s+")


@st.composite
def mutated(draw, files):
    """A shipped file with one to three of its words replaced, repeated, left out, swapped or bent."""
    words = TOKEN.findall(draw(st.sampled_from(files)).read_text().replace("../topologies", str(ROOT / "topologies")))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(words) - 1))
        change = draw(st.sampled_from(["replace", "insert", "drop", "swap", "copy", "bend"]))
        if change == "replace":
            words[place] = draw(st.sampled_from(WORDS))
        elif change == "insert":
            words.insert(place, draw(st.sampled_from(WORDS)))
        elif change == "drop" and len(words) > 1:
            del words[place]
        elif change in ("swap", "copy"):
            other = draw(st.integers(0, len(words) - 1))
            words[place], words[other] = words[other], words[place] if change == "swap" else words[other]
        elif change == "bend":
            cut = draw(st.integers(0, len(words[place])))
            words[place] = words[place][:cut] + draw(st.sampled_from("0123456789-.:,{}[]#ab")) + words[place][cut:]
    return "".join(words)


def assert_clear(code, out, err, *files):
    assert code in (0, 2, 3), err
    assert "internal error" not in err
    assert "Traceback" not in err
    assert (out == "") == (code != 0)
    assert (err == "") == (code == 0)
    if code == 2:
        for line in err.splitlines():
            assert line.isprintable()
            assert line.startswith(("--set ", *map(str, files), str(ROOT))), line


patient = [HealthCheck.too_slow, HealthCheck.data_too_large]
fuzz = settings(max_examples=120, deadline=None, suppress_health_check=patient)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bent")


@fuzz
@given(text=mutated(SCENARIOS))
def test_a_bent_scenario_gets_a_clear_answer(folder, text):
    (folder / "s.yaml").write_text(text)
    assert_clear(*call("check", folder / "s.yaml"), folder)


@fuzz
@given(text=mutated(TOPOLOGIES))
def test_a_bent_topology_gets_a_clear_answer(folder, text):
    (folder / "t.yaml").write_text(text)
    (folder / "s2.yaml").write_text(re.sub(r"cluster: .*", "cluster: {topology: t.yaml}", SCENARIO))
    assert_clear(*call("check", folder / "s2.yaml"), folder)


EXTREMES = {
    "jobs.0.load.closed_loop.clients": ["1", "2000"],
    "jobs.0.load.closed_loop.think_time": ["1 ns", "300000 years"],
    "jobs.0.load.closed_loop.ramp": ["1 ns", "300000 years"],
    "jobs.0.load.poisson": ["{rate: 1e15 req/s}", "{rate: 1e-30 req/s}"],
    "jobs.0.load.gamma": ["{rate: 1 req/s, cv: 100}", "{rate: 1 req/s, cv: 1e-9}"],
    "jobs.0.load.diurnal": ["{peak: 1e9 req/s, valley: 0 req/s, period: 1000 years, peak_at: 500 years}"],
    "jobs.0.load.prompt_tokens": ["1", "4092", "1e18", "{lognormal: {median: 1, p90: 1000000}}"],
    "jobs.0.load.output_tokens": ["1", "300"],
    "jobs.0.load.requests": ["1", "2"],
    "jobs.0.load.warm_up": ["0", "100%"],
    "jobs.0.plan.micro_batches": ["1", "64"],
    "jobs.0.plan.layers": ["balanced", "[73, 1, 1, 1, 1, 1, 1, 1]"],
    "jobs.0.batching": ["{max_sequences: 1}", "{max_batched_tokens: 1}", "{policy: static, batch_size: 1000000}"],
    "jobs.0.precision": ["{weights: int4, kv: int8}", "{weights: fp4}"],
    "jobs.0.objectives": ["{ttft_p50: 0 s, tpot_p99: 0 s}"],
    "cluster.network.bandwidth": ["1e-20 bps", "1e9 TB/s"],
    "cluster.network.latency": ["0", "300000 years"],
    "cost.capital": ["0 USD", "1e15 USD"],
    "cost.amortisation": ["1e-20 s"],
    "cost.electricity": ["0", "1e9 USD/kWh"],
    "assume.gpu": ["{flops: 1e-20 FLOPS}", "{memory_bandwidth: 1e-20 B/s}", "{flops: 1e27 FLOPS}"],
    "assume.kv_capacity": ["unchecked"],
    "assume.parameters": ["1000001", "1e14"],
    "assume.tp_latency": ["1 year"],
    "stack": ["ideal", "llama.cpp"],
    "seed": ["9223372036854775807"],
}


@settings(max_examples=60, deadline=None, suppress_health_check=patient)
@given(chosen=st.dictionaries(st.sampled_from(sorted(EXTREMES)), st.integers(0, 3), max_size=4))
def test_extreme_values_run_or_are_refused(folder, chosen):
    """Values at the edge of what is accepted, up to four at once: an answer in finite numbers, or a clear refusal."""
    (folder / "e.yaml").write_text(SCENARIO)
    sets = [f"--set={path}={EXTREMES[path][i % len(EXTREMES[path])]}" for path, i in chosen.items()]
    code, out, err = run(folder / "e.yaml", "--json", *sets)
    assert_clear(code, out, err, folder)
    if code == 0:
        text = out.replace('"', " ")
        assert "NaN" not in text
        assert "Infinity" not in text
        json.loads(out)
