"""vLLM's arguments as a serving job: each as the key that stands for it, or why there is none.

What the arguments do not tell, who asks and how often guesses of a draft are right, is filled in and said.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sim.adapters.lookup import Library
from sim.adapters.vllm_arguments import Argument
from sim.adapters.vllm_limits import LARGE
from sim.adapters.vllm_models import model_of, weights_of
from sim.adapters.vllm_names import REASONS
from sim.adapters.vllm_values import DTYPES, KV_DTYPES, QUANTIZATION, count, flag, modules, share
from sim.adapters.yaml_text import comment, flow
from sim.errors import InputError, Problem
from sim.spec.transformer import Transformer

#: Acceptance that a draft is given, which no argument tells.
ACCEPTANCE: Final = 0.7
STACK: Final = "vllm"


@dataclass(slots=True)
class Mapped:
    """A serving job made of arguments: keys of the scenario and of the job, what each argument became, and what has no
    counterpart."""

    model: str
    top: dict[str, Any] = field(default_factory=dict)
    job: dict[str, Any] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The model in a word."""
        return Path(self.model).parent.name if "/" in self.model else self.model


def map_arguments(arguments: Sequence[Argument]) -> Mapped:
    """The scenario's keys for them. Raises InputError with every value that cannot be."""
    return _Mapping(arguments).mapped()


