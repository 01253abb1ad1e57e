"""Which scenario to buy for which load, in words and tables that page and terminal share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from sim.report.compare_training import training_sentences
from sim.report.compare_words import EQUAL, metric_rows, percent, usd, write_metric
from sim.report.values import NONE, joined, write
from sim.study.compare_schema import Against, ByDemand, ByLoad, Comparison, Missed, Pair, ScenarioPart
from sim.units import format_count, format_percent

USE: Final = (
    "Utilisation is the share of saturated throughput that is asked for; purchase, hosting and rent run on, "
    "electricity goes from idle power to that of saturation."
)
DEMAND: Final = (
    "Demand is met by whole copies, all paid all the time; latency is in it only where objectives or a speed per user "
    "are named. Stretches of demand shorter than a tenth of it are not told."
)
LOADS: Final = (
    "The cheapest whole copies for a steady demand of users who each see at least a speed: copies, scenario, USD per "
    "million tokens, and the next with how much dearer it is (less than the model's error, a tenth or more, is no "
    "difference). Copies are filled no further than the speed allows; between the loads that were played, throughput "
    "follows the time of a token linearly."
)
SPEED: Final = (
    "Speed per user is 1 / median TPOT; a cluster has as many users as see that speed, or a higher one. Between the "
    "points of a curve, cost follows speed linearly."
)
MOST_SAID: Final = 4
"""Stretches that a sentence tells."""
SHORT: Final = 0.1
"""Stretches of demand shorter than this share of it are left out of sentences."""
PAIRWISE: Final = 3
"""Of more scenarios break-even is a table."""


def answer(c: Comparison) -> list[str]:
    """Which to buy for which load, in a few sentences."""
    trained = training_sentences(c)
    found = [missed_sentence(c), *(trained or [_by_cost(c)]), _by_equal(c)]
    if c.by_demand:
        found += [_by_demand(c), _by_demand_within(c)]
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
    load = "At the loads given" if any(s.group == "load" and not s.detail for s in c.settings) else "At this load"
    head = f"{load} {best[1].name} makes tokens {what}, {write_metric(name, best[1].metrics[name].mean)}"
    more = [f"{part.name} {percent(part.metrics[name].mean / best[1].metrics[name].mean - 1)}" for _, part in rest]
    same = _tie(c, best[0], rest)
    if best[1].missed and any(part.objectives and not part.missed for _, part in rest):
        head += ", without keeping its objectives"
    return f"{head}{f' ({joined(more)})' if more else ''}.{same}"


def missed_sentence(c: Comparison) -> str:
    """Who keeps its objectives at the loads given, and who does not: what else is said holds for these loads."""
    held = [part for part in c.scenarios if part.objectives and part.failed is None]
    missed = [part for part in held if part.missed]
    if not missed:
        return ""
    told = [f"{part.name} misses {joined([_missed(m) for m in part.missed])}{_share(part)}" for part in missed]
    kept = [part.name for part in held if not part.missed]
    load = "the loads given" if any(s.group == "load" and not s.detail for s in c.settings) else "this load"
    if not kept:
        who = "not kept" if len(missed) == 1 else "kept by neither" if len(missed) == 2 else "kept by none"
        return f"Objectives are {who} at {load}: {'; '.join(told)}."
    return f"Objectives are kept at {load} by {joined(kept)}; {'; '.join(told)}."


def _missed(found: Missed) -> str:
    """ "TTFT p99 (41 s of 2 s)"."""
    measured = "no answer" if found.measured_s is None else write("ttft_s", found.measured_s)
    return f"{_objective(found.name)} ({measured}, promised {write('ttft_s', found.limit_s)})"


def _share(part: ScenarioPart) -> str:
    known = part.metrics.get("slo_attainment")
    return "" if known is None else f", {format_percent(known.mean)} of requests within all"


def _objective(name: str) -> str:
    """ "TTFT p99" of ``ttft_p99``, behind the job's name where there is one."""
    job, _, bare = name.rpartition(": ")
    return f"{job}{': ' if job else ''}{bare.replace('_', ' ').upper().replace(' P', ' p')}"


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
    return f"At equal {EQUAL[c.at_equal]}: {joined(told)}."


