"""``sim show``: the report from result.json alone, and files that are no result."""

import json

import pytest

from sim.results.schema import SCHEMA_VERSION


def test_the_file_and_its_folder_show_what_the_run_printed(flagship, sim):
    printed = flagship.answer.out.splitlines()[:-1]  # but for the line that names the report
    for given in (flagship.folder, flagship.folder / "result.json"):
        answer = sim("show", given)
        assert (answer.code, answer.err) == (0, "")
        assert answer.out.splitlines() == printed


def test_the_page_redrawn_is_the_runs_page(flagship, sim, tmp_path):
    page = tmp_path / "new" / "page.html"
    answer = sim("show", flagship.folder, "--html", page)
    assert answer.code == 0
    assert answer.out.splitlines()[-1] == f"report      {page}"
    assert page.read_bytes() == (flagship.folder / "index.html").read_bytes()


def test_json_is_the_document_and_nothing_else(flagship, sim, tmp_path):
    answer = sim("show", flagship.folder, "--json", "--html", tmp_path / "page.html")
    assert answer.json == flagship.document
    assert answer.err == f"report      {tmp_path / 'page.html'}\n"


def test_the_trace_holds_the_documents_spans(flagship, sim, tmp_path):
    trace = tmp_path / "trace.json"
    assert sim("show", flagship.folder, "--trace", trace).code == 0
    drawn = [event for event in json.loads(trace.read_text())["traceEvents"] if event["ph"] == "X"]
    assert len(drawn) == len(flagship.document["timeline"]["spans"])


@pytest.fixture
def altered(flagship, tmp_path):
    """A result.json with some keys changed (or, where the value is None, left out)."""

    def write(**changes):
        document = {key: value for key, value in {**flagship.document, **changes}.items() if value is not None}
        file = tmp_path / "result.json"
        file.write_text(json.dumps(document))
        return file

    return write


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"schema_version": SCHEMA_VERSION + 1}, "schema_version: version 2 is newer than this program's 1: update"),
        ({"schema_version": None}, "is not a result: it has no schema_version"),
        ({"schema_version": "1"}, 'schema_version: unknown version "1"'),
        ({"schema_version": True}, "schema_version: unknown version true"),
        ({"schema_version": 0}, "schema_version: unknown version 0"),
        ({"jobs": 3}, "jobs: input should be a valid list"),
        ({"verdict": None}, "verdict: is missing"),
    ],
)
def test_a_document_of_another_kind_is_refused(altered, sim, changes, complaint):
    file = altered(**changes)
    answer = sim("show", file)
    assert (answer.code, answer.out, len(answer.complaints)) == (2, "", 1)
    assert answer.err.startswith(f"{file}: ")
    assert complaint in answer.err


def test_every_fault_of_a_document_is_told(altered, sim):
    assert sim("show", altered(verdict=None, ledger=None, seed="x")).complaints == [
        f"{altered().parent / 'result.json'}: {text}"
        for text in (
            "seed: input should be a valid integer, unable to parse string as an integer",
            "verdict: is missing",
            "ledger: is missing",
        )
    ]


@pytest.mark.parametrize(
    ("content", "place", "complaint"),
    [
        (b"", ":1:1", "is not JSON: Expecting value"),
        (b'{"schema_version": 1,\n "jobs": [1,]}', ":2:", "is not JSON"),
        (b"\xff\xfe", "", "is not a result: not UTF-8 text"),
        (b"[" * 100_000, "", "is not a result: nested too deeply"),
        (b"[1]", "", "is not a result: the document must be a JSON object"),
        (b'{"schema_version": NaN}', "", "is not a result: NaN is not JSON"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(sim, tmp_path, content, place, complaint):
    file = tmp_path / "result.json"
    file.write_bytes(content)
    answer = sim("show", file)
    assert (answer.code, answer.out, len(answer.complaints)) == (2, "", 1)
    assert answer.err.startswith(f"{file}{place}")
    assert complaint in answer.err


def test_a_folder_without_a_result_and_a_file_that_is_not_there(sim, tmp_path):
    for given, named in ((tmp_path, tmp_path / "result.json"), (tmp_path / "nope", tmp_path / "nope")):
        answer = sim("show", given)
        assert (answer.code, answer.complaints) == (2, [f"{named}: cannot be read (No such file or directory)"])


def test_keys_of_a_later_minor_version_are_kept(altered, sim):
    answer = sim("show", altered(novelty={"a": 1}), "--json")
    assert answer.code == 0
    assert answer.json["novelty"] == {"a": 1}


def test_markup_in_a_strangers_result_stays_text(altered, sim, tmp_path):
    bad = "<script>alert(1)</script>"
    file = altered(about=bad, scenario=bad, headline=f"{bad}\x1b[31m")
    page = tmp_path / "page.html"
    answer = sim("show", file, "--html", page)
    assert answer.code == 0
    assert "\x1b" not in answer.out
    assert "alert(1)" in page.read_text()
    assert bad not in page.read_text()
