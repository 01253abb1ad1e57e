"""What links carry in a training step, against bytes known by heart and against the network that plays every rank.

The toy model has 16 layers of 12 x 2^20 weights and a table of 1,024 (a last stage of its own has the head too);
gradients are summed in 2 bytes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from sim.jobs.training.build import Builder
from sim.jobs.training.detailed import Step
from sim.results.collect import link_classes
from sim.results.schema import LinkClass

from ..helpers import resolved, simulate
from ..jobs.training.helpers import played, servers, toy, training

LAYER = 12 * 2**20
GRADIENTS = 2 * (16 * LAYER + 1024)
CABLE = {"bandwidth": "10 GB/s"}


def links(described: dict[str, Any]) -> dict[str, LinkClass]:
    return {link.name: link for link in link_classes(played(described))[0]}


@pytest.mark.parametrize("dp", [2, 3, 8])
def test_a_ring_over_nodes_puts_its_bytes_on_every_card(dp: int) -> None:
    """All-reduce of V: 2(n-1)/n V out of each card and into it, each step."""
    described = toy({"dp": dp}, (dp, 1, 1024), gpus=dp, link=CABLE, run={"steps": 3})
    recording = played(described)
    card = next(x for x in link_classes(recording)[0] if x.kind == "infiniband")
    sent = 2 * (dp - 1) / dp * GRADIENTS
    assert card.count == 2 * dp
    assert card.bytes == pytest.approx(3 * 2 * dp * sent)
    assert card.utilisation_mean == pytest.approx(sent / (10e9 * recording.training[0].step.seconds))


def test_spare_nodes_do_not_count() -> None:
    """The mean is over links that work."""
    some, all_ = (
        links(toy({"dp": 2}, (2, 1, 1024), gpus=gpus, link=CABLE))["d network card"] for gpus in (4, 2)
    )  # fmt: skip
    assert (some.count, some.utilisation_mean) == (all_.count, pytest.approx(all_.utilisation_mean))


def test_a_pipeline_of_replicas_is_the_mean_of_its_stages() -> None:
    """Of four stages two send both ways, the first and the last one; gradients of a stage are summed by its own two."""
    described = toy({"dp": 2, "pp": 4}, (8, 1, 1024), gpus=8, link=CABLE)
    recording = played(described)
    card = next(x for x in link_classes(recording)[0] if x.kind == "infiniband")
    activations = 4 * 1024 * 1024 * 2  # of four micro-batches
    assert card.count == 16
    hops, sums = 2 * 6 * activations, 2 * (GRADIENTS + 2 * 1024)  # of both replicas; 2 (n-1)/n = 1
    assert card.bytes == pytest.approx(2 * (hops + sums))  # out and in
    whole = 16 * 10e9 * recording.training[0].step.seconds
    assert card.utilisation_mean == pytest.approx(2 * (hops + sums) / whole)


def test_tensor_groups_of_all_stages_load_every_gpu_alike() -> None:
    """Two nodes of 8 GPUs, four stages of tp 2 in each: four all-reduces of B S H 2 bytes a layer and micro-batch; of
    seven hops six stay in a node, both ways, half of a message from each rank."""
    described = training(
        servers("a100-sxm-80gb", 2, "nvlink3", "infiniband-hdr"), {"tp": 2, "pp": 8}, (8, 1, 2048), stack="ideal"
    )  # fmt: skip
    recording = played(described)
    nvlink = next(x for x in link_classes(recording)[0] if x.kind == "nvlink")
    activations = 8 * 2048 * 4096 * 2
    assert nvlink.count == 32
    assert nvlink.bytes == pytest.approx(32 * 4 * 4 * activations + 6 * 2 * 2 * activations)
    step = recording.training[0].step.seconds
    assert nvlink.utilisation_mean == pytest.approx(nvlink.bytes / (32 * 300e9 * step))


PLANS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"tp": 2, "pp": 2, "dp": 4}, {}),
    ({"tp": 4, "pp": 4}, {}),
    ({"tp": 2, "pp": 2, "vpp": 2, "dp": 4}, {}),
    ({"tp": 2, "dp": 8, "zero": 3}, {}),
    ({"dp": 16, "zero": 2, "shard": "node"}, {}),
    ({"tp": 2, "cp": 2, "dp": 4}, {}),
    ({"tp": 4, "dp": 3}, {}),
    ({"tp": 8, "dp": 2}, {"nics": [{"link": "infiniband-hdr", "count": 1}]}),
]


@pytest.mark.parametrize("number", range(len(PLANS)))
def test_links_carry_what_a_network_of_all_ranks_does(number: int) -> None:
    plan, node = PLANS[number]
    described = training(
        servers("a100-sxm-80gb", 2, "nvlink3", "infiniband-hdr", **node), plan, (48, 1, 2048), stack="ideal",
    )  # fmt: skip
    recording = played(described)
    job, topology = recording.training[0].job, recording.topology
    alone = Builder(resolved(described), job, topology, recording.training[0].build.ranks, alone=True).build()
    step = Step(replace(alone, order=recording.training[0].build.order), topology, fold=False)
    step.play()
    carried: Counter[str] = Counter()
    used: Counter[str] = Counter()
    for link in range(topology.link_count):
        if step.network.bytes_carried(link) > 0:
            name = topology.links[link].equivalence
            carried[name] += step.network.bytes_carried(link)
            used[name] += 1
    told = link_classes(recording)[0]
    assert {x.name: x.bytes for x in told} == pytest.approx(dict(carried), rel=1e-9)
    assert {x.name: x.count for x in told} == dict(used)
    length = recording.training[0].step.seconds
    for x in told:
        assert x.utilisation_mean == pytest.approx(carried[x.name] / (used[x.name] * x.bandwidth * length))


def test_a_slow_gpu_changes_times_and_not_bytes() -> None:
    """A cluster that is not folded, and one whose replicas are in two classes."""
    described = toy({"dp": 2, "pp": 4}, (8, 1, 1024), gpus=8, link=CABLE)
    slow = toy({"dp": 2, "pp": 4}, (8, 1, 1024), gpus=8, link=CABLE, slow=[{"gpu": 5, "factor": 1.5}])
    fast, late = links(described)["d network card"], links(slow)["d network card"]
    assert (fast.bytes, fast.count) == (pytest.approx(late.bytes), late.count)
    assert late.utilisation_mean < fast.utilisation_mean


def test_the_full_story_tells_the_same() -> None:
    described = toy({"dp": 2, "pp": 2, "vpp": 2}, (8, 1, 1024), gpus=4, link=CABLE)
    a, b = (simulate(described, detail).result.links for detail in ("auto", "full"))
    assert {x.name: (x.count, x.bytes) for x in a} == {x.name: (x.count, pytest.approx(x.bytes)) for x in b}
