"""Evaluation of checkpoints and other models, on what was held out of the corpus or on public suites."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field

from flows.hooks import FLOW_OPTIONS
from flows.params import EvaluateParams
from flows.pools import artifact_of, measured_on_pool
from flows.roots import admit
from flows.runs import champions_checkpoint, name_in_registry, working_store
from flows.train import find_run
from flows.workspace import TrainedRun, Workspace
from pipeline_lib.config.evaluation import HELD_OUT_SUITES, parted_suites
from pipeline_lib.config.overrides import apply
from pipeline_lib.config.run import RunConfig
from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.evaluation.metrics import HYBRID
from pipeline_lib.evaluation.suites.models import (
    CheckpointEncoder,
    HybridModel,
    Model,
    TextEncoder,
    WordModel,
)
from pipeline_lib.evaluation.suites.registry import OPENERS, open_model
from pipeline_lib.evaluation.suites.report import Compared
from pipeline_lib.evaluation.suites.variants import TruncatedModel
from pipeline_lib.index.fusion import Fusion
from pipeline_lib.index.hybrid import fusion_in
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.runtime.machine import writable_home
from pipeline_lib.search import registry
from pipeline_lib.search.registry_log import opened
from pipeline_lib.store.artifact import Artifact
from tasks.evaluation import (
    BASELINES,
    Evaluations,
    HeldOutPart,
    baselines_task,
    check_evaluations_task,
    checkpoint_task,
    model_task,
    show_evaluations_task,
)
from tasks.suites import compare_task, fits, open_suites_task, show_suites_task, suite_task
from tasks.ui import say

NO_CHAMPION = "none"


class EvaluatedRef(BaseModel):
    """Finished evaluations of models on one split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: str
    checkpoints: dict[str, tuple[str, ...]] = Field(
        description="Checkpoint label, name of another model, or `baselines`, to the keys of its `evaluate_suite` artifacts"
        " on held-out pairs."
    )
    suites: tuple[str, ...] = Field((), description="Keys of `evaluate_suite` artifacts, in the order of models and suites.")
    checked: str | None = Field(None, description="Key of the `check_evaluations` artifact.")
    champion: str | None = Field(None, description="The checkpoint that models were compared with; None: none was.")
    page: str | None = Field(None, description="File of the evaluation's page.")
    skipped: dict[str, str] = Field(default_factory=dict, description="Suite to the reason why it was passed over.")


@flow(name="evaluate", **FLOW_OPTIONS)
def evaluate(params: EvaluateParams) -> EvaluatedRef:
    """Measure models on the same queries and candidates, held out of a run's corpus or of public suites.

    The champion of the run's name is measured too, and what each model differs from it by stands in the table and on the page.

    Args:
        params: what is evaluated, on what, and how thoroughly.
    """
    admit(params)
    of_corpus, public = parted_suites(params.suites)
    run, labels = runs_of(params) if params.checkpoints or of_corpus else (None, [])
    work = run.work if run else workspace_without_run(params)
    champion = find_champion(work, run, work.config.evaluate.against)
    suites = evaluate_suites(params, public, work, (run, labels) if params.checkpoints else None, champion)
    measured = EvaluatedRef(split=params.split, checkpoints={})
    evaluations, theirs = list(suites.evaluations), list(suites.champion)
    if run and of_corpus:
        others = [open_model(name) for name in params.others if name not in OPENERS]  # the baselines are measured in any case
        others += hybrids([checkpoint_encoder(run, label) for label in labels], fusion_of(work))
        others += at_dimensions([*(checkpoint_encoder(run, label) for label in labels), *others], work.config)
        found = held_out(run, labels, params.split, others, of_corpus)
        measured = found.ref(params.split)
        evaluations += [artifact for by_model in found.checkpoints.values() for artifact in by_model]
        if champion:
            theirs += checkpoint_task(
                HeldOutPart(work.store, run.lineage.curated, params.split, work.config, of_corpus), champion
            )
    compared = Compared(params.split, evaluations, theirs, champion.name if champion else "", suites.skipped)
    page = compare_task(work.report_folder, compared)
    keys = tuple(artifact.manifest.key for artifact in suites.evaluations)
    told = {"suites": keys, "skipped": suites.skipped, "page": str(page), "champion": compared.champion_name or None}
    return measured.model_copy(update=told | {"checked": measured.checked or suites.checked})


