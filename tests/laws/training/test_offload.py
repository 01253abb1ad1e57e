"""Offloading: bytes and seconds of each tier in closed form, links that a node's GPUs share, refusals, and twins.

Toy cards of 100 TFLOPS and 1 TB/s on a bus of 25 GB/s, joined by an NVLink that costs nothing, datasheet arithmetic:
the optimizer's update on the GPU is free, so what a step takes longer is the offloading. Row numbers (DPZ-19 and so on)
are those of the project's table of the reference article's claims.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.adapters.resolve import ResolvedTraining
from sim.errors import InfeasibleError
from sim.jobs.play import play
from sim.jobs.training.build import Builder, TrainingBuild
from sim.jobs.training.run import TrainingRecording
from sim.laws.arrange import layouts, topology_of
from sim.laws.topology import Topology
from sim.laws.training.layer import HOST_WAYS
from sim.laws.training.layout import TrainingLayout
from sim.laws.training.offload import HostNetwork, ways_of
from sim.laws.training.ranks import place_ranks
from sim.laws.training.stage import Chunk, held_by
from sim.results.training import sent_bytes, training_metrics
from sim.spec.scenario import Assume
from sim.spec.training import Offload, TrainingPlan

from ...helpers import TOY_GPU, TOY_MODEL, resolved

GB = 1e9
BUS, MEMORY = 25 * GB, 1000 * GB
DRIVE = {"capacity": "100 TB", "read": "7 GB/s", "write": "5 GB/s"}
ALL = {"optimizer": "host", "parameters": "host", "activations": "host"}
BELOW = {"optimizer": "nvme", "parameters": "nvme", "activations": "host"}

Plan = dict[str, Any]


def box(gpus: int = 1, count: int = 1, **node: Any) -> dict[str, Any]:
    """A node of toy cards with more memory than anything needs."""
    joined = {"nvlink": {"link": "free"}} if gpus > 1 else {}
    return {
        "name": "box", "count": count, "gpus": [{"type": "toy", "count": gpus}], "pcie": {"link": "bus"},
        "host_memory": {"bandwidth": "1000 GB/s", "capacity": "100 TB"}, **joined, **node,
    }  # fmt: skip


def scenario(
    plan: Plan, batch: tuple[int, int, int] = (4, 1, 1024), node: dict[str, Any] | None = None, *,
    bus: str = "25 GB/s", assume: dict[str, Any] | None = None, **keys: Any,
) -> dict[str, Any]:  # fmt: skip
    job = {
        "name": "j", "kind": "training", "plan": plan, **keys.pop("job", {}),
        "batch": {"global": batch[0], "micro": batch[1], "sequence": batch[2]},
    }  # fmt: skip
    links = {"bus": {"kind": "pcie", "bandwidth": bus}, "free": {"kind": "nvlink", "bandwidth": "1e9 GB/s"}}
    define = {"gpus": {"toy": TOY_GPU}, "models": {"toy": TOY_MODEL}, "links": links}
    gpus = place_of(plan)
    return {
        "name": "t", "cluster": {"topology": {"name": "c", "nodes": [node or box(gpus)]}}, "model": "toy",
        "stack": "ideal", "jobs": [job], "define": define, "assume": {"memory": "unchecked", **(assume or {})}, **keys,
    }  # fmt: skip


def place_of(plan: Plan) -> int:
    """GPUs a plan takes."""
    return int(TrainingPlan.model_validate(plan).gpus)


def played(described: dict[str, Any]) -> TrainingRecording:
    (recording,) = play(resolved(described)).training
    return recording


def seconds(described: dict[str, Any], detail: Any = "auto") -> float:
    (recording,) = play(resolved(described), detail).training
    return recording.step.seconds


def waits(described: dict[str, Any]) -> dict[tuple[str, str], float]:
    """Exposed seconds of the first GPU by axis and link, offloading's only."""
    found = played(described).members[0][3].communication
    return {key: value for key, value in found.items() if key[0] in ("offload", "cpu update")}


