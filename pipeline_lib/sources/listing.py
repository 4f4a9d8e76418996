"""What a dump consists of, as an artifact: the head of every lineage."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pipeline_lib.artifact import Artifact, Counts, Outcome, Stage, Store, digest_of, draft_part
from pipeline_lib.config import SourceConfig, StageConfig
from pipeline_lib.sources.bundles import Bundle
from pipeline_lib.sources.python_installation import list_origins

STAGE = Stage(name="source", version=1)


class ListedContent(StageConfig):
    """A listing is named by what it lists."""

    digest: str


def write_listing(store: Store, config: SourceConfig, bundles: Sequence[Bundle]) -> Artifact:
    """Write listing.json: sources with version, licence and the hash of their RECORD, and bundles with their digest."""
    origins = [] if config.folder else [origin.model_dump() for origin in list_origins()]
    listing = {
        "sources": origins,
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
        facts = {"files": sum(len(bundle.files) for bundle in bundles), "bytes": sum(bundle.bytes for bundle in bundles)}
        draft = draft_part(STAGE, key, "listing", Counts(n_in=len(bundles), n_out=len(bundles)), {}, facts)
        part = store.commit_part(draft, scratch)
        return Outcome(parts=(part,), counts=part.counts, facts=facts)

    return store.build(STAGE, ListedContent(digest=digest), {}, make)
