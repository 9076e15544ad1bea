"""What is wrong with a request, in the form that OpenAI's clients read."""

import json

from fastapi import Response
from pydantic import ValidationError

from data.errors import InputError, one_line

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """Ends a request.

    Args:
        status: Of HTTP.
        message: A line: what is wrong and what to do. It may quote what was sent.
        param: The parameter that it is about.
        code: A word for programs.
        retry_s: Seconds after which to ask again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_s = status, one_line(message), param, code, retry_s

    @property
    def headers(self) -> dict[str, str]:
        """Those of its response."""
        found = {} if self.retry_s is None else {"retry-after": str(self.retry_s)}
        return found | ({"www-authenticate": "Bearer"} if self.status == 401 else {})

    @property
    def body(self) -> dict:
        """OpenAI's error object."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def json_response(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON in ASCII: whatever a client sent can be said back to it."""
    return Response(json.dumps(body), status, headers, "application/json")


def error_response(error: ApiError) -> Response:
    """The response to a request that cannot be answered."""
    return json_response(error.body, error.status, error.headers)


def internal() -> ApiError:
    """A fault of the server itself; its log says which."""
    return ApiError(500, "the server could not do this; its log says why", code="internal_error")


def bad_sound(error: InputError, param: str) -> ApiError:
    """A sound that cannot be heard."""
    return ApiError(400, str(error), param=param, code="invalid_audio")


def bad_parameters(error: ValidationError) -> ApiError:
    """The first thing that a request's parameters do not keep to; an unknown one first, as it is why others miss."""
    first = min(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    param = one_line(".".join(map(str, first["loc"]))) or None
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"{param}: not known here; leave it out", param=param, code="unknown_parameter")
    if first["type"] == "missing":
        return ApiError(400, f"{param}: missing; give it", param=param, code="missing_parameter")
    said = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
    return ApiError(400, f"{param}: {said}" if param else said, param=param, code="invalid_value")
