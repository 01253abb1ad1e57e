"""Fronts and sensitivities of metrics that are known functions of the axes."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.study.pareto import pareto_front
from sim.study.sweep_analysis import front, heat_map, sensitivities
from sim.study.sweep_axes import design_of, from_options

NUMBERS = st.integers(0, 6).map(float)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=30))
def test_the_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    found = pareto_front([c for c, _ in points], [v for _, v in points])
    assert sorted(found) == [i for i, p in enumerate(points) if not any(beats(q, p) for q in points)]
    assert [points[i] for i in found] == sorted(points[i] for i in found)


def test_points_without_numbers_are_on_no_front() -> None:
    metrics = [{"usd": 1.0, "speed": 1.0}, {}, {"usd": None, "speed": 9.0}, {"usd": 2.0, "speed": 2.0}]
    assert front(metrics, "usd", "speed").points == (0, 3)


GRID = design_of(from_options(["a=0,1,2", "b=0,1", "c=5,6"]))


def test_a_linear_function_moves_by_each_slope() -> None:
    """f = 10 a + 3 b + 0 c over a in 0..2, b in 0..1: ranges 20, 3 and 0."""
    values = [10.0 * a + 3.0 * b for a, b, _ in GRID.points]
    found = sensitivities(GRID, values)
    assert [(s.axis, s.range, s.balanced) for s in found] == [("a", 20.0, True), ("b", 3.0, True), ("c", 0.0, True)]
    assert (found[0].low.value, found[0].high.value) == ("0", "2")
    assert [level.mean for level in found[0].levels] == [1.5, 11.5, 21.5]


def test_failed_points_do_not_bend_the_others() -> None:
    """Without the point (2, 1, 6) a's means are over the three settings of b and c that all values share."""
    values: list[float | None] = [10.0 * a + 3.0 * b for a, b, _ in GRID.points]
    values[GRID.points.index((2, 1, 6))] = None
    by_axis = {s.axis: s for s in sensitivities(GRID, values)}
    assert by_axis["a"].range == pytest.approx(20.0)
    assert by_axis["b"].range == pytest.approx(3.0)
    assert by_axis["a"].levels[0].points == 3


def test_a_value_that_never_answers_is_left_out() -> None:
    values = [None if a == 2 else 10.0 * a + 3.0 * b for a, b, _ in GRID.points]
    first = sensitivities(GRID, values)[0]
    assert (first.axis, first.range, first.balanced, len(first.levels)) == ("a", 10.0, True, 2)


def test_answers_that_share_no_setting_are_called_unbalanced() -> None:
    design = design_of(from_options(["a=0,1", "b=0,1"]))
    found = sensitivities(design, [None if a == b else float(a) for a, b in design.points])
    assert [s.balanced for s in found] == [False, False]


def test_zipped_lists_are_one_bar_and_a_constant_axis_none() -> None:
    design = design_of(from_options(["a=1,2", "b=5,7"], zipped=True))
    (only,) = sensitivities(design, [1.0, 4.0])
    assert (only.axis, only.low.value, only.high.value, only.range) == ("a + b", "1, 5", "2, 7", 3.0)
    assert sensitivities(design_of(from_options(["a=1"])), [1.0]) == []


def test_a_drawn_axis_is_taken_by_quarters() -> None:
    """f = x over 400 uniform draws from [0, 8]: the quarters' means are 1, 3, 5, 7."""
    design = design_of(from_options(["x={min: 0 s, max: 8 s}"], samples=400))
    (only,) = sensitivities(design, [float(x.split()[0]) for (x,) in design.points])
    assert [level.points for level in only.levels] == [100] * 4
    assert sorted(level.mean for level in only.levels) == pytest.approx([1, 3, 5, 7], abs=0.4)


def test_a_heat_map_has_a_cell_for_each_pair() -> None:
    design = design_of(from_options(["a=1,2", "b=x,y,z"]))
    found = heat_map(design, [float(i) for i in range(6)])
    assert found is not None
    assert (found.row_values, found.column_values) == (("1", "2"), ("x", "y", "z"))
    assert found.cells == ((0.0, 1.0, 2.0), (3.0, 4.0, 5.0))
    assert heat_map(GRID, [0.0 for _ in product(range(3), range(2), range(2))]) is None
