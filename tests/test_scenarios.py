"""Every shipped scenario says what to expect, and that is what comes out."""

from __future__ import annotations

import pytest
import yaml

from sim.results.schema import JobResult

from .helpers import SCENARIOS, SHIPPED, played

#: State, and what is among the things that bind.
EXPECTED = {
    "4090_pp_home": ("saturated", "KV memory"),
    "4090_pp_home_1gbe": ("saturated", "KV memory"),
    "4090_pp_home_azure": ("stable", "HBM bandwidth"),
    "4090_pp_home_ideal": ("stable", "pipeline bubbles"),
    "4090_pp_home_overload": ("overloaded", "HBM bandwidth"),
    "4090_tp_pcie": ("saturated", "network: PCIe through host memory"),
    "a100_tp8": ("stable", "GPU arithmetic"),
    "a100_tp8_azure": ("stable", "GPU arithmetic"),
    "h100_tp8": ("stable", "network: nvlink"),
    "h100_tp8_azure": ("stable", "GPU arithmetic"),
    "h100_tp8_ideal": ("stable", "HBM bandwidth"),
    "sweep_home_network": ("saturated", "KV memory"),
    "two_jobs_one_switch": ("stable", "pipeline bubbles"),
}


def job(name: str, number: int = 0) -> JobResult:
    return played(name).result.jobs[number]


def test_every_scenario_is_expected() -> None:
    assert list(EXPECTED) == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_scenario_explains_itself(name: str) -> None:
    text = (SCENARIOS / f"{name}.yaml").read_text(encoding="utf-8")
    first, *rest = text.splitlines()
    assert first == "# yaml-language-server: $schema=../docs/scenario.schema.json"
    comment = [line for line in rest[: rest.index(f"name: {name}")] if line.startswith("# ")]
    assert comment
    data = yaml.safe_load(text)
    assert data["name"] == name
    assert data["about"]
    assert data["seed"] == 0
    assert data["cost"]["prices_as_of"]


@pytest.mark.parametrize("name", SHIPPED)
def test_scenario_runs_and_ends_as_expected(name: str) -> None:
    result = played(name).result
    state, binds = EXPECTED[name]
    assert result.verdict.state == state
    assert any(line.startswith(binds) for line in result.verdict.binding)
    for one in result.jobs:
        assert one.metrics.completed_requests > 10 * one.metrics.rejected_requests
        assert one.cost is not None
        assert one.cost.usd_per_million_tokens is not None
        assert one.cost.usd_per_million_tokens > 0


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.endswith("_ideal")])
def test_assumptions_that_physics_forbids_stand_in_a_banner(name: str) -> None:
    assert played(name).result.banners


@pytest.mark.parametrize("name", [name for name in SHIPPED if not name.endswith("_ideal")])
def test_other_scenarios_assume_nothing(name: str) -> None:
    assert played(name).result.banners == []


def test_what_the_comments_promise() -> None:
    """The sentences under 'what to expect', as far as they are numbers."""
    home, slow = job("4090_pp_home").metrics, job("4090_pp_home_1gbe").metrics
    assert home.batch_size_mean * 8 == pytest.approx(120, rel=0.15)
    assert home.tokens_per_s_per_user == pytest.approx(5.5, rel=0.1)
    assert slow.output_tokens_per_s == pytest.approx(0.8 * home.output_tokens_per_s, rel=0.08)
    for azure in ("4090_pp_home_azure", "a100_tp8_azure", "h100_tp8_azure"):
        assert job(azure).metrics.requests_per_s > 0
    h100, a100 = job("h100_tp8").metrics, job("a100_tp8").metrics
    assert h100.output_tokens_per_s > 2 * a100.output_tokens_per_s
    assert h100.output_tokens_per_s > 10 * home.output_tokens_per_s
    staged = played("4090_tp_pcie").result.ledger
    assert staged["communication: PCIe through host memory"] / sum(staged.values()) == pytest.approx(0.75, abs=0.05)


def test_overload_says_so_and_says_what_its_latencies_mean() -> None:
    result = played("4090_pp_home_overload").result
    assert any("latencies grow with the length of the run" in line for line in result.verdict.warnings)
    waiting = result.timeline.jobs["chat"]["waiting"]
    assert max(waiting) > 100
