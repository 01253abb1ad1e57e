"""``sim validate``: the public contract of its JSON, what it prints and writes, exit codes, and the page."""

import csv
import io
import json

import pytest

from sim.report.figures.validate import validation_figures
from sim.report.validate_page import SECTIONS
from sim.study.validate.schema import Validation

from ..pages import Addresses, opened

SERVING = """\
id,source,engine,version,mode,model,weights,kv_dtype,gpu,n_gpus,tp,pp,batch,isl,osl,metric,value,unit,scope,notes
b-1,bench,llama.cpp,2024,single_stream,Llama 3 8B,fp16,fp16,4090 24GB,1,1,1,1,0,512,decode_rate,54,tok/s,system,
b-2,bench,llama.cpp,2024,single_stream,Llama 3 8B,fp16,fp16,4090 24GB,1,1,1,1,0,4096,decode_rate,50,tok/s,system,
b-3,bench,llama.cpp,2024,single_stream,Llama 3 8B,fp16,fp16,4090 24GB,1,1,1,1,1024,0,prefill_rate,9000,tok/s,system,
b-4,bench,llama.cpp,2024,single_stream,Llama 3 8B,fp16,fp16,Voodoo <b>2</b>,1,1,1,1,0,512,decode_rate,1,tok/s,system,
b-5,bench,TensorRT-LLM,0.9.0,static_batch,Gemma3 27B,fp8,fp8,H200,1,1,1,8,128,128,throughput,900,tok/s,system,
"""
ALL_REDUCE = "gpu,n_gpus,bytes,time_ns_in_place\na100,8,1048576,50000\na100,8,134217728,1200000\n"
ROW_KEYS = {"table", "id", "group", "metric", "unit", "measured", "predicted", "error", "mapped", "reason"}
GROUP_KEYS = {"name", "n", "median_abs_error", "p90_abs_error", "bias"}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    (folder / "serving.csv").write_text(SERVING)
    (folder / "all_reduce.csv").write_text(ALL_REDUCE)
    return folder


@pytest.fixture(scope="module")
def written(sim, tables):
    """Both tables, and the folder it wrote."""
    answer = sim("validate", tables / "serving.csv", tables / "all_reduce.csv", "--out", tables / "out", "-j", "1")
    assert answer.code == 0, answer.err
    return answer, tables / "out" / "validate"


def test_json_is_the_public_contract(sim, tables):
    answer = sim("validate", tables, "--json", "--no-report", "-j", "1")
    assert answer.code == 0
    rows = {row["id"]: row for row in answer.json["rows"]}
    assert all(set(row) >= ROW_KEYS for row in rows.values())
    assert all(set(group) >= GROUP_KEYS for group in answer.json["groups"])
    assert list(rows) == ["all_reduce-2", "all_reduce-3", "b-1", "b-2", "b-3", "b-4", "b-5"]
    for row in rows.values():
        assert row["mapped"] == (row["predicted"] is not None) == (row["reason"] is None)
        if row["mapped"]:
            assert row["error"] == pytest.approx(row["predicted"] / row["measured"] - 1)
    assert rows["b-4"]["reason"] == "GPU Voodoo <b>2</b> is not in the catalogue"
    assert "a window of the context" in rows["b-5"]["reason"]
    decode = next(g for g in answer.json["groups"] if g["name"] == "rtx4090 / llama.cpp / one stream, decode")
    errors = sorted(abs(rows[name]["error"]) for name in ("b-1", "b-2"))
    assert decode["n"] == 2
    assert decode["median_abs_error"] == pytest.approx(sum(errors) / 2)
    assert decode["p90_abs_error"] == pytest.approx(errors[0] + 0.9 * (errors[1] - errors[0]))


