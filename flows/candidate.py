"""Candidate for promotion: what publication makes of a run before the registry decides, by this process or on a work pool.

The selected checkpoint, its export, index and hardest negatives; its figures, and the card that shows them, once it is decided
on which split it is shown. A candidate that is held back is shown by its figures on validation: its test split stays closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flows.evaluate import (
    HeldOutEvaluations,
    at_dimensions,
    checkpoint_encoder,
    checkpoint_encoders,
    held_out,
    hybrids,
    suites_on_validation,
)
from flows.hooks import in_subflow
from flows.pools import FiguredSplit, Made, artifact_of, figured_on_pool, opened_dataset, published_on_pool, ref_of
from flows.runs import as_exported
from flows.workspace import DatasetRef, TrainedRun, Workspace, publishing_commands, recorded_params, whole_story
from pipeline_lib.evaluation.suites.variants import truncated
from pipeline_lib.index.hybrid import fusion_in
from pipeline_lib.model.checkpoint import lineage_of
from pipeline_lib.store.artifact import Artifact
from tasks.evaluation import BASELINES
from tasks.publishing import Tested, card_task, export_task, index_task, negatives_task, select_task


@dataclass(frozen=True)
class Published:
    """What publication made of a run.

    Attributes:
        stages: artifacts by the name of their stage; the model card is among them once figures are.
        test: its figures on test; None: not opened.
        promotion: what became of it in the registry; empty: not decided yet.
    """

    run: TrainedRun
    checkpoint: str
    validation: HeldOutEvaluations | None
    stages: dict[str, Artifact]
    test: HeldOutEvaluations | None = None
    promotion: dict[str, Any] = field(default_factory=dict)

    @property
    def kept(self) -> dict[str, Any]:
        """Names of it and of its run, which `recalled` reads."""
        run = self.run
        began = ref_of(run.start) if run.start else None
        return {"trained": run.key, "began": began, "dataset": run.dataset.ref.model_dump(mode="json"), "made": self.made}

    @classmethod
    def recalled(cls, work: Workspace, kept: Mapping[str, Any]) -> Published:
        """What a run had published before it was suspended."""
        lineage = lineage_of(work.store, work.store.open("train", kept["trained"]))
        dataset = opened_dataset(work.store, DatasetRef(**kept["dataset"]))
        start = artifact_of(work.store, kept["began"]) if kept["began"] else None
        published = cls.of(TrainedRun(work, recorded_params(lineage), dataset, lineage, start), kept["made"])
        as_published = as_exported(work.store, lineage.checkpoint(published.checkpoint), published.stages["export"])
        work = replace(work, companion=as_published.companion)
        return replace(published, run=replace(published.run, work=work))

    def figured(self, split: FiguredSplit) -> Published:
        """The same with its figures on a split, and the card that shows them."""
        if not self.run.work.config.pools.gpu:
            return self.figured_here(split)
        made = Published.of(self.run, self.made | figured_on_pool(self.run, self.checkpoint, self.made, split))
        return replace(made, promotion=self.promotion)

    def figured_here(self, split: FiguredSplit) -> Published:
        """The same, made by this process."""
        run, label = self.run, self.checkpoint
        store, config, curated = run.work.store, run.work.config, run.lineage.curated
        found = self.validation if split == "validation" else None
        whole = checkpoint_encoder(run, label)
        others = at_dimensions([whole], config)
        if not found:
            published = truncated(whole, config.export.truncate_dim)
            others += hybrids([published], fusion_in(self.stages["index"].part_folder()))
        if not found or others:
            labels = [name for name in found.checkpoints if name != BASELINES] if found else [label]
            found = in_subflow("evaluate", f"{config.name}-{split}", held_out, run, labels, split, others)
        shown = truncated(whole, config.export.truncate_dim).id.name  # what is published
        tested = Tested(curated, found.checkpoints[shown], found.checkpoints[BASELINES], split)
        said = _said(run, label, "select" in self.stages)
        card = card_task(store, self.stages["export"], run.checkpoint(label), config, said, tested)
        made = replace(self, stages={**self.stages, "card": card})
        return replace(made, test=found) if split == "test" else replace(made, validation=found)

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
        validation, test = (_measured(found, split) for split in ("validation", "test"))
        return cls(run, made["checkpoint"][0], validation, stages, test)


def _measured(found: Mapping[str, tuple[Artifact, ...]], split: str) -> HeldOutEvaluations | None:
    checked = found.get(f"{split}/")
    of_split = {name.removeprefix(f"{split}/"): made for name, made in found.items() if name.startswith(f"{split}/")}
    return HeldOutEvaluations({label: made for label, made in of_split.items() if label}, checked[0]) if checked else None


def publish_run(run: TrainedRun, label: str = "") -> Published:
    """Export and index a checkpoint of a run; `promotion.promoted` is what lets searches use it.

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
    checkpoint = run.checkpoint(label)
    exported = export_task(store, checkpoint, config)
    index = index_task(store, exported, curated, checkpoint, config)
    negatives = negatives_task(store, curated, checkpoint)
    made = {"select": selection, "export": exported, "index": index, "negatives": negatives}
    return Published(run, label, validation, {stage: artifact for stage, artifact in made.items() if artifact})


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
