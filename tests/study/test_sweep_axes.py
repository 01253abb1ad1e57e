"""Which points a sweep visits, and what is said of options that name none."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import InputError
from sim.spec.scenario import SweepSpec
from sim.study.sweep_axes import Dimension, design_of, from_options

LISTS = st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True)


@given(st.dictionaries(st.sampled_from("abcd"), LISTS, min_size=1))
def test_a_grid_is_every_combination_once_the_last_axis_fastest(axes: dict[str, list[int]]) -> None:
    design = design_of(SweepSpec(grid={k: tuple(v) for k, v in axes.items()}))
    count = 1
    for values in axes.values():
        count *= len(values)
    assert len(design.points) == len(set(design.points)) == count
    assert design.paths == tuple(axes)
    order = [tuple(values.index(v) for v, values in zip(p, axes.values(), strict=True)) for p in design.points]
    assert order == sorted(order)


def test_zip_goes_in_step_and_is_one_dimension() -> None:
    design = design_of(from_options(["a=1,2,3", "b=x,y,z"], zipped=True))
    assert design.points == ((1, "x"), (2, "y"), (3, "z"))
    assert design.dimensions == (Dimension(("a", "b"), drawn=False),)


def test_blocks_combine() -> None:
    spec = SweepSpec.model_validate({"grid": {"a": [1, 2]}, "zip": {"b": [1, 2], "c": [3, 4]},
                                     "random": {"samples": 3, "axes": {"d": {"min": 0.0, "max": 1.0}}}})  # fmt: skip
    design = design_of(spec)
    assert len(design.points) == 2 * 2 * 3
    corners = [(1, 1, 3), (1, 2, 4), (2, 1, 3), (2, 2, 4)]
    assert Counter(point[:3] for point in design.points) == dict.fromkeys(corners, 3)
    assert [d.name for d in design.dimensions] == ["a", "b + c", "d"]


def test_draws_differ_stay_in_range_keep_units_and_repeat_with_their_seed() -> None:
    axes = ["net={min: 1 Gbps, max: 25 Gbps, scale: log}", "n={min: 1, max: 6}", "kind=x,y"]
    design = design_of(from_options(axes, samples=60))
    assert len(set(design.points)) == 60
    for net, n, kind in design.points:
        assert re.fullmatch(r"[0-9.]+ Gbps", net)
        assert 1 <= float(net.split()[0]) <= 25
        assert isinstance(n, int)
        assert 1 <= n <= 6
        assert kind in ("x", "y")
    assert {n for _, n, _ in design.points} == set(range(1, 7))
    below = sum(float(net.split()[0]) < 5 for net, _, _ in design.points)
    assert 15 <= below <= 45  # half of the logarithm's range; a sixth of the linear one
    assert design_of(from_options(axes, samples=60)) == design
    assert design_of(from_options(axes, samples=60, seed=1)) != design


def test_lists_are_drawn_without_repeats() -> None:
    design = design_of(from_options(["a=1,2", "b=1,2"], samples=50))
    assert sorted(design.points) == [(1, 1), (1, 2), (2, 1), (2, 2)]


@pytest.mark.parametrize(("option", "values"), [
    ("a=1Gbps,10 Gbps", ("1Gbps", "10 Gbps")),
    ("a=1,2.5,true,null,no", (1, 2.5, True, None, "no")),
    ("a='20,000 USD','x=y'", ("20,000 USD", "x=y")),
    ("a=[1, 2],{b: 3}", ([1, 2], {"b": 3})),
    ("a = 0.10 USD/kWh , 1/s", ("0.10 USD/kWh", "1/s")),
])  # fmt: skip
def test_values_are_yaml(option: str, values: tuple[Any, ...]) -> None:
    assert from_options([option]).grid == {"a": values}


def test_all_wrong_options_are_reported_at_once() -> None:
    with pytest.raises(InputError) as caught:
        from_options(["a", "b=", "c=1,[", "d=1", "d=2"])
    assert [p.file for p in caught.value.problems] == ["--vary a", "--vary b=", "--vary c=1,[", "--vary d=2"]


@pytest.mark.parametrize(("data", "message"), [
    ({}, "nothing varies"),
    ({"zip": {"a": [1], "b": [1, 2]}}, "a has 1, b has 2"),
    ({"grid": {"a": [1]}, "zip": {"a": [1]}}, "a is varied twice"),
    ({"grid": {"a": []}}, "at least 1 item"),
])  # fmt: skip
def test_blocks_that_make_no_sense(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SweepSpec.model_validate(data)


@pytest.mark.parametrize(("ends", "message"), [
    ("{min: 1 Gbps, max: 2 GB/s}", "one unit"),
    ("{min: 3, max: 2}", "above max"),
    ("{min: 0, max: 2, scale: log}", "above zero"),
    ("{min: fast, max: 2}", "not a number"),
])  # fmt: skip
def test_ranges_that_cannot_be_drawn_from(ends: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        design_of(from_options([f"a={ends}"], samples=2))


def test_a_grid_beyond_all_measure_is_refused_before_it_is_built() -> None:
    spec = SweepSpec(grid={name: tuple(range(1000)) for name in "abc"})
    with pytest.raises(InputError, match="1,000,000,000 points"):
        design_of(spec)
