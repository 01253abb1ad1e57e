"""Reading the tables of ``docs/article.md``."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping

from .article import Figure
from .helpers import ROOT

PAGE = ROOT / "docs" / "article.md"
DATA = ROOT / "tests" / "data"
TOLERANCE = 0.03


def table(name: str) -> dict[str, dict[str, str]]:
    """Rows of the article's claims by id: the value recomputed from the article's premises, and the verdict."""
    with (DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def cells(first: str) -> dict[str, list[str]]:
    """The page's table rows whose first cell matches, by that cell."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in rows if re.fullmatch(first, row[0])}


def shows(cell: str, value: float) -> bool:
    """Whether a cell's first number is the value, to its last digit or half a percent."""
    found = re.search(r"\d[\d,]*(?:\.(\d+))?", cell)
    assert found is not None, f"no number in '{cell}'"
    half = 0.5 * 10.0 ** -len(found[1] or "")
    return abs(float(found[0].replace(",", "")) - value) <= max(half * 1.001, 0.005 * abs(value))


PRINTED = cells(r"[A-Z]+-\d+")


def says_what_runs_say(
    row: str, claim: Mapping[str, str], ideal: Mapping[str, Figure], measured: Mapping[str, Figure]
) -> None:
    """Columns: claim, the article's number, recomputed, simulator (ideal), measured stack, verdict."""
    _, _, recomputed, simulated, real, verdict = PRINTED[row]
    if claim["recomputed_value"]:
        assert shows(recomputed, float(claim["recomputed_value"]))
    else:
        assert recomputed == "–"
    if row in ideal:
        assert shows(simulated, ideal[row]()), f"{simulated}, not {ideal[row]()}"
    if row in measured:
        assert shows(real, measured[row]()), f"{real}, not {measured[row]()}"
    else:
        assert real == "–"
    assert verdict == claim["verdict"]
