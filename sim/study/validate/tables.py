"""Rows of measured training tables: one value a row, whatever the file's format.

Two formats are documented (docs/validation.md): one with a column for everything a source may state, and vTrain's,
which lists a layout, its batch and the milliseconds of a step. Columns that are not known are ignored. An empty cell is
None: what a source does not state stays unknown here, and a cell that should be a number but is prose ("~2000 (up to)")
is None too, its text kept in ``texts``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sim.study.validate.cells import Cells, number, record, whole

#: What vTrain's files leave to their description: GPT models trained by Megatron-DeepSpeed on A100 servers.
_VTRAIN = {
    "framework": "Megatron-DeepSpeed (vTrain)", "task": "pretrain", "gpu": "A100-80GB", "mlp_mats": "2",
    "precision": "fp16 mixed", "recompute": "full", "sharding": "", "quality": "A",
    "inter_link": "800 Gb/s per node", "intra_link": "NVLink3", "gpus_per_node": "8",
}  # fmt: skip
VTRAIN_COLUMNS = (
    "measured_iter_ms", "gpus", "global_batch", "micro_batch", "hidden", "heads", "layers", "seq", "tp", "dp", "pp",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """One measured training run as its source states it; None is what it does not state.

    ``step_time_s`` s, ``tok_s_gpu`` tokens/s per GPU, ``mem_gb`` the peak GPU's memory (some sources: the sum over
    GPUs, ``notes`` say so). ``quality``: A fully specified, B something assumed, C order of magnitude. ``texts`` holds
    the prose of number columns.
    """

    table: str
    id: str
    source: str = ""
    framework: str = ""
    task: str = ""
    model: str = ""
    n_active_b: float | None = None
    hidden: int | None = None
    layers: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    ffn: int | None = None
    mlp_mats: int | None = None
    vocab: int | None = None
    seq_len: int | None = None
    precision: str = ""
    gpu: str = ""
    n_gpus: int | None = None
    gpus_per_node: int | None = None
    intra_link: str = ""
    inter_link: str = ""
    tp: int | None = None
    pp: int | None = None
    vpp: int | None = None
    cp: int | None = None
    ep: int | None = None
    dp: int | None = None
    sharding: str = ""
    micro_batch: int | None = None
    global_batch: int | None = None
    recompute: str = ""
    tok_s_gpu: float | None = None
    step_time_s: float | None = None
    mem_gb: float | None = None
    quality: str = ""
    notes: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)


def row_of(cells: Cells) -> MeasuredRow:
    """A row from the texts of its cells; unknown columns are ignored."""
    return record(MeasuredRow, cells)


def vtrain_row(table: str, place: int, cells: Cells) -> MeasuredRow:
    """A row of vTrain's files: GPT with a plain MLP four times as wide, the padded vocabulary of GPT-2 (51,200).

    ``place`` is the row's in its file. ValueError where its width or its time is no number.
    """
    hidden, milliseconds = whole(cells, "hidden"), number(cells, "measured_iter_ms")
    derived = {
        "table": table, "id": f"{table}-{place:03d}", "model": f"gpt-{cells['layers']}x{hidden}",
        "n_gpus": cells["gpus"], "seq_len": cells["seq"], "kv_heads": cells["heads"], "ffn": str(4 * hidden),
        "vocab": "51200", "step_time_s": str(milliseconds / 1e3),
    }  # fmt: skip
    return row_of({**_VTRAIN, **cells, **derived})
