"""The design's own prediction of the flagship and its rivals, under the design's own settings.

SERVING_MODEL section 6 simulated the same pipelines with a separate prototype; it took a mixed-attention
penalty of 2, 1.5 ms of host a pass, 0.3 ms a message, prompts in pieces of 64 tokens, and 135 sequences.
"""

from __future__ import annotations

from typing import Any

import pytest

from .helpers import scenario, simulate, tokens_per_s, topology

PROTOTYPE = {
    "like": "vllm", "mixed_attention_penalty": 2.0, "host_per_step": "1.5 ms", "host_per_pipeline_pass": "0 ms",
}  # fmt: skip


def saturated(cluster: str, clients: int, ramp: str, requests: int, **job: Any) -> float:
    load = {"closed_loop": {"clients": clients, "ramp": ramp}, "prompt_tokens": 512, "output_tokens": 512,
            "requests": requests}  # fmt: skip
    stack = job.pop("stack", "prototype")
    return tokens_per_s(
        simulate(
            scenario(
                topology(cluster),
                {"load": load, **job},
                stack=stack,
                define={"stacks": {"prototype": PROTOTYPE}},
                assume={"kv_capacity": "unchecked"} if stack == "prototype" else {},
            )
        )
    )


@pytest.mark.parametrize(("cluster", "tokens"), [("home_8x4090_1gbe", 496), ("home_8x4090_10gbe", 682)])
def test_home_pipeline(cluster: str, tokens: float) -> None:
    found = saturated(cluster, 135, "100 s", 700, plan={"pp": 8}, batching={"prefill_chunk": 64})
    assert found == pytest.approx(tokens, rel=0.12)


def test_one_server_of_4090_is_bound_by_pcie() -> None:
    assert saturated("server_8x4090_pcie", 135, "100 s", 700, plan={"tp": 8}) == pytest.approx(613, rel=0.15)


def test_eight_h100() -> None:
    found = saturated("dgx_h100_8", 2000, "100 s", 8000, plan={"tp": 8}, stack="trtllm")
    assert found == pytest.approx(10_600, rel=0.15)
