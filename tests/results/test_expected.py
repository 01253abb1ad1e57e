"""The error a result states of itself: its own group where that was measured, else the nearest, and it says which."""

from __future__ import annotations

import pytest

from sim import catalog
from sim.report.answer_words import expected_texts
from sim.results.expected import ACROSS, ALONE, LEAST, MANY, Likeness, expected_error
from sim.results.schema import JobResult

from ..helpers import scenario, simulate, topology


def served(cluster: str, stack: str, **plan: int) -> JobResult:
    load = {"all_at_once": True, "prompt_tokens": 64, "output_tokens": 16, "requests": 8}
    (job,) = simulate(scenario(topology(cluster), {"load": load, "plan": plan}, stack=stack)).result.jobs
    return job


def rate(gpu: str, stack: str, split: str = "one GPU", load: str = MANY) -> Likeness:
    return Likeness(gpu, stack, "throughput", split, load, rhythm="closed loop")


def trained(gpu: str, stack: str) -> Likeness:
    return Likeness(gpu, stack, "step time", kind="pretrain")


def test_a_job_of_a_validated_group_has_its_error() -> None:
    found = expected_error(rate("h100-sxm", "trtllm", "tp"))
    assert found is not None
    row = next(row for row in catalog.validation_errors() if row["group"] == "h100-sxm / trtllm / offline, tp")
    assert (found.group, found.validated, found.unlike) == (row["group"], True, [])
    assert (found.rows, found.median, found.bias) == (int(row["rows"]), float(row["median"]), float(row["bias"]))


@pytest.mark.parametrize(
    ("job", "group", "unlike"),
    [
        (rate("rtx4090", "vllm", "pp"), "rtx4090 / vllm / closed loop", ["split over GPUs"]),
        (rate("h100-sxm", "generic", "tp"), "h100-sxm / trtllm-0.14 / offline, tp", ["engine"]),
        (rate("rtx3090", "vllm", "tp"), "rtx4090 / vllm / closed loop", ["GPU", "split over GPUs"]),
        (rate("h200-sxm", "trtllm", "tp"), "h200-sxm / trtllm / offline, tp", []),
        (rate("l40s", "trtllm", "tp"), "l40s / trtllm-0.9 / static batch, tp", ["version"]),
        (trained("v100-sxm-32gb", "nemo-2025"), " / nemo-2025 / pretrain", ["GPU"]),
    ],
)
def test_others_name_the_nearest_group_and_in_what_they_differ(job: Likeness, group: str, unlike: list[str]) -> None:
    found = expected_error(job)
    assert found is not None
    assert found.validated == (not unlike)
    assert group in found.group
    assert found.unlike == unlike
    assert found.rows >= LEAST


@pytest.mark.parametrize(
    "job",
    [
        rate("rtx3090", "sglang", "pp"),  # measured on this card: one stream of llama.cpp only
        rate("rtxa6000", "llama.cpp"),  # a stream alone says nothing of thirty users
        rate("rtx3090", "sglang", "tp"),  # others' tensor ranks on other cards do not count
        rate("h100-sxm", "trtllm", "tp", ALONE),
        trained("v100-sxm-32gb", "generic"),
    ],
)
def test_runs_that_share_too_little_are_not_quoted(job: Likeness) -> None:
    assert expected_error(job) is None


def test_of_equals_the_larger_error_is_told() -> None:
    found = expected_error(trained("v100-sxm-32gb", "nemo-2025"))
    assert found is not None
    rows = [row for row in catalog.validation_errors() if row["group"].endswith(" / nemo-2025 / pretrain")]
    assert found.median == max(float(row["median"]) for row in rows if int(row["rows"]) >= LEAST)


def test_a_group_of_one_server_does_not_validate_what_spans_nodes() -> None:
    across = expected_error(rate("h100-sxm", "trtllm", "tp"), never=[ACROSS])
    assert across is not None
    assert not across.validated
    assert across.unlike == [ACROSS]


def test_every_result_carries_it_for_throughput_and_for_the_first_token() -> None:
    home = served("home_8x4090_10gbe", "vllm", pp=8)
    first = home.expected_ttft_error
    assert home.expected_error is not None
    assert first is not None
    assert (home.expected_error.validated, home.expected_error.group) == (False, "rtx4090 / vllm / closed loop")
    assert (first.of, first.group) == ("TTFT", "rtx4090 / vllm / closed loop, TTFT")
    server = served("dgx_h100_8", "trtllm", tp=8)
    assert server.expected_error is not None
    assert server.expected_error.validated


def test_its_words_say_which_way_and_of_what() -> None:
    home = served("home_8x4090_10gbe", "vllm", pp=8)
    rates, first = expected_texts(home)
    assert rates.startswith("throughput: unvalidated; nearest: 12.8% median, 20% p90, too fast by 12.8% (")
    assert rates.endswith("alike in GPU, engine and load, not in split over GPUs and network between nodes)")
    assert first.startswith("TTFT: unvalidated; nearest: 38.6% median, 81% p90, too short by 22.7% (")
    half = home.model_copy(update={"expected_ttft_error": None})
    assert expected_texts(half)[1] == "TTFT: unvalidated; nothing near it was measured"
    bare = half.model_copy(update={"expected_error": None})
    assert expected_texts(bare) == ["unvalidated; nothing near it was measured"]
