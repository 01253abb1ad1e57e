"""Kernels and collectives as the laws tell them: shapes that know their seconds.

A shape's time follows from the GPU's constants (without any engine's factors: stack ``generic``), or from its fabric's;
both are the catalogue's unless others are given, as a calibration does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final

from sim.laws.collective import CollectiveParameters, collective_parameters, collective_seconds, fabric_for
from sim.laws.roofline import ROUNDED_BYTES, KernelRates, kernel_rates
from sim.laws.step import Chunk, StageLaw, StageShape
from sim.laws.topology import Topology, build_topology
from sim.laws.topology_group import GroupSite
from sim.spec.hardware import Fabric, KernelConstants
from sim.spec.topology import TopologySpec
from sim.spec.transformer import Transformer
from sim.study.validate.common import NVLINKS, SERVER, NoPrediction, catalogue

#: Width of the heads of measured attention.
HEAD: Final = 128
#: Tables of 8-bit products time the rounding of the activations with them, in two passes.
QUANTISE_PASSES: Final = 2
#: PCIe of servers without NVLink: P2P across two sockets.
PCIE: Final = {"l40s": "pcie4-x16", "rtxpro6000": "pcie5-x16"}
#: PCIe servers whose measured groups span both sockets (the catalogue's fabric says so of its source).
SPANNING: Final = ("rtxpro6000",)


def constants_of(gpu: str) -> KernelConstants:
    """The catalogue's constants of a GPU, or those of GPUs that nobody measured."""
    return catalogue().gpu(gpu).kernels or catalogue().default_kernels()


@lru_cache(maxsize=64)
def _rates(gpu: str, weights: str, kernels: KernelConstants | None) -> KernelRates:
    found, stack = catalogue().gpu(gpu), catalogue().stack("generic")
    return kernel_rates(found, stack, kernels or constants_of(gpu), weights, rounds=False)


@dataclass(frozen=True, slots=True)
class Product:
    """A product (m, k) x (k, n) with weights of a format; ``quantised``: with the passes that round its activations
    to it."""

    gpu: str
    weights: str
    m: float
    n: float
    k: float
    quantised: bool

    def seconds(self, kernels: KernelConstants | None = None) -> float:
        """Its time."""
        rates = _rates(self.gpu, self.weights, kernels)
        width = 1.0 if self.weights == "fp8" else 2.0
        moved = width * self.n * self.k + 2.0 * (self.m * self.k + self.m * self.n)
        arithmetic = 2 * self.m * self.n * self.k
        seconds = rates.matmul_launch + rates.knee(arithmetic / rates.matmul, moved / rates.weights)
        if self.quantised:
            launch = (kernels or constants_of(self.gpu)).quantise_launch
            seconds += QUANTISE_PASSES * launch + ROUNDED_BYTES * self.m * self.k / rates.elementwise
        return seconds


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention of one layer, in 16 bits: ``batch`` sequences of ``tokens`` each, a prompt of which is filled in
    (``prefill``) or read by one token."""

    gpu: str
    prefill: bool
    heads: int
    kv_heads: int
    batch: int
    tokens: int

    def seconds(self, kernels: KernelConstants | None = None) -> float:
        """Its time."""
        law = self._law(kernels)
        if self.prefill:
            compute, memory, launch, _, _ = law.prefill([Chunk(self.tokens, 0)] * self.batch)
            return compute + memory + launch
        return law.decode_launch + self.batch * self.tokens * law.decode_slope

    @property
    def cache_bytes(self) -> float:
        """Of its keys and values."""
        return self.batch * self.tokens * self._law(None).decode_bytes

    def _law(self, kernels: KernelConstants | None) -> StageLaw:
        return _attention(self.gpu, self.heads, self.kv_heads, kernels)


@lru_cache(maxsize=1024)
def _attention(gpu: str, heads: int, kv_heads: int, kernels: KernelConstants | None) -> StageLaw:
    """One layer with these heads, alone on a GPU."""
    model = Transformer(
        id="attention", name="attention", layers=1, hidden=heads * HEAD, heads=heads, kv_heads=kv_heads, head_dim=HEAD,
        intermediate=HEAD, vocabulary=HEAD, gated=True, context=10_000_000, source="a kernel table",
    )  # fmt: skip
    return StageLaw(
        StageShape(
            model=model, rates=_rates(gpu, "bf16", kernels), layers=1, tp=1, head=False, weight_bytes=2.0, kv_bytes=2.0,
            pieces=(), wire_per_byte=0.0, host_per_pass=0.0, host_per_sequence=0.0, host_per_layer=0.0,
            mixed_penalty=1.0, on_chip=False, kv_reads_free=False, scale=1.0,
        )
    )


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of ``size`` bytes within a card's memory: each is read and written."""

    gpu: str
    size: float

    def seconds(self, kernels: KernelConstants | None = None) -> float:
        """Its time, that of any elementwise kernel."""
        rates = _rates(self.gpu, "bf16", kernels)
        return rates.elementwise_launch + 2.0 * self.size / rates.elementwise


