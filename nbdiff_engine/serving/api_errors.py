"""Errors in the shape of OpenAI's API: {"error": {"message", "type", "param", "code"}}.

An error about one setting has "nbdiff" beside "error": {"field", "value", "rule"}, its parts.
"""

from typing import Any

from nbdiff_engine.errors import NBDiffError, PromptError, first_problem
from nbdiff_engine.serving.scheduler import RequestQueueFullError, ServerStoppedError


class ApiError(Exception):
    """An answer that is an error. status: of HTTP. kind, param, code: as in OpenAI's API."""

    parts: dict[str, Any] | None = None  # of an error about one setting

    def __init__(self, status: int, message: str, kind: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.kind, self.param, self.code = status, kind, param, code

    @property
    def body(self) -> dict[str, Any]:
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error} if self.parts is None else {"error": error, "nbdiff": self.parts}

    @classmethod
    def of(cls, error: Exception) -> "ApiError":
        """The answer for an exception of the engine or the scheduler."""
        if isinstance(error, ApiError):
            return error
        if isinstance(error, RequestQueueFullError):
            return cls(429, str(error), "rate_limit_error", code="queue_full")
        if isinstance(error, ServerStoppedError):
            return cls(503, str(error), "server_error", code="server_stopped")
        if isinstance(error, NBDiffError):
            code = "invalid_prompt" if isinstance(error, PromptError) else None
            param = ".".join(map(str, error.field)) or None
            found = cls(400, str(error), "invalid_request_error", param, code)
            if error.field:
                found.parts = {"field": error.field, "value": error.value, "rule": error.rule}
            return found
        return cls(500, str(error), "server_error")

    @classmethod
    def of_body(cls, errors: list[dict[str, Any]]) -> "ApiError":
        """The answer for a body that cannot be read. errors: of pydantic, each with a place that begins with "body"."""
        problem = errors[0]
        place = [str(part) for part in problem["loc"] if part != "body"]
        if problem["type"] == "json_invalid":
            return cls(400, "The body of the request is not JSON.", "invalid_request_error")
        if not place and problem["type"] != "value_error":
            return cls(400, "The body of the request is not a JSON object.", "invalid_request_error")
        if problem["type"] == "extra_forbidden":
            sentence = f"{'.'.join(place)!r} is not supported by this server; leave it out"
        else:
            sentence = first_problem(_Problems([{**problem, "loc": tuple(place)}]))
        return cls(400, sentence.rstrip(".") + ".", "invalid_request_error", param=".".join(place) or None)


class _Problems:
    """Problems as `first_problem` reads them of a pydantic exception."""

    def __init__(self, problems: list[dict[str, Any]]):
        self._problems = problems

    def errors(self, include_url: bool = False) -> list[dict[str, Any]]:
        return self._problems
