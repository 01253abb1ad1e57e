"""One point of a sweep: its scenario with every name looked up, its key, and its answer as a small dict.

A point travels as a pickled ``Resolved``, which refers to no file and no catalogue, so that any machine with this
version of the simulator plays it alike. What names stand for is looked up once for all points that name the same
things; only numbers of the plan, the batching, the load, the network, the seed and the purchase may differ.

The key is the SHA-256 of everything an answer depends on: the scenario, the values behind its names and the
simulator's version and source. Points that differ only in what is bought and at what price share their requests'
story: it is played once and priced for each.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
from pydantic import BaseModel

from sim import __version__
from sim.adapters.resolve import Resolved, _with_new_arrivals, resolve, with_spec
from sim.adapters.validation import validate
from sim.adapters.yaml_source import Source, apply_overrides
from sim.errors import InfeasibleError, RunError, SimError
from sim.jobs.play import Recording, play
from sim.results.assemble import job_results
from sim.results.collect import device_classes
from sim.results.cost import NOT_NUMBERS
from sim.results.schema import JobResult
from sim.spec.economics import CostSpec, Hosting
from sim.spec.scenario import Scenario

FORMAT: Final = 2
"""Counts up when an answer's dict changes, so that stored answers of the old kind are not used."""

Answer = dict[str, Any]
"""``{"jobs": {name: {"state": ..., metric: number or None}}}``, or ``{"failed": kind, "reason": text}``."""


@dataclass(frozen=True, slots=True)
class Task:
    """One simulation: its key, and the key of the story it shares with points of other prices."""

    key: str
    story: str
    resolved: Resolved


@cache
def edition() -> str:
    """The simulator's version and a digest of the source that answers come from."""
    package, text = Path(str(files("sim"))), hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package)
        if place.parts[0] not in ("cli", "report", "study") or place.stem == "sweep_points":
            text.update(f"{place.as_posix()}\n".encode() + path.read_bytes().replace(b"\r\n", b"\n"))
    return f"{__version__}+{text.hexdigest()[:12]}"


# -- from values to tasks -----------------------------------------------------------------------------------


class PointResolver:
    """Scenarios of points over one source, each name looked up once."""

    def __init__(self, source: Source, folder: Path) -> None:
        data = {k: v for k, v in source.data.items() if k != "sweep"} if isinstance(source.data, dict) else source.data
        self._source, self._folder = replace(source, data=data), folder
        self._known: dict[str, tuple[Resolved, str]] = {}

    def resolve(self, settings: Sequence[str]) -> tuple[Resolved, str]:
        """The scenario with ``path=value`` settings, and the digest of what its names stand for.

        Raises InputError.
        """
        source = _with_new_arrivals(apply_overrides(self._source, settings))
        scenario: Scenario = validate(Scenario, source)
        names = _names_in(scenario)
        if names not in self._known:
            resolved = resolve(source, self._folder)
            self._known[names] = resolved, _digest(_behind_names(resolved))
        known, digest = self._known[names]
        jobs = tuple(with_spec(job, spec) for job, spec in zip(known.jobs, scenario.jobs, strict=True))
        return replace(known, scenario=scenario, jobs=jobs), digest


def tasks_of(resolved: Resolved, digest: str, seeds: int) -> list[Task]:
    """One task for each of ``seeds`` seeds, from the scenario's own on."""
    first = resolved.scenario.seed
    tasks = []
    for seed in range(first, first + seeds):
        scenario = resolved.scenario.model_copy(update={"seed": seed})
        dump = scenario.model_dump(mode="json", exclude={"about"})
        key = _digest([FORMAT, edition(), digest, dump])
        if scenario.cost is not None and scenario.cost.rental is None:
            dump["cost"] = None
        story = _digest([FORMAT, edition(), digest, dump])
        tasks.append(Task(key, story, replace(resolved, scenario=scenario)))
    return tasks


