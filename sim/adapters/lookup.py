"""From ids to values: the user's own definitions first, then the catalogue.

An entry under ``define:`` with ``like: ID`` starts from that entry and changes the keys it names, however
deep; without it the entry must be complete. ``source`` may be left out: the user is the source. A GPU that
changes only ``memory`` has all of it usable: the old ``usable_memory`` is not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from sim import catalog
from sim.adapters.validation import validate
from sim.adapters.yaml_source import KeyPath, Source
from sim.errors import InputError, Problem, did_you_mean
from sim.spec.base import Spec
from sim.spec.economics import Price
from sim.spec.hardware import Fabric, Gpu, KernelConstants, LinkType
from sim.spec.reliability import FaultPreset
from sim.spec.scenario import Define
from sim.spec.sizing import Machine, Network
from sim.spec.stack import Stack
from sim.spec.training_stack import TrainingStack
from sim.spec.transformer import Transformer
from sim.spec.workload import LengthDistribution
from sim.units import BYTES, FLOP_RATE, UnitError, parse

Value = TypeVar("Value", bound=Spec)

#: Catalogue kind -> the field of ``define`` that holds the user's entries.
FIELDS = {
    "gpu": "gpus", "link": "links", "fabric": "fabrics", "model": "models", "stack": "stacks",
    "training-stack": "training_stacks", "lengths": "lengths", "failure": "failures", "price": "prices",
    "machine": "machines", "network": "networks",
}  # fmt: skip
#: What a user calls each kind.
WORDS = {"lengths": "length distribution", "training-stack": "training stack", "failure": "fault preset"}

#: Rates that differ by less are one.
SAME = 0.002


class Library:
    """Answers for every name a scenario or topology uses. Each look-up raises InputError if it fails."""

    def __init__(self, define: Define | None = None, source: Source | None = None) -> None:
        self._define = define or Define()
        self._source = source
        self._found: dict[tuple[str, str], Spec] = {}

    def gpu(self, name: str) -> Gpu:
        """A GPU by id."""
        return self._get("gpu", name, Gpu)

    def link(self, name: str) -> LinkType:
        """A link type by id."""
        return self._get("link", name, LinkType)

    def stack(self, name: str) -> Stack:
        """A stack by id."""
        return self._get("stack", name, Stack)

    def training_stack(self, name: str) -> TrainingStack:
        """A training stack by id. Of a serving stack's name the error says what it is."""
        try:
            return self._get("training-stack", name, TrainingStack)
        except InputError:
            if name in self.names("training-stack") or name not in self.names("stack"):
                raise
            near = ", ".join(self.names("training-stack"))
            message = f"stack '{name}' serves requests and trains nothing: name a training stack ({near})"
            raise InputError([Problem("", None, None, "", message, None)]) from None

    def lengths(self, name: str) -> LengthDistribution:
        """A named length distribution."""
        return self._get("lengths", name, LengthDistribution)

    def failure(self, name: str) -> FaultPreset:
        """A fault preset by id."""
        return self._get("failure", name, FaultPreset)

    def price(self, name: str) -> Price:
        """A price by id."""
        return self._get("price", name, Price)

    def machine(self, name: str) -> Machine:
        """A machine that can be had, by id."""
        return self._get("machine", name, Machine)

    def network(self, name: str) -> Network:
        """A network to put machines on, by id."""
        return self._get("network", name, Network)

    def model(self, name: str, path: Path | None = None) -> Transformer:
        """A model by id; or, where the name is a path, the Hugging Face config.json at ``path``."""
        if "/" in name or name.endswith(".json"):
            from sim.adapters.huggingface import read_config

            try:
                return read_config(path or Path(name))
            except InputError:
                if name.endswith(".json") or (path or Path(name)).exists():
                    raise
                raise self._no_such_model(name) from None
        return self._get("model", name, Transformer)

    def _no_such_model(self, name: str) -> InputError:
        """What looks like a path and is none: perhaps a name on the Hugging Face hub."""
        from sim.adapters.vllm_models import model_of  # which asks this library

        try:
            near: str | None = model_of(name, self)
        except InputError:
            near = self._near("model", name.rpartition("/")[2])
        text = "no such model configuration: neither a folder, nor a model of the catalogue (sim catalog model)"
        return InputError([Problem("", None, None, "", text, near)])

    def fabrics(self) -> tuple[Fabric, ...]:
        """All collective fabrics, the user's before the catalogue's."""
        return tuple(self._get("fabric", name, Fabric) for name in self.names("fabric"))

    def default_kernels(self) -> KernelConstants:
        """Constants for GPUs nobody measured."""
        return _checked(KernelConstants, catalog.default_kernels(), "kernels_default.yaml")

    def raw(self, kind: str, name: str) -> dict[str, Any]:
        """An entry's plain data, with its units as written. The name is known."""
        return self._merged(kind, name, ()) if name in self._own(kind) else catalog.raw(kind, name)

    def names(self, kind: str) -> list[str]:
        """All ids of a kind: the user's, then the catalogue's that the user did not override."""
        own = list(self._own(kind))
        return own + [name for name in catalog.names(kind) if name not in own]

    def _own(self, kind: str) -> Mapping[str, dict[str, Any]]:
        found: Mapping[str, dict[str, Any]] = getattr(self._define, FIELDS[kind])
        return found

    def _get(self, kind: str, name: str, cls: type[Value]) -> Value:
        key = (kind, name)
        if key not in self._found:
            self._found[key] = self._make(kind, name, cls)
        found = self._found[key]
        assert isinstance(found, cls)
        return found

    def _make(self, kind: str, name: str, cls: type[Value]) -> Value:
        if name in self._own(kind):
            data = self._merged(kind, name, ())
            data.setdefault("source", "user")
            written = self._source or Source({}, {}, "define")
            nested = {"define": {FIELDS[kind]: {name: data}}}
            return validate(cls, replace(written, data=nested), base_path=("define", FIELDS[kind], name))
        try:
            return _checked(cls, catalog.raw(kind, name), f"catalogue {kind} {name}")
        except KeyError:
            word = WORDS.get(kind, kind)
            close = self._near(kind, name)
            message = f"unknown {word} '{name}'"
            if kind == "machine" and name in self.names("gpu"):
                message += f", which is a GPU; machines with it: {', '.join(self._machines_with(name)) or 'none'}"
                close = None
            elif not close:
                message += f"; sim catalog {kind} lists those that are known"
            raise InputError([Problem("", None, None, "", message, close)]) from None

    def _merged(self, kind: str, name: str, seen: tuple[str, ...]) -> dict[str, Any]:
        """The entry's data over what it is like."""
        path: KeyPath = ("define", FIELDS[kind], name, "like")
        if name in seen:
            raise self._problem(path, f"goes round in circles: {' -> '.join([*seen, name])}")
        data = dict(self._own(kind)[name])
        like = data.pop("like", None)
        if like is None:
            if kind == "gpu" and name in catalog.names(kind):
                self._refuse_sparse(name, catalog.raw(kind, name))
            return {**data, "id": name}
        if not isinstance(like, str):
            raise self._problem(path, "must name another entry")
        if like in self._own(kind) and like != name:
            base = self._merged(kind, like, (*seen, name))
        elif like in catalog.names(kind):
            base = catalog.raw(kind, like)
        else:
            close = self._near(kind, like)
            raise self._problem(path, f"there is no {WORDS.get(kind, kind)} '{like}'", close)
        if kind == "gpu":
            self._refuse_sparse(name, base)
        if kind == "gpu" and _is_size(data.get("memory")):  # what the driver shows of the old size is void
            base = {**base, "usable_memory": data["memory"]}
        return {**_deep(base, data), "id": name}

    def _refuse_sparse(self, name: str, base: Mapping[str, Any]) -> None:
        """Raise InputError for a peak that is twice the known one: datasheets print it for weights half of which are
        zero in a fixed pattern. Twice the rate of summing in 32 bits may be that of summing in 16."""
        own, known = self._own("gpu")[name].get("flops"), base.get("flops")
        if not isinstance(own, Mapping) or not isinstance(known, Mapping):
            return
        other = _rate(known.get("fp16_fp16acc"))
        for key, value in own.items():
            rate, dense = _rate(value), _rate(known.get(key))
            if rate is None or dense is None or (other is not None and abs(rate / other - 1) < SAME):
                continue
            if abs(rate / (2 * dense) - 1) < SAME:
                raise self._problem(
                    ("define", "gpus", name, "flops", key),
                    f"{value} is twice the dense rate, as datasheets advertise it with structured sparsity, which is "
                    f"not used: it is {known[key]}. What if it were twice as fast? Say so under assume: gpu",
                )

    def _machines_with(self, gpu: str) -> list[str]:
        """Ids of the machines that hold a GPU."""
        def holds(name: str) -> bool:
            groups = self.raw("machine", name).get("node", {}).get("gpus", [])
            return any(isinstance(group, dict) and group.get("type") == gpu for group in groups)

        return [name for name in self.names("machine") if holds(name)]

    def _near(self, kind: str, word: str) -> str | None:
        """The entry most likely meant by an unknown name."""
        return catalog.meant(kind, word) or did_you_mean(word, self.names(kind))

    def _problem(self, path: KeyPath, message: str, suggestion: str | None = None) -> InputError:
        if self._source is None:
            return InputError([Problem("", None, None, ".".join(map(str, path)), message, suggestion)])
        return InputError([self._source.problem(path, message, suggestion)])


def _deep(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it, mapping by mapping."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _deep(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _rate(value: object) -> float | None:
    """FLOP/s, where ``value`` is a rate; if it is none, its own error says so, once."""
    try:
        return parse(value, FLOP_RATE) or None if isinstance(value, str) else None
    except UnitError:
        return None


def _is_size(value: object) -> bool:
    """Whether ``value`` can be read as an amount of bytes; if not, its own error says so, once."""
    try:
        return isinstance(value, str) and parse(value, BYTES) >= 0
    except UnitError:
        return False


def _checked(cls: type[Value], data: Mapping[str, Any], file: str) -> Value:
    """A value from data that carries no positions."""
    return validate(cls, Source(dict(data), {}, file))
