"""Counts of NVLinks -> which catalogue links they are, and whether a switch or cables between pairs joins the GPUs.

A count times the rate of one link is the bandwidth of a bundle. Rates a direction: 25 GB/s of NVLink 2 to 4, 50 GB/s
of NVLink 5 (NVIDIA's NVLink page, halved), 14.0625 GB/s of GA102 (its whitepaper). A GPU's ``scale_up`` over that
rate is how many links it has. A matrix of ``nvidia-smi`` shows the same NV# for a switch and for cables: where every
GPU of a group reaches every other at a count that its own links could not serve one by one, there is a switch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from sim.adapters.lookup import Library
from sim.adapters.nvidia_machine import Machine

_RATES = {"volta": (25e9,), "ampere": (25e9, 14.0625e9), "hopper": (25e9,), "blackwell": (50e9,)}
_GENERATIONS = {"volta": "nvlink2", "ampere": "nvlink3", "hopper": "nvlink4", "blackwell": "nvlink5"}


@dataclass(frozen=True, slots=True)
class Bundle:
    """Links bonded into one: ``link`` of the catalogue at ``bandwidth``, or at its own where that is None."""

    count: int
    rate: float
    link: str
    bandwidth: float | None


@dataclass(frozen=True, slots=True)
class Nvlinks:
    """Who is joined: ``switches`` as (GPU, bundle) each, and ``pairs`` of GPUs."""

    switches: tuple[tuple[tuple[int, Bundle], ...], ...] = ()
    pairs: tuple[tuple[int, int, Bundle], ...] = ()

    @property
    def bundles(self) -> tuple[Bundle, ...]:
        """Every bundle, equal ones once."""
        members = [bundle for switch in self.switches for _, bundle in switch]
        return tuple(dict.fromkeys([*members, *(bundle for _, _, bundle in self.pairs)]))


def nvlinks_of(machine: Machine, types: Sequence[str]) -> Nvlinks:
    """The NVLinks of a machine whose GPUs are known; InputError where they have none or fewer."""
    if machine.to_nvswitch:
        members = [(n, _bundle(machine, types, n, count)) for n, count in enumerate(machine.to_nvswitch) if count]
        return Nvlinks((tuple(members),), _pairs(machine, types, machine.nvlinks))
    switches, left = [], dict(machine.nvlinks)
    for group in _components(machine, len(types)):
        counts = [machine.nvlinks.get((i, j), 0) for i, j in combinations(group, 2)]
        if len(group) < 3 or len(set(counts)) > 1:
            continue
        if counts[0] * (len(group) - 1) > _held(machine, types, group[0])[0]:
            switches.append(tuple((n, _bundle(machine, types, n, counts[0])) for n in group))
            left = {pair: number for pair, number in left.items() if pair[0] not in group}
    return Nvlinks(tuple(switches), _pairs(machine, types, left))


def _pairs(
    machine: Machine, types: Sequence[str], counts: Mapping[tuple[int, int], int]
) -> tuple[tuple[int, int, Bundle], ...]:
    used: dict[int, int] = {}
    for (i, j), count in counts.items():
        for n in (i, j):
            used[n] = used.get(n, 0) + count
    for n, count in used.items():
        _bundle(machine, types, n, count)  # refuses more than the GPU has
    return tuple((i, j, _bundle(machine, types, i, count)) for (i, j), count in counts.items())


def _components(machine: Machine, gpus: int) -> list[tuple[int, ...]]:
    group = {n: {n} for n in range(gpus)}
    for i, j in machine.nvlinks:
        if group[i] is not group[j]:
            merged = group[i] | group[j]
            group.update(dict.fromkeys(merged, merged))
    return sorted({tuple(sorted(members)) for members in group.values()})


def _held(machine: Machine, types: Sequence[str], n: int) -> tuple[int, float, str]:
    """How many links a GPU has, the rate of one, and the generation."""
    gpu, device = Library().gpu(types[n]), machine.gpus[n]
    rates = _RATES.get(gpu.architecture, ())
    rate = next((rate for rate in rates if gpu.scale_up and gpu.scale_up % rate == 0), None)
    if gpu.scale_up is None or rate is None:
        machine.refuse(f"{device.name} has NVLinks, but {gpu.id} has none: name its GPU with --gpu", device.line)
    return round(gpu.scale_up / rate), rate, _GENERATIONS[gpu.architecture]


def _bundle(machine: Machine, types: Sequence[str], n: int, count: int) -> Bundle:
    most, rate, generation = _held(machine, types, n)
    device = machine.gpus[n]
    if count > most:
        message = f"{device.name} has {count} NVLinks, but {types[n]} has {most}: name its GPU with --gpu"
        machine.refuse(message, device.line)
    library, bandwidth = Library(), count * rate
    named = [link for link in library.names("link") if link.startswith(generation)]
    exact = [link for link in named if abs(library.link(link).bandwidth / bandwidth - 1) < 1e-6]
    if exact:
        return Bundle(count, rate, exact[0], None)
    return Bundle(count, rate, generation, bandwidth)
