"""Reads a document back (of a run, a comparison, a sweep, a size or a study of failures), or says in one line each
what is wrong with it.

The file may come from another version or from an editor, so it is checked before anything is drawn: its
size, its syntax, its schema version, then every field. Older readers refuse newer documents.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

from pydantic import ValidationError

from sim.errors import InputError, Problem
from sim.report.sweep_words import COLUMNS
from sim.results.schema import SCHEMA_VERSION, Result, ServingMetrics, TrainingMetrics
from sim.study import compare_schema, failures_schema, size_schema, sweep_schema
from sim.study.compare_schema import Comparison
from sim.study.failures_schema import FailureStudy
from sim.study.size_schema import Sizing
from sim.study.sweep_schema import SweepStudy

MAX_BYTES: Final = 200_000_000
"""Larger than any Result: its timelines are capped."""

MAX_PROBLEMS: Final = 20

METRICS: Final[dict[str | None, type[ServingMetrics | TrainingMetrics]]] = {
    "serving": ServingMetrics,
    "training": TrainingMetrics,
}
"""The class of a job's metrics, by its kind."""
CLASSES: Final = {metrics.__name__ for metrics in METRICS.values()}


Document = Result | Comparison | SweepStudy | FailureStudy | Sizing


def load_document(path: str | Path) -> Document:
    """What a JSON file holds, by its ``kind``; without one a result, or an early study of failures.

    Raises InputError when the file is none of these, or not one this version can read.
    """
    document = _parse(path, _read(path))
    kind = document.get("kind", "failures" if "bests" in document else "result")
    known: dict[str, Callable[[str | Path, dict[str, Any]], Document]] = {
        "comparison": _comparison, "failures": _failures, "result": _result, "size": _size,
        "sweep": _sweep,
    }  # fmt: skip
    if not isinstance(kind, str) or kind not in known:
        shown = f"{', '.join(sorted(known)[:-1])} and {sorted(known)[-1]} can be shown"
        _refuse(path, f"unknown kind {json.dumps(kind)[:40]}: {shown}", "kind")
    return known[kind](path, document)


def load_result(path: str | Path) -> Result:
    """The Result held in a JSON file; InputError when the file is not one this version can read."""
    return _result(path, _parse(path, _read(path)))


def _comparison(path: str | Path, document: dict[str, Any]) -> Comparison:
    _check_version(path, document, compare_schema.SCHEMA_VERSION)
    try:
        found = Comparison.model_validate(document)
    except ValidationError as error:
        raise InputError(_problems(path, error, [])) from None
    _check_places(path, found)
    return found


def _sweep(path: str | Path, document: dict[str, Any]) -> SweepStudy:
    _check_version(path, document, sweep_schema.SCHEMA_VERSION)
    try:
        found = SweepStudy.model_validate(document)
    except ValidationError as error:
        raise InputError(_problems(path, error, [])) from None
    if not found.points or not found.axes:
        _refuse(path, "a sweep has points and axes", "points" if found.axes else "axes")
    for number, point in enumerate(found.points):
        if any(key not in point.values for key in found.paths):
            _refuse(path, "a key that varies has no value", f"points[{number}].values")
    for name, table in found.heat_map.items():
        if [len(row) for row in table.cells] != [len(table.column_values)] * len(table.row_values):
            _refuse(path, "has not a cell for each pair of values", f"heat_map.{name}.cells")
    shown = {name for front in found.pareto for name in (front.cost, front.value)}
    for name in (*shown, *found.sensitivity, *found.heat_map):
        if name not in COLUMNS:
            _refuse(path, f"'{name}' is not a figure of a sweep", "pareto" if name in shown else "sensitivity")
    return found


