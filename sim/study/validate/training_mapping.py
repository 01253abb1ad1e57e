"""One measured training row as the scenario a user would write for it, or why there is none.

Nothing is fitted and nothing is guessed in silence: what a source leaves out is either assumed, which each mapped row
lists in ``assumptions``, or a reason not to map the row. Names of GPUs, stacks, formats and sharding are looked up in
:mod:`sim.study.validate.training_names`.

Layout: ``dp`` is what tp, pp and cp leave of the GPUs. Layers that the chunks of a pipeline do not divide go to the
middle chunks, one more each, so that the first and the last, which also hold the token table and the output head, have
fewer: 126 layers on 8 stages are 15, 6 x 16, 15, as recipes that count the embeddings as layers have it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from sim.study.validate import training_names as names
from sim.study.validate.common import NoPrediction, catalogue, slug
from sim.study.validate.tables import MeasuredRow
from sim.study.validate.training_cluster import cluster_of

T = TypeVar("T")

STEP_TIME: Final = "step_time_s"
TOKENS: Final = "tokens_per_s_per_gpu"
MODEL: Final = "row-model"

_NO_COUNTERPART = ("OUTLIER", "REJECT")
_PROXY = re.compile(r"-proxy(\d+)L$")
_EVERY = re.compile(r"selective \((\d+)\)")
_RANGE = re.compile(r"(\d+)-(\d+)")
_LOCAL_BATCH = re.compile(r"local batch (\d+)")
_GROUP = re.compile(r"group=(\d+)")
_JAX = re.compile(r"JAX FSDP=\d+ x DP=(\d+)")


@dataclass(frozen=True, slots=True)
class Mapped:
    """A row as a scenario. ``measured`` in ``unit`` is what ``metric`` names; ``gpu`` and ``stack`` are ids.

    ``kind`` of training is pretrain, sft, lora or qlora (``pretrain-moe``: of experts); ``tokens`` are those of a step.
    """

    scenario: dict[str, Any]
    gpus: int
    metric: str
    measured: float
    unit: str
    assumptions: tuple[str, ...]
    gpu: str
    stack: str
    kind: str
    tokens: int

    @property
    def step_time_s(self) -> float:
        """The measured step, from tokens/s where the table has no step time."""
        return self.measured if self.metric == STEP_TIME else self.tokens / self.gpus / self.measured


@dataclass(frozen=True, slots=True)
class Unmapped:
    """A row that has no scenario, and why."""

    reason: str


def map_row(row: MeasuredRow) -> Mapped | Unmapped:
    """The row's scenario with what was assumed, or the reason why it has none."""
    try:
        return _Mapping(row).mapped()
    except NoPrediction as reason:
        return Unmapped(str(reason))


def is_mixture(row: MeasuredRow) -> bool:
    """Whether a row trains a mixture of experts."""
    return row.model.startswith(names.MIXTURE_STARTS) or row.n_active_b is not None or (row.ep or 1) > 1


def spread(layers: int, chunks: int) -> list[int]:
    """Layers of each chunk: even, those left over one each to the middle chunks."""
    each, more = divmod(layers, chunks)
    first = (chunks - more) // 2
    return [each + (first <= chunk < first + more) for chunk in range(chunks)]


