"""Hugging Face config.json: published configurations give published shapes, others are refused with a reason."""

import json
import os
from pathlib import Path

import pytest

from sim.adapters.huggingface import read_config
from sim.errors import InputError
from sim.study.validate.common import catalogue

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192,
    "rope_theta": 500000.0, "rms_norm_eps": 1e-05, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
QWEN3 = LLAMA | {
    "model_type": "qwen3", "hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64,
    "num_attention_heads": 64, "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960,
}  # fmt: skip
GEMMA = {
    "model_type": "gemma", "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28, "head_dim": 256,
    "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 256000, "max_position_embeddings": 8192,
}  # fmt: skip
PHI3 = {
    "model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32, "vocab_size": 32064,
    "num_attention_heads": 32, "max_position_embeddings": 4096, "sliding_window": 2047,
}  # fmt: skip
GPT2 = {
    "model_type": "gpt2", "n_embd": 1600, "n_head": 25, "n_layer": 48, "n_positions": 1024, "n_ctx": 1024,
    "n_inner": None, "vocab_size": 50257,
}  # fmt: skip
NEOX = {
    "model_type": "gpt_neox", "hidden_size": 6144, "intermediate_size": 24576, "num_attention_heads": 64,
    "num_hidden_layers": 44, "max_position_embeddings": 2048, "vocab_size": 50432, "tie_word_embeddings": False,
}  # fmt: skip
OPT = {
    "model_type": "opt", "hidden_size": 12288, "ffn_dim": 49152, "num_attention_heads": 96, "num_hidden_layers": 96,
    "max_position_embeddings": 2048, "vocab_size": 50272, "word_embed_proj_dim": 12288,
}  # fmt: skip
BLOOM = {
    "model_type": "bloom", "n_embed": 14336, "num_attention_heads": 112, "n_layer": 70, "seq_length": 2048,
    "vocab_size": 250880,
}  # fmt: skip
FALCON = {
    "model_type": "falcon", "hidden_size": 4544, "num_attention_heads": 71, "num_hidden_layers": 32,
    "num_kv_heads": 71, "multi_query": True, "new_decoder_architecture": False, "vocab_size": 65024,
}  # fmt: skip
FALCON_40B = FALCON | {
    "hidden_size": 8192, "num_attention_heads": 128, "num_hidden_layers": 60, "num_kv_heads": 8,
    "new_decoder_architecture": True,
}  # fmt: skip
MPT = {
    "model_type": "mpt", "d_model": 7168, "n_heads": 64, "n_layers": 48, "max_seq_len": 8192, "vocab_size": 50432,
    "expansion_ratio": 4, "learned_pos_emb": True, "attn_config": {"alibi": True, "attn_type": "multihead_attention"},
}  # fmt: skip
MIXTRAL = LLAMA | {
    "model_type": "mixtral", "vocab_size": 32000, "num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": None,
    "max_position_embeddings": 32768, "sliding_window": None,
}  # fmt: skip
QWEN3_MOE = LLAMA | {
    "model_type": "qwen3_moe", "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 94,
    "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151936, "num_experts": 128,
    "num_experts_per_tok": 8, "moe_intermediate_size": 1536, "mlp_only_layers": [], "decoder_sparse_step": 1,
    "max_position_embeddings": 40960,
}  # fmt: skip
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
    "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128, "n_routed_experts": 256,
    "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3, "moe_layer_freq": 1,
    "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "vocab_size": 129280, "max_position_embeddings": 163840, "num_nextn_predict_layers": 1, "ep_size": 1,
}  # fmt: skip
#: The smaller model of the second generation, whose queries have no latent.
DEEPSEEK_V2_LITE = DEEPSEEK_V3 | {
    "model_type": "deepseek_v2", "hidden_size": 2048, "intermediate_size": 10944, "moe_intermediate_size": 1408,
    "num_hidden_layers": 27, "num_attention_heads": 16, "num_key_value_heads": 16, "n_routed_experts": 64,
    "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1, "q_lora_rank": None,
    "vocab_size": 102400,
}  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def writer(content, folder="some-model", name="config.json"):
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            content = json.dumps(content, indent=2)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return writer


def problem(path):
    """The one line of the InputError that reading raises, without the folder."""
    with pytest.raises(InputError) as caught:
        read_config(path)
    (line,) = str(caught.value).splitlines()
    return line.replace(f"{path.parent}{os.sep}", "")


