"""Folders of sentence-transformers: what is read of them, and what is refused by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sentence_transformer_folders import word_piece

from pipeline_lib.errors import UserError
from pipeline_lib.tokens.sentence_transformer import read_sentence_transformer, sentence_transformer_tokenizer

OLD = "sentence_transformers.models"
NEW = "sentence_transformers.sentence_transformer.modules"


def write(folder: Path, modules: list[tuple[str, str]], files: dict[str, Any] | None = None) -> Path:
    """modules.json of (type, path), the usual configs, and these files over them."""
    folder.mkdir(exist_ok=True)
    usual = {
        "modules.json": [{"idx": n, "name": str(n), "path": path, "type": kind} for n, (kind, path) in enumerate(modules)],
        "1_Pooling/config.json": {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True},
        "config.json": {"model_type": "bert", "max_position_embeddings": 64},
    }
    for name, content in {**usual, **(files or {})}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


BASE = [(f"{OLD}.Transformer", ""), (f"{OLD}.Pooling", "1_Pooling")]


def test_old_and_new_layouts_are_read_alike(tmp_path: Path) -> None:
    old = read_sentence_transformer(write(tmp_path / "old", [*BASE, (f"{OLD}.Normalize", "2_Normalize")]))
    new_files = {"1_Pooling/config.json": {"embedding_dimension": 8, "pooling_mode": "mean", "include_prompt": True}}
    modules = [
        ("sentence_transformers.base.modules.transformer.Transformer", ""),
        (f"{NEW}.pooling.Pooling", "1_Pooling"),
        ("sentence_transformers.base.modules.normalize.Normalize", "2_Normalize"),
    ]
    new = read_sentence_transformer(write(tmp_path / "new", modules, new_files))
    assert (old.modes, old.include_prompt, [module.kind for module in old.head]) == (("mean",), True, ["Normalize"])
    assert (new.modes, new.include_prompt, [module.kind for module in new.head]) == (("mean",), True, ["Normalize"])


def test_a_transformer_may_lie_in_a_folder_of_its_own(tmp_path: Path) -> None:
    modules = [(f"{OLD}.Transformer", "0_Transformer"), (f"{OLD}.Pooling", "1_Pooling")]
    limits = {"0_Transformer/sentence_bert_config.json": {"max_seq_length": 24, "query_length": 12}}
    model = read_sentence_transformer(write(tmp_path / "m", modules, limits))
    assert model.transformer == tmp_path / "m" / "0_Transformer" and model.longest == {"x": 12, "y": 24}


@pytest.mark.parametrize(
    ("prompts", "default", "x", "y"),
    [
        ({"query": "q: ", "document": "d: "}, None, "q: ", "d: "),
        ({"query": "q: ", "document": "", "passage": "p: "}, None, "q: ", "p: "),
        ({"query": "q: ", "document": ""}, "query", "q: ", ""),
        ({"query": "", "document": "", "plain": "t: "}, "plain", "t: ", "t: "),
        ({"plain": "t: "}, None, "", ""),
        ({"query": None}, None, "", ""),
    ],
)
def test_prompts(tmp_path: Path, prompts: dict[str, str], default: str | None, x: str, y: str) -> None:
    settings = {"config_sentence_transformers.json": {"prompts": prompts, "default_prompt_name": default}}
    assert read_sentence_transformer(write(tmp_path / "m", BASE, settings)).prompts == {"x": x, "y": y}


@pytest.mark.parametrize(
    ("module", "named"),
    [
        (f"{OLD}.StaticEmbedding", "StaticEmbedding"),
        (f"{OLD}.WordEmbeddings", "WordEmbeddings"),
        ("sentence_transformers.base.modules.router.Router", "Router"),
        (f"{OLD}.Asym", "Asym"),
        (f"{OLD}.LSTM", "LSTM"),
        (f"{OLD}.CNN", "CNN"),
        (f"{OLD}.BoW", "BoW"),
        ("custom_st.Transformer", "custom_st.Transformer"),
        ("modeling.sentence_transformers.Pooling", "modeling.sentence_transformers.Pooling"),
    ],
)
@pytest.mark.parametrize("place", [0, 2])
def test_modules_that_cannot_be_kept_are_refused_by_name(tmp_path: Path, module: str, named: str, place: int) -> None:
    modules = [*BASE[:place], (module, ""), *BASE[place:]]
    with pytest.raises(UserError, match=named) as refusal:
        read_sentence_transformer(write(tmp_path / "m", modules))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("path", ["..", "../other", "/etc", "a/../../b", "C:\\\\x", "link", None, 7])
def test_paths_that_leave_the_folder_are_refused(tmp_path: Path, path: Any) -> None:
    folder = write(tmp_path / "m", BASE)
    (folder / "link").symlink_to("/etc")
    (folder / "modules.json").write_text(json.dumps([{"path": "", "type": BASE[0][0]}, {"path": path, "type": BASE[1][0]}]))
    with pytest.raises(UserError, match="leads outside"):
        read_sentence_transformer(folder)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"modules.json": {"a": 1}}, "list of modules"),
        ({"1_Pooling/config.json": {"pooling_mode": "attention"}}, "attention"),
        ({"config_sentence_transformers.json": {"model_type": "SparseEncoder"}}, "SparseEncoder"),
        ({"config_sentence_transformers.json": {"default_prompt_name": "x"}}, "default_prompt_name"),
        ({"sentence_bert_config.json": {"transformer_task": "fill-mask"}}, "fill-mask"),
        ({"sentence_bert_config.json": {"query_expansion": {"length": 32}}}, "query_expansion"),
        ({"sentence_bert_config.json": {"config_args": {"is_causal": False}}}, "is_causal"),
        ({"adapter_config.json": {}}, "adapter"),
        ({"tokenizer_config.json": {"truncation_side": "left"}}, "truncation"),
    ],
)
def test_what_else_cannot_be_kept(tmp_path: Path, files: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_sentence_transformer(write(tmp_path / "m", BASE, files))


def test_a_dense_that_reads_token_states_is_refused(tmp_path: Path) -> None:
    dense = {"2_Dense/config.json": {"in_features": 8, "out_features": 4, "module_input_name": "token_embeddings"}}
    with pytest.raises(UserError, match="token_embeddings"):
        read_sentence_transformer(write(tmp_path / "m", [*BASE, (f"{OLD}.Dense", "2_Dense")], dense))


def test_texts_are_wrapped_prompted_cut_and_never_become_special(tmp_path: Path) -> None:
    settings = {
        "config_sentence_transformers.json": {"prompts": {"query": "query ", "document": ""}},
        "sentence_bert_config.json": {"max_seq_length": 6},
        "tokenizer_config.json": {"pad_token": "[PAD]"},
    }
    folder = write(tmp_path / "m", BASE, settings)
    tokenizer = word_piece()
    tokenizer.save(str(folder / "tokenizer.json"))
    pairs = sentence_transformer_tokenizer(folder)
    (query,) = tokenizer.encode("query", add_special_tokens=False).ids
    assert pairs.encode([""], "x", 100) == [[2, query, 3]] and pairs.encode([""], "y", 100) == [[2, 3]]
    rows = pairs.encode(["anchor basket candle dragon engine feather", "[SEP] [CLS]"], "x", 100)
    assert [len(row) for row in rows] == [6, 6] and all(row[:2] == [2, query] and row[-1] == 3 for row in rows)
    assert not {2, 3} & set(rows[1][1:-1])
    pairs.save(tmp_path)
    assert type(pairs).load(tmp_path).delimiters == pairs.delimiters and pairs.pad == 0


def test_a_prompt_that_spells_a_special_token_is_refused(tmp_path: Path) -> None:
    settings = {"config_sentence_transformers.json": {"prompts": {"query": "[MASK] "}}}
    folder = write(tmp_path / "m", BASE, settings)
    word_piece().save(str(folder / "tokenizer.json"))
    with pytest.raises(UserError, match=r"\[MASK\]"):
        sentence_transformer_tokenizer(folder)
