"""One pass of a stage against a second, plain evaluation of the formulas (SERVING_MODEL section 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.adapters.lookup import Library
from sim.laws.roofline import kernel_rates
from sim.laws.step import Chunk, Pass, Passes, StageLaw, StageShape, Whole
from sim.laws.step_data import DataLaw
from sim.laws.step_halves import HalvedLaw
from sim.spec.plan import WEIGHT_BYTES

LIBRARY = Library()
LLAMA = LIBRARY.model("llama-2-70b")
US = 1e-6
#: A low-latency and a bulk branch of an all-reduce among eight, and the bytes a ring sends per byte.
PIECES = ((5e-6, 1 / 150e9), (25e-6, 1 / 300e9))
WIRE = 2 * 7 / 8


def law(gpu: str, *, tp: int = 1, layers: int = 80, head: bool = True, weights: str = "fp16", **keys: Any) -> StageLaw:
    card, stack = LIBRARY.gpu(gpu), LIBRARY.stack("generic")
    kernels = card.kernels or LIBRARY.default_kernels()
    shape = StageShape(
        model=LLAMA,
        rates=kernel_rates(card, stack, kernels, weights),
        layers=layers,
        tp=tp,
        head=head,
        weight_bytes=WEIGHT_BYTES[weights],
        kv_bytes=2.0,
        pieces=PIECES if tp > 1 else (),
        wire_per_byte=WIRE if tp > 1 else 0.0,
        host_per_pass=0.0,
        host_per_sequence=0.0,
        host_per_layer=0.0,
        mixed_penalty=1.0,
        on_chip=False,
        kv_reads_free=False,
        scale=1.0,
    )
    return StageLaw(replace(shape, **keys))


def by_hand(
    gpu: str, tp: int, layers: int, head: bool, weights: str, nd: int, ctx: float, pre: Sequence[Chunk],
    mu: float = 1.0, host: tuple[float, float] = (0.0, 0.0),
) -> float:  # fmt: skip
    """step() of SERVING_MODEL section 1 for LLaMA-2 70B, with the constants of the catalogue; ctx is a mean."""
    card = LIBRARY.gpu(gpu)
    k = card.kernels
    assert k is not None
    fast = weights == "fp8" and card.flops.fp8
    peak = card.flops.fp8 if fast else card.flops.fp16
    ec = k.gemm_compute_8 if fast else k.gemm_compute_16
    assert peak is not None
    bw, wb = card.memory_bandwidth, {"fp16": 2, "fp8": 1, "int4": 4.15625 / 8}[weights]
    h, hd, ff, vocabulary, nm = 8192, 128, 28672, 32000, 3
    nh, kv = 64 / tp, max(8 / tp, 1)
    m = nd + sum(c for c, _ in pre)
    nk = h * (nh + 2 * kv) * hd + nh * hd * h + nm * h * ff / tp
    act = 2 * m * ((h + (nh + 2 * kv) * hd) + (nh * hd + h) + (h + (nm - 1) * ff / tp) + (ff / tp + h))
    rounding = 5 / (2 * 8192 * k.elementwise_memory * bw) if fast else 0.0
    tc = 2 * m * nk * (1 / (peak * ec) + rounding)
    tb = (wb * nk + act) / (bw * k.gemm_memory)
    dense = 4 * k.gemm_launch + (tc**2.5 + tb**2.5) ** 0.4
    att_d = k.decode_launch + nd * ctx * 2 * kv * hd * 2 / (k.decode_memory * bw) if nd else 0.0
    att_p = 0.0
    if pre:
        att_p = k.prefill_launch
        for c, past in pre:
            att_p += 4 * c * (past + c / 2) * nh * hd / (k.prefill_compute * card.flops.fp16)
            att_p += 2 * (2 * c * nh * hd + 2 * (c + past) * kv * hd) / (k.prefill_memory * bw)
    elem = 4 * 2e-6 + (16 * m * h + 6 * m * ff / tp) / (0.8 * bw)
    comm = 2 * min(a + 2 * m * h * b for a, b in PIECES) if tp > 1 else 0.0
    layer = dense + att_d * (mu if pre else 1) + att_p + elem + comm
    last = 0.0
    if head:
        rows = nd + len(pre)
        hc = 2 * rows * h * vocabulary / tp / (card.flops.fp16 * k.gemm_compute_16)
        hm = 2 * h * vocabulary / tp / (bw * k.gemm_memory)
        last = k.gemm_launch + (hc**2.5 + hm**2.5) ** 0.4
    return layers * layer + last + host[0] + host[1] * (nd + len(pre))


BATCHES = [
    (1, 100, []),
    (64, 768, []),
    (1827, 768, []),
    (0, 0, [Chunk(512, 0)]),
    (17, 600, [Chunk(64, 448)]),
    (100, 512, [Chunk(300, 0), Chunk(7, 2000)]),
]


@pytest.mark.parametrize(("nd", "ctx", "pre"), BATCHES)
@pytest.mark.parametrize("weights", ["fp16", "fp8", "int4"])
@pytest.mark.parametrize(
    ("gpu", "tp", "layers", "head"),
    [("h100-sxm", 8, 80, True), ("rtx4090", 1, 10, False), ("rtx4090", 1, 10, True), ("a100-sxm-80gb", 4, 80, True)],
)
def test_pass_equals_the_formulas(
    gpu: str, tp: int, layers: int, head: bool, weights: str, nd: int, ctx: int, pre: list[Chunk]
) -> None:
    found = law(gpu, tp=tp, layers=layers, head=head, weights=weights).cost(nd, nd * ctx, pre)
    assert found.total == pytest.approx(by_hand(gpu, tp, layers, head, weights, nd, ctx, pre), rel=1e-12)


def test_flagship_stage_is_21_ms_of_which_18_weights() -> None:
    """SERVING_MODEL section 6: 17 sequences a stage of ten layers, 1.5 ms of host a pass."""
    stage = law("rtx4090", layers=10, head=False, host_per_pass=1.5e-3)
    assert stage.cost(17, 17 * 768).total == pytest.approx(21.1e-3, rel=0.015)
    weights = 10 * LLAMA.layer_parameters * 2 / (1008e9 * 0.935)
    assert weights == pytest.approx(18.3e-3, rel=0.01)


def test_host_and_mixed_penalty_follow_the_formulas() -> None:
    pre = [Chunk(64, 100)]
    slow = law("rtx4090", layers=10, mixed_penalty=2.4, host_per_pass=1.5e-3, host_per_sequence=5e-6)
    expected = by_hand("rtx4090", 1, 10, True, "fp16", 17, 600, pre, mu=2.4, host=(1.5e-3, 5e-6))
    assert slow.cost(17, 17 * 600, pre).total == pytest.approx(expected, rel=1e-12)
    alone = by_hand("rtx4090", 1, 10, True, "fp16", 17, 600, [], host=(1.5e-3, 5e-6))
    assert slow.cost(17, 17 * 600).total == pytest.approx(alone, rel=1e-12)


@given(st.integers(1, 500), st.integers(0, 10**6), st.integers(0, 10**6))
def test_decoding_is_linear_in_the_sum_of_contexts(nd: int, a: int, b: int) -> None:
    stage = law("h100-sxm", tp=8)
    rise = stage.cost(nd, a + b).total - stage.cost(nd, a).total
    assert rise == pytest.approx(b * stage.decode_slope, rel=1e-6, abs=1e-12)
    assert stage.decode_slope == pytest.approx(80 * 2 * 1 * 128 * 2 / (3350e9 * 0.89))


def test_the_head_is_on_the_last_stage_only_and_counts_rows_that_need_logits() -> None:
    middle, last = law("rtx4090", layers=10, head=False), law("rtx4090", layers=10, head=True)
    bytes_of_head = 2 * LLAMA.hidden * LLAMA.vocabulary
    for batch in ((8, 8000, []), (8, 8000, [Chunk(1000, 0)])):
        extra = last.cost(*batch).total - middle.cost(*batch).total
        assert extra == pytest.approx(5.9e-6 + bytes_of_head / (1008e9 * 0.935), rel=2e-3)


def test_kv_heads_are_repeated_when_ranks_outnumber_them() -> None:
    assert law("h100-sxm", tp=16).decode_bytes == law("h100-sxm", tp=8).decode_bytes
    assert law("h100-sxm", tp=4).decode_bytes == 2 * law("h100-sxm", tp=8).decode_bytes


def test_eager_host_is_a_floor_under_the_gpu_and_never_adds_to_it() -> None:
    """SERVING_MODEL section 5: max(L layer + head, L h_layer) + h_step."""
    free = law("h100-sxm", tp=8).cost(1, 1000)
    for per_layer in (10 * US, 100 * US, 450 * US):
        eager = law("h100-sxm", tp=8, host_per_layer=per_layer, host_per_pass=9e-3).cost(1, 1000)
        assert eager.total == pytest.approx(max(free.total, 80 * per_layer) + 9e-3)
        assert eager.compute + eager.memory + eager.communication == pytest.approx(free.total - free.launch)


def test_eight_bit_weights_save_bytes_everywhere_and_arithmetic_only_with_the_format() -> None:
    small, large = (1, 1000), (4000, 0)
    for gpu, helps in (("h100-sxm", True), ("a100-sxm-80gb", False)):
        fp16, fp8 = law(gpu, tp=8), law(gpu, tp=8, weights="fp8")
        assert fp8.base(1, 1).bytes == pytest.approx(fp16.base(1, 1).bytes / 2, rel=0.02)
        assert fp8.cost(*small).busy < 0.75 * fp16.cost(*small).busy
        ratio = fp8.cost(*large).compute / fp16.cost(*large).compute
        assert (ratio < 0.75) == helps


def test_int4_never_speeds_up_arithmetic() -> None:
    fp16, int4 = law("rtx4090", layers=10), law("rtx4090", layers=10, weights="int4")
    work = (0, 0, [Chunk(2048, 0)])
    assert int4.cost(*work).total == pytest.approx(fp16.cost(*work).total, rel=0.02)
    assert int4.cost(1, 100).memory < 0.3 * fp16.cost(1, 100).memory


@given(st.integers(0, 200), st.integers(0, 100_000), st.lists(st.tuples(st.integers(1, 500), st.integers(0, 3000))))
def test_more_work_never_takes_less_time(nd: int, context: int, raw: list[tuple[int, int]]) -> None:
    stage, pre = law("rtx4090", layers=10), [Chunk(*c) for c in raw]
    now = stage.cost(nd, context, pre).total
    assert stage.cost(nd + 1, context + 1, pre).total >= now
    assert stage.cost(nd, context, [*pre, Chunk(1, 0)]).total >= now


def test_assumptions_take_out_what_they_name() -> None:
    plain, free = law("h100-sxm", tp=8), law("h100-sxm", tp=8, kv_reads_free=True)
    assert free.cost(10, 10**5).total == pytest.approx(plain.cost(10, 0).total)
    on_chip = law("h100-sxm", tp=8, on_chip=True)
    weights = 80 * (LLAMA.layer_parameters / 8) * 2 + 2 * LLAMA.embedding_parameters / 8
    assert on_chip.base(295, 295).bytes == pytest.approx(weights)
    assert law("h100-sxm", tp=8, on_chip=True, scale=2.0).base(1, 1).bytes == pytest.approx(2 * weights)


def test_free_attention_leaves_the_weights_of_a_prompt() -> None:
    free, work = law("h100-sxm", tp=8, attention_free=True), (0, 0, [Chunk(3000, 1000), Chunk(500, 0)])
    assert free.cost(*work).flops == free.base(3500, 2).flops
    launches = 80 * free.shape.rates.prefill_launch
    assert free.cost(*work).total == pytest.approx(free.base(3500, 2).total + launches, rel=1e-12)
    assert free.cost(10, 10**5).total == law("h100-sxm", tp=8).cost(10, 10**5).total


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=9), st.sampled_from([
    {}, {"host_per_layer": 450e-6}, {"on_chip": True}, {"model": LIBRARY.model("deepseek-v3"), "mixture": 58},
]))  # fmt: skip
def test_whole_contexts_cost_what_they_cost_as_prompts(contexts: list[int], keys: dict[str, Any]) -> None:
    """From sums alone, and where they are dealt out to ranks or halves, one by one."""
    whole = Whole(len(contexts), sum(contexts), sum(c * c for c in contexts), lambda: contexts)
    prompts = [Chunk(c, 0) for c in contexts]
    shape = law("h100-sxm", tp=8, layers=61, **keys).shape
    for kind in (StageLaw, DataLaw, HalvedLaw):
        stage = kind(replace(shape, data=True) if kind is DataLaw else shape)
        assert stage.anew(whole) == pytest.approx(stage.cost(0, 0, prompts), rel=1e-12)


def test_the_collectives_as_one_flow_take_their_closed_form() -> None:
    stage = law("h100-sxm", tp=8)
    for tokens in (1, 64, 4096):
        cost = stage.cost(tokens, 0)
        size, fixed, rate = stage.collective_flow(cost)
        assert fixed + size / rate == pytest.approx(cost.communication)
        assert size == cost.wire
        assert cost.wire == pytest.approx(160 * WIRE * 2 * tokens * 8192)


def test_buckets_are_whole_and_nonnegative() -> None:
    for nd, ctx, pre in BATCHES:
        cost = law("rtx4090", layers=10).cost(nd, nd * ctx, pre)
        assert min(cost) >= 0.0
        assert cost.total == cost.busy == cost.compute + cost.memory + cost.launch
    assert Pass(1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0).total == 10.0


@given(
    st.lists(
        st.tuples(st.integers(0, 300), st.integers(0, 10**6), st.integers(0, 300), st.integers(0, 4000)), min_size=1
    ),
    st.sampled_from([{}, {"tp": 8}, {"on_chip": True}, {"kv_reads_free": True}]),
)
def test_many_passes_cost_what_each_does(raw: list[tuple[int, int, int, int]], keys: dict[str, Any]) -> None:
    """To the last bit: sweeps and single runs must not differ by how their passes were added up."""
    raw = [(nd, ctx if nd else 0, c, past if c else 0) for nd, ctx, c, past in raw if nd or c] or [(1, 1, 0, 0)]
    found = law("h100-sxm", layers=10, mixed_penalty=1.3, host_per_pass=1e-4, host_per_sequence=1e-5, **keys)
    rows = found.costs(Passes(*np.array(raw).T))
    for row, (nd, ctx, c, past) in zip(rows.tolist(), raw, strict=True):
        assert tuple(row) == found.cost(nd, ctx, [Chunk(c, past)] if c else [])


def test_a_group_without_a_kernel_reads_the_cache_once_for_every_query_head() -> None:
    """LLaMA-2 70B has eight query heads per KV head: the same bytes, eight times the seconds per token of context."""
    rates = law("h100-sxm").shape.rates
    once = law("h100-sxm", rates=replace(rates, shared_groups=(1, 2, 4, 8)))
    each = law("h100-sxm", rates=replace(rates, shared_groups=(1,)))
    assert once.decode_slope == law("h100-sxm").decode_slope
    assert each.decode_slope == pytest.approx(8 * once.decode_slope)
    assert each.decode_bytes == once.decode_bytes


def test_the_head_of_llama_cpp_files_is_narrower_than_16_bits() -> None:
    for weights, width in (("q4_k_m", 6.5625 / 8), ("int4", 2.0)):
        read = [law("rtx4090", layers=1, weights=weights, head=head).base(1, 1).bytes for head in (True, False)]
        assert read[0] - read[1] == pytest.approx(width * 8192 * 32000)
