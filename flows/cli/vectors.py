"""Vectors of a published index for other stores, `cpt export-vectors`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from pipeline_lib.errors import UserError

FORMATS, PRECISIONS = ("parquet",), ("float32", "float16")


def export_vectors(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write vectors.parquet to.")],
    name: Annotated[str, typer.Option(help="Name of the model; empty: the one that searches use without a name.")] = "",
    kind: Annotated[str, typer.Option(help="code or text; empty: both.")] = "",
    form: Annotated[str, typer.Option("--format", help="Format of the file; only parquet.")] = "parquet",
    precision: Annotated[str, typer.Option(help="Precision of the vectors: float32, or float16 at half the size.")] = "float32",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier file.")] = False,
    artifacts: Annotated[
        str, typer.Option(metavar="URL", help="Bucket whose models are used: s3://bucket/prefix; empty: this machine's.")
    ] = "",
) -> None:
    """Write ids, texts, places and vectors of the published index to a Parquet file, for Qdrant, pgvector and others."""
    from flows.cli.starts import Told
    from pipeline_lib.runtime.machine import artifact_home
    from pipeline_lib.search import vectors
    from pipeline_lib.search.query import KINDS
    from pipeline_lib.search.registry import in_use

    for option, value, known in (("kind", kind, ("", *KINDS)), ("format", form, FORMATS), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise UserError(f"--{option} {value!r}: choose one of {', '.join(filter(None, known))}")
    options = vectors.VectorExport(kind or None, cast(vectors.VectorPrecision, precision), overwrite)
    written = vectors.export_vectors(in_use(artifacts or artifact_home(), name), out, options, Told())
    typer.echo(f"{written.path}: {written.rows:,} rows of {written.dim} dimensions, {precision}, {written.bytes:,} bytes")
    if written.reconstructed:
        typer.echo(f"{written.reconstructed:,} vectors came from the index: the store's cache has lost them", err=True)
