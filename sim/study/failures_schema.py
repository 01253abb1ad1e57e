"""The document of a study of failures: what ``sim failures --json`` prints and the page is drawn from (SI units).

Later versions add keys and never rename them; a reader refuses a newer ``schema_version`` than its own. ``run_info``
holds the command, and stands outside the document's identity.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from sim import __version__

SCHEMA_VERSION: Final = 1


class Part(BaseModel):
    """A frozen piece of the document."""

    model_config = ConfigDict(frozen=True, extra="allow", ser_json_inf_nan="null")


class Estimate(Part):
    """A mean over lives and its 95% interval; None with one life."""

    mean: float
    low: float | None
    high: float | None


class Quantiles(Part):
    """Of every hundred lives 10, 50, 90 and 99 have at most this; None: they did not get there."""

    p10: float | None
    p50: float | None
    p90: float | None
    p99: float | None


class PointResult(Part):
    """One setting and its lives; of what cannot be there is only the reason, in ``failed``.

    ``seconds``: mean seconds of a life by what they went to. ``behind``: goodput below that of the best at its time
    between failures, by pairs of lives (None: it is the best). ``completion_s`` is None where the run's duration ends
    it. ``goodput_daly``: Daly's law for a job that stands still while it saves and restarts after every failure, with
    mean recoveries. ``days_to_target``: the study's ``target_tokens`` at the rate that failures
    leave. ``spares``: used at once at most, had there been enough; None for policy wait, which uses none.
    """

    nodes: int
    gpus: int
    mtbf: str
    checkpoint: str
    policy: str
    failed: str | None = None
    job_mtbf_s: float | None = None
    interval_s: float | None = None
    blocking_s: float | None = None
    persist_s: float | None = None
    step_s: float = 0.0
    useful_s: float | None = None
    tokens_per_step: int = 0
    goodput: Estimate | None = None
    goodput_daly: float | None = None
    behind: Estimate | None = None
    tokens_per_s: float | None = None
    days_to_target: float | None = None
    failures: Estimate | None = None
    failures_by_class: dict[str, float] = {}
    stops: float | None = None
    seconds: dict[str, float] = {}
    wall_s: Estimate | None = None
    finished: float | None = None
    completion_s: Quantiles | None = None
    tokens: Quantiles | None = None
    spares: Quantiles | None = None
    usd_per_hour: float | None = None
    usd: Estimate | None = None
    goodputs: list[float] = []
    completions_s: list[float | None] = []
    spares_used: list[int] = []

    @property
    def setting(self) -> str:
        """The setting in words."""
        return f"{self.nodes:,} nodes, MTBF {self.mtbf}, checkpoint {self.checkpoint}, {self.policy}"


class MapRow(Part):
    """The map at one time between failures: goodput at each interval, the best of them, and the laws'."""

    mtbf_s: float
    factor: float
    goodput: list[float]
    best: int
    young_s: float
    daly_s: float


class FailureMap(Part):
    """Goodput over times between failures and intervals, of the setting of one point."""

    point: int
    seeds: int
    intervals_s: list[float]
    rows: list[MapRow]


class Sample(Part):
    """What one life did when: the one in the middle by goodput, of the best point. (kind, start, end) in seconds."""

    point: int
    seed: int
    goodput: float
    end_s: float
    failures: int
    complete: bool
    stretches: list[tuple[str, float, float]]


class FailureStudy(Part):
    """The whole study; amounts in SI units. ``bests``: the best point at each time between failures, by number."""

    schema_version: int = SCHEMA_VERSION
    kind: Literal["failures"] = "failures"
    version: str = __version__
    scenario: str
    about: str
    job: str
    model: str
    seed: int
    seeds: int
    duration_s: float | None
    target_tokens: float | None = None
    axes: list[str]
    points: list[PointResult]
    bests: list[int]
    map: FailureMap | None
    sample: Sample | None
    run_info: dict[str, Any] | None = None
