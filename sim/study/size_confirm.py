"""An answer of a search is confirmed before it is told: by longer runs, of several seeds, under a load that does not
come too near to the most that it answers (:mod:`~sim.study.trials`). Runs on a worker.

Runs that look for the fewest units are short, so that many designs can be looked at. Near saturation a short run ends
before its queue has grown, and its percentiles rest on a few requests: what it found may not last. A design that does
not takes more units, and comes back to the queue with what these cost. The winner is confirmed by long runs, what comes
after it by shorter ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from sim.adapters.resolve import Resolved
from sim.errors import InfeasibleError, RunError
from sim.probe import OPEN_ROUNDS
from sim.results.schema import JobResult
from sim.study.loads import MOST_REQUESTS, at_rate, requests_of, with_so_many
from sim.study.size_check import Checked, Question
from sim.study.size_play import Played, in_words, latency_of, most_tokens, overshoot, too_dear
from sim.study.size_space import Design, Space
from sim.study.trials import (
    ENOUGH,
    FEW,
    MOST_LOAD,
    SEEDS,
    Trial,
    answered_at_most,
    enough,
    few,
    is_steady,
    metrics_of,
    tried_with,
)
from sim.units import format_percent, format_usd


def confirm_design(
    space: Space, design: Design, question: Question, checked: Checked, played: Played, ceiling: float = inf,
    long: bool = True,
) -> Played:  # fmt: skip
    """What lasts of what was found, with more units if it takes them; or why the design is lost after all.

    A cost above ``ceiling`` is of no interest. ``long``: a hundred requests beyond the 99th percentile in each run,
    instead of a third of that.
    """
    try:
        if question.goal == "throughput":
            return most_tokens(space, design, question, played.units, settle=True, long=long)
        return _confirmed(space, design, question, checked, played, ceiling, long)
    except (InfeasibleError, RunError) as error:
        return Played(played.units, 1, lost="does not fit", reason=str(error).splitlines()[0])


def _confirmed(
    space: Space, design: Design, question: Question, checked: Checked, played: Played, ceiling: float, long: bool
) -> Played:
    units, runs, seed = played.units, 0, space.variants[design.variant].resolved.scenario.seed
    order, held = list(range(seed, seed + SEEDS)), _held(played)
    while True:
        resolved = space.resolved(design, units)
        load = _load(resolved, question, held)
        runs += question.rate is not None
        if load <= MOST_LOAD:
            trial = _trial(resolved, question, order, held, long)
            runs += len(trial.answers)
            if trial.tried.met:
                found = trial.answers.get(seed, next(iter(trial.answers.values())))
                return too_dear(space, found, units, runs) or _settled(question, found, units, runs, trial, long)
            why, over = trial.tried.why, overshoot(trial.answers[trial.worst])
            # The seed that missed is the likeliest to miss again: it comes first.
            order = [trial.worst, *(other for other in order if other != trial.worst)]
        else:
            why = f"requests come at {format_percent(load)} of the rate that it answers at most: waits do not settle"
            over = load / MOST_LOAD
        said = f"with {in_words(units, design)} {why}"
        if units == checked.most:
            return Played(units, runs, lost="misses an objective", reason=said, over=over)
        least = space.idle_usd_per_hour(design, units + 1)
        if question.goal == "cost" and least > ceiling:
            said = f"{said}; with more it costs {format_usd(least)}/h or more"
            return Played(units, runs, least, lost="costs more", reason=said)
        units += 1


def _settled(question: Question, found: JobResult, units: int, runs: int, trial: Trial, long: bool) -> Played:
    assert found.cost is not None
    value = found.cost.usd_per_hour if question.goal == "cost" else latency_of(found, question.latency)
    seeds = tuple(sorted(trial.tried.seeds) if trial.random else trial.tried.seeds[:1])
    requests = trial.tried.requests
    return Played(units, runs, value, found, settled=True, long=long, requests=requests, seeds=seeds)


def _held(played: Played) -> float:
    """Requests that are there at once, on average (Little)."""
    assert played.answer is not None
    m = metrics_of(played.answer)
    return m.requests_per_s * (m.latency_s.mean or 0.0)


def _load(resolved: Resolved, question: Question, held: float) -> float:
    """The rate that is asked for, over the most that is answered; 0 where it does not come by itself."""
    if question.rate is None:
        return 0.0
    requests = few(resolved, 0, held)
    return question.rate / answered_at_most(resolved, 0, question.rate, requests)


def _trial(resolved: Resolved, question: Question, order: Sequence[int], held: float, long: bool) -> Trial:
    """The whole load, for long: so many requests at the rate that is asked for, or from so many clients; a trace, a
    swing over the day and requests that come at once are what they are."""
    job = resolved.serving[0]
    loop = job.spec.load.closed_loop
    if question.rate is not None:
        rounds = min(MOST_REQUESTS, int(OPEN_ROUNDS * held))
        requests = enough(resolved, 0, held) if long else max(rounds, few(resolved, 0, held))
        case, rate = at_rate(resolved, 0, question.rate, requests), question.rate
        return tried_with(case, 0, order, rate=rate, steady=is_steady(resolved, 0))
    if loop is not None:
        requests = max(ENOUGH if long else FEW, requests_of(job.spec.load, loop.clients))
        return tried_with(with_so_many(resolved, 0, loop.clients, requests), 0, order, rate=0.0, clients=loop.clients)
    return tried_with(resolved, 0, order, rate=0.0)
