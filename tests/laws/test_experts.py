"""Mixtures of experts: what a pass reads, computes and sends, against closed forms and the dense law."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.adapters.lookup import Library
from sim.adapters.resolve import ResolvedServing
from sim.jobs.serving.build import ReplicaBuilder, flows_of
from sim.laws.arrange import layouts, topology_of
from sim.laws.experts import MixtureLaw, dispatched, fullest, touched
from sim.laws.step import Chunk, Pass, Passes, StageLaw
from sim.laws.step_data import DataLaw
from sim.laws.step_halves import HalvedLaw
from sim.spec.transformer import Transformer

from ..helpers import resolved, scenario, topology
from .test_step import law

LIBRARY = Library()
MIXTRAL, QWEN = LIBRARY.model("mixtral-8x7b"), LIBRARY.model("qwen3-235b-a22b")
DEEPSEEK = LIBRARY.model("deepseek-v3")


def mixed(model: Transformer = MIXTRAL, gpu: str = "h100-sxm", **keys: Any) -> StageLaw:
    facts: dict[str, Any] = {"layers": model.layers, "mixture": model.mixture_layers, "weights": "fp8"} | keys
    return law(gpu, model=model, **facts)


def experts_of(found: StageLaw) -> MixtureLaw:
    s = found.shape
    facts: dict[str, Any] = {"weight_bytes": 1.0, "on_chip": False, "scale": 1.0}
    return MixtureLaw(s.model, s.rates, tp=s.tp, ep=s.ep, load=s.expert_load, **facts)


# -- which experts a pass reads


@pytest.mark.parametrize(("experts", "k"), [(8, 2), (128, 8), (256, 8), (4, 4)])
def test_one_token_reads_its_experts_and_many_read_all(experts: int, k: int) -> None:
    assert touched(experts, k / experts, 1) == pytest.approx(k)
    assert touched(experts, k / experts, 100 * experts) == pytest.approx(experts)
    assert touched(experts, k / experts, 0) == 0


def test_touched_is_what_drawing_gives() -> None:
    """64 tokens of 2,000 passes each choose 8 of 128 experts."""
    rng = np.random.default_rng(1)
    drawn = [len(np.unique(rng.random((20, 128)).argpartition(8, axis=1)[:, :8])) for _ in range(2000)]
    assert touched(128, 8 / 128, 20) == pytest.approx(np.mean(drawn), rel=0.005)


def test_the_fullest_rank_is_what_drawing_gives() -> None:
    """512 tokens that each meet 8 of 256 experts, 32 on each of eight ranks."""
    rng = np.random.default_rng(1)
    ranks = [np.bincount(rng.random((512, 256)).argpartition(8, axis=1)[:, :8].ravel() // 32, minlength=8).max()
             for _ in range(100)]  # fmt: skip
    found = experts_of(mixed(DEEPSEEK, tp=8, ep=8)).rows(512)
    assert found == pytest.approx(np.mean(ranks), rel=0.01)
    assert found > 512
    assert fullest(10.0, 3.0, 1) == 10.0


def test_weights_read_grow_from_the_active_to_all() -> None:
    whole = mixed(MIXTRAL)
    rest = MIXTRAL.parameters - 2 * MIXTRAL.embedding_parameters
    met = MIXTRAL.active_parameters - 2 * MIXTRAL.embedding_parameters
    router = 32 * 8 * 4096  # in 16 bits: a byte more
    assert whole.weights_read(1) == pytest.approx(met + router)
    assert whole.weights_read(1000) == pytest.approx(rest + router)


# -- as the dense law


def dense_twin(model: Transformer) -> Transformer:
    """The dense model in which a token meets as many weights."""
    width = model.experts_per_token * (model.expert_intermediate or model.intermediate)
    none = {"experts": 0, "experts_per_token": 0, "shared_experts": 0, "expert_intermediate": None, "dense_layers": 0}
    return model.model_copy(update={**none, "intermediate": width})


@pytest.mark.parametrize("tokens", [1, 64, 4096])
def test_a_mixture_of_which_a_token_meets_all_is_the_dense_model(tokens: int) -> None:
    """On the datasheet, where neither launches nor rounding tell the products apart; the router comes on top."""
    every = MIXTRAL.model_copy(update={"experts_per_token": 8})
    ideal = LIBRARY.stack("ideal")
    rates = replace(
        law("h100-sxm").shape.rates, matmul_launch=0.0, elementwise_launch=0.0, decode_launch=0.0, exponent=math.inf
    )
    facts: dict[str, Any] = {"rates": rates, "on_chip": ideal.activations == "on_chip", "layers": 32, "head": False}
    one = mixed(every, **facts).base(tokens, tokens)
    other = law("h100-sxm", model=dense_twin(every), weights="fp8", **facts).base(tokens, tokens)
    router = 32 * 2.0 * tokens * 4096 * 8
    assert one.flops - router == pytest.approx(other.flops, rel=1e-12)
    assert one.bytes - 32 * 2 * 4096 * 8 == pytest.approx(other.bytes, rel=1e-12)
    extra = 32 * max(2.0 * tokens * 4096 * 8 / rates.matmul_16, 2 * 4096 * 8 / rates.weights)
    assert one.total - extra == pytest.approx(other.total, rel=1e-12)
    assert one.communication == other.communication == 0.0


@pytest.mark.parametrize("model", [MIXTRAL, QWEN, DEEPSEEK], ids=lambda m: m.id)
def test_flop_are_those_of_active_parameters(model: Transformer) -> None:
    """2 FLOP a weight that a token meets, but for the tables; of a head that is none of the layers."""
    found = mixed(model, head=False).base(100, 100)
    met = model.active_parameters - 2 * model.embedding_parameters
    assert found.flops == pytest.approx(100 * 2 * met, rel=1e-9)


def test_flop_of_spread_experts_are_the_mean_rank_s() -> None:
    """Whichever rank is full, all of them together do what the tokens ask."""
    even, uneven = (mixed(QWEN, tp=4, ep=4, expert_load=load, head=False).base(400, 400) for load in (1.0, 2.0))
    met = QWEN.active_parameters - 2 * QWEN.embedding_parameters
    assert 4 * even.flops == pytest.approx(400 * 2 * met, rel=1e-9)
    assert (uneven.flops, uneven.bytes) == (even.flops, even.bytes)
    assert uneven.total > even.total


@given(
    model=st.sampled_from([MIXTRAL, QWEN, DEEPSEEK]), tp=st.sampled_from([1, 8]), spread=st.booleans(),
    tokens=st.integers(1, 4096), more=st.integers(1, 4096), load=st.floats(1, 8),
)  # fmt: skip
def test_more_tokens_and_fuller_ranks_take_longer(
    model: Transformer, tp: int, spread: bool, tokens: int, more: int, load: float
) -> None:
    ep = tp if spread else 1
    found = mixed(model, tp=tp, ep=ep)
    small, large = found.base(tokens, tokens), found.base(tokens + more, tokens + more)
    assert small.total <= large.total * (1 + 1e-12)
    assert small.bytes <= large.bytes * (1 + 1e-12)
    fuller = mixed(model, tp=tp, ep=ep, expert_load=min(load, float(ep)))
    assert fuller.base(tokens, tokens).total >= small.total * (1 - 1e-12)


@given(
    decoding=st.integers(1, 64), context=st.integers(0, 10**5), piece=st.integers(0, 600), past=st.integers(0, 4000)
)
def test_many_passes_at_once_are_each_of_them(decoding: int, context: int, piece: int, past: int) -> None:
    for model, tp in ((DEEPSEEK, 1), (DEEPSEEK, 8), (QWEN, 4)):
        found = mixed(model, tp=tp, mixed_penalty=1.5)
        rows = found.costs(Passes(*(np.array([value]) for value in (decoding, context, piece, past if piece else 0))))
        one = found.cost(decoding, context, [Chunk(piece, past)] if piece else [])
        assert tuple(rows[0]) == tuple(one)


# -- what ranks send


def built(model: str, plan: dict[str, Any], cluster: str = "dgx_h200_8", **keys: Any) -> tuple[StageLaw, Any, Any]:
    """Law, replica's stage and resolved job of a plan on a server."""
    load = {"closed_loop": {"clients": 1}, "requests": 1, "prompt_tokens": 1, "output_tokens": 1}
    job = {"plan": plan, "precision": {"weights": "fp8"}, "load": load}
    found = resolved(scenario(topology(cluster), job, model=model, **keys))
    graph = topology_of(found)
    (layout,) = layouts(found, graph)
    serving = found.jobs[0]
    assert isinstance(serving, ResolvedServing)
    stage = ReplicaBuilder(found, serving, graph).stages(0, layout)[0]  # type: ignore[arg-type]
    return stage.law, stage, layout