@pytest.mark.parametrize(
    ("config", "billions"),
    [  # as published for these shapes (Llama-3-8B, Qwen3-32B, Gemma-7B, Phi-3-mini, ...)
        (LLAMA, 8.03), (QWEN3, 32.8), (GEMMA, 8.54), (PHI3, 3.82), (GPT2, 1.56), (NEOX, 20.6), (OPT, 174.6),
        (BLOOM, 176.2), (FALCON, 6.9), (FALCON_40B, 41.3), (MPT, 30.0),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)  # fmt: skip
def test_published_sizes(write, config, billions):
    model = read_config(write(config))
    assert model.parameters / 1e9 == pytest.approx(billions, rel=0.01)
    assert model.source == f"Hugging Face config.json {config['model_type']}"


@pytest.mark.parametrize(
    ("config", "billions", "active", "cached"),
    [  # parameters of all and of one token as published; KV cache of a token in 16 bits as in the models' reports
        (MIXTRAL, 46.7, 12.9, 131072), (QWEN3_MOE, 235, 22, 192512), (DEEPSEEK_V3, 671, 37, 70272),
        (DEEPSEEK_V2_LITE, 15.7, 2.6, 31104),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)  # fmt: skip
def test_mixtures_have_their_published_sizes(write, config, billions, active, cached):
    """What a token meets is published in whole billions, with or without the table that it is looked up in."""
    model = read_config(write(config))
    assert model.parameters / 1e9 == pytest.approx(billions, rel=0.01)
    least = model.active_parameters - model.embedding_parameters
    assert least / 1e9 <= active * 1.01
    assert model.active_parameters / 1e9 >= active * 0.99
    assert 2 * model.layers * model.cached_elements == cached


@pytest.mark.parametrize(
    ("config", "model"),
    [(MIXTRAL, "mixtral-8x7b"), (QWEN3_MOE, "qwen3-235b-a22b"), (DEEPSEEK_V3, "deepseek-v3")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_catalogue_has_the_shapes_of_the_files(write, config, model):
    told = {"id", "name", "source", "notes", "context"}
    mine = read_config(write(config)).model_dump(exclude=told)
    shipped = catalogue().model(model).model_dump(exclude=told)
    wide = {"expert_intermediate": mine["expert_intermediate"] or mine["intermediate"]}
    assert mine | wide == shipped | {"expert_intermediate": shipped["expert_intermediate"] or shipped["intermediate"]}


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (QWEN3_MOE, {"mlp_only_layers": [0]}, "mlp_only_layers: plain layers among those with experts"),
        (DEEPSEEK_V3, {"moe_layer_freq": 2}, "moe_layer_freq: plain layers among those with experts"),
        (DEEPSEEK_V3, {"kv_lora_rank": None}, "kv_lora_rank is missing"),
        (MIXTRAL, {"num_experts_per_tok": 9}, "experts_per_token must be from 1 to 8 experts"),
    ],
)
def test_mixtures_that_cannot_be_described_are_refused(write, config, change, message):
    assert message in problem(write(config | change))


def test_llama(write):
    model = read_config(write(LLAMA))
    assert model.model_dump(exclude={"source", "name", "notes"}) == {
        "id": "some-model", "layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128,
        "intermediate": 14336, "vocabulary": 128256, "gated": True, "tied_embeddings": False,
        "learned_positions": False, "context": 8192, "experts": 0, "experts_per_token": 0, "shared_experts": 0,
        "expert_intermediate": None, "dense_layers": 0, "kv_lora_rank": None, "q_lora_rank": None,
        "qk_nope_head_dim": None, "qk_rope_head_dim": None, "v_head_dim": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (LLAMA | {"num_key_value_heads": None}, "kv_heads", 32),
        ({k: v for k, v in LLAMA.items() if k != "num_key_value_heads"}, "kv_heads", 32),
        (LLAMA | {"model_type": "mistral", "num_key_value_heads": None}, "kv_heads", 32),
        (LLAMA | {"head_dim": None}, "head_dim", 128),
        (LLAMA | {"head_dim": 64}, "head_dim", 64),
        (LLAMA | {"tie_word_embeddings": True}, "tied_embeddings", True),
        (LLAMA | {"model_type": "qwen2"}, "gated", True),
        (LLAMA | {"num_experts": 0}, "layers", 32),
        ({k: v for k, v in QWEN3.items() if k != "head_dim"}, "head_dim", 128),
        (GEMMA, "tied_embeddings", True),
        (GEMMA | {"model_type": "gemma2"}, "head_dim", 256),
        (PHI3, "kv_heads", 32),
        (GPT2, "intermediate", 6400),
        (GPT2 | {"n_inner": 5000}, "intermediate", 5000),
        (GPT2, "learned_positions", True),
        (NEOX, "tied_embeddings", False),
        (OPT, "learned_positions", True),
        (BLOOM, "intermediate", 57344),
        (FALCON, "kv_heads", 1),
        (FALCON | {"multi_query": False}, "kv_heads", 71),
        (FALCON, "context", 2048),
        (FALCON_40B, "kv_heads", 8),
        (FALCON_40B | {"ffn_hidden_size": 32000}, "intermediate", 32000),
        ({"model_type": "RefinedWeb", "hidden_size": 8192, "n_head": 128, "n_head_kv": 8, "n_layer": 60,
          "vocab_size": 65024}, "kv_heads", 8),
        (MPT, "kv_heads", 64),
        (MPT, "learned_positions", False),
        (MPT | {"attn_config": {"alibi": False, "kv_n_heads": 8}}, "kv_heads", 8),
        (MPT | {"attn_config": {"alibi": False}}, "learned_positions", True),
        (MPT | {"attn_config": {"attn_type": "multiquery_attention"}}, "kv_heads", 1),
        (MPT | {"ffn_config": {"ffn_type": "mptglu", "ffn_hidden_size": 9000}}, "intermediate", 9000),
        (MPT | {"ffn_config": {"ffn_type": "mptglu"}}, "gated", True),
    ],
)  # fmt: skip
def test_names_and_defaults_of_each_family(write, config, field, value):
    assert getattr(read_config(write(config)), field) == value


@pytest.mark.parametrize(
    ("folder", "name", "id"),
    [
        ("Llama 3 (8B)!", "config.json", "Llama-3-8B"),
        ("<b>é", "config.json", "b"),
        ("...", "config.json", "model"),
        ("x" * 200, "config.json", "x" * 80),
        ("any", "my-model.v2.json", "my-model.v2"),
        ("models--meta-llama--Llama-3/snapshots/0123abc", "config.json", "meta-llama--Llama-3"),
    ],
)
def test_the_id_is_the_folders_or_files_name_made_safe(write, folder, name, id):
    path = write(LLAMA, folder, name)
    assert read_config(path).id == id
    if name == "config.json":
        assert read_config(path.parent).id == id


def test_the_id_from_within_the_folder(write, monkeypatch):
    monkeypatch.chdir(write(LLAMA).parent)
    assert read_config(Path()).id == "some-model"
    assert read_config(Path("config.json")).id == "some-model"


def test_what_is_not_modelled_is_noted(write):
    assert read_config(write(LLAMA)).notes == ""
    assert "sliding_window 2047" in read_config(write(PHI3)).notes
    assert read_config(write(LLAMA | {"sliding_window": 99, "use_sliding_window": False})).notes == ""
    assert "quantization_config" in read_config(write(LLAMA | {"quantization_config": {"bits": 4}})).notes
    assert "2048" in read_config(write(FALCON)).notes
    assert "512" in read_config(write(OPT | {"word_embed_proj_dim": 512})).notes


# ---- What is refused


EXPERTS = "mixtures of experts are read of these model types only: mixtral, qwen3_moe, deepseek_v2, deepseek_v3"
LATENT = "multi-head latent attention (MLA) is read of these model types only: deepseek_v2, deepseek_v3"
ENCODER = "encoder-decoder models are not supported, only decoder-only ones"
WIDTH = "hidden_size: must be between 1 and 10,000,000, not"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_local_experts": 8}, f":14:3: num_local_experts: {EXPERTS}"),
        ({"n_routed_experts": 256, "kv_lora_rank": 512}, f":14:3: n_routed_experts: {EXPERTS}"),
        ({"num_experts": 128}, f":14:3: num_experts: {EXPERTS}"),
        ({"model_type": "qwen2_moe"}, f":2:3: model_type: {EXPERTS}, not 'qwen2_moe'"),
        ({"ffn_config": {"moe_num_experts": 16}}, f":15:5: moe_num_experts: {EXPERTS}"),
        ({"kv_lora_rank": 512}, f":14:3: kv_lora_rank: {LATENT}"),
        ({"is_encoder_decoder": True}, f":14:3: is_encoder_decoder: {ENCODER}"),
        ({"model_type": "t5"}, f":2:3: model_type: {ENCODER}"),
        ({"model_type": None}, ": model_type is missing: is this the config.json of a Hugging Face model?"),
        ({"model_type": ["llama"]}, ":2:3: model_type: must be text, not a list"),
        (
            {"model_type": "gemma3", "text_config": {}},
            ":2:3: model_type: 'gemma3' nests its language model: "
            "put what is under text_config into a file of its own",
        ),
        ({"hidden_size": -4096}, f":3:3: {WIDTH} -4096"),
        ({"hidden_size": 10**9}, f":3:3: {WIDTH} 1000000000"),
        ({"hidden_size": 10**300}, f":3:3: {WIDTH} a larger one"),
        ({"hidden_size": 4096.0}, ":3:3: hidden_size: must be a whole number, not 4096.0"),
        ({"hidden_size": True}, ":3:3: hidden_size: must be a whole number, not true"),
        ({"hidden_size": "4096\x1b"}, ":3:3: hidden_size: must be a whole number, not '4096\\x1b'"),
        ({"hidden_size": 4095}, ": the width 4095 is not a multiple of 32 heads"),
        ({"vocab_size": None}, ": vocab_size is missing"),
        ({"num_hidden_layers": 2001}, ":5:3: num_hidden_layers: must be between 1 and 2,000, not 2001"),
        ({"num_key_value_heads": 0}, ":7:3: num_key_value_heads: must be between 1 and 10,000,000, not 0"),
        ({"num_key_value_heads": 5}, ": 32 attention heads are not a multiple of 5 kv heads"),
        ({"tie_word_embeddings": "no"}, ":12:3: tie_word_embeddings: must be true or false, not 'no'"),
        ({"hidden_size": 3_200_000, "intermediate_size": 10**7}, ": comes to 3.9e+15 parameters, which no model has"),
    ],
)
def test_refused(write, change, message):
    assert problem(write(LLAMA | change)) == f"config.json{message}"


