"""A comparison in words: how its metrics are written, and the notes that page and terminal share."""

from __future__ import annotations

from typing import Final

from sim.report.values import FORMATS, NONE, joined, named, write
from sim.study.compare_pairs import metric_of
from sim.study.compare_schema import Comparison, Difference, Estimate, Pair
from sim.units import format_count, format_percent, format_usd

HEADLINE: Final = (
    "days_to_target", "usd_to_target",
    "output_tokens_per_s", "tokens_per_s_per_user", "ttft_s.p50", "ttft_s.p99", "tpot_s.p50", "tpot_s.p99",
    "slo_attainment", "tokens_per_s", "goodput_tokens_per_s", "step_time_s", "mfu", "ettr", "bubble_fraction",
    "exposed_communication_fraction", "memory_peak_bytes", "utilisation_mean", "usd_per_hour",
    "usd_per_million_tokens", "gpu_s_per_million_tokens", "capital_usd", "payback_months", "power_w",
    "kwh_per_million_tokens", "gpus",
)  # fmt: skip
"""Metrics that the terminal tells; the rest is in the document and on the page."""
EQUAL: Final = {"budget": "budget", "throughput": "throughput", "power": "power", "gpus": "number of GPUs"}
MOST_NAMED: Final = 5
"""Scenarios that a title names."""
_MINUS: Final = "−"
_NAMES: Final = {"gpus": "GPUs", "gpu_s_per_million_tokens": "GPU time per million tokens"}

METHOD: Final = (
    "Differences are a scenario's less the baseline's, over pairs of runs with the same seed. Brackets: 95%, "
    "Student's t over the pairs; no clear difference: the interval of the difference spans "
    "zero. Intervals hold what chance does to a run, not the error of the model."
)
FRACTIONS: Final = (
    "Amounts that grow with the cluster (tokens/s, USD/h, power, GPUs, purchase) are times the copies, all others "
    "stay; fractions of a copy stand for many copies."
)


def title(c: Comparison) -> str:
    """What is compared with what."""
    names = [part.name for part in c.scenarios]
    if len(names) > MOST_NAMED:
        return f"{names[0]} against {len(names) - 1} others"
    return f"{names[0]} against {joined(names[1:])}"


def copies_lines(c: Comparison) -> list[str]:
    """How scenarios were scaled to be equal."""
    if c.at_equal is None:
        return []
    told = [f"{part.factor:.4g} of {part.name}" for part in c.scenarios if part.failed is None]
    return [f"At equal {EQUAL[c.at_equal]}, copies: {joined(told)}. {FRACTIONS}"]


def run_lines(c: Comparison) -> list[str]:
    """How often each scenario was played."""
    fit = [part for part in c.scenarios if part.failed is None]
    still = [part.name for part in fit if not part.random]
    found = []
    if any(part.random for part in fit):
        found.append(f"{c.seeds} seeds, {c.seed} to {c.seed + c.seeds - 1}, the same for each scenario.")
    if still:
        who = "No scenario has anything random" if len(still) == len(fit) else f"Nothing is random in {joined(still)}"
        found.append(f"{who}: all seeds give the same run, played once, and a difference of such runs has no interval.")
    if any(part.curve for part in fit):
        found.append(
            f"Curves: clients who never pause, one to a quarter more than the cluster holds, seed {c.seed}, with the "
            "scenario's own lengths."
        )
    return found


def warning_lines(c: Comparison) -> list[str]:
    """What to know before trusting the numbers: of the comparison, then of each scenario."""
    return [*c.warnings, *(f"{part.name}: {line}" for part in c.scenarios for line in part.warnings)]


def banner_lines(c: Comparison) -> list[str]:
    """Assumptions that physics forbids, by scenario."""
    return [f"ASSUMED {part.name}: {line}" for part in c.scenarios for line in part.banners]


# -- numbers ------------------------------------------------------------------------------------------------


def write_metric(path: str, value: float | None) -> str:
    """A metric with its unit."""
    if value is None:
        return NONE
    if metric_of(path) == "gpu_s_per_million_tokens":
        return f"{format_count(value)} GPU-s/Mtok"
    return write(metric_of(path), value)


def metric_name(path: str, c: Comparison) -> str:
    """A metric's name; of several jobs with the job's."""
    parts = path.split(".")
    job = ""
    if parts[0] == "jobs":
        job = f"{c.scenarios[c.baseline].jobs[int(parts[1])].name}: "
        parts = parts[2:]
    name = _NAMES.get(parts[0], named(parts[0]))
    return f"{job}{', '.join([name, *parts[1:]])}"


def signed(path: str, value: float) -> str:
    """A difference with its sign; of shares in points."""
    if value == 0:
        return "0"
    sign = _MINUS if value < 0 else "+"
    if FORMATS.get(metric_of(path)) is format_percent:
        return f"{sign}{100 * abs(value):.3g} points"
    return f"{sign}{write_metric(path, abs(value))}"


def percent(value: float) -> str:
    """A relative difference: "+11.1%", or "×272" where it is more than tenfold."""
    if value == 0:
        return "0%"
    if value >= 10:
        return f"×{value + 1:.3g}" if value < 999 else f"×{value + 1:,.0f}"
    return f"{_MINUS if value < 0 else '+'}{format_percent(abs(value))}"


def usd(value: float) -> str:
    """Money without its unit."""
    return format_usd(value).removesuffix(" USD")


def difference_text(path: str, gap: Estimate) -> str:
    """A difference with its interval, the unit once where all have the same: "+742 [+685, +798] tok/s"."""
    mean = signed(path, gap.mean)
    if gap.low is None or gap.high is None or gap.low == gap.high:
        return mean
    found = [mean, signed(path, gap.low), signed(path, gap.high)]
    parts = [text.rpartition(" ") for text in found]
    units = {unit for number, _, unit in parts if number}
    if len(units) == 1 and all(number or text == "0" for (number, *_), text in zip(parts, found, strict=True)):
        mean, low, high = (number or "0" for number, *_ in parts)
        return f"{mean} [{low}, {high}] {units.pop()}"
    return f"{mean} [{found[1]}, {found[2]}]"


def relative_text(found: Difference) -> str:
    """The relative difference with its interval."""
    gap = found.relative
    if gap is None:
        return NONE
    if gap.low is None or gap.high is None or gap.low == gap.high:
        return percent(gap.mean)
    return f"{percent(gap.mean)} [{percent(gap.low)}, {percent(gap.high)}]"


def metric_rows(c: Comparison, pair: Pair, every: bool) -> list[list[str]]:
    """A line a metric: the baseline's, the scenario's, the difference, relative to the baseline, and the verdict."""
    base, mine = c.scenarios[c.baseline], c.scenarios[pair.scenario]
    rows = []
    for path, found in pair.metrics.items():
        plain = ".".join(path.split(".")[2:]) if path.startswith("jobs.") else path
        if every or plain in HEADLINE:
            rows.append((HEADLINE.index(plain) if plain in HEADLINE else len(HEADLINE), [
                metric_name(path, c), write_metric(path, base.metrics[path].mean),
                write_metric(path, mine.metrics[path].mean),
                difference_text(path, found.absolute), relative_text(found), found.verdict,
            ]))  # fmt: skip
    return [row for _, row in sorted(rows, key=lambda item: item[0])]


def waterfall_steps(pair: Pair) -> list[tuple[str, float]]:
    """Buckets by the size of what they add; those that add nothing are left out."""
    return sorted(((b, v) for b, v in pair.waterfall.items() if v), key=lambda item: -abs(item[1]))
