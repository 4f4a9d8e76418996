"""What belongs to a training run is found by what its manifest and its origin record, on a disk and in a bucket."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.config.base import StageConfig
from pipeline_lib.config.data import ShardConfig
from pipeline_lib.config.model import ModelConfig
from pipeline_lib.errors import UserError
from pipeline_lib.export.card import CardFacts, model_folder, write_card
from pipeline_lib.model.checkpoint import Checkpoint, Lineage, Origin, check_fit, lineage_of, open_checkpoint, record_origin
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import digest_of, sha256_file
from pipeline_lib.store.files import digest_of as content_of
from pipeline_lib.store.records import Outcome, Stage, draft_part
from pipeline_lib.store.store import Store


class Named(StageConfig):
    name: str


class Run(StageConfig):
    model: ModelConfig


def made(
    store: Store,
    stage_name: str,
    content: str,
    inputs: Mapping[str, Artifact],
    config: StageConfig | None = None,
    label: str = "",
) -> Artifact:
    """An artifact of one file; its content is what is said, whatever it was made from."""
    stage = Stage(name=stage_name, version=1)

    def make(key: str) -> Outcome:
        scratch = store.scratch(stage_name)
        (scratch / "encoder").mkdir()
        (scratch / "encoder" / "model.safetensors").write_text(content)
        draft = draft_part(
            stage, digest_of([key, content])[:24], label or stage_name, facts=FACTS if stage_name == "export" else None
        )
        return Outcome(parts=(store.commit_part(draft, scratch),))

    return store.build(stage, config or Named(name=content), inputs, make)


FACTS = {"dim": 4, "parameters": 9, "layers": 1, "vocab_size": 7, "pooling": "last", "distinct": True, "onnx": False}


def run_on(store: Store, corpus: str, rows: str) -> tuple[Artifact, Artifact]:
    """(corpus, training run): of a corpus of that name whose training split has these rows."""
    curated = made(store, "curate", corpus, {})
    tokenizer = made(store, "tokenizer", f"words of {rows}", {})
    shards = made(store, "shards", f"ids of {rows}", {"curated": curated, "tokenizer": tokenizer}, ShardConfig(max_x_tokens=12))
    return curated, train_on(store, shards, tokenizer)


def train_on(store: Store, shards: Artifact, tokenizer: Artifact, init: str = "") -> Artifact:
    config = Run(model=ModelConfig(init=init))
    return made(
        store, "train", f"weights of {shards.digest} {init}", {"shards": shards, "tokenizer": tokenizer}, config, "step-000004"
    )


def tune(store: Store, lineage: Lineage, sets: str) -> Artifact:
    """A run that began as a checkpoint: as `launch` names it, by the content of the folder."""
    folder = lineage.trained.part_folder("step-000004")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    init = content_of([(path.relative_to(folder).as_posix(), sha256_file(path)) for path in files])
    pairs = made(store, "training_set", sets, {})
    shards = made(store, "shards", f"ids of {sets}", {"curated": pairs, "tokenizer": lineage.tokenizer}, ShardConfig())
    return train_on(store, shards, lineage.tokenizer, init)


def test_a_run_is_found_with_its_own_corpus_among_others(tmp_path: Path) -> None:
    store = Store(tmp_path)
    runs = {name: run_on(store, name, f"rows of {name}") for name in ("a", "b")}
    for curated, trained in runs.values():
        lineage = lineage_of(store, trained)
        assert (lineage.curated.digest, lineage.labels, lineage.base) == (curated.digest, ["step-000004"], None)
        checkpoint = lineage.checkpoint("step-000004")
        assert (checkpoint.shards.max_x_tokens, checkpoint.tokenizer.digest) == (12, trained.manifest.inputs["tokenizer"])
    with pytest.raises(UserError, match="no part 'step-000005'; there are: step-000004"):
        lineage.checkpoint("step-000005")


def test_a_tuned_run_has_the_corpus_of_the_run_that_it_began_as(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run_on(store, "another", "other rows")
    curated, trained = run_on(store, "corpus", "rows")
    tuned = lineage_of(store, tune(store, lineage_of(store, trained), "a set"))
    twice = lineage_of(store, tune(store, tuned, "another set"))
    for lineage in (tuned, twice):
        assert lineage.curated.digest == curated.digest
        assert lineage.base is not None and lineage.shards.digest == lineage.trained.manifest.inputs["shards"]
    assert twice.base is not None and twice.base.trained.digest == tuned.trained.digest
    (trained.folder / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"was tuned from a checkpoint of content .* which is gone"):
        lineage_of(store, tuned.trained)
    assert open_checkpoint(store, f"{tuned.trained.manifest.key}/step-000004").tokenizer.digest == tuned.tokenizer.digest


def test_corpora_with_one_training_split_are_told_apart_by_what_was_recorded(tmp_path: Path) -> None:
    """Their shards are the same bytes, and the run too; their held-out splits are not."""
    store = Store(tmp_path)
    (first, trained), (second, again) = (run_on(store, name, "the same rows") for name in ("first", "second"))
    assert trained.manifest.key == again.manifest.key and first.digest != second.digest
    with pytest.raises(UserError, match=r"shards that come from several corpora .* run `cpt train`"):
        lineage_of(store, trained)
    for wanted in (second, first):
        shards = next(found for found in store.artifacts("shards") if found.manifest.inputs["curated"] == wanted.digest)
        (trained.folder / "origin.json").unlink(missing_ok=True)
        record_origin(trained, Origin(keys={"shards": shards.manifest.key, "curate": wanted.manifest.key}))
        assert lineage_of(store, trained).curated.digest == wanted.digest
    record_origin(trained, Origin(keys={}, base="another"))
    assert lineage_of(store, trained).origin.base == "", "the first record stays"


def test_what_belongs_to_another_run_is_refused_with_got_and_expected(tmp_path: Path) -> None:
    store = Store(tmp_path)
    a, b = (lineage_of(store, run_on(store, name, f"rows of {name}")[1]) for name in ("a", "b"))
    for change, what in ((("shards",), "shards"), (("tokenizer",), "tokenizer"), (("curated",), "curate")):
        fields: dict[str, Any] = {**vars(b), **{name: getattr(a, name) for name in change}}
        got = getattr(a, change[0])
        with pytest.raises(UserError, match=f"{what} {got.manifest.key} .content {got.digest[:12]}. does not belong to"):
            check_fit(Lineage(**fields))
    check_fit(b)


def test_what_a_run_was_made_from_is_gone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _, trained = run_on(store, "corpus", "rows")
    (store.artifacts("tokenizer")[0].folder / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"no artifact tokenizer of content .* which train .* was made from"):
        lineage_of(store, trained)


def test_a_record_that_cannot_be_read_is_no_record(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _, trained = run_on(store, "corpus", "rows")
    trained.add_note("origin.json", b'{"version": 9}')
    assert lineage_of(store, trained).origin == Origin()


def test_another_machine_finds_it_in_the_bucket(tmp_path: Path, s3: Any) -> None:
    s3.mkdir("lineages")
    here, there = (Store(tmp_path / name, "s3://lineages/root") for name in ("here", "there"))
    curated, trained = run_on(here, "corpus", "rows")
    record_origin(trained, Origin(base="gpt2", data="The folder tree."))
    lineage = lineage_of(there, there.open("train", trained.manifest.key))
    assert (lineage.curated.digest, lineage.origin.base) == (curated.digest, "gpt2")
    lengths = {"label": "step-000004", "max_x_tokens": 12, "max_y_tokens": 128}

    class Lengths(StageConfig):
        label: str
        max_x_tokens: int
        max_y_tokens: int

    exported = made(here, "export", "weights", {"trained": trained}, Lengths(**lengths), "model")
    card = write_card(here, exported, Checkpoint(trained, "step-000004", lineage.tokenizer, ShardConfig()), CardFacts())
    folder = model_folder(*(there.open(stage, made.manifest.key) for stage, made in (("export", exported), ("card", card))))
    assert folder.is_relative_to(tmp_path / "there")
    assert (folder / "README.md").is_file() and (folder / "encoder" / "model.safetensors").read_text() == "weights"
