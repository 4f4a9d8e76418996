"""Routes in OpenAI's shape: /v1/embeddings and /v1/models.

No `from __future__ import annotations` here: see searching.py.
"""

import asyncio
import json
import threading
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model
from starlette.responses import Response

from pipeline_lib.serve.config import ServeConfig
from pipeline_lib.serve.engine import DEFAULT, Embedded, Engine, as_base64
from pipeline_lib.serve.replies import BAD, NOT_FOUND, Refused, json_response, refusals
from pipeline_lib.serve.searching import as_list, check_text, whole

MOST_NAME = 128  # characters of a model's name
OWNER = "cpt"


class Embedding(BaseModel):
    """One vector of length 1."""

    object: Literal["embedding"] = "embedding"
    index: int = Field(description="Place of its text in the input.")
    embedding: list[float] | str = Field(description="Its numbers, or in base64 its little-endian float32.")


class Usage(BaseModel):
    """Tokens that were read, delimiters included."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """Vectors in the order of the texts."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class Model(BaseModel):
    """A model that embeds."""

    id: str = Field(description="What `model` takes.")
    object: Literal["model"] = "model"
    created: int = Field(description="Since when its pair is in use, in seconds since 1970.")
    owned_by: str


class ModelsAnswer(BaseModel):
    """The models that there are."""

    object: Literal["list"] = "list"
    data: list[Model]


def embeddings_model(config: ServeConfig) -> type[BaseModel]:
    """What a request for embeddings holds."""
    text = Annotated[str, Field(min_length=1, max_length=config.max_text_characters)]
    texts: Any = Annotated[list[text], Field(min_length=1, max_length=config.max_texts)]
    fields: dict[str, Any] = {
        "input": (
            Annotated[texts, BeforeValidator(_as_texts, json_schema_input_type=text | texts)],
            Field(description="A text, or several. Token ids are not taken."),
        ),
        "model": (
            Annotated[str, Field(min_length=1, max_length=MOST_NAME)] | None,
            Field(DEFAULT, description=f"A name that /v1/models lists; {DEFAULT}, or null: the pair that is searched."),
        ),
        "encoding_format": (
            Literal["float", "base64"] | None,
            Field("float", description="How vectors are written; null: as float."),
        ),
        "input_type": (
            Literal["document", "query"] | None,
            Field(
                "document",
                description="What the texts are: a query is embedded on its own side of the model; null: document.",
            ),
        ),
        "dimensions": (
            Annotated[int | None, BeforeValidator(whole)],
            Field(None, ge=1, description="The model's own width, or unset: vectors are not cut."),
        ),
        "user": (str | None, Field(None, max_length=1024, description="Taken, and not used.")),
    }
    return create_model("Embeddings", __config__=ConfigDict(extra="forbid"), **fields)


def _as_texts(value: Any) -> Any:
    """One text as a list of one.

    Raises:
        ValueError: it holds token ids, which OpenAI's clients may send: another tokenizer's mean other words here.
    """
    if isinstance(value, list) and any(isinstance(one, int | float | list) for one in value):
        raise ValueError("token ids are not taken, they are another tokenizer's: send the texts")
    return as_list(value)


def router(config: ServeConfig, engine: Engine) -> APIRouter:
    """The routes."""
    found = APIRouter(prefix="/v1", tags=["openai"])
    asked_model = embeddings_model(config)

    async def embedded(asked: Any) -> Response:
        for place, text in enumerate(asked.input):
            check_text(text, "input", f"input {place}: ")
        cancelled = threading.Event()

        model = asked.model or DEFAULT  # what is null, as some clients write what nobody set, is its default

        def answer() -> bytes:
            found = engine.embed(model, asked.input, asked.input_type or "document", cancelled)
            _check_width(asked.dimensions, found.vectors_ND.shape[1])
            return _rendered(model, found, asked.encoding_format or "float")

        try:
            body = await asyncio.get_running_loop().run_in_executor(engine.embedding_pool, answer)
        finally:
            cancelled.set()
        return Response(body, media_type="application/json")

    @found.post("/embeddings", response_model=EmbeddingsAnswer, responses=refusals(NOT_FOUND), summary="Embed texts")
    async def embed(asked: asked_model) -> Response:  # type: ignore[valid-type]
        """Unit vectors of texts, as OpenAI's clients ask for them."""
        return await embedded(asked)

    @found.get("/models", response_model=ModelsAnswer, responses=refusals(), summary="List models")
    async def models() -> Response:
        """The names that embeddings take."""
        listed = await asyncio.to_thread(engine.models)
        return json_response({"object": "list", "data": [_model(name, since) for name, since in listed.items()]})

    @found.get("/models/{model}", response_model=Model, responses=refusals(NOT_FOUND), summary="One model")
    async def model(model: Annotated[str, Path(max_length=MOST_NAME, description="Its name.")]) -> Response:
        """A name that embeddings take."""
        listed = await asyncio.to_thread(engine.models)
        if model not in listed:
            raise Refused(NOT_FOUND, "no such model; /v1/models lists them", "model_not_found", "model")
        return json_response(_model(model, listed[model]))

    return found


def _rendered(model: str, embedded: Embedded, encoding: str) -> bytes:
    vectors = list(as_base64(embedded.vectors_ND)) if encoding == "base64" else embedded.vectors_ND.tolist()
    # one by one: the whole at once would hold the interpreter, and with it every search, for a second
    data = (_json({"object": "embedding", "index": index, "embedding": vector}) for index, vector in enumerate(vectors))
    usage = {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens}
    rest = _json({"object": "list", "model": model, "usage": usage})
    return b"".join([rest[:-1], b',"data":[', b",".join(data), b"]}"])


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _check_width(asked: int | None, width: int) -> None:
    if asked not in (None, width):
        said = f"dimensions {asked}: this model's vectors have {width}, and are not cut"
        raise Refused(BAD, said, "invalid_dimensions", "dimensions")


def _model(name: str, since: str) -> dict[str, Any]:
    try:
        created = int(datetime.fromisoformat(since).timestamp())
    except ValueError:  # of an earlier version's pair
        created = 0
    return {"id": name, "object": "model", "created": created, "owned_by": OWNER}
