"""Which pairs hold a text of an evaluation suite.

A pair is contaminated by an evaluation text of 13 words or more (`ngram_words`) when both share 13 words in a row; by one of
kind `code` when it holds at least half (`code_share`) of its 13-grams, an exact copy being all of them; by a shorter text
when its x, its y or the two together are that text. Words are compared without case, spacing and punctuation. y is read on
from x, so that a text that was cut between the two is found.

What is held in memory is the evaluation side: some 20 bytes a gram. Every pair is judged alone, and before deduplication:
no clean pair goes with a contaminated one that it resembles, and the count by suite is that of the dump.

Legend: R rows of a batch, G grams of them, M distinct grams of all evaluation texts, H places where a row holds one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.artifact import Artifact
from pipeline_lib.curation.dedup import Curation
from pipeline_lib.curation.shingles import grams, hash_words, words_of

REASON = "contaminated"
BATCH_ROWS = 1_000
SAMPLES_A_SUITE = 3

Facts = dict[str, dict[str, Any]]


def decontaminate(curation: Curation, contamination: Artifact) -> Facts:
    """Drop the rows that hold an evaluation text, as `contaminated`.

    Args:
        curation: the table of keys.
        contamination: of the stage "contamination".

    Returns:
        By suite: its texts; how many of them were found; how many pairs went; samples, of the lowest pair ids.
    """
    texts = EvaluationTexts(contamination)
    findings = {suite: Findings() for suite in sorted(set(texts.suites))}
    gone: list[pa.Array] = []
    query = "SELECT id, path, x, y FROM read_parquet($paths)"
    for batch in curation.connection.sql(query, params={"paths": curation.paths}).to_arrow_reader(BATCH_ROWS):
        rows_H, texts_H = texts.found_in(batch["x"].to_pylist(), batch["y"].to_pylist())
        gone.append(batch["id"].take(pa.array(np.unique(rows_H))))
        for row, text in zip(rows_H.tolist(), texts_H.tolist(), strict=True):
            findings[texts.suites[text]].add(batch, row, text)
    curation.drop_ids(pa.chunked_array(gone, pa.string()), REASON)
    return {suite: found.facts(suite, texts) for suite, found in findings.items()}


class EvaluationTexts:
    """The texts of a contamination artifact, to be found by their grams."""

    def __init__(self, contamination: Artifact) -> None:
        self.ngram_words = int(contamination.manifest.config["rules"]["ngram_words"])
        tables: list[pa.Table] = []
        grams_, owners = [], []
        for part in contamination.manifest.parts:
            folder = contamination.folder_of(part)
            found = pq.read_table(folder / "grams.parquet")
            grams_.append(found["gram"].to_numpy())
            owners.append(found["text"].to_numpy() + sum(table.num_rows for table in tables))
            tables.append(pq.read_table(folder / "texts.parquet"))
        table = pa.concat_tables(tables)
        self.suites: list[str] = table["suite"].to_pylist()
        self.ids: list[str] = table["id"].to_pylist()
        self.needed = table["needed"].to_numpy()
        every, owner = np.concatenate(grams_), np.concatenate(owners)
        order = np.argsort(every, kind="stable")
        self.owners = owner[order]
        self.grams_M, first_M = np.unique(every[order], return_index=True)
        self.bounds = np.append(first_M, len(order))

    def found_in(self, xs: list[str], ys: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Every (row, evaluation text) where the row holds the text, in rising order."""
        rows_G, hashes_G = self._grams_of(xs, ys)
        at_G = np.searchsorted(self.grams_M, hashes_G)
        hit = np.flatnonzero(self.grams_M[np.minimum(at_G, len(self.grams_M) - 1)] == hashes_G)
        held = np.unique(np.stack([rows_G[hit], at_G[hit]], axis=1), axis=0)
        counts = self.bounds[held[:, 1] + 1] - self.bounds[held[:, 1]]
        rows_H = np.repeat(held[:, 0], counts)
        places = np.arange(len(rows_H)) + np.repeat(self.bounds[held[:, 1]] - np.cumsum(counts) + counts, counts)
        found, shared = np.unique(np.stack([rows_H, self.owners[places]], axis=1), axis=0, return_counts=True)
        found = found[shared >= self.needed[found[:, 1]]]
        return found[:, 0], found[:, 1]

    def _grams_of(self, xs: list[str], ys: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """The row of each gram, and its hash: of x and y as one text, and of either alone where it is shorter than a gram."""
        n = self.ngram_words
        words, offsets = hash_words([text for pair in zip(xs, ys, strict=True) for text in pair])
        joined, joined_ends = grams(words, offsets[::2], n)
        alone, alone_ends = grams(words, offsets, n)
        counts = np.diff(alone_ends)
        short = np.repeat(np.diff(offsets) < n, counts)
        rows = [np.repeat(np.arange(len(xs)), np.diff(joined_ends)), np.repeat(np.arange(len(counts)) // 2, counts)[short]]
        return np.concatenate(rows), np.concatenate([joined, alone[short]])

    def shared_words(self, x: str, y: str, text: int) -> str:
        """The first words of a pair that the evaluation text has too."""
        of_text = self.grams_M[np.searchsorted(self.bounds, np.flatnonzero(self.owners == text), side="right") - 1]
        n = self.ngram_words
        for part in (f"{x}\n{y}", x, y):
            hashes, _ = grams(*hash_words([part]), n)
            at = np.flatnonzero(np.isin(hashes, of_text))
            if at.size:
                return " ".join(words_of(part)[at[0] : at[0] + n])
        raise AssertionError("a contaminated pair shares no gram with its text")


@dataclass
class Findings:
    """What was found of one suite."""

    pairs: set[str] = field(default_factory=set)
    texts: set[int] = field(default_factory=set)
    samples: dict[str, tuple[int, str, str, str]] = field(default_factory=dict)

    def add(self, batch: pa.RecordBatch, row: int, text: int) -> None:
        """Count a pair that holds a text; of the lowest ids keep what a sample needs, with the lowest text."""
        id_ = batch["id"][row].as_py()
        self.pairs.add(id_)
        self.texts.add(text)
        if id_ not in self.samples:
            self.samples[id_] = (text, *(batch[name][row].as_py() for name in ("path", "x", "y")))
        if len(self.samples) > SAMPLES_A_SUITE:
            del self.samples[max(self.samples)]

    def facts(self, suite: str, texts: EvaluationTexts) -> dict[str, Any]:
        """The figures of the suite."""
        samples = [
            {"pair": id_, "path": path, "text": texts.ids[text], "shared": texts.shared_words(x, y, text)}
            for id_, (text, path, x, y) in sorted(self.samples.items())
        ]
        return {
            "texts": texts.suites.count(suite),
            "texts_found": len(self.texts),
            "pairs": len(self.pairs),
            "samples": samples,
        }