def test_bytes_of_the_all_to_alls() -> None:
    """Each of a rank's M/8 tokens goes to its 8 experts, 7 of 8 over links: FP8 with scales there, 16 bits back."""
    found, _, _ = built("deepseek-v3", {"tp": 8, "ep": 8})
    tokens = 512
    routed = 58 * tokens / 8 * 8 * 7168 * (1 + 4 / 128 + 2) * 7 / 8
    halves = 58 * 2 * (2 * tokens * 7168) * 7 / 8
    dense = 3 * 2 * (2 * tokens * 7168) * 2 * 7 / 8
    assert found.base(tokens, tokens).wire == pytest.approx(routed + halves + dense)
    assert dispatched(DEEPSEEK, 8, 1.5, "bf16") == (1.5 * 8 * 7168 / 8 * 2, 1.5 * 8 * 7168 / 8 * 2)


def test_sliced_experts_reduce_as_any_layer() -> None:
    found, _, _ = built("deepseek-v3", {"tp": 8})
    assert found.base(512, 512).wire == pytest.approx(61 * 2 * (2 * 512 * 7168) * 2 * 7 / 8)


@pytest.mark.parametrize("plan", [{"tp": 8}, {"tp": 8, "ep": 8}, {"tp": 8, "ep": 8, "attention": "data"}], ids=str)
@pytest.mark.parametrize("tokens", [1, 16, 300, 8192])
def test_a_pass_s_collectives_are_one_flow_that_takes_their_time(plan: dict[str, Any], tokens: int) -> None:
    found, stage, _ = built("deepseek-v3", plan)
    cost = found.cost(tokens, 0)
    size, fixed, rate = found.collective_flow(cost)
    assert (size, fixed + size / rate) == (cost.wire, pytest.approx(cost.communication, rel=1e-12))
    (flow,) = flows_of(_Replica([stage]))  # type: ignore[arg-type]
    assert rate <= flow.cap * (1 + 1e-12)


