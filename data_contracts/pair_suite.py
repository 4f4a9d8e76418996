"""Contract of pairs (rows of schemas.PAIRS)."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from data_contracts.document_suite import path_expectations
from data_contracts.facts import EarlierIds, filled, free_of_nul, hash_agrees, repair_unicode, word_counts
from data_contracts.schemas import KINDS
from data_contracts.suite import HEX_ID, ContractSuite, is_true, matches, one_of, within
from pipeline_lib.config.data import ContractConfig
from pipeline_lib.languages import language_names

CONTRACT_VERSION = 2

# a programming language, or the two- or three-letter code of a natural one (ISO 639)
LANGUAGE = rf"^(?:{'|'.join(language_names())}|[a-z]{{2,3}})$"

VIEW = r"^[a-z][a-z0-9_]{0,30}$"  # names shards

KNOWN, QUARANTINED, MISSING = "known", "quarantined", "missing"


def pair_suite(config: ContractConfig) -> ContractSuite:
    """The contract of a pair; the bounds in words are the config's."""
    return ContractSuite(
        name="pairs",
        version=CONTRACT_VERSION,
        expectations=(
            matches("id", HEX_ID, "id_malformed", "32 hexadecimal digits"),
            within("id_repeats", 0, 0, "id_repeated", "an id that no earlier row of the part has"),
            one_of("kind", KINDS, "kind_unknown", f"one of {', '.join(KINDS)}"),
            matches("view", VIEW, "view_malformed", "the rule that made the pair, as a lower-case word"),
            matches("language", LANGUAGE, "language_unknown", "a language of code, or a code like 'en'"),
            *path_expectations(),
            # 0 words embed to the delimiters alone: every blank text would be every other one's positive
            within("x_words", 1, None, "x_blank", "at least 1 word"),
            within("y_words", 1, None, "y_blank", "at least 1 word"),
            # far above what the extractors cut at: beyond it a rule for cutting has failed
            within("x_words", None, config.max_x_words, "x_too_long", f"at most {config.max_x_words} words"),
            within("y_words", None, config.max_y_words, "y_too_long", f"at most {config.max_y_words} words"),
            is_true("is_distinct", "x_equals_y", "x and y that differ: a pair of equals teaches nothing"),
            # masks in the loss and deduplication trust these hashes
            is_true("x_hash_agrees", "x_hash_wrong", "the first 64 bits of sha256 of x"),
            is_true("y_hash_agrees", "y_hash_wrong", "the first 64 bits of sha256 of y"),
            within("line", 1, None, "line_below_one", "a line number, from 1"),
            within("position", 0, None, "position_negative", "the pair's place in its document, from 0"),
            within("generation", 0, None, "generation_negative", "a growth of the data set, from 0"),
            one_of("document", [KNOWN, QUARANTINED], "document_missing", "a document of the same part"),
            one_of("document", [KNOWN, MISSING], "document_quarantined", "a document that keeps its own contract"),
            is_true("is_unicode", "invalid_unicode", "valid UTF-8 without lone surrogates"),
            is_true("is_free_of_nul", "nul_character", "no U+0000 in any string"),
        ),
        advice="look at the extractor of this kind and view",
    )


def pair_facts(pairs: pa.Table, good_documents: pa.Array, bad_documents: pa.Array, ids: EarlierIds) -> pa.Table:
    """The small columns that `pair_suite` looks at, row for row; x and y stay behind.

    Args:
        pairs: the next rows of a file of schemas.PAIRS.
        good_documents: ids of the documents of the same part that keep their contract.
        bad_documents: ids of those that do not.
        ids: of that file.
    """
    pairs, valid = repair_unicode(pairs)
    short = {name: pairs[name] for name in ("id", "kind", "view", "source", "group", "path", "language")}
    good = pc.is_in(pairs["document_id"], value_set=good_documents)
    bad = pc.is_in(pairs["document_id"], value_set=bad_documents)
    return pa.table(
        {
            **short,
            **{name: filled(pairs[name]) for name in ("line", "position", "generation")},
            "id_repeats": ids.repeats(pairs["id"]),
            "x_words": word_counts(pairs["x"]),
            "y_words": word_counts(pairs["y"]),
            "is_distinct": pc.not_equal(pairs["x"], pairs["y"]),
            "x_hash_agrees": hash_agrees(pairs["x"], pairs["x_hash"]),
            "y_hash_agrees": hash_agrees(pairs["y"], pairs["y_hash"]),
            "document": pc.if_else(good, KNOWN, pc.if_else(bad, QUARANTINED, MISSING)),
            "is_unicode": pa.array(valid),
            "is_free_of_nul": free_of_nul(pairs),
        }
    )
