"""Hits of a search, made of rows of the index, and as JSON and text.

Whatever comes from a dump is untrusted: no sign of it may steer a terminal or turn a line's direction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pipeline_lib.search.snippets import Marks, snippet

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline_lib.index.rows import Texts

ID_DIGITS = 12  # of a pair's id, shown: enough for `cpt trace`
INDENT = 12 * " "  # of a hit's lines below the first
BOLD, DIM, MARKED, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[1;33m", "\x1b[0m"

# control characters, marks that turn or hide text, line ends that are none in a file, and halves of characters
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


Paint = Callable[[str, str], str]  # style and text to what is shown


@dataclass(frozen=True)
class Hit:
    """One result; `rank` counts from 1, `id` is that of a pair with this text (see `cpt trace`).

    `score` is the cosine where vectors alone rank, else what joined or BM25's ranks gave. What an index of an earlier version
    does not hold is empty.
    """

    rank: int
    score: float
    kind: str
    name: str
    path: str
    line: int
    doc: str
    id: str
    language: str = ""
    package: str = ""
    licence: str = ""  # empty: not stated
    signature: str = ""  # of a function, in one line
    snippet: str = ""  # the passage with most of the query's words, else the text's beginning
    explain: dict[str, Any] | None = None
    marks: Marks = ()  # (start, end) of the query's words in `snippet`, in characters

    @property
    def place(self) -> tuple[str, str, str, str]:
        """What tells texts apart in indexes of other corpora: ids and lines move when a corpus grows."""
        return self.kind, self.name, self.path, self.doc


_COLUMNS = ("kind", "name", "path", "line", "doc", "id")
_LATER = ("language", "package", "licence")  # columns that an index of version 1 lacks


def hits_of(rows: pa.Table, texts: Texts | None, query: str, found: Sequence[tuple[int, float]]) -> list[Hit]:
    """The hits at (row, score), best first.

    Args:
        texts: None: an index that keeps none, whose hits have neither signature nor snippet.
        query: whose words a snippet shows.
    """
    shown = texts.of(row for row, _ in found) if texts else [("", "")] * len(found)
    hits = []
    for rank, ((row, score), (signature, text)) in enumerate(zip(found, shown, strict=True), start=1):
        # row by row: `take` would import pandas, another 0.3 s
        columns = rows.slice(row, 1).to_pylist()[0]
        passage = snippet(text, query)
        known: dict[str, Any] = {name: columns[name] for name in _COLUMNS}
        known |= {name: columns.get(name) or "" for name in _LATER}
        known |= {"signature": signature, "snippet": passage.text, "marks": passage.marks}
        hits.append(Hit(rank, round(score, 6), **known))
    return hits


def hit_facts(hit: Hit) -> dict[str, Any]:
    """A hit as JSON has it: `explain` is there only where it was asked for."""
    facts = asdict(hit)
    return facts if hit.explain is not None else {name: value for name, value in facts.items() if name != "explain"}


def render_json(query: str, hits: Sequence[Hit]) -> str:
    """{query, hits: [{rank, score, kind, name, path, line, doc, id, ...}]} as one JSON object; see `Hit` for the fields."""
    return safe_json({"query": query, "hits": [hit_facts(hit) for hit in hits]})


def safe_json(value: Any) -> str:
    """A value as JSON, in which signs that would steer a terminal or turn a line are spelt out."""
    return _UNSAFE.sub(lambda found: json.dumps(found[0])[1:-1], json.dumps(value, ensure_ascii=False))


def printable(text: str) -> str:
    """The text in which a sign that would steer a terminal or turn a line is another; line ends and tabs are spaces."""
    return _UNSAFE.sub(lambda found: " " if found[0] in "\t\n\r" else "\N{REPLACEMENT CHARACTER}", text)


def visible(text: str) -> str:
    """The text as it is, but for signs that nobody would see: another stands for each."""
    return _UNSAFE.sub(lambda found: found[0] if found[0] in "\t\n\r" else "\N{REPLACEMENT CHARACTER}", text)


def render_text(hits: Sequence[Hit], kind: str = "", colours: bool = False) -> str:
    """Some lines a hit: rank, score and name; its place and id, cut short; what it is about, and the passage that answers.

    Args:
        kind: what was searched for; empty: both.
        colours: by ANSI's sequences, which mark the query's words too.
    """
    if not hits:
        return f"nothing found: the index holds no {kind}" if kind else "nothing found"
    paint = _painted if colours else _plain
    return "\n".join(f"\n{INDENT}".join(_lines(hit, paint)) for hit in hits)


def _lines(hit: Hit, paint: Paint) -> list[str]:
    passage = _passage(hit)
    is_code = hit.kind == "code"
    about = [line for line in (hit.signature, hit.doc if is_code or not passage else "") if line]
    return [
        f"{hit.rank:3d}  {hit.score:.3f}  {paint(BOLD, printable(hit.name))}",
        f"{paint(DIM, printable(f'{hit.path}:{hit.line}'))}  {hit.id[:ID_DIGITS]}",
        *map(printable, about),
        *(("  " if is_code else "") + _marked(line, marks, paint) for line, marks in passage),
        *(f"{paint(DIM, label)} {printable(value)}" for label, value in explained_lines(hit.explain)),
    ]


def _passage(hit: Hit) -> list[tuple[str, Marks]]:
    """The lines of the snippet with their marks; of a function only where they say more than its signature."""
    lines, at = [], 0
    for line in hit.snippet.split("\n") if hit.snippet else []:
        within = [(max(start - at, 0), min(end - at, len(line))) for start, end in hit.marks]
        lines.append((line, tuple((start, end) for start, end in within if start < end)))
        at += len(line) + 1
    if hit.kind != "code":
        return lines
    while lines and " ".join(lines[0][0].split()).startswith(hit.signature.removesuffix("…") or "\n"):
        lines.pop(0)
    return lines if any(marks for _, marks in lines) else []


def _marked(line: str, marks: Marks, paint: Paint) -> str:
    shown, at = "", 0
    for start, end in marks:
        shown += printable(line[at:start]) + paint(MARKED, printable(line[start:end]))
        at = end
    return shown + printable(line[at:])


def _painted(style: str, text: str) -> str:
    return f"{style}{text}{PLAIN}"


def _plain(_: str, text: str) -> str:
    return text


_LINEAGE_SHOWN = ("source", "place", "file", "record", "line", "hash", "extracted", "run", "model")


def explained_lines(explain: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What is known of a hit's coming about, as (label, line)."""
    if explain is None:
        return []
    lines = []
    for name in ("vector", "bm25"):
        place = explain.get(name)
        lines.append(
            (
                f"{name}:",
                f"rank {place['rank']}, score {place['score']:.4f}" if place else "not among its first, or not in this index",
            )
        )
    lineage = explain.get("lineage", {})
    lines += [(f"{name}:", str(lineage[name])) for name in _LINEAGE_SHOWN if name in lineage]
    for near in explain.get("neighbours", []):
        lines.append(("near:", f"{near['score']:.3f}  {near['name']}  {near['path']}:{near['line']}  {near['id'][:ID_DIGITS]}"))
    return lines