def built(described: dict[str, Any]) -> TrainingBuild:
    found = resolved(described)
    topology = topology_of(found)
    (layout,) = layouts(found, topology)
    assert isinstance(layout, TrainingLayout)
    (job,) = found.jobs
    assert isinstance(job, ResolvedTraining)
    return Builder(found, job, topology, layout.ranks).build()


def parameters(described: dict[str, Any]) -> tuple[float, float]:
    """Parameters a rank of the first stage holds in its layers, and in its tables."""
    (job,) = resolved(described).jobs
    assert isinstance(job, ResolvedTraining)
    whole, layers = (
        held_by(job.model, job.spec, [Chunk(job.model.layers, 0, ends, ends)]).dense for ends in (True, False)
    )
    return layers, whole - layers


LAYERS, TABLES = parameters(scenario({}))
WHOLE = LAYERS + TABLES


def plain(plan: Plan) -> Plan:
    return {**plan, "offload": {}}


# ---- the optimizer on the host


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize(("gradients", "each", "update"), [("bf16", 4, 32), ("fp32", 6, 38)])
def test_a_step_moves_4_bytes_a_parameter(zero: int, gradients: str, each: int, update: int) -> None:
    """DPZ-19: 16-bit gradients down, 16-bit weights up, of a rank's own shard; the CPU's traffic is counted apart."""
    for dp in (1, 4):
        plan = {"dp": dp, "zero": zero, "offload": {"optimizer": "host"}}
        found = sent_bytes(played(scenario(plan, (dp, 1, 64), job={"precision": {"gradients": gradients}})))
        own = WHOLE / (dp if zero else 1)
        assert found["offload"] == pytest.approx(each * own)
        assert found["cpu update"] == pytest.approx(update * own)


def test_nothing_hidden_is_the_sum() -> None:
    """gb P / bus + (2 sb + 3 gb + wb) P / memory + wb P / bus."""
    plan = {"offload": {"optimizer": "host"}, "overlap": False}
    longer = seconds(scenario(plan, (1, 1, 64))) - seconds(scenario(plain(plan), (1, 1, 64)))
    down, update, up = 2 * WHOLE / BUS, (24 + 6 + 2) * WHOLE / MEMORY, 2 * WHOLE / BUS
    assert longer == pytest.approx(down + update + up)
    assert waits(scenario(plan, (1, 1, 64))) == {
        ("offload", "pcie"): pytest.approx(down + up), ("cpu update", "host memory"): pytest.approx(update),
    }  # fmt: skip


def test_what_kernels_and_the_update_hide() -> None:
    """A layer's gradients leave beside its own backward pass (0.5 against 2 ms), the weights' copies beside the CPU's
    update, the tables' gradients beside the whole pass but for the share of the last layer."""
    plan = {"offload": {"optimizer": "host"}}
    for memory in (100, 1000, 10000):
        node = box(host_memory={"bandwidth": f"{memory} GB/s", "capacity": "1 TB"})
        longer = seconds(scenario(plan, (1, 1, 8192), node)) - seconds(scenario(plain(plan), (1, 1, 8192), node))
        late = 2 * TABLES / BUS / 16
        assert longer == pytest.approx(max(32 * WHOLE / (memory * GB), 2 * WHOLE / BUS) + late)


def test_the_update_is_the_optimizers() -> None:
    plan = {"offload": {"optimizer": "host"}, "overlap": False}
    recording = played(scenario(plan, (1, 1, 64)))
    assert training_metrics(recording, Assume()).optimizer_s == pytest.approx(32 * WHOLE / MEMORY + 2 * WHOLE / BUS)
    spent = recording.members[0][3]
    assert spent.launch == 0.0  # the GPU stands idle: no work of its own
    momentum = played(scenario(plan, (1, 1, 64), job={"optimizer": "sgd-momentum"}))
    assert sent_bytes(momentum)["cpu update"] == pytest.approx((16 + 6 + 2) * WHOLE)


