"""The document of a calibration: what ``sim calibrate --json`` prints and the entry is written from.

Errors are those of ``sim validate``: predicted / measured - 1 of a row's own metric; of a set the median and the 90th
percentile of their sizes, and the bias.
"""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from sim import __version__
from sim.study.validate.schema import Errors

SCHEMA_VERSION: Final = 1


class Piece(BaseModel):
    """A frozen piece of the document."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class TableFile(Piece):
    """A file that rows came from: its name, the SHA-256 of its bytes, and its rows of this calibration."""

    name: str
    sha256: str
    rows: int


class ConstantFound(Piece):
    """A constant: what it was (``before``), what it is now, and the bounds that physics sets it.

    ``fitted``: whether rows told it; one that they did not is as it was, and ``reason`` says why. ``felt`` is the
    largest share of a row's time that it decides.
    """

    name: str
    before: float
    value: float
    low: float
    high: float
    fitted: bool
    felt: float
    reason: str | None = None


class PartErrors(Piece):
    """One part of the fit: its rows and groups, and the errors with nothing fitted (``bare``: of a stack the kernels
    alone; of kernels the medians of all GPUs), as in the catalogue, fitted, and of each row by constants found without
    its fold. ``held_out`` says what rows of one fold have in common."""

    name: str
    rows: int
    groups: int
    folds: int
    held_out: str
    bare: Errors
    catalogue: Errors
    fitted: Errors
    cross_validated: Errors
    constants: tuple[ConstantFound, ...]


class Tested(Piece):
    """Rows in no fit, for one reason: their errors as in the catalogue and with the constants found."""

    reason: str
    catalogue: Errors
    fitted: Errors


class CalibratedRow(Piece):
    """One measured row, with what was predicted of it; ``reason`` says why it is only tested."""

    table: str
    id: str
    group: str
    metric: str
    unit: str
    measured: float
    catalogue: float | None
    fitted: float | None
    cross_validated: float | None
    reason: str | None = None


class Calibration(Piece):
    """What was fitted to what, how well, and the entry (a ``define:`` block) that says it to a scenario."""

    schema_version: int = SCHEMA_VERSION
    version: str = __version__
    gpu: str
    stack: str | None
    tables: tuple[TableFile, ...]
    parts: tuple[PartErrors, ...]
    tested: tuple[Tested, ...] = ()
    rows: tuple[CalibratedRow, ...] = ()
    entry: dict[str, Any]
