"""Search at a terminal: one query, a function or passage as the query, or a file of queries.

`cpt mcp`: the same for coding agents, as an MCP server over stdio, or over HTTP on loopback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from pipeline_lib.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from pipeline_lib.index.rows import Ranked
    from pipeline_lib.search.encoders import QueryEncoder
    from pipeline_lib.search.filters import Filters
    from pipeline_lib.search.hits import Hit
    from pipeline_lib.search.query import Mode, Searcher

KINDS = ("code", "text")
BROKEN_PIPE = 141  # exit code, as the shell gives it
MOST_DIGITS = 9  # of a line's number
LOOPBACK = "127.0.0.1"
STANDARD = "-"  # a file's name that stands for the standard input or output
TAG = "cpt"  # of a run file


def search(
    query: Annotated[str, typer.Argument(help="The function or passage that you look for, in words.")] = "",
    kind: Annotated[str, typer.Option(help="code or text; empty: both.")] = "",
    language: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Language of the hits: python, go, en ...; may be repeated.")
    ] = None,
    package: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Package, repository or document; `*` is a wildcard; may be repeated."),
    ] = None,
    path: Annotated[
        str, typer.Option(metavar="GLOB", help="Glob for the hits' files, as '*/tests/*'; a folder: all in it.")
    ] = "",
    licence: Annotated[
        list[str] | None,
        typer.Option(
            "--licence", "--license", metavar="NAME", help="As the dump states it; none: not stated; may be repeated."
        ),
    ] = None,
    mode: Annotated[str, typer.Option(help="Ranking: vectors, bm25, hybrid, or auto, which measured best.")] = "auto",
    like: Annotated[str, typer.Option(metavar="FILE:LINE", help="Use the function or passage at that line as the query.")] = "",
    explain: Annotated[
        bool, typer.Option("--explain", help="Show ranks and scores of both rankings, origin and neighbours.")
    ] = False,
    batch: Annotated[
        str,
        typer.Option(metavar="FILE", help="Queries, one per line: {id, text} as JSON or id<TAB>text; -: standard input."),
    ] = "",
    out: Annotated[
        str, typer.Option(metavar="FILE", help="TREC run file for the answers of --batch; -: standard output.")
    ] = STANDARD,
    tag: Annotated[str, typer.Option(help="Run tag of --batch, the last word of each line.")] = TAG,
    k: Annotated[int, typer.Option("-k", help="Number of hits.", min=1)] = 10,
    name: Annotated[
        str,
        typer.Option(help="Name of the model (see `cpt runs`); empty: the only one, or the last that a person published."),
    ] = "",
    artifacts: Annotated[
        str, typer.Option(metavar="URL", help="Bucket whose models are searched: s3://bucket/prefix; empty: this machine's.")
    ] = "",
    int8: Annotated[bool, typer.Option("--int8", help="Embed queries by the model's 8-bit weights.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object: {query, hits}.")] = False,
) -> None:
    """Search the published index for functions and passages."""
    from pipeline_lib.search.filters import Filters

    _check_words(query, like, batch)
    _check_batch(batch, {"--json": as_json, "--explain": explain}, {"--out": out != STANDARD, "--tag": tag != TAG})
    _check_choices(kind, mode, like)
    filters = Filters(tuple(language or ()), tuple(package or ()), tuple(licence or ()), path)
    asked = Asked(query or like, kind, k, filters, mode, name, artifacts, int8)  # type: ignore[arg-type]
    if batch:
        _search_batch(asked, batch, out, tag)
        return
    _print_hits(asked, find(asked, like, explain), as_json)


@dataclass(frozen=True)
class Asked:
    """One request, as options of a command give it; `kind` is empty for both."""

    query: str
    kind: str
    k: int
    filters: Filters
    mode: Mode
    name: str
    artifacts: str
    int8: bool = False

    def searcher(self) -> Searcher:
        """The pair that is searched, opened."""
        from pipeline_lib.runtime.machine import artifact_home
        from pipeline_lib.search.query import Searcher
        from pipeline_lib.search.registry import in_use

        return Searcher(in_use(self.artifacts or artifact_home(), self.name), load_weights, self.int8)


def find(asked: Asked, like: str = "", explain: bool = False) -> list[Hit]:
    """The hits of one request.

    Args:
        like: FILE:LINE, whose text is the query; empty: the request's words are.
    """
    place = split_place(like) if like else None  # before half a second of imports
    searcher = asked.searcher()
    if place is None and not explain:
        return searcher.search(asked.query, asked.kind or None, asked.k, asked.filters, asked.mode)
    allowed_N = searcher.allowed(asked.kind or None, asked.filters)
    if place is None:
        return _explained(searcher, asked, asked.query, searcher.ranked(asked.query, asked.k, allowed_N, asked.mode), allowed_N)
    text, vector_1D = _like(searcher, *place)
    ranked = searcher.ranked_by_vector(vector_1D, asked.k, allowed_N)
    return _explained(searcher, asked, "", ranked, allowed_N, text) if explain else searcher.hits(ranked, text)


def _explained(
    searcher: Searcher,
    asked: Asked,
    query: str,
    ranked: Sequence[Ranked],
    allowed_N: np.ndarray | None,
    text: str = "",
) -> list[Hit]:
    from pipeline_lib.search.explain import explained

    hits = explained(searcher, query, ranked, allowed_N, lambda ids: _origins(asked.artifacts, ids))
    shown = searcher.hits(ranked, text) if text else hits
    return [replace(hit, explain=told.explain) for hit, told in zip(shown, hits, strict=True)]


def _origins(artifacts: str, ids: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
    """What `cpt trace` says of pairs, as far as the store still holds them."""
    from flows.runs import open_store
    from pipeline_lib.pairs.trace import trace_pairs

    return {pair: found.facts() for pair, found in trace_pairs(open_store(artifacts), ids).items()}


def _like(searcher: Searcher, file: str, line: int) -> tuple[str, np.ndarray]:
    """Text and vector (1, D) of what is at a line: of a file on this machine, else of one that the index holds."""
    if _is_there(file):
        from pipeline_lib.pairs.at_line import text_at

        text = text_at(Path(file), line).text
        return text, searcher.embed_documents([text])
    from pipeline_lib.search.explain import row_at, vector_of

    row = row_at(searcher.rows, file, line)
    if row is None:
        raise UserError(f"--like {file}:{line}: no such file on this machine, and the index has no such path")
    vector_1D = vector_of(searcher, row)
    if vector_1D is None:
        raise UserError(f"--like {file}:{line}: the index keeps neither the vector nor the text; give a file on this machine")
    return searcher.texts.of([row])[0][1] if searcher.texts else "", vector_1D


def split_place(place: str) -> tuple[str, int]:
    """File and line of FILE:LINE.

    Raises:
        UserError: it is not of that form.
    """
    file, _, line = place.rpartition(":")
    if not file or not line.isascii() or not line.isdigit() or len(line) > MOST_DIGITS or not int(line):
        raise UserError(f"--like {place!r}: expected FILE:LINE, as in --like src/dates.py:12")
    return file, int(line)


def _check_words(query: str, like: str, batch: str) -> None:
    given = [flag for flag, value in (("QUERY", query), ("--like", like), ("--batch", batch)) if value]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)}: give one of them")
    if not given:
        raise UserError('give a query, as in: cpt search "parse an ISO 8601 date"; or --like FILE:LINE, or --batch FILE')


def _check_batch(batch: str, of_hits: Mapping[str, bool], of_runs: Mapping[str, bool]) -> None:
    """Refuse what would be passed over in silence.

    Args:
        of_hits, of_runs: options that hits at a terminal have alone, and run files, and whether they are given.
    """
    wrong = [flag for flag, is_given in (of_hits if batch else of_runs).items() if is_given]
    if wrong and batch:
        raise UserError(f"{' and '.join(wrong)} with --batch: a run file has no place for it; leave it out")
    if wrong:
        raise UserError(f"{' and '.join(wrong)} without --batch: hits of one query are printed; redirect them, with > FILE")


def _check_choices(kind: str, mode: str, like: str) -> None:
    from pipeline_lib.search.query import MODES

    if kind not in ("", *KINDS):
        raise UserError(f"--kind {kind!r}: choose one of {', '.join(KINDS)}")
    if mode not in MODES:
        raise UserError(f"--mode {mode!r}: choose one of {', '.join(MODES)}")
    if like and mode not in ("auto", "vectors"):
        raise UserError(f"--mode {mode} with --like: a text is compared with others by vectors alone; leave --mode out")


def _print_hits(asked: Asked, hits: Sequence[Hit], as_json: bool) -> None:
    from pipeline_lib.search.hits import render_json, render_text

    if as_json:
        typer.echo(render_json(asked.query, hits))
        return
    if not hits and asked.filters:
        typer.echo("nothing found: no row of the index passes all filters")
        return
    if not hits and asked.mode == "bm25":
        typer.echo("nothing found: no text of the index has a word of the query")
        return
    typer.echo(render_text(hits, asked.kind, has_colours(sys.stdout)))


def has_colours(stream: Any) -> bool:
    """True for a terminal that shows them, unless NO_COLOR is set, to anything; see no-color.org."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and bool(stream.isatty())


