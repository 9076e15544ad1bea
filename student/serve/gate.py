"""What stands before every route: the key, the origin, the bounds of bodies and of the queue, and what is counted.

A body is not read before its request has a place, and never further than its bound. Behind it, `request.state.began` is
when the request came, and what is put into `request.state.ends` is called when it is over, however it ended.
"""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from time import monotonic
from typing import Any

from student.serve.errors import ApiError, error_response
from student.serve.metrics import Metrics
from student.serve.page import FILES
from student.serve.places import Places
from student.serve.settings import ServeSettings

ROUTES = ("/v1/audio/transcriptions", "/v1/chat/completions", "/v1/models", "/health", "/metrics")
"""Those that are counted by name."""
_WORK = ROUTES[:2]
_OPEN = ("/health", *FILES)
"""The page too: it holds nothing, and asks for the key itself."""
_BODY_S = 120.0
"""A body has to come within this time: it holds a place."""
_SEND_S = 60.0
"""And what is sent has to be taken."""
_HERE = ("localhost", "127.0.0.1", "[::1]")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class Gate:
    """Lets requests in, or answers them itself.

    Args:
        app: What is behind it.
        settings: Of the server.
        places: The queue's.
        metrics: Get routes, status and times.
    """

    def __init__(self, app: Application, settings: ServeSettings, places: Places, metrics: Metrics) -> None:
        self._app, self._settings, self._places, self._metrics = app, settings, places, metrics

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, works = monotonic(), scope["method"] == "POST" and scope["path"] in _WORK
        ends: list[Callable[[], None]] = []
        scope.setdefault("state", {}).update(began=began, ends=ends)
        body, answer = _Body(receive, self._settings.max_bytes), _Answer(send)
        try:
            self._admit(scope)
            if works:
                _require_own_page(dict(scope["headers"]))
                self._places.take()
            try:
                await self._app(scope, body, answer)
            finally:
                if works:
                    self._places.give_back()
        except ApiError as error:
            await error_response(error)(scope, body, answer)
        finally:
            for end in ends:
                end()
            self._count(scope["path"], answer.status, monotonic() - began)

    def _admit(self, scope: MutableMapping[str, Any]) -> None:
        """Refuses what need not be read.

        Raises:
            ApiError: The key is missing, the host is another one, or the body is too large.
        """
        headers = dict(scope["headers"])
        if scope["path"] not in _OPEN:
            self._require_key(headers.get(b"authorization", b""))
        self._require_host(headers.get(b"host", b"").decode("latin-1"))
        stated = headers.get(b"content-length", b"0")
        if stated.isdigit() and int(stated[:20]) > self._settings.max_bytes:
            raise too_large(self._settings.max_bytes)

    def _require_key(self, given: bytes) -> None:
        key = self._settings.api_key
        if key is None:
            return
        scheme, _, brought = given.partition(b" ")
        if not hmac.compare_digest(brought.strip(), key.encode()) or scheme.lower() != b"bearer":
            raise ApiError(401, "give the server's key: Authorization: Bearer KEY", code="invalid_api_key")

    def _require_host(self, host: str) -> None:
        """A page of another host whose name was made to lead here is not heard (DNS rebinding)."""
        if not self._settings.loopback or self._settings.api_key is not None:
            return
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name and name.lower() not in (*_HERE, self._settings.host.lower()):
            raise ApiError(403, f"host {host}: this server answers to localhost alone", code="wrong_host")

    def _count(self, path: str, status: int, seconds: float) -> None:
        route = path if path in ROUTES else "other"
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.latency.labels(route).observe(seconds)


def _require_own_page(headers: dict[bytes, bytes]) -> None:
    """Refuses what a page of another origin sends: a browser sends forms and plain text without asking for leave.

    A key does not change that. Where a browser says which site asks (`Sec-Fetch-Site`, which no page can set), it is
    believed; else the page's origin is compared with the host that was asked. A program that is no browser sends
    neither.

    Raises:
        ApiError: Another origin asks.
    """
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if site is not None:
        own = site in (b"same-origin", b"none")
    else:
        own = origin is None or _same_place(origin, headers.get(b"host", b""))
    if not own:
        shown = "another origin" if origin is None else f"origin {origin[:100].decode('latin-1')}"
        raise ApiError(403, f"{shown}: ask from the server's own page, or from no page", code="wrong_origin")


def _same_place(origin: bytes, host: bytes) -> bool:
    """Whether an origin is that of a host; not its scheme, which a proxy with TLS changes."""
    scheme, _, place = origin.lower().partition(b"://")
    usual = {b"http": b":80", b"https": b":443"}.get(scheme)
    return bool(usual and place) and place.removesuffix(usual) == host.lower().removesuffix(usual)


def too_large(limit: int) -> ApiError:
    """A body over the bound."""
    return ApiError(
        413, f"a body over {limit / 1e6:g} MB, which is the most here; cut the sound", code="body_too_large"
    )


class _Body:
    """A request's body, up to its bound."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._limit, self._left_s = receive, limit, _BODY_S
        self.read, self.whole = 0, False

    async def __call__(self) -> Message:
        """The next part; once it was read, that the client has gone.

        Raises:
            ApiError: It is too large, or does not come.
        """
        if self.whole:
            return await self._receive()
        began = monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), max(self._left_s, 0.01))
        except asyncio.TimeoutError:
            raise ApiError(408, f"the body did not come within {_BODY_S:g} s", code="body_too_slow") from None
        self._left_s -= monotonic() - began
        if message["type"] == "http.disconnect":
            raise ApiError(499, "the client has gone", code="client_gone")
        self.read += len(message.get("body", b""))
        self.whole = not message.get("more_body", False)
        if self.read > self._limit:
            raise too_large(self._limit)
        return message


class _Answer:
    """A response on its way."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 499
        """As nginx counts those whose client has gone before the answer."""

    async def __call__(self, message: Message) -> None:
        """The next part."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await asyncio.wait_for(self._send(message), _SEND_S)
