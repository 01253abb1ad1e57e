"""One measured serving row as the scenario a user would write for it, or why there is none.

Modes. A *static batch* starts together and ends together; a *single stream* is one request alone; *offline* has all
requests queued; a *closed loop* as many clients as its batch; *server* and *interactive* runs have the highest rate of
independent requests within limits on TTFT and TPOT, which is searched for. What was measured did fit, so KV capacity is
not checked where it does not decide the batch (static batches and single streams).

Machines. Boards with NVLink are joined by it, other cards by PCIe in a server of eight on two sockets. Replicas of a
submission are alike and independent, so one is played.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sim.spec.plan import WEIGHT_BYTES
from sim.study.validate import serving_names as names
from sim.study.validate.cases import DECODE, LOADED, PREFILL, SATURATED, SERVED_MEMORY, Case, Knobs
from sim.study.validate.common import NVLINKS, SERVER, SERVER_MEMORY, NoPrediction, catalogue, slug
from sim.study.validate.serving_tables import ServedRow

#: Requests of an offline run (TensorRT-LLM's documentation lists 1,000 to 3,000 by length; 1,000 where prompts are
#: long), of one MLPerf replica offline and under limits, and rounds that lmdeploy's client makes.
OFFLINE, OFFLINE_LONG, LONG = 3000, 1000, 10_000
MLPERF_REQUESTS, SERVER_REQUESTS, ROUNDS = 2000, 1000, 3
#: Tokens of the prompts and the answers of single streams whose length is not stated.
FEW, ANSWER = 8, 256
#: A replica's weights take at most this share of its memory, where the plan of a submission is not stated: what the
#: published ones do (H100 70B FP8: TP2; H200: TP1; L40S: TP4).
SHARE: Final = 0.6

_MEAN = re.compile(r"mean ~?(\d+)")
_LIMITS = re.compile(r"TTFT<=([\d.]+) ?(m?s) TPOT<=([\d.]+) ?(m?s)")
_INSIDE = re.compile(r"\(([^)]+)\)$")


@dataclass(frozen=True, slots=True)
class _Measure:
    """What a (mode, metric) measures: the prediction's name, unit, factor on the table's value, family and kind."""

    metric: str
    unit: str
    family: str
    kind: str


_RATE, _SECONDS, _BETWEEN = "tokens/s", "s", "closed loop, time between tokens"
#: (mode, metric) -> measure.
MEASURES: Final = {
    ("static_batch", "throughput"): _Measure("output_tokens_per_s", _RATE, DECODE, "static batch"),
    ("static_batch", "ttft"): _Measure("ttft_s", _SECONDS, PREFILL, "TTFT alone"),
    ("static_batch", "tpot"): _Measure("tpot_s", _SECONDS, DECODE, "static batch, TPOT"),
    ("offline_max", "throughput"): _Measure("output_tokens_per_s", _RATE, SATURATED, "offline"),
    ("server_slo", "throughput"): _Measure("output_tokens_per_s", _RATE, LOADED, "server"),
    ("interactive_slo", "throughput"): _Measure("output_tokens_per_s", _RATE, LOADED, "interactive"),
    ("single_stream", "decode_rate"): _Measure("decode_tokens_per_s", _RATE, DECODE, "one stream, decode"),
    ("single_stream", "prefill_rate"): _Measure("prefill_tokens_per_s", _RATE, PREFILL, "one stream, prefill"),
    ("single_stream", "ttft"): _Measure("ttft_s", _SECONDS, PREFILL, "TTFT alone"),
    ("single_stream", "tpot"): _Measure("tpot_s", _SECONDS, DECODE, "one stream, decode"),
    ("single_stream", "e2e_latency"): _Measure("latency_s", _SECONDS, DECODE, "one stream, latency"),
    ("single_stream", "vram"): _Measure("memory_peak_bytes", "bytes", SERVED_MEMORY, "memory"),
    ("closed_loop_static", "throughput"): _Measure("output_tokens_per_s", _RATE, DECODE, "closed loop"),
    ("closed_loop_static", "itl_p50"): _Measure("inter_token_p50_s", _SECONDS, DECODE, _BETWEEN),
    ("closed_loop_static", "ttft_mean"): _Measure("ttft_s", _SECONDS, LOADED, "closed loop, TTFT"),
    ("closed_loop", "throughput"): _Measure("output_tokens_per_s", _RATE, LOADED, "closed loop"),
    ("closed_loop", "request_rate"): _Measure("requests_per_s", "requests/s", LOADED, "closed loop"),
    ("closed_loop", "ttft_mean"): _Measure("ttft_s", _SECONDS, LOADED, "closed loop, TTFT"),
    ("closed_loop", "ttft_p50"): _Measure("ttft_p50_s", _SECONDS, LOADED, "closed loop, TTFT"),
    ("closed_loop", "ttft_p99"): _Measure("ttft_p99_s", _SECONDS, LOADED, "closed loop, TTFT"),
    ("closed_loop", "tpot"): _Measure("tpot_s", _SECONDS, LOADED, "closed loop, TPOT"),
}  # fmt: skip
#: Units as tables write them -> factor to this document's.
UNITS: Final = {
    "tok/s": 1.0, "req/s": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "MB": 1e6, "GB": 1e9, "kB": 1e3,
}  # fmt: skip


def serving_case(row: ServedRow) -> Case:
    """The row with its scenario, or the reason why it has none."""
    mixture = row.model.startswith(names.MIXTURES)
    table = f"{row.source} {row.version}".strip() or "serving"
    bare = Case(table, row.id, _family(row), row.source, row.quality or "A", mixture)
    try:
        return _Mapping(row).case(bare)
    except NoPrediction as reason:
        return replace(bare, reason=str(reason))


def _family(row: ServedRow) -> str:
    measure = MEASURES.get((row.mode, row.metric))
    return measure.family if measure else SERVED_MEMORY if row.metric in ("mem", "vram") else LOADED


@dataclass
class _Mapping:
    """One row on its way to a scenario; raises NoPrediction at the first thing missing."""

    row: ServedRow
    assumptions: list[str] = field(default_factory=list)

    def case(self, bare: Case) -> Case:
        row = self.row
        measure, value = self._measured()
        gpu, stack = self._gpu(), self._stack()
        model = self._model()
        precision = self._precision()
        plan, copies = self._plan(gpu, precision)
        prompt, answer = self._lengths()
        name = slug(row.model)
        define: dict[str, Any] = {"models": {name: {**model, "context": self._context(model, prompt + answer)}}}
        self._check_on_gpu()
        job: dict[str, Any] = {
            "name": "serve", "kind": "serving", "precision": precision,
            "plan": plan | ({"layers": "balanced"} if stack.by_memory and plan["pp"] > 1 else {}),
            **self._asked(stack, prompt, answer),
        }  # fmt: skip
        scenario: dict[str, Any] = {
            "name": slug(row.id), "about": row.source, "cluster": {"topology": self._cluster(gpu, plan)},
            "model": name, "stack": stack.id, "jobs": [job], "define": define,
        }  # fmt: skip
        if row.mode in ("static_batch", "single_stream"):
            scenario["assume"] = {"kv_capacity": "unchecked"}
        gpus = plan["tp"] * plan["pp"] * copies
        assumptions = tuple(dict.fromkeys(self.assumptions))
        return replace(
            bare,
            quality=row.quality or ("B" if row.source.startswith("MLPerf") else "A"),
            group=f"{gpu} / {stack.id} / {measure.kind}{_shape_of(plan)}{', experts' if bare.mixture else ''}",
            metric=measure.metric, unit=measure.unit + (" per GPU" if row.scope == "per_gpu" else ""), measured=value,
            scenario=scenario, play="capacity" if measure.kind in ("server", "interactive") else "serving",
            scale=copies / (gpus if row.scope == "per_gpu" else 1) if measure.unit == _RATE else 1.0,
            assumptions=assumptions, knobs=self._knobs(gpu, stack, model, precision, plan),
            gpus=max(gpus, row.n_gpus or 1), nodes=row.n_nodes or 1,
        )  # fmt: skip

    # -- what was measured ----------------------------------------------------------------------------------

    def _measured(self) -> tuple[_Measure, float]:
        row = self.row
        if row.metric in names.NOT_TOLD:
            raise NoPrediction(names.NOT_TOLD[row.metric])
        if any(word in row.notes for word in ("OUTLIER", "REJECT")):
            raise NoPrediction(f"the table itself sets this row aside: {row.notes.partition('OUTLIER')[2].strip(': ')}")
        measure = MEASURES.get((row.mode, row.metric))
        if measure is None:
            raise NoPrediction(f"no scenario stands for {row.metric or 'no metric'} of mode {row.mode or '(none)'}")
        if row.value is None or row.value <= 0:
            raise NoPrediction("no value is stated")
        if row.unit not in UNITS:
            raise NoPrediction(f"unit {row.unit or '(none stated)'} is not clear")
        return measure, row.value * UNITS[row.unit]

    # -- names ----------------------------------------------------------------------------------------------

    def _gpu(self) -> str:
        text = self.row.gpu.replace("\N{NON-BREAKING HYPHEN}", "-")
        if any(word in text for word in names.WITHOUT_GPU):
            raise NoPrediction("nodes without a GPU are not modelled")
        inside = _INSIDE.search(text)
        found = names.GPUS.get(text) or (names.GPUS.get(inside[1]) if inside else None)
        found = found or (text if text in catalogue().names("gpu") else None)
        if found is None:
            raise NoPrediction(f"GPU {text or '(none stated)'} is not in the catalogue")
        return found

    def _stack(self) -> names.StackName:
        row = self.row
        for engine, version, stack in names.STACKS:
            if row.engine.startswith(engine) and row.version.startswith(version):
                if "speculative" in row.engine:
                    raise NoPrediction("speculative decoding is not modelled")
                self._assume(stack.assumption)
                return stack
        if row.engine in catalogue().names("stack"):
            return names.StackName(row.engine)
        raise NoPrediction(f"no serving stack stands for {row.engine or 'an engine that is not stated'}")

    def _precision(self) -> dict[str, str]:
        row = self.row
        found = next((value for start, value in names.WEIGHTS if row.weights.startswith(start)), None)
        if found is None:
            raise NoPrediction(f"weights in '{row.weights}' are no format here" if row.weights else "format not stated")
        weights, assumption = found
        self._assume(assumption)
        if row.kv_dtype:
            if row.kv_dtype not in names.KV:
                raise NoPrediction(f"a KV cache in '{row.kv_dtype}' is no format here")
            kv, assumption = names.KV[row.kv_dtype]
            self._assume(assumption)
        else:
            kv = "fp8" if weights in ("fp8", "fp4") else "fp16"
            self._assume(f"KV cache in {kv} (not stated)")
        return {"weights": weights, "kv": kv}

    # -- the model ------------------------------------------------------------------------------------------

    def _model(self) -> dict[str, Any]:
        name = self.row.model
        for start, reason in names.UNMODELLED.items():
            if name.startswith(start):
                raise NoPrediction(reason)
        if name in names.MODELS:
            return {"like": names.MODELS[name]}
        if name in catalogue().names("model"):
            return {"like": name}
        if name in names.SHAPES:
            return {"name": name, "source": "the model's configuration, recalled", **names.SHAPES[name]}
        raise NoPrediction(f"the shape of {name or 'a model that is not stated'} is not known here")

    def _check_on_gpu(self) -> None:
        """Refuse runs of which a part was on the host's processor."""
        if re.match(r"(GPU/)?CPU\b", self.row.notes):
            raise NoPrediction("a part of the model ran on the host's processor")

    def _context(self, model: dict[str, Any], tokens: int) -> int:
        """As long as the row needs: engines were told to go on past a model's own."""
        own = catalogue().model(model["like"]).context if "like" in model else 2048
        return max(own, tokens)

    def _lengths(self) -> tuple[int, int]:
        """Tokens of a prompt and of an answer, at least one each."""
        row = self.row
        if row.source.startswith("MLPerf"):
            return self._data_set()
        if row.mode == "single_stream":
            return self._stream()
        mean = _MEAN.search(row.texts.get("osl", ""))
        answer = row.osl if row.osl is not None else int(mean[1]) if mean else None
        if row.isl is None or answer is None:
            raise NoPrediction("the lengths of requests are not stated")
        if row.metric == "ttft":
            return max(1, row.isl), 1
        return max(1, row.isl), max(1, answer)

    def _stream(self) -> tuple[int, int]:
        """Of one request alone: a prompt's time needs its length, a decoding rate hardly depends on it."""
        row, first = self.row, self.row.metric in ("prefill_rate", "ttft")
        if row.isl is None:
            if first:
                raise NoPrediction("the prompt's length is not stated")
            self._assume("a prompt of a few tokens")
        prompt = FEW if row.isl is None else max(1, row.isl)
        if first:
            return prompt, 1
        if row.osl is None:
            self._assume(f"answers of {ANSWER} tokens")
        return prompt, ANSWER if row.osl is None else max(1, row.osl)

    def _data_set(self) -> tuple[int, int]:
        prompt = names.MLPERF_PROMPTS.get(names.MODELS.get(self.row.model, ""))
        answer = self.row.tokens_a_sample
        if prompt is None or answer is None:
            raise NoPrediction("the lengths of the data set's requests are not known here")
        self._assume(f"prompts of {prompt} and answers of {answer:.0f} tokens, the data set's means")
        return prompt, max(1, round(answer))

    # -- requests and batches -------------------------------------------------------------------------------

    def _asked(self, stack: names.StackName, prompt: int, answer: int) -> dict[str, Any]:
        """The job's load and batching."""
        row = self.row
        load: dict[str, Any] = {"prompt_tokens": prompt, "output_tokens": answer}
        if row.mode == "static_batch":
            batch = self._batch()
            load |= {"all_at_once": True, "requests": batch}
            return {"load": load, "batching": {"policy": "static", "batch_size": batch}}
        if row.mode == "single_stream":
            load |= {"all_at_once": True, "requests": 1}
            return {"load": load, **({"batching": {"prefill_chunk": stack.chunk}} if stack.chunk else {})}
        if row.mode.startswith("closed_loop"):
            clients = self._batch()
            requests = clients * ROUNDS if row.mode == "closed_loop_static" else max(300, clients)
            return {"load": load | {"closed_loop": {"clients": clients}, "requests": requests}}
        if row.mode == "offline_max":
            number = OFFLINE_LONG if prompt + answer >= LONG else OFFLINE
            if row.source.startswith("MLPerf"):
                number = MLPERF_REQUESTS
            else:
                self._assume(f"{number:,} requests in all")
            return {"load": load | {"all_at_once": True, "requests": number}}
        return {"load": load | {"all_at_once": True, "requests": SERVER_REQUESTS}, "objectives": self._limits()}

    def _batch(self) -> int:
        if not self.row.batch:
            raise NoPrediction("the batch is not stated")
        return self.row.batch

    def _limits(self) -> dict[str, str]:
        found = _LIMITS.search(self.row.notes)
        if found is not None:
            return {"ttft_p99": f"{found[1]} {found[2]}", "tpot_p99": f"{found[3]} {found[4]}"}
        known = names.MLPERF_LIMITS.get((names.MODELS.get(self.row.model, ""), self.row.mode))
        if known is None:
            raise NoPrediction("the limits on latency are not stated")
        self._assume(f"limits of the benchmark: TTFT {known[0]}, TPOT {known[1]} at the 99th percentile")
        return {"ttft_p99": known[0], "tpot_p99": known[1]}

    # -- the plan and its machine ---------------------------------------------------------------------------

    def _plan(self, gpu: str, precision: dict[str, str]) -> tuple[dict[str, int], int]:
        """Degrees of one replica, and how many replicas there are."""
        row = self.row
        if row.tp and row.pp:
            return {"tp": row.tp, "pp": row.pp}, 1
        if row.n_gpus is None or not row.source.startswith("MLPerf"):
            raise NoPrediction("the plan is not stated")
        if row.model not in names.MODELS:
            raise NoPrediction("the plan is not stated")
        model = catalogue().model(names.MODELS[row.model])
        if model.latent:
            raise NoPrediction("whether attention is sliced or data-parallel is not stated, which decides with latents")
        room = SHARE * catalogue().gpu(gpu).usable_memory
        weights = model.parameters * WEIGHT_BYTES[precision["weights"]]
        fits = [tp for tp in (1, 2, 4, 8) if row.n_gpus % tp == 0 and weights / tp <= room]
        if not fits:
            raise NoPrediction("no plan of up to eight tensor ranks holds the weights")
        tp = fits[0]
        self._assume(f"{row.n_gpus // tp} replicas of tp {tp}, the fewest ranks whose weights leave room")
        return {"tp": tp, "pp": 1}, row.n_gpus // tp

    def _cluster(self, gpu: str, plan: dict[str, int]) -> dict[str, Any]:
        gpus, text = plan["tp"] * plan["pp"], self.row.interconnect
        if gpus > SERVER:
            raise NoPrediction(f"{gpus} GPUs of one replica are no server of eight")
        node: dict[str, Any] = {"name": "node", "gpus": [{"type": gpu, "count": gpus}]}
        if gpus > 1 and gpu in NVLINKS:
            node["nvlink"] = {"link": NVLINKS[gpu]}
        elif gpus > 1:
            node["gpus"][0]["count"] = SERVER
            node |= {"sockets": 2, "socket_link": "xgmi", "host_memory": SERVER_MEMORY}
            if "unspecified" in text or not text:
                self._assume("PCIe of the machine not stated: a server of eight cards on two sockets")
        return {"name": "cluster", "nodes": [node]}

    # -- helpers --------------------------------------------------------------------------------------------

    def _knobs(
        self, gpu: str, stack: names.StackName, model: dict[str, Any], precision: dict[str, str], plan: dict[str, int]
    ) -> Knobs:
        row = self.row
        lengths = {name: row.texts.get(name, getattr(row, name)) for name in ("batch", "isl", "osl")}
        rest = [row.source, row.version, row.engine, row.mode, row.metric, gpu, stack.id, model, precision["kv"],
                row.interconnect.partition(" ")[0], row.scope]  # fmt: skip
        return Knobs({**plan, **lengths, "weights": precision["weights"]}, json.dumps(rest, sort_keys=True))

    def _assume(self, assumption: str | None) -> None:
        if assumption is not None:
            self.assumptions.append(assumption)


def _shape_of(plan: dict[str, int]) -> str:
    """The plan's kind, as part of a group's name."""
    return "".join(f", {degree}" for degree in ("tp", "pp") if plan[degree] > 1)
