"""Two models side by side: one vector wherever it is measured, exported, indexed, searched and added to by nights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpus import PLANTED, PLANTED_NAME, write_corpus
from exported_models import TEXTS, tiny_checkpoint

from flows.candidate import Published
from flows.params import TrainParams
from flows.runs import as_exported
from flows.train import second_params
from flows.workspace import DatasetRef, Workspace
from pipeline_lib.config.presets import describe, preset
from pipeline_lib.config.run import ExportConfig, RunConfig
from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.evaluation.suites.models import CheckpointEncoder
from pipeline_lib.evaluation.suites.outside import ExportEncoder
from pipeline_lib.export.export import export
from pipeline_lib.export.exported import TorchQueries, open_export
from pipeline_lib.model.checkpoint import Checkpoint, Companion, lineage_of
from pipeline_lib.search.encoders import SideBySide, load_encoder
from pipeline_lib.search.registry import champion
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store

PROJECT = Path(__file__).parents[2]
SHARE = 0.3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def pair(store: Store) -> Checkpoint:
    other = tiny_checkpoint(store, pooling="mean").reading(16, 24)
    return replace(tiny_checkpoint(store), companion=Companion(other, SHARE))


@pytest.fixture(scope="module")
def exported(store: Store, pair: Checkpoint) -> Artifact:
    return export(store, pair, ExportConfig())


def test_a_cosine_is_the_mean_of_both_models(pair: Checkpoint) -> None:
    assert pair.companion
    alone, other = (
        CheckpointEncoder(one, precision="float32") for one in (replace(pair, companion=None), pair.companion.checkpoint)
    )
    both = CheckpointEncoder(pair, precision="float32")
    (xs, ys), (own_xs, own_ys), (other_xs, other_ys) = (
        [model.encode(TEXTS, side) for side in ("x", "y")] for model in (both, alone, other)
    )
    assert xs.shape == (len(TEXTS), 64) and np.linalg.norm(xs, axis=1) == pytest.approx(1, abs=1e-6)
    assert xs @ ys.T == pytest.approx(0.7 * own_xs @ own_ys.T + 0.3 * other_xs @ other_ys.T, abs=1e-6)
    half = CheckpointEncoder(replace(pair, companion=Companion(pair.companion.checkpoint, 0.5)), precision="float32")
    names = [model.id.fingerprint for model in (both, alone, other, half)]
    assert len(set(names)) == 4, "no vector of one is taken for another's"


def test_the_export_gives_the_same_vectors_by_every_loader(
    store: Store, pair: Checkpoint, exported: Artifact, tmp_path: Path
) -> None:
    folder, expected = exported.part_folder(), CheckpointEncoder(pair, precision="float32")
    xs, ys = expected.encode(TEXTS, "x"), expected.encode(TEXTS, "y")
    assert exported.manifest.facts["dim"] == 64 and exported.manifest.facts["onnx"]
    model = open_export(folder)
    assert model.width == 64 and model.embed(TEXTS, "y") == pytest.approx(ys, abs=1e-5)
    assert ExportEncoder(folder, "both", "float32").encode(TEXTS, "x") == pytest.approx(xs, abs=1e-5)
    graph = load_encoder(folder, None, int8=False)
    assert isinstance(graph, SideBySide) and graph.dim == 64
    assert graph.embed(TEXTS, "query") == pytest.approx(xs, abs=1e-5)
    weights = load_encoder(export(store, pair, ExportConfig(onnx=False)).part_folder(), TorchQueries, int8=False)
    assert weights.embed(TEXTS, "document") == pytest.approx(ys, abs=1e-5)
    for side in ("query", "document"):  # a service counts what it reads, whichever library runs the model
        assert weights.token_ids(TEXTS, side) == graph.token_ids(TEXTS, side)
    again = as_exported(store, replace(pair, companion=None), exported)
    assert CheckpointEncoder(again, precision="float32").id == expected.id, "what a champion is compared and added to as"
    given = run_sentence_transformers(folder, tmp_path)
    assert given["query"] == pytest.approx(xs, abs=1e-5) and given["document"] == pytest.approx(ys, abs=1e-5)


def run_sentence_transformers(folder: Path, place: Path) -> dict[str, np.ndarray]:
    """What the card's recipe makes of the texts, in a process without network."""
    from pipeline_lib.export.usage import use_of_both

    block = use_of_both({"beside": {"share": SHARE, "own_dim": 32}, "dim": 64}).split("```python\n")[1].split("```")[0]
    script = f"{block.replace('path/to/this/folder', str(folder))}\nimport json, sys\ntexts = json.load(sys.stdin)\n"
    script += f"np.savez({str(place / 'out.npz')!r}, query=both(texts, 'query'), document=both(texts, 'document'))\n"
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place)}
    subprocess.run([sys.executable, "-I", "-c", script], input=json.dumps(TEXTS), env=env, cwd=place, text=True, check=True)
    return dict(np.load(place / "out.npz"))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ({"share": 1.5}, "share between 0 and 1"),
        ({"version": 2}, "not a record of version 1"),
        ({"share": "much"}, "not a record of a second model"),
        ({"weights_sha256": "0" * 64}, r"sha256 of its weights is [0-9a-f]{64}, exported was 0{64}"),
    ],
)
def test_a_damaged_record_is_refused(exported: Artifact, tmp_path: Path, damage: dict[str, Any], told: str) -> None:
    folder = tmp_path / "copy"
    subprocess.run(["cp", "-rL", str(exported.part_folder()), str(folder)], check=True)
    record = json.loads((folder / "beside.json").read_text())
    (folder / "beside.json").chmod(0o644)
    (folder / "beside.json").write_text(json.dumps(record | damage))
    for load in (open_export, lambda place: load_encoder(place, None, int8=False)):
        with pytest.raises(CorruptArtifact, match=told):
            load(folder)


