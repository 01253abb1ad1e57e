"""What a training job's groups and messages put on every link of the cluster.

All groups of a kind and stage talk at once, and all ranks of a stage send at once, so what one byte of each member puts
on a link is the sum over all of them. On a regular cluster nodes that hold ranks of the same stages in the same places
carry the same: of such nodes one is looked at, and each of its links stands for those of all. The links between
switches are looked at one by one. Elsewhere every group and every message is.

    ring         a byte that each member sends crosses each hop of the ring once; between nodes (k of them, g members
                 in each) and within, the two phases share it as the ring of rings does (sim.laws.collective)
    all to all   (kind ``ep``) 1/(n-1) of a member's bytes go to each of the others
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise

from sim.laws.topology_group import Loads
from sim.laws.topology_parts import merged
from sim.laws.training.groups import GroupNetwork
from sim.laws.training.layer import HOST_WAYS


class Traffic:
    """Loads of one job's links. ``kinds`` are those of groups that talk, by stage.

    ``alike`` tells, of a link looked at, how many (itself included) carry the same; 1 where it is not in there.
    """

    def __init__(self, network: GroupNetwork, kinds: Mapping[int, Iterable[str]]) -> None:
        self.network, self.ranks, self.topology = network, network.ranks, network.topology
        self.nodes: dict[int, int] | None = self._representatives() if network.folds else None
        self._groups: dict[tuple[str, int], list[tuple[int, ...]]] = {}
        if self.nodes is not None and not self._regular(kinds):
            self.nodes = None
            self._groups.clear()
        self.alike: dict[int, int] = {}
        for node, count in (self.nodes or {}).items():
            if count > 1:
                self.alike |= dict.fromkeys(self._links_of(node), count)

    # ---- what is looked at

    def _representatives(self) -> dict[int, int]:
        """Of the nodes that hold ranks of the same stages in the same places the first, and how many they are."""
        ranks, per_node = self.ranks, self.network.per_node
        stride, stages = ranks.strides["pp"], ranks.sizes["pp"]
        assert isinstance(ranks.gpus, range)
        first: dict[tuple[int, ...], int] = {}
        counts: Counter[tuple[int, ...]] = Counter()
        start, stop = ranks.gpus.start, ranks.gpus.stop
        for node in range(start // per_node, (stop - 1) // per_node + 1):
            held = range(node * per_node, (node + 1) * per_node)
            profile = tuple((gpu - start) // stride % stages if start <= gpu < stop else -1 for gpu in held)
            first.setdefault(profile, node)
            counts[profile] += 1
        return {node: counts[profile] for profile, node in first.items()}

    def _regular(self, kinds: Mapping[int, Iterable[str]]) -> bool:
        """Whether all groups looked at have equally many members in each of their nodes."""
        return all(
            self.network.even(group)
            for stage, names in kinds.items()
            for kind in names
            if kind not in HOST_WAYS
            for group in self.groups(kind, stage)
        )

    def _links_of(self, node: int) -> range:
        run = self.topology.runs[0]
        base = run.base(node - run.first_node)
        return range(base, base + len(run.block.links))

    def _seen(self, stage: int) -> list[int]:
        """The GPUs of a stage that are looked at."""
        ranks, per_node = self.ranks, self.network.per_node
        if self.nodes is None:
            return [gpu for dp in range(ranks.sizes["dp"]) for gpu in ranks.stage(stage, dp)]
        held = (gpu for node in self.nodes for gpu in range(node * per_node, (node + 1) * per_node))
        placed = ((gpu, ranks.rank_of(gpu)) for gpu in held)
        return [gpu for gpu, rank in placed if rank is not None and ranks.coordinate(rank, "pp") == stage]

    def groups(self, kind: str, stage: int) -> list[tuple[int, ...]]:
        """The groups of a kind and stage with a member that is looked at."""
        found = self._groups.get((kind, stage))
        if found is None:
            found = self._groups[kind, stage] = self._all(kind, self._seen(stage))
        return found

    def _all(self, kind: str, gpus: Iterable[int]) -> list[tuple[int, ...]]:
        found, covered = [], set[int]()
        for gpu in gpus:
            if gpu not in covered:
                found.append(self.network.members(kind, gpu))
                covered.update(found[-1])
        return found

    # ---- loads

    def of_groups(self, kind: str, stage: int) -> Loads:
        """Bytes on each link for a byte that every member of every group of a kind and stage sends."""
        if kind in HOST_WAYS:
            return merged(load for gpu in self._seen(stage) for load in self.network.host.links(kind, gpu))
        loads: list[tuple[int, float]] = []
        for group in self.groups(kind, stage):
            if len(group) > 1:
                loads += self._exchanged(group) if kind == "ep" else self._ring(group)
        return merged((*self._within(loads), *self._between(kind, stage)))

    def _ring(self, group: tuple[int, ...]) -> Loads:
        """A group's ring: of one that stands for others, as far as its hops begin or end in a node looked at."""
        if self.nodes is None:
            site = self.topology.site(group)
            return self.network.carried(site, site.ring_links, site.inner_links)
        found: list[tuple[int, float]] = []
        for node in dict.fromkeys(gpu // self.network.per_node for gpu in group):
            if node in self.nodes:
                site = self.topology.site(self.network.folded(group, range(node, node + 1)))
                whole = replace(site, n=len(group))
                mine = self._links_of(node)
                found += [x for x in self.network.carried(whole, site.ring_links, site.inner_links) if x[0] in mine]
        return tuple(found)

    def _exchanged(self, group: tuple[int, ...]) -> Iterator[tuple[int, float]]:
        """All to all."""
        share, per_node = 1.0 / (len(group) - 1), self.network.per_node
        for a in group:
            for b in group:
                if a != b and (self.nodes is None or a // per_node in self.nodes or b // per_node in self.nodes):
                    for link, weight in self.topology.route(a, b).links:
                        yield link, weight * share

    def of_messages(self, source: int, target: int) -> Loads:
        """Bytes on each link for a byte that every rank of a stage sends to its peer in another."""
        step = (target - source) * self.ranks.strides["pp"]
        pairs = dict.fromkeys([(gpu, self._peer(gpu, step)) for gpu in self._seen(source)])
        pairs |= dict.fromkeys([(self._peer(gpu, -step), gpu) for gpu in self._seen(target)])
        loads = [load for a, b in pairs for load in self.topology.route(a, b).links]
        return merged((*self._within(loads), *self._over_leaves(source, step)))

    def _peer(self, gpu: int, step: int) -> int:
        rank = self.ranks.rank_of(gpu)
        assert rank is not None
        return self.ranks.gpus[rank + step]

    def _within(self, loads: Iterable[tuple[int, float]]) -> Iterator[tuple[int, float]]:
        """Those of the loads that are known whole: of the nodes looked at."""
        if self.nodes is None:
            yield from loads
            return
        mine = {link for node in self.nodes for link in self._links_of(node)}
        yield from (load for load in loads if load[0] in mine)

    # ---- links between switches, where nodes stand for others

    def _leaves(self) -> Callable[[int], int] | None:
        """The leaf of a GPU, where there are several."""
        if self.nodes is None or self.network.leaf_nodes == 1:
            return None
        leaf, per_node = self.topology.network.leaf, self.network.per_node
        return lambda gpu: leaf[gpu // per_node]

    def _between(self, kind: str, stage: int) -> Iterator[tuple[int, float]]:
        """What all groups of a kind and stage put on links between leaves: a ring enters and leaves each leaf once."""
        leaf_of = self._leaves()
        if leaf_of is None or kind == "node":
            return
        ranks, per_node = self.ranks, self.network.per_node
        gpus = (gpu for dp in range(ranks.sizes["dp"]) for gpu in ranks.stage(stage, dp))
        found: Counter[tuple[tuple[int, int], ...]] = Counter()
        nodes: dict[tuple[tuple[int, int], ...], int] = {}
        for group in self._all(kind, gpus):
            sizes = tuple(sorted(Counter(map(leaf_of, group)).items()))
            if len(sizes) > 1:
                found[sizes] += 1
                nodes[sizes] = len({gpu // per_node for gpu in group})
        for sizes, count in found.items():
            n, leaves = sum(size for _, size in sizes), [leaf for leaf, _ in sizes]
            hops: list[tuple[int, int, float]]
            if kind == "ep":
                hops = [(a, b, x * y / (n - 1)) for a, x in sizes for b, y in sizes if a != b]
            else:
                share = (nodes[sizes] - 1) / nodes[sizes] / ((n - 1) / n)  # g rings, each with 1/g of it
                hops = [(a, b, share) for a, b in pairwise([*leaves, leaves[0]])]
            for a, b, amount in hops:
                for link, weight in self._path(a, b):
                    yield link, weight * amount * count

    def _over_leaves(self, source: int, step: int) -> Iterator[tuple[int, float]]:
        """What all messages of a stage put on links between leaves."""
        leaf_of = self._leaves()
        if leaf_of is None:
            return
        ranks = self.ranks
        gpus = (gpu for dp in range(ranks.sizes["dp"]) for gpu in ranks.stage(source, dp))
        for (a, b), count in Counter((leaf_of(gpu), leaf_of(self._peer(gpu, step))) for gpu in gpus).items():
            if a != b:
                for link, weight in self._path(a, b):
                    yield link, weight * count

    def _path(self, a: int, b: int) -> Iterator[tuple[int, float]]:
        first = self.topology.link_count - len(self.topology.network.links)
        return ((first + link, weight) for link, weight in self.topology.network.path(a, b))
