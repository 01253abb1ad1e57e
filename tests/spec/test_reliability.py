"""What a scenario may say about faults, checkpoints and recovery, and what it may not."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sim.adapters.lookup import Library
from sim.catalog import names
from sim.spec.reliability import Checkpoint, FaultClass, Faults, Recovery, Spread

GPU = {"name": "gpu", "mtbf": "1000 h"}
WAYS: dict[str, Any] = {
    "preset": "llama3", "rate": 6.5, "mtbf_per_gpu": "50000 h", "classes": [GPU], "trace": "faults.csv",
}  # fmt: skip


def refused(kind: type, said: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(said)  # type: ignore[attr-defined]
    return str(caught.value)


# ---- faults


@pytest.mark.parametrize("way", WAYS)
def test_faults_are_told_in_one_way(way: str) -> None:
    assert Faults.model_validate({way: WAYS[way]})
    for other in WAYS.keys() - {way}:
        if {way, other} == {"classes", "trace"}:
            assert Faults.model_validate({way: WAYS[way], other: WAYS[other]})
            continue
        message = refused(Faults, {way: WAYS[way], other: WAYS[other]})
        assert "give exactly one of preset, rate, mtbf_per_gpu, classes, trace" in message


def test_faults_are_told_at_all() -> None:
    assert "not none" in refused(Faults, {"spares": 4})


@pytest.mark.parametrize("more", [{"scale": 2.0}, {"lemons": {"share": 0.1, "factor": 5}}])
def test_a_trace_is_replayed_as_it_is(more: dict[str, Any]) -> None:
    assert "replayed as it is" in refused(Faults, {"trace": "faults.csv", **more})
    assert Faults.model_validate({"preset": "llama3", **more})


def test_classes_have_names_of_their_own() -> None:
    assert "two classes are called gpu" in refused(Faults, {"classes": [GPU, GPU]})


@pytest.mark.parametrize(
    "said", [{"rate": 0}, {"mtbf_per_gpu": "0 s"}, {"classes": []}, {"preset": "llama3", "spares": -1},
             {"preset": "llama3", "scale": 0}, {"preset": "llama3", "lemons": {"share": 1.5, "factor": 2}},
             {"preset": "llama3", "lemons": {"share": 0.1, "factor": 0.5}}],
)  # fmt: skip
def test_what_cannot_be(said: dict[str, Any]) -> None:
    refused(Faults, said)


# ---- classes


@pytest.mark.parametrize("effect", ["slow", "stall", "corrupt"])
def test_effects_that_last_say_how_long(effect: str) -> None:
    factor = {"factor": 2.0} if effect == "slow" else {}
    said = {**GPU, "effect": effect, **factor}
    assert f"effect {effect} needs lasts" in refused(FaultClass, said)
    for lasts in ("2 h", {"median": "1 h", "p90": "3 h"}):
        assert FaultClass.model_validate({**said, "lasts": lasts})


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"effect": "slow", "lasts": "1 h"}, "needs a factor above 1"),
        ({"timeout": "10 min"}, "timeout belongs to effect stall"),
        ({"planned": True, "effect": "corrupt", "lasts": "1 h"}, "planned belongs to effect stop"),
        ({"notice": "2 min", "effect": "slow", "factor": 2, "lasts": "1 h"}, "notice belongs to effect stop"),
        ({"notice": "2 min", "planned": True}, "either planned"),
        ({"notice": "2 min", "per": "job"}, "notice belongs to machines"),
        ({"notice": "0 s"}, "greater than 0"),
        ({"law": "weibull", "shape": 0.1}, "0.2 or more"),
        ({"law": "lognormal", "shape": 4}, "3 or less"),
        ({"shape": 0}, "greater than 0"),
        ({"per": "rack"}, "per"),
        ({"mtbf": "0 h"}, "greater than 0"),
        ({"name": "a/b"}, "name"),
    ],
)
def test_classes_that_contradict_themselves(said: dict[str, Any], why: str) -> None:
    assert why in refused(FaultClass, {**GPU, **said})


# ---- times that vary


def test_nine_of_ten_take_less_than_p90() -> None:
    assert Spread.model_validate({"median": "2 min", "p90": "2 min"}).p90 == 120.0
    assert "p90 is below the median" in refused(Spread, {"median": "3 min", "p90": "2 min"})
    assert "greater than 0" in refused(Spread, {"median": "0 s", "p90": "2 min"})


def test_a_phase_is_a_time_or_varies() -> None:
    found = Recovery.model_validate({"detect": "10 s", "launch": {"median": "1 min", "p90": "4 min"}})
    assert (found.detect, found.launch) == (10.0, Spread(median="1 min", p90="4 min"))  # type: ignore[arg-type]
    refused(Recovery, {"detect": "soon"})
    refused(Recovery, {"detect": {"median": "1 min"}})


# ---- checkpoints


@pytest.mark.parametrize("when", [{"every": "10 min"}, {"every": "auto"}, {"steps": 100}])
def test_when_to_save(when: dict[str, Any]) -> None:
    assert Checkpoint.model_validate({**when, "to": {"write": "1 GB/s"}})


@pytest.mark.parametrize("when", [{}, {"every": "10 min", "steps": 100}])
def test_one_answer_to_when(when: dict[str, Any]) -> None:
    assert "give either every" in refused(Checkpoint, {**when, "to": "nvme"})


@pytest.mark.parametrize("to", [{"to": "nvme"}, {"to": {"write": "1 GB/s"}}, {"blocking": "30 s"}, {"mode": "memory"}])
def test_where_to_save(to: dict[str, Any]) -> None:
    assert Checkpoint.model_validate({"steps": 10, **to})


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({}, "say where checkpoints go"),
        ({"mode": "async"}, "say where checkpoints go"),
        ({"to": "nvme", "persist": "5 s"}, "persist belongs to modes async and memory"),
        ({"mode": "memory", "to": "nvme"}, "leave to out"),
        ({"to": "nvme", "steps": 0}, "steps"),
        ({"to": {"write": "0 GB/s"}}, "greater than 0"),
        ({"to": "nvme", "keep": 0}, "keep"),
        ({"to": "nvme", "then": {"every": "1 h"}}, "say where checkpoints go"),
    ],
)
def test_checkpoints_that_cannot_be(said: dict[str, Any], why: str) -> None:
    assert why in refused(Checkpoint, {"steps": 10, **said})


def test_a_handful_of_levels() -> None:
    said: dict[str, Any] = {"steps": 10, "to": "nvme"}
    for levels in range(2, 6):
        said = {"steps": 10, "mode": "memory", "then": said}
        if levels <= 4:
            assert len(Checkpoint.model_validate(said).levels) == levels
    assert "5 levels of checkpoints: 4 at most" in refused(Checkpoint, said)


@pytest.mark.parametrize(("said", "most"), [({"mode": "memory"}, 1), ({"to": "nvme"}, 0), ({"blocking": "1 s"}, 999)])
def test_copies_outlive_the_loss_of_so_many_nodes(said: dict[str, Any], most: int) -> None:
    found = Checkpoint.model_validate({"steps": 10, **said})
    assert [found.outlives(nodes) for nodes in (0, 1, 2, 99)] == [nodes <= most for nodes in (0, 1, 2, 99)]


# ---- the catalogue


@pytest.mark.parametrize("name", names("failure"))
def test_presets_are_sound(name: str) -> None:
    found = Library().failure(name)
    called = [c.name for c in found.classes]
    assert len(called) == len(set(called))
    assert found.source
    assert Faults.model_validate({"preset": name})
