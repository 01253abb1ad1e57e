"""Reading measured serving tables: one value a row, as its source states it.

One format is documented (docs/validation.md): the columns of ``inference/measured.csv``. Columns that are not known are
ignored. An empty cell is None, and a cell that should be a number but is prose ("dataset", "saturated") is None too,
its text kept in ``texts``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from sim.study.validate.cells import Cells, record

#: Columns that tell this format from others.
COLUMNS = ("id", "source", "engine", "mode", "metric", "value", "unit")
_TOKENS_A_SAMPLE = re.compile(r"tokens/sample=([\d.]+)")


@dataclass(frozen=True, slots=True)
class ServedRow:
    """One measured serving run. ``value`` is of ``metric`` in ``unit``, of the whole system or per GPU or request
    (``scope``); ``batch`` sequences at once, or as many clients; ``isl`` and ``osl`` prompt and answer in tokens."""

    id: str
    source: str = ""
    model: str = ""
    weights: str = ""
    kv_dtype: str = ""
    gpu: str = ""
    n_gpus: int | None = None
    n_nodes: int | None = None
    interconnect: str = ""
    tp: int | None = None
    pp: int | None = None
    engine: str = ""
    version: str = ""
    mode: str = ""
    batch: int | None = None
    isl: int | None = None
    osl: int | None = None
    metric: str = ""
    value: float | None = None
    unit: str = ""
    scope: str = ""
    quality: str = ""
    notes: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def tokens_a_sample(self) -> float | None:
        """Generated tokens per request, where the notes count them."""
        found = _TOKENS_A_SAMPLE.search(self.notes)
        return float(found[1]) if found else None


def served_row(cells: Cells) -> ServedRow:
    """A row from the texts of its cells; unknown columns are ignored."""
    return record(ServedRow, cells)
