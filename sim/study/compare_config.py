"""Where resolved scenarios differ: every value behind every name, key by key, with its unit.

Values are read from the specifications themselves, whose fields know their dimension. A list or a table with one
entry needs no name, so that the only GPU of one scenario stands beside the only GPU of another, whatever they are
called; of several, entries of the same name stand beside each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sim.adapters.resolve import Resolved
from sim.laws.topology_draw import summary
from sim.spec.hardware import LinkType
from sim.study.compare_schema import Setting
from sim.units import (
    Dimension,
    format_bandwidth,
    format_bytes,
    format_count,
    format_flops,
    format_percent,
    format_seconds,
    format_usd,
    format_watts,
)

GROUPS: Final = (
    "hardware", "network", "model", "precision", "plan", "software", "load", "objectives", "run", "failures", "cost",
    "assumptions",
)  # fmt: skip
"""In the order they are told."""
PROSE: Final = {"about", "source", "sources", "notes", "origin", "fitted_error", "version", "prices_as_of", "define"}
"""Fields that explain a value and are none."""
OF_JOB: Final = {
    "model": None, "stack": None, "name": None, "kind": None,
    "precision": "precision", "plan": "plan", "batching": "plan", "load": "load", "batch": "load",
    "objectives": "objectives", "recovery": "failures", "failover": "failures", "checkpoint": "failures",
    "policy": "failures", "run": "run", "optimizer": "precision", "finetune": "precision", "data_loading": "load",
    "slow": "hardware", "speculative": "plan", "adapters": "plan",
    "router": "plan", "disaggregate": "plan", "autoscale": "plan",
}  # fmt: skip
"""Group of each key of a job; None: told elsewhere."""
WRITTEN: Final = {
    "tdp": "TDP", "p2p": "P2P", "flops": "FLOPS", "pcie": "PCIe", "ttft": "TTFT", "tpot": "TPOT", "pue": "PUE",
    "fp4": "FP4", "fp8": "FP8", "fp16": "FP16", "bf16": "BF16", "tf32": "TF32", "fp32": "FP32", "int8": "INT8",
}  # fmt: skip
"""Words of a key that are not written as in the file."""
LONGEST: Final = 80
"""Letters of a value."""

_FORMATS: Final[dict[str, Callable[[float], str]]] = {
    "Bytes": format_bytes,
    "BytesPerSecond": format_bandwidth,
    "Bandwidth": lambda v: format_bandwidth(v, bits=True),
    "FlopRate": format_flops,
    "Seconds": format_seconds,
    "Usd": format_usd,
    "UsdPerHour": lambda v: f"{format_usd(v)}/h",
    "UsdPerKwh": lambda v: f"{format_usd(v)}/kWh",
    "UsdPerMillionTokens": lambda v: f"{format_usd(v)}/Mtok",
    "Watts": format_watts,
    "TokensPerSecond": lambda v: f"{format_count(v)} tok/s",
    "PerSecond": lambda v: f"{format_count(v)} req/s",
    "Tokens": lambda v: f"{v:,} tokens",
    "Fraction": format_percent,
}

Key = tuple[str, str]


def settings(scenarios: Sequence[Resolved]) -> list[Setting]:
    """Every key that is not the same in all scenarios, by group; empty where none differs."""
    found = [dict(_values(resolved)) for resolved in scenarios]
    order: dict[tuple[Key, bool], None] = {}
    for values in found:
        order |= dict.fromkeys((key, detail) for key, (_, detail) in values.items())
    made: dict[Key, Setting] = {}
    for key, _ in order:
        cells = [values[key][0] if key in values else None for values in found]
        detail = all(values[key][1] for values in found if key in values)
        if len(set(cells)) > 1 and not (detail and key[0] in ("hardware", "network") and _lonely(cells)):
            made[key] = Setting(group=key[0], key=key[1], values=[_cut(cell) for cell in cells], detail=detail)
    return sorted(made.values(), key=lambda setting: (GROUPS.index(setting.group), setting.detail))


def _lonely(cells: Sequence[str | None]) -> bool:
    """Whether all that have a value have the same: a part that the others lack is named in the summary."""
    return len({*cells} - {None}) == 1


def _cut(cell: str | None) -> str | None:
    return cell if cell is None or len(cell) <= LONGEST else cell[: LONGEST - 1] + "…"


def _values(resolved: Resolved) -> Iterator[tuple[Key, tuple[str, bool]]]:
    """Group and key, and the value with whether it is a detail."""
    scenario = resolved.scenario
    yield ("hardware", "cluster"), (summary(resolved.topology), False)
    for name, text in _named("GPU", resolved.gpus):
        for path, value in _leaves(text, ()):
            detail = path[0] not in ("id", "usable_memory", "memory_bandwidth", "flops", "tdp", "p2p", "idle_power")
            detail = detail or (path[0] == "flops" and path[-1] not in ("fp16", "fp8"))
            if path[0] not in ("name", "vendor"):
                yield ("hardware", _key(name, path)), (value, detail)
    links = (f"{link.id} {_rate(link)}" for link in resolved.links.values())
    yield ("network", "links, one way"), (", ".join(links), False)
    for name, link in resolved.links.items():
        for path, value in _leaves(link, ()):
            yield ("network", _key(f"link {name}", path)), (value, True)
    for path, value in _leaves(scenario.cluster.network, ()):
        yield ("network", _key("override", path)), (value, False)
    for path, value in _leaves(resolved.topology, ()):
        if path != ("name",):
            yield ("hardware", _key("topology", path)), (value, True)
    yield from _jobs(resolved)
    for path, value in _leaves(scenario.cost, ()):
        yield ("cost", _key("", path)), (value, False)
    for name, price in resolved.prices.items():
        if price.usd is not None:
            yield ("cost", f"price {name}"), (f"{format_usd(price.usd)} ({price.unit})", False)
    for path, value in _leaves(scenario.faults, ()):
        yield ("failures", _key("faults", path)), (value, False)
    for path, value in _leaves(scenario.assume, ()):
        yield ("assumptions", _key("", path)), (value, False)


def _rate(link: LinkType) -> str:
    """Networks in bits, buses in bytes, as they are sold."""
    return format_bandwidth(link.bandwidth, bits=link.kind not in ("nvlink", "pcie", "socket", "memory"))


def _jobs(resolved: Resolved) -> Iterator[tuple[Key, tuple[str, bool]]]:
    for name, job in _named("", {job.spec.name: job for job in resolved.jobs}):
        yield ("model", _key(name, ("model",))), (job.model.id, False)
        for path, value in _leaves(job.model, ()):
            if path[0] not in ("id", "name"):
                yield ("model", _key(name, path)), (value, True)
        yield ("software", _key(name, ("stack",))), (f"{job.stack.id} {job.stack.version}".strip(), False)
        for path, value in _leaves(job.stack, ()):
            if path[0] != "id":
                yield ("software", _key(name, path)), (value, True)
        for field in type(job.spec).model_fields:
            group = OF_JOB[field]
            if group is not None:
                for path, value in _field(job.spec, field, ()):
                    own = path[1:] if path[0] == group and len(path) > 1 else path
                    yield (group, _key(name, own)), (value, False)


def _named(kind: str, values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Entries and what to call them: the only one by its kind."""
    for name, value in values.items():
        yield (kind if len(values) == 1 else f"{kind} {name}".strip()), value


