"""Why a prediction is known to be wrong: what the model leaves out, by the kind of row that it spoils.

Each cause is a fact about the model or the table that holds for every row it names, not an excuse found for one. The
list is short on purpose: a row far off that none of them names is a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from sim.study.validate.cases import COLLECTIVES, DECODE_ATTENTION, GEMM, GEMM_8, PREFILL_ATTENTION
from sim.study.validate.schema import Group, Row


@dataclass(frozen=True, slots=True)
class Cause:
    """A cause in words, and the rows that it concerns."""

    text: str
    concerns: Callable[[Row], bool]


def _group(row: Row) -> str:
    return row.group or ""


def _kind(row: Row) -> str:
    return _group(row).rpartition(" / ")[2]


def _says(row: Row, text: str) -> bool:
    return any(text in assumption for assumption in row.assumptions)


#: Starts of groups whose framework has no constants of this GPU.
UNFITTED: Final = ("rtx6000ada / hf", "a40 / hf", "b200-sxm / nemo", "b300-sxm / nemo", "gb200 / nemo")
#: In the order in which they are looked through; all that concern a row are told.
CAUSES: Final[tuple[Cause, ...]] = (
    Cause("mixtures of experts take the constants of dense models: nothing was fitted to them",
          lambda row: row.mixture),
    Cause("the kernels of row-wise FP8 are slower than those of one scale a tensor, and have no constants of their own",
          lambda row: _says(row, "row-wise FP8")),
    Cause("asynchronous tensor parallelism has no knob of its own",
          lambda row: _says(row, "asynchronous tensor parallelism")),
    Cause("the times of MLPerf Training include evaluation", lambda row: row.table == "mlperf_training"),
    Cause("eight ranks that wait for each other's launches four to six times a layer cost more than the law has",
          lambda row: row.table.startswith("vtrain") and (row.error or 0.0) < 0),
    Cause("no constants of this GPU are known for this framework: those for all GPUs",
          lambda row: _group(row).startswith(UNFITTED)),
    Cause("decode attention of this engine is slower where tensor parallelism leaves few KV heads on a GPU",
          lambda row: "trtllm-0.14" in _group(row) and _kind(row).endswith(", tp")),
    Cause("eight cards of one server over PCIe, whose bandwidth is not stated",
          lambda row: _group(row).startswith("l40s / trtllm-0") and _kind(row).endswith(", tp")),
    Cause("llama.cpp sends a prompt's pieces through its cards one behind the other; here each waits for the last",
          lambda row: "llama.cpp" in _group(row) and _kind(row) == "one stream, prefill, pp"),
    Cause("the engine's constants were fitted on other cards, or on none",
          lambda row: "eager-2023" in _group(row) or " / mlc / " in _group(row)),
    Cause("several cards of one machine whose PCIe is not stated", lambda row: _says(row, "PCIe of the machine")),
    Cause("the plan and the lengths of the submission are assumed",
          lambda row: row.table.startswith("MLPerf Inference")),
    Cause("limits on latency apply to drawn lengths, of which the mean alone is known here",
          lambda row: _kind(row).startswith(("server", "interactive"))),
    Cause("TTFT under load is a queueing time: it follows how an engine admits prompts, and its spare capacity",
          lambda row: _kind(row).startswith("closed loop, TTFT")),
    Cause("a KV cache that is small against the card: a few hundred MB of runtime decide the batch",
          lambda row: _kind(row) == "offline" and (row.error or 0.0) > 0),
    Cause("this server's PCIe reached 1.4 to 5 GB/s among four and eight cards; why is not recorded",
          lambda row: _group(row).startswith("l40s / ") and row.family == COLLECTIVES),
    Cause("times of small messages in this table vary twofold from one size to the next (2 to 60 us)",
          lambda row: " / vidur / " in _group(row)),
    Cause("kernels of unusual shapes (many query heads to a KV head, few heads) are several times slower",
          lambda row: row.family == DECODE_ATTENTION and (row.error or 0.0) < -0.5),
    Cause("frameworks' attention kernels differ up to 1.7 times on one GPU; constants are the GPU's",
          lambda row: row.family in (PREFILL_ATTENTION, DECODE_ATTENTION)),
    Cause("measured at more than the card's bandwidth: the weights stayed in its cache after all",
          lambda row: row.family in (GEMM, GEMM_8) and (row.error or 0.0) > 1.0),
    Cause("libraries switch kernels between shapes, most just past a tile",
          lambda row: row.family in (GEMM, GEMM_8) and (row.error or 0.0) <= 1.0),
)  # fmt: skip


def why(row: Row) -> str:
    """What is known about a row's error: causes, and what was assumed."""
    known = [cause.text for cause in CAUSES if cause.concerns(row)]
    assumed = [f"assumed: {'; '.join(row.assumptions)}"] if row.assumptions else []
    return ". ".join([*known, *assumed]) or "not known"


def worst(rows: Iterable[Row], number: int, *, each: int = 2) -> list[Row]:
    """The counted rows farthest off, at most ``each`` of one group."""
    known = sorted((row for row in rows if row.counted and row.error is not None), key=lambda row: -size(row))
    seen: dict[str | None, int] = {}
    found: list[Row] = []
    for row in known:
        seen[row.group] = seen.get(row.group, 0) + 1
        if seen[row.group] <= each:
            found.append(row)
        if len(found) == number:
            break
    return found


def size(row: Row) -> float:
    """How far off a row is, the same for twice and for half."""
    error = row.error or 0.0
    return max(1 + error, 1 / (1 + error)) if error > -1 else float("inf")


def most_rows(groups: Iterable[Group], number: int) -> list[Group]:
    """The groups of most rows, by name."""
    return sorted(sorted(groups, key=lambda group: -group.n)[:number], key=lambda group: group.name)
