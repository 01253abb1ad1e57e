"""The law of stages that run a draft or adapters beside the model."""

from __future__ import annotations

from dataclasses import replace

from sim.adapters.resolve import Resolved, ResolvedServing
from sim.laws.adapters import AdapterLaw
from sim.laws.layout_extras import draft_tp
from sim.laws.roofline import kernel_rates
from sim.laws.speculative import SpeculativeLaw
from sim.laws.step import StageLaw, StageShape
from sim.spec.hardware import Gpu
from sim.spec.plan import WEIGHT_BYTES


def law_beside(
    resolved: Resolved, job: ResolvedServing, gpu: Gpu, shape: StageShape, load: float
) -> StageLaw | None:
    """The law of a stage of that shape on that type of GPU, or None where the model runs alone. An adapter is there
    ``load`` seconds after it is missed."""
    spec = job.spec
    if spec.adapters is not None:
        return AdapterLaw(shape, spec.adapters, load)
    if spec.speculative is None:
        return None
    draft, guesses, assume = None, spec.speculative, resolved.scenario.assume
    if job.draft is not None:
        tp = draft_tp(job)
        rates = kernel_rates(
            gpu,
            job.stack,
            resolved.kernels(gpu),
            guesses.weights,
            flops=assume.gpu.flops if assume.gpu else None,
            memory_bandwidth=assume.gpu.memory_bandwidth if assume.gpu else None,
        )
        draft = replace(
            shape,
            model=job.draft,
            rates=rates,
            layers=job.draft.layers,
            tp=tp,
            head=True,
            weight_bytes=WEIGHT_BYTES[guesses.weights],
            pieces=shape.pieces if tp > 1 else (),
            wire_per_byte=shape.wire_per_byte if tp > 1 else 0.0,
            scale=1.0,
            mixture=0,
            ep=1,
            expert_load=1.0,
            exchanges=(),
        )
    return SpeculativeLaw(shape, guesses.tokens, guesses.kept, draft)