def _tie(c: Comparison, best: int, rest: Sequence[tuple[int, ScenarioPart]]) -> str:
    """Whether the best and the baseline differ clearly in what it is best at."""
    assert c.split_by is not None
    for pair in c.pairs:
        unclear = c.split_by in pair.metrics and pair.metrics[c.split_by].verdict == "no clear difference"
        if unclear and rest and {best, rest[0][0]} == {c.baseline, pair.scenario}:
            return " The first two are no clear difference apart."
    return ""


class Stretch(NamedTuple):
    """Who meets demands up to ``end`` tokens/s cheapest, and with how many copies there."""

    scenario: int
    copies: int
    end: float


def stretches(found: Sequence[ByDemand]) -> list[Stretch]:
    """Stretches of demand worth telling: short ones go to their neighbours before, or after for the first."""
    told: list[Stretch] = []
    for s in found:
        here = Stretch(s.scenario, s.copies, s.to_tokens_per_s)
        if told and s.to_tokens_per_s - s.from_tokens_per_s < SHORT * s.to_tokens_per_s:
            continue
        if told and told[-1].scenario == here.scenario:
            told.pop()
        told.append(here)
    if told and found:
        told[-1] = told[-1]._replace(end=found[-1].to_tokens_per_s)
    return told


def stretches_text(c: Comparison, found: Sequence[ByDemand]) -> str:
    """"a up to 100 tok/s, then b up to 300 tok/s (2 copies there)"."""
    known = stretches(found)
    told = []
    for s in known[:MOST_SAID]:
        copies = f" ({s.copies:,} copies there)" if s.copies > 1 else ""
        told.append(f"{c.scenarios[s.scenario].name} up to {write('output_tokens_per_s', s.end)}{copies}")
    left = len(known) - MOST_SAID
    more = f", and so on in turn ({left:,} more stretches)" if left > 0 else ""
    return f"{', then '.join(told)}{more}"


def _by_demand(c: Comparison) -> str:
    return f"A steady demand is met cheapest with whole clusters of {stretches_text(c, c.by_demand)}{_when_full(c)}."


def _by_demand_within(c: Comparison) -> str:
    """The same with clusters that are filled only as far as their objectives allow."""
    if not c.by_demand_within:
        return ""
    never = [p.name for p in c.scenarios if p.objectives and p.curve and p.use is not None and p.within is None]
    out = f"; not within them at any load: {joined(never)}" if never else ""
    return f"Each filled only as far as its own objectives allow: {stretches_text(c, c.by_demand_within)}{out}."


def objectives_lines(c: Comparison) -> list[str]:
    """What each promises, those that promise the same together; and what that leaves of its throughput."""
    groups: dict[str, list[str]] = {}
    for part in c.scenarios:
        if part.within is not None and part.use is not None:
            limits = [f"{_objective(name)} within {write('ttft_s', limit)}" for name, limit in part.objectives.items()]
            share = format_percent(part.within.tokens_per_s / part.use.tokens_per_s)
            groups.setdefault(joined(limits), []).append(f"{part.name} {share}")
    return [f"{limits} leaves of saturated throughput: {joined(names)}." for limits, names in groups.items()]


# -- demand and speed ---------------------------------------------------------------------------------------


