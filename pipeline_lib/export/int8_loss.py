"""Loss of an int8 export on validation, and how the model card tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from pipeline_lib.config.base import StageConfig

SPEED_ELSEWHERE = "How long a query takes depends on the machine: `model_card.md` beside the run's report says it."


class Int8Figure(StageConfig):
    """One validation figure with queries embedded by 8-bit weights, documents by the model itself, as a search does."""

    task: str = Field(description="What was measured, e.g. code_search_1k.")
    metric: str = Field(description="The field's name of the figure, e.g. mrr.")
    float32: float = Field(description="The figure of the model itself.")
    int8: float
    low: float = Field(description="Lower end of the 95 % interval of the difference, paired by query.")
    high: float = Field(description="Upper end of it.")
    n: int = Field(description="Queries or texts behind the figure.")


class Int8Loss(StageConfig):
    """What queries lose by 8-bit weights."""

    queries: int = Field(description="Validation queries whose vectors were compared.")
    cosine: float = Field(description="Mean cosine of an int8 query vector and the model's own.")
    least_cosine: float = Field(description="The smallest of them.")
    figures: tuple[Int8Figure, ...] = Field((), description="Validation figures of search, classification and similarity.")


def int8_section(figures: Mapping[str, Any], loss: Int8Loss) -> str:
    """The card's section.

    Args:
        figures: facts of the export, `int8` among them.
    """
    told = figures["int8"]
    rows = [
        f"| {row.task} | {row.metric} | {row.float32:.4f} | {row.int8:.4f} | {row.int8 - row.float32:+.4f} | "
        f"{row.low:+.4f} to {row.high:+.4f} | {row.n:,} |"
        for row in loss.figures
    ]
    return "\n".join(
        [
            "## int8\n",
            f"`model.int8.onnx` holds the same model with 8-bit weights: {told['bytes']:,} bytes in place of "
            f"{told['float_bytes']:,}. It is for queries, and finds the documents that the model itself embedded: `cpt search "
            f"--int8`. Over {loss.queries:,} validation queries the cosine of its vector and the model's own is "
            f"{loss.cosine:.4f} on average and {loss.least_cosine:.4f} at least. {SPEED_ELSEWHERE}\n",
            "| validation task | metric | float32 | int8 | difference | 95 % interval | n |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def speed_sentence(milliseconds: Mapping[str, float]) -> str:
    """How long a query takes on one machine, in place of `SPEED_ELSEWHERE`.

    Args:
        milliseconds: of one query at a time on one thread, by "float32" and "int8".
    """
    return (
        f"On this machine a query takes {milliseconds['int8']:.2f} ms to embed, and {milliseconds['float32']:.2f} ms by "
        "model.onnx (median, one at a time, one thread)."
    )


def int8_note(figures: Mapping[str, Any], loss: Int8Loss, milliseconds: Mapping[str, float]) -> str:
    """The same as a note of the report."""
    changes = [f"{row.task} {row.metric} {row.float32:.3f} to {row.int8:.3f}" for row in loss.figures]
    return (
        f"int8 queries: {figures['bytes'] / 1e6:.1f} of {figures['float_bytes'] / 1e6:.1f} MB, cosine {loss.cosine:.4f} "
        f"(least {loss.least_cosine:.4f}) to float32; on validation {', '.join(changes)}. {speed_sentence(milliseconds)}"
    )
