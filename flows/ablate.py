"""The paper's levers in small: every arm with every seed, as one table and one plot."""

from __future__ import annotations

from prefect import flow

from flows.ablate_parameters import AblatedRef, AblateParams
from flows.build_dataset import build_dataset
from flows.parameters import DatasetRef, RunParams
from flows.workspace import Workspace, open_workspace
from pipeline_lib.config.ablations import arms, rankings, with_seed
from pipeline_lib.config.presets import RANDOM
from pipeline_lib.config.run import RunConfig
from pipeline_lib.evaluation.ablation import Measured
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.store.store import Artifact
from tasks.ablation import ablation_task
from tasks.evaluation import checkpoint_task
from tasks.training import lexical_start_task, pretrain_task, train_task


@flow(name="ablate", flow_run_name="ablate-{params.preset}")
def ablate(params: AblateParams) -> AblatedRef:
    """Train and measure each arm on the validation split; an arm that is done already is found done.

    Args:
        params: the preset whose data and sizes are used, and which levers are pulled.
    """
    params = params.model_copy(update={"init": params.init or RANDOM})  # of a preset that names a start, its sizes alone
    work = open_workspace(params)
    datasets: dict[str, DatasetRef] = {}
    measured = []
    for arm in arms(work.config, params.ablation):
        delimiters = arm.config.tokenizer.delimiters
        if delimiters not in datasets:
            fields = params.model_dump(include=set(RunParams.model_fields)) | {"delimiters": delimiters}
            datasets[delimiters] = build_dataset(RunParams.model_validate(fields))
        for seed in params.ablation.seeds:
            evaluations = measure(work, params, datasets[delimiters], with_seed(arm.config, seed))
            measured.append(Measured(arm.lever, arm.name, arm.is_base, seed, evaluations))
    table = ablation_task(work.store, measured)
    return AblatedRef(ablation=table.manifest.key, folder=str(table.part_folder("ablation")), runs=len(measured))


def measure(work: Workspace, params: AblateParams, dataset: DatasetRef, run: RunConfig) -> tuple[Artifact, ...]:
    """Train one run and rank with its last checkpoint."""
    store = work.store
    shards, tokenizer = store.open("shards", dataset.shards), store.open("tokenizer", dataset.tokenizer)
    start = None
    if run.pretrain.steps:
        start = pretrain_task(store, shards, tokenizer, run)
    elif run.model.start == "lexical":
        start = lexical_start_task(store, shards, tokenizer, run)
    trained = train_task(store, shards, tokenizer, run, start)
    label = max(part.label for part in trained.manifest.parts if part.label.startswith("step-"))
    checkpoint = Checkpoint(trained, label, tokenizer, run.shards)
    curated = store.open("curate", dataset.curated)
    return tuple(
        evaluation
        for ranking in rankings(run, params.ablation)
        for evaluation in checkpoint_task(
            store, curated, checkpoint, "validation", run.model_copy(update={"evaluate": ranking})
        )
    )
