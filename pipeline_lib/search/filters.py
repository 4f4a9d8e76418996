"""Filters of a search as a mask over the rows of an index: by language, package, licence and path.

A million rows take some 10 ms: few different values are looked at one by one, the rows by their codes. A value that no row has
is an error that names the nearest ones, never an empty answer.

Legend: N rows, V different values of a column.
"""

from __future__ import annotations

import difflib
import heapq
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import TYPE_CHECKING

from pipeline_lib.errors import UserError
from pipeline_lib.search.hits import printable

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

NOT_STATED = "none"  # stands for a licence that nobody gave
SHOWN = 5  # values that an error lists
PATHS_COMPARED = 20_000  # at most, for an error's nearest ones
SHORTLISTED = (
    100  # of these by the pairs of letters that they share, in 0.1 s; comparing a thousand letter by letter takes seconds
)


@dataclass(frozen=True)
class Filters:
    """What the hits must be of; a row passes when it has one of the values of each filter that is set.

    Attributes:
        languages: "python" and the like of code, "en" and the like of prose; case aside, `*` stands for anything.
        packages: what a split never cuts through: the package, repository or document.
        licences: as the dump states them; "none": not stated.
        path: glob over the whole path: `*` and `?` match "/" too, `**/` also nothing; a folder's name is all below it. Where
            a path has the brackets of the glob, they mean themselves.
    """

    languages: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    path: str = ""

    def __bool__(self) -> bool:
        return bool(self.languages or self.packages or self.licences or self.path)

    def mask(self, rows: pa.Table) -> np.ndarray | None:
        """True (N) for each row that passes; None where nothing is filtered.

        Args:
            rows: columns of schemas.INDEX_ROWS; those of an earlier version may lack some.

        Raises:
            UserError: no row has such a value, or the index lacks the column.
        """
        found = None
        for column, wanted in (("language", self.languages), ("package", self.packages), ("licence", self.licences)):
            if wanted:
                mask_N = _with_values(_column(rows, column), column, wanted)
                found = mask_N if found is None else found & mask_N
        if self.path:
            mask_N = _with_path(_column(rows, "path"), self.path)
            found = mask_N if found is None else found & mask_N
        return found


