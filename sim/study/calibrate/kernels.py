"""A GPU's kernel constants, and the constants of its collectives, from tables of kernels.

Each kind of kernel is a part of its own: matrix products in 16 bits tell ``gemm_compute_16``, ``gemm_memory`` and
``gemm_launch``; those in 8 bits, with the memory and launches found before, ``gemm_compute_8`` and
``quantise_launch``; decode and prefill attention theirs; collectives the two branches of their library's fabric. Rows
left out together have the same weights (n, k), the same heads, or the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from sim.adapters.lookup import Library
from sim.errors import did_you_mean
from sim.spec.hardware import Fabric, KernelConstants
from sim.study.calibrate.entry import gpu_entry, provenance
from sim.study.calibrate.errors import constants_found, errors_of, refused
from sim.study.calibrate.fit import Constant, Floats, Task
from sim.study.calibrate.schema import CalibratedRow, Calibration, PartErrors
from sim.study.calibrate.select import calibrated
from sim.study.validate.cases import COPIES, DECODE_ATTENTION, GEMM, GEMM_8, PREFILL_ATTENTION, Case
from sim.study.validate.kernel_laws import Exchange

#: Fewest rows, and groups of them, that tell the constants of a part.
ROWS, GROUPS = 6, 3
#: No launch is shorter than a microsecond (the hardware's own), none longer than a millisecond.
LAUNCHES: Final = (1e-6, 1e-3)
SHARES: Final = (0.02, 1.0)
MICRO: Final = 1e6

Tables = Sequence[tuple[Path, list[Case]]]


@dataclass(frozen=True, slots=True)
class Part:
    """A kind of kernels: its constants, and what rows left out together have in common."""

    family: str
    constants: tuple[str, ...]
    alike: Callable[[Any], Hashable]
    held_out: str


PARTS: Final = (
    Part(COPIES, ("elementwise_memory", "elementwise_launch"), lambda c: c.size, "bytes"),
    Part(GEMM, ("gemm_compute_16", "gemm_memory", "gemm_launch"), lambda p: (p.n, p.k), "weights (n, k)"),
    Part(GEMM_8, ("gemm_compute_8", "quantise_launch"), lambda p: (p.n, p.k), "weights (n, k)"),
    Part(DECODE_ATTENTION, ("decode_memory", "decode_launch"), lambda a: (a.heads, a.kv_heads), "heads"),
    Part(PREFILL_ATTENTION, ("prefill_compute", "prefill_launch", "prefill_memory"),
         lambda a: (a.heads, a.kv_heads), "heads"),
)  # fmt: skip
#: Constants of a fabric that are times, and the factors on its link's rate.
TIMES: Final = ("alpha", "step", "bulk_alpha", "bulk_step")


def kernel_cases(tables: Tables, gpu: str, software: str | None) -> list[Case]:
    """The measured kernels of a GPU; of one software where that is named."""
    measured = [case for _, cases in tables for case in cases if case.kernel is not None and case.reason is None]
    cases = [case for case in measured if case.kernel is not None and case.kernel.gpu == gpu]
    chosen = [case for case in cases if software is None or case.source.startswith(software)]
    if not cases:
        known = sorted({case.kernel.gpu for case in measured if case.kernel is not None})
        near = did_you_mean(gpu, known)
        raise refused("sim calibrate", f"no row of the tables is a kernel of {gpu}; at least {ROWS} are needed", near)
    if not chosen:
        known = sorted({case.source for case in cases})
        raise refused("--software", f"no kernel of {gpu} was measured with '{software}': there are {', '.join(known)}")
    return chosen


def calibrate_kernels(tables: Tables, gpu_id: str, software: str | None, folds: int) -> Calibration:
    """The constants of every part that the tables have enough rows of. InputError where none has."""
    library = Library()
    gpu = library.gpu(gpu_id)
    cases = kernel_cases(tables, gpu_id, software)
    kernels = gpu.kernels or library.default_kernels()
    fits: list[_Fit] = []
    for part in PARTS:
        own = [case for case in cases if case.family == part.family]
        if _enough(own, part.alike):
            fits.append(_kernels(part, own, kernels, library.default_kernels(), folds))
            kernels = kernels.model_copy(update=fits[-1].values)
    fabrics: list[Fabric] = []
    for name in dict.fromkeys(case.kernel.library for case in cases if isinstance(case.kernel, Exchange)):
        own = [case for case in cases if isinstance(case.kernel, Exchange) and case.kernel.library == name]
        if _enough(own, _bytes):
            base, fit = _collectives(own, folds)
            fits.append(fit)
            fabrics.append(_with(base, fit.values))
    if not fits:
        counts = f"{len(cases)} kernels of {gpu_id}"
        raise refused("sim calibrate", f"{counts} are too few: {ROWS} rows of {GROUPS} shapes of one kind are needed")
    files = provenance(tables, [case for fit in fits for case in fit.cases])
    parts = tuple(fit.errors for fit in fits)
    return Calibration(
        gpu=gpu_id, stack=None, tables=files, parts=parts, rows=tuple(row for fit in fits for row in fit.rows),
        entry=gpu_entry(gpu_id, kernels, fabrics, parts, files),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Fit:
    """A part after its fit."""

    cases: Sequence[Case]
    errors: PartErrors
    rows: tuple[CalibratedRow, ...]

    @property
    def values(self) -> dict[str, float]:
        """Its constants."""
        return {constant.name: constant.value for constant in self.errors.constants}


def _kernels(
    part: Part, cases: Sequence[Case], kernels: KernelConstants, middle: KernelConstants, folds: int
) -> _Fit:  # fmt: skip
    """A part's constants, the others as ``kernels`` has them."""

    def law(values: Mapping[str, float], kernel: Any) -> float:
        found: float = kernel.seconds(kernels.model_copy(update=dict(values)))
        return found

    constants = tuple(_kernel_constant(name, getattr(kernels, name)) for name in part.constants)
    of_all = {name: getattr(middle, name) for name in part.constants}
    return _fitted(part.family, cases, constants, law, part.alike, part.held_out, folds, of_all)


