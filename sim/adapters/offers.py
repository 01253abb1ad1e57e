"""Machines that can be had, each on each network it can be put on, with everything their names stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sim.adapters.lookup import Library
from sim.adapters.resolve import PricedBy, not_priced_by
from sim.adapters.yaml_source import KeyPath, Source
from sim.errors import InputError, Problem, did_you_mean
from sim.spec.economics import CostSpec, Hosting, Price
from sim.spec.hardware import Gpu, LinkType
from sim.spec.scenario import Scenario
from sim.spec.sizing import Machine, Network
from sim.spec.topology import NetworkSpec, NicSpec, TopologySpec

Value = TypeVar("Value")

FRONT_PORT = "ethernet-1g"
"""What brings requests to machines that are on no network of their own."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A machine on a network (None: it works alone), and the values behind all names in both."""

    machine: Machine
    network: Network | None
    gpus: Mapping[str, Gpu]
    links: Mapping[str, LinkType]
    prices: Mapping[str, Price]

    @property
    def most_nodes(self) -> int:
        """Machines that one replica, or one training job, may spread over."""
        return 1 if self.network is None else self.network.most_nodes

    def cluster(self, nodes: int) -> TopologySpec:
        """So many of the machine, on the network."""
        machine, network = self.machine, self.network
        node = machine.node.model_copy(update={"count": nodes})
        plan = NetworkSpec()
        if network is not None and network.direct:
            cable = network.link or ""
            pairs = range(0, nodes - 1, 2)
            plan = NetworkSpec(cables=tuple((f"{node.name}.{i}", f"{node.name}.{i + 1}", cable) for i in pairs))
        elif network is not None and network.link is not None:
            node = node.model_copy(update={"nics": (NicSpec(link=network.link),)})
        elif not node.nics:
            plan = NetworkSpec(link=FRONT_PORT)
        return TopologySpec(name=machine.id, nodes=(node,), network=plan)

    def cost(self, base: CostSpec) -> CostSpec:
        """What it costs, on the terms of ``base``: its electricity, interest, years, and hosting by kW or rack."""
        machine = self.machine
        if machine.rental is not None:
            return CostSpec(rental=machine.rental, api_price=base.api_price, prices_as_of=machine.as_of)
        pieces = (*(machine.capital or ()), *(self.network.capital if self.network else ()))
        hosting = base.hosting if isinstance(base.hosting, Hosting) else machine.hosting or 0.0
        update = {
            "capital": tuple(piece.item for piece in pieces), "hosting": hosting, "prices_as_of": self.as_of,
            **dict.fromkeys(("power", "rental", "demand")),
        }  # fmt: skip
        return base.model_copy(update=update)

    @property
    def as_of(self) -> str:
        """The dates of its prices."""
        dates = [self.machine.as_of, self.network.as_of if self.network and self.network.capital else ""]
        return ", ".join(dict.fromkeys(date for date in dates if date))


def offers_of(scenario: Scenario, source: Source, machines: Sequence[str], networks: Sequence[str]) -> list[Offer]:
    """Every machine alone, and on each network it can be put on. Raises InputError with all that is wrong.

    ``machines`` and ``networks``: only these; empty for all that are known.
    """
    finder = _Finder(Library(scenario.define, source), source)
    wanted: list[tuple[str, KeyPath]] = [(name, ("size", "machines", i)) for i, name in enumerate(machines)]
    everything: list[tuple[str, KeyPath]] = [(name, ("size",)) for name in finder.library.names("machine")]
    for i, name in enumerate(networks):
        finder.tried(("size", "networks", i), finder.library.network, name)
    found = [offer for name, where in wanted or everything for offer in finder.offers(name, where, networks)]
    if finder.problems:
        raise InputError(list(dict.fromkeys(finder.problems)))
    joined = {offer.network.id for offer in found if offer.network is not None}
    if networks and (unused := [name for name in networks if name not in joined]):
        near = did_you_mean(unused[0], sorted({n for o in found for n in o.machine.networks}))
        text = f"none of the machines can be put on network '{unused[0]}'"
        raise InputError([source.problem(("size", "networks", list(networks).index(unused[0])), text, near)])
    return found


class _Finder:
    """Looks names up, and collects what is wrong."""

    def __init__(self, library: Library, source: Source) -> None:
        self.library, self.source = library, source
        self.problems: list[Problem] = []

    def tried(self, where: KeyPath, look_up: Callable[[str], Value], name: str) -> dict[str, Value]:
        """What ``look_up`` finds, by name; else nothing, and its problems are put down at ``where``."""
        try:
            return {name: look_up(name)}
        except InputError as error:
            for p in error.problems:
                self.problems.append(p if p.file else self.source.problem(where, p.message, p.suggestion))
            return {}

    def offers(self, name: str, where: KeyPath, networks: Sequence[str]) -> list[Offer]:
        """The machine alone, and on each network."""
        found: list[Offer] = []
        for machine in self.tried(where, self.library.machine, name).values():
            joined: list[Network | None] = [None]
            for chosen in machine.networks:
                if not networks or chosen in networks:
                    joined += self.tried(where, self.library.network, chosen).values()
            found += [self._offer(machine, network, where) for network in joined]
        return found

    def _offer(self, machine: Machine, network: Network | None, where: KeyPath) -> Offer:
        if network is not None and network.link is None and not machine.node.nics:
            text = f"network {network.id} uses the cards that machines come with, and {machine.id} has none"
            self.problems.append(self.source.problem(where, text))
        cluster = Offer(machine, network, {}, {}, {}).cluster(2 if network is not None else 1)
        gpus: dict[str, Gpu] = {}
        links: dict[str, LinkType] = {}
        prices: dict[str, Price] = {}
        for name in cluster.gpu_types:
            gpus |= self.tried(where, self.library.gpu, name)
        own = [gpu.pcie for gpu in gpus.values() if gpu.pcie]
        for name in dict.fromkeys([*cluster.link_types, *own, FRONT_PORT]):
            links |= self.tried(where, self.library.link, name)
        for piece in (*(machine.capital or ()), *(network.capital if network else ())):
            if piece.price is not None:
                prices |= self._price(where, piece.price, "piece")
        if machine.rental is not None and machine.rental.price is not None:
            prices |= self._price(where, machine.rental.price, "GPU-hour")
        if machine.hosting is not None and machine.hosting.price is not None:
            prices |= self._price(where, machine.hosting.price, "kilowatt and month")
        return Offer(machine, network, gpus, links, prices)

    def _price(self, where: KeyPath, name: str, unit: PricedBy) -> dict[str, Price]:
        found = self.tried(where, self.library.price, name)
        wrong = [text for price in found.values() if (text := not_priced_by(price, unit)) is not None]
        self.problems += [self.source.problem(where, text) for text in wrong]
        return found