def _search_batch(asked: Asked, batch: str, out: str, tag: str) -> None:
    from pipeline_lib.search.batch import BatchCounts, check_tag, read_queries, write_run

    check_tag(tag)
    counts = BatchCounts()
    with _opened(batch) as stream:
        searcher = asked.searcher()
        allowed_N = searcher.allowed(asked.kind or None, asked.filters)

        def answer(texts: Sequence[str]) -> list[list[tuple[str, float]]]:
            found = searcher.ranked_many(texts, asked.k, allowed_N, asked.mode)
            return [
                list(zip(searcher.ids([one.row for one in ranked]), (one.score for one in ranked), strict=True))
                for ranked in found
            ]

        with _written(out) as sink:
            write_run(read_queries(stream, counts), answer, sink, tag, counts)
    typer.echo(f"{counts.sentence()}", err=True)
    if not counts.queries:
        raise UserError(f'--batch {batch}: no query in it; a line is {{"id": ..., "text": ...}} or id<TAB>text')


def _is_there(place: str) -> bool:
    """Whether a path leads to something; one that is too long, or through what is no folder, leads nowhere."""
    try:
        return Path(place).exists()
    except (OSError, ValueError):
        return False


@contextmanager
def _opened(batch: str) -> Iterator[IO[bytes]]:
    if batch == STANDARD:
        yield sys.stdin.buffer
        return
    if not _is_there(batch) or Path(batch).is_dir():
        raise UserError(f"--batch {batch}: no such file")
    with Path(batch).open("rb") as stream:
        yield stream


