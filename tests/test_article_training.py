"""The reference article on training and memory comes out of the simulator, and ``docs/article.md`` says what it says.

``tests/data/article_training.csv`` has, for each row of the project's table of the article's claims, the value
recomputed from the article's own premises and a verdict. Under the stack ``ideal`` the scenarios of
``scenarios/article`` must give that value within 3% (:mod:`tests.article` says which run and which number). Rows that
say what happens, and not how much, have tests of their own; so has what the verdicts rest on.
"""

from __future__ import annotations

import re
from math import ceil, sqrt
from pathlib import Path

import pytest

from sim.cli import main
from sim.errors import InfeasibleError

from .article import (
    AGAIN,
    ASYNCHRONOUS,
    EIGHTY,
    FITS,
    FLUSHED,
    GENERIC,
    GPT3,
    GRADIENTS,
    HURRIED,
    IDEAL,
    IN_HOST,
    LORA,
    MEASURED,
    MEMORY,
    OFFLOAD,
    OWN_RATES,
    PLAN,
    PP80,
    PS,
    Q_AND_V,
    REAL_4090,
    REAL_A100,
    REAL_H100,
    RING,
    SEQUENCES,
    SERVER,
    SERVERS,
    STAYS,
    TOLD,
    TP,
    TP8,
    UNEVEN,
    ZERO,
    ZERO_4090,
    ZERO_OFFLOAD,
    against_a100,
    batch,
    between_stages,
    cards,
    cost_of_recomputation,
    exposed,
    forward_of,
    in_flight,
    kernels,
    layers_again,
    lead,
    limit,
    metrics,
    nics,
    parts,
    recompute,
    run,
    server,
    states,
    waiting_against_kernels,
    zero,
)
from .article_page import PAGE, PRINTED, TOLERANCE, cells, says_what_runs_say, shows, table
from .helpers import SCENARIOS

ARTICLE = SCENARIOS / "article"
ROWS = table("article_training")


@pytest.mark.parametrize("row", IDEAL)
def test_row(row: str) -> None:
    """The ideal stack gives the recomputed value."""
    assert IDEAL[row]() == pytest.approx(float(ROWS[row]["recomputed_value"]), rel=TOLERANCE)


def test_every_row_has_a_figure_or_a_test() -> None:
    assert sorted(ROWS) == sorted([*IDEAL, *TOLD])
    docs = " ".join(str(f.__doc__) for name, f in globals().items() if name.startswith("test_"))
    assert all(row in docs for row in TOLD)


@pytest.mark.parametrize("path", sorted(ARTICLE.glob("*.yaml")), ids=lambda path: path.stem)
def test_scenario_explains_itself(path: Path) -> None:
    """Comments say what to expect; what is assumed stands in banners, and measured scenarios assume nothing."""
    first, *rest = path.read_text(encoding="utf-8").splitlines()
    assert first == "# yaml-language-server: $schema=../../docs/scenario.schema.json"
    assert "What to expect" in " ".join(rest[: rest.index(f"name: {path.stem}")])
    assert bool(run(path.stem).result.banners) is not path.stem.startswith("real_")


def check(name: str, *overrides: str) -> int:
    """The exit code of ``sim check``."""
    with pytest.raises(SystemExit) as left:
        main(["check", str(ARTICLE / f"{name}.yaml"), *(f"--set={o}" for o in overrides)])
    assert isinstance(left.value.code, int)
    return left.value.code


# ---- 2048 RTX 4090


def test_a_4090_is_slower_once_it_sums_in_fp32() -> None:
    """TRN-05: half an A100 by the datasheet, a little more with measured kernels; not 6% faster."""
    assert against_a100(OWN_RATES) == pytest.approx(165.2 / 312, rel=0.001)
    assert MEASURED["TRN-05"]() < 1 < IDEAL["TRN-05"]()


def test_replicas_are_whole() -> None:
    """TRN-06: 2048 cards are 25.6 pipelines of 80; a 26th is refused and 25 are named."""
    with pytest.raises(InfeasibleError, match="takes 2080 GPUs, the cluster has 2048; dp 25 would fit"):
        run(PP80, f"{PLAN}dp=26", batch(16640, 8))


