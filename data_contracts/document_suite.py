"""Contract of documents (rows of schemas.DOCUMENTS)."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from data_contracts.facts import EarlierIds, free_of_nul, is_blank, repair_unicode
from data_contracts.schemas import KINDS
from data_contracts.suite import HEX_ID, NOT_BLANK, ContractSuite, Expect, is_true, lacks, matches, one_of, within

CONTRACT_VERSION = 1

ABSOLUTE_PATH = r"^(?:[A-Za-z]:)?[/\\]"  # POSIX, UNC and drive letters: none of them means the same on another machine
PARENT_STEP = r"(?:^|[/\\])\.\.(?:[/\\]|$)"  # leads out of the source


def path_expectations() -> tuple[Expect, ...]:
    """Expectations of a row's origin: shared by documents and pairs."""
    return (
        matches("source", NOT_BLANK, "source_blank", "the name of the dump"),
        # the split hashes the group: rows without one would all be held out, or trained on, together
        matches("group", NOT_BLANK, "group_blank", "the package, repository or document that a split keeps whole"),
        matches("path", NOT_BLANK, "path_blank", "a path inside the source"),
        lacks("path", ABSOLUTE_PATH, "path_absolute", "a path relative to the source"),
        lacks("path", PARENT_STEP, "path_outside", "a path without '..' steps"),
    )


def document_suite() -> ContractSuite:
    """The contract of a document. No share is tolerated here: the threshold on bad rows is ContractConfig's."""
    return ContractSuite(
        name="documents",
        version=CONTRACT_VERSION,
        expectations=(
            matches("id", HEX_ID, "id_malformed", "32 hexadecimal digits"),
            within("id_repeats", 0, 0, "id_repeated", "an id that no earlier row of the part has"),
            one_of("kind", KINDS, "kind_unknown", f"one of {', '.join(KINDS)}"),
            *path_expectations(),
            matches("language", NOT_BLANK, "language_blank", "the language's name or code"),
            is_true("has_text", "text_blank", "a text with a visible character"),
            is_true("is_unicode", "invalid_unicode", "valid UTF-8 without lone surrogates"),
            is_true("is_free_of_nul", "nul_character", "no U+0000 in any string"),
        ),
        advice="mend or leave out the file, or look at the reader of its source",
    )


def document_facts(documents: pa.Table, ids: EarlierIds) -> pa.Table:
    """The small columns that `document_suite` looks at, row for row; the texts stay behind.

    Args:
        documents: the next rows of a file of schemas.DOCUMENTS.
        ids: of that file.
    """
    documents, valid = repair_unicode(documents)
    short = {name: documents[name] for name in ("id", "kind", "source", "group", "path", "language")}
    return pa.table(
        {
            **short,
            "id_repeats": ids.repeats(documents["id"]),
            "has_text": pc.invert(is_blank(documents["text"])),
            "is_unicode": pa.array(valid),
            "is_free_of_nul": free_of_nul(documents),
        }
    )
