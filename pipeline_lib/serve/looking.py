"""Routes of looking at a model: map of the corpus, neighbours of anything, and two models side by side.

No `from __future__ import annotations` here: FastAPI reads the annotations of routes, and these are made of the limits.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, create_model
from starlette.responses import Response

from pipeline_lib.search.mcp_server import TextFields
from pipeline_lib.serve.config import ServeConfig
from pipeline_lib.serve.engine import Engine
from pipeline_lib.serve.nearby import Asked, Side
from pipeline_lib.serve.replies import BAD, CONFLICT, NOT_FOUND, Refused, json_response, refusals
from pipeline_lib.serve.searching import FacetValue, HitAnswer, Number, check_text, question, search_model

MOST_ROWS = 50  # whose texts one request reads
PLACE = r"^[^\n\r]+:[1-9][0-9]{0,8}$"
DIGEST = r"^([0-9a-f]{64})?$"
_INDEX = "Digest of the index that row numbers are of, as the map says it; those of another are refused. Empty: unchecked."


class Others(BaseModel):
    """Packages that share a colour."""

    count: int = Field(description="Texts that are shown of them.")
    distinct: int = Field(description="How many packages they are.")


class MapAnswer(BaseModel):
    """Where texts lie in the plane: near ones near one another. Lists go together, an entry a text that is shown."""

    state: Literal["making", "ready", "failed"] = Field(description="making: ask again in a second.")
    done: float = Field(description="Share of the work that is done.")
    note: str = Field(description="What is at work, or why there is no map.")
    index: str = Field(description="Digest of the index.")
    total: int = Field(description="Texts of the index.")
    n_code: int = Field(description="Rows below it are functions, the others passages.")
    laid_out: int = Field(description="Texts that were laid out by their vectors; the others are placed among them.")
    grid: int = Field(description="Places are whole numbers from 0 to it.")
    row: list[int] = Field(description="Row of the index.")
    x: list[int] = Field(description="Place from left to right.")
    y: list[int] = Field(description="Place from bottom to top.")
    package: list[int] = Field(description="Place in `packages`; one more than its last: one of the others.")
    packages: list[FacetValue] = Field(description="Those with most texts that are shown.")
    others: Others


class RowAnswer(TextFields):
    """What a row of the index holds."""

    row: int


class RowsAnswer(BaseModel):
    """What rows hold."""

    index: str = Field(description="Digest of the index.")
    rows: list[RowAnswer]


class NeighbourAnswer(HitAnswer):
    """A near text."""

    row: int
    mutual: bool | None = Field(description="Whether the text would be among the k nearest of it; null: the index cannot say.")


class Histogram(BaseModel):
    """How many rows, of some evenly spread ones, have which cosine."""

    edges: list[float] = Field(description="Bounds of the bins, one more than there are bins.")
    counts: list[int]
    rows: int = Field(description="How many were compared.")
    mean: float
    deviation: float = Field(description="Standard deviation.")


class NeighboursAnswer(BaseModel):
    """What lies nearest to a row, a place or a text."""

    index: str = Field(description="Digest of the index.")
    of: RowAnswer | None = Field(description="The row that was asked about; null: a text was.")
    neighbours: list[NeighbourAnswer] = Field(description="The nearest first; the row itself is none.")
    histogram: Histogram | None = Field(description="Null: the index holds no vectors.")


class ComparedHit(HitAnswer):
    """A hit of one of two models."""

    change: Literal["same", "up", "down", "new", "gone"] = Field(
        description="Of its rank, from the champion's list to the candidate's; new, gone: it stands in one of them alone."
    )
    before: int | None = Field(description="Its rank by the champion.")
    now: int | None = Field(description="Its rank by the candidate.")


class ComparedModel(BaseModel):
    """One of the two models, with its index."""

    name: str
    label: str = Field(description="Its run and checkpoint, where they are known.")
    event: int = Field(description="The event of the registry that put it in use; 0: none did.")
    since: str
    model_digest: str
    index_digest: str
    texts: int


class ComparedSide(BaseModel):
    """One of the two models, and its hits."""

    model: ComparedModel
    hits: list[ComparedHit]


class CompareAnswer(BaseModel):
    """One query's hits by two models."""

    against: str = Field(description="What names the candidate.")
    query: str
    overlap: float = Field(description="Share of the first k hits that both have.")
    counts: dict[str, int] = Field(description="Hits by change.")
    champion: ComparedSide
    candidate: ComparedSide


class RivalAnswer(BaseModel):
    """What the model that is searched can be compared with."""

    against: str = Field(description="Number of the event, for the field of that name.")
    event: str = Field(description="What became of it.")
    label: str = Field(description="Its run and checkpoint, where they are known.")
    at: str
    why: str


class CandidatesAnswer(BaseModel):
    """Candidates and earlier pairs of the name that is searched, the newest first."""

    name: str
    against: str = Field(description="With whom it is compared where nothing is said; empty: the newest that can be opened.")
    candidates: list[RivalAnswer]