def test_as_many_micro_batches_as_stages_leave_half_of_a_step_empty() -> None:
    """TRN-10: (p-1)/(m+p-1) of a pipeline that empties each step, and a little for hops; nothing in a stream."""
    assert metrics(PP80, *FLUSHED).bubble_fraction == pytest.approx(79 / 159, rel=TOLERANCE)
    assert metrics(PP80).bubble_fraction < 0.001


def test_a_pipeline_that_empties_takes_twice_as_long() -> None:
    """TRN-18: (80 + 79) x 0.596 = 94.7 s, and 158 hops of 0.54 GB that the article leaves out, 16.8 ms each."""
    assert metrics(PP80, *FLUSHED).step_time_s == pytest.approx(94.73, rel=TOLERANCE)
    assert metrics(PP80, *FLUSHED).step_time_s == pytest.approx(94.73 + 158 * 0.01678, rel=0.001)


def test_accumulation_makes_communication_small() -> None:
    """TRN-17, TRN-19: two fifths of the arithmetic become half a percent; below a second on 2000 cards too."""
    assert metrics(GRADIENTS, EIGHTY).exposed_communication_fraction < 0.01
    assert exposed(PP80) < 1


@pytest.mark.parametrize("count", [1, 2, 4])
def test_gradients_take_longer_the_fewer_network_cards_there_are(count: int) -> None:
    """TRN-20: as 1/n."""
    eight = exposed(GRADIENTS, *IN_HOST, nics(8))
    assert exposed(GRADIENTS, *IN_HOST, nics(count)) == pytest.approx(8 / count * eight, rel=0.01)


def test_such_a_step_is_called_large() -> None:
    """TRN-21: 66 million tokens a step are more than published runs use."""
    assert any("more than the 16.8M" in line for line in run(PP80).result.verdict.warnings)


def test_tensor_parallelism_shortens_the_pipeline() -> None:
    """TRN-22: ten stages keep 19 sets of activations where eighty keep 159."""
    assert (in_flight(PP80, *TP8), in_flight(PP80)) == (19, 159)


def test_traffic_between_stages_grows_with_their_number() -> None:
    """TRN-24: as p - 1."""
    forty = between_stages(40, f"{PLAN}pp=40", batch(8000, 8))
    assert forty == pytest.approx(between_stages(80) * 39 / 79, rel=0.001)


def test_data_parallelism_alone_fits_and_waits_for_the_network() -> None:
    """TRN-07, BK-04: memory is half empty, four fifths of the time is the network's, and the verdict says so."""
    found = metrics(ZERO_4090)
    assert found.memory_peak_fraction < 0.6
    assert found.exposed_communication_fraction > 0.75
    assert run(ZERO_4090).result.verdict.bottleneck.startswith("network: dp over roce")


def test_every_layout_of_4090_names_what_binds() -> None:
    """BK-04: memory refuses the article's pipeline; bubbles, and PCIe, are what holds up the one that fits."""
    assert check(PP80, "assume.memory=checked", f"{PLAN}schedule=1f1b") == 3
    assert any(line.startswith("pipeline bubbles") for line in run(REAL_4090).result.verdict.binding)
    assert exposed(REAL_4090, axis="tp") > 0.15 * metrics(REAL_4090).step_time_s


# ---- memory


def test_states_with_lion() -> None:
    """LM-06: 12 bytes a parameter in all, 840 GB."""
    assert states(MEMORY, "jobs.0.optimizer=lion") == pytest.approx(840e9, rel=0.001)


def test_sim_check_refuses_one_card(capsys: pytest.CaptureFixture[str]) -> None:
    """MEM-08: exit code 3, and the budget that shows why."""
    assert check(MEMORY, "assume.memory=checked") == 3
    assert "one replica's parts alone fill 24 such GPUs" in capsys.readouterr().err