@contextmanager
def _written(out: str) -> Iterator[IO[str]]:
    """A file that is there only once it is whole; or the standard output."""
    if out == STANDARD:
        try:
            yield sys.stdout
            sys.stdout.flush()
        except BrokenPipeError as error:  # whoever reads it has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(BROKEN_PIPE) from error
        return
    whole = Path(out)
    try:
        is_file, is_folder, has_folder = whole.is_file(), whole.is_dir(), whole.parent.is_dir()
    except OSError as error:  # too long, or not ours to look at
        raise UserError(f"--out {out}: {error.strerror}") from error
    if is_folder or not has_folder:
        raise UserError(f"--out {out}: {'a folder; name a file in it' if is_folder else 'no such folder'}")
    if not is_file and whole.exists():  # a pipe, a terminal
        with whole.open("w", encoding="utf-8") as sink:
            yield sink
        return
    part = whole.with_name(f".{os.getpid()}.part")  # short: the file's own name may be as long as names can be
    try:
        with part.open("w", encoding="utf-8") as sink:
            yield sink
        part.replace(whole)
    finally:
        part.unlink(missing_ok=True)


def load_weights(folder: Path) -> QueryEncoder:
    """An export without model.onnx, for whatever searches or serves."""
    from pipeline_lib.export.exported import TorchQueries  # torch: only where there is no model.onnx

    return TorchQueries(folder)


def mcp(
    name: Annotated[str, typer.Option(help="Model to use if an agent names none; empty: the one that `cpt search` uses.")] = "",
    artifacts: Annotated[
        str, typer.Option(metavar="URL", help="Bucket whose models are searched: s3://bucket/prefix; empty: this machine's.")
    ] = "",
    port: Annotated[
        int | None,
        typer.Option(help="Port of streamable HTTP on loopback, at /mcp; unset: stdio, as agents start it.", min=1, max=65535),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Embed queries by the model's 8-bit weights.")] = False,
) -> None:
    """Offer the published search to coding agents (MCP), as the tools search, similar, read and status."""
    from pipeline_lib.runtime.machine import artifact_home

    try:
        import mcp.server  # noqa: F401
    except ImportError as error:
        raise UserError("an MCP server needs the SDK, which is not here: pip install 'cpt-factory[mcp]'") from error
    from pipeline_lib.search.mcp_server import HTTP_PATH, Searches, following, make_server

    home = artifacts or artifact_home()
    server = make_server(Searches(home, name, following(home, load_weights, int8)))
    if port is None:
        server.run("stdio")
    else:
        typer.echo(f"http://{LOOPBACK}:{port}{HTTP_PATH}", err=True)
        server.run("streamable-http", host=LOOPBACK, port=port, streamable_http_path=HTTP_PATH)
