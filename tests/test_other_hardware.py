"""What the scenarios on hardware beside the 4090 and the big servers promise in their comments and in the guide."""

from __future__ import annotations

import re

import pytest

from sim.results.schema import Cost, ServingMetrics

from .helpers import ROOT, played, shipped
from .test_scenarios import changed, job, refused, serving, share

ALONE = "jobs.0.load={closed_loop: {clients: 1}, prompt_tokens: 512, output_tokens: 512, requests: 4}"
PLAN = "jobs.0.plan="
ROWS = re.findall(
    r"^\| `(\w+)` \| [^|]+ \| (\d+) \| ([\d,.]+) \| ([\d.]+) \| ([\d.]+) \|",
    (ROOT / "docs" / "guide-serving.md").read_text(encoding="utf-8"), re.MULTILINE,
)  # fmt: skip


def after(name: str, *overrides: str) -> ServingMetrics:
    """A shipped scenario's numbers with ``--set`` overrides."""
    metrics = changed(name, *overrides).jobs[0].metrics
    assert isinstance(metrics, ServingMetrics)
    return metrics


def rate(name: str, *overrides: str) -> float:
    """Tokens a second."""
    return after(name, *overrides).output_tokens_per_s


def each(name: str, *overrides: str) -> float:
    """Tokens a second that a user sees."""
    found = after(name, *overrides).tokens_per_s_per_user
    assert found is not None
    return found


def bill(name: str) -> Cost:
    found = job(name).cost
    assert found is not None
    return found


def test_the_guide_has_all_of_them() -> None:
    assert len(ROWS) == 12


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_guide_says_what_runs_say(row: tuple[str, ...]) -> None:
    name, users, tokens, user, usd = row
    loop = shipped(name).scenario.jobs[0].load.closed_loop  # type: ignore[union-attr]
    assert loop is not None
    assert loop.clients == int(users)
    metrics = serving(name)
    assert metrics.output_tokens_per_s == pytest.approx(float(tokens.replace(",", "")), rel=0.01)
    assert metrics.tokens_per_s_per_user == pytest.approx(float(user), rel=0.01)
    assert bill(name).usd_per_million_tokens == pytest.approx(float(usd), rel=0.02)


def test_three_cards_are_a_pipeline() -> None:
    name = "3xh100_pp3"
    assert "tp 3 does not divide the 64 attention heads" in refused(name, f"{PLAN}{{tp: 3}}")
    assert [stage.parts["weights"] for stage in played(name).result.memory] == pytest.approx(
        [share * 68.45e9 * 2 / 80 for share in (27, 27, 26)], rel=0.001
    )
    assert "communication: pcie" not in played(name).result.ledger or share(name, "communication: pcie") < 0.005
    assert serving(name).kv_blocked_fraction < 0.01
    pair = after(name, f"{PLAN}{{tp: 2}}")
    tokens = [changed(name, *plan).memory[0].kv_tokens for plan in ((), (f"{PLAN}{{tp: 2}}",))]
    assert tokens == pytest.approx([262_000, 41_100], rel=0.01)
    assert pair.output_tokens_per_s == pytest.approx(775, rel=0.02)
    assert pair.kv_blocked_fraction > 0.5
    assert each(name, f"{PLAN}{{tp: 2}}", ALONE) > each(name, ALONE) == pytest.approx(12, rel=0.05)
    home = "4090_pp_home"
    assert serving(name).output_tokens_per_s / serving(home).output_tokens_per_s == pytest.approx(2.6, rel=0.03)
    ratio = (bill(name).usd_per_million_tokens or 0) / (bill(home).usd_per_million_tokens or 1)
    assert ratio == pytest.approx(2, rel=0.1)


