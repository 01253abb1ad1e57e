"""When what was bought has paid for itself: income less running costs against the price, and interest on it.

    left      = income - running costs                                    USD an hour; capital is no running cost
    payback   = capital / left                                            without interest
              = -ln(1 - i * capital / (8760 left)) / ln(1 + i) years      at interest i a year (discounted payback)
    never, where nothing is left, or no more than the interest on the purchase

With interest it is capital recovery (``sim.laws.pricing``) solved for the years: an hour's capital, without resale, is
what has to be left for a payback of just the amortisation. Payback and discounted payback: Brealey, Myers, Allen,
Principles of Corporate Finance, ch. 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log1p

from sim.laws.pricing import HOUR, HOURS_A_MONTH, YEAR, Span


def payback_hours(capital: float, left: float, interest: float = 0.0) -> float:
    """Hours until ``left`` USD an hour have paid off ``capital``, and the ``interest`` (a year) on what is still owed;
    infinite if they never do."""
    if capital <= 0.0:
        return 0.0
    if left <= 0.0:
        return inf
    if interest == 0.0:
        return capital / left
    owed = interest * capital / (left * YEAR / HOUR)
    return -log1p(-owed) / log1p(interest) * YEAR / HOUR if owed < 1.0 else inf


@dataclass(frozen=True, slots=True)
class Earnings:
    """What an hour that is occupied earns, what runs on in it and in one that is ``idle``, and what was paid for it all
    (USD), each within the bounds of prices; ``interest`` a year. All below is over the share of hours that is occupied.
    """

    occupied: Span
    worked: Span
    idle: Span
    capital: Span
    interest: float = 0.0

    def income(self, occupancy: float) -> Span:
        """USD of the mean hour."""
        return Span(*(end * occupancy for end in self.occupied))

    def running(self, occupancy: float) -> Span:
        """Running costs of the mean hour."""
        return Span(*(
            still + (full - still) * occupancy for full, still in zip(self.worked, self.idle, strict=True)
        ))  # fmt: skip

    def months(self, occupancy: float) -> float:
        """Months of 730 h until the purchase is paid back; infinite if it never is."""
        return self._months(self.capital.mid, self.income(occupancy).mid - self.running(occupancy).mid)

    def bounds(self, occupancy: float) -> tuple[float, float]:
        """The same at the best and at the worst prices."""
        income, running = self.income(occupancy), self.running(occupancy)
        best = self._months(self.capital.low, income.high - running.low)
        return best, self._months(self.capital.high, income.low - running.high)

    def _months(self, capital: float, left: float) -> float:
        return payback_hours(capital, left, self.interest) / HOURS_A_MONTH
