"""Files of a dump, on this machine or not: listed with what tells their content, cut into bundles, and kept as an artifact.

A bundle is what one process reads in one go. The listing, stage "source", is the head of every lineage; the places where the
files lay stand beside it.
"""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.config.base import StageConfig
from pipeline_lib.config.data import SourceConfig
from pipeline_lib.errors import CorruptArtifact, UserError, public_name
from pipeline_lib.sources.decompress import without_suffix
from pipeline_lib.sources.dump_spec import AUTO, TEXT, TREE, DumpSource, read_spec
from pipeline_lib.sources.folder import SKIPPED_FOLDERS, Skips, describe, list_tree, valid_name, walk
from pipeline_lib.sources.licences import MAX_STATEMENT_BYTES, Licences
from pipeline_lib.sources.packages import check_fetched, fetched_file, package_of
from pipeline_lib.sources.python_installation import list_origins, list_python
from pipeline_lib.sources.readers import guess, guesses, is_container, reader_of
from pipeline_lib.sources.remote import RemoteFile, fixed_folder, is_remote, list_url, local_copy
from pipeline_lib.sources.safe_open import Refusal, read_bytes
from pipeline_lib.sources.source_file import CODE_FORMS, COPY_MARK, NOTEBOOK, Form, SourceFile, form_of, is_about_data
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import digest_of
from pipeline_lib.store.records import Counts, Outcome, Record, Stage, draft_part
from pipeline_lib.store.store import Store

STAGE = Stage(name="source", version=3)
FILES = "files.parquet"
PLACES = "places.json"
# One path in 32 may start a bundle once it is half full: its end depends on the paths near it alone, and a new file moves one
# bound or two, not all that follow.
CUT_ONE_IN = 32
FINE_FROM = 128  # files: fewer are one bundle, unless they are large

_TEXT_FORMS: dict[str, Form] = {
    ".txt": "plain",
    ".md": "markdown",
    ".markdown": "markdown",
    ".rst": "restructuredtext",
    ".html": "html",
    ".htm": "html",
}


def list_dump(sources: Sequence[DumpSource], skips: Skips | None = None, more: tuple[Form, ...] = ()) -> list[SourceFile]:
    """Every file of every source.

    Args:
        skips: counts what trees and folders hold besides.
        more: forms that are read beside those that are read in every source.

    Raises:
        UserError: a source is missing, cannot be read or holds nothing for its reader.
        CorruptArtifact: a package is not the one that its URL names.
        TransientError: a server did not answer.
    """
    return [file for source in sources for file in list_source(source, skips, more)]


def list_source(source: DumpSource, skips: Skips | None = None, more: tuple[Form, ...] = ()) -> list[SourceFile]:
    """Every file of one source, by path. Raises as `list_dump` does."""
    skips = Skips() if skips is None else skips
    package = package_of(source.url)
    if package is not None:
        source = source.model_copy(update={"url": str(fetched_file(package))})
    reader = reader_of(source.reader)
    if reader is not None and reader.describe is not None:
        files = [reader.describe(source.url, source.name, source.options)]
    else:
        files = list((_remote_files if is_remote(source.url) else _local_files)(source, skips, more))
    if package and (changed := next((file for file in files if file.sha256 != package.sha256), None)):
        got = f"sha256 is {changed.sha256}, its url says {package.sha256}"
        raise CorruptArtifact(f"source {source.name}: {changed.place}: {got}; remove {package.folder} and fetch it again")
    if not files:
        raise UserError(f"source {source.name}: nothing for the reader {source.reader} at {source.url}; mend its url or reader")
    given = {"weight": source.weight, "options": source.options}
    given |= {"group": source.group, "one_group": True} if source.group else {}
    files = [file.model_copy(update={"licence": file.licence or source.licence, **given}) for file in files]
    return [file.model_copy(update={"more_forms": more}) if is_container(file) else file for file in files] if more else files


