"""Ablations: the paper's levers in small, every arm with every seed, as one table and one plot."""

from __future__ import annotations

from dataclasses import replace

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field

from flows.build_dataset import dataset_of
from flows.guide import guided
from flows.hooks import FLOW_OPTIONS, in_subflow
from flows.params import AblateParams
from flows.roots import admit
from flows.train import start_of_training, trained_of
from flows.workspace import Dataset, Workspace, open_workspace
from pipeline_lib.config.ablations import AblateConfig, arms, rankings, with_seed
from pipeline_lib.evaluation.ablation import Measured
from pipeline_lib.model.checkpoint import Checkpoint, labels_of_run
from pipeline_lib.store.artifact import Artifact
from tasks.evaluation import HeldOutPart, ablation_task, checkpoint_task
from tasks.training import train_task


class AblatedRef(BaseModel):
    """A finished table of ablations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ablation: str = Field(description="Key of the `ablate` artifact.")
    folder: str = Field(description="Folder of ablation.json, ablation.md and ablation.svg.")
    runs: int = Field(description="Arms times seeds.")


@flow(name="ablate", **FLOW_OPTIONS)
def ablate(params: AblateParams) -> AblatedRef:
    """Train and measure each arm on the validation split; finished arms are not repeated.

    Args:
        params: the preset whose data and sizes are used, and which levers are pulled.
    """
    admit(params)
    work, ablation = open_workspace(params), params.ablation()
    datasets: dict[str, Dataset] = {}
    measured = []
    for arm in arms(work.config, ablation):
        delimiters = arm.config.tokenizer.delimiters
        if delimiters not in datasets:
            of_arm = replace(work, config=arm.config)
            datasets[delimiters] = in_subflow("build-dataset", delimiters, dataset_of, of_arm)
        for seed in ablation.seeds:
            run = replace(work, config=with_seed(arm.config, seed))
            evaluations = measure(run, datasets[delimiters], ablation)
            measured.append(Measured(arm.lever, arm.name, arm.is_base, seed, evaluations))
    table = ablation_task(work.store, measured)
    return AblatedRef(ablation=table.manifest.key, folder=str(table.part_folder("ablation")), runs=len(measured))


def measure(work: Workspace, dataset: Dataset, ablation: AblateConfig) -> tuple[Artifact, ...]:
    """Train one run and rank with its last checkpoint."""
    store, config = work.store, work.config
    dataset = guided(work, dataset, trained_of)
    start = start_of_training(work, dataset)
    trained = train_task(store, dataset.shards, dataset.tokenizer, config, start, {"guide": dataset.guide})
    checkpoint = Checkpoint(trained, labels_of_run(trained)[-1], dataset.tokenizer, config.shards)
    return tuple(
        evaluation
        for ranking in rankings(config, ablation)
        for evaluation in checkpoint_task(
            HeldOutPart(store, dataset.curate, "validation", config.model_copy(update={"evaluate": ranking})), checkpoint
        )
    )
