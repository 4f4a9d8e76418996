"""Reading word by word gives the ids of the library's own reading, for any text; where it would not, it is not done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from pipeline_lib.config.data import TokenizerConfig
from pipeline_lib.tokens import words
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer
from pipeline_lib.tokens.tokenizer import train_bpe
from pipeline_lib.tokens.words import WordReader, word_pattern

CORPUS = [path.read_text() for path in sorted(Path(json.__file__).parent.glob("*.py"))]
CHOICES = [
    {"max_repeats": repeats, "split_identifiers": split, "lower_case": split}
    for repeats in (0, 1, 2)
    for split in (True, False)
]
PIECES = st.sampled_from(
    [
        "HTTPServer", "aB", "Ab", "A", "b1", "1C", "_", "__init__", " ", "\n", "\x1c", "\x85", "\u00a0", "—",
        "\u2019", "é", "e\u0301", "\u0301", "\u03a3\u03c2", "İ", "ǅ", "\ufb01", "日本", "\u0663", "²", "\u2163",
        "🎉", "\u200d", "\x00", "\x7f", "'", "`", "{", "@", "/", "Ġ",
    ]
)  # fmt: skip


@pytest.fixture(scope="module", params=CHOICES, ids=str)
def tokenizer(request: pytest.FixtureRequest) -> PairTokenizer:
    return train_bpe(iter(CORPUS), TokenizerConfig(vocab_size=500, **request.param))


@settings(deadline=None, max_examples=200)
@given(st.lists(PIECES | st.text(max_size=5), max_size=40).map("".join))
def test_both_ways_give_the_same_ids(tokenizer: PairTokenizer, text: str) -> None:
    pattern = word_pattern(tokenizer.tokenizer)
    assert pattern is not None
    reader = WordReader(tokenizer.tokenizer, pattern)
    expected = tokenizer.tokenizer.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False).ids
    (ids,) = tokenizer.encode([text], "x", 10_000)
    assert ids[1:-1] == expected
    if "?" not in text and text.isprintable():
        assert reader.ids(text) == reader.ids(text) == expected, "the second time from memory"


def test_forgetting_changes_nothing(tokenizer: PairTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "KNOWN_WORDS", 7)
    expected = [encoding.ids for encoding in tokenizer.tokenizer.encode_batch(CORPUS, add_special_tokens=False)]
    assert [ids[1:-1] for ids in tokenizer.encode(CORPUS, "y", 100_000)] == expected


def test_tokenizers_whose_words_depend_on_each_other_are_left_alone() -> None:
    assert word_pattern(train_bpe(iter(CORPUS), TokenizerConfig(vocab_size=300, punctuation="keep")).tokenizer) is None
    assert word_pattern(Tokenizer(models.BPE())) is None
    own = train_bpe(iter(CORPUS), TokenizerConfig(vocab_size=300)).tokenizer
    other = Tokenizer.from_str(own.to_str())
    other.normalizer = normalizers.Sequence([normalizers.NFC(), own.normalizer])  # composes over what is looked up
    assert word_pattern(other) is None
    other = Tokenizer.from_str(own.to_str())
    other.pre_tokenizer = pre_tokenizers.ByteLevel()
    assert word_pattern(other) is None