def _local_files(source: DumpSource, skips: Skips, more: tuple[Form, ...]) -> Iterator[SourceFile]:
    folder = Path(source.url)
    licences = Licences(source.licence) if source.reader == TREE else None
    if folder.is_dir():
        root = str(folder.resolve())
        if source.reader in (TREE, TEXT):
            wanted = partial(form_of, more=more) if source.reader == TREE else _prose_form
            for place, path in list(walk(root, wanted=wanted, skips=skips, licences=licences)):
                yield _described(source, place, path, wanted(path), licences)
            return
        for place, path in walk(root, wanted=lambda name: None if is_about_data(name) else "plain", skips=skips):
            if (form := _form_in_folder(source, path, guess(place), more)) is not None:
                yield _described(source, place, path, form)
            else:
                skips.note(path)
        return
    if folder.exists():
        places, root = [source.url], str(folder.parent)
    else:
        places, root = sorted(set(glob.glob(source.url, recursive=True))), fixed_folder(source.url)  # noqa: PTH207 - absolute
    for place in places:
        if not os.path.isdir(place):  # noqa: PTH112 - a string that may hold bytes that are no UTF-8
            path = os.path.relpath(place, root)
            place = os.path.abspath(place)  # noqa: PTH100, PLW2901
            found = guess(place) if source.reader == AUTO else None
            yield _described(source, place, path, _form(source, path, found, more), licences)


def _remote_files(source: DumpSource, skips: Skips, more: tuple[Form, ...]) -> Iterator[SourceFile]:
    folder, files = list_url(source.url)
    licences = _remote_licences(source, files) if folder and source.reader == TREE else None
    found = _remote_guesses(source, folder, files)
    for file in files:
        form: Form | None = None
        if not folder:
            form = _form(source, file.path, found.get(file.url), more)
        elif _may_be_read(file.path):
            if source.reader == TREE:
                form = form_of(file.path, more)
            elif source.reader == TEXT:
                form = _prose_form(file.path)
            else:
                form = _form_in_folder(source, file.path, found.get(file.url), more)
        if form is None:
            skips.note(file.path)
            continue
        yield SourceFile(
            place=file.url,
            path=file.path,
            source=source.name,
            group=_group(source, file.path),
            licence=licences.of(file.path) if licences else source.licence,
            form=form,
            bytes=file.bytes,
            sha256=file.identity,
        )


def _remote_guesses(source: DumpSource, folder: bool, files: Sequence[RemoteFile]) -> dict[str, str | None]:
    """URL to the reader that its first bytes ask for, of the files for which that counts."""
    if source.reader in (TREE, TEXT) or not (folder or source.reader == AUTO):
        return {}
    return dict(guesses(file.url for file in files if not folder or _may_be_read(file.path)))


def _may_be_read(path: str) -> bool:
    return SKIPPED_FOLDERS.isdisjoint(path.split("/")[:-1]) and not is_about_data(path)


def _remote_licences(source: DumpSource, files: Sequence[RemoteFile]) -> Licences:
    """What manifests and licence files say, which are fetched for it; the headers of all others are seen when they are read."""
    licences = Licences(source.licence)
    for file in files:
        small = licences.is_statement(file.path) and file.bytes <= MAX_STATEMENT_BYTES
        if small and SKIPPED_FOLDERS.isdisjoint(file.path.split("/")[:-1]):
            fields: dict[str, Any] = {"place": file.url, "path": file.path, "bytes": file.bytes, "sha256": file.identity}
            listed = SourceFile(source=source.name, group="", licence=None, form="plain", **fields)
            with local_copy(listed) as here:
                content = here if isinstance(here, Refusal) else read_bytes(here.place, MAX_STATEMENT_BYTES)
            licences.add(file.path, b"" if isinstance(content, Refusal) else content)
    return licences


def _described(source: DumpSource, place: str, path: str, form: Form | None, licences: Licences | None = None) -> SourceFile:
    file = describe(place, path, source.name, _group(source, path), licences or source.licence)
    return file.model_copy(update={"form": form or "plain"})


def _form(source: DumpSource, path: str, found: str | None, more: tuple[Form, ...]) -> Form:
    """The form of a file that was named by itself or by a glob: a reader's name counts, else what the file is.

    Args:
        found: the reader that its first bytes ask for.
    """
    if source.reader == TREE:
        return form_of(path, more) or "plain"
    if source.reader in (TEXT, AUTO):
        return (found if source.reader == AUTO else None) or _text_form(path, more) or "plain"
    return source.reader