def test_a_bridge_is_worth_a_quarter() -> None:
    """Two 3090 with and without NVLink, two 4090, and what was measured of single streams."""
    name, other = "3090_2x_nvlink_int4", "4090_2x_int4"
    bare = (
        "cluster.topology={name: bare, nodes: [{name: desktop, gpus: [{type: rtx3090, count: 2}], "
        "pcie: {link: pcie4-x8}, host_memory: {bandwidth: 60 GB/s}}]}"
    )
    staged = "communication: PCIe through host memory"
    assert share(name, "communication: nvlink") == pytest.approx(0.075, abs=0.01)
    assert share(name, staged, bare) == pytest.approx(0.27, abs=0.02)
    assert rate(name, bare) == pytest.approx(239, rel=0.02)
    assert share(other, staged) == pytest.approx(0.22, abs=0.02)
    ratio = serving(name).output_tokens_per_s / serving(other).output_tokens_per_s
    assert ratio == pytest.approx(0.85, abs=0.02)
    assert (bill(name).capital_usd or 0) == pytest.approx(0.53 * (bill(other).capital_usd or 0), rel=0.01)
    assert [each(x, ALONE) for x in (name, other)] == pytest.approx([38, 38], rel=0.02)
    assert rate(other, f"{PLAN}{{pp: 2}}") == pytest.approx(257, rel=0.02)
    layers = ("stack=llama.cpp", "jobs.0.precision.weights=q4_k_m", f"{PLAN}{{pp: 2}}", ALONE)
    assert each(name, *layers) == pytest.approx(16.6, rel=0.12)
    assert each(name, *layers) == pytest.approx(15.1, rel=0.01)
    assert each(other, "stack=mlc", ALONE) == pytest.approx(34.5, rel=0.15)
    assert "does not fit" in refused(other, "jobs.0.precision.weights=fp16")


def test_the_slowest_stage_sets_the_pace() -> None:
    """A mixed pipeline lies between the two kinds alone, nearer to the slower; layers off the slow ones help."""
    name = "4090_3090_mixed"

    def four(gpu: str) -> str:
        node = f"{{name: desktop, count: 4, gpus: [{{type: {gpu}}}], nics: [{{link: ethernet-10g}}]}}"
        return f"cluster.topology={{name: same, nodes: [{node}]}}"

    even, mixed = rate(name, f"{PLAN}{{pp: 4}}"), serving(name).output_tokens_per_s
    old, new = rate(name, four("rtx3090")), rate(name, four("rtx4090"))
    assert old < even < mixed < (old + new) / 2 < new
    assert mixed / even == pytest.approx(1.02, abs=0.01)
    assert [old, new] == pytest.approx([298, 463], rel=0.02)
    assert share(name, "pipeline bubble") == pytest.approx(0.28, abs=0.02)
    assert rate(name, "jobs.0.plan.layers=[22, 21, 19, 18]") == pytest.approx(358, rel=0.01)


def test_data_centre_cards_with_the_memory_of_eight_4090() -> None:
    """A10 and A40 against the 4090 server at the same load."""
    geforce = rate("4090_tp_pcie", "jobs.0.load.closed_loop.clients=96")
    assert geforce == pytest.approx(593, rel=0.02)
    assert serving("a10_tp8").output_tokens_per_s == pytest.approx(1.1 * geforce, rel=0.02)
    assert share("a10_tp8", "communication: pcie") == pytest.approx(0.54, abs=0.02)
    inside = f"{PLAN}{{tp: 4, pp: 2}}"
    assert rate("a10_tp8", inside) == pytest.approx(660, rel=0.02)
    assert share("a10_tp8", "communication: pcie", inside) == pytest.approx(0.16, abs=0.02)
    piped = (f"{PLAN}{{pp: 8}}", "jobs.0.batching.max_batched_tokens=64")
    assert rate("a10_tp8", *piped) == pytest.approx(260, rel=0.02)
    assert share("a40_tp4", "communication: pcie") == pytest.approx(0.25, abs=0.02)
    bridged = f"{PLAN}{{tp: 2, pp: 2}}"
    assert rate("a40_tp4", bridged) == pytest.approx(451, rel=0.02)
    assert share("a40_tp4", "communication: nvlink", bridged) == pytest.approx(0.044, abs=0.01)
    powers = [bill(name).power_w or 0 for name in ("a40_tp4", "4090_tp_pcie")]
    assert powers[0] == pytest.approx(powers[1] / 3, rel=0.05)


def test_large_memories_need_no_network() -> None:
    """A copy of the model on each MI300X, and one in 8 bits on a GH200."""
    assert "does not fit" in refused("gh200_fp8", "jobs.0.precision.weights=fp16")
    name, many = "mi300x_dp8", ("jobs.0.load.closed_loop.clients=1024", "jobs.0.load.requests=4096")
    assert rate(name, f"{PLAN}{{tp: 8}}") == pytest.approx(7630, rel=0.01)
    assert rate(name, *many) == pytest.approx(13_800, rel=0.01)
    assert rate("h100_tp8", *many, "jobs.0.batching.max_sequences=1024") == pytest.approx(10_800, rel=0.01)


