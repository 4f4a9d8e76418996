"""JSON records of training sets, each known by its fields.

{"sentence1", "sentence2", "gold_label", ...}                 SNLI, MultiNLI (official)
{"premise" or "context", "hypothesis", "label"}               ANLI (official: e, n, c), and the simple layout
{"anchor" or "query", "positive", "negative" ...}             triplets; any number of fields negative, negative_1, ...
{"query", "pos": [...], "neg": [...]}                         FlagEmbedding
{"query", "positive_passages": [{title, text}], "negative_passages": [...]}    Tevatron
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pipeline_lib.training_sets.items import Bad, Dropped, Example, Item, Label, Statement, check_text

LABELS: dict[Any, Label] = {
    **dict.fromkeys(("entailment", "e", 0), "entailment"),
    **dict.fromkeys(("neutral", "n", 1), "neutral"),
    **dict.fromkeys(("contradiction", "c", 2), "contradiction"),
}
NO_LABEL = ("-", "", -1)  # the annotators did not agree
NEGATIVE = re.compile(r"negatives?(_\d+)?$")


def items_of(record: object, max_bytes: int) -> Iterator[Item]:
    """The statement or the examples of one record; one `Bad` where it is none."""
    try:
        for item in _read(record):
            yield _checked(item, max_bytes)
    except (TypeError, KeyError, AttributeError) as error:  # a field of another type than its layout's
        yield Bad("malformed_record", ascii(f"{type(error).__name__}: {error}")[:200])


def _read(record: object) -> Iterator[Item]:
    if not isinstance(record, dict):
        yield Bad("not_a_record", f"expected an object, got {type(record).__name__}")
    elif "gold_label" in record:
        yield _statement(record["sentence1"], record["sentence2"], record["gold_label"])
    elif "hypothesis" in record:
        premise = record["premise"] if "premise" in record else record["context"]
        yield _statement(premise, record["hypothesis"], record["label"])
    elif "positive_passages" in record:
        negatives = [_passage(passage) for passage in record.get("negative_passages") or []]
        for passage in record["positive_passages"]:
            yield Example(record["query"], _passage(passage), negatives)
    elif "pos" in record:
        for positive in record["pos"]:
            yield Example(record["query"], positive, list(record.get("neg") or []))
    elif "positive" in record:
        yield _triplet(record)
    else:
        yield Bad("unknown_layout", f"fields {ascii(sorted(map(str, record)))[:200]}")


def _statement(premise: Any, hypothesis: Any, label: Any) -> Item:
    if label in NO_LABEL:
        return Dropped("no_gold_label")
    if isinstance(label, bool | float) or label not in LABELS:  # 0.0 is a score
        return Bad("unknown_label", f"got {ascii(label)[:80]}, expected entailment, neutral or contradiction")
    return Statement(premise, hypothesis, LABELS[label])


def _triplet(record: dict[str, Any]) -> Example:
    negatives: list[str] = []
    for name in sorted(filter(NEGATIVE.match, record), key=lambda name: (len(name), name)):
        value = record[name]
        negatives += value if isinstance(value, list) else [] if value is None else [value]
    anchor = record["anchor"] if "anchor" in record else record["query"]
    return Example(anchor, record["positive"], negatives)


def _passage(passage: Any) -> str:
    return passage if isinstance(passage, str) else joined(passage.get("title"), passage["text"])


def joined(title: object, text: Any) -> Any:
    """A passage as the retrieval benchmarks embed it: its title, where there is one, before its text."""
    return f"{title} {text}" if isinstance(title, str) and title.strip() and isinstance(text, str) else text


def _checked(item: Item, max_bytes: int) -> Item:
    texts: list[object] = []
    if isinstance(item, Example):
        texts = [item.x, item.y, *item.negatives]
    elif isinstance(item, Statement):
        texts = [item.premise, item.hypothesis]
    return next((bad for text in texts if (bad := check_text(text, max_bytes)) is not None), item)
