"""Each arm changes one thing of its lever's base, and the table says of every difference whether it shows."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_contracts.schemas import EVALUATIONS
from flows.ablate import AblatedRef
from flows.cli.terminal import read_params
from flows.params import AblateParams
from pipeline_lib.config.ablations import AblateConfig, Arm, arms, rankings, with_seed
from pipeline_lib.config.base import StageConfig
from pipeline_lib.config.built_in import demo, smoke
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.ablation import Measured, tabulate, write_ablation
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Outcome, Stage, draft_part
from pipeline_lib.store.store import Store


def changed(arm: Arm, base: Arm) -> set[str]:
    ours, theirs = arm.config.key_fields(), base.config.key_fields()
    return {
        f"{section}.{name}"
        for section in ours
        for name in {*ours[section], *theirs[section]}
        if ours[section].get(name) != theirs[section].get(name)
    }


@pytest.mark.parametrize("preset", [demo, smoke])
def test_every_arm_changes_what_its_lever_is_about_and_no_more(preset) -> None:  # type: ignore[no-untyped-def]
    made = arms(preset(), AblateConfig())
    bases = {arm.lever: arm for arm in made if arm.is_base}
    assert set(bases) == {"batch", "start", "delimiters", "steps", "data"}
    allowed = {
        "batch": {"train.batch_size", "train.steps", "train.warmup_steps"},
        "start": {f"pretrain.{name}" for name in ("steps", "warmup_steps", "batch_tokens", "sequence_tokens")}
        | {"model.start"},
        "delimiters": {"tokenizer.delimiters"},
        "steps": {"train.steps", "train.warmup_steps"},
        "data": {"train.mixture"},
    }
    for arm in made:
        difference = changed(arm, bases[arm.lever])
        assert arm.is_base or (difference and difference <= allowed[arm.lever]), arm.label
    for base in bases.values():
        assert base.config.key_fields() == bases["batch"].config.key_fields(), "levers share their base: one run for all"


def test_pairs_seen_are_equal_but_for_more_steps() -> None:
    for arm in arms(demo(), AblateConfig(pairs=20_480)):
        train = arm.config.train
        seen = train.steps * train.batch_size
        expected = {"steps: 2 x": 2, "steps: 4 x": 4, "batch: 1024, equal steps": 4}.get(arm.label, 1) * 20_480
        assert abs(seen - expected) <= train.batch_size // 2, arm.label


def test_seeds_change_order_and_random_weights_but_not_the_language_model() -> None:
    (start,) = [arm for arm in arms(demo(), AblateConfig(levers=("start",))) if arm.name == "pre-trained"]
    (small,) = [arm for arm in arms(smoke(), AblateConfig(levers=("start",))) if arm.name == "pre-trained"]
    assert small.config.pretrain.sequence_tokens == small.config.model.positions, "sequences fit the model"
    one, two = with_seed(start.config, 1), with_seed(start.config, 2)
    assert one.train.seed != two.train.seed and one.pretrain == two.pretrain
    assert [ranking.candidates for ranking in rankings(one, AblateConfig())] == [1_000, 10_000]


def evaluation(store: Store, name: str, values: dict[str, float]) -> Artifact:
    rows = [("m", 1, "validation", "code_search", task, "mrr", value, 0.0, 1.0, 10) for task, value in values.items()]

    def make(key: str) -> Outcome:
        scratch = store.scratch("evaluate")
        columns = [pa.array([row[i] for row in rows], field.type) for i, field in enumerate(EVALUATIONS)]
        pq.write_table(pa.Table.from_arrays(columns, schema=EVALUATIONS), scratch / "evaluations.parquet")
        return Outcome(parts=(store.commit_part(draft_part(Stage(name="evaluate", version=1), key, name), scratch),))

    class Named(StageConfig):
        name: str

    return store.build(Stage(name="evaluate", version=1), Named(name=name), {}, make)


def runs(store: Store, figures: dict[str, list[float]]) -> list[Measured]:
    return [
        Measured("batch", arm, n == 0, seed, (evaluation(store, f"{arm}-{seed}", {"code_search_1k": value}),))
        for n, (arm, values) in enumerate(figures.items())
        for seed, value in enumerate(values, 1)
    ]


def test_a_difference_shows_where_seeds_agree_and_it_is_over_twice_its_error(tmp_path: Path) -> None:
    figures = {"64": [0.30, 0.32, 0.34], "256": [0.40, 0.43, 0.43], "1024": [0.31, 0.31, 0.36], "4": [0.31, 0.33, 0.60]}
    measured = runs(Store(tmp_path), figures)
    rows = {row.arm: row for row in tabulate(measured)}
    assert rows["64"].difference is None and rows["64"].mean == pytest.approx(0.32)
    assert rows["256"].difference == pytest.approx(0.10) and rows["256"].shown
    assert rows["1024"].shown is False, "one seed disagrees"
    assert rows["4"].shown is False, "all agree, but by less than twice the standard error"


def marks(folder: Path) -> int:
    """Points of a drawing, axes' ticks included."""
    return len(list(ET.parse(folder / "ablation.svg").iter("{http://www.w3.org/2000/svg}use")))


def test_the_artifact_holds_table_rows_and_a_drawing_of_every_value(tmp_path: Path) -> None:
    store = Store(tmp_path)
    measured = runs(store, {"64": [0.3, 0.32, 0.34], "<256>": [0.4, 0.41, 0.43]})
    made = write_ablation(store, measured)
    folder = made.part_folder("ablation")
    assert [row["arm"] for row in json.loads((folder / "ablation.json").read_text())] == ["64", "<256>"]
    assert "0.413 ± 0.015 (**+0.093**)" in (folder / "ablation.md").read_text()
    fewer = write_ablation(store, runs(store, {"64": [0.3, 0.32], "<256>": [0.4, 0.41, 0.43]}))
    assert marks(folder) == marks(fewer.part_folder("ablation")) + 1 >= 6
    assert write_ablation(store, measured).manifest.key == made.manifest.key


def test_of_a_task_that_both_rankings_hold_the_first_counts(tmp_path: Path) -> None:
    store = Store(tmp_path)
    both = (evaluation(store, "a", {"t": 0.1, "small": 0.5}), evaluation(store, "b", {"t": 0.2, "large": 0.4}))
    rows = tabulate([Measured("batch", "64", True, 1, both)])
    assert {row.task: row.values for row in rows} == {"t": (0.1,), "small": (0.5,), "large": (0.4,)}


def test_options_of_the_terminal() -> None:
    given = {"preset": "smoke", "pairs": 640, "seed": ["1", "2"], "lever": ["batch"], "set": ["ablation.candidates=[50]"]}
    ablation = read_params(AblateParams, given).ablation()
    assert (ablation.pairs, ablation.seeds, ablation.levers, ablation.candidates) == (640, (1, 2), ("batch",), (50,))
    assert read_params(AblateParams, {"preset": "smoke"}).ablation() == AblateConfig()
    with pytest.raises(UserError, match="--lever"):
        read_params(AblateParams, {"preset": "smoke", "lever": ["colour"]})
    assert AblatedRef.model_fields["folder"].description
