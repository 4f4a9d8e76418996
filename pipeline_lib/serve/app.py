"""The service as an ASGI application: its routes behind the gate, its page, health and metrics."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import compile_path

from pipeline_lib.serve import embeddings, looking, searching
from pipeline_lib.serve.batching import Batcher
from pipeline_lib.serve.config import ServeConfig
from pipeline_lib.serve.engine import Engine, Question
from pipeline_lib.serve.figures import METRICS_TYPE, Figures
from pipeline_lib.serve.gate import Gate
from pipeline_lib.serve.replies import BAD, BUSY, FAULT, Refused, json_response, refusals

VERSION = "1"
NOT_ALLOWED = 405
NO_OBJECT = ("model_attributes_type", "dict_type", "missing")  # pydantic's words for a body that is no object, or is not there
PAGES = {"/": "Search", "/map": "Map", "/neighbours": "Neighbours", "/compare": "Compare"}
POLICY = (
    *("default-src 'none'", "connect-src 'self'", "img-src data:"),
    *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
)
ABOUT = """Search over the functions and passages of a published index, embeddings of its model, and ways to look at both.

Errors have one shape, which is OpenAI's. Where the service has a token, requests show it as `Authorization: Bearer TOKEN`."""


class Served(BaseModel):
    """The pair of model and index that answers."""

    name: str
    event: int = Field(description="The event of the registry that put it in use.")
    since: str
    model_digest: str
    index_digest: str
    texts: int = Field(description="Functions and passages of the index.")
    dimensions: int = Field(description="Numbers of a vector.")


class Health(BaseModel):
    """Whether the service lives, and takes requests."""

    status: str = Field(description="ok: it lives.")
    ready: bool = Field(description="false: it stops.")
    served: Served


def make_app(config: ServeConfig, engine: Engine, token: str) -> tuple[FastAPI, Gate]:
    """The application, and the gate around it, which is what a server runs."""
    app = FastAPI(
        title="Search",
        version=VERSION,
        description=ABOUT,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        lifespan=_following(engine),
        dependencies=[Security(HTTPBearer(auto_error=False, description="The gate checks it."))] if token else [],
    )
    gate = Gate(app, config, token, engine.figures)
    held: list[Batcher[Question, bytes]] = []

    def batcher() -> Batcher[Question, bytes]:
        if not held:
            wait_seconds = config.batch_wait_ms / 1000
            under_way = lambda: gate.in_flight[searching.PATH]  # noqa: E731
            held.append(Batcher(engine.answer, engine.pool, config.n_threads, config.max_batch, wait_seconds, under_way))
            held[0].watch(engine.figures)
        return held[0]

    app.include_router(searching.router(config, engine, batcher))
    app.include_router(looking.router(config, engine))
    app.include_router(embeddings.router(config, engine))
    _add_upkeep(app, gate, engine)
    _add_pages(app)
    _add_faults(app, engine.figures)
    return app, gate


def _following(engine: Engine) -> Any:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        engine.figures.ready.set(1)
        yield
        engine.figures.ready.set(0)
        engine.stop()

    return lifespan


def _add_upkeep(app: FastAPI, gate: Gate, engine: Engine) -> None:
    def health() -> dict[str, Any]:
        return {"status": "ok", "ready": not gate.is_stopping, "served": engine.served()}

    @app.get("/healthz", response_model=Health, tags=["upkeep"], summary="Liveness", responses=refusals())
    async def healthz() -> Response:
        """Answered as long as the process lives, with what it serves; needs no token."""
        return json_response(health())

    @app.get("/healthz/ready", response_model=Health, tags=["upkeep"], summary="Readiness", responses=refusals())
    async def ready() -> Response:
        """The same, and 503 where requests are not taken any more."""
        return json_response(health(), BUSY if gate.is_stopping else 200)

    @app.get(
        "/metrics",
        tags=["upkeep"],
        summary="Metrics",
        response_class=Response,
        responses=refusals() | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        """Counts, durations and sizes for Prometheus."""
        return Response(engine.figures.page(), headers={"Content-Type": METRICS_TYPE})


def _add_pages(app: FastAPI) -> None:
    for path, title in PAGES.items():
        text = page_text(title)
        policy = "; ".join([*POLICY, f"script-src {_digests(text, 'script')}", f"style-src {_digests(text, 'style')}"])
        app.add_api_route(
            path,
            partial(_page, text, policy),
            tags=["pages"],
            summary=title,
            description="A page of the service; it loads nothing from elsewhere.",
            name=title.lower(),
            response_class=Response,
            responses=refusals() | {200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
        )


async def _page(text: str, policy: str) -> Response:
    return HTMLResponse(text, headers={"Content-Security-Policy": policy})


def page_text(title: str) -> str:
    """A page: what all have in common around its own content, style and script."""
    read = {path.name: path.read_text(encoding="utf-8") for path in files("pipeline_lib.serve").joinpath("pages").iterdir()}
    own = read[f"{title.lower()}.html"]
    own_parts = {tag: "".join(re.findall(rf"<{tag}>\n(.*?)</{tag}>", own, re.DOTALL)) for tag in ("style", "script")}
    parts = {"STYLE": read["common.css"] + own_parts["style"], "SCRIPT": read["common.js"] + own_parts["script"]}
    parts |= {"TITLE": title, "CONTENT": re.sub(r"<(style|script)>.*?</\1>\n", "", own, flags=re.DOTALL)}
    return re.sub("|".join(parts), lambda name: parts[name[0]], read["frame.html"])


def _digests(page: str, tag: str) -> str:
    """The digests by which a policy allows the scripts or styles that stand in a page, and no others."""
    inside = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in inside)


def _add_faults(app: FastAPI, figures: Figures) -> None:
    def told(refusal: Refused) -> Response:
        figures.refused.labels(refusal.code).inc()
        return refusal.response()

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return told(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]  # what was given is not repeated: it may be no JSON, and is as long as it is
        place = [str(part) for part in first["loc"][1:]]
        said = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "json_invalid":  # its place is a character's, and no parameter's
            place, said = [], f"no JSON from its character {place[0]} on: {first['ctx']['error']}"
        elif first["type"] in NO_OBJECT and not place:
            said = "a JSON object is expected, sent with Content-Type: application/json"
        return told(Refused(BAD, f"{'.'.join(place) or 'the body'}: {said}", "invalid_request", place[0] if place else None))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == NOT_ALLOWED:  # a route knows its own method alone
            paths = app.openapi()["paths"].items()
            alike = [method for path, methods in paths if compile_path(path)[0].match(request.url.path) for method in methods]
            headers["Allow"] = ", ".join(sorted(method.upper() for method in alike))
        return told(Refused(error.status_code, str(error.detail), "http", headers=headers))

    @app.exception_handler(Exception)
    async def fault(_: Request, error: Exception) -> Response:
        return told(Refused(FAULT, "a fault of the service; its log has it", "internal"))