@dataclass(frozen=True)
class PublicEvaluations:
    """Models on public suites, and the champion on the same."""

    evaluations: Sequence[Artifact] = ()
    champion: Sequence[Artifact] = ()
    checked: str | None = None
    skipped: dict[str, str] = field(default_factory=dict)


def evaluate_suites(
    params: EvaluateParams,
    names: Sequence[str],
    work: Workspace,
    run: tuple[TrainedRun | None, Sequence[str]] | None,
    champion: Checkpoint | None,
) -> PublicEvaluations:
    """Run public suites on checkpoints and other models, and show the table in the UI.

    Args:
        run: whose checkpoints of these labels are measured; None: other models alone.

    Raises:
        UserError: no data folder, or an unknown suite or model.
        MissingData: files of a suite are not there, and `skip_missing` was not asked for.
    """
    if not names:
        return PublicEvaluations()
    given = (names, params.suite_data or "", params.split, params.quick, params.skip_missing)
    suites, skipped = open_suites_task(*given, work.config.suites)
    models: list[Model] = [open_model(name) for name in params.others]
    if run and run[0]:
        models = [*checkpoint_encoders(run[0], run[1]), *models]
    cut = at_dimensions(models, work.config)
    if any(isinstance(model, WordModel) for model in models):  # where both are measured, so is the fusion of both
        models += hybrids(models, fusion_of(work) or Fusion())
    models += cut
    found = [suite_task(work.store, model, suite, params.split) for model in models for suite in suites if fits(model, suite)]
    best = CheckpointEncoder(champion, precision=work.config.suites.precision) if champion else None
    theirs = [suite_task(work.store, best, suite, params.split) for suite in suites] if best else []
    checked = check_evaluations_task(work.store, found).manifest.key if found else None
    show_suites_task(work.report_folder, found, params.split, skipped)
    return PublicEvaluations(found, theirs, checked, skipped)


def find_champion(work: Workspace, run: TrainedRun | None, against: str | None) -> Checkpoint | None:
    """The checkpoint behind the champion of a name; None where there is none, and where what it was made from is gone.

    Args:
        against: the name; None: that of the run.

    Raises:
        UserError: there is no champion of the name that was given.
    """
    home = work.registry
    known = registry.names(home)
    if against == NO_CHAMPION or not known:
        return None
    if against and against not in known:
        raise UserError(f"no champion of the name {against!r}; there is: {', '.join(known)}; or give {NO_CHAMPION}")
    name = against or work.config.name
    try:
        if not against:
            name, _ = name_in_registry(work.config, run.params.settings() if run and run.params else None, home)
        found = registry.champion(home, name) if name in known else None
        return champions_checkpoint(work.store, found) if found else None
    except (UserError, CorruptArtifact) as error:
        say(f"  nothing is compared with the champion of {name}: {error}")
        return None


def fusion_of(work: Workspace) -> Fusion | None:
    """How the index in use under the run's name fuses vectors and BM25; None where there is none, or it has no BM25."""
    home = work.registry
    if work.config.name not in registry.names(home):
        return None
    try:
        found = registry.champion(home, work.config.name)
        return fusion_in(opened(found).index) if found else None
    except (UserError, CorruptArtifact) as error:
        say(f"  no index says how to fuse vectors and BM25: {error}")
        return None


def runs_of(params: EvaluateParams) -> tuple[TrainedRun, list[str]]:
    """The run whose corpus is measured on, and the labels of its checkpoints that are; none where only other models are named.

    Raises:
        UserError: they are of several runs.
    """
    if not params.checkpoints:
        return find_run(params, params.corpus)[0], []
    found = [find_run(params, name) for name in params.checkpoints]
    run = found[0][0]
    if len({other.key for other, _ in found}) > 1:
        raise UserError(f"{', '.join(params.checkpoints)}: checkpoints of several runs; evaluate one run at a time")
    labels = [label for _, label in found]
    return run, run.lineage.labels if "" in labels else labels


def workspace_without_run(params: EvaluateParams) -> Workspace:
    """Workspace of models that no run of ours made."""
    config = params.resolve() if params.preset else apply(RunConfig(name="models"), *params.layers())
    return Workspace(writable_home(), working_store(params.machine.artifacts), config)