def test_unknown_family(write):
    line = problem(write(LLAMA | {"model_type": "lama"}))
    assert line.startswith("config.json:2:3: model_type: unknown model type 'lama' (known: llama, mistral,")
    assert line.endswith("did you mean 'llama'?")


def test_a_misspelt_key_is_suggested_and_all_problems_are_told(write):
    config = {k.replace("vocab_size", "vocabsize"): v for k, v in LLAMA.items()} | {"num_hidden_layers": 0}
    with pytest.raises(InputError) as caught:
        read_config(write(config))
    first, second = (str(problem) for problem in caught.value.problems)
    assert "num_hidden_layers: must be between" in first
    assert second.endswith("vocab_size is missing, did you mean 'vocabsize'?")


def test_a_derived_width_out_of_bounds(write):
    assert "intermediate" in problem(write(GPT2 | {"n_embd": 5_000_000, "n_inner": None}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "config.json: the model configuration is empty"),
        ('{\n  "model_type" "llama"\n}', "config.json:2:16: not valid JSON: Expecting ':' delimiter"),
        ("[1]", "config.json: a config.json holds a mapping, not a list"),
        ('"llama"', "config.json: a config.json holds a mapping, not 'llama'"),
        ('{"hidden_size": NaN}', "config.json: not valid JSON: NaN is not a number in JSON"),
        (b"\x80\x02}", "config.json: is not UTF-8 text (byte 0x80)"),
        (b" " * 5_000_001, "config.json: larger than 5 MB: that is no config.json"),
        ("[" * 100_000, "config.json: not valid JSON: nested too deep"),
    ],
)  # fmt: skip
def test_broken_files(write, content, message):
    assert problem(write(content)).startswith(message)


def test_a_number_of_too_many_digits(write):
    assert "not valid JSON" in problem(write('{"hidden_size": ' + "9" * 5000 + "}"))


def test_missing_files(write, tmp_path):
    path = write(LLAMA)
    assert problem(path.parent / "confg.json") == "confg.json: no such model configuration, did you mean 'config.json'?"
    assert problem(tmp_path / "some-modle").endswith("did you mean 'some-model'?")
    (tmp_path / "empty").mkdir()
    assert problem(tmp_path / "empty").endswith("config.json: no such model configuration")
    assert problem(Path(os.devnull)).endswith("is not a file")
    assert problem(Path("a\0b"))


def test_every_cut_of_a_file_is_refused_or_read(write):
    raw = json.dumps(MPT)
    for end in range(len(raw)):
        assert problem(write(raw[:end]))
