"""The document of a size: what ``sim size --json`` prints and the page is drawn from (SI units).

Later versions add keys and never rename them; a reader refuses a newer ``schema_version`` than its own.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from sim import __version__
from sim.results.schema import Capacity, ExpectedError
from sim.spec.sizing import Goal
from sim.units import format_count, format_seconds, format_usd

SCHEMA_VERSION: Final = 1
TOP: Final = 5
"""Answers that are found even if they are all of one kind of machine, and told."""
Why = Literal[
    "does not fit", "misses an objective", "over budget", "too many nodes", "too late", "costs more", "slower"
]  # fmt: skip
"""Why a design lost. The last two: it may do what is asked, but cannot do so better than those that won."""


class Part(BaseModel):
    """A frozen piece of the document."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


class Answer(Part):
    """A design that does what is asked, as it was simulated under the whole load. ``value`` is the goal's: USD/h or USD
    to finish (cost), seconds or days (latency), tokens/s (throughput).

    ``settings`` are keys of the scenario beyond the plan. ``metrics`` are those of ``sim run``, by path. ``confirmed``:
    by runs of so many ``requests`` with each of the ``seeds``, or because it trains; those that are not told are not.
    """

    machine: str
    network: str | None
    nodes: int
    gpus: int
    gpu: str
    plan: str
    settings: dict[str, Any]
    value: float
    capital_usd: float | None
    usd_per_hour: float
    usd_per_million_tokens: float | None
    metrics: dict[str, float]
    prices_as_of: str
    notes: list[str] = []
    confirmed: bool = False
    requests: int = 0
    seeds: list[int] = []


class Loss(Part):
    """Designs that lost for one reason: how many, and one of them in words."""

    why: Why
    designs: int
    example: str


class Miss(Part):
    """The design that came nearest to what is asked where none does it: what it misses (``why``, ``reason``), by how
    many times (``over``, None if that is not known), and what it costs."""

    design: str
    why: Why
    reason: str
    over: float | None
    capital_usd: float | None
    usd_per_hour: float


class MachineRow(Part):
    """The best that one kind of machine can do: an index into ``answers``, or why there is none."""

    machine: str
    designs: int
    answer: int | None
    why: str


class Coverage(Part):
    """How much of the space was looked at: designs in it, those that memory or laws ruled out, those that were
    simulated, and those that could not be better than the answers. They add up; ``runs`` are simulations."""

    designs: int
    do_not_fit: int
    ruled_out_by_laws: int
    simulated: int
    cannot_be_better: int
    runs: int


class Own(Part):
    """The scenario's own cluster, as it is. None where it does not fit, is not priced, or misses an objective."""

    value: float | None
    why: str


class Sizing(Part):
    """Everything about one search. ``answers`` are in order, the winner first; where there is none, ``nearest`` is what
    came nearest. ``expected_...``, ``warnings`` and ``notes`` are those of the winner's run."""

    kind: Literal["size"] = "size"
    schema_version: int = SCHEMA_VERSION
    version: str = __version__
    name: str
    about: str
    job: str
    serves: bool
    model: str
    goal: Goal
    measure: str
    question: str
    answers: list[Answer]
    best_by_machine: list[MachineRow]
    front: list[int]
    losses: list[Loss]
    coverage: Coverage
    capacity: Capacity | None
    nearest: Miss | None = None
    own: Own | None
    expected_error: ExpectedError | None = None
    expected_ttft_error: ExpectedError | None = None
    expected_tpot_error: ExpectedError | None = None
    warnings: list[str] = []
    notes: list[str] = []
    scenario: dict[str, Any] | None
    banners: list[str] = []
    not_modelled: list[str] = []
    definitions: dict[str, str] = {}
    run_info: dict[str, Any] = {}


def worth(goal: Goal, serves: bool, value: float) -> str:
    """A value of the goal with its unit."""
    if goal == "throughput":
        return f"{format_count(value)} tok/s"
    if goal == "cost":
        return f"{format_usd(value)}/h" if serves else f"{format_usd(value)} to finish"
    return format_seconds(value if serves else value * 86_400)
