"""Publication: the selected checkpoint exported, indexed and promoted; only here is the test split opened."""

from __future__ import annotations

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field

from flows.approval import recalled
from flows.candidate import Published, publish_run
from flows.evaluate import EvaluatedRef
from flows.hooks import FLOW_OPTIONS
from flows.params import PublishParams
from flows.promotion import promoted
from flows.roots import admit
from flows.train import find_run
from flows.workspace import DatasetRef, named_run
from pipeline_lib.export.card import model_folder


class PublishedRef(BaseModel):
    """The model and index that `cpt search` uses, and what they come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: DatasetRef
    trained: str
    checkpoint: str
    selection: str | None = Field(None, description="Key of the `select` artifact; None where the checkpoint was named.")
    validation: EvaluatedRef | None = Field(None, description="None where the checkpoint was named by hand.")
    test: EvaluatedRef | None = Field(None, description="None where it was held back: its test split was not opened.")
    export: str
    card: str
    folder: str = Field(description="Folder of the model, its card beside it.")
    index: str
    negatives: str
    promotion: dict[str, str] = Field(default_factory=dict, description="Name in the registry, event, and the reason.")


@flow(name="publish", **FLOW_OPTIONS)
def publish(params: PublishParams) -> PublishedRef:
    """Choose a checkpoint on validation, export and index it, measure it once on test, and let search use it.

    One that is held back is not measured on test.

    Args:
        params: which run; a checkpoint named by hand skips the selection.
    """
    admit(params)
    if (kept := recalled()) is not None:
        return _ref(promoted(Published.recalled(named_run(params, kept["trained"]).work, kept)))
    run, label = find_run(params, params.checkpoint)
    return _ref(promoted(publish_run(run, label)))


def _ref(published: Published) -> PublishedRef:
    """Its keys."""
    keys = {stage: artifact.manifest.key for stage, artifact in published.stages.items()}
    return PublishedRef(
        dataset=published.run.dataset.ref,
        trained=published.run.key,
        checkpoint=published.checkpoint,
        selection=keys.get("select"),
        validation=published.validation and published.validation.ref("validation"),
        test=published.test and published.test.ref("test"),
        promotion={name: published.promotion[name] for name in ("name", "event", "sentence") if name in published.promotion},
        folder=str(model_folder(published.stages["export"], published.stages["card"])),
        **{stage: keys[stage] for stage in ("export", "card", "index", "negatives")},
    )
