"""Routes of search: GET and POST /search, and the filters that the index has values for.

No `from __future__ import annotations` here: FastAPI reads the annotations of routes, and these are made of the limits.
"""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model
from starlette.responses import Response

from pipeline_lib.search.filters import Filters
from pipeline_lib.search.mcp_server import FoundText
from pipeline_lib.search.query import MODES
from pipeline_lib.serve.batching import Batcher
from pipeline_lib.serve.config import ServeConfig
from pipeline_lib.serve.engine import MOST_CHARACTERS, Engine, Question
from pipeline_lib.serve.replies import BAD, Refused, json_response, refusals

MOST_VALUES = 20  # of one filter
PATH = "/search"


class HitAnswer(FoundText):
    """One function or passage that was found."""

    model_config = ConfigDict(extra="allow")

    marks: list[tuple[int, int]] = Field(description="Where the query's words stand in the snippet, in characters.")
    explain: dict[str, Any] | None = Field(None, description="Ranks and scores by vectors and BM25, origin and neighbours.")


class FacetValue(BaseModel):
    """A value of a filter."""

    value: str
    count: int = Field(description="Functions and passages that have it.")


class Facet(BaseModel):
    """What a filter takes."""

    values: list[FacetValue] = Field(description="The commonest first.")
    distinct: int = Field(description="How many there are, those left out included.")


class FacetsAnswer(BaseModel):
    """What there is to filter by."""

    code: int = Field(description="Functions.")
    text: int = Field(description="Passages.")
    language: Facet
    package: Facet
    licence: Facet


class SearchAnswer(BaseModel):
    """What `cpt search --json` prints."""

    query: str = Field(description="The query as it was asked.")
    hits: list[HitAnswer] = Field(description="The best first.")


def check_text(value: str, param: str | None = None, where: str = "") -> None:
    """Look whether a text can be written in UTF-8: JSON can hold half of a surrogate pair, which is no character.

    Raises:
        Refused: it cannot; `where` begins the message.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        said = f"{where}no character at {error.start}: half of a surrogate pair"
        raise Refused(BAD, said, "invalid_text", param) from error


def whole(value: Any) -> Any:
    """A number of JSON: neither a text of digits nor true is one.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool | str):
        raise ValueError("a whole number is expected")
    return value


def as_list(value: Any) -> Any:
    """One value as a list of one."""
    return [value] if isinstance(value, str) else value


Number = Annotated[int, BeforeValidator(whole)]  # in JSON; in a link it is text


def search_model(config: ServeConfig, query: str, is_json: bool, against: bool = False) -> type[BaseModel]:
    """What a search takes, whose query's field is called so.

    Args:
        is_json: a number is a number; in a link it is text.
        against: it is a search of two models, whose hits are not explained.
    """
    values = Annotated[
        list[Annotated[str, Field(min_length=1, max_length=MOST_CHARACTERS)]],
        BeforeValidator(as_list, json_schema_input_type=Any),
    ]

    def filter_of(what: str) -> Any:
        return Field([], max_length=MOST_VALUES, description=f"{what}; several: any of them; none: all.")

    fields: dict[str, Any] = {
        query: (str, Field(min_length=1, max_length=config.max_query_characters, description="What is looked for, in words.")),
        "k": (
            Number if is_json else int,
            Field(10, ge=1, le=config.max_k, description="Hits at most."),
        ),
        "kind": (Literal["code", "text"] | None, Field(None, description="Functions or passages alone; unset: both.")),
        "language": (values, filter_of("Languages, as python, or en of prose")),
        "package": (values, filter_of("Packages, repositories or documents")),
        "licence": (values, filter_of("Licences as the sources state them")),
        "path": (str, Field("", max_length=MOST_CHARACTERS, description="Glob over the whole path; empty: all.")),
        "mode": (
            Literal[MODES],
            Field("auto", description="What ranks: vectors, BM25, both, or what measured best when the index was built."),
        ),
    }
    if against:
        said = "With whom: an event's number, another name, or RUN/LABEL of a candidate; empty: see the service's option."
        fields["against"] = (str, Field("", max_length=MOST_CHARACTERS, description=said))
    else:
        said = f"Say why each is a hit, of {config.max_explained} hits at most."
        fields["explain"] = (bool, Field(False, strict=is_json, description=said))
    name = "Compare" if against else "Search"
    return create_model(name, __config__=ConfigDict(extra="forbid", str_strip_whitespace=False), **fields)


def router(config: ServeConfig, engine: Engine, batcher: Callable[[], "Batcher[Question, bytes]"]) -> APIRouter:
    """The routes.

    Args:
        batcher: where questions are put; it belongs to the event loop, and comes to be with it.
    """
    found = APIRouter(tags=["search"])
    by_get, by_post = search_model(config, "q", is_json=False), search_model(config, "query", is_json=True)

    async def answer(query: str, asked: Any) -> Response:
        put = question(getattr(asked, query), asked)
        if asked.explain and asked.k > config.max_explained:
            raise Refused(BAD, f"explain takes k up to {config.max_explained}", "invalid_request", "k")
        return Response(await batcher().ask(put), media_type="application/json")

    @found.get(PATH, response_model=SearchAnswer, responses=refusals(), summary="Search by a link")
    async def search(asked: Annotated[by_get, Query()]) -> Response:  # type: ignore[valid-type]
        """Ranked functions and passages, as `cpt search --json` prints them."""
        return await answer("q", asked)

    @found.post(PATH, response_model=SearchAnswer, responses=refusals(), summary="Search")
    async def search_by_post(asked: by_post) -> Response:  # type: ignore[valid-type]
        """Ranked functions and passages, as `cpt search --json` prints them."""
        return await answer("query", asked)

    @found.get("/facets", response_model=FacetsAnswer, responses=refusals(), summary="Values of filters")
    async def facets() -> Response:
        """The languages, packages and licences that there are, the commonest first."""
        return json_response(await asyncio.to_thread(engine.facets))

    return found


def question(query: str, asked: Any) -> Question:
    """What is put to the engine.

    Raises:
        Refused: the query is empty or no text.
    """
    for text in (query, asked.path, *asked.language, *asked.package, *asked.licence):
        check_text(text)
    if not query.strip():
        raise Refused(BAD, "the query is empty; say what you look for", "empty_query", "query")
    filters = Filters(tuple(asked.language), tuple(asked.package), tuple(asked.licence), asked.path)
    return Question(query, asked.kind, asked.k, filters if filters else None, asked.mode, getattr(asked, "explain", False))
