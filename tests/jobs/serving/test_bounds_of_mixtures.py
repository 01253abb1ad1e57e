"""What a replica with experts cannot beat: no simulated rate is above its bounds, whichever way the experts lie."""

from __future__ import annotations

from typing import Any

import pytest

from sim.adapters.resolve import ResolvedServing
from sim.jobs.serving.bounds import Lengths, bounds_of
from sim.laws.arrange import layouts, topology_of
from sim.laws.layout import Layout

from ...helpers import only, resolved, scenario, simulate, topology

PLANS: dict[str, dict[str, Any]] = {
    "sliced": {"tp": 8}, "spread": {"tp": 8, "ep": 8, "expert_imbalance": 1.5},
    "sequences by ranks": {"tp": 8, "ep": 8, "attention": "data"},
}  # fmt: skip


@pytest.mark.parametrize("prompt", [1, 40, 2000])
@pytest.mark.parametrize("plan", PLANS)
def test_no_rate_is_above_its_bound(plan: str, prompt: int) -> None:
    """All requests at once: prompts ride in few passes, which with experts takes less than in many equal ones."""
    requests, answer, most = 96, 40, 4 if plan == "sequences by ranks" else 32
    load = {"all_at_once": True, "requests": requests, "prompt_tokens": prompt, "output_tokens": answer}
    case = scenario(
        topology("dgx_h200_8"),
        {"plan": PLANS[plan], "precision": {"weights": "fp8"}, "load": load, "batching": {"max_sequences": most}},
        model="deepseek-v3",
    )  # fmt: skip
    found = resolved(case)
    graph = topology_of(found)
    (layout,), job = layouts(found, graph), found.jobs[0]
    assert isinstance(job, ResolvedServing)
    assert isinstance(layout, Layout)
    bounds = bounds_of(found, job, graph, layout, Lengths([prompt] * requests, [answer] * requests))
    result = simulate(case).result
    metrics = only(result).metrics
    assert requests / result.simulated_s <= bounds.requests_per_s
    assert metrics.tpot_s.mean >= bounds.tpot
    assert metrics.ttft_s.p50 >= bounds.ttft(prompt)
