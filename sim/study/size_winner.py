"""The winner as a scenario of its own: what the user wrote, on the hardware and with the layout that won.

Values keep the units they were written with. Paths are made absolute, for the file may be put anywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.adapters.lookup import Library
from sim.adapters.offers import FRONT_PORT, Offer
from sim.adapters.yaml_source import Source, apply_overrides
from sim.spec.economics import CostSpec, Hosting
from sim.spec.scenario import ServingJob
from sim.spec.workload import ARRIVALS, Load
from sim.study.capacity import requests_of
from sim.study.size_space import Design, Space
from sim.study.sweep_axes import text

if TYPE_CHECKING:
    from sim.adapters.traces import RequestTrace


def winner_scenario(
    source: Source, folder: Path, space: Space, design: Design, units: int, *, rate: float | None,
    clients: int | None, trace: RequestTrace | None,
) -> dict[str, Any]:  # fmt: skip
    """The scenario's plain data. ``rate`` replaces the load's arrivals (requests/s), ``clients`` the number of a closed
    loop's; ``trace``: as it was read."""
    resolved, offer = space.resolved(design, units), space.offers[design.offer]
    settings = [f"{key}={text(value)}" for key, value in space.settings(design).items()]
    data: dict[str, Any] = apply_overrides(source, settings).data  # a copy, to change as one likes
    for key in ("size", "sweep"):
        data.pop(key, None)
    library = Library(resolved.scenario.define, source)
    data["cluster"] = {"topology": _topology(library, offer, design.nodes * units)}
    data["cost"] = _cost(library, offer, data["cost"], resolved.scenario.cost)
    job, spec = data["jobs"][0], resolved.scenario.jobs[0]
    job.pop("slow", None)
    degrees = {"tp": spec.plan.tp, "pp": spec.plan.pp, "dp": spec.plan.dp}
    dropped = {"placement", *degrees, *({"vpp", "micro_batches"} if spec.plan.pp == 1 else ())}
    plan = {key: value for key, value in job.get("plan", {}).items() if key not in dropped}
    if not isinstance(plan.get("layers", "even"), str) or not isinstance(spec, ServingJob):
        plan.pop("layers", None)
    if isinstance(plan.get("schedule"), dict):
        del plan["schedule"]
    job["plan"] = plan | {key: n for key, n in degrees.items() if n > 1}
    if not isinstance(spec, ServingJob) and spec.plan.sequence_parallel:
        job["plan"]["sequence_parallel"] = True
    if clients is not None and isinstance(spec, ServingJob):
        job["load"]["closed_loop"]["clients"] = clients
        job["load"]["requests"] = requests_of(spec.load, clients)
    elif rate is not None and isinstance(spec, ServingJob):
        job["load"] = _load(job["load"], spec.load, rate, trace)
    _absolute(data, folder)
    return data


def _load(said: dict[str, Any], load: Load, rate: float, trace: RequestTrace | None) -> dict[str, Any]:
    """What was said of the load, at another rate: a trace is played faster or slower."""
    if trace is not None:
        kept = said["trace"] if isinstance(said["trace"], dict) else {"file": said["trace"]}
        span = float(trace.arrival[-1] - trace.arrival[0])
        return {**said, "trace": {**kept, "time_scale": kept.get("time_scale", 1.0) * len(trace.arrival) / span / rate}}
    arrivals = next(kind for kind in ARRIVALS if getattr(load, kind, None) is not None)
    new = f"{rate:.6g} req/s"
    old = said.get(arrivals, {})
    ends = {end: f"{getattr(load.diurnal, end):.6g} req/s" for end in ("peak", "valley")} if load.diurnal else None
    kept = {key: value for key, value in said.items() if key not in (*ARRIVALS, "requests")}
    return {arrivals: {**old, **(ends or {"rate": new})}, **kept, "requests": load.requests}


def _topology(library: Library, offer: Offer, nodes: int) -> dict[str, Any]:
    machine, network = offer.machine, offer.network
    node = {**library.raw("machine", machine.id)["node"], "count": nodes}
    found: dict[str, Any] = {"name": machine.id, "nodes": [node]}
    cluster = offer.cluster(nodes)
    if network is not None and network.link is not None and not network.direct:
        node["nics"] = [{"link": network.link}]
    elif cluster.network.cables:
        found["network"] = {"cables": [list(cable) for cable in cluster.network.cables]}
    elif cluster.network.link == FRONT_PORT:
        found["network"] = {"link": FRONT_PORT}
    return found


def _cost(library: Library, offer: Offer, said: dict[str, Any], cost: CostSpec | None) -> dict[str, Any]:
    machine = library.raw("machine", offer.machine.id)
    if offer.machine.rental is not None:
        return {"rental": machine["rental"], "prices_as_of": offer.as_of}
    network = library.raw("network", offer.network.id) if offer.network is not None else {}
    pieces = [*machine["capital"], *network.get("capital", [])]
    own = ("capital", "rental", "power", "hosting", "demand", "prices_as_of")
    kept = {k: v for k, v in said.items() if k not in own}
    hosting = machine.get("hosting")
    if cost is not None and isinstance(cost.hosting, Hosting) and isinstance(said.get("hosting"), dict):
        hosting = said["hosting"]
    capital = [{"per": "node", **piece} for piece in pieces]
    found = {"capital": capital, **kept, **({"hosting": hosting} if hosting else {})}
    return {**found, **({"prices_as_of": offer.as_of} if offer.as_of else {})}


def _absolute(data: dict[str, Any], folder: Path) -> None:
    """Paths that count from the scenario's folder, whole."""
    job = data["jobs"][0]
    load, faults = job.get("load", {}), data.get("faults") or {}
    holders = [(data, "model"), (job, "model"), (load, "trace"), (faults, "trace")]
    if isinstance(load.get("trace"), dict):
        holders.append((load["trace"], "file"))
    for holder, key in holders:
        value = holder.get(key)
        if isinstance(value, str) and (folder / value).is_file():
            holder[key] = str((folder / value).resolve())
