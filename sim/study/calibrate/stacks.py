"""The constants of one (GPU, stack) from tables of servings: fit, cross-validation, and rows that are only tested."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Final

from sim.adapters.lookup import Library
from sim.errors import did_you_mean
from sim.spec.stack import Stack
from sim.study.calibrate.entry import provenance, stack_entry
from sim.study.calibrate.errors import constants_found, errors_of, in_unit, refused
from sim.study.calibrate.fit import Constant, Tangent, Task, tangent
from sim.study.calibrate.schema import CalibratedRow, Calibration, PartErrors, Tested
from sim.study.calibrate.select import FELT, Found, calibrated
from sim.study.calibrate.servings import (
    LEVELS,
    Player,
    Run,
    bare,
    constants_of,
    pair_of,
    runs_of,
    with_constants,
)
from sim.study.validate.cases import Case
from sim.study.validate.schema import Errors

#: Fewest rows, and fewest different scenarios among them, that say anything.
ROWS, SCENARIOS = 4, 3
#: Fewest groups of rows left out together.
GROUPS: Final = 3

Hear = Callable[[str, float], None]
Tables = Sequence[tuple[Path, list[Case]]]


def calibrate_stack(
    tables: Tables, gpu_id: str, stack_id: str, name: str, folds: int, hear: Hear = lambda *_: None
) -> Calibration:  # fmt: skip
    """The constants of the pair with all that was found of them. InputError where the rows are too few."""
    library = Library()
    gpu, stack = library.gpu(gpu_id), _serving_stack(library, stack_id)
    runs = runs_of([case for _, cases in tables for case in cases], gpu_id, stack_id)
    rows = [i for i, run in enumerate(runs) if run.reason is None]
    _check_enough(tables, runs, rows, gpu_id, stack_id)
    constants = constants_of(gpu, gpu.kernels or library.default_kernels(), stack, [runs[i] for i in rows])
    player = Player(runs, stack, gpu_id)
    task = player.task(constants, rows)
    first = tangent(task, task.start, range(len(rows)), range(len(constants)))
    level = _level(runs, rows, constants, first)
    groups = [runs[i].groups[level] for i in rows]
    found = calibrated(task, groups, folds, first, lambda share: hear("fitting", share))
    told = constants_found(constants, found)
    fitted = with_constants(stack, gpu_id, {constant.name: constant.value for constant in told})
    before, after = player.predictions(stack), player.predictions(fitted)
    left_out = dict(zip(rows, _held_out(task, runs, rows, found), strict=True))
    alone = player.predictions(bare(stack, gpu_id))

    def errors(predicted: Sequence[float] | Mapping[int, float]) -> Errors:
        return errors_of((predicted[i], _measured(runs[i])) for i in rows)

    part = PartErrors(
        name="servings on one GPU", rows=len(rows), groups=len(set(groups)), folds=found.folds, held_out=LEVELS[level],
        bare=errors(alone), catalogue=errors(before), fitted=errors(after), cross_validated=errors(left_out),
        constants=told,
    )  # fmt: skip
    files = provenance(tables, [runs[i].case for i in rows])
    return Calibration(
        gpu=gpu_id, stack=stack_id, tables=files, parts=(part,), tested=_tested(runs, before, after),
        rows=tuple(_row(run, before[i], after[i], left_out.get(i)) for i, run in enumerate(runs)),
        entry=stack_entry(name, stack, gpu_id, part, files),
    )  # fmt: skip


def _serving_stack(library: Library, name: str) -> Stack:
    if name in library.names("training-stack") and name not in library.names("stack"):
        raise refused("--stack", f"'{name}' trains; constants are fitted to servings only: name a serving stack")
    stack = library.stack(name)
    if stack.kernels == "datasheet":
        raise refused("--stack", f"'{name}' is the datasheet's arithmetic: it has no constants to fit")
    return stack


def _check_enough(tables: Tables, runs: Sequence[Run], rows: Sequence[int], gpu: str, stack: str) -> None:
    """InputError where too few rows of the pair may be fitted to, with how many are needed."""
    scenarios = len({runs[i].key for i in rows})
    if len(rows) >= ROWS and scenarios >= SCENARIOS:
        return
    tested = f" ({len(runs) - len(rows)} more are only tested: {_reasons(runs)})" if len(runs) > len(rows) else ""
    message = (
        f"{len(rows)} rows of {scenarios} scenarios of {gpu} / {stack} may be fitted to{tested}; "
        f"at least {ROWS} rows of {SCENARIOS} scenarios are needed"
    )
    if not runs:
        pairs = {pair_of(case) for _, cases in tables for case in cases} - {None}
        known = sorted(" / ".join(pair) for pair in pairs if pair is not None)
        near = did_you_mean(f"{gpu} / {stack}", known)
        message = f"no row of the tables is a serving of {gpu} / {stack}; at least {ROWS} are needed"
        raise refused("sim calibrate", message, near)
    raise refused("sim calibrate", message)


def _reasons(runs: Sequence[Run]) -> str:
    return "; ".join(dict.fromkeys(run.reason for run in runs if run.reason is not None))


def _level(runs: Sequence[Run], rows: Sequence[int], constants: Sequence[Constant], first: Tangent) -> int:
    """The coarsest grouping of at least ``GROUPS`` groups of which at least two feel each constant that any feels:
    a constant that one group alone feels cannot be told by the others."""
    for level in range(len(LEVELS) - 1):
        groups = [runs[i].groups[level] for i in rows]
        feeling = [{groups[i] for i in range(len(rows)) if first.felt[i, j] >= FELT} for j in range(len(constants))]
        if len(set(groups)) >= GROUPS and all(len(felt) != 1 for felt in feeling):
            return level
    return len(LEVELS) - 1


def _held_out(task: Task, runs: Sequence[Run], rows: Sequence[int], found: Found) -> list[float]:
    """What is predicted of each fitted row by constants found without its fold, in its own unit."""
    by_values: dict[tuple[float, ...], list[int]] = {}
    for i, values in enumerate(found.held_out):
        by_values.setdefault(values, []).append(i)
    predicted = [0.0] * len(rows)
    for values, members in by_values.items():
        for i, seconds in zip(members, task.seconds(values, members), strict=True):
            predicted[i] = in_unit(float(seconds), runs[rows[i]].case.unit or "")
    return predicted


def _measured(run: Run) -> float:
    assert run.case.measured is not None
    return run.case.measured


def _tested(runs: Sequence[Run], before: Sequence[float], after: Sequence[float]) -> tuple[Tested, ...]:
    """Rows in no fit by why they are in none."""
    found = []
    for reason in dict.fromkeys(run.reason for run in runs if run.reason is not None):
        rows = [i for i, run in enumerate(runs) if run.reason == reason]
        found.append(Tested(
            reason=reason, catalogue=errors_of((before[i], _measured(runs[i])) for i in rows),
            fitted=errors_of((after[i], _measured(runs[i])) for i in rows),
        ))  # fmt: skip
    return tuple(found)


def _row(run: Run, before: float, after: float, held_out: float | None) -> CalibratedRow:
    case = run.case
    known = [value if value is not None and isfinite(value) else None for value in (before, after, held_out)]
    return CalibratedRow(
        table=case.table, id=case.id, group=case.group or "", metric=case.metric or "", unit=case.unit or "",
        measured=_measured(run), catalogue=known[0], fitted=known[1], cross_validated=known[2], reason=run.reason,
    )  # fmt: skip