def neighbours_model(config: ServeConfig, is_json: bool) -> type[BaseModel]:
    """What a request for neighbours takes."""
    integer: Any = Number if is_json else int
    most = config.max_text_characters if is_json else config.max_query_characters
    fields: dict[str, Any] = {
        "row": (integer | None, Field(None, ge=0, le=2**53, description="Row of the index; or")),
        "at": (
            str | None,
            Field(None, max_length=4096, pattern=PLACE, description="FILE:LINE, as a hit says it or longer; or"),
        ),
        "text": (str | None, Field(None, min_length=1, max_length=most, description="a text. One of the three is given.")),
        "side": (Side, Field("document", description="As which a text is embedded.")),
        "k": (integer, Field(min(10, config.max_explained), ge=1, le=config.max_explained, description="Neighbours at most.")),
        "kind": (Literal["code", "text"] | None, Field(None, description="Functions or passages alone; unset: both.")),
        "index": (str, Field("", pattern=DIGEST, description=_INDEX)),
    }
    return create_model("Neighbours", __config__=ConfigDict(extra="forbid"), **fields)


class Rows(BaseModel):
    """Which rows are read."""

    model_config = ConfigDict(extra="forbid")

    row: list[Annotated[int, Field(ge=0, le=2**53)]] = Field(min_length=1, max_length=MOST_ROWS, description="Their numbers.")
    index: str = Field("", pattern=DIGEST, description=_INDEX)


def router(config: ServeConfig, engine: Engine) -> APIRouter:
    """The routes."""
    found = APIRouter(tags=["looking"])
    _add_map(found, engine)
    _add_neighbours(found, config, engine)
    _add_compare(found, config, engine)
    return found


def _add_map(found: APIRouter, engine: Engine) -> None:
    @found.get("/map.json", response_model=MapAnswer, responses=refusals(), summary="Map of the corpus")
    async def corpus_map() -> Response:
        """A place in the plane for texts of the index; made when it is first asked for, and kept."""
        return await _answered(engine.pool, lambda: engine.maps.answer(engine.searcher))

    @found.get("/rows.json", response_model=RowsAnswer, responses=refusals(CONFLICT), summary="Texts of rows")
    async def rows(asked: Annotated[Rows, Query()]) -> Response:
        """What rows of the index hold."""
        return await _answered(engine.pool, partial(engine.texts, asked.row, asked.index))


def _add_neighbours(found: APIRouter, config: ServeConfig, engine: Engine) -> None:
    by_get, by_post = neighbours_model(config, is_json=False), neighbours_model(config, is_json=True)
    path = "/neighbours.json"
    options: dict[str, Any] = {"response_model": NeighboursAnswer, "responses": refusals(CONFLICT)}

    async def answer(asked: Any) -> Response:
        return await _answered(engine.pool, partial(engine.neighbours, wanted(asked), asked.index))

    @found.get(path, summary="Neighbours by a link", **options)
    async def near(asked: Annotated[by_get, Query()]) -> Response:  # type: ignore[valid-type]
        """What lies nearest to a row, a place in a file or a text, and how far all the others are."""
        return await answer(asked)

    @found.post(path, summary="Neighbours", **options)
    async def near_by_post(asked: by_post) -> Response:  # type: ignore[valid-type]
        """What lies nearest to a row, a place in a file or a text, and how far all the others are."""
        return await answer(asked)


def _add_compare(found: APIRouter, config: ServeConfig, engine: Engine) -> None:
    by_get, by_post = (search_model(config, name, name == "query", against=True) for name in ("q", "query"))
    options: dict[str, Any] = {"response_model": CompareAnswer, "responses": refusals(NOT_FOUND)}

    async def answer(query: str, asked: Any) -> Response:
        put = question(getattr(asked, query), asked)
        check_text(asked.against, "against")
        return await _answered(engine.comparing_pool, partial(engine.compare, put, asked.against))

    @found.get("/compare.json", summary="Two models by a link", **options)
    async def compare(asked: Annotated[by_get, Query()]) -> Response:  # type: ignore[valid-type]
        """One query's hits by the model that is searched and by another, and what moved between them."""
        return await answer("q", asked)

    @found.post("/compare.json", summary="Two models", **options)
    async def compare_by_post(asked: by_post) -> Response:  # type: ignore[valid-type]
        """One query's hits by the model that is searched and by another, and what moved between them."""
        return await answer("query", asked)

    @found.get("/candidates.json", response_model=CandidatesAnswer, responses=refusals(), summary="With whom to compare")
    async def candidates() -> Response:
        """Candidates and earlier pairs of the name that is searched."""
        return json_response(await asyncio.to_thread(engine.candidates))


def wanted(asked: Any) -> Asked:
    """What is put to the engine.

    Raises:
        Refused: not one of row, place and text is given, or one is no text.
    """
    if sum(one is not None for one in (asked.row, asked.at, asked.text)) != 1:
        raise Refused(BAD, "give one of row, at and text", "invalid_request")
    for name in ("at", "text"):
        check_text(getattr(asked, name) or "", name)
    if asked.text is not None and not asked.text.strip():
        raise Refused(BAD, "the text is empty", "empty_query", "text")
    return Asked(asked.row, asked.at or "", asked.text or "", asked.side, asked.k, asked.kind)


async def _answered(pool: Any, work: Callable[[], bytes]) -> Response:
    return Response(await asyncio.get_running_loop().run_in_executor(pool, work), media_type="application/json")
