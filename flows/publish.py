"""Publication: the selected checkpoint exported, indexed and promoted; only here is the test split opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field

from flows.evaluate import (
    EvaluatedRef,
    HeldOutEvaluations,
    checkpoint_encoder,
    checkpoint_encoders,
    held_out,
    hybrids,
    suites_on_validation,
)
from flows.hooks import HOOKS
from flows.names import run_name
from flows.params import PublishParams
from flows.pools import Made, artifact_of, published_on_pool, ref_of
from flows.promotion import promoted
from flows.roots import admit
from flows.train import find_run
from flows.workspace import DatasetRef, TrainedRun, in_subflow, publishing_commands, whole_story
from pipeline_lib.export.card import model_folder
from pipeline_lib.search.hybrid import fusion_in
from pipeline_lib.store.artifact import Artifact
from tasks.evaluation import BASELINES
from tasks.publishing import Tested, card_task, export_task, index_task, negatives_task, select_task


class PublishedRef(BaseModel):
    """The model and index that `cpt search` uses, and what they come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: DatasetRef
    trained: str
    checkpoint: str
    selection: str | None = Field(None, description="Key of the `select` artifact; None where the checkpoint was named.")
    validation: EvaluatedRef | None = Field(None, description="None where the checkpoint was named by hand.")
    test: EvaluatedRef
    export: str
    card: str
    folder: str = Field(description="Folder of the model, its card beside it.")
    index: str
    negatives: str
    promotion: dict[str, str] = Field(default_factory=dict, description="Name in the registry, event, and the reason.")


@dataclass(frozen=True)
class Published:
    """What publication made of a run.

    Attributes:
        stages: artifacts by the name of their stage.
        promotion: what became of it in the registry; empty: not decided yet.
    """

    run: TrainedRun
    checkpoint: str
    validation: HeldOutEvaluations | None
    test: HeldOutEvaluations
    stages: dict[str, Artifact]
    promotion: dict[str, Any] = field(default_factory=dict)

    def promoted(self) -> Published:
        """The same with what became of it in the registry. A flow calls it from its own body: the run itself may pause."""
        return replace(self, promotion=promoted(self.run, self.checkpoint, self.validation, self.stages))

    @property
    def made(self) -> Made:
        """Names of all that was made, which `of` reads."""
        found: Made = {stage: [ref_of(artifact)] for stage, artifact in self.stages.items()}
        found["checkpoint"] = [self.checkpoint]
        for split, measured in (("validation", self.validation), ("test", self.test)):
            if measured is not None:
                found[f"{split}/"] = [ref_of(measured.checked)]
                found |= {f"{split}/{label}": [*map(ref_of, made)] for label, made in measured.checkpoints.items()}
        return found

    @classmethod
    def of(cls, run: TrainedRun, made: Made) -> Published:
        """What another process made of a run."""
        found = {
            name: tuple(artifact_of(run.work.store, ref) for ref in refs) for name, refs in made.items() if name != "checkpoint"
        }
        stages = {name: artifacts[0] for name, artifacts in found.items() if "/" not in name}
        test = _measured(found, "test")
        assert test is not None, "publication without a test"
        return cls(run, made["checkpoint"][0], _measured(found, "validation"), test, stages)

    @property
    def ref(self) -> PublishedRef:
        """Its keys."""
        keys = {stage: artifact.manifest.key for stage, artifact in self.stages.items()}
        return PublishedRef(
            dataset=self.run.dataset.ref,
            trained=self.run.key,
            checkpoint=self.checkpoint,
            selection=keys.get("select"),
            validation=self.validation and self.validation.ref("validation"),
            test=self.test.ref("test"),
            promotion={name: self.promotion[name] for name in ("name", "event", "sentence") if name in self.promotion},
            folder=str(model_folder(self.stages["export"], self.stages["card"])),
            **{stage: keys[stage] for stage in ("export", "card", "index", "negatives")},
        )


def _measured(found: Mapping[str, tuple[Artifact, ...]], split: str) -> HeldOutEvaluations | None:
    checked = found.get(f"{split}/")
    of_split = {name.removeprefix(f"{split}/"): made for name, made in found.items() if name.startswith(f"{split}/")}
    return HeldOutEvaluations({label: made for label, made in of_split.items() if label}, checked[0]) if checked else None


@flow(name="publish", flow_run_name=run_name, **HOOKS)
def publish(params: PublishParams) -> PublishedRef:
    """Choose a checkpoint on validation, measure it once on test, export and index it, and let search use it.

    Args:
        params: which run; a checkpoint named by hand skips the selection.
    """
    admit(params)
    run, label = find_run(params, params.checkpoint)
    return publish_run(run, label).promoted().ref


def publish_run(run: TrainedRun, label: str = "") -> Published:
    """Export and index a checkpoint of a run; `Published.promoted` is what lets searches use it.

    Args:
        label: of the checkpoint; empty: the one that selection chooses.
    """
    return Published.of(run, published_on_pool(run, label)) if run.work.config.pools.gpu else published_here(run, label)


def published_here(run: TrainedRun, label: str = "") -> Published:
    """The same, made by this process.

    Args:
        label: of the checkpoint; empty: the one that selection chooses.
    """
    store, config, curated = run.work.store, run.work.config, run.lineage.curated
    validation = selection = None
    if not label:
        validation, selection = select_checkpoint(run)
        label = str(selection.manifest.facts["chosen"])
    checkpoint = run.lineage.checkpoint(label)
    exported = export_task(store, checkpoint, config)
    index = index_task(store, exported, curated, checkpoint, config)
    hybrid = hybrids([checkpoint_encoder(run, label)], fusion_in(index.part_folder()))
    test = in_subflow("evaluate", f"{config.name}-test", held_out, run, [label], "test", hybrid)
    tested = Tested(curated, test.checkpoints[label], test.checkpoints[BASELINES])
    card = card_task(store, exported, checkpoint, config, _said(run, label, selection is not None), tested)
    negatives = negatives_task(store, curated, checkpoint)
    made = {"select": selection, "export": exported, "card": card, "index": index, "negatives": negatives}
    return Published(run, label, validation, test, {stage: artifact for stage, artifact in made.items() if artifact})


def select_checkpoint(run: TrainedRun) -> tuple[HeldOutEvaluations, Artifact]:
    """Evaluate every checkpoint on validation and choose one by the declared weights."""
    config, labels = run.work.config, run.lineage.labels
    validation = in_subflow("evaluate", f"{config.name}-validation", held_out, run, labels, "validation")
    evaluations = [artifact for label in labels for artifact in validation.checkpoints[label]]
    return validation, select_task(
        run.work.store, [*evaluations, *suites_on_validation(run, checkpoint_encoders(run, labels))], config
    )


def _said(run: TrainedRun, label: str, selected: bool) -> dict[str, str]:
    """What the card says of the run in words."""
    base, data = whole_story(run.lineage)
    command = publishing_commands(run, label, selected)
    return {"name": run.work.config.name, "base": base, "data": data, "command": command}
