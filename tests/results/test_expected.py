"""The error a result states of itself: its own group where that was measured, else the nearest, and it says which."""

from __future__ import annotations

import pytest

from sim import catalog
from sim.results.expected import LEAST, expected_error
from sim.results.schema import JobResult

from ..helpers import scenario, simulate, topology


def served(cluster: str, stack: str, **plan: int) -> JobResult:
    load = {"all_at_once": True, "prompt_tokens": 64, "output_tokens": 16, "requests": 8}
    (job,) = simulate(scenario(topology(cluster), {"load": load, "plan": plan}, stack=stack)).result.jobs
    return job


def test_a_job_of_a_validated_group_has_its_error() -> None:
    found = expected_error(["h100-sxm"] * 4, "trtllm", "tp")
    assert found is not None
    row = next(row for row in catalog.validation_errors() if row["group"] == "h100-sxm / trtllm / offline, tp")
    assert (found.group, found.validated) == (row["group"], True)
    assert (found.rows, found.median, found.p90) == (int(row["rows"]), float(row["median"]), float(row["p90"]))


@pytest.mark.parametrize(
    ("gpu", "stack", "kind", "group"),
    [
        ("rtx4090", "vllm", "pp", "rtx4090 / vllm / "),  # the same stack on the same card
        ("h100-sxm", "generic", "tp", "h100-sxm / "),  # the same card and kind
        ("a40", "trtllm-0.9", "one GPU", "a40 / "),
        ("v100-sxm-32gb", "nemo-2025", "pretrain", "h100-sxm / nemo-2025 / pretrain"),  # the stack elsewhere
        ("v100-sxm-32gb", "generic", "pretrain", " / pretrain"),
    ],
)
def test_others_name_the_nearest_group_as_not_their_own(gpu: str, stack: str, kind: str, group: str) -> None:
    found = expected_error([gpu], stack, kind)
    assert found is not None
    assert not found.validated
    assert group in found.group
    assert found.rows >= LEAST


def test_the_kind_of_most_gpus_decides_and_spanning_nodes_is_never_validated() -> None:
    mixed = expected_error(["rtx4090", "h100-sxm", "h100-sxm"], "trtllm", "tp")
    assert mixed is not None
    assert mixed.group.startswith("h100-sxm / ")
    across = expected_error(["h100-sxm"] * 16, "trtllm", "tp", never=True)
    assert across is not None
    assert not across.validated


def test_every_result_carries_it() -> None:
    home = served("home_8x4090_10gbe", "vllm", pp=8).expected_error
    assert home is not None
    assert (home.validated, home.group.partition(" / ")[0]) == (False, "rtx4090")
    server = served("dgx_h100_8", "trtllm", tp=8).expected_error
    assert server is not None
    assert server.validated
