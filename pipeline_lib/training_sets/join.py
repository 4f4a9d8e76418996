"""Stage "training_mix": several training sets as one table of pairs, each under its view."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline_lib.artifact import Artifact, Counts, Outcome, Stage, Store, draft_part
from pipeline_lib.errors import UserError
from pipeline_lib.stage_config import StageConfig
from pipeline_lib.training_sets.training_set import sort_by_id

STAGE = Stage(name="training_mix", version=1)


def join_sets(store: Store, sets: Sequence[Artifact]) -> Artifact:
    """The pairs of all sets in the order of their ids; one set alone is returned as it is.

    Raises:
        UserError: two sets have the same pair under the same view.
    """
    if len(sets) == 1:
        return sets[0]

    def make(key: str) -> Outcome:
        scratch = store.scratch(STAGE.name)
        rows = sum(made.part("train").counts.n_out for made in sets)
        paths = [made.part_folder("train") / "pairs.parquet" for made in sets]
        distinct = sort_by_id(paths, scratch / "pairs.parquet")
        if distinct < rows:
            raise UserError(
                f"{rows - distinct} pairs come in two training sets under one view; give each set its own NAME=PATH"
            )
        counts = Counts(n_in=rows, n_out=rows)
        part = store.commit_part(draft_part(STAGE, key, "train", counts, {"pairs.parquet": rows}), scratch)
        return Outcome(parts=(part,), counts=counts)

    return store.build(STAGE, StageConfig(), {f"set-{n}": made for n, made in enumerate(sets)}, make)
