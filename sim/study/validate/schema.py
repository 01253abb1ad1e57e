"""The document of a validation: what ``sim validate --json`` prints and the page is drawn from.

``rows`` and ``groups`` are a public contract. An error is predicted / measured - 1 of the row's own metric, in the unit
the row states: +10% of a time is too slow, +10% of a rate too fast. Of a set: the median and the 90th percentile of
their absolute values, and the bias, the median with its sign; where times and rates meet in one set, the bias is that
of speed (a time's error e counts as 1 / (1 + e) - 1 there).
"""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from sim import __version__

SCHEMA_VERSION: Final = 1


class Part(BaseModel):
    """A frozen piece of the document."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class Row(Part):
    """One measured row. ``mapped``: it has a scenario (or a law) that told a prediction; ``reason`` why it has none.

    ``family`` says what kind of measurement it is, ``group`` is "GPU / stack / kind". ``counted`` rows make the
    statistics: those of quality C (orders of magnitude) do not. Memory is that of the fullest GPU, in bytes; ``fits``
    says whether what is predicted fits the card, as the measured run did.
    """

    table: str
    id: str
    source: str = ""
    family: str
    group: str | None
    quality: str
    mixture: bool = False
    metric: str | None = None
    unit: str | None = None
    measured: float | None = None
    predicted: float | None = None
    error: float | None = None
    mapped: bool
    counted: bool
    reason: str | None = None
    memory_measured: float | None = None
    memory_predicted: float | None = None
    memory_error: float | None = None
    fits: bool | None = None
    assumptions: tuple[str, ...] = ()

    @property
    def specified(self) -> bool:
        """Whether everything about it is stated, and its model is dense."""
        return self.quality == "A" and not self.mixture


class Errors(Part):
    """Errors of ``n`` rows, as fractions."""

    n: int
    median_abs_error: float
    p90_abs_error: float
    bias: float


class Group(Errors):
    """Errors of the rows of one GPU, stack and kind; or of a family of measurements."""

    name: str


class Direction(Part):
    """Pairs that differ in ``knob`` alone, how many of them prediction and measurement agree on, and their share."""

    knob: str
    pairs: int
    agree: int
    share: float


class Table(Part):
    """One table: its rows, those mapped (of all, and of dense models of quality A), errors and directions.

    ``dense`` are the errors without mixtures of experts; ``does_not_fit`` counts runs whose predicted memory the card
    does not have; ``reasons`` counts why rows have no prediction.
    """

    name: str
    rows: int
    mapped: int
    specified: int
    specified_mapped: int
    errors: Errors | None
    dense: Errors | None
    memory: Errors | None
    does_not_fit: int
    directions: tuple[Direction, ...]
    reasons: dict[str, int]


class Validation(Part):
    """Every row, and the errors by table, by family of measurements and by group."""

    schema_version: int = SCHEMA_VERSION
    version: str = __version__
    tables: tuple[Table, ...]
    families: tuple[Group, ...]
    groups: tuple[Group, ...]
    rows: tuple[Row, ...]

    def table(self, name: str) -> Table:
        """The table of that name. KeyError if there is none."""
        return _named(self.tables, name)  # type: ignore[no-any-return]

    def group(self, name: str) -> Group:
        """The group of that name. KeyError if there is none."""
        return _named(self.groups, name)  # type: ignore[no-any-return]

    def family(self, name: str) -> Group:
        """The family of that name. KeyError if there is none."""
        return _named(self.families, name)  # type: ignore[no-any-return]


def _named(parts: Any, name: str) -> Any:
    for part in parts:
        if part.name == name:
            return part
    raise KeyError(name)
