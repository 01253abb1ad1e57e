"""Values of vLLM's arguments: formats of numbers by their names there, and counts as people write them."""

from __future__ import annotations

import re
from typing import Any, Final

#: vLLM's formats of weights.
QUANTIZATION: Final = {
    "awq": "int4", "awq_marlin": "int4", "gptq": "int4", "gptq_marlin": "int4", "marlin": "int4",
    "bitsandbytes": "int4", "fp8": "fp8", "fbgemm_fp8": "fp8", "ptpc_fp8": "fp8", "modelopt": "fp8",
    "modelopt_fp4": "fp4", "nvfp4": "fp4", "petit_nvfp4": "fp4", "experts_int8": "int8", "tpu_int8": "int8",
}  # fmt: skip
DTYPES: Final = {"half": "fp16", "float16": "fp16", "bfloat16": "bf16"}
KV_DTYPES: Final = {
    "auto": None, "float16": "fp16", "bfloat16": "bf16", "fp8": "fp8", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8",
    "int8": "int8",
}  # fmt: skip
_UNITS: Final = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}


def count(value: Any) -> int:
    """A whole number, 1 or more, also as people write it: 8k is 8,000 and 8K 8,192."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMgG]?)", str(value).strip())
    if found is None or isinstance(value, bool):
        raise ValueError(value)
    number = float(found[1]) * _UNITS.get(found[2], 1)
    if number < 1 or number != int(number):
        raise ValueError(value)
    return int(number)


def flag(value: Any) -> bool:
    """Yes or no."""
    if str(value).casefold() in ("true", "false"):
        return str(value).casefold() == "true"
    raise ValueError(value)


def share(value: Any) -> float:
    """A share above 0."""
    if not 0.0 < float(value) <= 1.0:
        raise ValueError(value)
    return float(value)


def modules(value: Any) -> list[str]:
    """Names of adapters, at least one."""
    found = [str(module) for module in (value if isinstance(value, list) else [value]) if module]
    if not found:
        raise ValueError(value)
    return found
