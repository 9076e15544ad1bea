"""POST /v1/audio/transcriptions."""

from collections.abc import AsyncIterator
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from student.serve.answers import LANGUAGE, events, segment, transcription, usage
from student.serve.errors import ApiError, bad_parameters
from student.serve.job import Job
from student.serve.service import Asked, Service
from student.use.results import Piece

_LISTS = ("timestamp_granularities", "include")
_FIELDS = 32


class TranscriptionForm(BaseModel):
    """The form's fields but for the file. What would ask for another text than the models write is refused."""

    model_config = ConfigDict(extra="forbid")

    model: str
    response_format: Literal["json", "text", "srt", "vtt", "verbose_json"] = "json"
    stream: bool = False
    language: str | None = None
    temperature: float = 0.0
    timestamp_granularities: list[Literal["word", "segment"]] = []
    chunking_strategy: Literal["auto"] = "auto"
    user: str | None = None

    @field_validator("language")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and value.lower() not in LANGUAGE:
            raise ValueError(f"{value}: the models here write English; give en, or leave it out")
        return value

    @field_validator("temperature")
    @classmethod
    def _zero(cls, value: float) -> float:
        if value != 0:
            raise ValueError("only 0: nothing is drawn by chance here")
        return value

    @field_validator("timestamp_granularities")
    @classmethod
    def _segments(cls, value: list[str]) -> list[str]:
        if "word" in value:
            raise ValueError("word: words have no times here; give segment")
        return value

    @model_validator(mode="after")
    def _together(self) -> "TranscriptionForm":
        if self.stream and self.response_format not in ("json", "text"):
            raise ValueError(f"response_format: {self.response_format} is not streamed; give json, or stream=false")
        return self


def routes(service: Service) -> APIRouter:
    """The route."""
    router = APIRouter()

    @router.post("/v1/audio/transcriptions")
    async def transcriptions(request: Request) -> Response:
        form, content = await _read(request)
        asked = Asked(form.model, content, "file", "transcribe")
        if not form.stream:
            return transcription(await service.whole(request, asked), form.response_format)
        job, pieces = await service.live(request, asked)
        return events(_events(job, pieces, bool(form.timestamp_granularities)))

    return router


async def _events(job: Job, pieces: AsyncIterator[Piece], segments: bool) -> AsyncIterator[dict]:
    whole, number = "", 0
    async for piece in pieces:
        whole += piece.text
        if piece.text:
            yield {"type": "transcript.text.delta", "delta": piece.text}
        if piece.segment and segments:
            yield {"type": "transcript.text.segment", "id": str(number)} | segment(piece.segment)
        number += piece.segment is not None
    yield {"type": "transcript.text.done", "text": whole, "usage": usage(job.seconds), "timing": job.timing}


async def _read(request: Request) -> tuple[TranscriptionForm, bytes]:
    """The form and the file's bytes.

    Raises:
        ApiError: Something is missing, doubled, or not known.
    """
    try:
        fields, content = await _parts(request)
    except Exception as error:  # what reads forms bounds their texts, and nothing else of one is as large as a sound
        if "maximum size" in str(getattr(error, "detail", "")):
            raise _no_file("over 1 MB of text") from None
        raise
    if content is None and "file" in fields:
        raise _no_file("a text")
    given = {}
    for name, values in fields.items():
        if name not in _LISTS and len(values) > 1:
            raise ApiError(400, f"{name}: given twice; give it once", param=name, code="invalid_value")
        given[name] = values if name in _LISTS else values[0]
    try:
        read = TranscriptionForm.model_validate(given)
    except ValidationError as error:
        raise bad_parameters(error) from None
    if content is None:
        raise ApiError(400, "file: missing; send the sound in a multipart form", param="file", code="missing_parameter")
    return read, content


async def _parts(request: Request) -> tuple[dict[str, list[str]], bytes | None]:
    """The fields' texts and the file's bytes; a large file lies in a temporary file without a name meanwhile."""
    fields: dict[str, list[str]] = {}
    content = None
    async with request.form(max_files=1, max_fields=_FIELDS) as form:
        for name, value in form.multi_items():
            if not isinstance(value, str):  # a file
                if name != "file":
                    raise ApiError(400, f"{name}: not a file; the sound is file", param=name, code="unknown_parameter")
                content = await value.read()
            elif value or name == "file":
                fields.setdefault(name.removesuffix("[]"), []).append(value)
    return fields, content


def _no_file(what: str) -> ApiError:
    return ApiError(400, f"file: {what}; send it as a file, with a file name", param="file", code="invalid_value")