@pytest.mark.parametrize(
    ("plan", "layers", "tables"),
    [
        ({"dp": 1}, 8.0, 1.0),
        ({"dp": 4, "zero": 0}, 1.0, 1.0),
        ({"dp": 4, "zero": 1}, 1 / 4, 1 / 4),
        ({"dp": 4, "zero": 2}, 8 / 4, 1 / 4),
        ({"dp": 4, "zero": 3}, 8 / 4, 1 / 4),
    ],
)
def test_gradients_leave_as_they_are_reduced(plan: Plan, layers: float, tables: float) -> None:
    """Of eight micro-batches: after each where it is scattered at once, else after the last."""
    plan = {**plan, "offload": {"optimizer": "host"}}
    down = sent_bytes(played(scenario(plan, (8 * plan["dp"], 1, 64))))["offload"]
    up = 2 * WHOLE / (plan["dp"] if plan.get("zero") else 1)
    assert down - up == pytest.approx(2 * (layers * LAYERS + tables * TABLES))


def test_stages_sum_gradients_before_they_leave() -> None:
    stages = built(scenario({"pp": 4, "offload": {"optimizer": "host"}}, (8, 1, 64))).classes[0].stages
    for stage in stages:
        (member,) = stage.members
        assert not [f for p in member.passes for d in (p.forward, p.backward, p.weight) for f in d.flows]
        (down,) = member.sync.reduce.flows
        tables = TABLES if stage.number in (0, 3) else 0.0  # tied: the table is on the first and on the last
        assert (down.kind, down.wire) == ("to host", pytest.approx(2 * (LAYERS / 4 + tables)))


# ---- nvme


def test_70e9_parameters_on_one_drive_take_280_seconds() -> None:
    """DPZ-20: 14 B a parameter read and written at 7 GB/s: states, and gradients on their way."""
    node = box(nvme={"capacity": "4 TB", "read": "7 GB/s", "write": "7 GB/s"})
    described = scenario(
        {"offload": {"optimizer": "nvme"}, "overlap": False}, (1, 1, 64), node, model="llama-2-70b",
        assume={"parameters": 70e9},
    )  # fmt: skip
    found = waits(described)
    assert found["offload", "nvme"] == pytest.approx(280.0)
    assert found["offload", "pcie"] == pytest.approx(2 * 70e9 / BUS)  # the new weights
    del described["jobs"][0]["plan"]["overlap"]
    assert seconds(described) > 280.0 - 2 * 70e9 / (7 * GB)  # gradients alone hide, beside the backward pass


def test_reads_and_writes_take_turns() -> None:
    plan = {"offload": BELOW | {"activations": "gpu"}, "overlap": False}
    found = waits(scenario(plan, (2, 1, 64), box(nvme=DRIVE)))
    reads = 2 * 2 * 2 * LAYERS + 14 * WHOLE  # weights twice in both micro-batches, states, gradients
    writes = 2 * 2 * LAYERS + 2 * TABLES + 12 * WHOLE + 2 * LAYERS  # gradients, states, new weights
    assert found["offload", "nvme"] == pytest.approx(reads / (7 * GB) + writes / (5 * GB))
    assert found["offload", "pcie"] == pytest.approx(2 * TABLES / BUS)


# ---- parameters


@pytest.mark.parametrize("zero", [0, 3])
def test_weights_come_up_twice_a_micro_batch(zero: int) -> None:
    """A whole layer, or the shard of ZeRO-3; what the GPU has updated goes back."""
    plan = {"dp": 4, "zero": zero, "offload": {"parameters": "host"}, "overlap": False}
    described = scenario(plan, (8, 1, 64))
    own, new = (LAYERS / 4, LAYERS / 4) if zero else (LAYERS, LAYERS)
    moved = 2 * (2 * 2 * own + new)
    assert sent_bytes(played(described))["offload"] == pytest.approx(moved)
    assert waits(described) == {("offload", "pcie"): pytest.approx(moved / BUS)}


