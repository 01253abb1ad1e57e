"""Refusals of a calibration, and errors of sets of rows, which both kinds of tables share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import isfinite
from typing import Final

from sim.errors import InputError, Problem
from sim.study.calibrate.fit import Constant
from sim.study.calibrate.schema import ConstantFound
from sim.study.calibrate.select import FELT, Found, at_bound
from sim.study.validate.agreement import summary
from sim.study.validate.cases import TIMES
from sim.study.validate.schema import Errors

NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,79}"


def refused(option: str, message: str, suggestion: str | None = None) -> InputError:
    """One line: the option or the verb, and what is wrong."""
    return InputError([Problem(option, None, None, None, message, suggestion)])


def named(text: str) -> str:
    """A name that may be an entry's and a file's. InputError for any other."""
    if not re.fullmatch(NAME, text):
        raise refused("--name", f"'{text[:80]}' must be letters, digits and . _ + - (at most 80)")
    return text


def host_and_port(text: str, default: int) -> tuple[str, int]:
    """HOST, HOST:PORT or [ADDRESS]:PORT. InputError where the port is none."""
    found = re.fullmatch(r"\[([0-9A-Fa-f:.%\w]+)\](?::(\d+))?|([^:\s]+)(?::(\d+))?", text)
    port = int(found[2] or found[4] or default) if found else 0
    if found is None or not 0 < port < 65536:
        raise refused("--peer", f"'{text}' is no HOST or HOST:PORT with a port from 1 to 65535")
    return found[1] or found[3], port


def errors_of(rows: Iterable[tuple[float, float]]) -> Errors:
    """The errors of (predicted, measured), those without a prediction left out."""
    found = summary([predicted / measured - 1 for predicted, measured in rows if isfinite(predicted)])
    return found or Errors(n=0, median_abs_error=0.0, p90_abs_error=0.0, bias=0.0)


def in_unit(seconds: float, unit: str) -> float:
    """A time as a row states it: of a rate one over it."""
    return seconds if unit in TIMES else 1.0 / seconds


def rounded(value: float) -> float:
    """As it is written: four digits."""
    return float(f"{value:.4g}")


def constants_found(constants: Iterable[Constant], found: Found) -> tuple[ConstantFound, ...]:
    """Every constant with its value, or why it was left."""
    told = []
    for j, constant in enumerate(constants):
        fitted = j in found.fitted
        value = rounded(found.values[j]) if fitted else constant.start
        felt = float(max(found.felt[:, j], default=0.0))
        told.append(ConstantFound(
            name=constant.name, before=constant.start, value=value, low=constant.low, high=constant.high, fitted=fitted,
            felt=felt, reason=_reason(constant, value, felt, fitted=fitted),
        ))  # fmt: skip
    return tuple(told)


def _reason(constant: Constant, value: float, felt: float, *, fitted: bool) -> str | None:
    """Why a constant is as it was; of a fitted one whether it is at its bound."""
    if fitted:
        return "at its bound: the rows ask for more" if at_bound(constant, value) else None
    if felt < FELT:
        return "no row feels it"
    return "rows left out are told no better with it, or only beyond its bounds"
