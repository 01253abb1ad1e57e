"""Max-min fair rates: small systems with their equations, properties, and a linear program as the oracle."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog  # type: ignore[import-untyped]

from sim.laws.fairshare import FlowDemand, link_components, max_min_rates


def flow(cap: float, *links: int | tuple[int, float]) -> FlowDemand:
    return FlowDemand(cap, tuple(x if isinstance(x, tuple) else (x, 1.0) for x in links))


# ---- systems solved by hand


def test_two_flows_halve_one_link() -> None:
    # x1 + x2 <= 10, x1 = x2
    assert max_min_rates([10.0], [flow(inf, 0), flow(inf, 0)]) == [5.0, 5.0]


def test_a_flow_alone_has_exactly_its_cap_or_its_tightest_link() -> None:
    # min(0.1, 0.3 / 3, 7 / 2) and min(inf, 0.7 / 3, 7 / 2): the same divisions, so the same bits
    assert max_min_rates([0.7, 7.0], [flow(0.1, (0, 3.0), (1, 2.0))]) == [0.1]
    assert max_min_rates([0.7, 7.0], [flow(inf, (0, 3.0), (1, 2.0))]) == [0.7 / 3.0]


def test_parking_lot() -> None:
    # Long flow x0 over links 0, 1, 2 of 10, 6, 12; one short flow on each.
    #   x0 + x1 <= 10, x0 + x2 <= 6, x0 + x3 <= 12
    # Level 3 saturates link 1: x0 = x2 = 3. Then x1 = 10 - 3, x3 = 12 - 3.
    flows = [flow(inf, 0, 1, 2), flow(inf, 0), flow(inf, 1), flow(inf, 2)]
    assert max_min_rates([10.0, 6.0, 12.0], flows) == [3.0, 7.0, 3.0, 9.0]


def test_a_capped_flow_leaves_its_share_to_the_others() -> None:
    # x1 <= 2, x1 + x2 + x3 <= 10: x1 = 2, x2 = x3 = (10 - 2) / 2
    assert max_min_rates([10.0], [flow(2.0, 0), flow(inf, 0), flow(100.0, 0)]) == [2.0, 4.0, 4.0]


def test_weights_take_more_capacity_for_the_same_rate() -> None:
    # 1 x1 + 2 x2 + 3 x3 <= 12, all equal: x = 12 / 6
    assert max_min_rates([12.0], [flow(inf, (0, 1.0)), flow(inf, (0, 2.0)), flow(inf, (0, 3.0))]) == [2.0] * 3


def test_weights_and_two_links() -> None:
    # 2 x1 + x2 <= 9, x2 + x3 <= 4. Link 1 saturates at level 2 (link 0 would at 3): x2 = x3 = 2.
    # Then x1 = (9 - 2) / 2.
    flows = [flow(inf, (0, 2.0)), flow(inf, 0, 1), flow(inf, 1)]
    assert max_min_rates([9.0, 4.0], flows) == [3.5, 2.0, 2.0]


def test_a_link_named_twice_counts_twice() -> None:
    assert max_min_rates([12.0], [flow(inf, 0, 0), flow(inf, 0)]) == [4.0, 4.0]


def test_cap_equal_to_the_fair_share_is_met_exactly() -> None:
    assert max_min_rates([0.3], [flow(0.1, 0), flow(0.1, 0), flow(0.1, 0)]) == [0.1, 0.1, 0.1]


def test_edges() -> None:
    assert max_min_rates([], []) == []
    assert max_min_rates([], [flow(5.0), flow(inf)]) == [5.0, inf]
    assert max_min_rates([0.0, 4.0], [flow(inf, 0, 1), flow(inf, 1)]) == [0.0, 4.0]
    assert max_min_rates([inf], [flow(inf, 0), flow(3.0, 0), flow(inf, 0)]) == [inf, 3.0, inf]
    assert max_min_rates([inf, 5.0], [flow(inf, 0), flow(inf, 0), flow(inf, 0, 1)]) == [inf, inf, 5.0]
    assert max_min_rates([8.0], [flow(0.0, 0), flow(inf, 0)]) == [0.0, 8.0]


def test_capacities_may_be_a_mapping() -> None:
    assert max_min_rates({700: 10.0}, [flow(inf, 700), flow(4.0, 700)]) == [6.0, 4.0]


@pytest.mark.parametrize(
    ("capacities", "flows"),
    [
        ([-1.0], [flow(1.0, 0)]),
        ([float("nan")], [flow(1.0, 0)]),
        ([1.0], [flow(-1.0, 0)]),
        ([1.0], [flow(float("nan"), 0)]),
        ([1.0], [flow(1.0, (0, 0.0))]),
        ([1.0], [flow(1.0, (0, inf))]),
    ],
)
def test_wrong_input_is_refused(capacities: list[float], flows: list[FlowDemand]) -> None:
    with pytest.raises(ValueError, match="must be"):
        max_min_rates(capacities, flows)


def test_unknown_link_is_refused() -> None:
    with pytest.raises(IndexError):
        max_min_rates([1.0], [flow(1.0, 1)])
    with pytest.raises(KeyError):
        max_min_rates({0: 1.0}, [flow(1.0, 1)])


# ---- components


def test_components_join_through_shared_links() -> None:
    # 0 - link 0 - 2 - link 5 - 4 ; 1 - link 1 - 5 ; 3 alone without links
    flows = [flow(1.0, 0), flow(1.0, 1), flow(1.0, 0, 5), flow(1.0), flow(1.0, 5), flow(1.0, 1)]
    assert link_components(flows) == [[0, 2, 4], [1, 5], [3]]
    assert link_components([]) == []


# ---- properties

LINKS = 5
weights = st.sampled_from([1.0, 2.0, 3.0, 0.5, 1.75])
capacities_ = st.lists(st.floats(0.5, 100.0), min_size=LINKS, max_size=LINKS)
demands = st.builds(
    lambda cap, links: FlowDemand(cap, tuple(links.items())),
    st.one_of(st.just(inf), st.floats(0.1, 60.0)),
    st.dictionaries(st.integers(0, LINKS - 1), weights, min_size=1, max_size=LINKS),
)
systems = st.tuples(capacities_, st.lists(demands, min_size=1, max_size=8))


def loads(flows: list[FlowDemand], rates: list[float]) -> list[float]:
    total = [0.0] * LINKS
    for demand, rate in zip(flows, rates, strict=True):
        for link, weight in demand.links:
            total[link] += rate * weight
    return total


@given(systems)
def test_feasible_and_every_flow_has_a_bottleneck(system: tuple[list[float], list[FlowDemand]]) -> None:
    capacities, flows = system
    rates = max_min_rates(capacities, flows)
    load = loads(flows, rates)
    assert all(used <= c * (1 + 1e-12) for used, c in zip(load, capacities, strict=True))
    for demand, rate in zip(flows, rates, strict=True):
        assert 0.0 < rate <= demand.cap
        at_bottleneck = any(
            load[link] >= capacities[link] * (1 - 1e-12)
            and all(
                rate >= other * (1 - 1e-9)
                for g, other in zip(flows, rates, strict=True)
                if link in dict(g.links)
            )
            for link, _ in demand.links
        )
        assert rate == demand.cap or at_bottleneck


@given(systems, st.randoms(use_true_random=False))
def test_order_does_not_matter(system: tuple[list[float], list[FlowDemand]], random: object) -> None:
    capacities, flows = system
    order = list(range(len(flows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    rates = max_min_rates(capacities, flows)
    shuffled = max_min_rates(capacities, [flows[i] for i in order])
    assert shuffled == pytest.approx([rates[i] for i in order], rel=1e-10)


@given(systems)
def test_components_are_independent(system: tuple[list[float], list[FlowDemand]]) -> None:
    capacities, flows = system
    rates = max_min_rates(capacities, flows)
    groups = link_components(flows)
    assert sorted(i for group in groups for i in group) == list(range(len(flows)))
    for number, group in enumerate(groups):
        mine = {link for i in group for link, _ in flows[i].links}
        others = {link for other in groups[:number] for i in other for link, _ in flows[i].links}
        assert not mine & others
        alone = max_min_rates(capacities, [flows[i] for i in group])
        assert alone == pytest.approx([rates[i] for i in group], rel=1e-10)


def lexicographic_max_min(capacities: list[float], flows: list[FlowDemand]) -> list[float]:
    """Max-min by linear programs: raise the level of the open flows, fix those that cannot exceed it."""
    n = len(flows)
    matrix = np.zeros((len(capacities), n))
    for j, demand in enumerate(flows):
        for link, weight in demand.links:
            matrix[link, j] += weight
    fixed: dict[int, float] = {}

    def solve(objective: np.ndarray, level: float | None) -> float:
        """Maximise objective . (x, t); open flows have x >= t, and x >= level where one is given."""
        a = np.hstack([matrix, np.zeros((len(capacities), 1))])
        b = list(capacities)
        bounds: list[tuple[float, float | None]] = []
        for j, demand in enumerate(flows):
            if j in fixed:
                bounds.append((fixed[j], fixed[j]))
                continue
            bounds.append((level or 0.0, None if demand.cap == inf else demand.cap))
            row = np.zeros((1, n + 1))
            row[0, j], row[0, n] = -1.0, 1.0
            a, b = np.vstack([a, row]), [*b, 0.0]
        answer = linprog(-objective, A_ub=a, b_ub=b, bounds=[*bounds, (0.0, None)], method="highs")
        assert answer.status == 0
        return float(-answer.fun)

    while len(fixed) < n:
        level = solve(np.eye(n + 1)[n], None)
        best = {j: solve(np.eye(n + 1)[j], level * (1 - 1e-9)) for j in range(n) if j not in fixed}
        fixed.update({j: level * (1 - 1e-9) for j, x in best.items() if x <= level + 1e-5})
    return [fixed[j] for j in range(n)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_agrees_with_linear_programs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    capacities = rng.uniform(1.0, 100.0, LINKS).tolist()
    flows = [
        FlowDemand(
            inf if rng.random() < 0.5 else float(rng.uniform(0.5, 40.0)),
            tuple(
                (int(link), float(rng.integers(1, 4)))
                for link in rng.choice(LINKS, rng.integers(1, LINKS + 1), replace=False)
            ),
        )
        for _ in range(rng.integers(1, 7))
    ]
    expected = lexicographic_max_min(capacities, flows)
    assert max_min_rates(capacities, flows) == pytest.approx(expected, rel=1e-5)
