"""The Result: one JSON document that every report is drawn from. Its names are a public contract (SI units).

Later versions add keys and never rename them; a reader refuses a newer ``schema_version`` than its own.
Requests and spans in full are side tables (requests.csv, trace.json), not part of this document.
``run_info`` holds wall-clock facts and stands outside the document's identity.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1

State = Literal["stable", "saturated", "overloaded", "disrupted"]
ErrorOf = Literal["throughput", "TTFT", "TPOT", "step time"]


class Part(BaseModel):
    """A frozen piece of a Result."""

    model_config = ConfigDict(frozen=True, extra="allow", ser_json_inf_nan="null")


class Spread(Part):
    """A distribution over measured requests, in seconds; None where nothing was measured."""

    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None


class ServingMetrics(Part):
    """Numbers of one serving job over its measured window (definitions in ``results.definitions``). From ``failures``
    to ``lost_kv_tokens``: among failures, None where there are none; then of the prefix cache, and of replicas that
    take prompts and tokens apart or come and go, None without these."""

    output_tokens_per_s: float
    total_tokens_per_s: float
    requests_per_s: float
    completed_requests: int
    rejected_requests: int
    measured_requests: int
    ttft_s: Spread
    tpot_s: Spread
    inter_token_s: Spread
    latency_s: Spread
    queue_s: Spread
    batch_size_mean: float
    kv_occupancy_mean: float
    kv_occupancy_peak: float
    kv_blocked_fraction: float
    utilisation_mean: float
    slo_attainment: float | None
    goodput_requests_per_s: float | None
    tokens_per_s_per_user: float | None
    preemptions: int
    recomputed_tokens: int
    failures: int | None = None
    failures_by_class: dict[str, int] = {}
    outages: int | None = None
    availability: float | None = None
    outage_s: float | None = None
    restarted_requests: int | None = None
    failed_requests: int | None = None
    lost_tokens: int | None = None
    lost_kv_tokens: int | None = None
    prefix_hit_rate: float | None = None
    fetched_tokens: int | None = None
    kv_transfer_bytes: float | None = None
    kv_transfer_s: float | None = None
    replicas_mean: float | None = None
    replicas_started: int | None = None


class CheckpointLevel(Part):
    """Checkpoints of one of several levels. ``to``: *store*, *nvme*, *peer memory*, or nothing where it is not said."""

    to: str
    interval_s: float
    bytes: float
    blocking_s: float
    persist_s: float


class TrainingMetrics(Part):
    """Numbers of one training job; a step is the same from the first to the last (definitions in
    ``results.definitions``). By axis: ``dp``, ``tp``, ``pp``, ``cp``, ``ep``. From ``ettr`` on: among failures and
    checkpoints, None where there are none."""

    step_time_s: float
    tokens_per_s: float
    tokens_per_s_per_gpu: float
    samples_per_s: float
    mfu: float
    hfu: float
    model_flops_per_token: float
    bubble_fraction: float
    exposed_communication_s: dict[str, float]
    exposed_communication_fraction: float
    sent_bytes_per_gpu: dict[str, float]
    optimizer_s: float
    recompute_fraction: float
    memory_peak_bytes: float
    memory_peak_fraction: float
    utilisation_mean: float
    micro_batches: int
    global_batch_tokens: int
    steps: int
    tokens: float
    target_tokens: float | None
    target_flops: float | None
    days_to_target: float | None
    gpu_hours_to_target: float | None
    usd_to_target: float | None
    kwh_to_target: float | None
    staleness_mean: float | None = None
    staleness_max: int | None = None
    ettr: float | None = None
    ettr_expected: float | None = None
    goodput_tokens_per_s: float | None = None
    failures: int | None = None
    failures_by_class: dict[str, int] = {}
    mtbf_s: float | None = None
    lost_work_s: float | None = None
    recovery_s: float | None = None
    spares_used: int | None = None
    checkpoints: int | None = None
    checkpoint_interval_s: float | None = None
    checkpoint_bytes: float | None = None
    checkpoint_blocking_s: float | None = None
    checkpoint_persist_s: float | None = None
    checkpoint_levels: list[CheckpointLevel] = []


class Saturation(Part):
    """What the same hardware does when requests never run out."""

    output_tokens_per_s: float
    usd_per_million_tokens: float | None
    usd_per_million_tokens_range: list[float] | None = None


class UsePoint(Part):
    """USD per million tokens where a share ``utilisation`` of saturation is asked for and all of it is paid; ``low``
    and ``high`` at the bounds of prices."""

    utilisation: float
    usd_per_million_tokens: float
    low: float
    high: float


class SwingPlan(Part):
    """A demand met by ``base`` copies of the cluster all the time and up to ``burst`` more by the hour, which take
    ``burst_hours`` copy-hours a day. Costs are means of the day."""

    base: int
    burst: int
    burst_hours: float
    usd_per_hour: float
    usd_per_million_tokens: float
    usd_per_million_tokens_range: list[float] | None = None


class Swing(Part):
    """A demand between valley and peak over the day, and what it takes to meet it with whole copies of the cluster.

    ``copy_tokens_per_s``: what a copy takes at most. ``utilisation``: of the copies at peak, if they stand all day,
    against their saturation. ``plans`` by rising number of base copies; ``best`` is the number of the cheapest.
    """

    peak_tokens_per_s: float
    valley_tokens_per_s: float
    mean_tokens_per_s: float
    copy_tokens_per_s: float
    copies_at_peak: int
    copies_at_valley: int
    utilisation: float
    best: int
    plans: list[SwingPlan]


class PaybackPoint(Part):
    """Months until a purchase has paid for itself where an ``occupancy`` of all hours is paid for, and at the ``best``
    and the ``worst`` prices; None: never."""

    occupancy: float
    months: float | None
    best: float | None
    worst: float | None


class Cost(Part):
    """Money of one job over its measured window: its share of the cluster by GPUs.

    ``usd_per_million_tokens`` is paid for a cluster that is reserved, ``..._by_use`` if it were paid only while there
    is work. ``fixed_usd_per_hour`` runs on without work. ``curve``: over the share of saturation that is asked for.
    ``api_price_ratio``: what an API asks for a token over what it costs here. ``payback_months``: until the income has
    paid for the purchase; None where no income is stated (``income_usd_per_hour`` is None) or it never does.
    """

    usd_per_hour: float
    usd_per_million_tokens: float | None
    tokens_per_usd: float | None
    usd_per_million_tokens_by_use: float | None = None
    fixed_usd_per_hour: float | None = None
    breakdown_usd_per_hour: dict[str, float]
    capital_usd: float | None
    capital_items_usd: dict[str, float] = {}
    committed_usd: float | None = None
    billed_fraction: float | None = None
    power_w: float | None
    kwh_per_million_tokens: float | None
    usd_per_million_tokens_range: list[float] | None = None
    api_usd_per_million_tokens: float | None = None
    api_price_ratio: float | None = None
    occupancy: float | None = None
    income_usd_per_hour: float | None = None
    running_usd_per_hour: float | None = None
    payback_months: float | None = None
    payback_months_range: list[float | None] | None = None
    payback_curve: list[PaybackPoint] = []
    saturation: Saturation | None = None
    curve: list[UsePoint] = []
    swing: Swing | None = None


class Incident(Part):
    """A replica was down. Requests and tokens are those it held; those that came and were answered while it was down
    are in the rates. ``first_tokens_s``: after it was up again, until all who came meanwhile had their first token."""

    cause: str
    replica: int
    start_s: float
    known_s: float
    up_s: float
    held_requests: int
    lost_kv_tokens: int
    failed_requests: int
    output_tokens_per_s: float
    slo_attainment: float | None
    first_tokens_s: float | None


class Window(Part):
    """The measured part of a run and the rule that chose it."""

    start_s: float
    end_s: float
    rule: str


class Tried(Part):
    """A rate (req/s) that was tried, or a number of clients and the rate that they made: whether it is within the
    objectives, and why not; by runs of so many ``requests`` with each of the ``seeds``, in the order they were made.
    ``measured_s``: the percentiles that are limited, by seed."""

    rate: float
    clients: int | None = None
    met: bool
    why: str
    requests: int = 0
    seeds: list[int] = []
    measured_s: dict[str, list[float]] = {}


class Capacity(Part):
    """The highest rate (req/s) within the objectives, or the most clients of a closed loop and the rate they make; None
    if none was found. What it gives, and what the hardware answers when requests never run out (req/s).

    ``open_end``: why nothing higher was tried, where all that was is within the objectives. ``requests`` and ``seeds``:
    those of the runs that confirm it. ``caveats``: what they cannot tell.
    """

    rate: float | None
    clients: int | None = None
    open_end: str = ""
    saturation: float
    output_tokens_per_s: float | None
    usd_per_million_tokens: float | None
    requests: int = 0
    seeds: list[int] = []
    caveats: list[str] = []
    tried: list[Tried]


class ExpectedError(Part):
    """The measured error of the validated ``group`` ("GPU / stack / kind") that is nearest to a job, as fractions;
    ``validated``: it is the job's own. ``of`` what; ``bias``: the median with its sign. ``alike`` and ``unlike``: in
    what the job is as the group, and in what not."""

    of: ErrorOf = "throughput"
    group: str
    rows: int
    median: float
    p90: float
    bias: float
    validated: bool
    alike: list[str] = []
    unlike: list[str] = []


class TenantResult(Part):
    """What one of several kinds of users got: latencies over its requests in the job's measured window."""

    name: str
    priority: int
    measured_requests: int
    output_tokens_per_s: float
    ttft_s: Spread
    tpot_s: Spread
    latency_s: Spread
    slo_attainment: float | None
    objectives: list[dict[str, Any]]