def _form_in_folder(source: DumpSource, path: str, found: str | None, more: tuple[Form, ...]) -> Form | None:
    """The form of a file that its folder was named for: those of the source's reader, or each as what it is; None: not read."""
    if is_about_data(path):
        return None
    if source.reader == AUTO:
        return found or form_of(path, more)
    return found if found == source.reader else None


def _text_form(path: str, more: tuple[Form, ...]) -> Form | None:
    """The form of a file that is one text, by its name: code, or a form of prose."""
    code = form_of(without_suffix(path), more)
    return code if code in CODE_FORMS or code == NOTEBOOK else _prose_form(path)


def _prose_form(path: str) -> Form | None:
    return _TEXT_FORMS.get(Path(without_suffix(path)).suffix.lower())


def _group(source: DumpSource, path: str) -> str:
    """A folder of a tree is a group, as a file of texts is; a container's texts may get groups of their own."""
    if source.reader == TREE:
        return valid_name(path.split("/", maxsplit=1)[0] if "/" in path else source.name)
    return valid_name(path)


class Bundle(Record):
    """Files that are extracted together, as one part. Equal digests: equal rows come out."""

    label: str  # its first file's source, and its path where that is not the source's first
    digest: str
    files: tuple[SourceFile, ...]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


def list_bundles(config: SourceConfig, skips: Skips | None = None, more: tuple[Form, ...] = ()) -> list[Bundle]:
    """The bundles of a dump spec or a folder or, where neither is named, of this machine's Python.

    Args:
        skips: counts what is not listed.
        more: forms that are read beside those that are read in every source; of this machine's Python none is.

    Raises:
        UserError: the folder cannot be read or is empty; the project is not installed.
    """
    files = list_files(config, skips, more)
    grows = bool(config.dump or config.folder)  # an installation of Python is replaced as a whole, by an upgrade
    return bundles_of(files, config.max_bundle_bytes, files_a_bundle(len(files)) if grows else None)


def list_files(config: SourceConfig, skips: Skips | None = None, more: tuple[Form, ...] = ()) -> list[SourceFile]:
    """The files of a dump spec or a folder or, where neither is named, of this machine's Python."""
    if config.dump:
        sources = read_spec(config.dump)
        check_fetched((source.url for source in sources), config.dump)
        return list_dump(sources, skips, more)
    return list_tree(config.folder, skips, more) if config.folder else list_python(skips)


def files_a_bundle(n_files: int) -> int | None:
    """Files of a bundle on average, a quarter of the number of bundles: what a new file costs, and what many parts cost, both
    grow as the root of the dump. A power of two, which stays the same until the dump is four times as large.

    Returns:
        None where there are too few files for that to pay.
    """
    return None if n_files < FINE_FROM else 2 ** int(math.log2(1.5 * n_files) / 2 - 1)