def test_prefetching_hides_what_kernels_allow() -> None:
    """A layer's weights take 1 ms, its forward pass 2 ms at 8192 tokens and 0.26 ms at 1024 (ideal: all may hide)."""
    plan = {"offload": {"parameters": "host"}}
    assert waits(scenario(plan, (1, 1, 8192)))["offload", "pcie"] == pytest.approx(2 * LAYERS / BUS)  # the new ones
    described = scenario(plan, (1, 1, 1024))
    (stage,) = built(described).classes[0].stages
    (passes,) = stage.lead.passes
    (up,) = passes.forward.flows
    kernels = passes.forward.work.seconds - 2 * 1024 * TABLES / 100e12  # without the output head
    assert up.seconds == pytest.approx(2 * LAYERS / BUS)
    assert up.exposed == pytest.approx(2 * LAYERS / BUS - kernels)
    without = built(scenario(plan | {"prefetch": 0}, (1, 1, 1024))).classes[0].stages[0].lead.passes[0]
    assert without.forward.flows[0].hidden == 0.0


def test_a_pipeline_gathers_again_what_it_gives_back() -> None:
    """ZeRO-3 in a pipeline keeps gathered weights for the step; offloaded ones come for each micro-batch, twice."""
    for tier, gathers in (("gpu", 1), ("host", 2 * 4)):
        plan = {"pp": 2, "dp": 2, "zero": 3, "offload": {"parameters": tier}}
        first = built(scenario(plan, (8, 1, 64))).classes[0].stages[0].lead.passes[0]
        flows = [f for d in (first.forward, first.backward) for f in d.flows if f.kind == "data"]
        gathered = 4 * sum(f.wire for f in flows)
        held = LAYERS / 2 + TABLES  # of a tied model each end of the pipeline has the table
        scattered = 2 * held / 2
        assert gathered - scattered == pytest.approx(gathers * 2 * held / 2)


# ---- activations


@pytest.mark.parametrize(
    ("flops", "bus", "ratio"), [("330 TFLOPS", "32 GB/s", 1.67854), ("989 TFLOPS", "450 GB/s", 0.357727)]
)
def test_swapping_against_computing_again(flops: str, bus: str, ratio: float) -> None:
    """MEM-16, MEM-17: 34 B of a token and width over the bus, against a layer's matrix products.

    What is kept without attention's core is 34 h; full recomputation takes the matrix products longer than selective.
    """

    def lead(recompute: str, tier: str) -> Any:
        plan = {"recompute": recompute, "offload": {"activations": tier}}
        described = scenario(plan, (1, 1, 4096), bus=bus, model="llama-2-70b", assume={"gpu": {"flops": flops}})
        return built(described).classes[0].stages[0].lead

    (down,) = lead("selective", "host").passes[0].forward.flows
    again = lead("full", "gpu").recomputed - lead("selective", "gpu").recomputed
    assert down.wire == pytest.approx(80 * 34 * 4096 * 8192)
    assert down.seconds / again == pytest.approx(ratio, rel=1e-4)


def test_a_gh200_reaches_its_host_over_c2c() -> None:
    node = {"name": "n", "gpus": [{"type": "gh200-96gb"}], "host_memory": {"bandwidth": "500 GB/s"}}
    described = scenario({"offload": {"activations": "host"}}, (1, 1, 1024), node)
    (stage,) = built(described).classes[0].stages
    assert stage.lead.passes[0].forward.flows[0].cap == 450 * GB
    assert stage.links["to host"] == "pcie"