class JobResult(Part):
    """One job's answer."""

    name: str
    kind: Literal["serving", "training"]
    model: str
    stack: str
    plan: str
    gpus: int
    state: State
    metrics: ServingMetrics | TrainingMetrics
    cost: Cost | None
    window: Window
    objectives: list[dict[str, Any]]
    cdf: dict[str, list[list[float]]]
    notes: list[str]
    incidents: list[Incident] = []
    capacity: Capacity | None = None
    expected_error: ExpectedError | None = None
    expected_ttft_error: ExpectedError | None = None
    expected_tpot_error: ExpectedError | None = None
    tenants: list[TenantResult] = []


class Effect(Part):
    """What one improved resource changes, found by running again. A training job's tokens are those it trains on."""

    resource: str
    change: str
    output_tokens_per_s: float
    relative: float
    usd_per_million_tokens_relative: float | None = None
    ttft_p50_relative: float | None = None
    tpot_p50_relative: float | None = None


class Verdict(Part):
    """The answer in a few lines."""

    state: State
    sentence: str
    bottleneck: str
    binding: list[str]
    not_binding: list[str]
    effects: list[Effect]
    warnings: list[str]


class MemoryStage(Part):
    """One GPU of a pipeline stage: bytes by part against capacity; ``offloaded`` by tier (host, nvme)."""

    job: str
    stage: int
    gpu: str
    count: int
    capacity_bytes: float
    parts: dict[str, float]
    kv_tokens: int = 0
    offloaded: dict[str, float] = {}


