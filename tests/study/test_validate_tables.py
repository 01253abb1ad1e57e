"""Measured training steps against predicted ones, over all tables of ../shared (skipped where it is absent).

Constants belong to a (GPU, stack); none belongs to a row. The bounds are those the project promises, wider than what
is measured now (docs/accuracy.md), so that a change of a law is noticed when it costs accuracy.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from sim.study.validate.agreement import summary
from sim.study.validate.cases import Case
from sim.study.validate.formats import read_tables
from sim.study.validate.runner import compare
from sim.study.validate.schema import Row, Validation

TRUTH = Path(__file__).parents[3] / "shared" / "data" / "truth" / "training"
#: Every so many rows of the largest table, and of two whose steps are long to play, to keep the tests short.
EVERY = {"vtrain_single": 10, "nvidia_dgxc_h100": 2, "bloom_prequel_a100": 2}

pytestmark = pytest.mark.skipif(not TRUTH.is_dir(), reason=f"{TRUTH} is not here: measured tables are not shipped")


def thinned(rows: list[Case]) -> list[Case]:
    kept, seen = [], Counter[str]()
    for row in rows:
        seen[row.table] += 1
        if not seen[row.table] % EVERY.get(row.table, 1):
            kept.append(row)
    return kept


@cache
def comparison() -> Validation:
    return compare(thinned(read_tables([TRUTH])))


def dense(table: str | None = None) -> list[Row]:
    found = [r for r in comparison().rows if r.specified]
    return [r for r in found if table is None or r.table == table]


def errors(rows: list[Row]) -> list[float]:
    return [r.error for r in rows if r.error is not None]


def test_well_specified_dense_rows() -> None:
    rows = dense()
    assert sum(r.mapped for r in rows) >= 0.85 * len(rows)
    assert all(r.reason for r in comparison().rows if not r.mapped)
    found = summary(errors(rows))
    assert found is not None
    assert found.median_abs_error <= 0.10
    assert found.p90_abs_error <= 0.25
    assert abs(found.bias) <= 0.04


@pytest.mark.parametrize(
    ("table", "median"),
    [
        ("vtrain_single", 0.10), ("vtrain_multi", 0.10), ("llm_foundry", 0.06), ("nvidia_dgxc_h100", 0.07),
        ("nvidia_nemo_perf", 0.08), ("bloom_prequel_a100", 0.08), ("internevo_a100", 0.08), ("torchtitan", 0.10),
    ],
)  # fmt: skip
def test_each_table(table: str, median: float) -> None:
    found = summary(errors(dense(table)))
    assert found is not None
    assert found.n >= 20
    assert found.median_abs_error <= median


def test_layout_changes_move_prediction_and_measurement_the_same_way() -> None:
    same = pairs = 0
    for name in ("vtrain_multi", "nvidia_dgxc_h100", "llm_foundry", "internevo_a100", "nvidia_nemo_perf"):
        for direction in comparison().table(name).directions:
            same += direction.agree
            pairs += direction.pairs
    assert pairs >= 100
    assert same >= 0.75 * pairs


def test_memory_of_the_fullest_gpu() -> None:
    rows = [r for r in comparison().rows if r.memory_error is not None]
    found = summary([r.memory_error for r in rows if r.memory_error is not None])
    assert found is not None
    assert found.n >= 100
    assert found.median_abs_error <= 0.12