def test_a_lost_second_model_is_refused(exported: Artifact, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    subprocess.run(["cp", "-rL", str(exported.part_folder()), str(folder)], check=True)
    (folder / "beside" / "encoder" / "model.safetensors").unlink()
    with pytest.raises(CorruptArtifact, match="sha256 of its weights is no file"):
        open_export(folder)


def test_what_two_models_cannot_have_is_refused(store: Store, pair: Checkpoint) -> None:
    with pytest.raises(UserError, match=r"keeps a prefix, and beside puts two models side by side"):
        export(store, pair, ExportConfig(truncate_dim=16))
    for name, value in (("truncate_dim", 16), ("quantize", "int8")):
        with pytest.raises(ValueError, match=r"leave export\.truncate_dim and export\.quantize out"):
            RunConfig.model_validate({"beside": {"model": "demo"}, "export": {name: value}})
    assert RunConfig.model_validate({"beside": {"model": "demo"}, "evaluate": {"dims": [16]}}).measured_dims == ()
    with pytest.raises(ValueError, match="less than 1"):
        RunConfig.model_validate({"beside": {"share": 1.0}})


def cpt(home: Path, *words: str, fails: bool = False) -> str:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    env |= {"CPT_HOME": str(home), "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "flows.cli", *words]
    answer = subprocess.run(command, env=env, cwd=PROJECT, capture_output=True, text=True, timeout=900, check=False)
    assert (answer.returncode != 0) == fails, answer.stderr[-4000:]
    return answer.stdout + answer.stderr


@pytest.mark.parametrize("name", ["lm", "mine"])
def test_what_trains_the_second_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Its own preset on the pairs of the run, and on nothing else that was asked of that."""
    monkeypatch.setenv("CPT_HOME", str(tmp_path))
    (tmp_path / "presets").mkdir()
    mine = "base: smoke\nbeside: {preset: demo, share: 0.6}\ncurate: {split_salt: mine}\n"
    (tmp_path / "presets" / "mine.yaml").write_text(mine)
    given = ("curate.validation_percent=20", "train.steps=7", "extract.workers=1", "export.onnx=false")
    params = TrainParams(preset=name, source=str(tmp_path), name="a" * 100, set=given)
    config, asked = params.resolve(), second_params(params, params.resolve(), 115_000)
    second, demo = asked.resolve(), preset("demo")
    for section in ("source", "extract", "queries", "contract", "contamination", "curate"):
        assert getattr(second, section) == getattr(config, section)
    for section in ("tokenizer", "shards", "model", "train", "read", "export"):
        assert getattr(second, section) == getattr(demo, section)
    few = second_params(params, config, 315).resolve().train
    assert few == demo.train.model_copy(update={"batch_size": 16}), "of a small source a batch is at most a tenth"
    assert [second_params(params, config, n).resolve().train.batch_size for n in (0, 9, 39, 40)] == [2, 2, 2, 4]
    assert not second.beside.is_wanted and second.extract.workers == 1
    assert second.curate.split_salt == ("mine" if name == "mine" else demo.curate.split_salt)
    assert asked.command().startswith("cpt train --preset demo --source ")
    named = TrainParams(preset=name, set=("beside.model=3f9c1a20",)).resolve()
    assert named.beside.trained is None and named.beside.is_wanted, "a finished model comes in place of a preset's"
    assert "beside    preset demo's, trained first: 0." in describe(config, name)


def test_an_unknown_preset_is_refused_before_anything_is_made() -> None:
    with pytest.raises(UserError, match=r"preset 'nobody' is unknown; choose one of: adapt, "):
        TrainParams(preset="smoke", set=("beside.preset=nobody",)).resolve()


@pytest.mark.slow
def test_a_run_trains_the_model_beside_it(tmp_path: Path) -> None:
    """By a preset's name, on its own pairs; found trained by the same run's key, and by a run of that preset alone."""
    home, corpus = tmp_path / "home", write_corpus(tmp_path / "corpus")
    (home / "presets").mkdir(parents=True)
    (home / "presets" / "words.yaml").write_text("base: smoke\ntrain: {steps: 10, warmup_steps: 2}\n")
    short = ("--source", str(corpus), "--set", "tests_plumbing=false")
    told = cpt(home, "run", "--preset", "smoke", *short, "--steps", "20", "--name", "both", "--set", "beside.preset=words")
    assert "words on the same pairs, to stand beside both" in told
    pair = champion(home, "both")
    assert pair is not None
    assert json.loads((pair.model / "beside.json").read_text())["share"] == SHARE
    check_recalled(home, pair)
    store = Store(home / "store")
    runs = store.keys("train")
    assert len(runs) == 2
    told = cpt(home, "evaluate", "--model", f"{pair.trained}/{pair.checkpoint}", "--split", "validation")
    assert "words on the same pairs" in told
    second = next(store.open("train", key) for key in runs if key != pair.trained)
    batch = str(second.manifest.config["config"]["batch_size"])  # fitted to the source
    cpt(home, "train", "--preset", "words", "--source", str(corpus), "--batch-size", batch)
    assert store.keys("train") == runs, "nothing was trained again"


def check_recalled(home: Path, pair: Any) -> None:
    """What a run that waited for a person's answer goes on with: the model beside it is that of its export."""
    store = Store(home / "store")
    work = Workspace(home, store, RunConfig())
    lineage = lineage_of(store, store.open("train", pair.trained))
    dataset = DatasetRef(
        curated=lineage.curated.manifest.key, tokenizer=lineage.tokenizer.manifest.key, shards=lineage.shards.manifest.key
    )
    made = {"export": [f"export/{pair.keys['export']}"], "checkpoint": [pair.checkpoint]}
    kept = {"trained": pair.trained, "began": None, "dataset": dataset.model_dump(mode="json"), "made": made}
    companion = Published.recalled(work, kept).run.checkpoint(pair.checkpoint).companion
    assert companion is not None
    record = json.loads((pair.model / "beside.json").read_text())
    assert companion.share == record["share"] and companion.checkpoint.trained.manifest.key != pair.trained


@pytest.mark.slow
def test_a_run_is_published_beside_another_and_grows_at_night(tmp_path: Path) -> None:
    home, corpus = tmp_path / "home", write_corpus(tmp_path / "corpus")
    short = ("--preset", "smoke", "--source", str(corpus), "--set", "tests_plumbing=false")
    cpt(home, "run", *short, "--steps", "10", "--name", "other")
    asked = ("run", *short, "--steps", "20", "--name", "both")
    told = cpt(home, *asked, "--set", "beside.model=nobody", fails=True)
    assert "beside.model is 'nobody', expected RUN/step-000240" in told
    cpt(home, *asked, "--set", "beside.model=other", "--set", "beside.share=0.4")
    pair = champion(home, "both")
    assert pair is not None
    record = json.loads((pair.model / "beside.json").read_text())
    assert (record["share"], record["dim"]) == (0.4, 128)
    found = json.loads(cpt(home, "search", "--name", "both", "--json", "count the airships"))
    assert found["hits"]
    card = (pair.model / "README.md").read_text() if (pair.model / "README.md").is_file() else ""
    card = card or (home / "reports" / "both" / "model_card.md").read_text()
    assert "| dimensions | 128: 64 of this model, 64 of the one beside it (" in card
    check_recalled(home, pair)
    (corpus / "late_99").mkdir()
    (corpus / "late_99" / "core.py").write_text(PLANTED.replace(PLANTED_NAME, "moor_the_zeppelin").replace("cabin", "mast"))
    cpt(home, "index", "--update", "--name", "both")
    found = json.loads(cpt(home, "search", "--name", "both", "--json", "manifest of a zeppelin into rows of mast and name"))
    assert "moor_the_zeppelin" in json.dumps(found["hits"])
