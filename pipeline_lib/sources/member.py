"""What is known of a member of an archive or a file of a repository before it is read: a name, which is never a place."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from pipeline_lib.sources.readers import Found
from pipeline_lib.sources.safe_open import Refusal, decode
from pipeline_lib.sources.source_file import Form, SourceFile, member_form_of
from pipeline_lib.sources.source_tree import SKIPPED_FOLDERS, shown

MAX_NAME_CHARACTERS = 4096
_DRIVE = re.compile(r"^[A-Za-z]:")


def wanted_form(name: str) -> Form | None:
    """What a member holds, by its name; None: it is not read. The folders that a tree skips are skipped here too."""
    folders = name.split("/")[:-1]
    if not SKIPPED_FOLDERS.isdisjoint(folders):
        return None
    if name.endswith(".dist-info/METADATA"):
        return "metadata"
    return member_form_of(name)


def unsafe_path(name: str) -> Refusal | None:
    """Why a name would leave the folder that it is unpacked in. Nothing is ever unpacked: it tells a hostile archive."""
    if name.startswith(("/", "\\")) or _DRIVE.match(name):
        return Refusal("unsafe_path", "an absolute path")
    if ".." in re.split(r"[/\\]", name):
        return Refusal("unsafe_path", "a path with `..`")
    if len(name) > MAX_NAME_CHARACTERS:
        return Refusal("unsafe_path", f"a path of {len(name)} characters, at most {MAX_NAME_CHARACTERS} are read")
    return None


def member(container: SourceFile, name: str, form: Form | None, content: bytes | Refusal) -> Found:
    """A member's text, or why there is none; its path is the container's, "!" and its own."""
    update: dict[str, Any] = {"path": f"{container.path}!{shown(name)[:MAX_NAME_CHARACTERS]}", "form": form or "plain"}
    if isinstance(content, Refusal):
        return Found(container.model_copy(update={**update, "bytes": 0, "sha256": ""}), content)
    update |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return Found(container.model_copy(update=update), decode(content, python=form == "python"))
