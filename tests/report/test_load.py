"""Reading result.json: what is right comes back equal, what is wrong is one clear line each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import sim.report.load as load
from sim.errors import InputError
from sim.report.load import load_result
from sim.results.schema import Result, ServingMetrics, TrainingMetrics


def write(path: Path, document: Any) -> Path:
    file = path / "result.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return file


def refusal(file: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        load_result(file)
    return str(caught.value).splitlines()


def test_a_written_result_comes_back_equal(tmp_path: Path, result: Result) -> None:
    file = write(tmp_path, result.model_dump_json())
    assert load_result(file) == result


def test_keys_of_later_versions_are_kept(tmp_path: Path, result: Result) -> None:
    assert load_result(write(tmp_path, result.model_dump(mode="json") | {"more": 1})).model_extra == {
        "more": 1
    }


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (99, "schema_version: version 99 is newer than this program's"),
        ("1", 'schema_version: unknown version "1"'),
        (True, "schema_version: unknown version true"),
        (0, "schema_version: unknown version 0"),
    ],
)
def test_unknown_versions_are_refused(tmp_path: Path, result: Result, version: object, message: str) -> None:
    document = result.model_dump(mode="json") | {"schema_version": version}
    (line,) = refusal(write(tmp_path, document))
    assert message in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "result.json:1:2: is not JSON"),
        ("[]", "must be a JSON object"),
        ("{}", "schema_version: is not a result: it has no schema_version"),
        ('{"schema_version": NaN}', "NaN is not JSON"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_not_a_result_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (line,) = refusal(write(tmp_path, text))
    assert message in line


def test_every_missing_key_is_named(tmp_path: Path, result: Result) -> None:
    document = result.model_dump(mode="json")
    del document["verdict"], document["jobs"][0]["metrics"]["ttft_s"]
    document["seed"] = "x"
    lines = refusal(write(tmp_path, document))
    assert any(line.endswith("verdict: is missing") for line in lines)
    assert any(line.endswith("jobs[0].metrics.ttft_s: is missing") for line in lines)
    assert any("seed: input should be a valid integer" in line for line in lines)


def test_many_problems_are_cut(tmp_path: Path, result: Result) -> None:
    document = result.model_dump(mode="json") | {"memory": [{}] * 30}
    lines = refusal(write(tmp_path, document))
    assert len(lines) == load.MAX_PROBLEMS + 1
    assert "more problems" in lines[-1]


def test_absent_binary_and_huge_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cannot be read (No such file or directory)" in refusal(tmp_path / "absent.json")[0]
    file = tmp_path / "result.json"
    file.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8 text" in refusal(file)[0]
    monkeypatch.setattr(load, "MAX_BYTES", 2)
    assert "too large for a result" in refusal(file)[0]


def test_each_kind_of_job_comes_back_as_it_was(tmp_path: Path, training: Result, mixed: Result) -> None:
    assert load_result(write(tmp_path, training.model_dump_json())) == training
    back = load_result(write(tmp_path, mixed.model_dump_json()))
    assert back == mixed
    assert [type(job.metrics) for job in back.jobs] == [ServingMetrics, TrainingMetrics]


def test_an_unknown_kind_of_job_is_refused(tmp_path: Path, training: Result) -> None:
    document = training.model_dump(mode="json")
    document["jobs"][0]["kind"] = "dreaming"
    (line,) = refusal(write(tmp_path, document))
    assert line.endswith("jobs[0].kind: input should be 'serving' or 'training'")


def test_metrics_are_those_of_the_kind(tmp_path: Path, mixed: Result) -> None:
    document = mixed.model_dump(mode="json")
    document["jobs"][0]["kind"] = "training"
    (line,) = refusal(write(tmp_path, document))
    assert line.endswith("jobs[0].metrics: are not those of a training job")


def test_what_a_training_job_lacks_is_named_once(tmp_path: Path, training: Result) -> None:
    document = training.model_dump(mode="json")
    del document["jobs"][0]["metrics"]["mfu"]
    document["metrics"]["steps"] = "x"
    lines = refusal(write(tmp_path, document))
    assert len(lines) == 2
    assert lines[0].endswith("jobs[0].metrics.mfu: is missing")
    assert "metrics.steps: input should be a valid integer" in lines[1]


@pytest.mark.parametrize("kind", ["dreaming", None, ["training"]])
def test_metrics_of_no_kind_are_still_refused(tmp_path: Path, training: Result, kind: object) -> None:
    document = training.model_dump(mode="json")
    document["jobs"] = []
    document["metrics"] = {"kind": kind}
    assert refusal(write(tmp_path, document))
