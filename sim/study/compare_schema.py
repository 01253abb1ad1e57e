"""The document of a comparison: what ``sim compare --json`` prints and the page is drawn from (SI units).

Later versions add keys and never rename them; a reader refuses a newer ``schema_version`` than its own.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from sim import __version__

SCHEMA_VERSION: Final = 1
AtEqual = Literal["budget", "throughput", "power", "gpus"]
SplitBy = Literal["usd_per_million_tokens", "gpu_s_per_million_tokens"]
Verdict = Literal["better", "worse", "differs", "no clear difference"]


class Part(BaseModel):
    """A frozen piece of the document."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


class Estimate(Part):
    """A mean and its 95% interval; None where there is one run only, or nothing is random."""

    mean: float
    low: float | None
    high: float | None


class Setting(Part):
    """A key of the configuration that is not the same everywhere; ``values`` by scenario, None where it has none.

    ``detail`` marks constants of devices and software, which follow from what the scenarios name.
    """

    group: str
    key: str
    values: list[str | None]
    detail: bool


class Job(Part):
    """One job of a scenario, as it was played."""

    name: str
    kind: Literal["serving", "training"]
    model: str
    stack: str
    plan: str
    gpus: int
    state: str


class CurvePoint(Part):
    """One copy of the cluster with that many clients who never pause; None: not measured, or no cost is stated.

    ``used_usd_per_hour`` is what electricity costs more than at idle power, ``fixed_usd_per_hour`` all else.
    ``strain`` is the largest share that an objective takes of its limit: above 1 one is missed; None without any.
    """

    clients: int
    tokens_per_s: float
    tokens_per_s_per_user: float | None
    ttft_p50_s: float | None
    usd_per_million_tokens: float | None
    fixed_usd_per_hour: float | None = None
    used_usd_per_hour: float | None = None
    strain: float | None = None


class Use(Part):
    """Hourly cost of one copy over its use u: ``fixed + used * u`` USD/h, at u times the saturated tokens/s."""

    fixed_usd_per_hour: float
    used_usd_per_hour: float
    tokens_per_s: float


class Missed(Part):
    """An objective that the load given does not keep: mean over the runs; None where a run answered nothing."""

    name: str
    limit_s: float
    measured_s: float | None


class ScenarioPart(Part):
    """One scenario. Of one that cannot be there is only the reason, in ``failed``.

    ``factor`` copies of it are compared: ``metrics`` that grow with the cluster are times ``factor``, and so are
    ``gpus``. ``ledger``: shares of GPU time. ``split``: its value of the comparison's ``split_by`` by bucket. The
    ``curve``, ``use`` and ``within`` are of one copy, and of serving; ``within`` is full use within its
    ``objectives``, None if it has none or meets them at no load. ``missed``: those that the load given does not keep.
    """

    name: str
    about: str
    cluster: str
    headline: str = ""
    failed: Literal["infeasible", "error"] | None = None
    reason: str | None = None
    runs: int = 0
    random: bool = False
    jobs: list[Job] = []
    gpus: float = 0.0
    factor: float = 1.0
    metrics: dict[str, Estimate] = {}
    ledger: dict[str, float] = {}
    split: dict[str, float] = {}
    curve: list[CurvePoint] = []
    use: Use | None = None
    objectives: dict[str, float] = {}
    missed: list[Missed] = []
    within: Use | None = None
    rented: bool = False
    banners: list[str] = []
    warnings: list[str] = []


class Difference(Part):
    """A metric of a scenario less the baseline's, over pairs of runs with the same seed.

    ``relative`` is of the baseline's mean; None where that is zero. ``verdict``: *no clear difference* where the
    interval spans zero; *differs* where neither direction is better.
    """

    absolute: Estimate
    relative: Estimate | None
    verdict: Verdict


class Pair(Part):
    """One scenario against the baseline. ``waterfall``: its ``split`` less the baseline's, by bucket."""

    scenario: int
    metrics: dict[str, Difference]
    waterfall: dict[str, float]


class Cheapest(Part):
    """Users who see ``from_speed`` to ``to_speed`` tokens/s are served cheapest by ``scenario``; USD/Mtok at both."""

    scenario: int
    from_speed: float
    to_speed: float
    from_usd: float
    to_usd: float


class FrontPoint(Part):
    """A point of a scenario's curve that no point of any curve beats in both speed per user and USD/Mtok."""

    scenario: int
    point: int


class AgainstApi(Part):
    """Share of saturation from which a scenario's token is as cheap as the API's; None: not even at full use."""

    scenario: int
    utilisation: float | None


class Against(Part):
    """When ``scenario`` pays against ``other``; None: never.

    ``utilisation``: share of its saturation from which its token is as cheap as the other's at full use.
    ``demand_tokens_per_s``: from here to its saturation one copy costs no more than whole copies of the other.
    """

    scenario: int
    other: int
    utilisation: float | None
    demand_tokens_per_s: float | None


class ByDemand(Part):
    """A demand from ``from_tokens_per_s`` to ``to_tokens_per_s`` is met cheapest by whole copies of ``scenario``, all
    paid all the time: ``copies`` of them at its end."""

    scenario: int
    copies: int
    from_tokens_per_s: float
    to_tokens_per_s: float


class ByLoad(Part):
    """A demand (tokens/s) of users who each see at least so many tokens/s (None: any) is met cheapest by whole
    ``copies`` of ``scenario``; ``next_scenario`` is the second cheapest, None if nobody else is fast enough."""

    tokens_per_s: float
    tokens_per_s_per_user: float | None
    scenario: int
    copies: int
    usd_per_hour: float
    usd_per_million_tokens: float
    next_scenario: int | None
    next_usd_per_hour: float | None


class Comparison(Part):
    """The whole comparison. ``baseline`` counts from 0: the first scenario that can be. ``by_demand`` fills clusters,
    ``by_demand_within`` fills each as far as its objectives allow (those that state none are left out)."""

    schema_version: int = SCHEMA_VERSION
    kind: Literal["comparison"] = "comparison"
    version: str = __version__
    baseline: int
    seed: int
    seeds: int
    at_equal: AtEqual | None
    api_usd_per_million_tokens: float | None
    scenarios: list[ScenarioPart]
    settings: list[Setting]
    pairs: list[Pair]
    split_by: SplitBy | None
    front: list[FrontPoint]
    cheapest: list[Cheapest]
    against_api: list[AgainstApi]
    against: list[Against]
    by_demand: list[ByDemand]
    by_demand_within: list[ByDemand] = []
    by_load: list[ByLoad] = []
    warnings: list[str]
    definitions: dict[str, str]
    not_modelled: list[str]
    run_info: dict[str, Any] | None = None
