"""A measured row on its way to a prediction: what was measured, and the scenario or the law that should tell it.

Each format of tables makes its own cases (``training_cases``, ``serving_mapping``, ``kernel_cases``); from here on all
are alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sim.study.validate.kernel_laws import Kernel

#: Families of measurements, in the order in which they are told.
TRAINING: Final = "training"
DECODE: Final = "decode and static batches"
SATURATED: Final = "saturated serving"
LOADED: Final = "serving under load"
PREFILL: Final = "prefill and time to first token"
SERVED_MEMORY: Final = "serving memory"
GEMM: Final = "matrix products"
GEMM_8: Final = "matrix products in 8 bits"
DECODE_ATTENTION: Final = "decode attention"
PREFILL_ATTENTION: Final = "prefill attention"
COPIES: Final = "copies in memory"
COLLECTIVES: Final = "collectives"
#: Serving of models with experts, which the families of serving leave out.
SERVED_MIXTURES: Final = "serving of mixtures of experts"
FAMILIES: Final = (
    TRAINING, DECODE, SATURATED, LOADED, PREFILL, SERVED_MEMORY, GEMM, GEMM_8, DECODE_ATTENTION, PREFILL_ATTENTION,
    COPIES, COLLECTIVES,
)  # fmt: skip

#: Units whose values are times: more is slower.
TIMES: Final = ("s", "us")


@dataclass(frozen=True, slots=True)
class Knobs:
    """What tells a run from others of its table: ``knobs`` that may differ, and all the rest as one text, ``alike``.

    ``gpus`` and ``batch`` matter to scaling (see :mod:`sim.study.validate.agreement`); ``work`` is what one step does
    per GPU, so that work / time is a rate where the metric is a time (0: the metric is compared as it is).
    """

    knobs: Mapping[str, Any]
    alike: str
    gpus: int = 0
    batch: int = 0
    work: float = 0.0


@dataclass(frozen=True, slots=True)
class Case:
    """One row. It has a ``scenario`` that a predictor named ``play`` tells, or is ``predicted`` by a law alone, or has
    a ``reason`` why it is neither.

    What ``metric`` names was ``measured`` in ``unit``; of a played scenario the prediction is that of its ``metric``
    times ``scale``. ``assumptions`` are what the table does not say. ``gpus`` and ``nodes`` are those that it was
    measured on, where that is known; ``kernel`` is a kernel's shape, which has its own law.
    """

    table: str
    id: str
    family: str
    source: str = ""
    quality: str = "A"
    mixture: bool = False
    group: str | None = None
    metric: str | None = None
    unit: str | None = None
    measured: float | None = None
    predicted: float | None = None
    scenario: dict[str, Any] | None = None
    play: str = ""
    scale: float = 1.0
    memory_measured: float | None = None
    assumptions: tuple[str, ...] = ()
    reason: str | None = None
    knobs: Knobs | None = None
    gpus: int = 1
    nodes: int = 1
    kernel: Kernel | None = None