def _size(path: str | Path, document: dict[str, Any]) -> Sizing:
    _check_version(path, document, size_schema.SCHEMA_VERSION)
    try:
        found = Sizing.model_validate(document)
    except ValidationError as error:
        raise InputError(_problems(path, error, [])) from None
    if not found.answers:
        _refuse(path, "a size has at least one answer", "answers")
    named = [*found.front, *(row.answer for row in found.best_by_machine if row.answer is not None)]
    if any(not 0 <= place < len(found.answers) for place in named):
        _refuse(path, f"an answer is named that is none of the {len(found.answers)}", "front")
    if all(row.answer is None for row in found.best_by_machine):
        _refuse(path, "names no machine of the answers", "best_by_machine")
    return found


def _failures(path: str | Path, document: dict[str, Any]) -> FailureStudy:
    _check_version(path, document, failures_schema.SCHEMA_VERSION)
    try:
        found = FailureStudy.model_validate(document)
    except ValidationError as error:
        raise InputError(_problems(path, error, [])) from None
    many = len(found.points)
    if not all(0 <= number < many for number in found.bests):
        _refuse(path, f"a point is named that is none of the {many}", "bests")
    if found.sample is not None and not 0 <= found.sample.point < many:
        _refuse(path, f"is of a point that is none of the {many}", "sample")
    if found.map is not None:
        wide = len(found.map.intervals_s)
        fits = all(len(row.goodput) == wide and 0 <= row.best < wide for row in found.map.rows)
        if not fits or not found.map.rows or not 0 <= found.map.point < many:
            _refuse(path, "has not a cell for each interval of its point", "map")
    return found


def _check_places(path: str | Path, found: Comparison) -> None:
    """Numbers of scenarios and points are those of some: the renderer may rely on it."""
    many = len(found.scenarios)
    places = [found.baseline, *(pair.scenario for pair in found.pairs), *(item.other for item in found.against)]
    places += [s.scenario for s in found.cheapest] + [s.scenario for s in found.by_demand]
    places += [p.scenario for p in found.front] + [a.scenario for a in found.against]
    places += [a.scenario for a in found.against_api]
    if any(not 0 <= place < many for place in places):
        _refuse(path, f"a scenario is named that is none of the {many}", "scenarios")
    if any(not 0 <= point.point < len(found.scenarios[point.scenario].curve) for point in found.front):
        _refuse(path, "a point is named that no curve has", "front")
    needed = [found.baseline, *(pair.scenario for pair in found.pairs)]
    for pair in found.pairs:
        if any(pair.metrics.keys() - found.scenarios[at].metrics.keys() for at in (found.baseline, pair.scenario)):
            _refuse(path, "a metric is compared that a scenario does not have", "pairs")
    if any(not found.scenarios[at].jobs for at in needed):
        _refuse(path, "a scenario is compared that has no jobs", "scenarios")
    if any(len(setting.values) != many for setting in found.settings):
        _refuse(path, f"a key has not {many} values", "settings")
    jobs = len(found.scenarios[found.baseline].jobs)
    for name in (name for at in needed for name in found.scenarios[at].metrics if name.startswith("jobs.")):
        number, _, metric = name.removeprefix("jobs.").partition(".")
        if not (number.isascii() and number.isdigit() and int(number) < jobs and metric):
            _refuse(path, f"'{name}' is not a metric of one of the {jobs} jobs", "scenarios")
    timed = [api.scenario for api in found.against_api] + [pair.scenario for pair in found.against]
    if any(found.scenarios[at].use is None for at in timed):
        _refuse(path, "a scenario breaks even whose cost by use is not told", "against")


def _result(path: str | Path, document: dict[str, Any]) -> Result:
    _check_version(path, document, SCHEMA_VERSION)
    try:
        result = Result.model_validate(document)
    except ValidationError as error:
        raise InputError(_problems(path, error, _kinds(document))) from None
    _check_kinds(path, result)
    return result


