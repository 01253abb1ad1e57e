"""Measured tables against predictions: every row mapped, played and compared, none dropped in silence.

A row's error is of what its table measures; rows of quality C (orders of magnitude) are predicted and listed, but in
no statistic. Scenarios are told by the predictors given in; with an executor that happens in other processes, so they
must be picklable there. Nothing is read or written here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from math import isfinite
from pathlib import Path
from typing import Any, Final, NamedTuple

from sim.adapters.resolve import resolve
from sim.adapters.yaml_source import Source
from sim.errors import SimError
from sim.study.validate.agreement import Run, directions, summary, told
from sim.study.validate.cases import FAMILIES, SERVED_MIXTURES, TRAINING, Case
from sim.study.validate.predict import PREDICTORS, Predict, Prediction
from sim.study.validate.schema import Group, Row, Table, Validation

Hear = Callable[[int, int], None]

#: Qualities whose rows count.
COUNTED: Final = ("A", "B")
#: The family within training that acceptance speaks of.
SPECIFIED: Final = "training, fully specified dense models"


class Answer(NamedTuple):
    """What is predicted of a scenario, and the bytes of memory a program sees of its GPU."""

    prediction: Prediction
    capacity: float


def compare(
    cases: Iterable[Case],
    progress: Hear | None = None,
    executor: Executor | None = None,
    predictors: Mapping[str, Predict] = PREDICTORS,
) -> Validation:
    """Play and compare ``cases``; ``progress(done, of)`` hears of each scenario played.

    A scenario that is refused (input, memory) is a row with its reason; any other failure is raised.
    """
    known = list(cases)
    answers = iter(_play([case for case in known if case.scenario is not None], predictors, progress, executor))
    rows, runs = [], []
    for case in known:
        row = _row(case, next(answers) if case.scenario is not None else None)
        rows.append(row)
        if row.counted and case.knobs is not None and row.measured and row.predicted:
            runs.append((row.table, _run(case, row)))
    tables = [
        _table(name, [row for row in rows if row.table == name], [run for table, run in runs if table == name])
        for name in dict.fromkeys(case.table for case in known)
    ]
    return Validation(tables=tuple(tables), families=_families(rows), groups=_groups(rows), rows=tuple(rows))


def _play(
    cases: Sequence[Case], predictors: Mapping[str, Predict], progress: Hear | None, executor: Executor | None
) -> list[Answer | str]:
    """The prediction of each, or why it was refused; in order."""
    if executor is None:
        calls: Iterable[Answer | str] = (_answer(predictors[case.play], case.scenario) for case in cases)
    else:
        futures = [executor.submit(_answer, predictors[case.play], case.scenario) for case in cases]
        calls = (future.result() for future in futures)
    answers = []
    for done, answer in enumerate(calls, start=1):
        answers.append(answer)
        if progress is not None:
            progress(done, len(cases))
    return answers


def _answer(predict: Predict, scenario: Any) -> Answer | str:
    """The prediction of a scenario; the reason where it is refused."""
    try:
        resolved = resolve(Source(scenario, {}, scenario["name"]), Path())
        return Answer(predict(resolved), min(gpu.usable_memory for gpu in resolved.gpus.values()))
    except SimError as error:
        return _reason(error)


def _reason(error: SimError) -> str:
    """The first line of a refusal, without the place in a scenario that nobody wrote."""
    problems = getattr(error, "problems", None)
    return problems[0].message if problems else str(error).splitlines()[0]


def _row(case: Case, answer: Answer | str | None) -> Row:
    common: dict[str, Any] = {
        "table": case.table, "id": case.id, "source": case.source, "family": case.family, "group": case.group,
        "quality": case.quality, "mixture": case.mixture, "metric": case.metric, "unit": case.unit,
        "measured": case.measured, "assumptions": case.assumptions,
    }  # fmt: skip
    if isinstance(answer, str):
        return Row(**common, mapped=False, counted=False, reason=answer)
    if answer is None:
        predicted = case.predicted
    else:
        assert case.metric is not None
        predicted = float(answer.prediction[case.metric]) * case.scale
    if predicted is None or not case.measured or not isfinite(predicted):
        reason = case.reason or "the run has no such number"
        return Row(**common, mapped=False, counted=False, reason=reason)
    counted = case.quality in COUNTED
    return Row(
        **common, **_memory(case, answer), mapped=True, counted=counted, predicted=predicted,
        error=predicted / case.measured - 1,
    )  # fmt: skip


def _memory(case: Case, answer: Answer | None) -> dict[str, Any]:
    """Of training: the memory measured and predicted, and whether the latter fits."""
    if answer is None or case.family != TRAINING:
        return {}
    measured, predicted = case.memory_measured, float(answer.prediction["memory_peak_bytes"])
    return {
        "memory_measured": measured, "memory_predicted": predicted,
        "memory_error": predicted / measured - 1 if measured else None, "fits": predicted <= answer.capacity,
    }  # fmt: skip


def _run(case: Case, row: Row) -> Run:
    """The run by what its pair is compared on: a rate where the work of a step is known."""
    assert case.knobs is not None
    assert row.measured is not None
    assert row.predicted is not None
    if case.knobs.work:
        return Run(case.knobs, case.knobs.work / row.measured, case.knobs.work / row.predicted)
    return Run(case.knobs, row.measured, row.predicted)


def _table(name: str, rows: Sequence[Row], runs: Sequence[Run]) -> Table:
    specified = [row for row in rows if row.specified]
    memory = [row.memory_error for row in rows if row.counted and row.memory_error is not None]
    return Table(
        name=name,
        rows=len(rows),
        mapped=sum(row.mapped for row in rows),
        specified=len(specified),
        specified_mapped=sum(row.mapped for row in specified),
        errors=told(rows),
        dense=told(row for row in rows if not row.mixture),
        memory=summary(memory),
        does_not_fit=sum(row.fits is False for row in rows),
        directions=directions(runs),
        reasons=dict(Counter(row.reason for row in rows if row.reason is not None).most_common()),
    )


def _families(rows: Sequence[Row]) -> tuple[Group, ...]:
    """Families that have errors: of training also its specified rows, of all others those without experts, which are
    one more."""
    trained = [row for row in rows if row.family == TRAINING]
    members = {SPECIFIED: [row for row in trained if row.specified], TRAINING: trained} | {
        name: [row for row in rows if row.family == name and not row.mixture] for name in FAMILIES if name != TRAINING
    }
    mixtures = {SERVED_MIXTURES: [row for row in rows if row.mixture and row.family != TRAINING]}
    return _named(members | mixtures)


def _groups(rows: Sequence[Row]) -> tuple[Group, ...]:
    members: dict[str, list[Row]] = {}
    for row in rows:
        if row.group is not None:
            members.setdefault(row.group, []).append(row)
    return _named(dict(sorted(members.items())))


def _named(members: Mapping[str, Sequence[Row]]) -> tuple[Group, ...]:
    """The errors of each set of rows that has any."""
    found = ((name, told(rows)) for name, rows in members.items())
    return tuple(Group(name=name, **errors.model_dump()) for name, errors in found if errors is not None)
