"""Files of measured tables, read as cases: the format of a file is told by its columns.

A folder stands for all tables in it (``.csv``, ``.csv.gz``), of which those in no documented format are passed over;
a file in none is an error. Unknown columns are ignored.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, TextIO, cast

from sim.errors import InputError, Problem, did_you_mean
from sim.study.validate import kernel_cases as kernels
from sim.study.validate.cases import Case
from sim.study.validate.cells import BadRow, Cells, Reader, each
from sim.study.validate.published_cases import published_case
from sim.study.validate.serving_mapping import serving_case
from sim.study.validate.serving_tables import COLUMNS as SERVING_COLUMNS
from sim.study.validate.serving_tables import served_row
from sim.study.validate.tables import VTRAIN_COLUMNS, row_of, vtrain_row
from sim.study.validate.training_cases import training_case

SUFFIXES: Final = (".csv", ".csv.gz")


#: Columns that tell a format, and its reader; the first that fits.
FORMATS: Final[tuple[tuple[tuple[str, ...], Reader], ...]] = (
    (("table", "id"), each(lambda _, __, cells: training_case(row_of(cells)))),
    (VTRAIN_COLUMNS, each(lambda table, n, cells: training_case(vtrain_row(table, n, cells)), first=1)),
    (SERVING_COLUMNS, each(lambda _, __, cells: serving_case(served_row(cells)))),
    (("gpu", "m", "n", "k", "latency_us"), each(kernels.gemm_case)),
    (("gpu", "copied_bytes", "latency_us"), each(kernels.copy_case)),
    (("gpu", "op", "batch_size", "s", "num_heads", "kv", "latency_us"), each(kernels.attention_case)),
    (("gpu", "nccl", "op_name", "num_gpus", "bytes", "latency"), each(kernels.nccl_case)),
    (("gpu", "src", "num_gpus", "message_size", "latency"), kernels.engine_cases),
    (("gpu", "n_gpus", "bytes", "time_ns_in_place"), each(kernels.nccl_tests_case)),
    (("src", "num_workers", "devices_per_node", "size", "ms"), each(kernels.vidur_case)),
    (("kind", "hw", "config", "metric", "value", "unit"), each(published_case)),
)
#: Attention tables without a column ``op`` say in their file's name which attention it is.
ATTENTION: Final = (
    ("generation", kernels.decode_case), ("decode", kernels.decode_case), ("context", kernels.prefill_case),
    ("prefill", kernels.prefill_case),
)  # fmt: skip
ATTENTION_COLUMNS: Final = ("gpu", "batch_size", "s", "num_heads", "kv", "latency_us")


def read_tables(paths: Iterable[Path]) -> list[Case]:
    """The cases of every table. InputError for a file that cannot be read or is in no documented format."""
    return [case for _, cases in read_files(paths) for case in cases]


def read_files(paths: Iterable[Path]) -> list[tuple[Path, list[Case]]]:
    """Every table's file with its cases; InputError as from `read_tables`."""
    found: list[tuple[Path, list[Case]]] = []
    for path in paths:
        files = _tables_in(path) if path.is_dir() else [path]
        read = [(file, _read(file, optional=path.is_dir())) for file in files]
        if path.is_dir() and not any(cases for _, cases in read):
            raise _bad(path, None, "holds no table in a documented format (docs/validation.md)")
        found += read
    return found


def _tables_in(folder: Path) -> list[Path]:
    """What may be tables in a folder and those in it."""
    return sorted(file for file in folder.rglob("*") if file.name.endswith(SUFFIXES) and file.is_file())


def _read(path: Path, *, optional: bool) -> list[Case]:
    columns, rows = _rows(path)
    reader = _reader(path, columns)
    if reader is None:
        if optional:
            return []
        raise _bad(path, 1, f"is no measured table in a documented format (docs/validation.md){_missing(columns)}")
    try:
        return reader(_stem(path), [cells for _, cells in rows])
    except BadRow as error:
        raise _bad(path, rows[error.number][0], f"is no row of its table: {error}") from None


def _rows(path: Path) -> tuple[set[str], list[tuple[int, Cells]]]:
    """The columns, and every row with the line it ends on."""
    try:
        with _open(path) as file:
            reader = csv.DictReader(file)
            rows: list[tuple[int, Cells]] = [(reader.line_num, _cells(row)) for row in reader]
            return set(reader.fieldnames or ()), rows
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        near = None if path.exists() or not path.parent.is_dir() else did_you_mean(
            path.name, [other.name for other in path.parent.iterdir()]
        )  # fmt: skip
        raise _bad(path, None, f"cannot be read: {reason}", near) from None


def _open(path: Path) -> TextIO:
    if path.name.endswith(".gz"):
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
    return path.open(encoding="utf-8-sig", newline="")


def _cells(row: Mapping[str | None, str | Iterable[str] | None]) -> dict[str, str]:
    """Cells that have a column, short lines filled up."""
    return {key: value if isinstance(value, str) else "" for key, value in row.items() if key is not None}


def _reader(path: Path, columns: set[str]) -> Reader | None:
    for needed, reader in FORMATS:
        if columns >= set(needed):
            return reader
    if columns >= set(ATTENTION_COLUMNS):
        return next((each(make) for word, make in ATTENTION if word in path.name), None)
    return None


def _missing(columns: set[str]) -> str:
    """What the nearest format lacks, where a table is close to one."""
    formats = [set(needed) for needed, _ in FORMATS]
    nearest = max(formats, key=lambda needed: len(needed & columns) / len(needed))
    lacks = nearest - columns
    return f"; {', '.join(sorted(lacks))} missing?" if len(lacks) <= 2 and nearest & columns else ""


def _stem(path: Path) -> str:
    return path.name.partition(".")[0]


def _bad(path: Path, line: int | None, message: str, near: str | None = None) -> InputError:
    return InputError([Problem(str(path), line, None, None, message, near)])
