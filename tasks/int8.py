"""Measurements of an int8 export: what its queries lose on validation, and what they cost on this machine.

N texts, D width.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_lib.config.run import RunConfig
from pipeline_lib.evaluation.metrics import differences, read_evaluations
from pipeline_lib.evaluation.suites.cached import CachedEncoder
from pipeline_lib.evaluation.suites.evaluate import evaluate_suite
from pipeline_lib.evaluation.suites.held_out_pairs import held_out_suites
from pipeline_lib.evaluation.suites.held_out_tasks import draw_tasks
from pipeline_lib.evaluation.suites.models import FINGERPRINT_DIGITS, CheckpointEncoder, ModelId, Side, TextEncoder
from pipeline_lib.evaluation.suites.variants import truncated
from pipeline_lib.export.int8_loss import SPEED_ELSEWHERE, Int8Figure, Int8Loss, int8_note, speed_sentence
from pipeline_lib.export.quantized import FILE
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.search.onnx_encoder import OnnxEncoder
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import digest_of, sha256_file
from pipeline_lib.store.store import Store

MOST_QUERIES = 1000  # of each kind, whose vectors are compared
TIMED_QUERIES, ROUNDS = 100, 3


class Int8Queries:
    """A model whose queries are embedded by 8-bit weights, and whose documents by the model itself: what a search does.

    Args:
        folder: the export.
        documents: the model itself.
    """

    def __init__(self, folder: Path, documents: TextEncoder) -> None:
        self.folder, self.documents = folder, documents

    @cached_property
    def id(self) -> ModelId:
        """The fingerprint covers the graph and the model itself."""
        content = ["int8", sha256_file(self.folder / FILE), self.documents.id.fingerprint]
        own = self.documents.id
        return ModelId(f"{own.name} int8", digest_of(content)[:FINGERPRINT_DIGITS], own.step)

    def encode(self, texts: Sequence[str], side: Side, progress: Progress = silent) -> np.ndarray:
        """Vectors of length 1, float32 (N, D)."""
        if side == "y":
            return self.documents.encode(texts, side, progress)
        clean = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        return self._queries.embed(clean, "query", progress=progress)

    @cached_property
    def _queries(self) -> OnnxEncoder:
        return OnnxEncoder(self.folder, sides=("query",), int8=True)


def int8_loss(store: Store, exported: Artifact, curated: Artifact, checkpoint: Checkpoint, config: RunConfig) -> Int8Loss:
    """Cosines over validation queries, and the figures of the validation split beside the model's own."""
    whole = CheckpointEncoder(checkpoint, config.evaluate.batch_tokens, config.evaluate.precision)
    own = truncated(whole, config.export.truncate_dim)
    cached = CachedEncoder(own, store)
    model = Int8Queries(exported.part_folder(), cached)
    texts = validation_queries(curated, config)
    cosines_N = (model.encode(texts, "x") * cached.encode(texts, "x")).sum(axis=1)
    suites = held_out_suites(curated, config.evaluate)
    mine = [evaluate_suite(store, model, suite, "validation") for suite in suites]
    theirs = [evaluate_suite(store, own, suite, "validation") for suite in suites]
    return Int8Loss(
        queries=len(texts),
        cosine=round(float(cosines_N.mean()), 4),
        least_cosine=round(float(cosines_N.min()), 4),
        figures=tuple(_figures(mine, theirs, config)),
    )


def validation_queries(curated: Artifact, config: RunConfig) -> list[str]:
    """Queries of the validation split's search tasks, in the order of their hash."""
    tasks = draw_tasks(curated, "validation", config.evaluate)
    of_kind = [task.texts_of("x") for kind in ("code_search", "text_search") if (task := tasks.of_kind(kind))]
    return [query for queries in of_kind for query in queries[:MOST_QUERIES]]


def query_milliseconds(folder: Path, queries: Sequence[str]) -> dict[str, float]:
    """Median milliseconds of embedding one query, by "float32" and "int8": both in turn, on one thread."""
    encoders = {name: OnnxEncoder(folder, sides=("query",), int8=name == "int8") for name in ("float32", "int8")}
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    for query in [*queries[:TIMED_QUERIES]] * ROUNDS:
        for name, encoder in encoders.items():
            began = time.perf_counter()
            encoder.embed([query], "query")
            seconds[name].append(time.perf_counter() - began)
    return {name: round(statistics.median(found) * 1000, 3) for name, found in seconds.items()}


def int8_told(stages: Mapping[str, Artifact], config: RunConfig) -> dict[str, Any]:
    """What the report says of an int8 export: `sentence` and `milliseconds`; nothing where there is none."""
    told = stages["export"].manifest.facts.get("int8")
    if told is None:
        return {}
    loss = Int8Loss.model_validate(stages["card"].manifest.config["facts"]["int8"])
    milliseconds = query_milliseconds(stages["export"].part_folder(), validation_queries(stages["curate"], config))
    return {"sentence": int8_note(told, loss, milliseconds), "milliseconds": milliseconds}


def with_measured_speed(card: str, told: Mapping[str, Any]) -> str:
    """The card of one run: how long a query takes on its machine, in place of where to find that.

    Args:
        told: see `int8_told`.
    """
    return card.replace(SPEED_ELSEWHERE, speed_sentence(told["milliseconds"])) if told else card


def _figures(mine: Sequence[Artifact], theirs: Sequence[Artifact], config: RunConfig) -> list[Int8Figure]:
    values: dict[str, Mapping[tuple[str, str], float]] = {
        name: {(row["task"], row["metric"]): row["value"] for row in read_evaluations(found)}
        for name, found in (("int8", mine), ("float32", theirs))
    }
    return [
        Int8Figure(
            task=row["task"],
            metric=row["metric"],
            low=round(row["low"], 4),
            high=round(row["high"], 4),
            n=row["n"],
            **{name: round(found[row["task"], row["metric"]], 4) for name, found in values.items()},
        )
        for row in differences(mine, theirs, config.evaluate.bootstrap, config.evaluate.seed)
    ]
