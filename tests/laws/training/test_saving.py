"""How long a checkpoint takes: its bytes, and the links and drives it goes over.

Two servers of 8 A100 with a 200 Gbit/s card a GPU and a drive of 5 GB/s; Llama 3 8B, 14 bytes a parameter.
"""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from sim.adapters.lookup import Library
from sim.adapters.resolve import ResolvedTraining
from sim.errors import InfeasibleError
from sim.jobs.training.build import Builder
from sim.laws.arrange import layouts, topology_of
from sim.laws.training.layout import TrainingLayout
from sim.laws.training.saving import SavingTimes, checkpoint_bytes, saving_times

from ...helpers import resolved
from ...jobs.training.helpers import desktops, servers, training

LIBRARY = Library()
PARAMETERS = LIBRARY.model("llama-3-8b").parameters
SIZE = 14.0 * PARAMETERS
NVME = {"capacity": "4 TB", "read": "7 GB/s", "write": "5 GB/s"}
TWO = servers("a100-sxm-80gb", 2, "nvlink3", "infiniband-hdr", nvme=NVME)
ONE = servers("a100-sxm-80gb", 1, "nvlink3", "infiniband-hdr", nvme=NVME)
CARD = 25e9 * 0.96
FILER = {"to": {"write": "1.25 GB/s", "read": "2.5 GB/s"}}  # one port of 10 GbE
FAST = {"to": {"write": "2 TB/s"}}

Says = dict[str, Any]


def job(checkpoint: Says, plan: Says | None = None, cluster: Says | None = None, **keys: Any) -> Builder:
    described = training(
        cluster or TWO, plan or {"tp": 8, "dp": 2}, (16, 1, 1024), checkpoint={"every": "10 min", **checkpoint},
        run={"steps": 1000}, **keys,
    )  # fmt: skip
    found = resolved(described)
    topology = topology_of(found)
    (layout,), (made,) = layouts(found, topology), found.jobs
    assert isinstance(layout, TrainingLayout)
    assert isinstance(made, ResolvedTraining)
    return Builder(found, made, topology, layout.ranks)


def times(checkpoint: Says, plan: Says | None = None, cluster: Says | None = None, **keys: Any) -> SavingTimes:
    made = job(checkpoint, plan, cluster, **keys)
    return saving_times(made.job.model, made.job.spec, made.ranks, made.topology, made.network)


# ---- bytes


@pytest.mark.parametrize(
    "plan", [{"tp": 8, "dp": 2}, {"dp": 16, "zero": 1}, {"dp": 16, "zero": 3}, {"tp": 2, "pp": 4, "dp": 2},
             {"tp": 8, "cp": 2}, {"tp": 4, "pp": 2, "vpp": 2, "dp": 2}],
)  # fmt: skip
def test_a_checkpoint_is_14_bytes_a_parameter_however_it_is_cut(plan: Says) -> None:
    """Weights 2, master copies and Adam's two states 12; what replicas share is written once."""
    assert times(FILER, plan).size == pytest.approx(SIZE, rel=1e-6)


def test_experts_are_all_saved() -> None:
    found = times(FILER, {"dp": 16, "ep": 8, "zero": 1}, model="mixtral-8x7b")
    assert found.size == pytest.approx(14 * LIBRARY.model("mixtral-8x7b").parameters, rel=1e-6)


@pytest.mark.parametrize(
    ("keys", "each"), [({"optimizer": "sgd-momentum"}, 2 + 8), ({"precision": {"compute": "fp32"}}, 4 + 8)]
)
def test_optimizers_keep_what_they_keep(keys: Says, each: float) -> None:
    assert times(FILER, **keys).size == pytest.approx(each * PARAMETERS, rel=1e-6)


def test_stated_bytes_replace_what_is_known() -> None:
    assert times({**FILER, "bytes_per_parameter": 9.14}).size == pytest.approx(9.14 * PARAMETERS, rel=1e-6)


def test_only_what_is_trained_is_saved() -> None:
    found = times(FILER, {"dp": 16}, finetune={"method": "lora", "rank": 16})
    assert 0 < found.size < SIZE / 50


def test_an_assumed_number_of_parameters_scales() -> None:
    made = job(FILER)
    assert checkpoint_bytes(made.job.model, made.job.spec, 2.0) == pytest.approx(2 * SIZE, rel=1e-6)


