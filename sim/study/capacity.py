"""The most that a cluster carries within its objectives: the highest rate of requests or, where clients wait for their
answers (a closed loop), the largest number of them.

Only the rate changes, or the number (:mod:`~sim.study.loads`); the same random numbers serve all. Short runs of one
seed say where to look: by bisection from a fifth below what is answered at most, to ``PRECISION``. One such run is no
proof: its percentiles rest on a few dozen requests. So what it found is confirmed by long runs of several seeds
(:mod:`~sim.study.trials`), in steps of ``PRECISION``: upwards while all of them are within the objectives, or downwards
until they are. A rate that is too near to the most that is answered is not tried, for no run would be long enough.

Clients keep their pauses and how many requests each sends. More of them are taken to be slower for each, so that one
number parts those within the objectives from those beyond; it is found to one client, or to ``PRECISION`` above a
hundred. Whom the scheduler has no room for waits, which shows in TTFT and latency. Where only TPOT is limited, and
holds while half of the clients wait, it holds with any number of them, and the search says so instead of going on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf

from sim.adapters.resolve import Resolved, ResolvedServing
from sim.errors import InputError, Problem
from sim.jobs.play import Recording
from sim.jobs.serving.recording import ServingRecording
from sim.probe import answers, room_for, saturated, shortened
from sim.results.schema import Capacity, JobResult, Result, Tried
from sim.study.loads import at_rate, requests_of, with_so_many
from sim.study.trials import (
    ENOUGH,
    MOST_LOAD,
    SEEDS,
    Trial,
    answered_at_most,
    caveats,
    enough,
    few,
    is_steady,
    metrics_of,
    tried_with,
)
from sim.units import format_count, format_percent, format_usd

PRECISION = 0.02
"""Share of the rate, or of the number of clients, to which it is found."""
MOST_TRIES = 14
"""Rates of one search. Clients are whole, so that their search ends by itself."""
LEAST = 0.02
"""Share of the highest rate that is tried, below which nobody waits for others: what is missed there always is."""
WAITING = "half of them wait already, which no objective limits"
MOST_CLIENTS = 10_000
"""Clients that are tried, unless the scenario itself has more."""

Progress = Callable[[str, float], None]


def with_capacity(
    result: Result, resolved: Resolved, recording: Recording, progress: Progress | None = None, seeds: int = SEEDS
) -> Result:
    """The same with each serving job's capacity, found while the other jobs do what they do, and confirmed with so many
    seeds, ``SEEDS`` at least.

    Raises InputError for a serving job without objectives: anything would be within them.
    """
    require_objectives(resolved)
    jobs = list(result.jobs)
    for number, job in enumerate(resolved.jobs):
        if isinstance(job, ResolvedServing):
            capacity = find_capacity(resolved, recording, number, progress, seeds=max(SEEDS, seeds))
            notes = [*jobs[number].notes, told(capacity), *capacity.caveats]
            jobs[number] = jobs[number].model_copy(update={"capacity": capacity, "notes": notes})
    return result.model_copy(update={"jobs": jobs})


def require_objectives(resolved: Resolved) -> None:
    """Raise InputError where a capacity could not be found: no job serves, or one that does states no objectives."""
    text = "the capacity is the most within the objectives, and this job states none"
    problems = [
        Problem("", None, None, f"jobs.{number}.objectives", text)
        for number, job in enumerate(resolved.jobs)
        if isinstance(job, ResolvedServing) and not job.spec.limits
    ]
    if not any(isinstance(job, ResolvedServing) for job in resolved.jobs):
        problems.append(Problem("", None, None, "jobs", "no job serves requests, so there is no capacity to find"))
    if problems:
        raise InputError(problems)


# -- in words -----------------------------------------------------------------------------------------------


def told(capacity: Capacity) -> str:
    """A capacity in a sentence."""
    found = _amount_of(capacity)
    above = min((t for t in capacity.tried if not t.met and amount(t) > found), key=amount, default=None)
    beyond = "" if above is None else f"; {tried_at(above)} {above.why}"
    if capacity.rate is None:
        last = capacity.tried[-1]
        what = "rate" if last.clients is None else "number of clients"
        return f"no {what} was found within the objectives, down to {_words(last)}{beyond}"
    cost = "" if capacity.usd_per_million_tokens is None else f", {format_usd(capacity.usd_per_million_tokens)}/Mtok"
    tokens = f"{format_count(capacity.output_tokens_per_s or 0.0)} tok/s"
    rate = f"{format_count(capacity.rate)} req/s"
    sure = "" if not capacity.seeds else f", in {_runs(capacity)}"
    if capacity.clients is None:
        more = f"; {capacity.open_end}" if capacity.open_end else beyond
        return f"within the objectives it carries {rate} ({tokens}{cost}){sure}{more}"
    more = f" and more: {capacity.open_end}" if capacity.open_end else f"{sure}{beyond}"
    return f"within the objectives it carries {_clients(capacity.clients)} ({rate}, {tokens}{cost}){more}"


def _runs(capacity: Capacity) -> str:
    requests = f"{capacity.requests:,} requests"
    if len(capacity.seeds) == 1:
        return f"a run of {requests} (every seed gives the same)"
    return f"each of {len(capacity.seeds)} runs of {requests} (seeds {capacity.seeds[0]} to {capacity.seeds[-1]})"


def amount(tried: Tried) -> float:
    """What was tried: a rate, or a number of clients."""
    return tried.rate if tried.clients is None else tried.clients


def _amount_of(capacity: Capacity) -> float:
    return capacity.clients if capacity.clients is not None else capacity.rate or 0.0


def _words(tried: Tried) -> str:
    return f"{format_count(tried.rate)} req/s" if tried.clients is None else _clients(tried.clients)


def tried_at(tried: Tried) -> str:
    """ "at 1.21 req/s", or "with 58"."""
    return f"at {_words(tried)}" if tried.clients is None else f"with {_clients(tried.clients)}"


def _clients(number: int) -> str:
    return "one client" if number == 1 else f"{number:,} clients"


# -- the search ---------------------------------------------------------------------------------------------


def find_capacity(
    resolved: Resolved, recording: Recording, number: int, progress: Progress | None = None, *,
    seeds: int = SEEDS, floor: float = 0.0, long: bool = True, upwards: bool = True,
) -> Capacity:  # fmt: skip
    """The most of one job's requests within its objectives: their rate, or how many clients of a closed loop.

    ``seeds``: runs that confirm it; with one it is where the search of short runs ended. ``floor``: a rate or a number
    that is known to be carried by such runs. ``long``: whether these are longer than those of the search; ``upwards``:
    whether it may be more than short runs said.
    """
    asked, played = resolved.jobs[number], recording.jobs[number]
    assert isinstance(asked, ResolvedServing)
    assert isinstance(played, ServingRecording)
    short = shortened(resolved, recording)
    most = metrics_of(answers(saturated(resolved, recording))[number]).requests_per_s
    loop, seed = asked.spec.load.closed_loop, resolved.scenario.seed
    held_at_once, many = room_for(played), list(range(seed, seed + seeds))

    def rated(rate: float, order: Sequence[int], requests: int) -> Trial:
        case = at_rate(short, number, rate, requests)
        return tried_with(case, number, order, rate=rate, steady=len(order) > 1 and is_steady(resolved, number))

    def crowded(clients: float, order: Sequence[int], requests: int) -> Trial:
        whole = max(requests if len(order) > 1 else 0, requests_of(asked.spec.load, int(clients)))
        case = with_so_many(short, number, int(clients), whole)
        return tried_with(case, number, order, rate=0.0, clients=int(clients))

    if loop is None:
        quick = few(resolved, number, held_at_once)
        most = answered_at_most(short, number, most, quick)
        slow = enough(resolved, number, held_at_once) if long else quick
        walk = _Walk(rated, quick, slow, max(floor, MOST_LOAD * most), floor)
        first = max(0.8 * most, floor)
    else:
        bound = max(MOST_CLIENTS, loop.clients, floor)
        patient = all(name.startswith("tpot") for name in asked.spec.limits)
        walk = _Walk(crowded, 0, ENOUGH if long else 0, bound, floor, whole=True, patient=patient)
        first = max(loop.clients, floor)
    walk.search(first, [seed], progress)
    if seeds > 1:
        walk.confirm(many, progress, upwards)
    open_end = ""
    if loop is not None and walk.high == inf:
        open_end = "more were not tried" if walk.low >= walk.bound else WAITING
    elif loop is None and walk.low >= walk.bound:
        open_end = (
            f"above {format_percent(MOST_LOAD)} of the {format_count(most)} req/s that it answers at most waits take "
            "longer to settle than a run lasts, so that no higher rate is called carried"
        )  # fmt: skip
    return walk.capacity(most, open_end, resolved, number)


@dataclass(slots=True)
class _Walk:
    """How far a search came: the most that is within the objectives, and the least that is not. ``whole``: clients are
    counted; ``patient``: nothing limits how long one waits to be let in."""

    trial: Callable[[float, Sequence[int], int], Trial]
    few: int
    many: int
    bound: float
    floor: float
    whole: bool = False
    patient: bool = False
    low: float = 0.0
    high: float = inf
    best: Trial | None = None
    tried: list[Tried] = field(default_factory=list)

    def search(self, first: float, seeds: Sequence[int], progress: Progress | None) -> None:
        """Short runs, by bisection."""
        self.low = self.floor
        following: float | None = first
        while following is not None:
            self._try(following, seeds, self.few, progress)
            following = self._next()

    def _try(self, amount: float, seeds: Sequence[int], requests: int, progress: Progress | None) -> Trial:
        found = self.trial(amount, seeds, requests)
        self.tried.append(found.tried)
        if found.tried.met:
            self.low, self.best = amount, found
        else:
            self.high = amount
        if progress is not None:
            progress("finding the capacity", min(1.0, len(self.tried) / (2 * MOST_TRIES)))
        return found

    def _next(self) -> float | None:
        low, high = self.low, self.high
        if low >= self.bound:
            return None
        if self.whole:
            if high == inf:
                return None if self.patient and self._crowded() else min(2 * low, self.bound)
            return None if high - low <= max(1, PRECISION * high) else (low + high) // 2
        if len(self.tried) >= MOST_TRIES or (low and high - low <= PRECISION * high < inf):
            return None
        if high == inf:
            return min(low * 1.25, self.bound)
        if not low and high < LEAST * self.bound:
            return None
        return (low + high) / 2

    def confirm(self, seeds: list[int], progress: Progress | None, upwards: bool) -> None:
        """Long runs of every seed: upwards from what was found as long as it is carried, or downwards until it is."""
        if not self.low:
            return
        # Where nothing is random a longer run is but more of the same.
        again = self.trial(self.low, seeds[:2], self.few)
        if again.tried.met and not again.random:
            self.best = again
            return
        order = seeds
        found = self._try(self.low, order, self.many, progress)
        if found.tried.met:
            more, upwards = self._more(), upwards and not (self.whole and self.high == inf)
            while upwards and more > self.low and self._try(more, order, self.many, progress).tried.met:
                more = self._more()
            return
        start, share, self.low, self.best = self.low, PRECISION, 0.0, None
        for tries in range(MOST_TRIES):
            # The seed that missed is the likeliest to miss again: it comes first.
            order = [found.worst, *(seed for seed in seeds if seed != found.worst)]
            less = self._less(start, share)
            if less <= 0.0:
                return
            found = self._try(less, order, self.many, progress)
            if found.tried.met:
                return
            start, share = less, share if tries < 5 else 2 * share

    def _crowded(self) -> bool:
        """Whether half of the clients wait to be let in, by Little's law: more of them would not change who runs."""
        if self.best is None:
            return False
        m = metrics_of(next(iter(self.best.answers.values())))
        return (m.queue_s.mean or 0.0) * m.requests_per_s >= self.low / 2

    def _more(self) -> float:
        more = self.low * (1 + PRECISION)
        return min(max(self.low + 1, int(more)) if self.whole else more, self.bound)

    def _less(self, start: float, share: float) -> float:
        less = start * max(0.0, 1 - share)
        less = min(start - 1, int(less)) if self.whole else less
        return max(less, self.floor) if start > self.floor else less

    def capacity(self, most: float, open_end: str, resolved: Resolved, number: int) -> Capacity:
        """What was found, with what it gives: means over the seeds."""
        if self.best is None:
            return Capacity(
                rate=None, saturation=most, tried=self.tried, output_tokens_per_s=None, usd_per_million_tokens=None,
                caveats=caveats(resolved, number, self.tried[-1].rate, self.tried[-1].requests),
            )  # fmt: skip
        tried, found = self.best.tried, list(self.best.answers.values())
        costs = [usd for usd in map(_usd, found) if usd is not None]
        return Capacity(
            rate=tried.rate, clients=tried.clients, open_end=open_end, saturation=most, tried=self.tried,
            output_tokens_per_s=sum(metrics_of(job).output_tokens_per_s for job in found) / len(found),
            usd_per_million_tokens=sum(costs) / len(costs) if len(costs) == len(found) else None,
            requests=tried.requests, seeds=sorted(tried.seeds) if self.best.random else tried.seeds[:1],
            caveats=caveats(resolved, number, tried.rate, tried.requests),
        )  # fmt: skip


def _usd(job: JobResult) -> float | None:
    return None if job.cost is None else job.cost.usd_per_million_tokens


def at_capacity(resolved: Resolved, number: int, capacity: Capacity) -> Resolved:
    """The scenario with one job's load at its capacity, as it was tried. Raises ValueError where none was found."""
    if capacity.rate is None:
        raise ValueError("there is no capacity")
    if capacity.clients is not None:
        job = resolved.jobs[number]
        assert isinstance(job, ResolvedServing)
        requests = max(capacity.requests, requests_of(job.spec.load, capacity.clients))
        return with_so_many(resolved, number, capacity.clients, requests)
    return at_rate(resolved, number, capacity.rate, capacity.requests)