def test_a_second_mac_adds_memory_not_speed() -> None:
    name, one = "mac_studio_pair", "jobs.0.load.closed_loop.clients=1"
    lone, single = each(name, one), each(name, one, f"{PLAN}{{}}")
    assert single == pytest.approx(12.48, rel=0.05)  # measured, generation alone
    assert lone == pytest.approx(single, rel=0.01)
    assert rate(name, "cluster.network={bandwidth: 10 Gbps}") == pytest.approx(rate(name), rel=0.002)
    assert share(name, "communication: thunderbolt", f"{PLAN}{{tp: 2}}") == pytest.approx(0.48, abs=0.02)
    assert serving(name).ttft_s.p50 == pytest.approx(4.83, rel=0.02)
    assert rate(name, "model=llama-3.1-405b", "jobs.0.load.requests=8") == pytest.approx(4, rel=0.02)
    assert "does not fit" in refused(name, "model=llama-3.1-405b", f"{PLAN}{{}}")


def test_peers_pay_for_distance_by_the_hop_and_for_bandwidth_by_the_prompt() -> None:
    name, one = "petals_peers", ("jobs.0.load.closed_loop.clients=1", "jobs.0.load.requests=4")

    def token(*network: str) -> float:
        found = after(name, *one, *(f"cluster.network.{n}" for n in network)).tpot_s.mean
        assert found is not None
        return found

    near, far = token("latency=30 ms"), token("latency=100 ms")
    assert far - near == pytest.approx(8 * 0.070, rel=1e-6)
    assert token() < near
    assert each(name, *one) == pytest.approx(3.4, rel=0.01)
    way = 8 * changed(name, *one).ledger["communication: internet"] / sum(changed(name, *one).ledger.values())
    assert way == pytest.approx(0.5, abs=0.03)
    assert after(name, "cluster.network.latency=100 ms").tpot_s.mean == pytest.approx(1.0, rel=0.03)
    first = [after(name, f"cluster.network.bandwidth={b}").ttft_s.p50 for b in ("1 Gbps", "10 Mbps")]
    assert [serving(name).ttft_s.p50, *first] == pytest.approx([4.7, 1.4, 29], rel=0.02)
    lan = "cluster.network={bandwidth: 10 Gbps, latency: 50 us, message_overhead: 0.3 ms}"
    assert rate(name, lan) == pytest.approx(49, rel=0.01)


def test_a_lines_upload_binds_where_it_is_the_slower_way() -> None:
    """Toward a cable line the other home's upload counts, away from it its own; the download never does here."""
    topology = played("petals_peers").recording.topology
    ways = [topology.route(a, b).cap for a, b in ((0, 1), (1, 2), (4, 5), (5, 6), (7, 0))]
    assert ways == pytest.approx([0.9 * megabits * 1e6 / 8 for megabits in (1000, 100, 100, 40, 40)])


def test_three_servers_slow_down_in_the_order_that_petals_found() -> None:
    """INF-07: bandwidth hardly counts for a lone user, round trips do, once for each of three hops."""
    name = "article/real_petals_bloom"
    metrics = [after(name, *(f"cluster.network.{n}" for n in network)) for network in (
        (), ("bandwidth=100 Mbps",), ("bandwidth=100 Mbps", "latency=50 ms"))]  # fmt: skip
    tpot = [m.tpot_s.mean or 0.0 for m in metrics]
    assert tpot[0] < tpot[1] < 1.05 * tpot[0]
    assert tpot[2] - tpot[1] == pytest.approx(3 * 0.0475, rel=1e-6)
    assert 1.8 * tpot[0] < tpot[2] < 2.2 * tpot[0]


def test_a_macbook_is_bound_by_its_memory() -> None:
    """HOM-30: 400 GB/s over 35 GB of weights is 11.4 tokens/s; scales and zeros of 4-bit groups take 4% of it."""
    name = "article/mac_70b_int4"
    assert each(name) == pytest.approx(400 / 35, rel=0.05)
    assert each(name) == pytest.approx(10.9, rel=0.005)
    real = ("stack=llama.cpp", "jobs.0.precision.weights=q4_k_m", "assume={}")
    assert each(name, *real) == pytest.approx(6.1, rel=0.02)
