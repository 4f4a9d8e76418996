"""Pins of the demo: the distributions that it reads and the candidates that it is measured on, from a finished run of it.

    python -m benchmarks.pin_demo CPT_HOME

Writes pipeline_lib/sources/demo_distributions.txt and pipeline_lib/evaluation/demo_candidates.txt. Whoever pins anew begins a
new series of figures: those of before are then comparable with none of after.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pipeline_lib.config.presets import preset
from pipeline_lib.evaluation import candidates
from pipeline_lib.evaluation.suites.held_out_tasks import draw_tasks
from pipeline_lib.sources import python_installation
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store

PINNED = "# What the demo reads: NAME==VERSION and a digest of the files that are read; see benchmarks/pin_demo.py.\n"


def main(home: Path) -> None:
    """Write both lists from the run that the demo's report is of."""
    report = json.loads((home / "reports" / "demo" / "report.json").read_text())
    lineage, store = report["lineage"], Store(home / "store")
    extracted = _artifact(store, "extract", lineage["extract"]["digest"])
    files = python_installation.read_listed(extracted)
    lines = (
        f"{name}=={version} {digest}\n" for name, (version, digest) in sorted(python_installation.digests_of(files).items())
    )
    python_installation.LIST.write_text(PINNED + "".join(lines), encoding="utf-8")
    curated, config = _artifact(store, "curate", lineage["curate"]["digest"]), preset("demo").evaluate
    candidates.LIST.write_text(
        candidates.written({split: draw_tasks(curated, split, config) for split in ("validation", "test")}), encoding="utf-8"
    )


def _artifact(store: Store, stage: str, digest: str) -> Artifact:
    return next(artifact for artifact in store.artifacts(stage) if artifact.digest == digest)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