class _Mapping:
    """Takes arguments one by one, the last of each name, as vLLM does."""

    def __init__(self, arguments: Sequence[Argument]) -> None:
        self.given: dict[str, Argument] = {}
        for argument in arguments:
            before = self.given.get(argument.name)
            if before is not None and isinstance(before.value, dict) and isinstance(argument.value, dict):
                value = {**before.value, **argument.value}
                argument = Argument(argument.name, value, f"{before.said} {argument.said}", argument._complain)
            self.given[argument.name] = argument
        self.problems: list[Problem] = []
        self.library = Library()
        self.result = Mapped("")

    def mapped(self) -> Mapped:
        shape = self._model()
        self._precision()
        self._plan(shape)
        for step in (self._batching, self._memory, self._cache):
            step()
        if shape is not None:
            self._longest(shape)
            self._adapters()
            self._speculation(shape)
        self._load()
        for name, argument in self.given.items():
            self.result.left.append(f"{argument.said}: {REASONS.get(name, 'nothing that it belongs to is given')}")
        if self.problems:
            raise InputError(self.problems)
        return self.result

    # ---- Values

    def take(self, name: str, read: Callable[[Any], Any], wrong: str, key: str | None = None) -> Any:
        """The value of an argument that was given, read; None if it was not or cannot be. It becomes ``key``."""
        argument = self.given.pop(name, None)
        if argument is None:
            return None
        try:
            value = read(argument.value)
        except (ValueError, TypeError):
            self.problems.append(argument.problem(f"{argument.said}: {wrong}"))
            return None
        if key is not None:
            self.result.told.append(f"{argument.said}: {key}")
        return value

    def leave(self, name: str, why: str) -> None:
        """An argument that has a counterpart, but not here."""
        argument = self.given.pop(name, None)
        if argument is not None:
            self.result.left.append(f"{argument.said}: {why}")

    def count(self, name: str, key: str | None = None) -> int | None:
        found: int | None = self.take(name, count, "must be a whole number, 1 or more", key)
        return found

    def flag(self, name: str, key: str | None = None) -> bool | None:
        found: bool | None = self.take(name, flag, "is yes or no", key)
        return found

    def change_stack(self, **keys: Any) -> None:
        """Something of the engine is not as the catalogue has it: a stack of one's own."""
        own = self.result.top.setdefault("define", {}).setdefault("stacks", {}).setdefault("vllm-own", {"like": STACK})
        for key, value in keys.items():
            own[key] = {**own[key], **value} if isinstance(value, dict) and key in own else value
        self.result.top["stack"] = "vllm-own"

    # ---- Keys

    def _model(self) -> Transformer | None:
        argument = self.given.pop("model", None)
        if argument is None:
            text = "the arguments name no model: vllm serve MODEL, or --model MODEL"
            self.problems.append(Problem("", None, None, "", text, None))
            return None
        name, shape = self._known(argument, str(argument.value))
        self.result.model = name
        self.result.top |= {"model": name, "stack": STACK}
        self.result.job["precision"] = {"weights": weights_of(str(argument.value)) or "fp16", "kv": "fp16"}
        self.result.told.append(f"{argument.said}: model" + (f", taken for {name}" if name != argument.value else ""))
        return shape

    def _known(self, argument: Argument, said: str) -> tuple[str, Transformer | None]:
        """A model's catalogue id, or the path of its config.json, and its shape."""
        try:
            name = model_of(said, self.library)
            return name, self.library.model(name, Path(name))
        except InputError as error:
            self.problems += [argument.problem(p.message, p.suggestion) for p in error.problems]
            return said, None

    def _precision(self) -> None:
        precision = self.result.job.get("precision", {})
        named = precision.get("weights")
        dtype = self.given.get("dtype")
        if dtype is not None and str(dtype.value) in ("auto", "float", "float32", *DTYPES):
            if str(dtype.value) in ("float", "float32"):
                self.leave("dtype", "weights take 16 bits or fewer: fp16 is taken")
            else:
                wide = DTYPES.get(str(dtype.value), "fp16")
                if named == "fp16":
                    precision["weights"] = wide
                precision["kv"] = wide
                self.take("dtype", str, "", "jobs.0.precision")
        elif dtype is not None:
            del self.given["dtype"]
            self.problems.append(dtype.problem(f"{dtype.said}: is auto, half, float16, bfloat16 or float32"))
        quantization = self.given.get("quantization")
        if quantization is not None:
            fmt = QUANTIZATION.get(str(quantization.value).casefold())
            if fmt is not None:
                precision["weights"] = fmt
                self.take("quantization", str, "", "jobs.0.precision.weights")
            elif named not in ("fp16", None):
                self.take("quantization", str, "", f"jobs.0.precision.weights, {named} by the model's name")
            else:
                self.leave("quantization", "what format that is stands in the model's files: set precision.weights")
        cache = self.given.get("kv-cache-dtype")
        if cache is not None and str(cache.value) in KV_DTYPES:
            precision["kv"] = KV_DTYPES[str(cache.value)] or precision["kv"]
            self.take("kv-cache-dtype", str, "", "jobs.0.precision.kv")
        elif cache is not None:
            self.leave("kv-cache-dtype", f"is none of {', '.join(KV_DTYPES)}: 16 bits are taken")

    def _plan(self, shape: Transformer | None) -> None:
        names = {"tp": "tensor-parallel-size", "pp": "pipeline-parallel-size", "dp": "data-parallel-size"}
        plan = {key: self.count(name, f"jobs.0.plan.{key}") or 1 for key, name in names.items()}
        self.result.job["plan"] = {key: degree for key, degree in plan.items() if degree > 1 or key == "tp"}
        if (shape is not None and shape.experts) or "enable-expert-parallel" not in self.given:
            self._experts(plan)
        else:
            self.leave("enable-expert-parallel", "the model has no experts to spread")

    def _experts(self, plan: dict[str, int]) -> None:
        """Experts spread over the ranks of a tensor group; of replicas with one GPU each over all of them, which then
        have sequences of their own."""
        if not self.flag("enable-expert-parallel"):
            return
        told, left, degrees = self.result.told, self.result.left, self.result.job["plan"]
        if plan["tp"] == 1 and plan["dp"] > 1 and plan["pp"] == 1:
            self.result.job["plan"] = {"tp": plan["dp"], "ep": plan["dp"], "attention": "data"}
            told.append(f"--enable-expert-parallel: jobs.0.plan.ep; {plan['dp']} ranks are a group (attention: data)")
        elif plan["tp"] > 1:
            degrees["ep"] = plan["tp"]
            told.append("--enable-expert-parallel: jobs.0.plan.ep")
            if plan["dp"] > 1:
                left.append("--enable-expert-parallel: spread over tensor ranks; each replica has all experts")
        else:
            left.append("--enable-expert-parallel: one GPU has all experts")

    def _batching(self) -> None:
        batching = self.result.job.setdefault("batching", {})
        chunked = self.flag("enable-chunked-prefill", "jobs.0.batching.policy")
        batching["policy"] = "prefill_first" if chunked is False else "continuous"
        for name, key in (("max-num-batched-tokens", "max_batched_tokens"), ("max-num-seqs", "max_sequences")):
            if (value := self.count(name, f"jobs.0.batching.{key}")) is not None:
                batching[key] = value
        mode = self.given.get("preemption-mode")
        if mode is not None and str(mode.value) in ("swap", "recompute"):
            batching["preemption"] = self.take("preemption-mode", str, "", "jobs.0.batching.preemption")
        elif mode is not None:
            del self.given["preemption-mode"]
            self.problems.append(mode.problem(f"{mode.said}: is recompute or swap"))
        if batching.get("preemption") == "swap":
            self.leave("swap-space", "host memory is the topology's; it does not run out of room for swapped sequences")
        self.leave("swap-space", "used with preemption-mode swap only; host memory is the topology's")

    def _memory(self) -> None:
        fraction = self.take("gpu-memory-utilization", share, "must be above 0 and at most 1",
                             "define.stacks.vllm-own.memory.fraction")  # fmt: skip
        if fraction is not None:
            self.change_stack(memory={"fraction": fraction})
        block = self.count("block-size", "define.stacks.vllm-own.memory.block_tokens")
        if block is not None:
            self.change_stack(memory={"block_tokens": block})
        if self.flag("disable-custom-all-reduce", "define.stacks.vllm-own.collective_libraries"):
            self.change_stack(collective_libraries=["nccl"])

    def _cache(self) -> None:
        batching = self.result.job["batching"]
        if self.given.get("enable-lora") and self.given["enable-lora"].value is True:
            self.leave("enable-prefix-caching", "prefixes of different adapters have nothing in common")
            self.leave("kv-offloading-size", "needs prefix caching, which adapters do not share")
        cached = self.flag("enable-prefix-caching", "jobs.0.batching.prefix_caching")
        if cached is not None:
            batching["prefix_caching"] = cached
        size = self.take("kv-offloading-size", float, "must be a number of GiB", "jobs.0.batching.kv_offload")
        if size is not None and cached is False:
            self.result.told.pop()
            self.result.left.append(f"--kv-offloading-size {size:g}: keeps what prefix caching has no room for")
        elif size is not None:
            batching |= {"prefix_caching": True, "kv_offload": {"to": "host", "capacity": f"{size:g} GiB"}}
        self.leave("kv-offloading-backend", "copies take what the links take")

    def _longest(self, shape: Transformer) -> None:
        """A shorter context is a model of one's own: longer requests are rejected, as by vLLM."""
        longest = self.count("max-model-len")
        if longest is None:
            return
        own, like = f"{shape.id}-{longest}", self.result.model
        if "/" in like or like.endswith(".json"):
            self.result.left.append(f"--max-model-len {longest}: the config.json says what the model reads")
            return
        self.result.told.append(f"--max-model-len {longest}: define.models.{own}.context")
        self.result.top.setdefault("define", {})["models"] = {own: {"like": like, "context": longest}}
        self.result.top["model"] = own

    def _adapters(self) -> None:
        on = self.flag("enable-lora", "jobs.0.adapters")
        if not on:
            for name in ("max-loras", "max-lora-rank", "max-cpu-loras", "lora-modules"):
                self.leave(name, "adapters are not enabled (--enable-lora)")
            return
        slots = self.count("max-loras", "jobs.0.adapters.resident") or 1
        rank = self.count("max-lora-rank", "jobs.0.adapters.rank, which all have") or 16
        named = self.take("lora-modules", modules, "names no adapter", "jobs.0.adapters.count")
        held = self.count("max-cpu-loras", "jobs.0.adapters.count, unless --lora-modules names them")
        number = len(named) if named else max(held or 0, slots)
        adapters: dict[str, Any] = {"count": number, "rank": rank}
        running = self.result.job["batching"].get("max_sequences") or LARGE.sequences
        if slots < number and running <= slots:
            adapters["resident"] = slots
        elif slots < number:
            self.result.left.append(
                f"--max-loras {slots}: a request waits in vLLM while {slots} other adapters run; here all {number} are "
                "on the GPUs, unless no more than that many sequences run"
            )
        self.result.job["adapters"] = adapters

    def _speculation(self, shape: Transformer) -> None:
        argument = self._speculative()
        if argument is None:
            return
        config = argument.value
        method, model = str(config.get("method") or ""), config.get("model")
        if model in ("[ngram]", "ngram"):
            method, model = "ngram", None
        why = None
        if "adapters" in self.result.job:
            why = "drafts and adapters together are not modelled"
        elif self.result.job["plan"].get("pp", 1) > 1:
            why = "speculation in a pipeline is not modelled"
        elif method not in ("", "ngram", "draft_model"):
            why = f"{method} is not modelled; its passes left out, it would be draft: ngram with the acceptance it has"
        elif not model and method != "ngram":
            why = "names no draft"
        if why is not None:
            self.result.left.append(f"{argument.said}: {why}")
            return
        try:
            tokens = count(config.get("num_speculative_tokens"))
        except (ValueError, TypeError):
            self.problems.append(argument.problem(f"{argument.said}: num_speculative_tokens must be 1 or more"))
            return
        guesses: dict[str, Any] = {"tokens": tokens, "acceptance": ACCEPTANCE, "draft": "ngram"}
        if method != "ngram":
            name, draft = self._known(argument, str(model))
            if draft is None:
                return
            guesses["draft"] = name
            weights = QUANTIZATION.get(str(config.get("quantization")).casefold()) or weights_of(str(model))
            if weights:
                guesses["weights"] = weights
            if config.get("draft_tensor_parallel_size"):
                guesses["tp"] = int(config["draft_tensor_parallel_size"])
            if draft.vocabulary != shape.vocabulary:
                sizes = f"{draft.id} has {draft.vocabulary:,} tokens, {shape.id} has {shape.vocabulary:,}"
                self.problems.append(argument.problem(f"{argument.said}: {sizes}"))
        self.result.job["speculative"] = guesses
        self.result.told.append(f"{argument.said}: jobs.0.speculative; the acceptance of {ACCEPTANCE:g} is assumed")

    def _speculative(self) -> Argument | None:
        """The settings of a draft, also from the arguments of vLLM up to 0.8."""
        old = {
            "speculative-model": "model", "num-speculative-tokens": "num_speculative_tokens",
            "speculative-draft-tensor-parallel-size": "draft_tensor_parallel_size",
            "speculative-model-quantization": "quantization",
        }  # fmt: skip
        found = [self.given.pop(name) for name in old if name in self.given]
        if found:
            value = {old[argument.name]: argument.value for argument in found}
            return Argument(found[0].name, value, " ".join(a.said for a in found), found[0]._complain)
        argument = self.given.pop("speculative-config", None)
        if argument is None or isinstance(argument.value, dict):
            return argument
        try:
            settings = json.loads(argument.value)
        except (ValueError, TypeError):
            settings = None
        if not isinstance(settings, dict):
            self.problems.append(argument.problem(f"{argument.said}: is no JSON object"))
            return None
        return Argument(argument.name, settings, argument.said, argument._complain)

    def _load(self) -> None:
        """Who asks, which no argument tells: some users at once, within the context."""
        models = self.result.top.get("define", {}).get("models", {})
        longest = min((model["context"] for model in models.values()), default=1 << 30)
        prompt, output = (512, 128) if longest >= 640 else (max(1, longest // 2), max(1, longest // 4))
        clients = 32 * self.result.job.get("plan", {}).get("dp", 1)
        self.result.job["load"] = {
            "closed_loop": {"clients": clients}, "prompt_tokens": prompt, "output_tokens": output,
            "requests": 8 * clients,
        }  # fmt: skip


# ---- The file


def scenario_text(mapped: Mapped, name: str, topology: str, origin: str) -> str:
    """The scenario, with what each argument became in its head."""
    lines = ["# yaml-language-server: $schema=../docs/scenario.schema.json"]
    lines += comment(f"Made by sim init from vLLM's arguments ({origin}):")
    for sentence in mapped.told:
        lines += comment(sentence, "# - ", "#   ")
    if mapped.left:
        lines += comment("Not mapped:")
        for sentence in mapped.left:
            lines += comment(sentence, "# - ", "#   ")
    lines += comment("The load is a start: the arguments do not tell who asks.")
    plan = mapped.job["plan"]
    degrees = " ".join(f"{key} {degree}" for key, degree in plan.items())
    lines += [f"name: {flow(name)}", f"about: {flow(f'{mapped.title} as vLLM serves it, {degrees}.')}"]
    lines.append(f"cluster: {flow({'topology': topology})}")
    lines += [f"{key}: {flow(value)}" for key, value in mapped.top.items()]
    lines += ["jobs:", "  - name: chat", "    kind: serving"]
    lines += [f"    {key}: {flow(value)}" for key, value in mapped.job.items()]
    lines.append("seed: 0")
    return "\n".join(lines) + "\n"