def _enough(cases: Sequence[Case], alike: Callable[[Any], Hashable]) -> bool:
    return len(cases) >= ROWS and len({alike(case.kernel) for case in cases}) >= GROUPS


def _kernel_constant(name: str, start: float) -> Constant:
    if name.endswith("_launch"):
        return Constant(name, start, *LAUNCHES, slows=True, scale=MICRO**-1)
    return Constant(name, start, SHARES[0], 10.0 if name == "prefill_memory" else SHARES[1])


def _fitted(
    name: str, cases: Sequence[Case], constants: tuple[Constant, ...],
    law: Callable[[Mapping[str, float], Any], float], alike: Callable[[Any], Hashable], held_out: str, folds: int,
    of_all: Mapping[str, float] | None,
) -> _Fit:  # fmt: skip
    """A part's constants, errors and rows; ``of_all`` are the medians of all GPUs, where there are any."""
    names = [constant.name for constant in constants]

    def seconds(values: Sequence[float], which: Sequence[int]) -> Floats:
        named = dict(zip(names, values, strict=True))
        return np.array([law(named, cases[i].kernel) for i in which])

    measured = [float(case.measured or 0.0) for case in cases]
    task = Task(constants, np.array(measured) / MICRO, seconds)
    groups = [alike(case.kernel) for case in cases]
    found = calibrated(task, groups, folds)
    told = constants_found(constants, found)
    everything = range(len(cases))
    before = task.seconds([constant.start for constant in constants], everything) * MICRO
    after = task.seconds([constant.value for constant in told], everything) * MICRO
    left_out = _left_out(task, found.held_out)
    bare = before if of_all is None else task.seconds([of_all[name] for name in names], everything) * MICRO
    errors = PartErrors(
        name=name, rows=len(cases), groups=len(set(groups)), folds=found.folds, held_out=held_out,
        bare=errors_of(zip(bare, measured, strict=True)), catalogue=errors_of(zip(before, measured, strict=True)),
        fitted=errors_of(zip(after, measured, strict=True)),
        cross_validated=errors_of(zip(left_out, measured, strict=True)), constants=told,
    )  # fmt: skip
    rows = tuple(
        CalibratedRow(
            table=case.table, id=case.id, group=case.group or "", metric=case.metric or "", unit=case.unit or "",
            measured=measured[i], catalogue=float(before[i]), fitted=float(after[i]), cross_validated=left_out[i],
        )
        for i, case in enumerate(cases)
    )  # fmt: skip
    return _Fit(cases, errors, rows)


def _left_out(task: Task, held_out: Sequence[tuple[float, ...]]) -> list[float]:
    """Microseconds of each row by the constants found without its fold."""
    members: dict[tuple[float, ...], list[int]] = {}
    for i, values in enumerate(held_out):
        members.setdefault(values, []).append(i)
    found = [0.0] * len(held_out)
    for values, which in members.items():
        for i, seconds in zip(which, task.seconds(values, which), strict=True):
            found[i] = float(seconds) * MICRO
    return found


# -- collectives --------------------------------------------------------------------------------------------


def _bytes(exchange: Exchange) -> float:
    """What collectives that are left out together have in common."""
    return exchange.size


def _collectives(cases: Sequence[Case], folds: int) -> tuple[Fabric, _Fit]:
    """The fabric that these collectives of one library are fitted over, and the fit."""
    exchanges = [case.kernel for case in cases if isinstance(case.kernel, Exchange)]
    library = exchanges[0].library
    base = exchanges[0].fabric()
    if base.library != library:
        base = base.model_copy(update={"library": library, "id": f"{library}-{base.kind}-{base.architecture or 'any'}"})

    def law(values: Mapping[str, float], kernel: Any) -> float:
        found: float = kernel.seconds(_with(base, values))
        return found

    constants = _fabric_constants(base, exchanges)
    return base, _fitted(f"collectives of {library}", cases, constants, law, _bytes, "bytes", folds, None)


def _fabric_constants(base: Fabric, exchanges: Sequence[Exchange]) -> tuple[Constant, ...]:
    """What of a fabric these collectives may tell."""
    found = [Constant(name, getattr(base, name), 0.0, 1e-3, slows=True, scale=MICRO**-1) for name in TIMES]
    found.append(Constant("efficiency", base.efficiency, SHARES[0], 10.0))
    sizes = sorted({exchange.members for exchange in exchanges})
    across = exchanges[0].spans and base.cross_efficiency is not None
    table = dict(base.cross_efficiency or {}) if across else base.bulk_efficiency
    for members in sizes:
        known = next((table[n] for n in sorted(table) if n >= members), table[max(table)])
        found.append(Constant(f"{'cross' if across else 'bulk'}_efficiency.{members}", known, SHARES[0], 10.0))
    if base.in_switch is not None and sizes[-1] > 4:
        found.append(Constant("in_switch", base.in_switch, SHARES[0], 10.0))
    return tuple(found)


def _with(base: Fabric, values: Mapping[str, float]) -> Fabric:
    """The fabric with these constants; those of a table by group size are named ``table.size``."""
    changes: dict[str, Any] = {}
    for name, value in values.items():
        table, _, size = name.partition(".")
        if size:
            changes[table] = {**(changes.get(table) or getattr(base, table) or {}), int(size): value}
        else:
            changes[name] = value
    return base.model_copy(update=changes)
