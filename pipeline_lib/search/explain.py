"""Explanation of hits: how vectors and BM25 place each, where its text comes from, and what lies nearest to it.

Legend: D width, N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline_lib.errors import UserError
from pipeline_lib.search.filters import file_mask, whole_numbers
from pipeline_lib.search.hits import Hit, printable

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from pipeline_lib.index.rows import Ranked
    from pipeline_lib.search.query import Mode, Searcher

NEIGHBOURS = 3
MOST_FOLDERS = 16  # of a path that are looked for, each way a look at every row
SHOWN_CHARACTERS = 200  # of a path that is not there
DEPTH = 1000  # of the list in which a hit's other rank is looked up

Origins = Callable[[Sequence[str]], Mapping[str, Mapping[str, str]]]  # ids of pairs to what `cpt trace` says of them


def explained(
    searcher: Searcher,
    query: str,
    ranked: Sequence[Ranked],
    allowed_N: np.ndarray | None = None,
    origins: Origins | None = None,
) -> list[Hit]:
    """The hits of ranked rows, each with `explain`.

    It holds `vector` and `bm25`, each {rank, score} or None where the row is not among the first; `lineage`, what is known of
    the text's origin and the model; `neighbours`, the rows nearest to it by vectors.

    Args:
        query: what was searched for; "" where it was a text of its own, see `Searcher.embed_documents`.
        allowed_N: see `Searcher.ranked`.
        origins: traces pairs; None: `lineage` says what the index itself knows.
    """
    hits = searcher.hits(ranked, query)
    traced = origins([hit.id for hit in hits]) if origins else {}
    vectors, bm25 = (_places(searcher, query, ranked, allowed_N, mode) for mode in ("vectors", "bm25"))
    explained = []
    for found, hit in zip(ranked, hits, strict=True):
        row = searcher.rows.slice(found.row, 1).to_pylist()[0]
        origin = traced.get(hit.id) or {"source": row["source"], "file": hit.path, "line": str(hit.line)}
        explain = {
            "vector": vectors.get(found.row),
            "bm25": bm25.get(found.row),
            "lineage": {**origin, **_made_by(searcher)},
            "neighbours": neighbours(searcher, found.row),
        }
        explained.append(replace(hit, explain=explain))
    return explained


def neighbours(searcher: Searcher, row: int, k: int = NEIGHBOURS) -> list[dict[str, Any]]:
    """The k rows nearest to one by vectors, itself left out."""
    vector_1D = vector_of(searcher, row)
    if vector_1D is None:
        return []
    near = [found for found in searcher.ranked_by_vector(vector_1D, k + 1) if found.row != row][:k]
    return [
        {"score": hit.score, **{name: getattr(hit, name) for name in ("kind", "name", "path", "line", "id")}}
        for hit in searcher.hits(near)
    ]


def vector_of(searcher: Searcher, row: int) -> np.ndarray | None:
    """The vector (1, D) of a row: as the index holds it, else of its text embedded again; None where it keeps no texts."""
    import numpy as np

    found_1D = searcher.index.vectors(np.array([row]))
    if found_1D is not None:
        return found_1D
    return searcher.embed_documents([searcher.texts.of([row])[0][1]]) if searcher.texts else None


def row_at(rows: pa.Table, path: str, line: int) -> int | None:
    """The row of a file whose text begins last at or before a line, else its first one; None where it has none.

    Args:
        path: of a file, or of a container ("!") or a record ("#") whose texts have longer ones; not of a folder.
    """
    import numpy as np

    rows_N = np.flatnonzero(file_mask(rows.column("path"), path))
    if not len(rows_N):
        return None
    lines_N = whole_numbers(rows.column("line"))[rows_N]
    is_before_N = lines_N <= min(line, np.iinfo(lines_N.dtype).max)
    nearest = lines_N[is_before_N].max() if is_before_N.any() else lines_N.min()
    return int(rows_N[lines_N == nearest][0])


def row_of_file(searcher: Searcher, file: str, line: int) -> int:
    """The text at a line of an indexed file.

    Args:
        file: a path as the index has it, or a longer one that ends so: of a checkout, say.

    Raises:
        UserError: the index has no such file.
    """
    parts = [part for part in file.replace("\\", "/").split("/") if part not in ("", ".")][-MOST_FOLDERS:]
    for at in range(len(parts)):
        row = row_at(searcher.rows, "/".join(parts[at:]), line)
        if row is not None:
            return row
    shown = printable(file[-SHOWN_CHARACTERS:])
    raise UserError(f"{shown}: no such file in the index of {searcher.current.name}; give a path as a hit says it, or the text")


def delta_sentence(facts: Mapping[str, Any]) -> str:
    """What index.json says of a delta, in words that follow others; nothing of an index that is none."""
    if not (delta := facts.get("delta")):
        return ""
    counts = ", ".join(f"{delta[name]:,} {name}" for name in ("added", "changed", "removed"))
    tombstones = f", {delta['tombstones']:,} tombstones" if delta["tombstones"] else ""
    anew = f", built anew: {delta['why']}" if delta.get("why") else ""
    return f"; delta {delta['number']} of index {delta['base'][:12]}: {counts}{tombstones}{anew}"


def _places(
    searcher: Searcher, query: str, ranked: Sequence[Ranked], allowed_N: np.ndarray | None, mode: Mode
) -> dict[int, dict[str, Any]]:
    """Rank and score by one way alone; looked up where the ranking did not need them."""
    of = "vector" if mode == "vectors" else "bm25"
    places = {found.row: (getattr(found, f"{of}_rank"), getattr(found, f"{of}_score")) for found in ranked}
    if query and any(rank is None for rank, _ in places.values()):
        try:
            further = searcher.ranked(query, DEPTH, allowed_N, mode)
        except UserError:  # an index without BM25
            further = []
        more = {found.row: (getattr(found, f"{of}_rank"), getattr(found, f"{of}_score")) for found in further}
        places = {row: place if place[0] is not None else more.get(row, place) for row, place in places.items()}
    return {row: {"rank": rank, "score": round(score, 6)} for row, (rank, score) in places.items() if rank is not None}


def _made_by(searcher: Searcher) -> dict[str, str]:
    current = searcher.current
    run = f"{current.trained}/{current.checkpoint}" if current.trained else "not recorded"
    index = f"index {current.index_digest[:12]}{delta_sentence(searcher.facts)}"
    return {"run": run, "model": f"{current.name}, export {current.model_digest[:12]}, {index}"}
