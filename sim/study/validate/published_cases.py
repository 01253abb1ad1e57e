"""Published single points as cases: what the best or a cubic matrix product reaches, and plateaus of collectives.

Columns kind, hw, config, metric, value, unit (docs/validation.md). Points of links, of software that has no law, or
whose machine is not described well enough to build are set aside.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from sim.study.validate.cases import COLLECTIVES, GEMM, GEMM_8, Case
from sim.study.validate.cells import Cells, number
from sim.study.validate.common import NoPrediction
from sim.study.validate.kernel_laws import Exchange, Product

#: Cards as points call them -> catalogue id.
GPUS: Final = {
    "A100-PCIe": "a100-pcie-80gb", "A100-SXM": "a100-sxm-80gb", "B200": "b200-sxm", "GB200": "gb200",
    "GH200": "gh200-96gb", "H100-SXM": "h100-sxm", "H200-SXM": "h200-sxm", "MI300X": "mi300x", "MI325X": "mi325x",
    "MI355X": "mi355x", "RTX4090": "rtx4090", "RTX5090": "rtx5090",
}  # fmt: skip
#: Width of a product that stands for the best of many shapes.
LARGE: Final = 16_384
PLATEAU: Final = 8 * 1024.0**3
TERA: Final = 1e12

_PRODUCT = re.compile(r"(?:mamf|matmul)_(bf16|fp16|fp8)$")
_CUBE = re.compile(r"(\d+)\^3$")
_SERVER = re.compile(r"(\d+)x (.+)$")


def published_case(table: str, line: int, cells: Cells) -> Case:
    """One point with what the laws say of it, or why they say nothing."""
    family = GEMM_8 if cells["kind"].endswith("fp8") else COLLECTIVES if "nccl" in cells["kind"] else GEMM
    bare = Case(table, f"{table}-{line}", family, cells.get("source", ""))
    try:
        group, predicted = _told(cells)
    except NoPrediction as reason:
        return replace(bare, reason=str(reason))
    measured = number(cells, "value")
    return replace(bare, group=group, metric="rate", unit=cells["unit"], measured=measured, predicted=predicted)


def _told(cells: Cells) -> tuple[str, float]:
    """Group and prediction, in the unit of the point."""
    product = _PRODUCT.match(cells["kind"])
    if product:
        gpu = _gpu(cells["hw"])
        cube = _CUBE.match(cells["config"])
        if cube is None and cells["config"] != "best shape":
            raise NoPrediction(f"shape '{cells['config']}' is not clear")
        width = int(cube[1]) if cube else LARGE
        seconds = Product(gpu, product[1], width, width, width, quantised=False).seconds()
        return f"{gpu} / published / matrix products", 2.0 * width**3 / seconds / TERA
    server = _SERVER.match(cells["hw"])
    if cells["kind"] == "nccl_busbw" and server and server[2].endswith(("-SXM", "B200")):
        gpu, members = _gpu(server[2]), int(server[1])
        seconds = Exchange(gpu, members, PLATEAU).seconds()
        return f"{gpu} / published / collectives", 2 * (members - 1) / members * PLATEAU / seconds / 1e9
    raise NoPrediction("a point of a link, an engine or a machine that no law here is for")


def _gpu(name: str) -> str:
    if name not in GPUS:
        raise NoPrediction(f"GPU {name} is not in the catalogue")
    return GPUS[name]
