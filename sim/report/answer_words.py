"""How good an answer is, in words: what its error may be, and which objectives it misses."""

from __future__ import annotations

from typing import Final

from sim.report.values import NEGLIGIBLE, joined
from sim.results.schema import ExpectedError, JobResult
from sim.units import format_seconds

FAR: Final = "nothing near it was measured"
"""What is told where no group of measured runs is near."""


def expected_texts(job: JobResult) -> list[str]:
    """What is known of a job's errors: of its own group of measured runs, or of the nearest, and what is not known."""
    errors = job.expected_error, job.expected_ttft_error, job.expected_tpot_error
    return error_texts(job.kind == "serving", *errors)


def error_texts(
    serves: bool, rate: ExpectedError | None, first: ExpectedError | None, token: ExpectedError | None
) -> list[str]:
    """The same of the errors themselves: of throughput or step time, of TTFT and of TPOT."""
    if not any((rate, first, token)):
        return [f"unvalidated; {FAR}"]
    if not serves:
        return [_expected("step time", rate)]
    found = [_expected("throughput", rate), _expected("TTFT", first, rate)]
    return [*found, _expected("TPOT", token, first)] if token else found


def _expected(what: str, found: ExpectedError | None, before: ExpectedError | None = None) -> str:
    """One error in words; in what its group is near is not said again where that is as ``before``."""
    if found is None:
        return f"{what}: unvalidated; {FAR}"
    size = f"{found.median:.1%} median, {found.p90:.0%} p90{_lean(what, found.bias)}"
    runs = f"{found.rows:,} measured runs of {found.group}"
    if found.validated:
        return f"{what}: {size} ({runs})"
    if before and (before.alike, before.unlike) == (found.alike, found.unlike):
        return f"{what}: unvalidated; nearest: {size} ({runs}, as near)"
    alike = f": alike in {joined(found.alike)}" if found.alike else ""
    unlike = f", not in {joined(found.unlike)}" if found.unlike else ""
    return f"{what}: unvalidated; nearest: {size} ({runs}{alike}{unlike})"


def _lean(what: str, bias: float) -> str:
    """Which way predictions are off, in the median: rates are too fast or slow, times too long or short."""
    if abs(bias) < NEGLIGIBLE:
        return ", to both sides"
    high, low = ("too fast", "too slow") if what == "throughput" else ("too long", "too short")
    return f", {high if bias > 0 else low} by {abs(bias):.1%}"


def missed_facts(job: JobResult) -> list[str]:
    """The objectives that are missed, and by what: "tpot_p99 281 ms, over 250 ms"."""
    found = []
    for objective in job.objectives:
        if objective.get("met") is not False:
            continue
        limit, got = objective.get("limit_s"), objective.get("measured_s")
        over = "" if limit is None else f", over {format_seconds(limit)}"
        had = "never reached, requests were given up" if got is None else format_seconds(got)
        found.append(f"{objective.get('name', 'objective')} {had}{over if got is not None else ''}")
    return found
