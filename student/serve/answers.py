"""Results as OpenAI's API says them."""

import json
import zlib
from collections.abc import AsyncIterator

from fastapi import Response
from fastapi.responses import PlainTextResponse, StreamingResponse

from student.serve.errors import ApiError, internal, json_response
from student.use.formats import formatted
from student.use.results import Result, Segment

LANGUAGE = ("en", "english")
"""What the recipes here teach, as ISO 639-1 and in words."""


def transcription(result: Result, how: str) -> Response:
    """A transcript in one of `response_format`'s."""
    if how == "json":
        return json_response({"text": result.text, "usage": usage(result.seconds)})
    if how == "verbose_json":
        return json_response(
            {
                "task": "transcribe",
                "language": LANGUAGE[1],
                "duration": round(result.seconds, 3),
                "text": result.text,
                "segments": [{"id": i} | segment(of) for i, of in enumerate(result.segments)],
                "flags": list(result.flags),
                "usage": usage(result.seconds),
            }
        )
    return PlainTextResponse(formatted(result, how), headers={"x-content-type-options": "nosniff"})


def usage(seconds: float) -> dict:
    """What was heard."""
    return {"type": "duration", "seconds": round(seconds, 3)}


def segment(of: Segment) -> dict:
    """A segment, but for its number; what the models do not tell (tokens, no_speech_prob) is left out."""
    content = of.text.encode("utf-8", "replace")
    return {
        "start": round(of.start_s, 3),
        "end": round(of.end_s, 3),
        "seek": round(100 * of.start_s),  # in Whisper's frames of 10 ms
        "text": of.text,
        "avg_logprob": round(of.logp, 4),
        "compression_ratio": round(len(content) / len(zlib.compress(content)), 3),
        "temperature": 0.0,
        "flags": list(of.flags),
    }


def events(bodies: AsyncIterator[object], ends: str = "") -> Response:
    """Server-sent events, each a JSON object; what goes wrong on the way is said as the last one.

    Args:
        bodies: The objects.
        ends: A line that says that nothing follows.
    """

    async def lines() -> AsyncIterator[str]:
        try:
            async for body in bodies:
                yield f"data: {json.dumps(body)}\n\n"
            if ends:
                yield f"data: {ends}\n\n"
        except ApiError as error:
            yield f"data: {json.dumps(error.body)}\n\n"
        except Exception:
            yield f"data: {json.dumps(internal().body)}\n\n"
            raise

    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(lines(), media_type="text/event-stream", headers=headers)