def _column(rows: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in rows.column_names:
        raise UserError(
            f"{name}: this index was built by an earlier version and does not know it; `cpt run` or `cpt publish` builds it"
            " again from the vectors that are there, or search without this filter"
        )
    return rows.column(name)


def _with_values(column: pa.ChunkedArray, name: str, wanted: Sequence[str]) -> np.ndarray:
    import numpy as np

    masks = [np.empty(0, bool)]
    missing = set(wanted)
    seen: set[str] = set()
    for dictionary, chunks in _by_dictionary(column):
        null = len(dictionary)
        codes_N = np.concatenate([_codes(chunk, null) for chunk in chunks])
        used = np.flatnonzero(np.bincount(codes_N, minlength=null + 1)).tolist()  # a dictionary may hold more
        values = dictionary.to_pylist()
        known = [NOT_STATED if code == null else values[code] for code in used]
        seen.update(known)
        passes_V = np.zeros(null + 1, bool)
        for value in wanted:
            places = _places(value, known)
            passes_V[[used[place] for place in places]] = True
            missing -= {value} if places else set()
        masks.append(passes_V[codes_N])
    if missing:
        raise UserError(printable(_unknown(name, sorted(missing)[0], sorted(seen))))
    return np.concatenate(masks)


def codes_of(rows: pa.Table, column: str) -> tuple[np.ndarray, list[str]]:
    """Place of each row's value (N) in the list of values that goes with it; NOT_STATED where there is none."""
    import numpy as np

    if column not in rows.column_names:  # of an index of an earlier version
        return np.zeros(rows.num_rows, np.int64), [NOT_STATED]
    values, codes = {NOT_STATED: 0}, [np.empty(0, np.int64)]
    for dictionary, chunks in _by_dictionary(rows.column(column)):
        places = [values.setdefault(value or NOT_STATED, len(values)) for value in dictionary.to_pylist()]
        codes += [np.array([*places, 0])[_codes(chunk, len(dictionary))] for chunk in chunks]
    return np.concatenate(codes), list(values)


def _by_dictionary(column: pa.ChunkedArray) -> Iterator[tuple[pa.Array, list[pa.Array]]]:
    """Chunks that share a dictionary, which in a file of the index are all."""
    chunks: list[pa.Array] = []
    for chunk in column.chunks:
        if chunks and not _is_same(chunk.dictionary, chunks[0].dictionary):
            yield chunks[0].dictionary, chunks
            chunks = []
        chunks.append(chunk)
    if chunks:
        yield chunks[0].dictionary, chunks


def _is_same(one: pa.Array, other: pa.Array) -> bool:
    if len(one) != len(other):
        return False
    addresses = [[buffer.address if buffer else 0 for buffer in array.buffers()] for array in (one, other)]
    return addresses[0] == addresses[1] or bool(one.equals(other))


def _codes(chunk: pa.DictionaryArray, null: int) -> np.ndarray:
    """Place of each row's value in the dictionary, `null` where it has none."""
    import numpy as np

    codes = chunk.indices
    codes_N = _int32(codes)
    return np.where(_bits(codes.is_valid()), codes_N, null) if codes.null_count else codes_N


def _bits(mask: pa.BooleanArray) -> np.ndarray:
    import numpy as np

    bits = np.unpackbits(np.frombuffer(mask.buffers()[1], np.uint8), bitorder="little")
    return bits[mask.offset : mask.offset + len(mask)].view(bool)


def _places(value: str, known: Sequence[str]) -> list[int]:
    """Where the values lie that are this one, case aside, or where none is, those of its pattern."""
    folded = value.casefold()
    exact = [place for place, one in enumerate(known) if one.casefold() == folded]
    if exact or not set("*?") & set(folded):
        return exact
    pattern = folded.replace("[", "[[]")  # which is no sign here
    return [place for place, one in enumerate(known) if fnmatchcase(one.casefold(), pattern)]


def _unknown(name: str, value: str, values: Sequence[str]) -> str:
    if not values:
        return f"{name} {value!r}: no row of this index has a {name}"
    near = nearest_values(value, values)
    shown = f"the nearest are {', '.join(near)}" if near else f"there are {', '.join(values[:SHOWN])}"
    more = len(values) - len(near or values[:SHOWN])
    return f"{name} {value!r}: no row of this index has it; {shown}" + (f" ({more:,} more)" if more > 0 else "")


def nearest_values(value: str, known: Sequence[str]) -> list[str]:
    """The known values that look most like a mistyped one, best first; none where nothing is near."""
    wanted, folded = value.casefold(), {one.casefold(): one for one in known}
    pairs = set(pairwise(wanted))
    likely = list(folded)
    if len(folded) > SHORTLISTED:
        likely = heapq.nlargest(
            SHORTLISTED, folded, lambda one: len(pairs.intersection(pairwise(one))) / (len(one) + len(wanted))
        )
    close = difflib.get_close_matches(wanted, likely, n=SHOWN, cutoff=0.5)
    within = [one for one in folded if wanted in one and one not in close] if len(value) > 1 else []
    return [folded[one] for one in [*close, *within][:SHOWN]]


def path_pattern(glob: str) -> str:
    """A regular expression, in RE2's words, for the whole of each path that the glob means.

    It is git's for paths: `*` and `?` match a "/" too, `**/` also nothing, `[a-z]` and `[!a-z]` or `[^a-z]` one character, of
    which a "]" that stands first is one. What ends in "/" is a folder with all below it; a glob without any of these signs is
    a file or a folder.
    """
    glob = glob.removeprefix("./")
    if not set("*?[") & set(glob):
        folder = re.escape(glob.rstrip("/"))
        return rf"(?s)^{folder}(?:[/!#].*)?$"
    glob += "*" if glob.endswith("/") else ""
    parts, at = [], 0
    while at < len(glob):
        if glob.startswith("**/", at):
            parts.append("(?:.*/)?")
            at += 3
        elif glob[at] == "[" and (end := glob.find("]", at + 2 + glob.startswith(("!", "^"), at + 1))) > 0:
            is_not = glob[at + 1] in "!^"
            inside = re.sub(r"[\\\[\]^]", r"\\\g<0>", glob[at + 1 + is_not : end])
            parts.append(f"[{'^' * is_not}{inside}]")
            at = end + 1
        else:
            character = glob[at]
            parts.append({"*": ".*", "?": "."}.get(character) or re.escape(character))
            at += 1
    return f"(?s)^{''.join(parts)}$"


def path_mask(column: pa.ChunkedArray, glob: str) -> np.ndarray:
    """True (N) for each path that the glob means; it may be none.

    Raises:
        UserError: it is no glob.
    """
    try:
        return _matched(column, path_pattern(glob))
    except ValueError as error:  # pyarrow's errors are kinds of it
        raise UserError(f"path {glob!r}: not a glob: {error}") from error


def file_mask(column: pa.ChunkedArray, path: str) -> np.ndarray:
    """True (N) for each path that is this file, or a member ("!") or a record ("#") of it."""
    named = path.removeprefix("./").encode(errors="replace").decode()
    return _matched(column, rf"(?s)^{re.escape(named)}(?:[!#].*)?$")


def _matched(column: pa.ChunkedArray, pattern: str) -> np.ndarray:
    import numpy as np
    import pyarrow.compute as pc

    masks = [pc.match_substring_regex(chunk, pattern) for chunk in column.chunks]
    return np.concatenate([np.empty(0, bool), *map(_bits, masks)])


def whole_numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A column of int32 without nulls (N)."""
    import numpy as np

    return np.concatenate([np.empty(0, np.int32), *map(_int32, column.chunks)])


def _int32(values: pa.Array) -> np.ndarray:
    """Arrow's own ways to numpy import pandas."""
    import numpy as np

    return np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values)]


def _with_path(column: pa.ChunkedArray, glob: str) -> np.ndarray:
    if "[" in glob and (mask_N := path_mask(column, glob.replace("[", "[[]"))).any():
        return mask_N  # as app/[id]/page.tsx
    mask_N = path_mask(column, glob)
    if not mask_N.any():
        raise UserError(printable(_no_path(glob, column)))
    return mask_N


def _no_path(glob: str, column: pa.ChunkedArray) -> str:
    """An error with the paths that are most like the glob, of the first ones in the index."""
    known = column.unique().slice(0, PATHS_COMPARED).to_pylist()
    bare = glob.strip("/")
    by_name = {path.rsplit("/", 1)[-1]: path for path in reversed(known)}
    plain = bare.replace("*", "")
    near = nearest_values(plain, known) or [by_name[name] for name in nearest_values(plain, list(by_name))]
    shown = f"the nearest are {', '.join(near)}" if near else f"paths look like {next(iter(known), 'none')}"
    hint = f"`*` stands for anything, as in '*/{bare}'" if not glob.startswith("*") else "`*` stands for anything, / too"
    return f"path {glob!r}: no path of this index is like it; {shown}; {hint}"
