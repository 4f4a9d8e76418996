"""Ablations: one arm's run, and the table and plot of all."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from pipeline_lib.evaluation.ablation import Measured, write_ablation
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from tasks.ui import StageProgress, show_markdown, stage_task


@stage_task("ablation-table")
def ablation_task(store: Store, measured: Sequence[Measured]) -> Artifact:
    """All runs as one table and one plot, shown in the UI."""
    progress = StageProgress("ablation")
    artifact = write_ablation(store, measured)
    folder = artifact.part_folder("ablation")
    picture = base64.b64encode((folder / "ablation.svg").read_bytes()).decode()
    table = (folder / "ablation.md").read_text()
    page = f"{table}\n![values of every seed](data:image/svg+xml;base64,{picture})\n\nFiles: `{folder}`\n"
    show_markdown("ablation", page, "The levers: mean and deviation over seeds, difference to each lever's base")
    progress.finish(str(folder))
    return artifact
