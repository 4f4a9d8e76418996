"""JSON Lines (.jsonl, .gz, .zst): one record a line, in the layout of Dolma, C4, RedPajama, The Stack or of one's own."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

from pipeline_lib.config import ReadLimits
from pipeline_lib.sources.decompress import Unreadable, check_stream, open_expanded
from pipeline_lib.sources.lines import bounded_lines
from pipeline_lib.sources.readers import Found
from pipeline_lib.sources.record_fields import Options, found_record
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.source_file import SourceFile

__all__ = ["Options", "read_json_lines"]

LINE_PER_TEXT = 8  # a line holds metadata beside the text, and an escape takes six bytes (\u00e9) where UTF-8 takes two


def read_json_lines(file: SourceFile, limits: ReadLimits) -> Iterator[Found]:
    """Every record of a file, by line; a bad line is refused with its number as offset.

    Refusals: not_json, file_too_large, and those of `found_record`. Of the file: truncated, damaged, expansion_limit,
    too_many_members.
    """
    refusal = check_stream(file.place, limits, file.sha256)
    if refusal is not None:
        yield Found(file, refusal)
        return
    options = Options.model_validate(file.options)
    try:
        with open_expanded(file.place, limits) as stream:
            for number, line in enumerate(bounded_lines(io.BufferedReader(stream), limits.max_text_bytes * LINE_PER_TEXT), 1):
                if number > limits.max_members:
                    raise Unreadable(Refusal("too_many_members", f"more than {limits.max_members}; see source.limits", number))
                if isinstance(line, Refusal) or line.strip():
                    yield found_record(file, number, line if isinstance(line, Refusal) else _record(line), options, limits)
    except Unreadable as error:
        yield Found(file, error.refusal)


def _record(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return Refusal("not_json", ascii(str(error))[:200])
