"""Hardest in-batch negatives of a model, in which people see false negatives at once.

B pairs, D width.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline_lib.config.base import StageConfig
from pipeline_lib.evaluation.suites.models import SIDES, CheckpointEncoder, TextEncoder
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Outcome, Stage, draft_part
from pipeline_lib.store.store import Store

STAGE = Stage(name="negatives", version=2)

_PROVENANCE = ("id", "kind", "source", "group", "path", "line", "name", "licence")
_SHOWN_CHARACTERS = 1_200  # of a text in the report; functions may be 20 kB


class NegativesConfig(StageConfig):
    """Which batch is looked at, and how many of its negatives are shown."""

    pairs: int = 1_024
    shown: int = 50
    batch_tokens: int = 16_384
    max_x_tokens: int
    max_y_tokens: int


def hardest_negatives(
    store: Store, curated: Artifact, checkpoint: Checkpoint, shown: int = 50, progress: Progress = silent
) -> Artifact:
    """The highest-scoring negatives of one batch of training pairs, masked as in training.

    The batch is the first 1,024 training pairs in hash order, each kind for itself; a query is listed once, with its
    hardest negative.

    Returns:
        An artifact with one part "negatives" that holds negatives.json: rows of score (cosine of query and negative),
        positive_score, and x, y_right, y_negative, each with text and provenance.
    """
    lengths = checkpoint.shards
    config = NegativesConfig(shown=shown, max_x_tokens=lengths.max_x_tokens, max_y_tokens=lengths.max_y_tokens)
    inputs = {
        "curated": curated.only("train"),
        "model": checkpoint.trained.only(checkpoint.label),
        "tokenizer": checkpoint.tokenizer,
    }

    def make(key: str) -> Outcome:
        rows = _first_pairs(inputs["curated"], config.pairs)
        encoder = CheckpointEncoder(checkpoint, config.batch_tokens, "float32")  # a thousand texts: the same on any machine
        found = _hardest(rows, encoder, config, progress)
        scratch = store.scratch(STAGE.name)
        content = json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False)
        (scratch / "negatives.json").write_text(content + "\n", encoding="utf-8")
        return Outcome(parts=(store.commit_part(draft_part(STAGE, key, "negatives"), scratch),))

    return store.build(STAGE, config, inputs, make)


def read_negatives(negatives: Artifact) -> list[dict[str, Any]]:
    """The content of negatives.json."""
    return json.loads((negatives.part_folder() / "negatives.json").read_text(encoding="utf-8"))


def allowed_negatives(x_hash_B: np.ndarray, y_hash_B: np.ndarray) -> np.ndarray:
    """True where (i, j) is a negative: none of i = j, x_i = x_j, y_i = y_j, x_i = y_j; shape (B, B)."""
    same = (x_hash_B[:, None] == x_hash_B) | (y_hash_B[:, None] == y_hash_B) | (x_hash_B[:, None] == y_hash_B)
    return ~(same | np.eye(len(x_hash_B), dtype=bool))


def _first_pairs(curated: Artifact, most: int) -> list[dict[str, Any]]:
    with (curated.part_folder("train") / "pairs.parquet").open("rb") as stream:
        table = pq.read_table(stream, columns=["x", "y", "x_hash", "y_hash", *_PROVENANCE])
    kinds = np.array(table["kind"].to_pylist())
    order = np.argsort(np.array(table["id"].to_pylist()), kind="stable")
    rows: list[dict[str, Any]] = []
    for kind in sorted(set(kinds.tolist())):
        rows += table.take(order[kinds[order] == kind][: most // 2]).to_pylist()
    return rows


def _hardest(
    rows: list[dict[str, Any]], encoder: TextEncoder, config: NegativesConfig, progress: Progress
) -> list[dict[str, Any]]:
    if len(rows) < 2:
        return []
    x_BD, y_BD = (encoder.encode([row[side] for row in rows], side, progress) for side in SIDES)
    scores_BB = x_BD @ y_BD.T
    x_hash_B, y_hash_B = (np.array([row[name] for row in rows], np.int64) for name in ("x_hash", "y_hash"))
    kinds_B = np.array([row["kind"] for row in rows])
    allowed_BB = allowed_negatives(x_hash_B, y_hash_B) & (kinds_B[:, None] == kinds_B)
    masked_BB = np.where(allowed_BB, scores_BB, -np.inf)
    hardest_B = masked_BB.argmax(1)
    hardness_B = masked_BB[np.arange(len(rows)), hardest_B]
    order = np.argsort(-hardness_B, kind="stable")[: config.shown]
    return [
        {
            "score": round(float(hardness_B[i]), 4),
            "positive_score": round(float(scores_BB[i, i]), 4),
            "x": _side(rows[i], "x"),
            "y_right": _side(rows[i], "y"),
            "y_negative": _side(rows[hardest_B[i]], "y"),
        }
        for i in order
        if np.isfinite(hardness_B[i])
    ]


def _side(row: dict[str, Any], side: str) -> dict[str, Any]:
    return {"text": row[side][:_SHOWN_CHARACTERS], **{name: row[name] for name in _PROVENANCE}}
