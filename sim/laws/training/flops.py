"""Model FLOPs: the arithmetic a token of training needs, whatever is computed again.

    per token = 6 N + 6 L s a hd          N = active weights of the layers and the output head
                                          attention is causal: half of 12 L s a hd (Q K^T and A V, forward and backward)

A frozen model (LoRA) has no weight gradients: 4 N + 6 L s a hd, and 6 for each adapter weight. Hardware FLOPs add what
recomputation and unfused kernels really do. This is the convention of MFU here; published figures also count full
attention, 8 N with recomputation, or an FP8 peak, and differ by up to 1.9 times (docs/reference-metrics.md).
Source: Narayanan et al. 2021 (arXiv:2104.04473), Chowdhery et al. 2022 (arXiv:2204.02311), appendix B.
"""

from __future__ import annotations

from sim.laws.training.layer import adapter_parameters
from sim.spec.training import Finetune
from sim.spec.transformer import Transformer


def model_flops_per_token(
    model: Transformer, sequence: int, finetune: Finetune | None = None, parameters: float | None = None,
    *, attention_free: bool = False,
) -> float:  # fmt: skip
    """FLOP a token of a ``sequence`` needs for forward and backward.

    Assumptions: ``parameters`` is another count of weights, ``attention_free`` leaves attention's arithmetic out.
    """
    scale = model.scale_to(parameters)
    tables = model.embedding_parameters * (0 if model.tied_embeddings else 1)
    positions = model.context * model.hidden if model.learned_positions else 0
    matrices = (model.active_parameters - tables - positions) * scale
    attention = 0.0 if attention_free else 6.0 * model.layers * sequence * model.heads * model.head_dim
    if finetune is None:
        return 6.0 * matrices + attention
    return 4.0 * matrices + attention + 6.0 * model.layers * adapter_parameters(model, finetune)
