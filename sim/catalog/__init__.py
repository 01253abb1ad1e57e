"""The catalogue: what is known about hardware, models, engines, prices and traffic, each number with its source.

Plain data files, one an entry where entries are large, read when asked for: a run that needs one GPU parses
one file. This floor hands out raw data; :mod:`sim.adapters.lookup` turns it into validated values.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

#: Kinds with one file an entry, and kinds with one file for all.
FOLDERS = {
    "gpu": "gpus", "model": "models", "stack": "stacks", "training-stack": "training_stacks", "lengths": "lengths",
    "failure": "failures", "machine": "machines",
}  # fmt: skip
LISTS = {"link": "links", "fabric": "fabrics", "network": "networks"}
KINDS = (*FOLDERS, *LISTS, "price")

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _root() -> Path:
    return Path(str(files("sim.catalog")))


@cache
def names(kind: str) -> tuple[str, ...]:
    """All ids of a kind, sorted. Raises KeyError for an unknown kind."""
    if kind in FOLDERS:
        return tuple(sorted(p.stem for p in (_root() / FOLDERS[kind]).glob("*.yaml")))
    return tuple(sorted(_listed(kind)))


@cache
def raw(kind: str, name: str) -> dict[str, Any]:
    """The entry's data as written, with its ``id``. Raises KeyError if there is none."""
    if kind not in FOLDERS:
        return _listed(kind)[name]
    path = _root() / FOLDERS[kind] / f"{name}.yaml"
    if name not in names(kind):
        raise KeyError(name)
    return {"id": name, **_read(path)}


def meant(kind: str, word: str) -> str | None:
    """The id of the entry that people call ``word``, if that is known; for suggestions, not for looking up."""
    return _aliases().get(kind, {}).get(word.casefold())


@cache
def _aliases() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = _read(_root() / "aliases.yaml")
    return found


@cache
def default_kernels() -> dict[str, Any]:
    """Kernel constants for GPUs that nobody measured: the median of those that were."""
    found: dict[str, Any] = _read(_root() / "kernels_default.yaml")
    return found


@cache
def _listed(kind: str) -> dict[str, dict[str, Any]]:
    if kind == "price":
        with (_root() / "prices.csv").open(encoding="utf-8", newline="") as file:
            rows = [{k: v for k, v in row.items() if v != ""} for row in csv.DictReader(file)]
        return {row["id"]: row for row in rows}
    entries = _read(_root() / f"{LISTS[kind]}.yaml")[LISTS[kind]]
    return {entry["id"]: entry for entry in entries}


def _read(path: Path) -> Any:
    with path.open(encoding="utf-8") as file:
        return yaml.load(file, Loader=_LOADER)


def validation_folder() -> Path:
    """The measured tables that are shipped: a few hundred rows, each with its source."""
    return _root() / "validation"


@cache
def validation_errors() -> tuple[dict[str, str], ...]:
    """Errors of each validated group "GPU / stack / kind" over all measured tables: group, rows, median, p90, bias."""
    with (_root() / "validation_errors.csv").open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def shipped(what: str) -> list[Path]:
    """The shipped ``scenarios``, ``scenarios/article`` or ``topologies``: from the wheel, or from the checkout the
    package runs in."""
    package = Path(str(files("sim")))
    for folder in (package / "shipped" / what, package.parent / what):
        if folder.is_dir():
            return sorted(folder.glob("*.yaml"))
    return []
