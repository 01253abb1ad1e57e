"""What NVIDIA's tools call a GPU, and which catalogue entries that may be.

Three ways to know one: the name of ``nvidia-smi -L``, the PCI device id and the compute capability (``sm``) of
NCCL's topology XML. Device ids are those of the PCI ID Repository (pci.ids), compute capabilities those of NVIDIA's
"CUDA GPUs" list. A capability alone usually leaves several cards, so it is the last resort.
"""

from __future__ import annotations

import re

#: Names of ``nvidia-smi -L`` that differ from the catalogue's in more than vendor and punctuation.
_DRIVER_NAMES = {
    "h100 80gb hbm3": "h100-sxm",
    "h100 hbm3": "h100-sxm",
    "h200": "h200-sxm",
    "h800": "h800-sxm",
    "a100 80gb pcie": "a100-pcie-80gb",
    "b200": "b200-sxm",
    "b300": "b300-sxm",
    "b300 sxm6 ac": "b300-sxm",
    "gb200": "gb200",
    "gh200 480gb": "gh200-96gb",  # the size of the CPU's memory
    "gh200 120gb": "gh200-96gb",
    "rtx 6000 ada generation": "rtx6000ada",
    "rtx pro 6000 blackwell server edition": "rtxpro6000",
}

_DEVICES = {
    0x1DB5: "v100-sxm-32gb", 0x1EB8: "t4",
    0x20B0: "a100-sxm-40gb", 0x20B2: "a100-sxm-80gb", 0x20B5: "a100-pcie-80gb", 0x20F1: "a100-pcie-40gb",
    0x20F3: "a800-sxm-80gb", 0x2203: "rtx3090ti", 0x2204: "rtx3090", 0x2230: "rtxa6000", 0x2235: "a40",
    0x2236: "a10", 0x2237: "a10g", 0x2324: "h800-sxm", 0x2330: "h100-sxm", 0x2331: "h100-pcie", 0x2335: "h200-sxm",
    0x2684: "rtx4090", 0x2685: "rtx4090d", 0x26B1: "rtx6000ada", 0x26B5: "l40", 0x26B9: "l40s", 0x27B8: "l4",
    0x2901: "b200-sxm", 0x2B85: "rtx5090",
}  # fmt: skip

_CAPABILITIES = {
    70: ("v100-sxm-32gb",),
    75: ("t4",),
    80: ("a100-sxm-80gb", "a100-sxm-40gb", "a100-pcie-80gb", "a100-pcie-40gb", "a800-sxm-80gb"),
    86: ("rtx3090", "rtx3090ti", "rtxa6000", "a40", "a10", "a10g"),
    89: ("rtx4090", "rtx4090d", "rtx6000ada", "l40", "l40s", "l4"),
    90: ("h100-sxm", "h100-sxm-96gb-500w", "h100-pcie", "h100-nvl", "h200-sxm", "h800-sxm", "h20", "gh200-96gb"),
    100: ("b200-sxm", "gb200"),
    103: ("b300-sxm",),
    120: ("rtx5090", "rtxpro6000"),
}  # fmt: skip


def by_name(name: str) -> tuple[str, ...]:
    """The catalogue GPU that ``nvidia-smi -L`` calls ``name``; empty if it is none."""
    from sim import catalog

    words = _words(name)
    known = _DRIVER_NAMES.get(" ".join(words))
    if known is not None:
        return (known,)
    bare = "".join(words)
    return tuple(
        gpu for gpu in catalog.names("gpu")
        if bare in ("".join(_words(gpu)), "".join(_words(str(catalog.raw("gpu", gpu)["name"]))))
    )  # fmt: skip


def by_device(device: str) -> tuple[str, ...]:
    """The catalogue GPU of a PCI device id such as ``0x2330``; empty if it is not known."""
    found = _DEVICES.get(int(device, 16)) if re.fullmatch(r"(0x)?[0-9a-fA-F]{1,4}", device) else None
    return (found,) if found else ()


def by_capability(sm: str) -> tuple[str, ...]:
    """The catalogue GPUs of a compute capability such as ``90``."""
    return _CAPABILITIES.get(int(sm), ()) if re.fullmatch(r"[0-9]{1,4}", sm) else ()


def _words(name: str) -> list[str]:
    """The words of a name without its maker: 'NVIDIA A100-SXM4-80GB' -> a100, sxm4, 80gb."""
    words = re.findall(r"[a-z0-9]+", name.casefold())
    return [word for word in words if word not in ("nvidia", "tesla", "geforce")]