@pytest.mark.parametrize("recompute", ["none", "full", "from_input", {"every": 3}, {"group": 4}])
def test_what_goes_down_is_what_is_kept_and_comes_up_again(recompute: Any) -> None:
    """No more than the memory law keeps: per token 2 h an entry, or the whole layer."""
    plan = {"recompute": recompute, "offload": {"activations": "host"}}
    described = scenario(plan, (2, 1, 256))
    passes = built(described).classes[0].stages[0].lead.passes[0]
    (down,), (up,) = passes.forward.flows, passes.backward.flows
    entry, whole = 2 * 1024, 10 * 1024 + 8 * 1024 + 16 * 1024 + 5 * 8 * 256
    layers = {"none": 16 * whole, "full": 16 * entry, "from_input": entry}
    kept = layers[recompute] if isinstance(recompute, str) else 5 * entry + 11 * whole
    if recompute == {"group": 4}:
        kept = 4 * entry
    assert (down.kind, up.kind) == ("to host", "from host")
    assert down.wire == up.wire == pytest.approx(256 * kept)


# ---- links that are shared


def host_network(node: dict[str, Any], plan: Plan, **keys: Any) -> HostNetwork:
    found = resolved(scenario(plan, (place_of(plan), 1, 64), node, **keys))
    topology = topology_of(found)
    ranks = place_ranks(TrainingPlan.model_validate(plan), set(), len(topology.gpus), "j")
    return HostNetwork(topology, ranks, folds=True)


def rate(node: dict[str, Any], plan: Plan, kind: str = "to host") -> float:
    """GB/s of a GPU on a way."""
    return host_network(node, plan).way(kind, 0).cap / GB


def test_gpus_share_memory_uplinks_and_drives() -> None:
    slow = {"host_memory": {"bandwidth": "100 GB/s"}}
    for gpus in (1, 2, 4, 8):
        assert rate(box(gpus, **slow), {"dp": gpus}) == pytest.approx(min(25, 100 / gpus))
        assert rate(box(gpus, **slow), {"dp": gpus}, "host update") == pytest.approx(100 / gpus)
        assert rate(box(gpus, nvme=DRIVE), {"dp": gpus}, "from nvme") == pytest.approx(7 / gpus)
        assert rate(box(gpus, nvme=DRIVE), {"dp": gpus}, "nvme write") == pytest.approx(5 / gpus)
    eight = {"dp": 8}
    assert rate(box(8, **slow, sockets=2, socket_link="upi"), eight) == pytest.approx(100 / 4)
    behind = {"pcie": {"link": "bus", "gpus_per_switch": 4}}
    assert rate(box(8, **behind), eight) == pytest.approx(25 / 4)
    assert rate(box(8, **slow), {"dp": 2}) == 25  # the others are none of the job's
    assert rate(box(8, **slow), {"pp": 8}) == pytest.approx(100 / 8)  # all stages work at once
    assert rate(box(4, 2, **slow, nics=[{"link": "ethernet-10g"}]), eight) == 25  # four on each node


def test_a_drive_behind_memory_crosses_it_twice() -> None:
    fast = {"capacity": "1 TB", "read": "500 GB/s", "write": "500 GB/s"}
    node = box(4, nvme=fast, host_memory={"bandwidth": "80 GB/s"})
    found = host_network(node, {"dp": 4})
    assert found.way("from nvme", 0).cap == pytest.approx(80 * GB / 8)
    assert found.way("from nvme", 0).link == "host memory"
    assert found.way("nvme read", 0).cap == pytest.approx(80 * GB / 4)


def test_every_socket_reaches_the_drives_alike() -> None:
    node = box(8, nvme=DRIVE, sockets=2, socket_link="upi", host_memory={"bandwidth": "100 GB/s"})
    found = host_network(node, {"dp": 8})
    assert found.way("from nvme", 0).cap == pytest.approx(7 * GB / 8)
    reads = {link for gpu in range(8) for link, _ in found.links("nvme read", gpu)}
    assert len(reads) == 3  # one drive, two memories