# ---- seconds


def test_a_filer_behind_10_gigabit_takes_what_it_takes() -> None:
    """However many nodes write."""
    found = times(FILER)
    assert found.blocking == pytest.approx(SIZE / 1.25e9)
    assert found.load == pytest.approx(SIZE / 2.5e9)
    assert times({"to": {"write": "1.25 GB/s"}}).load == pytest.approx(SIZE / 1.25e9)  # it reads as it writes
    assert (found.persist, found.stretch) == (0.0, 1.0)


def test_a_fast_store_takes_what_the_cards_give() -> None:
    found = times(FAST)
    assert found.blocking == pytest.approx(SIZE / (16 * CARD))
    assert found.load == pytest.approx(SIZE / (16 * CARD))
    assert times({**FAST, "sharded": False}).blocking == pytest.approx(SIZE / (8 * CARD))  # one replica: one node


def test_each_node_writes_to_its_own_drive() -> None:
    found = times({"to": "nvme"})
    assert found.blocking == pytest.approx(SIZE / (2 * 5e9))
    assert found.load == pytest.approx(SIZE / (2 * 7e9))
    assert times({"to": "nvme", "sharded": False}).blocking == pytest.approx(SIZE / 5e9)


def test_from_filer_to_drives_to_memory_it_gets_faster() -> None:
    """What stands still, and what is durable."""
    found = [times(c) for c in (FILER, {"to": "nvme"}, {"mode": "memory"})]
    still = [f.blocking for f in found]
    durable = [f.blocking + f.persist for f in found]
    assert still == sorted(still, reverse=True)
    assert durable == sorted(durable, reverse=True)
    assert still[0] > 5 * still[1] > 25 * still[2]


def test_beside_the_work_only_the_copy_to_the_host_stands_still() -> None:
    made = job({**FILER, "mode": "async"})
    found = times({**FILER, "mode": "async"})
    assert found.blocking == pytest.approx(SIZE / 16 / made.network.host.way("to host", 0).cap)
    assert found.persist == pytest.approx(times(FILER).blocking)
    assert found.blocking < found.persist / 50
    assert found.load == times(FILER).load


def test_the_memory_of_a_peer_is_as_far_as_the_cards() -> None:
    found = times({"mode": "memory"})
    assert found.persist == pytest.approx(SIZE / (16 * CARD))
    assert found.load == pytest.approx(SIZE / (16 * CARD))
    assert found.blocking == times({**FILER, "mode": "async"}).blocking


def test_writing_takes_its_share_of_the_cards() -> None:
    """1/(1 - x): little of them to a slow filer, a half at most, none to a node's own drives."""
    share = 1.25e9 / (16 * CARD)
    assert times({**FILER, "mode": "async"}).stretch == pytest.approx(1 / (1 - share))
    assert times({**FAST, "mode": "async"}).stretch == pytest.approx(2.0)
    assert times({"to": "nvme", "mode": "async"}).stretch == 1.0


def test_stated_times_replace_what_follows_from_links() -> None:
    assert times({"blocking": "30 s"}).blocking == 30.0
    found = times({**FILER, "mode": "async", "blocking": "6 s"})
    assert (found.blocking, found.persist) == (6.0, pytest.approx(SIZE / 1.25e9))
    found = times({**FILER, "mode": "async", "blocking": "6 s", "persist": "40 s"})
    assert (found.blocking, found.persist) == (6.0, 40.0)
    assert times({"mode": "async", "blocking": "6 s"}).persist == 0.0  # to nowhere in particular


# ---- refusals


def test_drives_that_are_not_there() -> None:
    with pytest.raises(InfeasibleError, match="the nodes have none"):
        times({"to": "nvme"}, cluster=servers("a100-sxm-80gb", 2, "nvlink3", "infiniband-hdr"))
    with pytest.raises(InfeasibleError, match="the nodes have none"):
        times({"to": "nvme"}, {"dp": 4}, desktops(*["rtx4090"] * 4))


def test_a_node_alone_has_no_peer() -> None:
    with pytest.raises(InfeasibleError, match="on one node"):
        times({"mode": "memory"}, {"tp": 8}, ONE)
    assert times({"to": "nvme"}, {"tp": 8}, ONE).blocking < inf
