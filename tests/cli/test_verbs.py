"""Help, versions, words that are not commands, and what the outermost layer does with every kind of failure."""

import os
import subprocess
import sys

import click
import pytest

from sim import __version__
from sim.cli import VERBS


def python(*args, **env):
    """A fresh interpreter, so that nothing is imported yet."""
    return subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, timeout=120, env={**os.environ, **env}, check=False
    )


def test_help_lists_every_verb(sim):
    for flag in ("--help", "-h"):
        answer = sim(flag)
        assert (answer.code, answer.err) == (0, "")
        for verb in VERBS:
            assert f"\n  {verb} " in answer.out


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself(sim, verb):
    answer = sim(verb, "--help")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"Usage: sim {verb} ")
    assert "--json" in answer.out or verb in ("schema", "init")


def test_version(sim):
    assert sim("--version").out == f"sim, version {__version__}\n"


@pytest.mark.parametrize(
    ("word", "meant"), [("runn", "run"), ("chekc", "check"), ("Run", "run"), ("catalogue", "catalog")]
)
def test_a_mistyped_verb_is_answered_with_the_nearest(sim, word, meant):
    answer = sim(word, "x.yaml")
    assert (answer.code, answer.out) == (2, "")
    assert answer.complaints[-1] == f"Error: no such command '{word}', did you mean '{meant}'?"


def test_a_word_like_no_verb_is_answered_with_all(sim):
    answer = sim("qqq")
    assert answer.code == 2
    assert all(verb in answer.complaints[-1] for verb in VERBS)


def test_a_mistyped_option_is_answered_with_the_nearest(sim):
    answer = sim("run", "x.yaml", "--no-reprot")
    assert (answer.code, answer.out) == (2, "")
    assert "--no-reprot" in answer.complaints[-1]
    assert "--no-report" in answer.complaints[-1]


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("run",), "SCENARIO"),
        (("run", "a", "b"), "b"),
        (("run", "a", "--seeds", "0"), "--seeds"),
        (("run", "a", "--seed", "-1"), "--seed"),
        (("run", "a", "--seed", "x"), "--seed"),
        (("run", "a", "-j", "0"), "--jobs"),
        (("run", "a", "--fail-on", "rain"), "--fail-on"),
        (("run", "a", "--detail", "much"), "--detail"),
        (("check", "a", "--set"), "--set"),
        (("schema", "song"), "song"),
    ],
)
def test_a_bad_argument_is_named(sim, args, named):
    answer = sim(*args)
    assert (answer.code, answer.out) == (2, "")
    assert named in answer.complaints[-1]


def test_without_a_verb_the_help_is_shown_and_the_code_says_so(sim):
    answer = sim()
    assert answer.code == 2
    assert "Commands:" in answer.err


# ---- A process of its own


def test_python_m_sim_is_the_same_command(shipped):
    found = python("-m", "sim", "check", str(shipped / "h100_tp8.yaml"))
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.endswith("fits        yes\n")


def test_help_imports_nothing_heavy():
    code = "import sim.cli, sys; print([m for m in sys.modules if m.split('.')[0] in %r])"
    heavy = ("numpy", "networkx", "plotly", "pydantic", "yaml", "rich", "jinja2", "simpy")
    assert python("-c", code % (heavy,)).stdout.strip() == "[]"


def test_check_imports_neither_arrays_nor_figures(shipped):
    code = (
        "import sys; from sim.cli import cli; cli.main(['check', sys.argv[1]], standalone_mode=False); "
        "print([m for m in ('numpy', 'plotly', 'simpy', 'jinja2') if m in sys.modules])"
    )
    assert python("-c", code, str(shipped / "4090_pp_home.yaml")).stdout.splitlines()[-1] == "[]"


def test_a_closed_pipe_is_no_traceback():
    command = f"{sys.executable} -m sim catalog price | head -n 1"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert found.stdout.startswith("id ")
    assert "Traceback" not in found.stderr


# ---- Failures of any kind


@pytest.fixture
def failing(monkeypatch, sim):
    """``sim schema`` whose work raises what it is given."""

    def fail(error, **env):
        def schema_of(kind):
            raise error

        monkeypatch.setattr("sim.cli.schema.schema_of", schema_of)
        for key, value in env.items():
            monkeypatch.setenv(key, value)
        return sim("schema")

    return fail


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError("x"), "internal error: KeyError: 'x' (set SIM_DEBUG=1 for the traceback)"),
        (RecursionError(), "the input is too large to handle (RecursionError)"),
        (MemoryError(), "the input is too large to handle (MemoryError)"),
        (PermissionError(13, "Permission denied", "reports"), "reports: Permission denied"),
        (OSError(28, "No space left on device"), "file: No space left on device"),
        (click.Abort(), "interrupted"),
    ],
)
def test_a_failure_is_one_line_and_code_1(failing, error, line):
    answer = failing(error)
    assert (answer.code, answer.out, answer.err) == (1, "", line + "\n")


def test_debugging_shows_the_traceback(failing):
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError("by zero"), SIM_DEBUG="1")
