"""Which reader opens which container: a file that holds many texts. A new one is one file and one line here.

A reader yields what it finds as files of their own, in a fixed order, holding one text at a time. It raises nothing that an
input can cause: what cannot be read comes out as a `Refusal` with the place where the trouble lies, and the rest is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import NamedTuple

from pipeline_lib.config import ReadLimits
from pipeline_lib.sources.safe_open import Refusal, SourceText
from pipeline_lib.sources.source_file import Form, SourceFile


class Found(NamedTuple):
    """One text inside a container, or why it could not be read.

    `file` is the container's record with what is the text's own: path (the container's, "!" and the record's name, member
    or URL), form, group, licence, the sha256 and the length of its bytes.
    """

    file: SourceFile
    content: SourceText | Refusal


Reader = Callable[[SourceFile, ReadLimits], Iterator[Found]]

_READERS: dict[str, str] = {
    "warc": "pipeline_lib.sources.warc:read_warc",
    "mediawiki": "pipeline_lib.sources.mediawiki:read_mediawiki",
    "json_lines": "pipeline_lib.sources.json_lines:read_json_lines",
    "parquet": "pipeline_lib.sources.parquet:read_parquet",
    "archive": "pipeline_lib.sources.source_archive:read_archive",
    "git": "pipeline_lib.sources.git_repository:read_repository",
    "code_search_net": "pipeline_lib.sources.code_search_net:read_records",
}


def reader_of(form: Form) -> Reader | None:
    """The reader of a container's form; None where the file is one text. Imported when it is first asked for."""
    place = _READERS.get(form)
    if place is None:
        return None
    module, _, name = place.partition(":")
    reader: Reader = getattr(import_module(module), name)
    return reader
