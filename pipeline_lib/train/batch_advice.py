"""Where a larger batch stops paying, kept with a run: measured once a checkpoint, shown by every report of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline_lib.artifact import Artifact, Outcome, Stage, Store
from pipeline_lib.errors import UserError
from pipeline_lib.progress import Progress, silent
from pipeline_lib.stage_config import StageConfig

if TYPE_CHECKING:
    from pipeline_lib.train.batch_size import BatchAdvice

STAGE = Stage(name="batch_advice", version=2)
LARGE_MODEL_BYTES = 200 << 20  # it would be measured where the flow runs, perhaps without a GPU


class AdviceConfig(StageConfig):
    """Which checkpoint is measured, and how far."""

    label: str = Field(description="Checkpoint of the run, such as step-000240.")
    pairs: int = Field(default=2048, ge=16, description="Largest batch of the curve, in pairs; half the time of 4,096.")


def build_advice(store: Store, trained: Artifact, config: AdviceConfig, progress: Progress = silent) -> Artifact:
    """`batch_size.advise` as an artifact of facts alone: some seconds with the demo's model, nothing where it is there.

    Facts: "run", which `cpt plan --run` takes; and "noise_scale" (pairs; None: lost in noise), "sentence" and "curve": rows of
    pairs, loss, bits, and the bits that the doubling brought. Or, where it was not measured, "why", and "elsewhere" where
    `cpt plan --run` can measure it: no run fails for want of this advice.
    """
    run = f"{trained.manifest.key}/{config.label}"

    def make(key: str) -> Outcome:
        size = sum(file.bytes for part in trained.manifest.parts if part.label == config.label for file in part.files)
        has_job = (Path(store.root) / "train" / trained.manifest.key / "job.json").is_file()
        if not has_job or size > LARGE_MODEL_BYTES:
            why = "the model is large" if has_job else "the run's job.json does not lie on this machine"
            return Outcome(parts=(), facts={"run": run, "why": why, "elsewhere": True})
        from pipeline_lib.train.batch_size import advise  # torch, which a run with nothing to do need not import

        try:
            found = _facts(advise(store, run, config.pairs, progress))
        except UserError as error:  # fewer pairs than the batch, or a view of which a smaller batch has none
            found = {"why": str(error)}
        return Outcome(parts=(), facts={"run": run, **found})

    return store.build(STAGE, config, {"train": trained}, make)


def _facts(advice: BatchAdvice) -> dict[str, Any]:
    scale = advice.noise_scale if math.isfinite(advice.noise_scale) else None
    curve = [
        {"pairs": size, "loss": loss, "bits": advice.bits[size], "gain": advice.gains.get(size)}
        for size, loss in advice.losses.items()
    ]
    return {"noise_scale": scale, "sentence": advice.sentence(), "curve": curve}