@dataclass(frozen=True, slots=True)
class Exchange:
    """A collective of ``size`` bytes among ``members`` GPUs of a server of eight, by a library."""

    gpu: str
    members: int
    size: float
    op: str = "all_reduce"
    library: str = "nccl"

    def __post_init__(self) -> None:
        if not 1 < self.members <= SERVER:
            raise NoPrediction(f"{self.members} GPUs are no group within a server of {SERVER}")
        _server(self.gpu)

    def seconds(self, fabric: Fabric | None = None) -> float:
        """Its time; ``fabric`` stands in place of the catalogue's."""
        if fabric is None:
            parameters = _parameters(self.gpu, self.members, self.libraries)
        else:
            site, cap = _site(self.gpu, self.members), _cap(self.gpu, self.members)
            parameters = collective_parameters(site, (fabric,), (fabric.library,), exchange_cap=cap)
        return collective_seconds(self.op, self.size, parameters)

    def fabric(self) -> Fabric:
        """The catalogue's that tells it."""
        found = fabric_for(_site(self.gpu, self.members), catalogue().fabrics(), self.libraries)
        assert found is not None  # or the server could not have been built
        return found

    @property
    def libraries(self) -> tuple[str, ...]:
        """Its library, then the one for all."""
        return tuple(dict.fromkeys((self.library, "nccl")))

    @property
    def spans(self) -> bool:
        """Whether its group has members on both sockets."""
        return self.gpu in SPANNING


def _group(gpu: str, members: int) -> list[int]:
    apart = SERVER // members if gpu in SPANNING else 1
    return list(range(0, members * apart, apart))


@cache
def _parameters(gpu: str, members: int, libraries: tuple[str, ...]) -> CollectiveParameters:
    """A group in a server, as servers of this GPU are built."""
    return collective_parameters(_site(gpu, members), catalogue().fabrics(), libraries, exchange_cap=_cap(gpu, members))


@cache
def _site(gpu: str, members: int) -> GroupSite:
    return _server(gpu).site(_group(gpu, members))


@cache
def _cap(gpu: str, members: int) -> float:
    return _server(gpu).exchange_cap(_group(gpu, members))


@cache
def _server(gpu: str) -> Topology:
    """A server of eight GPUs."""
    node: dict[str, Any] = {"name": "server", "gpus": [{"type": gpu, "count": SERVER}]}
    if gpu in NVLINKS:
        node["nvlink"] = {"link": NVLINKS[gpu]}
    elif gpu in PCIE:
        node |= {"sockets": 2, "socket_link": "xgmi", "pcie": {"link": PCIE[gpu]}, "p2p": True}
    else:
        raise NoPrediction(f"how servers join {gpu} is not known")
    spec = TopologySpec.model_validate({"name": "server", "nodes": [node]})
    return build_topology(spec, gpu=catalogue().gpu, link=catalogue().link)


#: What a kernel table's row measures.
Kernel = Product | Attention | Copy | Exchange
