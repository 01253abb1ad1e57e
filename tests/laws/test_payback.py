"""When a purchase has paid for itself: closed forms, what must rise and fall, and when it never does."""

from __future__ import annotations

from itertools import pairwise
from math import inf, isfinite

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.laws.payback import Earnings, payback_hours
from sim.laws.pricing import HOUR, Span, hourly_capital
from sim.spec.economics import CostSpec

amounts = st.floats(0.01, 1e6)
shares = st.floats(0.01, 1.0)
rates = st.one_of(st.just(0.0), st.floats(1e-6, 0.5))
"""Interest a year."""


def flat(value: float) -> Span:
    return Span(value, value, value)


def let(occupied: float, worked: float, idle: float, capital: float, interest: float = 0.0) -> Earnings:
    return Earnings(flat(occupied), flat(worked), flat(idle), flat(capital), interest)


def test_the_articles_h100_pays_itself_back_in_seven_months_of_720_hours() -> None:
    """30,000 USD at 5.952 USD/h; half the rent, twice the months; bought at a tenth of 40,000 USD, under one."""
    rent = 30000 / (7 * 720)
    assert payback_hours(30000, rent) / 720 == pytest.approx(7)
    assert payback_hours(30000, rent / 2) / 720 == pytest.approx(14)
    assert payback_hours(4000, rent) / 720 == pytest.approx(7 * 4 / 30)


def test_what_is_left_pays_the_purchase_by_the_month_of_730_hours() -> None:
    """10 USD/h for 60% of hours; 2 USD/h of running costs while let and 1 USD/h idle are 1.6 in the mean hour."""
    found = let(10.0, 2.0, 1.0, 32120.0)
    assert found.income(0.6).mid == pytest.approx(6)
    assert found.running(0.6).mid == pytest.approx(1.6)
    assert found.months(0.6) == pytest.approx(32120 / 4.4 / 730) == pytest.approx(10)


@given(capital=amounts, left=amounts, interest=st.floats(0.001, 0.5))
def test_interest_is_paid_year_by_year_until_nothing_is_owed(capital: float, left: float, interest: float) -> None:
    """What would be owed after so many whole years, and no more than a year's payment at the last of them."""
    hours, yearly, owed = payback_hours(capital, left, interest), left * 8760, capital
    if not isfinite(hours):
        assert capital * interest >= yearly * (1 - 1e-12)
        return
    assert hours >= capital / left * (1 - 1e-9)
    if hours < 200 * 8760:
        years = int(hours / 8760 + 1e-9)
        for _ in range(years):
            owed = owed * (1 + interest) - yearly
        assert -1e-6 * capital <= owed <= yearly * (1 + 1e-6)


@given(capital=amounts, years=st.floats(0.1, 30), interest=rates)
def test_capital_recovery_is_a_payback_in_the_years_of_amortisation(
    capital: float, years: float, interest: float
) -> None:
    """What an hour of the purchase costs over the years is what has to be left to pay it back in as many."""
    spec = CostSpec.model_construct(amortisation=years * 8760 * HOUR, interest=interest, resale=0.0)
    assert payback_hours(capital, hourly_capital(capital, spec), interest) == pytest.approx(years * 8760, rel=1e-6)


@given(worked=st.floats(0, 100), less=shares, rent=amounts, capital=amounts, interest=rates)
def test_more_rent_and_more_of_the_hours_pay_back_sooner(
    worked: float, less: float, rent: float, capital: float, interest: float
) -> None:
    idle = worked * less
    months = [let(rent, worked, idle, capital, interest).months(share / 10) for share in range(1, 11)]
    known = [value for value in months if isfinite(value)]
    assert months[len(months) - len(known) :] == known  # never below an occupancy, then sooner and sooner
    assert all(later < sooner for sooner, later in pairwise(known))
    dearer = let(1.5 * rent, worked, idle, capital, interest)
    for share, before in zip(range(1, 11), months, strict=True):
        after = dearer.months(share / 10)
        assert after < before or before == after == inf


@given(capital=amounts, running=amounts, share=shares)
def test_it_is_never_paid_back_where_running_costs_take_all(capital: float, running: float, share: float) -> None:
    assert let(running, running, running, capital).months(share) == inf
    assert let(0.5 * running, running, running, capital).months(1.0) == inf
    assert isfinite(let(1.5 * running, running, running, capital).months(1.0))
    assert payback_hours(0.0, -running) == 0.0  # what cost nothing is paid


def test_bounds_put_the_best_prices_together_and_the_worst() -> None:
    found = Earnings(Span(2, 3, 4), Span(0.5, 1, 1.5), Span(0.5, 1, 1.5), Span(7300, 14600, 21900))
    assert found.months(1.0) == pytest.approx(14600 / 2 / 730)
    assert found.bounds(1.0) == (pytest.approx(7300 / 3.5 / 730), pytest.approx(21900 / 0.5 / 730))
    assert found.bounds(0.5) == (pytest.approx(7300 / 1.5 / 730), inf)
