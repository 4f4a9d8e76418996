"""Allowed roots: folders and URLs that parameters may name, where CPT_ALLOWED_ROOTS of the deployment lists them.

Whoever may start a run names files of the machine that runs it. With `CPT_ALLOWED_ROOTS=/data,s3://corpora/public` in the
environment of a work pool, each flow refuses places elsewhere before it reads anything; unset, all may be named. Links are
resolved. This artifact root is always allowed, names and hub ids are no places.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from flows.options import Group, Params, places_of, with_places
from flows.settings import NAMES, PLACE, PLACE_OR_NAME, PLACE_SETTINGS
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.machine import artifact_home
from pipeline_lib.sources.dump_spec import read_spec
from pipeline_lib.sources.packages import package_of
from pipeline_lib.sources.remote import has_wild_card, is_remote

VARIABLE = "CPT_ALLOWED_ROOTS"
SCHEDULER, WEBHOOK, COMMAND = "extract.scheduler", "notify.webhook", "notify.command"


def allowed_roots() -> tuple[str, ...] | None:
    """The roots that this process's environment lists; None: any place may be named."""
    listed = os.environ.get(VARIABLE, "")
    return tuple(root.strip() for root in listed.split(",") if root.strip()) if listed else None


def admit(params: Group) -> None:
    """Look whether each place that parameters name, their files' and their dump spec's too, lies within the allowed roots.

    Raises:
        UserError: one does not; the message names it and the roots.
    """
    if allowed_roots() is None:
        return
    if not isinstance(params, Params):
        for name, kind in places_of(params).items():
            admit_place(name, getattr(params, name), kind)
        return
    if params.config is not None:
        admit_place("config", params.config)
    for kind, place in _named(params):
        admit_place("parameter", place, kind)
    settings = params.settings()
    for name, kind in PLACE_SETTINGS.items():
        admit_place(name, settings.get(name), kind)
    _admit_reached(settings)
    if dump := settings.get("source.dump"):
        admit_dump(str(dump))


def admit_dump(dump: str) -> None:
    """Look at the places that a dump spec lists."""
    if allowed_roots() is not None:
        for source in read_spec(dump):
            if not package_of(source.url):
                admit_place(f"{dump}: {source.name}", source.url)


def admit_place(name: str, place: str | None, kind: str = PLACE) -> None:
    """Look whether one place lies within the allowed roots.

    Args:
        name: of what it was given as.
        place: a path, a glob or a URL; empty or None: nothing is named.
        kind: PLACE_OR_NAME for what is no place where there is no such file.

    Raises:
        UserError: it does not.
    """
    roots = allowed_roots()
    if roots is None or not place or (kind == PLACE_OR_NAME and _is_name(place)):
        return
    inside = [*roots, str(artifact_home())]
    for one in _resolved(place):
        if not any(_is_within(one, root) for root in inside):
            raise UserError(
                f"{name} {place}: lies outside of the allowed roots {', '.join(roots)}, which {VARIABLE} of this deployment"
                " lists; put it below one of them, or have the list changed"
            )


def _named(params: Params) -> list[tuple[str, str]]:
    """Kind and place of every field and setting that names one."""
    found: list[tuple[str, str]] = []

    def note(place: str, kind: str) -> str:
        found.append((kind, place))
        return place

    with_places(params, note)
    return found


def _admit_reached(settings: dict[str, Any]) -> None:
    """Look at what a run would talk to or start besides: a scheduler, a webhook, a command."""
    webhook, command = str(settings.get(WEBHOOK) or ""), settings.get(COMMAND) or ()
    admit_place(SCHEDULER, settings.get(SCHEDULER))
    admit_place(WEBHOOK, "" if webhook.startswith("$") else webhook)
    admit_place(COMMAND, next(iter(command), ""))


def _is_name(place: str) -> bool:
    if is_remote(place):
        return False
    is_path = place.startswith(("/", "~", ".")) or ".." in Path(place).parts
    return place in NAMES or not (is_path or Path(place).exists())


def _resolved(place: str) -> Iterator[str]:
    """A place as it is reached: links resolved, a glob's fixed folder and all that it names now."""
    place = place.removeprefix("file://")
    if is_remote(place):
        yield place
        return
    path = os.path.expanduser(place)  # noqa: PTH111 - a string that may be a glob
    if has_wild_card(path) and not Path(path).exists():
        fixed = next(parent for parent in Path(path).parents if not has_wild_card(str(parent)))
        yield os.path.realpath(fixed)
        yield from map(os.path.realpath, glob(path, recursive=True))  # noqa: PTH207 - as it will be read
        return
    yield os.path.realpath(path)


def _is_within(place: str, root: str) -> bool:
    if is_remote(place):
        return is_remote(root) and _url_is_within(place, root)
    real = os.path.realpath(os.path.expanduser(root.removeprefix("file://")))  # noqa: PTH111
    return not is_remote(root) and (place == real or place.startswith(real.rstrip("/") + "/"))


def _url_is_within(place: str, root: str) -> bool:
    """True below the root's own host and path; `..` and its escaped spellings are resolved first."""
    given, wanted = urlsplit(place), urlsplit(root)
    path, base = (posixpath.normpath("/" + unquote(unquote(parts.path)).lstrip("/")) for parts in (given, wanted))
    host, own = (parts.netloc.rpartition("@")[2].lower() for parts in (given, wanted))
    is_below = path == base or path.startswith(base.rstrip("/") + "/")
    return given.scheme.lower() == wanted.scheme.lower() and host == own and is_below
