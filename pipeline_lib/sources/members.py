"""Members of archives and files of repositories: which are read, by a name that is never a place on this machine."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline_lib.config.data import ReadLimits
from pipeline_lib.sources.folder import SKIPPED_FOLDERS, valid_name
from pipeline_lib.sources.readers.html import main_text
from pipeline_lib.sources.records import SourceRecord, as_text
from pipeline_lib.sources.safe_open import Refusal, decode
from pipeline_lib.sources.source_file import Form, SourceFile, form_of
from pipeline_lib.sources.time_limit import within_time

MAX_NAME_CHARACTERS = 4096
_DRIVE = re.compile(r"^[A-Za-z]:")


class MemberOptions(BaseModel):
    """What the readers of archives and repositories take in a dump spec."""

    model_config = ConfigDict(extra="forbid")

    html: bool = Field(False, description="Pages (.html, .htm) are read too; in source they are mostly generated.")


def wanted_form(name: str, html: bool) -> Form | None:
    """What a member holds, by its name; None: it is not read. The folders that a tree skips are skipped here too.

    Args:
        html: whether pages are read.
    """
    folders = name.split("/")[:-1]
    if not SKIPPED_FOLDERS.isdisjoint(folders):
        return None
    if name.endswith(".dist-info/METADATA"):
        return "metadata"
    if html and name.lower().endswith((".html", ".htm")):
        return "html"
    return form_of(name)


def unsafe_path(name: str) -> Refusal | None:
    """Why a name would leave the folder that it is unpacked in. Nothing is ever unpacked: it tells a hostile archive."""
    if name.startswith(("/", "\\")) or _DRIVE.match(name):
        return Refusal("unsafe_path", "an absolute path")
    if ".." in re.split(r"[/\\]", name):
        return Refusal("unsafe_path", "a path with `..`")
    if len(name) > MAX_NAME_CHARACTERS:
        return Refusal("unsafe_path", f"a path of {len(name)} characters, at most {MAX_NAME_CHARACTERS} are read")
    return None


def member_record(
    container: SourceFile, name: str, form: Form | None, content: bytes | Refusal, limits: ReadLimits
) -> SourceRecord:
    """A member's text, a page's main text, or why there is none; its path is the container's, "!" and its own."""
    update: dict[str, Any] = {"path": f"{container.path}!{valid_name(name[:MAX_NAME_CHARACTERS])}", "form": form or "plain"}
    if isinstance(content, Refusal):
        return SourceRecord(container.model_copy(update={**update, "bytes": 0, "sha256": ""}), content)
    update |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    file = container.model_copy(update=update)
    if form != "html":
        return SourceRecord(file, decode(content, python=form == "python"))
    text = within_time("page", lambda: main_text(content, limits))
    return SourceRecord(file, text if isinstance(text, Refusal) else as_text(text, limits))
