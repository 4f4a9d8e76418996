"""Queries for a dump's texts: pairs from a file of them, and the model that writes such a file."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, field_validator

from pipeline_lib.config.base import StageConfig, operational

QUERIES_VIEW = "queries"  # view of pairs from a file of queries; a document may have many
PROMPT = (
    "Below is {what}. Write {n} short search queries, each of which it answers well: what somebody would type who needs it and"
    " does not know that it exists. Do not use its name. One query a line, no numbers, nothing else.\n\n{text}"
)


class QueriesConfig(StageConfig):
    """Queries from a file, each with the document of the dump that answers it: pairs of the view `queries`."""

    file: str | None = operational(
        None,
        description="File of rows (JSON Lines, CSV or Parquet), which `cpt queries` writes; null: none. Keys hold its content.",
    )
    query: str = Field("query", description="Field that holds the query.", min_length=1)
    document: str = Field(
        "document",
        description="Field that names the document: the id of a pair, the y_hash of a text, PATH::NAME, or a document's id or"
        " path.",
        min_length=1,
    )
    max_query_words: int = Field(64, description="Longest query, which goes to quarantine beyond it (words).", ge=1)
    max_document_bytes: int = Field(
        20_000, description="Longest document that a row may name as a whole; a longer one goes to quarantine (bytes).", gt=0
    )


class QueryWriterConfig(StageConfig):
    """Writing of queries by a language model behind an endpoint that speaks OpenAI's chat completions."""

    endpoint: str = Field(description="URL up to /v1, such as http://127.0.0.1:8000/v1.", pattern=r"^https?://")
    model: str = Field(description="Model, by the endpoint's name for it.", min_length=1)
    prompt: str = Field(
        PROMPT, description="Prompt; {n}, {what} (a function or a passage) and {text} are filled in.", pattern=r"\{text\}"
    )
    queries_per_text: int = Field(2, description="Queries asked for a text.", ge=1, le=20)
    temperature: float = Field(0.7, description="Temperature of the model.", ge=0, le=2)
    max_text_characters: int = Field(
        6_000, description="Beginning of a text that is shown to the model (characters).", ge=100, le=1_000_000
    )
    max_query_words: int = Field(64, description="Longest query; an answer with a longer one is set aside (words).", ge=1)
    limit: int | None = Field(None, description="Texts asked about, a fair sample of them; null: all.", ge=1)
    concurrency: int = operational(4, description="Requests at a time.", ge=1, le=256)
    requests_per_minute: float | None = operational(None, description="Most requests of a minute; null: no bound.", gt=0)
    attempts: int = operational(5, description="Tries of a request that fails in a way that may pass.", ge=1, le=20)
    backoff_seconds: float = operational(
        1.0, description="Wait before the second try, which doubles with each further one (seconds).", ge=0
    )
    wait_seconds: float = operational(120.0, description="Longest time of a request, from first to last byte (seconds).", gt=0)
    key_variable: str = operational(
        "OPENAI_API_KEY", description="Variable of the environment that holds the key; unset there: none is sent."
    )
    price_in: float | None = operational(None, description="Price of a million tokens that go in, for the estimate.", ge=0)
    price_out: float | None = operational(None, description="Price of a million tokens that come out, likewise.", ge=0)

    @field_validator("endpoint")
    @classmethod
    def _endpoint_is_an_address(cls, endpoint: str) -> str:
        parts = urlsplit(endpoint)  # a bracket or a port that is none is its own error
        if not parts.hostname or not endpoint.isprintable() or " " in endpoint or parts.port == 0:
            raise ValueError("no address, expected one such as http://127.0.0.1:8000/v1")
        if parts.query or parts.fragment:
            raise ValueError("something behind ? or #, expected a URL up to /v1: the key belongs into the environment")
        return endpoint