def _read(path: str | Path) -> str:
    try:
        size = Path(path).stat().st_size
        if size > MAX_BYTES:
            _refuse(path, f"{size:,} bytes is too large for a result (limit {MAX_BYTES:,})")
        return Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        _refuse(path, f"cannot be read ({error.strerror or type(error).__name__})")
    except UnicodeDecodeError:
        _refuse(path, "is not a result: not UTF-8 text")


def _parse(path: str | Path, text: str) -> dict[str, Any]:
    def no_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    try:
        document = json.loads(text, parse_constant=no_constant)
    except json.JSONDecodeError as error:
        problem = Problem(str(path), error.lineno, error.colno, None, f"is not JSON: {error.msg}")
        raise InputError([problem]) from None
    except RecursionError:
        _refuse(path, "is not a result: nested too deeply")
    except ValueError as error:
        _refuse(path, f"is not a result: {error}")
    if not isinstance(document, dict):
        _refuse(path, "is not a result: the document must be a JSON object")
    return document


def _check_version(path: str | Path, document: dict[str, Any], newest: int) -> None:
    if "schema_version" not in document:
        _refuse(path, "is not a result: it has no schema_version", "schema_version")
    version = document["schema_version"]
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        _refuse(path, f"unknown version {json.dumps(version)[:40]}", "schema_version")
    if version > newest:
        message = f"version {version} is newer than this program's {newest}: update gpu-cluster-sim"
        _refuse(path, message, "schema_version")


def _kinds(document: dict[str, Any]) -> list[str | None]:
    """The kind of each job of a document that may be anything."""
    jobs = document.get("jobs")
    kinds = [job.get("kind") if isinstance(job, dict) else None for job in jobs] if isinstance(jobs, list) else []
    return [kind if isinstance(kind, str) else None for kind in kinds]


def _check_kinds(path: str | Path, result: Result) -> None:
    """Metrics are those of the job's kind: a reader of either may rely on it."""
    places = [(f"jobs[{index}].metrics", job.kind, job.metrics) for index, job in enumerate(result.jobs)]
    if result.metrics is not None and len(result.jobs) == 1:
        places.append(("metrics", result.jobs[0].kind, result.metrics))
    for place, kind, metrics in places:
        if not isinstance(metrics, METRICS[kind]):
            _refuse(path, f"are not those of a {kind} job", place)


def _problems(path: str | Path, error: ValidationError, kinds: list[str | None]) -> list[Problem]:
    """A problem a field; of metrics, only what their job's kind asks for (pydantic tries every kind)."""
    every = error.errors(include_url=False, include_context=False, include_input=False)
    found = [(item, location) for item in every if (location := _location(item["loc"], kinds)) is not None]
    found = found or [(every[0], every[0]["loc"])]
    problems = [
        Problem(str(path), None, None, _dotted(location), _sentence(item["type"], item["msg"]))
        for item, location in found[:MAX_PROBLEMS]
    ]
    if len(found) > MAX_PROBLEMS:
        rest = f"and {len(found) - MAX_PROBLEMS} more problems"
        problems.append(Problem(str(path), None, None, None, rest))
    return problems


def _location(place: tuple[int | str, ...], kinds: list[str | None]) -> tuple[int | str, ...] | None:
    """A field's place without the class that pydantic tried; None where another class is meant."""
    tried = next((at for at, part in enumerate(place) if at and place[at - 1] == "metrics" and part in CLASSES), None)
    if tried is None:
        return place
    index = place[1] if place[0] == "jobs" else 0
    kind = kinds[index] if isinstance(index, int) and index < len(kinds) else None
    if kind not in METRICS or METRICS[kind].__name__ != place[tried]:
        return None
    return *place[:tried], *place[tried + 1 :]


def _sentence(kind: str, message: str) -> str:
    return "is missing" if kind == "missing" else message[0].lower() + message[1:]


def _dotted(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def _refuse(path: str | Path, message: str, field: str | None = None) -> NoReturn:
    raise InputError([Problem(str(path), None, None, field, message)])