def at_dimensions(models: Sequence[Model], config: RunConfig) -> list[Model]:
    """Each encoder cut to each of the dimensions that are to be measured: of a run's checkpoint all of them, of another model
    those that it has more of.
    """
    cut: list[Model] = []
    for encoder in (model for model in models if isinstance(model, TextEncoder)):
        is_other = bool(config.measured_dims) and not isinstance(encoder, CheckpointEncoder)
        width = encoder.encode(["width"], "x").shape[1] if is_other else math.inf
        if beyond := [dim for dim in config.measured_dims if dim >= width]:
            say(f"  {encoder.id.name} has {width} dimensions, and is not measured at {', '.join(map(str, beyond))} of them")
        cut += [TruncatedModel(encoder, dim) for dim in config.measured_dims if dim < width]
    return cut


def hybrids(models: Sequence[Model], fusion: Fusion | None) -> list[Model]:
    """Each encoder fused with BM25; none where nothing says how.

    Args:
        fusion: as the index of their run has it.
    """
    encoders = [model for model in models if isinstance(model, TextEncoder)]
    if fusion is None:
        return []
    names = [HYBRID if len(encoders) == 1 else f"{HYBRID} {model.id.name}" for model in encoders]
    return [HybridModel(model, fusion, name) for model, name in zip(encoders, names, strict=True)]


def checkpoint_encoder(run: TrainedRun, label: str) -> TextEncoder:
    """A checkpoint of a run as held-out pairs are put to it."""
    evaluate = run.work.config.evaluate
    return CheckpointEncoder(run.checkpoint(label), evaluate.batch_tokens, evaluate.precision)


def checkpoint_encoders(run: TrainedRun, labels: Sequence[str]) -> list[Model]:
    """Checkpoints of a run as models that suites are put to."""
    precision = run.work.config.suites.precision
    return [CheckpointEncoder(run.checkpoint(label), precision=precision) for label in labels]


def suites_on_validation(run: TrainedRun, models: Sequence[Model]) -> list[Artifact]:
    """The suites that selection shall count, on their validation splits, for each model."""
    config = run.work.config.select
    if not config.suites:
        return []
    given = (config.suites, config.suite_data or "", "validation", config.quick_suites)
    suites, _ = open_suites_task(*given, skip_missing=False, config=run.work.config.suites)
    return [suite_task(run.work.store, model, suite, "validation") for model in models for suite in suites]


def measured_on_validation(run: TrainedRun, checkpoints: Sequence[Checkpoint]) -> tuple[list[Evaluations], Artifact]:
    """What selection reads of each checkpoint, of whatever run, on the validation of this run's corpus; and its contract."""
    if run.work.config.pools.gpu:
        made = measured_on_pool(run, checkpoints)
        opened = {place: tuple(artifact_of(run.work.store, ref) for ref in refs) for place, refs in made.items()}
        return [opened[str(place)] for place in range(len(checkpoints))], opened["checked"][0]
    part = HeldOutPart(run.work.store, run.lineage.curated, "validation", run.work.config)
    precision = run.work.config.suites.precision
    found = [
        (*checkpoint_task(part, checkpoint), *suites_on_validation(run, [CheckpointEncoder(checkpoint, precision=precision)]))
        for checkpoint in checkpoints
    ]
    return found, check_evaluations_task(run.work.store, [artifact for evaluations in found for artifact in evaluations])


@dataclass(frozen=True)
class HeldOutEvaluations:
    """Checkpoints, other models, and the baselines as one more, on one split of a run's corpus."""

    checkpoints: dict[str, Evaluations]
    checked: Artifact

    def ref(self, split: str) -> EvaluatedRef:
        """Their keys."""
        keys = {label: tuple(artifact.manifest.key for artifact in found) for label, found in self.checkpoints.items()}
        return EvaluatedRef(split=split, checkpoints=keys, checked=self.checked.manifest.key)


def held_out(
    run: TrainedRun, labels: Sequence[str], split: str, others: Sequence[Model] = (), suites: Sequence[str] = HELD_OUT_SUITES
) -> HeldOutEvaluations:
    """Evaluate checkpoints, other models and the baselines on one split of the run's corpus, and show the table in the UI."""
    store, config = run.work.store, run.work.config
    part = HeldOutPart(store, run.lineage.curated, split, config, tuple(suites))
    baselines = baselines_task(part)
    found = {label: checkpoint_task(part, run.checkpoint(label)) for label in labels}
    found |= {model.id.name: model_task(part, model) for model in others}
    found[BASELINES] = baselines
    checked = check_evaluations_task(store, [artifact for evaluations in found.values() for artifact in evaluations])
    show_evaluations_task(found, split, config.name)
    return HeldOutEvaluations(found, checked)
