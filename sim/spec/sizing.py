"""What hardware can be had, and what is asked of it: machines, networks to join them, and the question of a size."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sim.spec.base import Count, Name, Prose, Spec
from sim.spec.economics import Between, CapitalItem, Hosting, Rental
from sim.spec.topology import NodeSpec
from sim.units import Seconds, TokensPerSecond, Usd, UsdPerHour

Goal = Literal["cost", "latency", "throughput"]
LatencyName = Literal["ttft", "tpot", "latency"]


class Piece(Spec):
    """One line of what a machine or its place on a network costs: ``count`` of it for each machine, or each GPU.

    Its price is stated, or that of a catalogue entry.
    """

    what: Prose
    count: Annotated[float, Field(gt=0, le=1e7)] = 1.0
    per: Literal["node", "gpu"] = "node"
    unit_price: Usd | Between | None = None
    price: Name | None = None

    @model_validator(mode="after")
    def _one(self) -> Piece:
        if (self.unit_price is None) == (self.price is None):
            raise ValueError("give either unit_price or price (a catalogue id)")
        return self

    @property
    def item(self) -> CapitalItem:
        """The same as a line of a cluster's purchase."""
        return CapitalItem.model_construct(**dict(self))


class Network(Spec):
    """A way to join machines, and what it costs: ``capital`` of the cards and the machine's share of a switch.

    ``link`` is the cable and its card, one a machine; left out, machines use the cards they come with. It joins
    ``most_nodes`` at most; ``direct`` joins two by a cable, without a switch.
    """

    id: Name
    about: Prose = ""
    link: Name | None = None
    direct: bool = False
    most_nodes: Count = 1024
    capital: tuple[Piece, ...] = ()
    as_of: Prose = ""
    source: Prose

    @model_validator(mode="after")
    def _direct_needs_a_cable(self) -> Network:
        if self.direct and self.link is None:
            raise ValueError("a direct network is a cable: name its link")
        if self.direct and self.most_nodes != 2:
            raise ValueError("a direct network is a cable between two machines: say most_nodes: 2")
        return self


class Machine(Spec):
    """A machine that can be bought or rented: what is in it, the networks it can be put on, its price.

    ``hosting`` is that of where such a machine stands; a scenario that pays hosting by the kW or the rack replaces it.
    """

    id: Name
    about: Prose = ""
    node: NodeSpec
    networks: tuple[Name, ...] = ()
    capital: Annotated[tuple[Piece, ...], Field(min_length=1)] | None = None
    rental: Rental | None = None
    hosting: Hosting | None = None
    as_of: Prose = ""
    source: Prose

    @model_validator(mode="after")
    def _consistent(self) -> Machine:
        if (self.capital is None) == (self.rental is None):
            raise ValueError("give either capital (bought) or rental")
        if self.rental is not None and self.rental.cluster is not None:
            raise ValueError("the rent of a machine is per_gpu, or a catalogue price")
        if self.rental is not None and self.hosting is not None:
            raise ValueError("a rental price includes hosting: leave it out")
        if self.node.count != 1:
            raise ValueError("describe one machine: leave count out")
        return self


class SizeSpec(Spec):
    """What ``sim size`` looks for, and among what.

    - ``cost``: the least USD an hour that carries the load within the objectives (training: the least USD to finish
      before the ``deadline``).
    - ``latency``: the least of ``latency`` (its median) for a budget (training: the fewest days).
    - ``throughput``: the most tokens/s for a budget, within the objectives.

    ``throughput`` asks for so many generated tokens/s, as independent requests of the load's lengths; left out, the
    load is as the job states it. ``budget`` is what is paid once, ``budget_per_hour`` all that an hour costs.
    ``machines`` and ``networks`` are ids (left out: all that are known, and all that a machine can be put on).
    ``most_nodes`` bounds the cluster, ``most_gpus`` one replica. ``vary`` lists values of more keys of the job.
    """

    goal: Goal = "cost"
    latency: LatencyName = "tpot"
    throughput: Annotated[TokensPerSecond, Field(gt=0)] | None = None
    budget: Annotated[Usd, Field(gt=0)] | None = None
    budget_per_hour: Annotated[UsdPerHour, Field(gt=0)] | None = None
    deadline: Annotated[Seconds, Field(gt=0)] | None = None
    machines: tuple[Name, ...] = ()
    networks: tuple[Name, ...] = ()
    most_nodes: Annotated[int, Field(ge=1, le=4096, strict=True)] = 64
    most_gpus: Annotated[int, Field(ge=1, le=1024, strict=True)] = 16
    vary: dict[Annotated[str, Field(min_length=1, max_length=400)], Annotated[tuple[Any, ...], Field(min_length=1)]] = (
        Field(default_factory=dict)
    )

    @model_validator(mode="after")
    def _answerable(self) -> SizeSpec:
        if self.goal != "cost" and self.budget is None and self.budget_per_hour is None:
            raise ValueError(f"goal {self.goal} needs a budget (20000 USD) or budget_per_hour (2 USD/h)")
        return self
