"""Source file: what is known of it before it is read, enough to read it in another process, and to name the work on it."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Literal

from pydantic import Field

from pipeline_lib.languages import USUAL, language_names, languages_by_suffix, languages_sharing
from pipeline_lib.store.records import Record

ProseForm = Literal["markdown", "restructuredtext", "plain", "html", "metadata"]
Form = str  # a language, a form of prose, or the reader of a file that holds many texts

CODE_FORMS = frozenset(language_names())
NOTEBOOK: Form = "notebook"
_USUAL = frozenset(USUAL)

_PROSE: dict[str, ProseForm] = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".rst": "restructuredtext",
    ".txt": "plain",
}
# No prose, or the same prose in every package: a licence that everybody ships would give thousands of equal pairs.
_NOT_PROSE = re.compile(
    r"(?i)^(licen[cs]e|copying|notice|authors|contributors|thirdparty|third_party|patents|requirements|constraints"
    r"|cmakelists|top_level|entry_points|sources|dependency_links|requires|robots|vendor)"
)
# a container's path, and what stands in a URL before the path of a file
_BEFORE_PATH = re.compile(r"^[^!]*!(?:https?://[^/]+/(?:[^/]+/[^/]+/blob/[^/]+/)?)?")
# what may stand behind a record's name: a digest of all of it, its line, and which text of that name it is
DIGEST_MARK, LINE_MARK, COPY_MARK = "#sha256=", "#L", "#copy="
_BEHIND_PATH = re.compile(rf"(?:{DIGEST_MARK}|{LINE_MARK}|{COPY_MARK}).*", re.DOTALL)

# beside the files of a data set, as hubs keep them
_ABOUT_DATA = re.compile(
    r"(?i)(?:^|/)(?:\.[^/]*|readme[^/]*|licen[cs]e[^/]*|dataset_(?:infos?|dict)\.json|state\.json|_success)$"
)


class SourceFile(Record):
    """One file to read. All but `place` is part of its identity, for all of it shows in the rows that are made."""

    place: str  # absolute path on this machine, or a URL
    path: str  # inside the source, with forward slashes
    source: str
    group: str
    licence: str | None
    form: Form
    bytes: int
    # of the content, or what stands for it: commit:ID of a repository, etag:DIGEST of a remote file; empty: unreadable
    sha256: str
    weight: float = 1.0  # share of its texts that are taken
    options: dict[str, Any] = Field(default_factory=dict)  # of its reader, checked
    filters: Literal["web", "none"] = "none"  # the preset of filters for its texts, where none is set
    one_group: bool = False  # its group is that of every text in it, whatever its reader finds
    more_forms: tuple[Form, ...] = ()  # of a file that holds many: what is read in it beside what is read in every source

    @property
    def inner_path(self) -> str:
        """The path without the container's; of a forge's URL, the path inside the repository."""
        return _BEHIND_PATH.sub("", _BEFORE_PATH.sub("", self.path)) if "!" in self.path else self.path

    @property
    def identity(self) -> list[Any]:
        fields: list[Any] = [self.source, self.path, self.group, self.licence, self.form, self.sha256]
        more: list[Any] = [self.weight, self.options] if self.weight != 1.0 or self.options else []
        return [*fields, *more, *(["one_group"] if self.one_group else []), *([self.more_forms] if self.more_forms else [])]


def form_of(path: str, more: Collection[Form] = ()) -> Form | None:
    """The kind of text in a file of that name; None: it is not read.

    Args:
        more: forms that are asked for beside prose and the languages that are read in every source.
    """
    name = path.rsplit("/", 1)[-1]
    stem, dot, suffix = name.rpartition(".")
    if dot and stem:
        ending = f".{suffix.lower()}"
        if (language := languages_by_suffix().get(ending)) is not None:
            if language in _USUAL or language in more:
                return language
            return next((other for other in languages_sharing(ending) if other in more), None) if more else None
        if ending == ".ipynb":
            return NOTEBOOK if NOTEBOOK in more else None
        if (prose := _PROSE.get(ending)) is not None:
            return None if _NOT_PROSE.match(name) else prose
    return "plain" if name.upper() == "README" else None


def is_about_data(path: str) -> bool:
    """True for a file that says what a data set is and holds none of it: its card, its licence, what a hub writes."""
    return _ABOUT_DATA.search(path) is not None