def _key(name: str, path: Sequence[str]) -> str:
    words = " ".join(part for part in (name, *(step.replace("_", " ") for step in path)) if part).split(" ")
    return " ".join(WRITTEN.get(word, word) for word in words)


def _leaves(value: Any, path: tuple[str, ...], dimension: Dimension | None = None) -> Iterator[tuple[Any, str]]:
    """Path and text of every value below; nothing for what is None."""
    if value is None or value in ((), {}):
        return
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            if name not in PROSE:
                yield from _field(value, name, path)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, path if len(value) == 1 else (*path, str(name)), dimension)
    elif isinstance(value, (tuple, list)) and any(isinstance(item, BaseModel) for item in value):
        for number, item in enumerate(value):
            if hasattr(item, "what"):  # an item of a bill, told in a line
                yield (*path, item.what), _line(item)
                continue
            label = str(getattr(item, "name", number))
            yield from _leaves(item, path if len(value) == 1 else (*path, label), dimension)
    else:
        yield path, _text(value, dimension)


def _line(item: BaseModel) -> str:
    """What an item of a bill says besides its name, in words: "per node, unit price 700 USD"."""
    stated = item.model_fields_set - {"what"}
    told = [_leaves(getattr(item, name), (name,), _dimension(type(item).model_fields[name])) for name in stated]
    return ", ".join(sorted(f"{_key('', path)} {text}" for leaves in told for path, text in leaves))


def _field(model: BaseModel, name: str, path: tuple[str, ...]) -> Iterator[tuple[Any, str]]:
    field = type(model).model_fields[name]
    yield from _leaves(getattr(model, name), (*path, field.alias or name), _dimension(field))


def _dimension(field: FieldInfo) -> Dimension | None:
    """The dimension in a field's type, wherever it stands."""
    waiting: list[Any] = [*field.metadata, field.annotation]
    while waiting:
        item = waiting.pop(0)
        if isinstance(item, Dimension):
            return item
        waiting += [*get_args(item), *getattr(item, "__metadata__", ())]
    return None


def _text(value: Any, dimension: Dimension | None) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        if dimension is not None:
            return _FORMATS[dimension.name](value)
        return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
    if isinstance(value, (tuple, list)):
        return ", ".join(_text(item, dimension) for item in value)
    return str(value)
