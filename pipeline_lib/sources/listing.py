"""What a dump consists of, as an artifact: the head of every lineage; and, beside it, where the files lay."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.artifact import Artifact, Counts, Outcome, Stage, Store, digest_of, draft_part
from pipeline_lib.config import SourceConfig, StageConfig
from pipeline_lib.sources.bundles import Bundle
from pipeline_lib.sources.dump_spec import read_spec
from pipeline_lib.sources.python_installation import list_origins

STAGE = Stage(name="source", version=2)
FILES = "files.parquet"
PLACES = "places.json"


class ListedContent(StageConfig):
    """A listing is named by what it lists."""

    digest: str


def write_listing(store: Store, config: SourceConfig, bundles: Sequence[Bundle]) -> Artifact:
    """Write listing.json (sources with licence and version, bundles with their digest) and files.parquet (with hashes).

    Where the files lie is no part of that: places.json, beside the manifest, says where they were listed last.
    """
    listing = {
        "sources": _origins(config),
        "bundles": [
            {"label": bundle.label, "digest": bundle.digest, "files": len(bundle.files), "bytes": bundle.bytes}
            for bundle in bundles
        ],
    }
    content = json.dumps(listing, sort_keys=True, indent=1).encode() + b"\n"
    digest = digest_of(listing)

    def make(key: str) -> Outcome:
        scratch = store.scratch(STAGE.name)
        (scratch / "listing.json").write_bytes(content)
        rows = _write_files(scratch / FILES, bundles)
        facts = {"files": sum(len(bundle.files) for bundle in bundles), "bytes": sum(bundle.bytes for bundle in bundles)}
        draft = draft_part(STAGE, key, "listing", Counts(n_in=len(bundles), n_out=len(bundles)), {FILES: rows}, facts)
        part = store.commit_part(draft, scratch)
        return Outcome(parts=(part,), counts=part.counts, facts=facts)

    artifact = store.build(STAGE, ListedContent(digest=digest), {}, make)
    artifact.add_note(PLACES, json.dumps(_roots(bundles), sort_keys=True, indent=1).encode() + b"\n")
    return artifact


def _origins(config: SourceConfig) -> list[dict[str, Any]]:
    if config.dump:
        # by name: the order in which a spec lists its sources changes nothing
        sources = sorted(read_spec(config.dump), key=lambda source: source.name)
        return [source.model_dump(mode="json", exclude={"url"}) for source in sources]
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
            roots.setdefault(file.source, file.place.removesuffix(file.path))
    return roots