def _names_in(scenario: Scenario) -> str:
    """The scenario without the numbers that no look-up depends on: equal text, equal values behind the names."""
    dump = scenario.model_dump(mode="json", exclude={
        "seed": True, "cluster": {"network"}, "jobs": {"__all__": {"plan", "batching", "objectives", "batch", "run"}},
    })  # fmt: skip
    for job in dump["jobs"]:
        load = job.get("load")
        if load and load.get("trace") is None:
            job["load"] = {"lengths": load.get("lengths")}
    if scenario.cost is not None and not scenario.cost.rents:
        dump["cost"] = _priced_by_name(scenario.cost)
    return json.dumps(dump)


def _priced_by_name(cost: CostSpec) -> dict[str, Any]:
    """The catalogue's prices that a purchase, its place and its demand name."""
    items = cost.capital if isinstance(cost.capital, tuple) else ()
    burst = None if cost.demand is None else cost.demand.burst
    place = cost.hosting.price if isinstance(cost.hosting, Hosting) else None
    rent = None if burst is None else burst.price
    return {"capital": [item.price for item in items], "hosting": place, "burst": rent}


def _behind_names(resolved: Resolved) -> dict[str, Any]:
    """All of a resolved scenario but the scenario itself."""
    found = {f.name: getattr(resolved, f.name) for f in dataclasses.fields(resolved) if f.name != "scenario"}
    found["jobs"] = [
        {f.name: getattr(job, f.name) for f in dataclasses.fields(job) if f.name != "spec"} for job in resolved.jobs
    ]
    return found


def _digest(value: Any) -> str:
    """A name for a value, the same in every process and on every machine."""
    written = json.dumps(value, default=_plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(written.encode()).hexdigest()[:32]


def _plain(value: Any) -> Any:
    """What JSON does not know, as something it does."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no stable form")


# -- from tasks to answers ----------------------------------------------------------------------------------


def answer_chunk(wanted: str, chunk: Sequence[Sequence[Resolved]]) -> tuple[float, list[list[Answer]]]:
    """Play each group's common story and price it for every member; the seconds it took, and the answers.

    Runs on a worker, which may be another machine: raises RunError if its ``edition`` is not the one ``wanted``.
    """
    if wanted != edition():
        raise RunError(f"a worker runs version {edition()} of the simulator, the sweep was started by {wanted}")
    began = perf_counter()
    answers = [_answers(group) for group in chunk]
    return perf_counter() - began, answers


def _answers(group: Sequence[Resolved]) -> list[Answer]:
    """The answer of each scenario of a group that differs in prices only."""
    try:
        recording = play(group[0], charts=False)
    except Exception as error:
        return [_failure(error)] * len(group)
    return [_priced(recording, resolved) for resolved in group]


def _priced(recording: Recording, resolved: Resolved) -> Answer:
    try:
        mine = replace(recording, resolved=resolved)
        return {"jobs": {job.name: _numbers(job) for job in job_results(mine, device_classes(mine))[0]}}
    except Exception as error:
        return _failure(error)


def _failure(error: Exception) -> Answer:
    """Why there is no answer; anything but a refusal or a failed run is a defect of the simulator, and says so."""
    if isinstance(error, SimError):
        kind = "infeasible" if isinstance(error, InfeasibleError) else "error"
        return {"failed": kind, "reason": str(error).splitlines()[0]}
    return {"failed": "internal error", "reason": " ".join(f"{type(error).__name__}: {error}".split())}


def _numbers(job: JobResult) -> dict[str, Any]:
    """State, metrics and costs of a job by path; None where nothing was measured."""
    found: dict[str, Any] = {"state": job.state, "gpus": job.gpus}
    found |= _leaves(job.metrics.model_dump())
    if job.cost is not None:
        found |= _leaves(job.cost.model_dump(exclude=NOT_NUMBERS))
    if job.objectives:
        found["objectives_met"] = all(bool(o["met"]) for o in job.objectives)
    return found


def _leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _leaves(value, f"{prefix}{name}.")
        elif isinstance(value, bool) or value is None:
            found[prefix + name] = value
        elif isinstance(value, int):
            found[prefix + name] = int(value)
        elif isinstance(value, float):
            found[prefix + name] = float(value) if math.isfinite(value) else None
    return found