@dataclass
class _Mapping:
    """One row on its way to a scenario; raises NoPrediction at the first thing missing."""

    row: MeasuredRow
    assumptions: list[str] = field(default_factory=list)

    def mapped(self) -> Mapped:
        row = self.row
        metric, measured, unit = self._measured()
        self._check_comparable()
        gpu, gpus = self._gpu(), self._count(row.n_gpus, "n_gpus")
        stack = self._stack()
        kind, finetune = self._kind(stack)
        model = self._model()
        plan = self._plan(stack, gpus, model)
        batch = self._batch(plan)
        precision = self._precision(stack)
        cluster = cluster_of(row, stack.id, gpu, gpus)
        self.assumptions += cluster.assumptions
        job: dict[str, Any] = {
            "name": "train", "kind": "training", "precision": precision, "plan": plan, "batch": batch,
        }  # fmt: skip
        if finetune is not None:
            job["finetune"] = self._with_base(finetune, gpu, plan)
        scenario = {
            "name": slug(row.id), "about": row.source, "cluster": {"topology": cluster.topology}, "model": MODEL,
            "stack": stack.id, "jobs": [job], "define": {**cluster.define, "models": {MODEL: model}},
        }  # fmt: skip
        tokens = batch["global"] * batch["sequence"]
        assumptions = tuple(dict.fromkeys(self.assumptions))
        return Mapped(scenario, gpus, metric, measured, unit, assumptions, gpu, stack.id, kind, tokens)

    # -- what was measured ----------------------------------------------------------------------------------

    def _measured(self) -> tuple[str, float, str]:
        row = self.row
        self._refuse_model()
        if row.step_time_s is not None:
            return STEP_TIME, row.step_time_s, "s"
        if row.tok_s_gpu is not None:
            return TOKENS, row.tok_s_gpu, "tokens/s per GPU"
        raise NoPrediction("neither step time nor tokens/s is stated")

    def _refuse_model(self) -> None:
        for start, reason in names.UNMODELLED.items():
            if self.row.model.startswith(start):
                raise NoPrediction(reason)

    def _check_comparable(self) -> None:
        """Refuse rows whose number is of something else than one step of the plan they state."""
        row, notes = self.row, self.row.notes
        if any(word in notes for word in _NO_COUNTERPART):
            raise NoPrediction(f"the table itself sets this row aside: {notes.split(';')[0]}")
        if "whole run" in row.task or "whole stage" in row.task:
            raise NoPrediction("GPU-hours of a whole run, restarts included")
        if "sliding-window attention" in notes:
            raise NoPrediction("parallel transformer blocks with sliding-window attention are not modelled")
        if "incl. eval -> lower bound" in notes:
            raise NoPrediction("its time includes evaluation")

    # -- names ----------------------------------------------------------------------------------------------

    def _gpu(self) -> str:
        if self.row.gpu in catalogue().names("gpu"):
            return self.row.gpu
        if self.row.gpu not in names.GPUS:
            raise NoPrediction(f"GPU {self.row.gpu or '(none stated)'} is not in the catalogue")
        return names.GPUS[self.row.gpu]

    def _stack(self) -> names.StackName:
        row = self.row
        found = names.TABLE_STACKS.get(row.table) or _first(names.STACKS, row.framework)
        if found is None and row.framework in catalogue().names("training-stack"):
            found = names.StackName(row.framework, "fp32", assumption="gradients in fp32 (not stated)")
        if found is None:
            raise NoPrediction(f"no training stack stands for {row.framework or 'a framework that is not stated'}")
        if found.id == "torchtitan" and "; FSDP" in row.notes and "compile" not in row.notes:
            found = found._replace(id="torchtitan-eager")
        self._assume(found.assumption)
        return found

    def _kind(self, stack: names.StackName) -> tuple[str, dict[str, Any] | None]:
        """Kind of training, and what of the model is trained where it is not all."""
        task = self.row.task
        if "lora" not in task.lower():
            whole = "sft" if re.search("SFT|finetune", task) and "pretrain" not in task else "pretrain"
            return f"{whole}-moe" if is_mixture(self.row) else whole, None
        if stack.id not in names.LORA:
            raise NoPrediction(f"LoRA's rank and targets are not stated, and {stack.id} has no default here")
        rank, targets, assumption = names.LORA[stack.id]
        if "rank 16, attention" not in task:
            self._assume(assumption)
        narrow = "q" in task.lower().partition("lora")[0] or re.match("nf4|int4", self.row.precision) is not None
        base = "nf4" if narrow else "bf16"
        if self.row.precision.startswith("int4"):
            self._assume("4-bit integer weights taken as NF4")
        return "qlora" if narrow else "lora", {"method": "lora", "rank": rank, "targets": list(targets), "base": base}

    def _precision(self, stack: names.StackName) -> dict[str, Any]:
        text = self.row.precision
        if text in names.UNMODELLED_PRECISIONS:
            raise NoPrediction(names.UNMODELLED_PRECISIONS[text])
        if text not in names.PRECISIONS:
            raise NoPrediction(f"precision '{text}' is not clear" if text else "precision is not stated")
        compute, assumption = names.PRECISIONS[text]
        self._assume(assumption)
        precision: dict[str, Any] = {"compute": compute}
        if "mp=PURE" in self.row.sharding:
            return {**precision, "gradients": "bf16", "master": False}
        if stack.gradients is not None:
            precision["gradients"] = stack.gradients
        return precision

    # -- the model ------------------------------------------------------------------------------------------

    def _model(self) -> dict[str, Any]:
        row = self.row
        sequence = self._count(row.seq_len, "seq_len")
        common = {"name": row.model, "context": sequence, "source": row.source or row.table}
        mixture = _mixture(row.model)
        if mixture is not None:
            self._assume("the model's published shape (the table has none)")
            proxy = _PROXY.search(row.model)
            layers = int(proxy[1]) if proxy else mixture["layers"]
            if row.model.startswith("GPT OSS"):
                self._assume("full attention in all layers (every other one looks at 128 tokens)")
            return {**common, **mixture, "layers": layers, "gated": True, "tied_embeddings": False}
        shape = {key: self._shape(key) for key in ("hidden", "layers", "heads", "kv_heads", "ffn", "mlp_mats", "vocab")}
        if shape["hidden"] % shape["heads"]:
            raise NoPrediction(f"hidden {shape['hidden']} is no multiple of {shape['heads']} heads")
        return {
            **common, "layers": shape["layers"], "hidden": shape["hidden"], "heads": shape["heads"],
            "kv_heads": shape["kv_heads"], "head_dim": shape["hidden"] // shape["heads"],
            "intermediate": shape["ffn"], "vocabulary": shape["vocab"], "gated": shape["mlp_mats"] == 3,
            "tied_embeddings": row.model.startswith(names.TIED),
        }  # fmt: skip

    def _shape(self, column: str) -> int:
        value = getattr(self.row, column)
        if value is None:
            raise NoPrediction("the model's shape is not stated")
        return int(value)

    # -- the plan -------------------------------------------------------------------------------------------

    def _plan(self, stack: names.StackName, gpus: int, model: Mapping[str, Any]) -> dict[str, Any]:
        row = self.row
        sharding = self._sharding(stack, gpus)
        if re.search("async ?tp", row.notes, re.IGNORECASE):
            self._assume("asynchronous tensor parallelism has no knob of its own: the stack's exposed share")
        tp, pp = (self._degree(name, gpus, sharding) for name in ("tp", "pp"))
        cp, ep = row.cp or 1, row.ep or 1
        dp = self._data_parallel(gpus, tp, pp, cp)
        plan: dict[str, Any] = {"tp": tp, "pp": pp, "cp": cp, "dp": dp, "zero": sharding.zero}
        if ep > 1:
            if (cp * dp) % ep:
                raise NoPrediction(f"ep {ep} does not divide cp x dp = {cp * dp}: experts spread over tensor ranks too")
            plan["ep"] = ep
        if "tokendrop" in row.model:
            plan["expert_capacity"] = 1.0
            self._assume("dropped tokens: experts take no more than their even share")
        if sharding.shard != "all":
            plan["shard"] = sharding.shard
            group = _GROUP.search(row.sharding)
            if group and int(group[1]) != max(1, (row.gpus_per_node or gpus) // tp):
                self._assume(f"sharded over the ranks of a node ({row.sharding})")
        if sharding.offload:
            plan["offload"] = dict.fromkeys(sharding.offload, "host")
        if not sharding.overlap:
            plan["overlap"] = False
        plan["recompute"] = self._recompute(stack)
        if stack.sequence_parallel or "sequence parallel" in row.recompute:
            plan["sequence_parallel"] = tp > 1
        vpp = self._chunks(model["layers"], pp)
        if vpp > 1:
            plan["vpp"] = vpp
        if pp > 1 and model["layers"] % (pp * vpp):
            plan["layers"] = spread(model["layers"], pp * vpp)
        return plan

    def _degree(self, name: str, gpus: int, sharding: names.Sharding) -> int:
        stated: int | None = getattr(self.row, name)
        if stated is not None:
            return stated
        if gpus == 1:
            return 1
        if sharding.zero == 3:
            self._assume("sharded data parallelism alone")
            return 1
        raise NoPrediction(f"{name} is not stated")

    def _data_parallel(self, gpus: int, tp: int, pp: int, cp: int) -> int:
        stated, model_parallel = self.row.dp, tp * pp * cp
        degrees = " x ".join(f"{name} {n}" for name, n in (("tp", tp), ("pp", pp), ("cp", cp)) if n > 1)
        if stated is None:
            if gpus % model_parallel:
                raise NoPrediction(f"{degrees} does not divide {gpus} GPUs")
            return gpus // model_parallel
        if stated * model_parallel != gpus:
            taken = f"{degrees} x dp {stated}" if degrees else f"dp {stated}"
            raise NoPrediction(f"{taken} is {stated * model_parallel}, not {gpus} GPUs")
        return stated

    def _sharding(self, stack: names.StackName, gpus: int) -> names.Sharding:
        row = self.row
        if "DeepSpeed ZeRO-3" in row.task:
            return names.Sharding(3)
        if not row.sharding:
            if gpus > 1 and row.table == "mlperf_training":
                self._assume("sharding not stated: the optimizer's states (ZeRO-1)")
                return names.Sharding(1)
            if gpus > 1 and stack.id != "megatron-2021":
                self._assume("sharding not stated: none")
            return names.Sharding(0)
        found = _first(names.SHARDINGS, row.sharding)
        if found is None:
            raise NoPrediction(f"sharding '{row.sharding}' is not clear")
        self._assume(found.assumption)
        groups = _JAX.match(row.sharding)
        if groups and int(groups[1]) > 1:
            self._assume(f"{row.sharding} taken as sharded over all data-parallel ranks")
        return found

    def _recompute(self, stack: names.StackName) -> Any:
        text = self.row.recompute
        every = _EVERY.fullmatch(text)
        if every:
            return {"every": int(every[1])}
        if text in names.RECOMPUTE:
            recompute, assumption = names.RECOMPUTE[text]
            self._assume(assumption)
            return recompute
        if text and not text.startswith("not stated"):
            raise NoPrediction(f"recompute '{text}' is not clear")
        assumed = names.ASSUMED_RECOMPUTE.get(stack.id, "none")
        self._assume(f"recomputation not stated: {assumed}")
        return assumed

    def _chunks(self, layers: int, pp: int) -> int:
        """Chunks a stage."""
        row = self.row
        if pp == 1:
            return 1
        if "Interleaved 1F1B" in row.notes and row.vpp is None:
            self._assume("interleaved schedule with two chunks a stage (how many is not stated)")
            return 2
        either = _RANGE.fullmatch(row.texts.get("vpp", ""))
        if either:
            fits = [n for n in range(int(either[1]), int(either[2]) + 1) if layers % (pp * n) == 0]
            if not fits:
                raise NoPrediction(f"vpp {either[0]}: none of them divides {layers} layers on {pp} stages")
            self._assume(f"vpp {fits[-1]} (the table says {either[0]})")
            return fits[-1]
        assumed = names.ASSUMED_CHUNKS.get((row.table, row.model))
        if row.vpp is None and assumed is not None:
            self._assume(f"vpp not stated: {assumed}")
            return assumed
        return row.vpp or 1

    def _batch(self, plan: Mapping[str, Any]) -> dict[str, int]:
        row = self.row
        sequence, whole = self._count(row.seq_len, "seq_len"), self._count(row.global_batch, "global_batch")
        micro = row.micro_batch if row.micro_batch is not None else self._local_batch(plan["pp"])
        ranks = micro * plan["dp"]
        if whole % ranks:
            raise NoPrediction(f"micro_batch {micro} x dp {plan['dp']} does not divide global_batch {whole}")
        return {"global": whole, "micro": micro, "sequence": sequence}

    def _local_batch(self, pp: int) -> int:
        """torchtitan states the batch of a data-parallel rank, which it cuts into as many micro-batches as stages."""
        local = _LOCAL_BATCH.match(self.row.texts.get("micro_batch", ""))
        if local is None or int(local[1]) % pp:
            raise NoPrediction("micro_batch is not stated")
        self._assume("as many micro-batches as stages")
        return int(local[1]) // pp

    def _with_base(self, finetune: dict[str, Any], gpu: str, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Frozen weights in 8 bit where FP8 training could not hold them in 16: NVIDIA keeps them in FP8 there."""
        if self.row.precision == "fp8" and finetune["base"] == "bf16" and gpu == "h200-sxm" and plan["tp"] == 1:
            self._assume("frozen weights in 8 bit (in 16 they would not fit)")
            return {**finetune, "base": "int8"}
        return finetune

    # -- helpers --------------------------------------------------------------------------------------------

    def _count(self, value: int | None, column: str) -> int:
        if value is None or value < 1:
            raise NoPrediction(f"{column} is not stated")
        return value

    def _assume(self, assumption: str | None) -> None:
        if assumption is not None:
            self.assumptions.append(assumption)


def _mixture(model: str) -> dict[str, Any] | None:
    """The published shape of a mixture of experts that a table calls ``model``."""
    return next((shape for name, shape in names.MIXTURES.items() if model.startswith(name)), None)


def _first(table: Iterable[tuple[str, T]], text: str) -> T | None:
    """The value of the first entry that ``text`` starts with."""
    return next((value for start, value in table if text.startswith(start)), None)
