"""The page at /: plain HTML, CSS and JavaScript, all of it from this folder, and no other host asked for anything."""

from pathlib import Path

from fastapi import APIRouter, Response

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def _read() -> dict[str, tuple[bytes, str]]:
    files = sorted(file for file in Path(__file__).parent.iterdir() if file.suffix in _TYPES)
    return {
        "/" if file.name == "index.html" else f"/page/{file.name}": (file.read_bytes(), _TYPES[file.suffix])
        for file in files
    }


FILES = _read()
"""By path: content and type."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


def routes() -> APIRouter:
    """A route for each file."""
    router = APIRouter()
    for path in FILES:
        router.add_api_route(path, _answer(path), methods=["GET", "HEAD"])
    return router


def _answer(path: str):
    async def answer() -> Response:
        content, kind = FILES[path]
        return Response(content, headers=HEADERS, media_type=kind)

    return answer
