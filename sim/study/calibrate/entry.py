"""What was found as a catalogue entry: a ``define:`` block that a scenario can take, with its source and errors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sim import __version__
from sim.spec.hardware import Fabric, KernelConstants
from sim.spec.stack import Stack
from sim.study.calibrate.schema import PartErrors, TableFile
from sim.study.calibrate.servings import FACTORS, HOST
from sim.study.validate.cases import Case
from sim.study.validate.schema import Errors

#: Most tables named in a source, which is a text of bounded length.
NAMED: Final = 20


def provenance(tables: Iterable[tuple[Path, list[Case]]], used: Sequence[Case]) -> tuple[TableFile, ...]:
    """The files that the rows came from, each with the SHA-256 of its bytes."""
    wanted = {id(case) for case in used}
    found = []
    for path, cases in tables:
        rows = sum(id(case) in wanted for case in cases)
        if rows:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found.append(TableFile(name=path.name, sha256=digest, rows=rows))
    return tuple(found)


def source_of(tables: Sequence[TableFile]) -> str:
    """Where the numbers come from, in words."""
    named = [f"{table.name} ({table.rows} rows, sha256 {table.sha256})" for table in tables[:NAMED]]
    more = [f"{len(tables) - NAMED} more"] if len(tables) > NAMED else []
    return f"sim calibrate {__version__}: {', '.join([*named, *more])}"


def stack_entry(
    name: str, stack: Stack, gpu: str, part: PartErrors, tables: Sequence[TableFile]
) -> dict[str, Any]:  # fmt: skip
    """The stack under ``name``, like its own, with the constants found on this GPU.

    All factors are written where the catalogue's stack has any on this GPU, which would else show through.
    """
    fitted = {constant.name: constant.value for constant in part.constants if constant.fitted}
    factors = {name: value for name, value in fitted.items() if name in FACTORS}
    if gpu in stack.gpus:
        own = {name: factors.get(_common(name), getattr(stack, _common(name))) for name in FACTORS}
        factors = {**own, **factors}
    host = {name: time_text(value) for name, value in fitted.items() if name in HOST}
    on_gpu = {
        **factors, "fitted": list(fitted), "rows": part.rows, "fitted_error": errors_text(part),
        "notes": f"{part.folds} folds by {part.held_out}",
    }  # fmt: skip
    entry = {
        "like": stack.id, **host, "origin": "measured", "source": source_of(tables), "fitted_error": errors_text(part),
        "gpus": {gpu: on_gpu},
    }  # fmt: skip
    return {"define": {"stacks": {name: entry}}}


def _common(name: str) -> str:
    """The factor that one of packed weights is in place of; any other is itself."""
    return name.removeprefix("packed_")


def gpu_entry(
    gpu: str, kernels: KernelConstants, fabrics: Sequence[Fabric], parts: Sequence[PartErrors],
    tables: Sequence[TableFile],
) -> dict[str, Any]:  # fmt: skip
    """The GPU under its own name with these kernels, and the fabrics that its collectives were fitted over."""
    told = "; ".join(f"{part.name} {errors_text(part)}" for part in parts)
    source = source_of(tables)
    whole = [name for name in KernelConstants.model_fields if name not in ("origin", "source", "fitted_error")]
    written = {**kernel_values(kernels, whole), "origin": "measured", "source": source, "fitted_error": told}
    define: dict[str, Any] = {}
    if any(not part.name.startswith("collectives") for part in parts):
        define["gpus"] = {gpu: {"like": gpu, "kernels": written}}
    if fabrics:
        define["fabrics"] = {fabric.id: _fabric(fabric, source, told) for fabric in fabrics}
    return {"define": define}


def _fabric(fabric: Fabric, source: str, told: str) -> dict[str, Any]:
    """A fabric as an entry writes it, complete."""
    data = fabric.model_dump(exclude={"id"}, exclude_none=True)
    times = {name: time_text(data[name]) for name in ("alpha", "step", "bulk_alpha", "bulk_step")}
    return {**data, **times, "origin": "measured", "source": source, "fitted_error": told}


def kernel_values(kernels: KernelConstants, names: Iterable[str]) -> dict[str, Any]:
    """Constants of kernels as an entry writes them."""
    found = {name: getattr(kernels, name) for name in names}
    return {name: time_text(value) if name.endswith("_launch") else value for name, value in found.items()}


def errors_text(part: PartErrors) -> str:
    """The errors of a part in words."""
    return f"{pair(part.fitted)} median/p90; cross-validated {pair(part.cross_validated)}"


def pair(errors: Errors) -> str:
    """Median and 90th percentile."""
    return f"{100 * errors.median_abs_error:.1f}/{100 * errors.p90_abs_error:.1f}%"


def time_text(seconds: float) -> str:
    """Seconds with a unit that reads well, nothing lost of four digits."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.4g} {unit}"
    return f"{seconds / 1e-6:.4g} us"


def entry_text(entry: Mapping[str, Any], heading: Sequence[str]) -> str:
    """The entry as YAML under comments."""
    import yaml

    comments = "".join(f"# {line}\n" for line in heading)
    return comments + yaml.safe_dump(dict(entry), sort_keys=False, allow_unicode=True, width=116)