@pytest.mark.parametrize(("schedule", "first", "last"), [("stream", 159, 1), ("gpipe", 80, 80), ("1f1b", 80, 1)])
def test_sets_of_activations_by_schedule(schedule: str, first: int, last: int) -> None:
    """MEM-10: the article's stream keeps 2N - 1, GPipe every micro-batch, 1F1B one for each stage to come."""
    named = f"{PLAN}schedule={schedule}"
    assert (in_flight(PP80, named), in_flight(PP80, named, stage=79)) == (first, last)


def test_eighty_stages_do_not_fit_as_the_article_has_them_and_fit_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    """MEM-12: `sim check` refuses 730 GB of activations; it accepts 79 layer inputs and 13.7 GB of states, 19.1 GB."""
    assert check(PP80, "assume.memory=checked", f"{PLAN}schedule=1f1b") == 3
    assert "most of it activations, 730 GB" in capsys.readouterr().err
    assert check(PP80, *FITS) == 0
    second = parts(PP80, *FITS, stage=1)
    assert second["activations"] == pytest.approx(79 * 4096 * 8192 * 2)
    assert sum(v for k, v in second.items() if k != "unused") == pytest.approx(19.1e9, rel=0.01)
    assert metrics(PP80, *FITS).memory_peak_bytes < 24e9


def test_a_layer_that_keeps_its_input_is_computed_once_more() -> None:
    """MEM-13, DPZ-21: 80 layers more, a third of the step, and not 3240."""
    assert layers_again("full") == pytest.approx(80)
    assert cost_of_recomputation() == pytest.approx(4 / 3, rel=0.003)
    assert parts(MEMORY, recompute("full"))["activations"] < parts(MEMORY, recompute("none"))["activations"] / 90


def test_groups_trade_memory_for_arithmetic() -> None:
    """MEM-15: groups of 9, the root of 80, keep 9 inputs for one more forward pass. The 9 layers of the group in hand
    are the rest of L/g + g = 17.9; the textbook's memory leaves them out, measured stacks count them."""
    group = round(sqrt(80))
    nine, full = recompute(f"{{group: {group}}}"), recompute("full")
    an_input = parts(MEMORY, full)["activations"] / 80
    assert parts(MEMORY, nine)["activations"] == pytest.approx(ceil(80 / group) * an_input)
    assert ceil(80 / group) + group == pytest.approx(float(ROWS["MEM-15"]["recomputed_value"]), rel=TOLERANCE)
    assert metrics(MEMORY, nine).step_time_s == pytest.approx(metrics(MEMORY, full).step_time_s)
    assert parts(MEMORY, nine, GENERIC)["activations"] > 8 * parts(MEMORY, GENERIC)["activations"] / 80


def test_swapping_beside_kernels_beats_recomputation() -> None:
    """MEM-16: what the forward pass hides of 35.7 ms leaves 14.4 ms a layer on the 4090, against 21.2 ms."""
    none, again = metrics(OFFLOAD, STAYS).step_time_s, metrics(OFFLOAD, STAYS, AGAIN).step_time_s
    beside = metrics(OFFLOAD, f"{PLAN}overlap=true").step_time_s
    assert (beside - none) / 80 == pytest.approx(14.4e-3, rel=0.01)
    assert none < beside < again < metrics(OFFLOAD).step_time_s


def test_gpt3_needs_more_than_25_cards() -> None:
    """HW-16, MEM-18: 25 cards hold 2 TB; with weights and gradients it is 2.8 TB, 36 cards with few activations."""
    assert states(GPT3) == pytest.approx(2800e9, rel=0.001)
    assert cards(GPT3, recompute("full"), "jobs.0.batch={global: 1, micro: 1, sequence: 2048}") == 36


# ---- tensor parallelism


@pytest.mark.parametrize("tp", [2, 4])
@pytest.mark.parametrize("name", SERVERS)
def test_the_limit_does_not_depend_on_where_it_is_measured(name: str, tp: int) -> None:
    """TP-06 to TP-13: transfers take the same time at any degree, kernels 1/tp of it."""
    assert limit(name, tp) == pytest.approx(limit(name), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "tp", "within"),
    [("4090", 2, True), ("4090", 4, False), ("h100", 8, True), ("h800", 4, True), ("h800", 8, False),
     ("h100 pcie", 2, False)],
)  # fmt: skip
def test_within_the_limit_kernels_take_longer_than_transfers(name: str, tp: int, within: bool) -> None:
    """TP-06, TP-08, TP-11, TP-13: where they do, overlap could hide all transfers."""
    _, done = server(name, tp)
    assert (done.work.seconds > done.exposed) is within