def test_it_writes_three_files_whole(written):
    answer, folder = written
    assert sorted(path.name for path in folder.iterdir()) == ["index.html", "rows.csv", "validation.json"]
    assert answer.out.splitlines()[-1] == f"report      {folder / 'index.html'}"
    found = Validation.model_validate_json((folder / "validation.json").read_text())
    assert [table.name for table in found.tables] == ["bench 2024", "bench 0.9.0", "all_reduce"]
    with (folder / "rows.csv").open(newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == [row.id for row in found.rows]


def test_the_answer_comes_first_then_tables_groups_and_what_is_not_predicted(written):
    answer, _ = written
    lines = answer.out.splitlines()
    assert lines[0].startswith("5 of 7 measured rows predicted.")
    assert any(line.rstrip().endswith("rtx4090 / llama.cpp / one stream, decode") for line in lines)
    assert "1  GPU Voodoo <b>2</b> is not in the catalogue" in [line.strip() for line in lines]
    assert "\x1b" not in answer.out


def test_csv_is_every_row_and_nothing_else(sim, tables):
    answer = sim("validate", tables / "serving.csv", "--csv", "--no-report", "-j", "1")
    rows = list(csv.DictReader(io.StringIO(answer.out)))
    assert [row["id"] for row in rows] == ["b-1", "b-2", "b-3", "b-4", "b-5"]
    assert float(rows[0]["error"]) == pytest.approx(float(rows[0]["predicted"]) / 54 - 1)


def test_processes_say_the_same(sim, tables):
    one, two = (sim("validate", tables, "--json", "--no-report", "-j", str(n)) for n in (1, 2))
    assert one.out == two.out


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("nothing.csv",), "nothing.csv: cannot be read"),
        (("--json", "--csv"), "give --json or --csv, not both"),
        (("-j", "0"), "0 is not in the range"),
    ],
)
def test_mistakes_are_a_line_and_exit_code_2(sim, tmp_path, args, complaint):
    answer = sim("validate", *args, "--out", tmp_path / "out")
    assert answer.code == 2
    assert complaint in answer.err
    assert not (tmp_path / "out").exists()


def test_a_table_of_refused_rows_is_no_error(sim, tables, tmp_path):
    path = tmp_path / "refused.csv"
    lines = SERVING.splitlines()
    path.write_text(f"{lines[0]}\n{lines[4]}\n")
    answer = sim("validate", path, "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[0] == "0 of 1 measured rows predicted."
    assert not Addresses((tmp_path / "out" / "validate" / "index.html").read_text()).plots


# -- the page -----------------------------------------------------------------------------------------------


def test_the_page_has_every_section_and_its_links_lead_somewhere(written, tables):
    _, folder = written
    text = (folder / "index.html").read_text()
    page = Addresses(text)
    assert all(f"{section}-section" in page.ids for section in SECTIONS)
    assert {"answer", "tables", "worst", "unmapped", "reproduce"} <= set(page.ids)
    assert all(link.lstrip("#") in page.ids for link in page.links)
    assert f"<code>sim validate {tables / 'serving.csv'} {tables / 'all_reduce.csv'}</code>" in text
    assert "<b>2</b>" not in text.replace("\\u003cb\\u003e2", "")  # names are text
    assert "Voodoo &lt;b&gt;2&lt;/b&gt; is not in the catalogue" in text


def test_figures_hold_every_counted_row(written):
    _, folder = written
    found = Validation.model_validate_json((folder / "validation.json").read_text())
    figures = validation_figures(found)
    points = [point for figure in figures["scatter"] for trace in figure.traces if trace["mode"] == "markers"
              for point in trace["x"]]  # fmt: skip
    assert sorted(points) == sorted(row.measured for row in found.rows if row.counted)
    assert sum(sum(figure.traces[0]["y"]) for figure in figures["histogram"]) == 5


@pytest.mark.browser
def test_the_page_in_a_browser(written):
    _, folder = written
    found = Validation.model_validate_json((folder / "validation.json").read_text())
    wanted = {figure.id: figure.types for group in validation_figures(found).values() for figure in group}
    with opened(folder / "index.html", width=1280, dark=True) as (page, complaints, requests):
        drawn = page.evaluate(
            "() => Object.fromEntries([...document.querySelectorAll('.plot')].map("
            "plot => [plot.id, plot._fullData.map(trace => trace.type)]))"
        )
        assert drawn == wanted
        wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        assert not wide
    assert complaints == []
    assert all(address.startswith("file:") or address.startswith("blob:") for address in requests)


def test_the_document_reads_back(written):
    _, folder = written
    text = (folder / "validation.json").read_text()
    assert json.loads(Validation.model_validate_json(text).model_dump_json()) == json.loads(text)
