"""``sim catalog``: what is known, listed and shown whole, and names that are not known."""

import pytest
import yaml

from sim import catalog
from sim.cli.catalog import COLUMNS


def test_without_a_kind_it_counts(sim):
    counts = sim("catalog", "--json").json
    assert counts == {kind: len(catalog.names(kind)) for kind in catalog.KINDS}
    lines = sim("catalog").out.splitlines()
    assert [line.split()[:2] for line in lines] == [[kind, str(n)] for kind, n in counts.items()]
    assert counts["gpu"] >= 34


@pytest.mark.parametrize("kind", catalog.KINDS)
def test_each_kind_has_a_line_for_each_entry(sim, kind):
    answer = sim("catalog", kind)
    assert (answer.code, answer.err) == (0, "")
    head, *rows = answer.out.splitlines()
    assert head.split() == list(COLUMNS[kind])
    assert [row.split()[0] for row in rows] == list(catalog.names(kind))
    assert all(len(row) <= 300 for row in rows)


@pytest.mark.parametrize("kind", catalog.KINDS)
def test_columns_are_keys_that_entries_have(kind):
    entries = [catalog.raw(kind, name) for name in catalog.names(kind)]
    for column in COLUMNS[kind]:
        first = column.split(".")[0]
        assert column == "per_1000_node_days" or any(first in entry for entry in entries), column


def test_fault_presets_tell_failures_in_1000_node_days(sim):
    """Published: Llama 3 3.79 (419 in 54 days on 2,048 nodes), RSC-1 6.50, RSC-2 2.34; the article 8 a month."""
    rows = [line.split() for line in sim("catalog", "failure").out.splitlines()]
    assert rows[0][:3] == ["id", "per_1000_node_days", "classes"]
    rates = {row[0]: float(row[1]) for row in rows[1:]}
    assert rates["llama3"] == pytest.approx(419 / 54 / 2.048, rel=0.005)
    assert (rates["rsc1"], rates["rsc2"]) == (6.5, 2.34)
    assert rates["reference-article"] == pytest.approx(8 / 30 * 1000, rel=0.005)


def test_a_fault_preset_shows_each_class_and_what_is_not_planned(sim):
    out = sim("catalog", "failure", "llama3").out
    assert yaml.safe_load(out) == sim("catalog", "failure", "llama3", "--json").json
    rates = {name.strip(): float(rate) for name, rate in (line.rsplit(maxsplit=1) for line in _comments(out))}
    assert rates.pop("all that are not planned") == pytest.approx(3.79)
    assert rates["faulty-gpu"] == pytest.approx(148 / 54 / 2.048, rel=0.005)
    assert sum(rates.values()) - rates["maintenance-planned"] == pytest.approx(3.79, rel=0.01)


def _comments(out):
    lines = [line for line in out.splitlines() if line.startswith("#")]
    assert lines[0] == "# failures in 1,000 node-days of 8 GPUs"
    return [line.lstrip("# ") for line in lines[1:]]


@pytest.mark.parametrize("kind", catalog.KINDS)
def test_json_holds_the_entries_whole(sim, kind):
    assert [entry["id"] for entry in sim("catalog", kind, "--json").json] == list(catalog.names(kind))


@pytest.mark.parametrize("kind", catalog.KINDS)
def test_one_entry_is_shown_whole_with_its_source(sim, kind):
    name = catalog.names(kind)[0]
    written = sim("catalog", kind, name, "--json").json
    assert written["source"]
    shown = yaml.safe_load(sim("catalog", kind, name).out)
    assert shown.keys() == written.keys()
    assert shown["id"] == name


def test_a_kind_may_be_said_in_the_plural(sim):
    for kind in catalog.KINDS:
        if not kind.endswith("s"):
            assert sim("catalog", f"{kind}s").out == sim("catalog", kind).out


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("gpu", "rtx409"), "unknown gpu 'rtx409', did you mean 'rtx4090'?"),
        (("gpu", "RTX-4090"), "unknown gpu 'RTX-4090', did you mean 'rtx4090'?"),
        (("stack", "vlm"), "unknown stack 'vlm', did you mean 'vllm'?"),
        (("model", "llama-2-70"), "unknown model 'llama-2-70', did you mean 'llama-2-70b'?"),
        (("gpu", "zzzz"), "unknown gpu 'zzzz'"),
        (("gpu", "../stacks/vllm"), "unknown gpu '../stacks/vllm'"),
    ],
)
def test_an_unknown_name_is_one_line_with_the_nearest(sim, args, complaint):
    answer = sim("catalog", *args)
    assert (answer.code, answer.out, len(answer.complaints)) == (2, "", 1)
    assert answer.err.startswith(complaint)


def test_an_unknown_kind_is_one_line_with_all_kinds(sim):
    answer = sim("catalog", "gpux")
    assert (answer.code, answer.out, len(answer.complaints)) == (2, "", 1)
    assert answer.err.endswith("did you mean 'gpu'?\n")
    assert all(kind in answer.err for kind in catalog.KINDS)
