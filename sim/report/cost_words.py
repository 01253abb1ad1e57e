"""Money of a job in words, for terminal and page."""

from __future__ import annotations

from typing import Final

from sim.report.values import NEVER, visible, write
from sim.results.schema import Cost, Swing, SwingPlan
from sim.units import format_count, format_percent, format_usd

USD: Final = "usd_per_million_tokens"
CLOSE: Final = 0.01
"""Prices of a token that differ by less are told once."""


def cost_facts(cost: Cost, which: str) -> list[str]:
    """What a token costs, reserved and by use, at this load (``which``) and at saturation, and what of."""
    facts = [f"{write(USD, cost.usd_per_million_tokens)} {which}{bounds(cost.usd_per_million_tokens_range)}"]
    by_use = cost.usd_per_million_tokens_by_use
    if by_use is not None and cost.usd_per_million_tokens and by_use < cost.usd_per_million_tokens * (1 - CLOSE):
        facts.append(f"{write(USD, by_use)} by use")
    if cost.saturation is not None:
        facts.append(f"{write(USD, cost.saturation.usd_per_million_tokens)} at saturation")
    parts = [f"{name} {format_percent(part)}" for name, part in visible(cost.breakdown_usd_per_hour)]
    if parts:
        facts[-1] += f" ({', '.join(parts)})"
    return [*facts, *api_facts(cost), *purchase_facts(cost), *payback_facts(cost), *contract_facts(cost)]


def api_facts(cost: Cost) -> list[str]:
    """What an API asks for a token, against what it costs here."""
    if cost.api_usd_per_million_tokens is None:
        return []
    asked = f"an API asks {write(USD, cost.api_usd_per_million_tokens)}"
    if cost.api_price_ratio is None:
        return [asked]
    return [f"{asked} ({cost.api_price_ratio:.3g} times the cost at this load)"]


def purchase_facts(cost: Cost) -> list[str]:
    """What the purchase is made of, where that is listed."""
    if len(cost.capital_items_usd) < 2:
        return []
    parts = [f"{what} {format_percent(share)}" for what, share in visible(cost.capital_items_usd)]
    return [f"purchase {write('capital_usd', cost.capital_usd)} ({', '.join(parts)})"]


def payback_facts(cost: Cost) -> list[str]:
    """When the income has paid for the purchase, and what is earned against what runs on."""
    if cost.income_usd_per_hour is None or cost.running_usd_per_hour is None:
        return []
    income = f"{write('income_usd_per_hour', cost.income_usd_per_hour)} earned"
    running = f"{write('running_usd_per_hour', cost.running_usd_per_hour)} of running costs"
    if cost.payback_months is not None:
        when = f"paid back in {write('payback_months', cost.payback_months)}{_payback_bounds(cost)}"
        return [f"{when}: {income}, {running}"]
    if cost.income_usd_per_hour > cost.running_usd_per_hour:
        running += ", which leaves no more than the interest on the purchase"
    return [f"never paid back{_payback_bounds(cost)}: {income}, {running}"]


def _payback_bounds(cost: Cost) -> str:
    """ " (5.1 to never by prices)", or nothing where prices have no bounds."""
    if cost.payback_months_range is None:
        return ""
    ends = [NEVER if end is None else write("payback_months", end).split(" ")[0] for end in cost.payback_months_range]
    return f" ({' to '.join(ends)} by prices)"


def bounds(ends: list[float] | None) -> str:
    """ " (0.84 to 0.93 by prices)", or nothing where prices have no bounds."""
    if ends is None:
        return ""
    return f" ({' to '.join(write(USD, end).split(' ')[0] for end in ends)} by prices)"


def contract_facts(cost: Cost) -> list[str]:
    """What was signed for, and what was not paid for."""
    facts = []
    if cost.committed_usd is not None:
        facts.append(f"{write('committed_usd', cost.committed_usd)} reserved, used or not")
    if cost.billed_fraction is not None:
        facts.append(f"{write('billed_fraction', cost.billed_fraction)} of machine time paid for")
    return facts


def swing_facts(swing: Swing | None) -> list[str]:
    """How a demand that swings over the day is met cheapest, and what the other ways cost."""
    if swing is None:
        return []
    best, last = swing.plans[swing.best], swing.plans[-1]
    facts = [f"{swing_range(swing)}: {plan_words(best)} cost {write(USD, best.usd_per_million_tokens)}"]
    facts[0] += bounds(best.usd_per_million_tokens_range)
    others = [plan for plan in (swing.plans[0], last) if plan is not best]
    facts += [f"{plan_words(plan)} {write(USD, plan.usd_per_million_tokens)}" for plan in others]
    return facts


def swing_range(swing: Swing) -> str:
    """ "1,020 to 10,200 tok/s"."""
    low, high = format_count(swing.valley_tokens_per_s), format_count(swing.peak_tokens_per_s)
    return f"{low} to {high} tok/s"


def plan_words(plan: SwingPlan) -> str:
    """ "14 copies all day and up to 7 by the hour"."""
    copies = f"{plan.base:,} {'copy' if plan.base == 1 else 'copies'}"
    if not plan.burst:
        return f"{copies} all day"
    if not plan.base:
        return f"up to {plan.burst:,} by the hour"
    return f"{copies} all day and up to {plan.burst:,} by the hour"


def day_usd(plan: SwingPlan) -> str:
    """What a plan costs a day."""
    return f"{format_usd(plan.usd_per_hour * 24)}/day"
