"""Recorded faults: what is read, in which order, and every bad line with its number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sim.adapters import fault_traces
from sim.adapters.fault_traces import read_fault_trace
from sim.errors import InputError

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def writer(content: str | bytes) -> Path:
        path = tmp_path / "faults.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return writer


def problems(path: Path) -> dict[int | None, str]:
    """What is wrong, by line."""
    with pytest.raises(InputError) as caught:
        read_fault_trace(path)
    assert all(problem.file == str(path) for problem in caught.value.problems)
    return {problem.line: problem.message for problem in caught.value.problems}


def test_faults_come_in_order_of_time(write: Write) -> None:
    found = read_fault_trace(write("time,class,unit\n3 h,gpu,7\n60,switch,1\n0,gpu,3\n2.5e3,gpu,0\n"))
    assert found == ((0.0, "gpu", 3), (60.0, "switch", 1), (2500.0, "gpu", 0), (10_800.0, "gpu", 7))


def test_faults_at_one_instant_are_all_kept(write: Write) -> None:
    assert read_fault_trace(write("time,class,unit\n5,b,1\n5,a,2\n5,b,1\n")) == (
        (5.0, "a", 2), (5.0, "b", 1), (5.0, "b", 1),
    )  # fmt: skip


def test_units_of_time(write: Write) -> None:
    found = read_fault_trace(write("time,class\n250 ms,a\n1 min,a\n2 days,a\n1 week,a\n"))
    assert [time for time, _, _ in found] == [0.25, 60.0, 172_800.0, 604_800.0]


def test_columns_in_any_order_and_others_ignored(write: Write) -> None:
    found = read_fault_trace(write('\ufeffnote, Class ,TIME\r\n"a, b",nic,10\r\n,,20\r\n'))
    assert found == ((10.0, "nic", 0), (20.0, "any", 0))


def test_a_cluster_on_which_nothing_failed(write: Write) -> None:
    assert read_fault_trace(write("time,class\n")) == ()


@pytest.mark.parametrize(
    ("header", "lacks"),
    [("time,unit", "class"), ("class", "time"), ("when,what", "class and time"), ("", "class and time")],
)
def test_missing_columns(write: Write, header: str, lacks: str) -> None:
    assert problems(write(f"{header}\n1,2,3\n")) == {1: f"lacks the column {lacks}"}


def test_every_bad_line_is_named(write: Write) -> None:
    found = problems(
        write(
            "time,class,unit\n1,gpu,0\nsoon,gpu,0\n-5,gpu,0\n3 parsecs,gpu,0\n,gpu,0\n7\nnan,gpu,0\n1e15,gpu,0\n"
            "8,gpu,first\n9,gpu,-1\n10,a b,0\n11,<b>,0\n12,gpu,3\n"
        )
    )
    assert sorted(found, key=str) == sorted([3, 4, 5, 6, 8, 9, 10, 11, 12, 13], key=str)
    assert found[6] == "not a fault: it has no time"
    assert "parsecs" in found[5]
    assert "-5" in found[4]
    assert found[10] == "not a fault: unit 'first' is not a number of a unit (0, 1, ...)"
    assert found[13].startswith("not a fault: class '<b>' is not letters")


def test_not_more_than_20_problems(write: Write) -> None:
    assert len(problems(write("time,class\n" + "x,gpu\n" * 100))) == 20


def test_more_faults_than_can_be_meant(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fault_traces, "MAX_ROWS", 10)
    assert len(read_fault_trace(write("time,class\n" + "1,gpu\n" * 10))) == 10
    assert problems(write("time,class\n" + "1,gpu\n" * 50)) == {12: "more than 10 faults"}


@pytest.mark.parametrize("content", [b"time,class\n\xff\xfe,gpu\n", b"time,class\n1," + b"x" * 200_000 + b"\n"])
def test_what_is_no_csv(write: Write, content: bytes) -> None:
    ((line, what),) = problems(write(content)).items()
    assert line is None
    assert what.startswith("cannot be read as a CSV of faults")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert problems(tmp_path / "none.csv") == {None: "no such fault trace"}
    assert problems(tmp_path) == {None: "no such fault trace"}