def test_a_wider_model_needs_less_bandwidth() -> None:
    """TP-15: as 1/h."""
    found = []
    for h in (4096, 8192):
        heads = f"hidden: {h}, intermediate: {h}, heads: {h // 128}, kv_heads: {h // 128}"
        shape = f"{{like: llama-2-70b, {heads}, gated: false, vocabulary: 1}}"
        done = forward_of(TP, f"define.models.qkv-only={shape}")
        found.append(done.flows[0].wire / done.work.seconds)
    assert found[0] / found[1] == pytest.approx(2, rel=0.001)


# ---- data parallelism


def test_workers_of_a_flooded_server_idle() -> None:
    """DPZ-02: more than 85% of their time."""
    assert 1 - kernels(*HURRIED) / metrics(PS, *HURRIED).step_time_s > 0.85


def test_a_ring_is_faster_than_a_server() -> None:
    """DPZ-01, DPZ-09: 2 N sizes through one card against 2 (N-1)/N through each, N^2/(N-1) times as long at N = 8."""
    by_server = metrics(PS).step_time_s - kernels()
    by_ring = metrics(PS, RING).step_time_s - kernels(RING)
    assert by_server / by_ring == pytest.approx(64 / 7, rel=0.01)
    assert (metrics(PS, f"{SERVER}.servers=8").step_time_s - kernels()) / by_server == pytest.approx(1 / 8, rel=0.01)


def test_staleness_is_what_it_says() -> None:
    """DPZ-03, DPZ-04: with staleness 1 a step may miss one round: 12 needs all up to 10, 3 all up to 1."""
    assert metrics(PS).staleness_max == 0
    assert metrics(PS, ASYNCHRONOUS).staleness_max == 1


def test_zero_shards_over_replicas_and_not_over_tensor_ranks() -> None:
    """DPZ-16: the same 64 GPUs with tensor groups of two: states cut in two, then over 32 replicas."""
    two = (f"{PLAN}tp=2", f"{PLAN}dp=32")
    assert states(ZERO, *two) == pytest.approx(states(ZERO) / 2, rel=0.001)
    assert states(ZERO, *two, zero(3)) == pytest.approx(states(ZERO) / 64, rel=0.001)
    assert states(ZERO, *two, zero(1)) < states(ZERO, zero(1))


def test_what_is_longer_than_the_kernels_cannot_hide() -> None:
    """DPZ-17: of 1.5 times the kernels' time a third stays exposed, however well it overlaps."""
    rest = exposed(ZERO, *SEQUENCES, f"{PLAN}overlap=true")
    assert rest / exposed(ZERO, *SEQUENCES) == pytest.approx(1 - 1 / waiting_against_kernels(), rel=0.01)


def test_memory_tells_what_is_not_state() -> None:
    """DPZ-18: activations, buffers and the runtime have rows of their own (fragmentation has none)."""
    found = parts(ZERO, zero(3), GENERIC)
    assert all(found[part] > 0 for part in ("activations", "logits", "communication buffers", "runtime"))


def test_an_offloaded_optimizer_crosses_pcie_with_4_bytes_a_parameter() -> None:
    """DPZ-19: gradients down, weights up."""
    member = lead(ZERO_OFFLOAD)
    one, sync = member.passes[0], member.sync
    passes = (one.forward, one.backward, one.weight, sync.reduce, sync.update, sync.gather)
    weights = parts(ZERO_OFFLOAD)["parameters"] / 2
    moved = sum(flow.wire for p in passes for flow in p.flows if flow.kind in ("to host", "from host"))
    assert moved / weights == pytest.approx(4, rel=0.001)
    assert run(ZERO_OFFLOAD).result.memory[0].offloaded["host"] / weights == pytest.approx(14, rel=0.001)