def explicit(drives: int, memory: bool = True) -> dict[str, Any]:
    """A host with two cards, and drives of 4 GB/s each way, vertex by vertex."""
    vertices: list[dict[str, Any]] = [{"name": "cpu", "kind": "socket", "node": "n"}]
    edges: list[dict[str, Any]] = []
    for gpu in ("a", "b"):
        vertices.append({"name": gpu, "kind": "gpu", "gpu": "toy", "node": "n"})
        edges.append({"from": gpu, "to": "cpu", "link": "bus"})
    edges.append({"from": "a", "to": "b", "link": "free"})
    if memory:
        vertices.append({"name": "ram", "kind": "memory", "node": "n", "capacity": "1 TB"})
        edges.append({"from": "cpu", "to": "ram", "kind": "memory", "bandwidth": "100 GB/s"})
    for i in range(drives):
        vertices.append({"name": f"ssd{i}", "kind": "storage", "node": "n", "capacity": "1 GB"})
        edges.append({"from": "cpu", "to": f"ssd{i}", "kind": "pcie", "bandwidth": "4 GB/s"})
    return {"name": "c", "vertices": vertices, "edges": edges}


def graph(drives: int, plan: Plan, memory: bool = True, **keys: Any) -> dict[str, Any]:
    found = scenario({"dp": 2, **plan}, (2, 1, 64), **keys)
    found["cluster"] = {"topology": explicit(drives, memory)}
    return found


def test_drives_of_a_graph_share_the_data() -> None:
    for drives in (1, 2, 3):
        described = graph(drives, {"zero": 1, "offload": {"optimizer": "nvme"}, "overlap": False})
        found = built(described).network.host.way("nvme write", 0)
        assert found.cap == pytest.approx(drives * 4 * GB / 2)
        assert waits(described)["offload", "nvme"] == pytest.approx(28 * WHOLE / 2 / found.cap)


# ---- what hides beside what


def test_moves_take_turns_with_rings_they_meet() -> None:
    """Beside NVLink rings weights come up for nothing; a ring that leaves over the GPU's own bus gets in their way."""
    plan = {"dp": 4, "zero": 3, "offload": {"parameters": "host"}}
    alone = built(scenario(plan, (4, 1, 1024))).network
    assert alone.crowded(["data", "from host"], 0) == frozenset()
    cards = box(2, 2, nics=[{"link": "infiniband-hdr", "per_gpu": True}])
    spread = built(scenario(plan, (4, 1, 1024), cards)).network
    assert spread.crowded(["data", "from host"], 0) == {"data"}
    (stage,) = built(scenario(plan, (4, 1, 1024), cards)).classes[0].stages
    forward = stage.lead.passes[0].forward
    head = 2 * 1024 * TABLES / 100e12
    layers = [f for f in forward.flows if f.kind != "data" or f.number > 1]  # the tables are gathered once
    assert {f.kind for f in layers} == {"data", "from host"}
    hidden = sum(f.seconds - f.exposed for f in layers)
    assert hidden == pytest.approx(min(forward.work.seconds - head, sum(f.seconds for f in layers)))


def test_ways_are_those_the_plan_takes() -> None:
    for optimizer in ("gpu", "host", "nvme"):
        for tier in ("gpu", "host", "nvme"):
            for activations in ("gpu", "host"):
                offload = {"optimizer": optimizer, "parameters": tier, "activations": activations}
                described = scenario({"dp": 2, "zero": 3, "offload": offload}, (4, 1, 64), box(2, nvme=DRIVE))
                (stage,) = built(described).classes[0].stages
                (member,) = stage.members
                every = [getattr(p, d) for p in member.passes for d in ("forward", "backward", "weight")]
                every += [member.sync.reduce, member.sync.update, member.sync.gather]
                used = {flow.kind for part in every for flow in part.flows} & HOST_WAYS.keys()
                assert used == set(ways_of(Offload.model_validate(offload))), offload


# ---- always


