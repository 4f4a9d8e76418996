"""Refusals and their one shape, which is OpenAI's: {"error": {message, type, param, code}}."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field
from starlette.responses import Response

HEADERS = {  # of every answer: an answer is data, and no page of elsewhere is to run, frame, keep or guess it
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
BAD, UNAUTHORISED, FORBIDDEN, NOT_FOUND, SLOW_BODY, CONFLICT, TOO_LARGE, TOO_MANY, FAULT, BUSY, TIMEOUT = (
    *(400, 401, 403, 404, 408, 409, 413, 429, 500, 503, 504),
)
_SAID = {
    BAD: "The request is not what it should be; the message names what is wrong.",
    UNAUTHORISED: "The token is missing or wrong.",
    FORBIDDEN: "The Host or Origin header is that of another site.",
    SLOW_BODY: "The request did not arrive in time.",
    TOO_LARGE: "The body is larger than is taken.",
    TOO_MANY: "More requests of one client than its rate; Retry-After says when to come again.",
    BUSY: "More requests at once than are worked on, or the service stops; Retry-After says when to come again.",
    TIMEOUT: "The answer took longer than an answer may take.",
}


class Fault(BaseModel):
    """What went wrong."""

    message: str = Field(description="What is wrong, and what to do.")
    type: str = Field(description="invalid_request_error, rate_limit_error or server_error.")
    param: str | None = Field(description="The parameter that is wrong; null: none in particular.")
    code: str | None = Field(description="A word for programs; null: none.")


class ErrorAnswer(BaseModel):
    """Every refusal of the service."""

    error: Fault


class Refused(Exception):
    """A request that gets no answer but the reason.

    Attributes:
        status: of HTTP.
        code: a word for programs and for the count of refusals.
        param: the parameter that is wrong.
    """

    def __init__(
        self, status: int, message: str, code: str, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """The refusal as it is sent."""
        kind = "server_error" if self.status >= FAULT else "invalid_request_error"
        kind = "rate_limit_error" if self.status == TOO_MANY else kind
        fault = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return json_response({"error": fault}, self.status, self.headers)


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value as JSON in UTF-8; what is no character is replaced, what is no number is a fault of ours."""
    body = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(body.encode(errors="replace"), status, dict(headers or {}), "application/json")


def refusals(*more: int) -> dict[int | str, dict[str, Any]]:
    """What the OpenAPI says of a route's refusals: those of every route, and these."""
    named = (BAD, UNAUTHORISED, FORBIDDEN, SLOW_BODY, TOO_LARGE, TOO_MANY, BUSY, TIMEOUT, *more)
    said = {NOT_FOUND: "There is nothing of that name.", CONFLICT: "Another index answers by now."} | _SAID
    listed: dict[int | str, dict[str, Any]] = {status: {"model": ErrorAnswer, "description": said[status]} for status in named}
    return listed | {"4XX": {"model": ErrorAnswer, "description": "Any other refusal, in the same shape."}}
