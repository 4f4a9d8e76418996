"""Whole documents as token ids: nothing cut, each ended once, and sequences that bring every token of a file but the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from language_texts import Document, write_language_inputs

from pipeline_lib.config.data import TokenizerConfig
from pipeline_lib.config.presets import preset
from pipeline_lib.errors import UserError
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.tokens import text_shards
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer
from pipeline_lib.tokens.text_shards import Sequences, TextStream, end_of_text

TOKENIZER = TokenizerConfig(vocab_size=600, min_frequency=1).for_language_model()
CODE = 'class HTTPServer(Base):\n    """Serve."""\n\n    def parseDate(self, x): return {x: [1, -2.5]}  # NOT_me\n'


def documents() -> list[Document]:
    trained = [
        Document(f"{CODE}\nvalue_{n} = {n}\n" + "Über alles: naïve café 猫.\n" * n, "train", ((f"doc {n}", f"{CODE} {n}"),))
        for n in range(12)
    ]
    return [*trained, Document("held OUT, text! " * 40, "validation", (("held", "out"),)), Document("", "train", (("a", "b"),))]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Artifact, PairTokenizer]:
    monkeypatch.setattr(text_shards, "FILE_TOKENS", 300)  # several files
    monkeypatch.setattr(text_shards, "BATCH_CHARACTERS", 200)
    _, inputs = write_language_inputs(tmp_path, documents(), TOKENIZER)
    return inputs.shards, PairTokenizer.load(inputs.tokenizer.part_folder())


def test_documents_are_whole_end_once_and_keep_case_and_punctuation(written: tuple[Artifact, PairTokenizer]) -> None:
    shards, tokenizer = written
    stream = TextStream.open(shards, "train")
    assert stream is not None and len(stream.files) > 1
    rows = [ids for batch in stream.batches for ids in batch["ids"].to_pylist()]
    names = [name for batch in stream.batches for name in batch["document_id"].to_pylist()]
    texts = {one.id: one.text for one in documents() if one.split == "train"}
    assert names == sorted(texts)
    for name, ids in zip(names, rows, strict=True):
        assert ids[-1] == end_of_text(tokenizer) and end_of_text(tokenizer) not in ids[:-1]
        assert not {*tokenizer.delimiters.all_ids[:-1]} & {*ids}, "no delimiters"
        assert tokenizer.decode(ids[:-1]) == " ".join(texts[name].split()), "all but white space"
    facts = shards.part("train").facts
    expected = [list(texts.values()), sum(map(len, rows))]
    assert (facts["documents"], facts["tokens"]) == (len(expected[0]), expected[1])
    assert facts["text_bytes"] == sum(len(text.encode()) for text in texts.values())
    assert facts["text_words"] == sum(len(text.split()) for text in texts.values())
    assert shards.manifest.counts.n_in == shards.manifest.counts.n_out == len(texts) + 1
    assert (
        stream.counts(tokenizer.vocab_size).tolist()
        == np.bincount(np.concatenate(rows), minlength=tokenizer.vocab_size).tolist()
    )


@pytest.mark.parametrize("length", [8, 33])
def test_sequences_are_the_streams_of_the_files_and_leave_less_than_one_of_each(
    written: tuple[Artifact, PairTokenizer], length: int
) -> None:
    stream = TextStream.open(written[0], "train")
    assert stream is not None
    sequences = Sequences(stream, length)
    expected = [file[start : start + length] for file in stream.files for start in range(0, len(file) - length + 1, length)]
    assert len(sequences) == len(expected) > 3
    order = np.arange(len(sequences))[::-1]
    assert (sequences.rows(order) == np.stack(expected)[::-1]).all()


def test_held_out_documents_are_whole_and_as_many_as_asked_for(written: tuple[Artifact, PairTokenizer]) -> None:
    stream = TextStream.open(written[0], "train")
    assert stream is not None
    lengths = [len(ids) for batch in stream.batches for ids in batch["ids"].to_pylist()]
    for tokens in (1, lengths[0] + lengths[1], 10**9):
        found, n_bytes, n_words = stream.documents(tokens)
        assert [*map(len, found)] == lengths[: len(found)]
        assert len(found) == max(1, next((n for n in range(len(lengths)) if sum(lengths[: n + 1]) > tokens), len(lengths)))
        assert n_bytes > n_words > 0 or len(found) == 1
    assert TextStream.open(written[0], "test") is None


def test_a_dataset_without_documents_for_training_is_refused(tmp_path: Path) -> None:
    # its only training document holds the text of the validation split
    shared = [Document("one", "train", (("x", "y"), ("a", "held")), left=1), Document("two", "validation", (("b", "held"),))]
    with pytest.raises(UserError, match="no whole document is for training"):
        write_language_inputs(tmp_path, shared, TOKENIZER)


def test_a_language_model_of_ones_own_keeps_case_names_and_punctuation_and_nothing_else_changes() -> None:
    kept = preset("demo", layers=[{"pretrain": {"steps": 5}}])
    found = kept.tokenizer
    assert (found.lower_case, found.split_identifiers, found.punctuation, found.max_repeats) == (False, False, "keep", None)
    assert found.vocab_size == preset("demo").tokenizer.vocab_size
    changed = {name for name in type(kept).model_fields if getattr(kept, name) != getattr(preset("demo"), name)}
    assert changed == {"tokenizer", "pretrain"}
    assert preset("demo", "random", layers=[{"pretrain": {"steps": 5}}]).tokenizer == found
    asked = [{"pretrain": {"steps": 5}, "tokenizer": {"lower_case": True}}]
    assert preset("demo", layers=asked).tokenizer.lower_case, "what a user sets wins"
    assert preset("demo").tokenizer.punctuation == "drop", "without pre-training it is as it was"


def test_the_options_of_documents_are_no_part_of_the_key_of_what_was_there() -> None:
    fields = preset("smoke").pretrain.key_fields()
    assert not {"text", "evaluation_tokens"} & {*fields}