OFFLOADS: list[dict[str, str]] = [
    {"optimizer": "host"}, {"optimizer": "nvme"}, {"parameters": "host"}, {"parameters": "nvme"},
    {"activations": "host"}, ALL, BELOW, {"optimizer": "nvme", "parameters": "host"},
]  # fmt: skip
SPEEDS = st.integers(1, 1000)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(OFFLOADS), st.integers(0, 3), st.tuples(SPEEDS, SPEEDS, SPEEDS), st.integers(0, 2), SPEEDS)
def test_faster_links_are_never_slower(
    offload: dict[str, str], zero: int, speeds: tuple[int, int, int], which: int, more: int
) -> None:
    def step(bus: int, memory: int, drive: int) -> float:
        rates = {"read": f"{drive} GB/s", "write": f"{drive} GB/s", "capacity": "1 TB"}
        node = box(2, host_memory={"bandwidth": f"{memory} GB/s"}, nvme=rates)
        described = scenario({"dp": 2, "zero": zero, "offload": offload}, (4, 1, 512), node, bus=f"{bus} GB/s")
        return seconds(described)

    faster = [speed + (more if i == which else 0) for i, speed in enumerate(speeds)]
    assert step(*faster) <= step(*speeds) * (1 + 1e-9)


@pytest.mark.parametrize("offload", OFFLOADS, ids=str)
@pytest.mark.parametrize("stack", ["ideal", "generic"])
@pytest.mark.parametrize("plan", [{"dp": 4, "zero": 2}, {"tp": 2, "pp": 2, "vpp": 2}, {"pp": 4, "schedule": "zb-h1"}])
def test_seconds_add_up_and_nothing_is_free(offload: dict[str, str], stack: str, plan: Plan) -> None:
    node = box(4, nvme=DRIVE)
    described = scenario({**plan, "offload": offload}, (8, 1, 512), node, stack=stack)
    recording = played(described)
    for *_, spent, _ in recording.members:
        assert spent.total == pytest.approx(recording.step.seconds)
        assert any(axis in ("offload", "cpu update") for axis, _ in spent.communication)
    without = played(scenario(plan, (8, 1, 512), node, stack=stack)).step.seconds
    assert offload.get("optimizer", "gpu") != "gpu" or recording.step.seconds >= without


TWINS: dict[str, tuple[Plan, dict[str, Any]]] = {
    "dp": ({"dp": 4}, box(4, nvme=DRIVE)),
    "zero 1 on two sockets": ({"dp": 8, "zero": 1}, box(8, nvme=DRIVE, sockets=2, socket_link="upi")),
    "zero 2 behind switches": (
        {"dp": 8, "zero": 2}, box(8, nvme=DRIVE, pcie={"link": "bus", "gpus_per_switch": 4})
    ),
    "zero 3 on two nodes": (
        {"dp": 8, "zero": 3}, box(4, 2, nvme=DRIVE, nics=[{"link": "infiniband-hdr", "per_gpu": True}])
    ),
    "half of a node": ({"dp": 4, "zero": 3}, box(8, nvme=DRIVE, host_memory={"bandwidth": "60 GB/s"})),
    "tensor ranks": ({"tp": 4, "sequence_parallel": True}, box(4, nvme=DRIVE)),
    "stages": ({"tp": 2, "pp": 4}, box(8, nvme=DRIVE)),
    "recomputed": ({"dp": 4, "zero": 3, "recompute": "full"}, box(4, nvme=DRIVE)),
}  # fmt: skip


TIERS = {
    "optimizer": {"optimizer": "host"}, "parameters": {"parameters": "host"}, "activations": {"activations": "host"},
    "all": ALL, "nvme": BELOW,
}  # fmt: skip


@pytest.mark.parametrize("tiers", TIERS)
@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("stack", ["ideal", "generic"])
def test_every_rank_as_a_process_tells_the_same(name: str, tiers: str, stack: str) -> None:
    """In full each GPU's bytes go over its own links, which share by max-min fairness."""
    plan, node = TWINS[name]
    described = scenario({**plan, "offload": TIERS[tiers]}, (16, 1, 1024), node, stack=stack)
    assert seconds(described, "full") == pytest.approx(seconds(described), rel=1e-9)


