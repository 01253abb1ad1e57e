"""Names to values: the user's definitions win, `like` copies, and mistakes are told with their place."""

import json

import pytest

from sim.adapters.lookup import Library
from sim.adapters.yaml_source import parse_yaml
from sim.errors import InputError
from sim.spec.scenario import Define


def library(text=""):
    """A library with what stands under ``define:`` in a scenario file."""
    source = parse_yaml(text or "define: {}", "s.yaml")
    return Library(Define.model_validate(source.data["define"]), source)


def message(look, *name):
    with pytest.raises(InputError) as caught:
        look(*name)
    return str(caught.value)


# ---- The catalogue


def test_the_catalogue_answers_without_definitions():
    assert Library().gpu("rtx4090").flops.fp16 == 165.2e12
    assert Library().stack("vllm").id == "vllm"


@pytest.mark.parametrize(
    ("kind", "word", "meant"),
    [
        ("gpu", "4090", "rtx4090"),
        ("gpu", "h100", "h100-sxm"),
        ("gpu", "H100-SXM", "h100-sxm"),
        ("gpu", "a100-80-sxm", "a100-sxm-80gb"),
        ("gpu", "b200", "b200-sxm"),
        ("gpu", "RTX 4090", "rtx4090"),
        ("model", "llama2-70b", "llama-2-70b"),
        ("stack", "vLLM", "vllm"),
        ("link", "10gbe", "ethernet-10g"),
        ("lengths", "azure-conv", "azure-2023-conversation"),
    ],
)
def test_an_unknown_name_is_answered_with_the_one_meant(kind, word, meant):
    assert message(getattr(Library(), kind), word).endswith(f"'{word}', did you mean '{meant}'?")


def test_a_name_like_nothing_says_where_names_are_listed():
    assert "sim catalog gpu lists" in message(Library().gpu, "zzzz")


def test_suggestions_know_the_users_own_entries():
    own = library("define: {gpus: {workbench: {like: rtx4090}}}")
    assert "did you mean 'workbench'?" in message(own.gpu, "workbnch")


# ---- Definitions


def test_like_copies_and_changes_what_is_named_however_deep():
    own = library("define: {gpus: {card: {like: rtx4090, flops: {fp8: 100 TFLOPS}, kernels: {gemm_launch: 9 us}}}}")
    card, base = own.gpu("card"), Library().gpu("rtx4090")
    assert card.id == "card"
    assert card.flops.fp8 == 100e12
    assert card.kernels.gemm_launch == pytest.approx(9e-6)
    rest = {"id": "rtx4090", "flops": base.flops, "kernels": base.kernels}
    assert card.model_copy(update=rest) == base


def test_a_users_entry_replaces_the_catalogues_of_the_same_name():
    own = library("define: {gpus: {rtx4090: {like: rtx4090, tdp: 300 W}}}")
    assert own.gpu("rtx4090").tdp == 300
    assert Library().gpu("rtx4090").tdp == 450


def test_like_follows_the_users_own_entries():
    own = library("define: {gpus: {a: {like: rtx4090, tdp: 300 W}, b: {like: a, idle_power: 5 W}}}")
    assert (own.gpu("b").tdp, own.gpu("b").idle_power) == (300, 5)


def test_another_memory_is_usable_whole_unless_said():
    own = library(
        "define: {gpus: {a: {like: rtx4090, memory: 48 GB}, b: {like: rtx4090, memory: 48 GB, usable_memory: 47 GB}}}"
    )
    assert own.gpu("a").usable_memory == 48e9
    assert own.gpu("b").usable_memory == 47e9


def test_source_defaults_to_the_user():
    entry = "{kind: ethernet, bandwidth: 20 Gbit/s}"
    assert library(f"define: {{links: {{mine: {entry}}}}}").link("mine").source == "user"


def test_the_users_fabrics_come_first():
    own = library("define: {fabrics: {mine: {like: nccl-pcie, alpha: 1 us}}}")
    assert own.fabrics()[0].id == "mine"
    assert len(own.fabrics()) == len(Library().fabrics()) + 1


def test_a_bad_value_names_its_path_and_line():
    text = "define:\n  gpus:\n    mycard:\n      like: rtx4090\n      memory: 24 GX\n"
    assert message(library(text).gpu, "mycard").startswith("s.yaml:5:15: define.gpus.mycard.memory: '24 GX'")
    assert message(library(text).gpu, "mycard").count("\n") == 0


def test_an_unknown_key_names_its_path():
    text = "define:\n  gpus:\n    mycard:\n      like: rtx4090\n      memroy: 24 GB\n"
    found = message(library(text).gpu, "mycard")
    assert found.startswith("s.yaml:5:7: define.gpus.mycard.memroy: unknown key")
    assert found.endswith("did you mean 'memory'?")


def test_an_incomplete_entry_says_what_is_missing():
    assert "define.gpus.mycard.memory: is missing" in message(library("define: {gpus: {mycard: {}}}").gpu, "mycard")


def test_like_an_unknown_entry():
    found = message(library("define:\n  gpus: {mycard: {like: h100}}\n").gpu, "mycard")
    assert found == "s.yaml:2:25: define.gpus.mycard.like: there is no gpu 'h100', did you mean 'h100-sxm'?"


def test_like_in_a_circle():
    text = "define: {gpus: {a: {like: b}, b: {like: a}}}"
    assert "goes round in circles: a -> b -> a" in message(library(text).gpu, "a")


def test_like_must_be_a_name():
    assert "must name another entry" in message(library("define: {gpus: {a: {like: [rtx4090]}}}").gpu, "a")


# ---- Models from files


def test_a_path_is_read_as_a_hugging_face_configuration(tmp_path):
    config = {
        "model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_hidden_layers": 3, "intermediate_size": 128, "vocab_size": 1000, "max_position_embeddings": 512,
    }  # fmt: skip
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    assert Library().model("./config.json", file).kv_heads == 2
