"""Lines and tables that fit the terminal they go to; a file has no width."""

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.report.screen import FILE, NARROWEST, Screen, screen

HEAD = ["point", "max_batched_tokens", "tokens a second", "TTFT p50", "state"]
ROWS = [
    HEAD,
    ["1", "64", "1,310 [1,270, 1,350]", "1.95 s", "stable"],
    ["12", "128", "318", "1.04 s", "overloaded: requests come faster than they are answered"],
]
NUMBERS = ["1,310 [1,270, 1,350]", "1.95 s", "318", "1.04 s", "64", "128"]


def table(columns: int | None) -> list[str]:
    return Screen(columns).table(ROWS, left=(-1,))


def test_a_file_has_lines_as_long_as_they_are():
    assert len(table(None)) == len(ROWS)
    assert FILE.prose("a " * 200) == "a " * 200
    assert max(map(len, FILE.prose("a " * 200, 100).splitlines())) <= 100


@pytest.mark.parametrize("columns", [40, 50, 60, 80, 100, 120])
def test_a_table_fits_the_terminal_and_breaks_no_number(columns: int):
    lines = table(columns)
    assert max(map(len, lines)) <= columns
    for number in NUMBERS:
        assert any(number in line for line in lines), number
    words = " ".join(lines).split()
    for word in ["overloaded:", "requests", "come", "faster", "than", "they", "are", "answered", "max_batched_tokens"]:
        assert word in words


def test_blocks_of_columns_begin_with_the_keys():
    lines = Screen(40).table(ROWS, left=(-1,), keys=1)
    blocks = "\n".join(lines).split("\n\n")
    assert len(blocks) > 1
    assert all(block.split()[0] == "point" for block in blocks)


def test_prose_does_not_part_numbers_from_units_or_intervals():
    text = "throughput 424 tok/s [266, 582] at 0.78 USD/Mtok, TTFT 14.2 s"
    for columns in range(40, 60):
        lines = Screen(columns).prose(text).splitlines()
        assert max(map(len, lines)) <= columns
        for whole in ("424 tok/s", "[266, 582]", "0.78 USD/Mtok", "14.2 s"):
            assert any(whole in line for line in lines), (columns, whole)


@given(
    st.lists(st.tuples(*[st.from_regex(r"[a-z0-9]{0,12}", fullmatch=True)] * 6), min_size=1, max_size=5),
    st.integers(40, 90),
)
def test_every_cell_is_told_at_any_width(rows: list[tuple[str, ...]], columns: int):
    lines = Screen(columns).table(rows, heads=0)
    assert max(map(len, lines)) <= columns
    told = re.findall(r"\S+", "\n".join(lines))
    for cell in (cell for row in rows for cell in row if cell):
        assert cell in told


def test_what_is_no_terminal_has_no_width_unless_one_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert screen() == FILE
    monkeypatch.setenv("COLUMNS", "90")
    assert screen() == Screen(90)
    monkeypatch.setenv("COLUMNS", "7")
    assert screen() == Screen(NARROWEST)