# ---- refusals


def refused(described: dict[str, Any]) -> str:
    with pytest.raises(InfeasibleError) as found:
        played(described)
    return str(found.value)


def test_nvme_must_be_there() -> None:
    for offload, what in (({"optimizer": "nvme"}, "optimizer"), ({"parameters": "nvme"}, "parameters")):
        assert refused(scenario({"offload": offload})) == (
            f"job j: plan.offload puts {what} on nvme, but node box has none: give it one, e.g. nvme: "
            "{capacity: 4 TB, read: 7 GB/s, write: 5 GB/s}"
        )
    words = refused(graph(0, {"offload": {"activations": "host"}}, memory=False))
    assert words.startswith("job j: plan.offload puts activations on host memory, but node n has none")
    assert "optimizer on nvme, but node n has none" in refused(graph(0, {"offload": {"optimizer": "nvme"}}))


def checked(described: dict[str, Any]) -> dict[str, Any]:
    return {**described, "assume": {}}


def test_host_memory_must_hold_what_its_gpus_offload() -> None:
    """14 B a parameter of each of four whole copies, 2.83 GB a GPU; of sharded states 5 B, 1 GB."""
    plan = {"dp": 4, "zero": 0, "offload": {"optimizer": "host"}}
    small, two = (
        {"host_memory": {"capacity": "5 GB"}, **more} for more in ({}, {"sockets": 2, "socket_link": "upi"})
    )
    assert refused(checked(scenario(plan, (4, 1, 64), box(4, **small)))) == (
        "job j: its GPUs on node box.0 offload 11.3 GB to host memory, which holds 5 GB; offload less, take more "
        "nodes, or state a larger host_memory capacity"
    )
    assert "holds 10 GB (2 sockets)" in refused(checked(scenario(plan, (4, 1, 64), box(4, **two))))
    played(checked(scenario(plan | {"zero": 1}, (4, 1, 64), box(4, **small))))
    played(scenario(plan, (4, 1, 64), box(4, **small)))  # assume.memory: unchecked


def test_drives_must_hold_it_too() -> None:
    drive = {"capacity": "2 GB", "read": "7 GB/s", "write": "5 GB/s"}
    plan = {"offload": {"optimizer": "nvme"}}
    assert "offload 2.83 GB to nvme, which holds 2 GB" in refused(checked(scenario(plan, (1, 1, 64), box(nvme=drive))))
    assert "larger nvme capacity" in refused(checked(graph(1, plan)))
    assert played(checked(graph(3, plan | {"zero": 2}))).step.seconds > 0.0


def test_a_way_out_that_the_host_cannot_hold_is_none() -> None:
    """A model too large for the card: offloading the optimizer would do, where there is memory for it."""
    big = {"define": {"gpus": {"toy": TOY_GPU | {"usable_memory": "2 GB"}}, "models": {"toy": TOY_MODEL},
                      "links": scenario({})["define"]["links"]}}  # fmt: skip
    roomy, small = ({"host_memory": {"capacity": size}} for size in ("64 GB", "1 GB"))
    found = [refused(checked(scenario({"recompute": "full"}, (1, 1, 64), box(**m), **big))) for m in (roomy, small)]
    assert "offload: {optimizer: host} would fit" in found[0]
    assert "no recomputation, sharding, offloading or smaller micro-batch is enough" in found[1]


def test_capacities_of_a_node() -> None:
    topology: Topology = topology_of(resolved(scenario({}, node=box(2, sockets=2, socket_link="upi", nvme=DRIVE))))
    assert topology.host_capacity(0, "memory") == (2, 200e12)
    assert topology.host_capacity(0, "storage") == (1, 100e12)
