"""No text forges a reserved id, the closing delimiter is last, and a plain tokenizer.json does all of it by itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from pipeline_lib.config.data import AdoptedTokenizerConfig, Bos, TokenizerConfig
from pipeline_lib.errors import UserError
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Counts
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.delimiters import Delimiters
from pipeline_lib.tokens.pair_tokenizer import RESERVED, PairTokenizer, side_tokenizer_json
from pipeline_lib.tokens.tokenizer import adopt_tokenizer, train_bpe, train_tokenizer
from pipeline_lib.tokens.words import REACH

QUICK = settings(deadline=None, max_examples=60)
CORPUS = [path.read_text() for path in sorted(Path(json.__file__).parent.glob("*.py"))]
NASTY = st.sampled_from(
    [*RESERVED, "[", "]", "{", "}", "[[", "}}", "<|endoftext|>", " ", "\n", "\t", "_", "HTTPServer", "Ġ", "é", "日本", "\x00"]
)
TEXTS = st.lists(NASTY | st.text(max_size=12), max_size=12).map("".join)
LONG_TEXTS = st.tuples(TEXTS, st.integers(1, 40), st.sampled_from(["", " ", "\n "])).map(
    lambda parts: parts[2].join([parts[0]] * parts[1])
)


def saved(folder: Path, **choices: object) -> Path:
    folder.mkdir()
    train_bpe(iter(CORPUS), TokenizerConfig(vocab_size=600, **choices)).save(folder)
    return folder


CHOICES = {
    "keep": {"punctuation": "keep"},
    "drop": {"punctuation": "drop"},
    "twice": {"punctuation": "drop", "max_repeats": 2},
    "whole": {"punctuation": "drop", "max_repeats": 1, "split_identifiers": False, "lower_case": False},
}


@pytest.fixture(scope="module", params=list(CHOICES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("tokenizer") / "part", **CHOICES[request.param])


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> PairTokenizer:
    return PairTokenizer.load(saved(tmp_path_factory.mktemp("kept") / "part", punctuation="keep"))


@QUICK
@given(text=LONG_TEXTS, side=st.sampled_from(["x", "y"]), max_tokens=st.integers(2, 40))
def test_no_text_forges_a_reserved_id(folder: Path, text: str, side: str, max_tokens: int) -> None:
    tokenizer = PairTokenizer.load(folder)
    (ids,) = tokenizer.encode([text], side, max_tokens)
    assert 2 <= len(ids) <= max_tokens
    assert ((ids[0],), (ids[-1],)) == tokenizer.delimiters.of(side)
    assert all(len(RESERVED) <= id_ < tokenizer.vocab_size for id_ in ids[1:-1])


@QUICK
@given(texts=st.lists(LONG_TEXTS, max_size=4), side=st.sampled_from(["x", "y"]), max_tokens=st.integers(2, 40))
def test_the_plain_tokenizer_json_does_the_same(folder: Path, texts: list[str], side: str, max_tokens: int) -> None:
    plain = Tokenizer.from_str(side_tokenizer_json(folder, side, max_tokens))
    expected = [encoding.ids for encoding in plain.encode_batch(texts)]
    assert PairTokenizer.load(folder).encode(texts, side, max_tokens) == expected


@pytest.mark.parametrize("side", ["x", "y"])
def test_transformers_reads_it_and_honours_split_special_tokens(folder: Path, side: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = PairTokenizer.load(folder)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": tokenizer.pad_token,
        "split_special_tokens": True,
        "model_max_length": 12,
    }
    (tmp_path / "tokenizer.json").write_text(side_tokenizer_json(folder, side, 12), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    texts = ["", "a[0] = {k: v}", " ".join(RESERVED), RESERVED[4] * 9, "word " * 50, "日本語 é [ ] { }"]
    batch = theirs(texts, padding=True, truncation=True)
    rows = [ids[: sum(mask)] for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    assert rows == tokenizer.encode(texts, side, 12)
    assert theirs.pad_token_id == tokenizer.pad


@pytest.mark.parametrize("text", ["", " \n\t", "[", "]{}[", " ".join(RESERVED), "[ x ]" * 300])
def test_empty_bracketed_and_overlong_texts_close(kept: PairTokenizer, text: str) -> None:
    (ids,) = kept.encode([text], "y", 16)
    assert ids[-1] == kept.y_close and ids.count(kept.y_close) == 1
    assert (len(ids) == 2) == (not text.strip())


def test_brackets_in_text_are_ordinary_ids(kept: PairTokenizer) -> None:
    (ids,) = kept.encode(["a[0] = {k: v}"], "x", 50)
    assert kept.decode(ids) == "a[0] = {k: v}"
    assert not set(ids[1:-1]) & set(range(len(RESERVED)))


@QUICK
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_decoding_gives_the_text_up_to_normalisation(kept: PairTokenizer, text: str) -> None:
    (ids,) = kept.encode([text], "x", 1000)
    assert kept.decode(ids) == kept.tokenizer.normalizer.normalize_str(text)


@pytest.mark.parametrize(
    ("text", "keep", "drop"),
    [
        ("HTTPServer", "http server", "http server"),
        ("parseISO8601Date", "parse iso8601 date", "parse iso8601 date"),
        ("__init__(self)\n\t  return", "init (self) return", "init self return"),
        ("ÉcoleÀMoi", "école à moi", "école à moi"),
        ("x[0] += 1", "x[0] += 1", "x 0 1"),
        ("नमस्ते", "नमस्ते", "नमस्ते"),
    ],
)
def test_what_happens_to_text(text: str, keep: str, drop: str) -> None:
    for punctuation, expected in (("keep", keep), ("drop", drop)):
        tokenizer = train_bpe(iter(CORPUS), TokenizerConfig(vocab_size=300, punctuation=punctuation))
        (ids,) = tokenizer.encode([text], "x", 100)
        assert tokenizer.decode(ids).replace(" (", "(") == expected.replace(" (", "(")


def test_case_and_identifiers_may_be_kept() -> None:
    config = TokenizerConfig(vocab_size=300, lower_case=False, split_identifiers=False, punctuation="drop")
    tokenizer = train_bpe(iter(CORPUS), config)
    assert tokenizer.decode(tokenizer.encode(["myHTTP_server + 1"], "x", 100)[0]) == "myHTTP_server 1"


@pytest.mark.parametrize(
    ("limit", "text", "expected"),
    [
        (1, "a b a c a b", "c a b"),
        (2, "a b a c a b", "b a c a b"),
        (2, "a a a a ab a", "a ab a"),
        (2, "self.x = self.y + self.self", "x y self self"),
        (2, "a " + "b c d " * 10 + "a a", "b c d b c d a a"),
        (1, "a " + "b " * REACH + "a", "b a"),
        (1, "a " + "b " * (REACH + 1) + "a", "a b a"),
        (0, "a a a", "a a a"),
    ],
)
def test_only_the_last_repeats_of_a_word_are_kept(limit: int, text: str, expected: str) -> None:
    config = TokenizerConfig(vocab_size=300, punctuation="drop", max_repeats=limit)
    tokenizer = train_bpe(iter(CORPUS), config)
    assert tokenizer.decode(tokenizer.encode([text], "y", 1000)[0]) == expected


def test_the_head_of_a_long_text_has_the_ids_of_the_whole(kept: PairTokenizer) -> None:
    """With 10 tokens asked for, 96 characters are read first; of white space or letters they may be too few."""
    texts = ["x = compute(alpha, beta) " * 40, " " * 5000 + "late words here", "a" * 5000, "a b" + " " * 900 + "c"]
    rows, n_cut = kept.encode_counting(texts, "x", 10)
    whole = [kept.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    assert [row[1:-1] for row in rows] == [ids[:8] for ids in whole]
    assert n_cut == sum(len(ids) > 8 for ids in whole) == 3


def test_lone_surrogates_read_as_question_marks(kept: PairTokenizer) -> None:
    assert kept.encode(["a\ud800b"], "x", 20) == kept.encode(["a?b"], "x", 20)


def test_training_twice_gives_the_same_bytes() -> None:
    config = TokenizerConfig(vocab_size=1000)
    first, second = (train_bpe(iter(CORPUS), config).tokenizer.to_str() for _ in range(2))
    assert first == second
    assert json.loads(first)["added_tokens"] == []
    assert [json.loads(first)["model"]["vocab"][name] for name in RESERVED] == [0, 1, 2, 3, 4]


# ---- the stage

Row = dict[str, object]
Curate = Callable[[Store, dict[str, list[Row]]], Artifact]
MakePair = Callable[[str, int, str, str], Row]


def test_the_stage_reads_the_training_split_only(tmp_path: Path, curated_of: Curate, a_pair: MakePair) -> None:
    rows = [a_pair("code", i, f"say number {i}", text) for i, text in enumerate(CORPUS)]
    secret = [a_pair("code", 99, "zebrawort " * 50, "zebrawort " * 50)]
    calls: list[tuple[float, float, str]] = []
    artifacts = [
        train_tokenizer(
            store,
            curated_of(store, {"train": rows, "test": secret}),
            TokenizerConfig(vocab_size=500),
            lambda *call: calls.append(call),
        )
        for store in (Store(tmp_path / "a"), Store(tmp_path / "b"))
    ]
    assert artifacts[0].digest == artifacts[1].digest
    folder = artifacts[0].part_folder("tokenizer")
    assert sorted(path.name for path in folder.iterdir()) == ["delimiters.json", "tokenizer.json"]
    assert "zebra" not in (folder / "tokenizer.json").read_text()
    assert PairTokenizer.load(folder).vocab_size == 500
    assert calls[-1][:2] == (2 * len(rows), 2 * len(rows))


def test_fewer_texts_may_be_read(tmp_path: Path, curated_of: Curate, a_pair: MakePair) -> None:
    curated = curated_of(Store(tmp_path), {"train": [a_pair("text", i, CORPUS[0], "zebrawort") for i in range(9)]})
    made = train_tokenizer(Store(tmp_path), curated, TokenizerConfig(max_training_texts=5))
    assert made.manifest.counts == Counts(n_in=5, n_out=5)


def with_post_processor(folder: Path, single: str) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    tokenizer.save(str(folder / "tokenizer.json"))


LLAMA = {"tokenizer_class": "LlamaTokenizer"}


@pytest.mark.parametrize(
    ("single", "fields", "bos", "expected"),
    [
        ("<s> $A", {}, "auto", ("<s>",)),
        ("<s> $A </s>", {}, "auto", ("<s>",)),  # the closing delimiter takes the place of the end
        ("<s> </s> $A", {}, "auto", ("<s>", "</s>")),
        ("$A </s>", {}, "auto", ()),
        ("$A", {"add_bos_token": True, "bos_token": "<s>"}, "auto", ("<s>",)),
        ("", {"add_bos_token": True, "bos_token": {"content": "<s>", "special": True}}, "auto", ("<s>",)),
        ("<s> $A", {"add_bos_token": False, "bos_token": "<s>"}, "auto", ()),
        ("", {"bos_token": "<s>"}, "auto", ()),  # it has one, as GPT-2, and does not add it
        ("", {"bos_token": "<s>", **LLAMA}, "auto", ("<s>",)),
        ("", {"bos_token": "<s>", "tokenizer_class": "GemmaTokenizerFast"}, "auto", ("<s>",)),
        ("$A", {"bos_token": "<s>", **LLAMA}, "auto", ()),
        ("", {"bos_token": "<s>", "add_bos_token": False, **LLAMA}, "auto", ()),
        ("", {"bos_token": "<s>"}, "on", ("<s>",)),
        ("<s> $A", {"add_bos_token": True, "bos_token": "<s>"}, "off", ()),
        ("", {"add_bos_token": True, "bos_token": "unheard of"}, "auto", ()),
    ],
)
def test_a_sequence_start_is_first_where_the_model_had_one(
    tmp_path: Path, single: str, fields: dict[str, object], bos: Bos, expected: tuple[str, ...]
) -> None:
    folder = causal_lm(tmp_path / "lm", ["<s>", "</s>"], **fields)
    if single:
        with_post_processor(folder, single)
    tokenizer = PairTokenizer.from_causal_lm(folder, bos)
    ids = tuple(map(tokenizer.tokenizer.token_to_id, expected))
    for side, brackets in (("x", "[]"), ("y", "{}")):
        opening, closing = map(tokenizer.tokenizer.token_to_id, brackets)
        assert tokenizer.delimiters.of(side) == ((*ids, opening), (closing,))
    part = adopt_tokenizer(Store(tmp_path / "store"), folder, bos=bos).part_folder("tokenizer")
    assert PairTokenizer.load(part).delimiters == tokenizer.delimiters
    theirs = Tokenizer.from_str(side_tokenizer_json(part, "y", 12))
    assert theirs.encode("some words").ids == tokenizer.encode(["some words"], "y", 12)[0]


def test_a_sequence_start_that_is_asked_for_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.bos is on, and its tokenizer names no sequence start"):
        PairTokenizer.from_causal_lm(causal_lm(tmp_path / "lm", []), "on")
    (tmp_path / "lm" / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer_config\.json: no JSON"):
        PairTokenizer.from_causal_lm(tmp_path / "lm")


def test_the_older_file_of_special_tokens_is_read_too(tmp_path: Path) -> None:
    folder = causal_lm(tmp_path / "lm", ["<s>"], add_bos_token=True)
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<s>"}))
    assert PairTokenizer.from_causal_lm(folder).delimiters.x_prefix == (256, 58)


def test_without_a_sequence_start_keys_are_what_they_were(tmp_path: Path) -> None:
    tokenizer = PairTokenizer.from_causal_lm(causal_lm(tmp_path / "lm", []))
    tokenizer.save(tmp_path)
    names = ("x_open", "x_close", "y_open", "y_close", "pad")
    before = dict(zip(names, (58, 60, 90, 92, 92), strict=True))
    assert (tmp_path / "delimiters.json").read_text() == json.dumps(before, indent=1) + "\n"
    assert "bos" not in TokenizerConfig().key_fields() | AdoptedTokenizerConfig().key_fields()


def test_a_side_may_be_wrapped_in_several_ids_or_in_none(tmp_path: Path) -> None:
    folder = causal_lm(tmp_path / "lm", ["<s>"])
    plain = PairTokenizer.from_causal_lm(folder)
    bos, opening, closing = 256, *(ids[0] for ids in plain.delimiters.of("x"))
    delimiters = Delimiters((bos, opening), (closing,), (bos, 65, 66), (), pad=bos)
    PairTokenizer(plain.tokenizer, delimiters).save(folder)
    loaded = PairTokenizer.load(folder)
    assert loaded.delimiters == delimiters
    assert loaded.delimiters.around == {"x": (2, 1), "y": (3, 0)} and loaded.vocab_size == 257
    text = loaded.tokenizer.encode("abcdef", add_special_tokens=False).ids
    assert loaded.encode(["abcdef", ""], "x", 5) == [[bos, opening, *text[:2], closing], [bos, opening, closing]]
    assert loaded.encode_counting(["abcdef", "ab"], "y", 7) == ([[bos, 65, 66, *text[:4]], [bos, 65, 66, *text[:2]]], 1)
    assert loaded.decode(loaded.encode(["abcdef"], "x", 9)[0]) == "a b c d e f"  # it has no decoder
    for side in ("x", "y"):
        theirs = Tokenizer.from_str(side_tokenizer_json(folder, side, 6))
        theirs.encode_special_tokens = True
        texts = ["abcdef", "", "a", "<s>"]
        assert [encoding.ids for encoding in theirs.encode_batch(texts)] == loaded.encode(texts, side, 6)
    with pytest.raises(UserError, match=r"2 tokens has no room for the 3 that stand around every x; raise shards\.max_x"):
        loaded.encode(["a"], "x", 2)


def test_delimiters_that_are_no_ids_are_refused(tmp_path: Path) -> None:
    folder = causal_lm(tmp_path / "lm", [])
    good = PairTokenizer.from_causal_lm(folder).delimiters.fields
    assert good == {"x_open": 58, "x_close": 60, "y_open": 90, "y_close": 92, "pad": 92}
    bad: list[dict[str, object]] = [{}, {"x_open": "1"}, {"y_close": [True]}, {"pad": -1}, {"pad": []}]
    for fields in bad:
        (folder / "delimiters.json").write_text(json.dumps({**good, **fields} if fields else {}))
        with pytest.raises(UserError, match=r"delimiters\.json: no delimiters"):
            PairTokenizer.load(folder)


def test_no_training_pairs_is_said(tmp_path: Path, curated_of: Curate) -> None:
    store = Store(tmp_path)
    with pytest.raises(UserError, match="the training split has no pairs"):
        train_tokenizer(store, curated_of(store, {"train": []}), TokenizerConfig())


# ---- a given causal language model


def causal_lm(folder: Path, special: list[str], **fields: object) -> Path:
    folder.mkdir()
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))
    return folder


def test_a_causal_lm_lends_its_own_brackets(tmp_path: Path) -> None:
    folder = causal_lm(tmp_path / "lm", ["<|endoftext|>"], eos_token="<|endoftext|>")
    tokenizer = PairTokenizer.from_causal_lm(folder)
    names = [tokenizer.name_of(id_) for id_ in (tokenizer.x_open, tokenizer.x_close, tokenizer.y_open, tokenizer.y_close)]
    assert names == ["[", "]", "{", "}"]
    assert tokenizer.pad_token == "<|endoftext|>" and tokenizer.vocab_size == 257
    rows = tokenizer.encode(["a]b", "<|endoftext|>", "", "word" * 9], "x", 8)
    assert all((row[0], row[-1]) == (tokenizer.x_open, tokenizer.x_close) and len(row) <= 8 for row in rows)
    assert tokenizer.pad not in rows[1] and tokenizer.reserved == ()
    assert tokenizer.decode(rows[0]) == "a ] b"

    store = Store(tmp_path / "store")
    artifact = adopt_tokenizer(store, folder)
    part = artifact.part_folder("tokenizer")
    assert PairTokenizer.load(part).encode(["a]b"], "x", 8) == rows[:1]
    plain = Tokenizer.from_str(side_tokenizer_json(part, "x", 8))
    assert plain.encode("a]b").ids == rows[0] and plain.encode("word" * 9).ids == rows[3]
    assert adopt_tokenizer(store, folder).folder == artifact.folder


def test_a_causal_lm_without_brackets_gets_ids_past_its_end(tmp_path: Path) -> None:
    folder = tmp_path / "lm"
    folder.mkdir()
    words = Tokenizer(models.WordLevel({"<unk>": 0, "word": 1}, unk_token="<unk>"))
    words.save(str(folder / "tokenizer.json"))
    tokenizer = PairTokenizer.from_causal_lm(folder)
    assert tokenizer.encode(["word"], "y", 8) == [[4, 1, 5]] and tokenizer.vocab_size == 7
    assert tokenizer.reserved == (2, 3, 4, 5, 6)
    assert tokenizer.pad_token == "<batch pad>"


def test_a_folder_without_a_tokenizer_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tokenizer.json"):
        PairTokenizer.from_causal_lm(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="no JSON"):
        PairTokenizer.from_causal_lm(tmp_path)
    with pytest.raises(UserError, match=r"no delimiters.json"):
        PairTokenizer.load(tmp_path)