class _Replica:
    def __init__(self, stages: list[Any]) -> None:
        self.stages = stages


def test_halves_hide_the_exchanges_of_each_other() -> None:
    whole, _, _ = built("deepseek-v3", {"tp": 8, "ep": 8})
    halved = HalvedLaw(whole.shape)
    cost = halved.cost(16384, 0)
    assert cost.communication < whole.cost(16384, 0).communication
    size, fixed, rate = halved.collective_flow(cost)
    assert fixed + size / rate == pytest.approx(cost.communication, rel=1e-9)


# -- ranks with sequences of their own


def data() -> DataLaw:
    found, _, _ = built("deepseek-v3", {"tp": 8, "ep": 8, "attention": "data"})
    assert isinstance(found, DataLaw)
    return found


def test_ranks_share_sequences_and_the_fullest_decides() -> None:
    found = data()
    eight, nine, sixteen = (found.cost(n, 1000 * n) for n in (8, 9, 16))
    assert eight.total < nine.total <= sixteen.total
    # The mean rank reads an eighth of all contexts, whatever the fullest has.
    longer = found.cost(9, 18_000)
    assert longer.flops - nine.flops == pytest.approx(9_000 * found.decode_flops)
    assert longer.bytes - nine.bytes == pytest.approx(9_000 * 61 * 576 * 2 / 8)
    assert longer.total - nine.total == pytest.approx(2 * 1_000 * 8 * found.decode_slope)  # of two sequences


def test_one_prompt_is_one_rank_s_and_eight_are_everybody_s() -> None:
    found = data()
    piece = Chunk(1024, 0)
    one, eight = found.cost(0, 0, [piece]), found.cost(0, 0, [piece] * 8)
    assert one.total < eight.total < 2.0 * one.total  # other ranks only add rows to the experts
    nine = found.cost(0, 0, [piece] * 9)
    assert nine.total > 1.5 * eight.total


def test_ranks_keep_only_their_own_sequences() -> None:
    _, _, sliced = built("deepseek-v3", {"tp": 8, "ep": 8})
    _, _, own = built("deepseek-v3", {"tp": 8, "ep": 8, "attention": "data"})
    (few,), (many,) = ({m.kv_per_token for m in x.replicas[0][0].memory.values()} for x in (sliced, own))
    assert few == 70_272 == 8 * many
    assert own.tokens[0] > 4 * sliced.tokens[0]


def test_reads_of_even_ranks_are_an_eighth() -> None:
    found = data()
    alone = mixed(DEEPSEEK, "h200-sxm", head=True, tp=1)
    assert found.decode_slope == pytest.approx(alone.decode_slope / 8)
    grown: Pass = found.cost(64, 64_000)
    assert grown.total - found.cost(64, 0).total == pytest.approx(64_000 * alone.decode_slope / 8)
