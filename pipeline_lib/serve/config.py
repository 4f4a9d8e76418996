"""Options of the search service, and who may reach it."""

from __future__ import annotations

import ipaddress
import os
import socket

from pydantic import Field, model_validator

from pipeline_lib.config.base import StageConfig
from pipeline_lib.errors import UserError
from pipeline_lib.index.rows import CACHE_BYTES
from pipeline_lib.runtime.machine import cores

TOKEN = "CPT_SERVE_TOKEN"  # noqa: S105 - the name of a variable
LEAST_TOKEN = 16  # characters, where others than this machine can guess
RATE_ELSEWHERE = 50.0  # requests a second of one client, where it is not this machine


class ServeConfig(StageConfig):
    """The search service: where it listens, what it answers with, and its limits."""

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description=f"Address to listen at. Any but loopback needs a token in the environment, {TOKEN}.",
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen at; 0: a free one, which is printed.")
    name: str = Field(
        "", description="Name of the model that is searched; empty: the only one, or the last that a person published."
    )
    artifacts: str = Field("", description="Bucket whose models are served, s3://bucket/prefix; empty: this machine's.")
    hosts: tuple[str, ...] = Field(
        (),
        description="Names that a request's Host header may have beside the address itself, against DNS rebinding. With none,"
        " loopback's names alone where it listens on loopback, and any where a token guards it.",
    )
    int8: bool = Field(False, description="Embed with the models' 8-bit weights, if exported with `export.quantize=int8`.")
    max_k: int = Field(100, ge=1, le=10_000, description="Hits of one search, at most.")
    max_explained: int = Field(
        20, ge=1, le=1000, description="Hits of one search that are explained, and neighbours of one text, at most."
    )
    max_query_characters: int = Field(8_192, ge=1, description="Characters of a query, at most.")
    max_texts: int = Field(2_048, ge=1, description="Texts of one request for embeddings, at most.")
    max_text_characters: int = Field(65_536, ge=1, description="Characters of a text to embed, at most.")
    max_body_bytes: int = Field(4 << 20, ge=1024, description="Bytes of a request's body, at most.")
    max_facets: int = Field(
        200, ge=1, le=10_000, description="Values of each filter that the page offers, the commonest first."
    )
    max_models: int = Field(4, ge=1, description="Models of other names that embeddings keep in memory at once.")
    text_cache_bytes: int = Field(
        CACHE_BYTES, ge=0, description="Bytes of decoded texts that are kept in memory for the next hits, at most; 0: none."
    )
    map_points: int = Field(
        20_000, ge=1, le=100_000, description="Texts that the map shows, at most: of a larger index so many, evenly spread."
    )
    map_sample: int = Field(
        3_000,
        ge=1,
        le=20_000,
        description="Texts of the map that are laid out by their vectors, at most; the others are placed among them. The time"
        " that a map takes to make, once for each index, grows with it.",
    )
    against: str = Field(
        "",
        max_length=256,
        description="What the page and requests without one compare with: the number of an event of the name's history, another"
        " name, or RUN/LABEL of a candidate; empty: the newest candidate or earlier pair.",
    )
    against_idle_seconds: float = Field(
        300.0, gt=0, description="Seconds without a comparison after which the other pair is closed, and its memory is free."
    )
    max_batch: int = Field(32, ge=1, le=1024, description="Queries that are embedded in one pass, at most.")
    batch_wait_ms: float = Field(
        3.0, ge=0, le=1000, description="Milliseconds that a query waits for others under way to be embedded with it."
    )
    threads: int | None = Field(None, ge=1, le=1024, description="Threads that search; unset: the machine's cores.")
    max_in_flight: int = Field(
        256,
        ge=1,
        description="Requests that are worked on or wait at once, at most half of them for embeddings and comparisons; more are"
        " answered 503 with Retry-After.",
    )
    max_connections: int = Field(
        1_000,
        ge=2,
        description="Open connections at once. One more takes the place of the one that has been idle longest; if none is, its"
        " requests are answered 503.",
    )
    rate_per_second: float | None = Field(
        None,
        gt=0,
        description="Requests a second of one client address, over time; more are answered 429 with Retry-After. Unset: no"
        f" bound on loopback, {RATE_ELSEWHERE:.0f} elsewhere.",
    )
    rate_burst: int = Field(100, ge=1, description="Requests of one client at once, before its rate holds.")
    timeout_seconds: float = Field(10.0, gt=0, description="Seconds that an answer may take; then it is 504.")
    embedding_seconds: float = Field(
        60.0,
        gt=0,
        description="The same for requests for embeddings, of up to `max_texts` texts, and for comparisons of two models.",
    )
    receive_seconds: float = Field(
        10.0,
        gt=0,
        description="Seconds for a request's header, and for its body, to arrive, and for some of its answer to be read.",
    )
    keep_alive_seconds: int = Field(30, ge=1, description="Seconds that a connection stays open between two requests.")
    stop_seconds: int = Field(10, ge=0, description="Seconds that requests under way have to finish when it is stopped.")
    follow_seconds: float = Field(
        0.2, gt=0, description="Seconds between two looks for another pair of model and index under the name."
    )

    @model_validator(mode="after")
    def _fits(self) -> ServeConfig:
        if self.max_query_characters > self.max_body_bytes:
            raise ValueError("max_query_characters is more than max_body_bytes: no such query arrives")
        return self

    @property
    def n_threads(self) -> int:
        """Threads that search."""
        return self.threads or cores()

    @property
    def rate(self) -> float | None:
        """Requests a second of one client; None: without bound."""
        return self.rate_per_second or (None if is_loopback(self.host) else RATE_ELSEWHERE)


def is_loopback(host: str) -> bool:
    """True if nobody but this machine reaches that address.

    Raises:
        UserError: there is no such address.
    """
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host}: no address of this machine ({error}); 127.0.0.1 is this machine alone") from error
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in found)


def read_token(host: str) -> str:
    """The token that requests have to show; empty: none, which loopback alone may do without.

    Raises:
        UserError: others than this machine reach the address, and there is no token or one that can be guessed.
    """
    token = os.environ.get(TOKEN, "").strip()
    if not token.isascii() or any(character.isspace() or not character.isprintable() for character in token):
        raise UserError(f"{TOKEN}: expected letters, digits and signs of ASCII without spaces, which a header can carry")
    if not is_loopback(host) and len(token) < LEAST_TOKEN:
        said = f"has {len(token)} characters, and can be guessed" if token else "is not set, and anybody could search"
        raise UserError(
            f"--host {host}: others than this machine reach it, but {TOKEN} {said}; set it to {LEAST_TOKEN} characters or"
            " more: export " + TOKEN + '="$(openssl rand -hex 32)"'
        )
    return token
