"""Names of finished runs, as starts take them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from training_runs import MODEL, tiny_config, write_inputs

from flows.params import TrainParams
from flows.runs import find_checkpoint, find_given_start
from pipeline_lib.errors import UserError
from pipeline_lib.model.checkpoint import Origin, record_origin
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from pipeline_lib.train.launch import TrainInputs, train


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Store, Artifact]:
    """An artifact root with a run of two checkpoints, named `given`, with a report `told`."""
    home = tmp_path_factory.mktemp("home")
    store, inputs = write_inputs(home / "store")
    config = tiny_config(steps=2, checkpoints=2, learning_rate=3e-3, clip_norm=7.0)
    trained = train(store, TrainInputs(inputs.shards, inputs.tokenizer), config, MODEL)
    record_origin(trained, Origin(params={"preset": "smoke", "name": "given"}))
    (home / "reports" / "told").mkdir(parents=True)
    report = {"lineage": {"train": {"key": trained.manifest.key}}}
    (home / "reports" / "told" / "report.json").write_text(json.dumps(report))
    return home, store, trained


def test_a_run_is_found_by_each_of_its_names(
    home: tuple[Path, Store, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, store, trained = home
    monkeypatch.setenv("CPT_HOME", str(place))
    monkeypatch.chdir(tmp_path)
    key = trained.manifest.key
    for name in (key, key[:4], f"{key[:8]}/step-000002", "told", "given/step-000002"):
        found = find_checkpoint(store, name)
        assert found is not None and found.name == f"{key}/step-000002", name
    found = find_checkpoint(store, "told/step-000001")
    assert found is not None and found.step == 1
    for name in ("gpt2", "EleutherAI/pythia-70m", str(tmp_path)):
        assert find_checkpoint(store, name) is None, name
    (tmp_path / "told").mkdir()
    assert find_checkpoint(store, "told") is None, "a folder comes first"
    for name in ("nobody/step-000001", "abcdef12"):
        with pytest.raises(UserError, match=f"no finished run of that key or name under .*there are: {key}"):
            find_checkpoint(store, name)
    with pytest.raises(UserError, match="no part 'step-000009'"):
        find_checkpoint(store, "given/step-000009")
    with pytest.raises(UserError, match="a start is given too"):
        find_given_start(store, "gpt2", "told")
    with pytest.raises(UserError, match="continue_from 'gpt2': no finished run"):
        find_given_start(store, "", "gpt2")


def test_a_run_that_starts_from_another_has_its_rates_unless_told_otherwise(
    home: tuple[Path, Store, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, _, trained = home
    monkeypatch.setenv("CPT_HOME", str(place))
    config = TrainParams(preset="smoke", init="told", set=("train.clip_norm=5",)).resolve()
    temperature = json.loads((trained.part_folder("step-000002") / "state.json").read_text())["temperature"]
    assert (config.train.learning_rate, config.train.clip_norm, config.train.temperature) == (3e-3, 5, temperature)
    assert (config.model.width, config.model.init, config.train.steps, config.train.warmup_steps) == (32, "told", 30, 3)
    lengthened = TrainParams(preset="smoke", set=("train.continue_from=told", "train.steps=60")).resolve()
    assert (lengthened.model.width, lengthened.train.learning_rate, lengthened.train.warmup_steps) == (32, 3e-3, 3)
    gone = TrainParams(preset="smoke", init="nobody/step-000001").resolve()
    assert gone.train.learning_rate == 1e-4, "whoever looks for the start itself says that it is not there"
