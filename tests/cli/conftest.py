"""The command line called in-process, a scenario of known lines, and one run that several tests read."""

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import pytest

from sim.cli import main

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "scenarios"

#: The flagship, small: six clients and thirty short requests.
SHORT = (
    "--set=jobs.0.load={closed_loop: {clients: 6, ramp: 1 s}, prompt_tokens: 64, output_tokens: 16, requests: 30}",
)

SCENARIO = """\
name: small
about: Eight desktops.
cluster: {topology: desktops.yaml}
model: llama-2-70b
stack: vllm
jobs:
  - name: chat
    kind: serving
    precision: {weights: fp16, kv: fp16}
    plan: {pp: 8}
    batching: {policy: continuous}
    load: {closed_loop: {clients: 4}, prompt_tokens: 64, output_tokens: 8, requests: 12}
    objectives: {ttft_p99: 60 s}
cost:
  capital: 20000 USD
  electricity: 0.10 USD/kWh
"""
TOPOLOGY = """\
name: desktops
nodes:
  - name: desktop
    count: 8
    gpus: [{type: rtx4090}]
    nics: [{link: ethernet-10g}]
network:
  switches: [{name: switch, backplane: 80 Gbps}]
"""


class Answer(NamedTuple):
    """What a command left: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def complaints(self) -> list[str]:
        """Lines on standard error."""
        return self.err.splitlines()

    @property
    def json(self) -> Any:
        """Standard output as one JSON document and nothing else."""
        return json.loads(self.out)


def call(*args: object, clock: Callable[[], float] = lambda: 0.0) -> Answer:
    """``sim ARGS`` in this process; for its progress lines time stands still, however slow the machine."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch("sim.cli.common.time", SimpleNamespace(monotonic=clock)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as left,
    ):
        main([str(arg) for arg in args])
    assert isinstance(left.value.code, int)
    return Answer(left.value.code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def sim() -> Callable[..., Answer]:
    """``sim(*args)`` gives an Answer."""
    return call


@pytest.fixture(scope="session")
def shipped() -> Path:
    """The folder of the shipped scenarios."""
    return SHIPPED


@pytest.fixture(scope="session")
def short() -> tuple[str, ...]:
    """Options that make the flagship take a tenth of a second."""
    return SHORT


class Desk:
    """A scenario and its topology in a folder of their own, edited by replacing text."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scenario, self.topology = folder / "small.yaml", folder / "desktops.yaml"
        self.scenario.write_text(SCENARIO)
        self.topology.write_text(TOPOLOGY)

    def edit(self, old: str, new: str, file: Path | None = None) -> None:
        """Replace text that must be there once."""
        file = file or self.scenario
        text = file.read_text()
        assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
        file.write_text(text.replace(old, new))

    def place(self, text: str, file: Path | None = None) -> str:
        """``file:line:col`` of a text that must be there once."""
        file = file or self.scenario
        content = file.read_text()
        assert content.count(text) == 1, f"{text!r} is there {content.count(text)} times"
        before = content[: content.index(text)]
        return f"{file}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"

    def check(self, *args: object) -> Answer:
        """``sim check`` on the scenario."""
        return call("check", self.scenario, *args)

    def run(self, *args: object) -> Answer:
        """``sim run`` on the scenario, without files and re-runs."""
        return call("run", self.scenario, "--no-report", "--no-effects", *args)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A small scenario to make mistakes in."""
    return Desk(tmp_path)


class Written(NamedTuple):
    """A run with its report."""

    answer: Answer
    out: Path
    folder: Path

    @property
    def document(self) -> Any:
        """Its result.json."""
        return json.loads((self.folder / "result.json").read_text())


@pytest.fixture(scope="session")
def flagship(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The shipped flagship, shortened, with everything a run writes."""
    out = tmp_path_factory.mktemp("reports")
    answer = call("run", SHIPPED / "4090_pp_home.yaml", "--out", out, *SHORT)
    assert answer.code == 0, answer.err
    return Written(answer, out, out / "4090_pp_home")
