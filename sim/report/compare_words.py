"""A comparison in words: the sentences that page and terminal share, and how its metrics are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sim.report.values import FORMATS, NONE, named, write
from sim.study.compare_pairs import metric_of
from sim.study.compare_schema import Against, Comparison, Difference, Estimate, Pair, ScenarioPart
from sim.units import format_count, format_percent, format_usd

HEADLINE: Final = (
    "output_tokens_per_s", "tokens_per_s_per_user", "ttft_s.p50", "ttft_s.p99", "tpot_s.p50", "tpot_s.p99",
    "slo_attainment", "tokens_per_s", "goodput_tokens_per_s", "step_time_s", "mfu", "ettr", "bubble_fraction",
    "exposed_communication_fraction", "memory_peak_bytes", "days_to_target", "usd_to_target",
    "utilisation_mean", "usd_per_hour", "usd_per_million_tokens", "gpu_s_per_million_tokens", "capital_usd",
    "power_w", "kwh_per_million_tokens", "gpus",
)  # fmt: skip
"""Metrics that the terminal tells; the rest is in the document and on the page."""
EQUAL: Final = {"budget": "budget", "throughput": "throughput", "power": "power", "gpus": "number of GPUs"}
MOST_NAMED: Final = 5
"""Scenarios that a title names."""
MOST_SAID: Final = 4
"""Stretches that a sentence tells."""
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
USE: Final = (
    "Utilisation is the share of saturated throughput that is asked for; purchase, hosting and rent run on, "
    "electricity goes from idle power to that of saturation."
)
DEMAND: Final = "Demand is met by whole copies, all paid all the time; latency is not in it."
SPEED: Final = (
    "Speed per user is 1 / median TPOT; a cluster has as many users as see that speed, or a higher one. Between the "
    "points of a curve, cost follows speed linearly."
)


def title(c: Comparison) -> str:
    """What is compared with what."""
    names = [part.name for part in c.scenarios]
    if len(names) > MOST_NAMED:
        return f"{names[0]} against {len(names) - 1} others"
    return f"{names[0]} against {_joined(names[1:])}"


def answer(c: Comparison) -> list[str]:
    """Which to buy for which load, in a few sentences."""
    found = [_by_cost(c), _by_equal(c)]
    if c.by_demand:
        found.append(_by_demand(c))
    if c.cheapest:
        found += speed_sentences(c)[:1]
    return [line for line in found if line] or [_counts(c, pair) for pair in c.pairs]


def _counts(c: Comparison, pair: Pair) -> str:
    """How many main metrics are better: the answer where jobs of both kinds have no cost of a token in common."""
    verdicts = [row[-1] for row in metric_rows(c, pair, every=False)]
    base, mine = c.scenarios[c.baseline].name, c.scenarios[pair.scenario].name
    return (
        f"{mine} is better than {base} in {verdicts.count('better')} of {len(verdicts)} main metrics and worse in "
        f"{verdicts.count('worse')}."
    )


def _by_cost(c: Comparison) -> str:
    """Who makes tokens cheapest, or with the least GPU time, at the loads given."""
    name = c.split_by
    fit = [(i, part) for i, part in enumerate(c.scenarios) if part.failed is None]
    if name is None or not fit:
        return ""
    ranked = sorted(fit, key=lambda pair: pair[1].metrics[name].mean)
    best, rest = ranked[0], ranked[1:]
    what = "cheapest" if name == "usd_per_million_tokens" else "with the least GPU time"
    verb = "trains on" if best[1].jobs[0].kind == "training" else "makes"
    load = "At the loads given" if any(s.group == "load" and not s.detail for s in c.settings) else "At this load"
    head = f"{load} {best[1].name} {verb} tokens {what}, {write_metric(name, best[1].metrics[name].mean)}"
    more = [f"{part.name} {_percent(part.metrics[name].mean / best[1].metrics[name].mean - 1)}" for _, part in rest]
    same = _tie(c, best[0], rest)
    return f"{head}{f' ({_joined(more)})' if more else ''}.{same}"


def _by_equal(c: Comparison) -> str:
    """What each gives for as much: tokens/s, or where these are made equal the USD/h or watts they take."""
    wanted = {"throughput": ("usd_per_hour", "power_w")}.get(
        c.at_equal or "", ("output_tokens_per_s", "goodput_tokens_per_s", "tokens_per_s")
    )
    fit = [part for part in c.scenarios if part.failed is None]
    name = next((name for name in wanted if all(name in part.metrics for part in fit)), None)
    if c.at_equal is None or name is None:
        return ""
    told = []
    for part in fit:
        copies = "" if part.factor == 1 else f" ({format_count(part.factor)} copies)"
        told.append(f"{write_metric(name, part.metrics[name].mean)} of {part.name}{copies}")
    return f"At equal {EQUAL[c.at_equal]}: {_joined(told)}."


def _tie(c: Comparison, best: int, rest: Sequence[tuple[int, ScenarioPart]]) -> str:
    """Whether the best and the baseline differ clearly in what it is best at."""
    assert c.split_by is not None
    for pair in c.pairs:
        unclear = c.split_by in pair.metrics and pair.metrics[c.split_by].verdict == "no clear difference"
        if unclear and rest and {best, rest[0][0]} == {c.baseline, pair.scenario}:
            return " The first two are no clear difference apart."
    return ""


def _by_demand(c: Comparison) -> str:
    told = []
    for stretch in c.by_demand[:MOST_SAID]:
        copies = f" ({stretch.copies:,} copies there)" if stretch.copies > 1 else ""
        rate = write("output_tokens_per_s", stretch.to_tokens_per_s)
        told.append(f"{c.scenarios[stretch.scenario].name} up to {rate}{copies}")
    left = len(c.by_demand) - MOST_SAID
    more = f", and so on in turn ({left:,} more stretches)" if left > 0 else ""
    trains = c.scenarios[c.baseline].jobs[0].kind == "training"
    what = "A steady rate of training" if trains else "A steady demand"
    return f"{what} is met cheapest with whole clusters of {', then '.join(told)}{more}{_when_full(c)}."


def _when_full(c: Comparison) -> str:
    """What a user sees of the clusters that meet a demand cheapest, when they are full."""
    told = []
    for at in dict.fromkeys(stretch.scenario for stretch in c.by_demand[:MOST_SAID]):
        part = c.scenarios[at]
        last = max(part.curve, key=lambda point: point.tokens_per_s, default=None)
        if last is not None and last.tokens_per_s_per_user is not None:
            told.append(f"{write('tokens_per_s_per_user', last.tokens_per_s_per_user)} of {part.name}")
    return f"; when full a user sees {_joined(told)}" if told else ""


def speed_sentences(c: Comparison) -> list[str]:
    """Who is cheapest at which speed per user."""
    if not c.cheapest:
        return []
    told = []
    for n, s in enumerate(c.cheapest[:MOST_SAID]):
        money = f"{_usd(s.from_usd)} to {_usd(s.to_usd)} USD/Mtok"
        if n == 0 and s.from_usd == s.to_usd:
            money = f"{_usd(s.to_usd)} USD/Mtok"
        told.append(f"{c.scenarios[s.scenario].name} up to {write('output_tokens_per_s', s.to_speed)} ({money})")
    left = len(c.cheapest) - MOST_SAID
    more = f", and so on ({left:,} more stretches)" if left > 0 else ""
    found = [f"By speed per user the cheapest is {', then '.join(told)}{more}."]
    idle = [p.name for i, p in enumerate(c.scenarios) if p.curve and not any(s.scenario == i for s in c.cheapest)]
    if idle:
        found.append(f"Never cheapest at any speed when full: {_joined(idle)}.")
    return found


def break_even_lines(c: Comparison) -> list[str]:
    """From which use or demand on each scenario pays, against an API and against each other."""
    found = []
    price = c.api_usd_per_million_tokens
    for api in c.against_api:
        part = c.scenarios[api.scenario]
        assert price is not None
        if api.utilisation is None:
            full = part.use and _full_price(part)
            found.append(f"{part.name} is never as cheap as the API at {_usd(price)} USD/Mtok: {full} at full use.")
        else:
            assert part.use is not None
            rate = write("output_tokens_per_s", api.utilisation * part.use.tokens_per_s)
            found.append(
                f"{part.name} is as cheap as the API at {_usd(price)} USD/Mtok from {format_percent(api.utilisation)} "
                f"of saturation on ({rate})."
            )
    found += [_against(c, pair) for pair in c.against if _told(c, pair)]
    return [*found, USE, DEMAND] if found else []


def _told(c: Comparison, pair: Against) -> bool:
    """Pairs with the baseline, and each scenario against the cheapest when full; the rest is in the document."""
    full = {i: _price(part) for i, part in enumerate(c.scenarios) if part.use is not None}
    best = min(full, key=lambda i: full[i])
    return c.baseline in (pair.scenario, pair.other) or best in (pair.scenario, pair.other)


def _price(part: ScenarioPart) -> float:
    """USD per million tokens at full use."""
    assert part.use is not None
    return (part.use.fixed_usd_per_hour + part.use.used_usd_per_hour) / (part.use.tokens_per_s * 3600) * 1e6


def _full_price(part: ScenarioPart) -> str:
    return write("usd_per_million_tokens", _price(part))


def _against(c: Comparison, pair: Against) -> str:
    own, other = c.scenarios[pair.scenario], c.scenarios[pair.other]
    assert own.use is not None
    if pair.utilisation is None:
        first = f"a token of {own.name} is never as cheap as one of {other.name} at full use"
    else:
        first = f"a token of {own.name} is as cheap as one of {other.name} at full use from "
        first += f"{format_percent(pair.utilisation)} of saturation on"
        if other.rented and not own.rented:
            first += f" (to buy it against renting by the hour: from {24 * pair.utilisation:.3g} hours a day)"
    demand = pair.demand_tokens_per_s
    if demand is None:
        second = f"even full, one {own.name} costs more than whole copies of {other.name}"
    elif demand == 0:
        second = f"one {own.name} costs no more than whole copies of {other.name} at any demand it can meet"
    else:
        share = format_percent(demand / own.use.tokens_per_s)
        second = f"one {own.name} costs no more than whole copies of {other.name} from "
        second += f"{write('output_tokens_per_s', demand)} on ({share} of its saturation)"
    return f"{first[0].upper()}{first[1:]}; {second}."


def copies_lines(c: Comparison) -> list[str]:
    """How scenarios were scaled to be equal."""
    if c.at_equal is None:
        return []
    told = [f"{part.factor:.4g} of {part.name}" for part in c.scenarios if part.failed is None]
    return [f"At equal {EQUAL[c.at_equal]}, copies: {_joined(told)}. {FRACTIONS}"]


def run_lines(c: Comparison) -> list[str]:
    """How often each scenario was played."""
    fit = [part for part in c.scenarios if part.failed is None]
    still = [part.name for part in fit if not part.random]
    found = []
    if any(part.random for part in fit):
        found.append(f"{c.seeds} seeds, {c.seed} to {c.seed + c.seeds - 1}, the same for each scenario.")
    if still:
        who = "No scenario has anything random" if len(still) == len(fit) else f"Nothing is random in {_joined(still)}"
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


def _percent(value: float) -> str:
    """A relative difference: "+11.1%", or "×272" where it is more than tenfold."""
    if value == 0:
        return "0%"
    if value >= 10:
        return f"×{value + 1:,.3g}"
    return f"{_MINUS if value < 0 else '+'}{format_percent(abs(value))}"


def _usd(value: float) -> str:
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
        return _percent(gap.mean)
    return f"{_percent(gap.mean)} [{_percent(gap.low)}, {_percent(gap.high)}]"


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


def _joined(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
