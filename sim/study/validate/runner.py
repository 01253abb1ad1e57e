"""Measured tables against predictions: every row mapped, simulated and compared, none dropped in silence.

All errors are of one invariant, the time of a step: a table that has tokens/s per GPU instead is converted with the
tokens of its global batch, so that +10% always means a step predicted 10% too long. Rows of quality C (orders of
magnitude) are predicted and listed, but in no statistic.

The prediction is a function given in, ``predict(resolved)``; with an executor it runs in other processes, so it must
be picklable there. Nothing is read or written here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from sim.adapters.resolve import Resolved, resolve
from sim.adapters.yaml_source import Source
from sim.errors import SimError
from sim.study.validate.agreement import Direction, Run, Summary, directions, summary
from sim.study.validate.tables import MeasuredRow
from sim.study.validate.training_mapping import Mapped, Unmapped, is_mixture, map_row

#: What ``predict`` answers: "step_time_s", "tokens_per_s_per_gpu" and "memory_peak_bytes".
Prediction = Mapping[str, float]
Predict = Callable[[Resolved], Prediction]
Hear = Callable[[int, int], None]


class Answer(NamedTuple):
    """What is predicted of a scenario, and the bytes of memory a program sees of its GPU."""

    prediction: Prediction
    capacity: float


COUNTED: Final = ("A", "B")
GIB: Final = 1024.0**3


@dataclass(frozen=True, slots=True)
class RowResult:
    """One row. ``measured`` and ``predicted`` are of ``metric`` in ``unit``; ``error`` is that of the step's time.

    ``mapped`` says whether the row has a scenario; ``reason`` why it has none, or why that could not be played.
    ``counted`` rows make the statistics. Memory is that of the peak GPU, in bytes; ``fits`` says whether what is
    predicted fits the card, as the measured run did.
    """

    table: str
    id: str
    group: str | None
    quality: str
    mixture: bool
    mapped: bool
    counted: bool
    metric: str | None = None
    unit: str | None = None
    measured: float | None = None
    predicted: float | None = None
    error: float | None = None
    memory_measured: float | None = None
    memory_predicted: float | None = None
    memory_error: float | None = None
    fits: bool | None = None
    assumptions: tuple[str, ...] = ()
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class TableResult:
    """One table: its rows, those mapped (of all, and of the dense ones of quality A), errors and directions.

    ``dense`` are the errors without mixtures of experts; ``does_not_fit`` counts runs whose predicted memory the card
    does not have; ``reasons`` counts why rows have no prediction.
    """

    rows: int
    mapped: int
    dense_a: int
    dense_a_mapped: int
    errors: Summary | None
    dense: Summary | None
    memory: Summary | None
    does_not_fit: int
    directions: tuple[Direction, ...]
    reasons: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every row, and the errors per table and per group ("gpu / stack / kind")."""

    rows: tuple[RowResult, ...]
    tables: Mapping[str, TableResult]
    groups: Mapping[str, Summary]

    def document(self) -> dict[str, Any]:
        """The comparison as plain data for JSON."""
        return asdict(self)


def compare(
    rows: Iterable[MeasuredRow], predict: Predict, progress: Hear | None = None, executor: Executor | None = None
) -> Comparison:
    """Map, simulate and compare ``rows``; ``progress(done, of)`` hears of each simulated row.

    A scenario that is refused (input, memory) is a row with its reason; any other failure is raised.
    """
    measured = list(rows)
    mapped = [map_row(row) for row in measured]
    answers = iter(_play([found for found in mapped if isinstance(found, Mapped)], predict, progress, executor))
    results, runs = [], []
    for row, found in zip(measured, mapped, strict=True):
        answer = next(answers) if isinstance(found, Mapped) else found.reason
        result = _result(row, found, answer)
        results.append(result)
        if isinstance(found, Mapped) and isinstance(answer, Answer) and result.counted:
            runs.append((row.table, Run(found, found.step_time_s, float(answer.prediction["step_time_s"]))))
    tables = {
        name: _table([r for r in results if r.table == name], [run for table, run in runs if table == name])
        for name in dict.fromkeys(row.table for row in measured)
    }
    return Comparison(tuple(results), tables, _groups(results))


