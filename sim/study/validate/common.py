"""What the mappings of all tables share: the catalogue, names, how servers are built."""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from sim.adapters.lookup import Library

#: GPUs of a server.
SERVER: Final = 8
#: Memory of each socket of an NVLink server: eight channels of DDR4-3200, copies at 70% (judged).
SERVER_MEMORY: Final = {"capacity": "1 TB", "bandwidth": "140 GB/s"}
#: NVLink (or what a maker has in its place) through a switch, by GPU id.
NVLINKS: Final = {
    "a100-sxm-40gb": "nvlink3", "a100-sxm-80gb": "nvlink3", "a800-sxm-80gb": "nvlink3-a800", "b200-sxm": "nvlink5",
    "b300-sxm": "nvlink5", "gb200": "nvlink5", "h100-sxm": "nvlink4", "h100-sxm-96gb-500w": "nvlink4",
    "h200-sxm": "nvlink4", "h800-sxm": "nvlink4-h800", "mi300x": "infinity-fabric", "mi325x": "infinity-fabric",
    "mi355x": "infinity-fabric",
}  # fmt: skip


class NoPrediction(Exception):  # noqa: N818 (it is an answer)
    """Why a row has no scenario, and no law tells it."""


@cache
def catalogue() -> Library:
    """The catalogue alone, as every row is predicted with."""
    return Library()


def slug(text: str) -> str:
    """A name of letters, digits and . _ + - only."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-._+")[:80] or "row"
