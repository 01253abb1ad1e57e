"""Files of measured tables: which format a file is in, what is refused and where, and what is shipped."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from pathlib import Path

import pytest

from sim.catalog import validation_folder
from sim.errors import InputError
from sim.study.validate.cases import COPIES, DECODE_ATTENTION, FAMILIES, GEMM, PREFILL, TRAINING
from sim.study.validate.causes import why
from sim.study.validate.formats import read_tables
from sim.study.validate.schema import Row

GEMM_TABLE = "gpu,surprise,m,n,k,latency_us\nh100_sxm,!,1,4096,4096,15\nh100_sxm,!,64,4096,4096,16\n"
ALL_REDUCE = "gpu,src,num_gpus,message_size,latency\n"
ATTENTION = "gpu,op,batch_size,s,num_heads,kv,latency_us\n"
VTRAIN = "gpus,global_batch,micro_batch,hidden,heads,layers,seq,tp,dp,pp,measured_iter_ms\n"


def test_columns_tell_the_format_and_unknown_ones_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(GEMM_TABLE)
    (tmp_path / "b.csv").write_text(VTRAIN + "64,512,8,3072,32,30,2048,2,16,2,3566.5\n")
    with gzip.open(tmp_path / "c_generation.csv.gz", "wt", encoding="utf-8") as file:
        file.write("gpu,framework,batch_size,s,num_heads,kv,latency_us\nl40s,vllm,64,8192,32,8,3000\n")
    (tmp_path / "notes.csv").write_text("who,when\nme,now\n")
    cases = read_tables([tmp_path])
    assert [(case.table, case.family) for case in cases] == [
        ("a", GEMM), ("a", GEMM), ("b", TRAINING), ("c_generation", DECODE_ATTENTION),
    ]  # fmt: skip
    assert [case.id for case in cases[:3]] == ["a-2", "a-3", "b-001"]  # the line of the file


def test_a_folder_is_read_with_the_folders_in_it(tmp_path: Path) -> None:
    inner = tmp_path / "serving" / "2024"
    inner.mkdir(parents=True)
    (inner / "gemm.csv").write_text(GEMM_TABLE)
    (tmp_path / "steps.csv").write_text(VTRAIN + "64,512,8,3072,32,30,2048,2,16,2,3566.5\n")
    assert [case.family for case in read_tables([tmp_path])] == [GEMM, GEMM, TRAINING]


def test_a_file_that_is_no_table_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv: cannot be read"):
        read_tables([tmp_path / "none.csv"])
    near = tmp_path / "near.csv"
    near.write_text("gpu,m,n,k\nh100_sxm,1,2,3\n")
    with pytest.raises(InputError, match=r"near\.csv:1: is no measured table .*; latency_us missing\?$"):
        read_tables([near])
    near.write_text("")
    with pytest.raises(InputError, match=r"documented format \(docs/validation\.md\)$"):
        read_tables([near])
    near.write_bytes(b"\xff\xfe\x00gpu")
    with pytest.raises(InputError, match="cannot be read"):
        read_tables([near])


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        (GEMM_TABLE + "h100_sxm,!,many,4096,4096,16\n", r":4: is no row of its table: m is a number .* not 'many'"),
        (GEMM_TABLE + "h100_sxm,!,-5,4096,4096,16\n", r":4: .* m is a number above 0, not '-5'"),
        (GEMM_TABLE + "h100_sxm,!,5,4096,4096,nan\n", r":4: .* latency_us is a number above 0, not 'nan'"),
        (VTRAIN + "64,512,8,wide,32,30,2048,2,16,2,3566.5\n", r":2: .* hidden is a number above 0, not 'wide'"),
        (ALL_REDUCE + "h100_sxm,vllm/0.1,8,1024,slow\n", r":2: .* latency is a number above 0, not 'slow'"),
        (ALL_REDUCE + "h100_sxm,vllm/0.1,2.5,1024,1\n", r":2: .* num_gpus is a whole number, not '2.5'"),
        (ATTENTION + "h100_sxm,decode,64,8192,32,0,300\n", r":2: .* kv is a number above 0, not '0'"),
        (ATTENTION + "h100_sxm,both,64,8192,32,8,300\n", r":2: .* op is decode or prefill, not 'both'"),
    ],
)
def test_a_row_that_breaks_its_format_is_named_by_its_line(tmp_path: Path, table: str, complaint: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(table)
    with pytest.raises(InputError, match=rf"table\.csv{complaint}"):
        read_tables([path])


def test_shipped_tables_are_a_few_hundred_mapped_rows_of_every_family() -> None:
    cases = read_tables([validation_folder()])
    assert 500 <= len(cases) <= 1500
    families = Counter(case.family for case in cases if case.reason is None)
    assert set(families) == set(FAMILIES) - {COPIES}  # measured on the card at hand, by sim calibrate --gpu
    assert sum(case.reason is not None for case in cases) <= 0.05 * len(cases)
    assert len({case.id for case in cases}) == len(cases)


@pytest.mark.parametrize("table", ["training", "serving"])
def test_every_shipped_run_cites_its_source(table: str) -> None:
    with (validation_folder() / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        assert all(row["source"] for row in csv.DictReader(file))


def test_causes_name_rows_by_what_they_are() -> None:
    group = "l40s / llama.cpp / one stream, prefill, pp"
    row = Row(table="t", id="x", family=PREFILL, group=group, quality="A", mapped=True, counted=True)
    assert "pieces through its cards" in why(row)
    assert why(row.model_copy(update={"group": "l40s / llama.cpp / one stream, prefill"})) == "not known"
    assert "assumed: rank 16" in why(row.model_copy(update={"assumptions": ("rank 16",)}))
