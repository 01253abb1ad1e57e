"""A layer's passes: arithmetic that adds up, times that follow the formulas, and better hardware is never slower."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.adapters.lookup import Library
from sim.laws.collective import CollectiveParameters
from sim.laws.training.flops import model_flops_per_token
from sim.laws.training.layer import LayerLaw, Pass, rates_of
from sim.laws.training.stage import StageLaw, chunks_of, held_by, layers_of
from sim.spec.training import TrainingJob, TrainingPlan

LIBRARY = Library()
DEFAULT = LIBRARY.default_kernels()
GROUP = CollectiveParameters(8, 1e-5, 1e-6, 60e9, 4e-5, 2e-7, 190e9)


def described(batch: tuple[int, int, int] = (8, 1, 4096), **keys: Any) -> TrainingJob:
    return TrainingJob.model_validate({
        "name": "j", "kind": "training", "batch": {"global": batch[0], "micro": batch[1], "sequence": batch[2]}, **keys,
    })  # fmt: skip


def law(
    job: TrainingJob, model: str = "llama-3-8b", gpu: str = "a100-sxm-80gb", stack: str = "generic", micros: int = 1,
    **changed: float,
) -> LayerLaw:  # fmt: skip
    card, framework = LIBRARY.gpu(gpu), LIBRARY.training_stack(stack)
    constants = framework.constants_for(gpu).model_copy(update=changed)
    framework = framework.model_copy(update={"constants": constants, "gpus": {}})
    rates = rates_of(card, framework, card.kernels or DEFAULT, job.precision.compute)
    groups = dict.fromkeys(("tp", "cp", "ep"), GROUP)
    return LayerLaw(LIBRARY.model(model), job, framework, constants, rates, groups, "nvlink", micros)


def stage(job: TrainingJob, number: int = 0, **keys: Any) -> StageLaw:
    made = law(job, **keys)
    return StageLaw(made, chunks_of(made.model, job.plan)[number], {})


def flops(*passes: Pass) -> float:
    return sum(p.work.flops for p in passes)


# ---- arithmetic


@pytest.mark.parametrize("model", ["llama-3-8b", "gpt-3-175b", "mixtral-8x7b", "mpt-7b"])
@pytest.mark.parametrize("tp", [1, 4])
def test_kernels_do_the_models_flops(model: str, tp: int) -> None:
    """Without recomputation hardware FLOPs are model FLOPs: 6 N and causal attention (its fused backward 2.5 times)."""
    job = described((8, 1, 2048), plan={"tp": tp})
    found = stage(job, model=model)
    (chunk,) = found.passes()
    m = LIBRARY.model(model)
    tokens = 2048
    done = flops(chunk.forward, chunk.backward, chunk.weight) * tp
    attention = 6 * m.layers * 2048 * m.heads * m.head_dim * tokens
    routers = 6 * m.mixture_layers * m.hidden * m.experts * tokens  # the router's product is too small to be told
    assert done == pytest.approx(
        model_flops_per_token(m, 2048) * tokens + attention * (3.5 / 3 - 1) - routers, rel=1e-6
    )


def test_a_frozen_model_needs_no_weight_gradients() -> None:
    full, tuned = (
        stage(described((8, 1, 2048), **keys)).passes()[0]
        for keys in ({}, {"finetune": {"method": "lora", "rank": 16}})
    )
    m = LIBRARY.model("llama-3-8b")
    matrices = m.parameters - m.embedding_parameters
    saved = flops(full.forward, full.backward, full.weight) - flops(tuned.forward, tuned.backward, tuned.weight)
    assert saved == pytest.approx(2 * matrices * 2048, rel=0.01)


@pytest.mark.parametrize(
    ("method", "share"), [("full", 1.0), ({"every": 2}, 0.5), ({"group": 4}, 1.0), ("from_input", 16.5)]
)
def test_recomputation_adds_forward_passes(method: Any, share: float) -> None:
    plain, again = (stage(described(plan={"recompute": r})).passes()[0] for r in ("none", method))
    head = law(described()).head()[0]
    forward = plain.forward.seconds - head.seconds
    assert again.backward.seconds - plain.backward.seconds == pytest.approx(share * forward, rel=1e-9)


def test_selective_recomputation_repeats_attention_alone() -> None:
    plain, again = (law(described(plan={"recompute": r})).layer() for r in ("none", "selective"))
    m = LIBRARY.model("llama-3-8b")
    assert plain.recompute.seconds == 0
    assert again.recompute.work.flops == pytest.approx(2 * m.heads * 4096**2 * m.head_dim)


# ---- times


def test_the_host_binds_where_layers_are_small() -> None:
    small = law(described((1, 1, 128)), host_per_layer=1e-3).layer()
    assert small.forward.seconds == pytest.approx(1e-3, rel=0.1)
    assert small.backward.seconds + small.weight.seconds == pytest.approx(1e-3, rel=0.5)
    large = law(described((1, 4, 8192)), host_per_layer=1e-3).layer()
    assert large.forward.work.launch < 0.02 * large.forward.seconds


def test_sequence_parallelism_moves_the_same_bytes_and_splits_elementwise_work() -> None:
    plain, split = (
        law(described(plan={"tp": 8, "sequence_parallel": sp}), host_per_layer=0.0).layer() for sp in (False, True)
    )
    assert sum(f.wire for f in split.forward.flows) == pytest.approx(sum(f.wire for f in plain.forward.flows))
    assert split.forward.work.memory < plain.forward.work.memory


def test_ring_attention_hides_behind_attention() -> None:
    ring, gathered = (
        law(described((8, 1, 32768), plan={"cp": 8, "context_parallel": kind})).layer()
        for kind in ("ring", "all_gather")
    )
    assert ring.forward.exposed < 0.2 * gathered.forward.exposed


def test_capacity_cuts_off_the_fullest_experts() -> None:
    plans = [{"dp": 8, "ep": 8, "expert_imbalance": i, "expert_capacity": c}
             for i, c in ((1.0, None), (2.0, None), (2.0, 1.25), (1.0, 1.25))]  # fmt: skip
    factors = [TrainingPlan.model_validate(p).expert_load for p in plans]
    assert factors == [1.0, 2.0, 1.25, 1.25]


FACTOR = st.floats(1.0, 4.0)


@given(FACTOR, FACTOR, st.sampled_from([1, 2, 4, 8]), st.sampled_from(["none", "selective", "full"]))
def test_better_constants_are_never_slower(compute: float, memory: float, tp: int, recompute: str) -> None:
    job = described(plan={"tp": tp, "recompute": recompute})
    base = law(job, matmul_16=0.2, elementwise=4.0, attention=0.2).layer()
    better = law(job, matmul_16=0.2 * compute, elementwise=4.0 / memory, attention=0.2 * compute).layer()
    assert better.forward.seconds <= base.forward.seconds * (1 + 1e-9)
    assert better.recompute.seconds <= base.recompute.seconds * (1 + 1e-9)
    both = [layer.backward.seconds + layer.weight.seconds for layer in (base, better)]
    assert both[1] <= both[0] * (1 + 1e-9)


# ---- stages


@given(st.integers(1, 8), st.integers(1, 4))
def test_layers_are_shared_out_whole_and_the_ends_get_fewer(pp: int, vpp: int) -> None:
    model = LIBRARY.model("llama-2-70b")
    plan = TrainingPlan.model_validate({"pp": pp, "vpp": vpp if pp > 1 else 1})
    counts = layers_of(model, plan)
    assert sum(counts) == 80
    assert max(counts) - min(counts) <= 1
    assert counts[-1] == min(counts)


@pytest.mark.parametrize("model", ["llama-2-70b", "mixtral-8x7b", "gpt-3-175b", "mpt-7b"])
@pytest.mark.parametrize(("tp", "pp", "ep"), [(1, 1, 1), (2, 4, 1), (4, 2, 1), (1, 2, 8)])
def test_ranks_hold_the_whole_model(model: str, tp: int, pp: int, ep: int) -> None:
    m = LIBRARY.model(model)
    if ep > 1 and not m.experts:
        return
    job = described(plan={"tp": tp, "pp": pp, "ep": ep, "dp": ep})
    total = 0.0
    for chunks in chunks_of(m, job.plan):
        held = held_by(m, job, chunks)
        total += tp * held.dense + tp * ep * held.expert
    positions = m.context * m.hidden * (tp - 1) if m.learned_positions else 0  # each tensor rank has its own
    routers = m.mixture_layers * m.hidden * m.experts * (tp - 1)
    tied = m.embedding_parameters if m.tied_embeddings and pp > 1 else 0  # the first and the last stage each have one
    assert total == pytest.approx(m.parameters + positions + routers + tied)
