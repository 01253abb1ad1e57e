"""Errors say where, what and what instead; each kind has its exit code and can be pickled."""

import pickle

import pytest

from sim.errors import InfeasibleError, InputError, ObjectiveMissed, Problem, RunError, SimError, did_you_mean


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("s.yaml", 3, 7, "a.b", "is odd", "pp"), "s.yaml:3:7: a.b: is odd, did you mean 'pp'?"),
        (Problem("s.yaml", 3, None, None, "is odd"), "s.yaml:3: is odd"),
        (Problem("s.yaml", None, None, "a.b", "is odd"), "s.yaml: a.b: is odd"),
        (Problem("--set a=1", None, None, "a", "is odd"), "--set a=1: a: is odd"),
        (Problem(None, None, None, None, "is odd"), "is odd"),
        (Problem(None, 3, 4, None, "is odd"), "3:4: is odd"),
    ],
)
def test_a_problem_leaves_out_what_is_unknown(problem, text):
    assert str(problem) == text


def test_exit_codes():
    codes = {RunError: 1, InputError: 2, InfeasibleError: 3, ObjectiveMissed: 4}
    assert {kind: kind.exit_code for kind in codes} == codes
    assert all(issubclass(kind, SimError) for kind in codes)


def test_an_input_error_has_one_line_per_problem():
    problems = [Problem("s.yaml", n, 1, None, "is odd") for n in (1, 2)]
    error = InputError(problems)
    assert error.problems == tuple(problems)
    assert str(error) == "s.yaml:1:1: is odd\ns.yaml:2:1: is odd"


def test_an_infeasible_configuration_shows_its_budget_aligned():
    error = InfeasibleError("does not fit", [("weights", "140 GB"), ("KV", "9 GB")], header=("part", "size"))
    assert str(error).splitlines() == [
        "does not fit",
        "  part       size",
        "  weights  140 GB",
        "  KV         9 GB",
    ]
    assert str(InfeasibleError("does not fit")) == "does not fit"
    assert str(InfeasibleError("x", [("a",), ("b", "1", "2")])).splitlines()[1:] == ["  a", "  b  1  2"]


@pytest.mark.parametrize(
    "error",
    [
        InputError([Problem("s.yaml", 1, 2, "a", "is odd", "b")]),
        InfeasibleError("does not fit", [("weights", "140 GB")], ("part", "size")),
        RunError("deadlock"),
        ObjectiveMissed("ttft_p99 12 s > 10 s"),
    ],
)
def test_errors_come_back_from_worker_processes_unchanged(error):
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


@pytest.mark.parametrize(
    ("word", "candidates", "meant"),
    [
        ("RTX 4090", ["rtx3090", "rtx4090"], "rtx4090"),
        ("rtx_4090", ["rtx4090d", "rtx4090"], "rtx4090"),
        ("NVIDIA GeForce RTX 4090", ["h100-sxm", "rtx4090"], "rtx4090"),
        ("h100", ["a100-sxm-80gb", "h100-sxm"], "h100-sxm"),
        ("llama2 70b", ["llama-2-7b", "llama-2-70b"], "llama-2-70b"),
        ("clientz", ["clients", "cluster"], "clients"),
        ("ppp", ["pp", "tp", "dp"], "pp"),
        ("GX", ["kB", "GB"], "GB"),
        ("PP", ["pp"], "pp"),
        ("pp", ["PP", "pp"], "pp"),
        ("zzz", ["pp", "tp"], None),
        ("batching", ["seed", "cost"], None),
        ("", ["pp"], None),
        ("anything", [], None),
        ("x" * 100_000, ["xx"], None),
    ],
)
def test_did_you_mean(word, candidates, meant):
    assert did_you_mean(word, candidates) == meant