def _play(
    mapped: Sequence[Mapped], predict: Predict, progress: Hear | None, executor: Executor | None
) -> list[Answer | str]:
    """The prediction of each, or why it was refused; in order."""
    if executor is None:
        calls: Iterable[Answer | str] = (_answer(predict, found.scenario) for found in mapped)
    else:
        futures = [executor.submit(_answer, predict, found.scenario) for found in mapped]
        calls = (future.result() for future in futures)
    answers = []
    for done, answer in enumerate(calls, start=1):
        answers.append(answer)
        if progress is not None:
            progress(done, len(mapped))
    return answers


def _answer(predict: Predict, scenario: dict[str, Any]) -> Answer | str:
    """The prediction of a scenario; the reason where it is refused."""
    try:
        resolved = resolve(Source(scenario, {}, scenario["name"]), Path())
        return Answer(predict(resolved), min(gpu.usable_memory for gpu in resolved.gpus.values()))
    except SimError as error:
        return str(error).splitlines()[0]


def _result(row: MeasuredRow, found: Mapped | Unmapped, answer: Answer | str) -> RowResult:
    mixture, counted = is_mixture(row), row.quality in COUNTED
    if isinstance(found, Unmapped):
        return RowResult(row.table, row.id, None, row.quality, mixture, False, False, reason=found.reason)
    group = f"{found.gpu} / {found.stack} / {found.kind}"
    common: dict[str, Any] = {
        "table": row.table, "id": row.id, "group": group, "quality": row.quality, "mixture": mixture, "mapped": True,
        "metric": found.metric, "unit": found.unit, "measured": found.measured, "assumptions": found.assumptions,
    }  # fmt: skip
    if isinstance(answer, str):
        return RowResult(**common, counted=False, reason=answer)
    prediction = answer.prediction
    memory, predicted_memory = _memory(row), float(prediction["memory_peak_bytes"])
    return RowResult(
        **common,
        counted=counted,
        predicted=float(prediction[found.metric]),
        error=float(prediction["step_time_s"]) / found.step_time_s - 1,
        memory_measured=memory,
        memory_predicted=predicted_memory,
        memory_error=predicted_memory / memory - 1 if memory else None,
        fits=predicted_memory <= answer.capacity,
    )


def _memory(row: MeasuredRow) -> float | None:
    """Measured bytes of the peak GPU; tables print GiB, some of them as the sum over GPUs."""
    if row.mem_gb is None:
        return None
    gpus = row.n_gpus if "SUM over GPUs" in row.notes and row.n_gpus else 1
    return row.mem_gb * GIB / gpus


def _table(rows: Sequence[RowResult], runs: Sequence[Run]) -> TableResult:
    dense_a = [row for row in rows if row.quality == "A" and not row.mixture]
    return TableResult(
        rows=len(rows),
        mapped=sum(row.mapped for row in rows),
        dense_a=len(dense_a),
        dense_a_mapped=sum(row.mapped for row in dense_a),
        errors=summary(_errors(rows)),
        dense=summary(_errors([row for row in rows if not row.mixture])),
        memory=summary([row.memory_error for row in rows if row.counted and row.memory_error is not None]),
        does_not_fit=sum(row.fits is False for row in rows),
        directions=directions(runs),
        reasons=dict(Counter(row.reason for row in rows if row.reason is not None).most_common()),
    )


def _groups(rows: Sequence[RowResult]) -> dict[str, Summary]:
    found = {}
    for group in dict.fromkeys(row.group for row in rows if row.group is not None):
        errors = summary(_errors([row for row in rows if row.group == group]))
        if errors is not None:
            found[group] = errors
    return found


def _errors(rows: Sequence[RowResult]) -> list[float]:
    return [row.error for row in rows if row.counted and row.error is not None]
