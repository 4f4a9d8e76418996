"""Candidates of the registry: a model of a few bytes, and the index that is its own."""

from __future__ import annotations

import json

from builders import write_artifact

from pipeline_lib.config.base import StageConfig
from pipeline_lib.search.registry import Candidate
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store


class Numbered(StageConfig):
    """A config whose key is its number."""

    number: int


def exported(store: Store, number: int) -> Artifact:
    return write_artifact(
        store, "export", ["model"], lambda folder, _: (folder / "w").write_text(f"{number}"), Numbered(number=number)
    )


def indexed(store: Store, of: Artifact, number: int = 0) -> Artifact:
    content = json.dumps({"model_digest": of.digest, "number": number})
    config = Numbered(number=number + 1000 * int((of.part_folder() / "w").read_text()))
    return write_artifact(store, "index", ["index"], lambda folder, _: (folder / "index.json").write_text(content), config)


def candidate(store: Store, number: int) -> Candidate:
    model = exported(store, number)
    return Candidate(model, indexed(store, model), f"{number:024d}", "step-000010", {"curate": f"c{number}"}, ["v1", "v2"])