def bundles_of(files: Iterable[SourceFile], max_bytes: int, mean_files: int | None = None) -> list[Bundle]:
    """Cut files, in the order of (source, path), into bundles of at most `max_bytes`; a larger file is alone in its own.

    Args:
        mean_files: of a bundle; None: as many as there is room for.
    """
    bundles: list[Bundle] = []
    pending: list[SourceFile] = []
    size = 0
    last_source = ""
    for file in _told_apart(sorted(files, key=lambda file: (file.source, file.path, file.sha256))):
        full = size + file.bytes > max_bytes or (size > max_bytes // 2 and _may_start(file, CUT_ONE_IN))
        full = full or (mean_files is not None and _may_start(file, mean_files))
        if pending and full:
            bundles.append(_bundle(pending, last_source))
            last_source, pending, size = pending[-1].source, [], 0
        pending.append(file)
        size += file.bytes
    if pending:
        bundles.append(_bundle(pending, last_source))
    return bundles


def _told_apart(files: Iterable[SourceFile]) -> Iterator[SourceFile]:
    """The files, each with a path of its own: names of other bytes can be shown alike."""
    last, copies = ("", ""), 1
    for file in files:
        copies = copies + 1 if (file.source, file.path) == last else 1
        last = file.source, file.path
        yield file.model_copy(update={"path": f"{file.path}{COPY_MARK}{copies}"}) if copies > 1 else file


def _may_start(file: SourceFile, one_in: int) -> bool:
    return int.from_bytes(hashlib.sha256(file.path.encode()).digest()[:4], "big") % one_in == 0


def _bundle(files: list[SourceFile], source_before: str) -> Bundle:
    first = files[0]
    label = first.source if first.source != source_before else f"{first.source} from {first.path}"
    digest = digest_of([label, [file.identity for file in files]])
    return Bundle(label=label, digest=digest, files=tuple(files))


class ListedContent(StageConfig):
    """A listing is named by what it lists."""

    digest: str


def write_listing(store: Store, config: SourceConfig, bundles: Sequence[Bundle], skips: Skips | None = None) -> Artifact:
    """Write listing.json (sources with licence and version, bundles with their digest) and files.parquet (with hashes).

    Where the files lie is no part of that: places.json, beside the manifest, says where they were listed last.

    Args:
        skips: what was not listed: the fact `skipped`, by reason and suffix.
    """
    skips = skips or Skips()
    listing = _listing(config, bundles, skips)
    content = json.dumps(listing, sort_keys=True, indent=1).encode() + b"\n"

    def make(key: str) -> Outcome:
        scratch = store.scratch(STAGE.name)
        (scratch / "listing.json").write_bytes(content)
        rows = _write_files(scratch / FILES, bundles)
        facts: dict[str, Any] = {"files": rows, "bytes": sum(bundle.bytes for bundle in bundles)}
        facts |= {"skipped": skips.facts()} if skips else {}
        counts = Counts(n_in=rows + skips.total(), n_out=rows, dropped=skips.by_reason())
        draft = draft_part(STAGE, key, "listing", counts, {FILES: rows}, facts)
        part = store.commit_part(draft, scratch)
        return Outcome(parts=(part,), counts=part.counts, facts=facts)

    artifact = store.build(STAGE, ListedContent(digest=digest_of(listing)), {}, make)
    artifact.add_note(PLACES, json.dumps(_roots(bundles), sort_keys=True, indent=1).encode() + b"\n")
    return artifact


def listing_key(store: Store, config: SourceConfig, bundles: Sequence[Bundle], skips: Skips | None = None) -> str:
    """The key of the listing that `write_listing` writes: another one, other rows; nothing is written."""
    return store.key(STAGE, ListedContent(digest=digest_of(_listing(config, bundles, skips or Skips()))), {})


def _listing(config: SourceConfig, bundles: Sequence[Bundle], skips: Skips) -> dict[str, Any]:
    return {
        "sources": _origins(config),
        "bundles": [
            {"label": bundle.label, "digest": bundle.digest, "files": len(bundle.files), "bytes": bundle.bytes}
            for bundle in bundles
        ],
        **({"skipped": skips.facts()} if skips else {}),
    }


def _origins(config: SourceConfig) -> list[dict[str, Any]]:
    if config.dump:
        # by name: the order in which a spec lists its sources changes nothing
        sources = sorted(read_spec(config.dump), key=lambda source: source.name)
        # nor does where it is held out: the split is made later
        return [source.model_dump(mode="json", exclude={"url", "hold_out"}) for source in sources]
    return [] if config.folder else [origin.model_dump() for origin in list_origins()]


def _write_files(path: Path, bundles: Sequence[Bundle]) -> int:
    """The files by source and path, which is their order in the bundles. Returns their number."""
    files = [file for bundle in bundles for file in bundle.files]
    columns = {name: [getattr(file, name) for file in files] for name in ("source", "path", "form", "bytes", "sha256")}
    pq.write_table(pa.table(columns), path, compression="zstd", write_statistics=False)
    return len(files)


def _roots(bundles: Sequence[Bundle]) -> dict[str, str]:
    """Source to what stood before the path of its first file: a folder, or a URL."""
    roots: dict[str, str] = {}
    for bundle in bundles:
        for file in bundle.files:
            place = public_name(file.place) if is_remote(file.place) else file.place
            roots.setdefault(file.source, place.removesuffix(file.path))
    return roots