class DeviceClass(Part):
    """GPUs that did the same: a pipeline stage of a job, or the unused ones.

    ``pass_s`` is the mean time of a pass through the stage, kernels and host; ``ledger`` counts GPU-seconds.
    """

    name: str
    job: str | None
    stage: int | None
    gpu: str
    count: int
    busy: float
    pass_s: float | None = None
    flops_utilisation: float
    bandwidth_utilisation: float
    ledger: dict[str, float]
    energy_j: float | None = None


class LinkClass(Part):
    """Links of one kind that can be exchanged without changing the answer."""

    name: str
    kind: str
    count: int
    bandwidth: float
    bytes: float
    utilisation_mean: float
    utilisation_peak: float


class Span(Part):
    """One stretch of work on a device class, for the Gantt chart; ``chunk`` is that of an interleaved stage."""

    device: str
    kind: str
    start_s: float
    end_s: float
    batch: int
    tokens: int
    micro_batch: int
    chunk: int = 0


class Timeline(Part):
    """Shares of each bin of ``bin_s`` seconds (at most 2,000 bins), and a window of spans."""

    bin_s: float
    devices: dict[str, list[float]]
    links: dict[str, list[float]]
    jobs: dict[str, dict[str, list[float]]]
    spans: list[Span]
    spans_window_s: list[float]


class RooflineDot(Part):
    """One phase of one device class on the roofline of its GPU."""

    device: str
    phase: str
    flops_per_byte: float
    flops_per_s: float
    peak_flops: float
    bandwidth: float


class Assumption(Part):
    """One number the answer rests on."""

    name: str
    value: str
    origin: str
    source: str


class Result(Part):
    """The whole answer of one run."""

    schema_version: int
    scenario: str
    about: str
    version: str
    seed: int
    detail: str
    headline: str
    resolved_scenario: dict[str, Any]
    verdict: Verdict
    jobs: list[JobResult]
    metrics: ServingMetrics | TrainingMetrics | None
    cost: Cost | None
    memory: list[MemoryStage]
    ledger: dict[str, float]
    gpus: int
    simulated_s: float
    events: int
    devices: list[DeviceClass]
    links: list[LinkClass]
    timeline: Timeline
    roofline: list[RooflineDot]
    topology: dict[str, Any]
    intervals: dict[str, list[float]]
    intervals_method: str
    assumptions: list[Assumption]
    banners: list[str]
    not_modelled: list[str]
    definitions: dict[str, str]
    run_info: dict[str, Any] | None = None