def test_eight_stages_are_even() -> None:
    """DPZ-22: 80 layers on eight stages."""
    assert metrics(UNEVEN, f"{PLAN}pp=8").utilisation_mean == pytest.approx(1, rel=0.001)


# ---- the notes


def test_a_step_has_its_phases() -> None:
    """MEC-14: forward, backward, gradients, update on the time line."""
    kinds = {span.kind for span in run(GRADIENTS, zero(1)).result.timeline.spans}
    assert {"forward", "backward", "comm", "update"} <= kinds


def test_frozen_weights_cost_4_flop_and_rank_hardly_anything() -> None:
    """MEC-15, LM-05: no weight gradients; rank 32 instead of 16 on Q and V."""
    assert metrics(LORA).model_flops_per_token / 70e9 == pytest.approx(4, rel=0.005)
    sixteen, more = metrics(LORA, Q_AND_V), metrics(LORA, Q_AND_V, "jobs.0.finetune.rank=32")
    assert 1 < more.step_time_s / sixteen.step_time_s < 1.02
    assert 1 < more.memory_peak_bytes / sixteen.memory_peak_bytes < 1.02


# ---- the page


def test_the_page_has_every_row() -> None:
    assert sorted(PRINTED) == sorted([*ROWS, *table("article_serving")])


@pytest.mark.parametrize("row", ROWS)
def test_the_page_says_what_the_simulator_says(row: str) -> None:
    says_what_runs_say(row, ROWS[row], IDEAL, MEASURED)


#: What an eight-GPU server cost in the article (USD, 2023), and drew (W).
PRICES = (("A100", REAL_A100, None, None), ("H100", REAL_H100, 300_000, 10_000), ("4090", REAL_4090, 40_000, 5_000))


@pytest.mark.parametrize("column", range(3), ids=[name for name, *_ in PRICES])
def test_the_comparison_of_cards_is_simulated(column: int) -> None:
    """The page's table of LLaMA-2 70B on 2048 cards of three kinds."""
    _, name, price, power = PRICES[column]
    found, printed = metrics(name), cells(r"[a-z].*")
    per_card = found.tokens_per_s_per_gpu
    expected = {
        "tokens a second and card": per_card,
        "share of the card's peak (MFU)": 100 * found.mfu,
        "days for 2 trillion tokens": found.days_to_target,
        "million GPU-hours": (found.gpu_hours_to_target or 0) / 1e6,
        "pipeline bubbles": 100 * found.bubble_fraction,
        "exposed communication": 100 * found.exposed_communication_fraction,
        "computed again": 100 * found.recompute_fraction,
        "memory in use": 100 * found.memory_peak_fraction,
        "tokens a second for 1,000 USD of server": price and 8 * per_card / price * 1000,
        "tokens a joule at the server's full power": power and 8 * per_card / power,
    }
    for label, value in expected.items():
        cell = printed[label][column]
        assert cell == "–" if value is None else shows(cell, value), f"{label}: {cell}, not {value}"


def test_other_numbers_of_the_page() -> None:
    """Sentences that quote a run."""
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    one_layer = metrics(REAL_4090, "jobs.0.plan={pp: 80, dp: 25, zero: 1, recompute: full}", batch(2000, 1))
    quoted = {
        r"94\.7 s, and with the hops between stages ([\d.]+) s": metrics(PP80, *FLUSHED).step_time_s,
        r"one layer a card, ([\d.]+) days": one_layer.days_to_target,
        r"([\d.]+) GB on the fullest card": metrics(PP80, *FITS).memory_peak_bytes / 1e9,
        r"data-parallel alone, ([\d.]+)% of a step": 100 * metrics(ZERO_4090).exposed_communication_fraction,
        r"at tp 8 kernels have ([\d.]+)% of a forward pass": 100 * (1 / (1 + 8 / MEASURED["TP-06"]())),
        r"leaves ([\d.]+) ms a layer exposed": 1e3 / 80 * exposed(OFFLOAD, f"{PLAN}overlap=true", axis="offload"),
    }
    for pattern, value in quoted.items():
        found = re.search(pattern, text)
        assert found is not None, pattern
        assert value is not None
        assert shows(found[1], value), f"{found[0]}: {value}"