def load_table(c: Comparison, called: Callable[[str], str] = str) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of which to buy: a row a demand, a column a speed per user; names as ``called``."""
    if not c.by_load:
        return [], []
    speeds = list(dict.fromkeys(found.tokens_per_s_per_user for found in c.by_load))
    cells = {(found.tokens_per_s, found.tokens_per_s_per_user): found for found in c.by_load}
    demands = list(dict.fromkeys(found.tokens_per_s for found in c.by_load))
    names = ["any speed" if s is None else f"from {s:,.12g} tok/s a user" for s in speeds]
    rows = [
        [write("output_tokens_per_s", demand), *(_choice(c, cells.get((demand, speed)), called) for speed in speeds)]
        for demand in demands
    ]
    return ["demand", *names], rows


def _choice(c: Comparison, found: ByLoad | None, called: Callable[[str], str]) -> str:
    if found is None:
        return "none is that fast"
    copies = f"{found.copies:,} x " if found.copies > 1 else ""
    text = f"{copies}{called(c.scenarios[found.scenario].name)} {usd(found.usd_per_million_tokens)}"
    if found.next_scenario is None or found.next_usd_per_hour is None:
        return text
    more = percent(found.next_usd_per_hour / found.usd_per_hour - 1)
    return f"{text} ({called(c.scenarios[found.next_scenario].name)} {more})"


def _when_full(c: Comparison) -> str:
    """What a user sees of the clusters that meet a demand cheapest, when they are full."""
    told = []
    for at in dict.fromkeys(stretch.scenario for stretch in stretches(c.by_demand)[:MOST_SAID]):
        part = c.scenarios[at]
        last = max(part.curve, key=lambda point: point.tokens_per_s, default=None)
        if last is not None and last.tokens_per_s_per_user is not None:
            told.append(f"{write('tokens_per_s_per_user', last.tokens_per_s_per_user)} of {part.name}")
    return f"; when full a user sees {joined(told)}" if told else ""


def speed_sentences(c: Comparison) -> list[str]:
    """Who is cheapest at which speed per user."""
    if not c.cheapest:
        return []
    told = []
    for n, s in enumerate(c.cheapest[:MOST_SAID]):
        money = f"{usd(s.from_usd)} to {usd(s.to_usd)} USD/Mtok"
        if n == 0 and s.from_usd == s.to_usd:
            money = f"{usd(s.to_usd)} USD/Mtok"
        told.append(f"{c.scenarios[s.scenario].name} up to {write('output_tokens_per_s', s.to_speed)} ({money})")
    left = len(c.cheapest) - MOST_SAID
    more = f", and so on ({left:,} more stretches)" if left > 0 else ""
    found = [f"By speed per user the cheapest is {', then '.join(told)}{more}."]
    idle = [p.name for i, p in enumerate(c.scenarios) if p.curve and not any(s.scenario == i for s in c.cheapest)]
    if idle:
        found.append(f"Never cheapest at any speed when full: {joined(idle)}.")
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
            found.append(f"{part.name} is never as cheap as the API at {usd(price)} USD/Mtok: {full} at full use.")
        else:
            assert part.use is not None
            rate = write("output_tokens_per_s", api.utilisation * part.use.tokens_per_s)
            found.append(
                f"{part.name} is as cheap as the API at {usd(price)} USD/Mtok from {format_percent(api.utilisation)} "
                f"of saturation on ({rate})."
            )
    if len(_costs(c)) <= PAIRWISE:
        found += [_against(c, pair) for pair in c.against if _told(c, pair)]
    elif c.against:
        found += objectives_lines(c)
    return [*found, USE, DEMAND] if found else []


def break_even_table(c: Comparison) -> tuple[list[str], list[list[str]]]:
    """Of more than three scenarios: each against the baseline, and against the cheapest when full."""
    full = _costs(c)
    if len(full) <= PAIRWISE:
        return [], []
    best = min(full, key=lambda i: full[i])
    pairs = {(pair.scenario, pair.other): pair for pair in c.against}
    others = [i for i in dict.fromkeys((c.baseline, best)) if i in full]
    columns = ["scenario", "full", "saturated"]
    for i in others:
        name = c.scenarios[i].name
        columns += [f"token as cheap as a full {name}'s from", f"one no dearer than whole {name} from"]
    rows = []
    for i in full:
        part = c.scenarios[i]
        assert part.use is not None
        row = [part.name, _full_price(part), write("output_tokens_per_s", part.use.tokens_per_s)]
        for j in others:
            pair = pairs.get((i, j))
            row += [NONE, NONE] if pair is None else [_use_from(pair.utilisation), _demand_from(pair)]
        rows.append(row)
    return columns, rows


def _use_from(utilisation: float | None) -> str:
    return "never" if utilisation is None else f"{format_percent(utilisation)} of saturation"


def _demand_from(pair: Against) -> str:
    if pair.demand_tokens_per_s is None:
        return "never"
    return "any demand" if pair.demand_tokens_per_s == 0 else write("output_tokens_per_s", pair.demand_tokens_per_s)


def _costs(c: Comparison) -> dict[int, float]:
    """USD per million tokens at full use, of the scenarios of which it is known."""
    return {i: _price(part) for i, part in enumerate(c.scenarios) if part.use is not None}


def _told(c: Comparison, pair: Against) -> bool:
    """Pairs with the baseline, and each scenario against the cheapest when full; the rest is in the document."""
    full = _costs(c)
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


