"""POST /v1/chat/completions: a sound, and a question about it or none, which asks for a caption."""

import base64
import binascii
from collections.abc import AsyncIterator
from time import time
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from data.strict_json import loads
from student.serve.answers import events, segment
from student.serve.errors import ApiError, bad_parameters, json_response
from student.serve.job import Job
from student.serve.service import Asked, Service
from student.use.results import Piece, Task
from student.use.usage import Usage

_MARKS = 10_000
"""Commas and brackets that a body may have: each value that is wrong costs memory."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class InputAudio(_Part):
    """A sound file in base64; its format is told by its bytes."""

    data: str
    format: Literal["wav", "mp3", "flac", "ogg", "m4a"]


class AudioPart(_Part):
    """A sound."""

    type: Literal["input_audio"]
    input_audio: InputAudio


class TextPart(_Part):
    """A part of the question."""

    type: Literal["text"]
    text: str


class Message(_Part):
    """What is asked: one sound, and any texts."""

    role: Literal["user"]
    content: list[Annotated[AudioPart | TextPart, Field(discriminator="type")]]
    name: str | None = None

    @field_validator("role", mode="before")
    @classmethod
    def _alone(cls, value: object) -> object:
        if value in ("system", "developer", "assistant", "tool", "function"):
            raise ValueError(f"{value}: the models here are asked once; put all of it into one user message")
        return value

    @field_validator("content", mode="before")
    @classmethod
    def _parts(cls, value: object) -> object:
        if isinstance(value, str):
            raise ValueError("text alone; give a list of parts, one of them input_audio")
        return value

    @field_validator("content")
    @classmethod
    def _one_sound(cls, value: list) -> list:
        count = sum(isinstance(part, AudioPart) for part in value)
        if count != 1:
            raise ValueError(f"{count} sounds; give one part of the type input_audio")
        return value


class StreamOptions(_Part):
    """How it is streamed."""

    include_usage: Literal[False, None] = None
    include_obfuscation: Literal[False, None] = None


class ChatRequest(_Part):
    """A request. What would ask for another text than the models write is refused, what does not matter is not read."""

    model: str
    messages: list[Message] = Field(min_length=1, max_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=0)
    top_p: float | None = Field(None, gt=0, le=1)
    n: Literal[1, None] = None
    modalities: list[Literal["text"]] | None = None
    frequency_penalty: float | None = Field(None, ge=0, le=0)
    presence_penalty: float | None = Field(None, ge=0, le=0)
    logprobs: Literal[False, None] = None
    metadata: Any = None
    prompt_cache_key: Any = None
    safety_identifier: Any = None
    seed: Any = None
    service_tier: Any = None
    store: Any = None
    user: Any = None

    def asked(self, usage: Usage) -> Asked:
        """What it asks of a model.

        Raises:
            ApiError: The sound is not in base64.
        """
        (message,) = self.messages
        (sound,) = (part.input_audio for part in message.content if isinstance(part, AudioPart))
        question = "\n".join(part.text for part in message.content if isinstance(part, TextPart)).strip()
        task, question = _task(question, usage)
        bounds = [most for most in (self.max_tokens, self.max_completion_tokens) if most is not None]
        return Asked(self.model, _decoded(sound.data), "messages", task, question, min(bounds, default=None))


def routes(service: Service) -> APIRouter:
    """The route."""
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def completions(request: Request) -> Response:
        chat = await _read(request)
        asked = chat.asked(service.model(chat.model).usage)
        head = {"id": f"chatcmpl-{uuid4().hex}", "created": int(time()), "model": chat.model}
        if chat.stream:
            job, pieces = await service.live(request, asked)
            return events(_chunks(head, job, pieces), ends="[DONE]")
        result = await service.whole(request, asked)
        message = {"role": "assistant", "content": result.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _reason(result.flags)}
        return json_response({**head, "object": "chat.completion", "choices": [choice]})

    return router


async def _chunks(head: dict, job: Job, pieces: AsyncIterator[Piece]) -> AsyncIterator[dict]:
    flags: set[str] = set()
    number = 0

    def chunk(delta: dict, reason: str | None = None) -> dict:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**head, "object": "chat.completion.chunk", "choices": [choice]}

    yield chunk({"role": "assistant", "content": ""})
    async for piece in pieces:
        if piece.text:
            yield chunk({"content": piece.text})
        if piece.segment:
            yield chunk({}) | {"segment": {"id": number} | segment(piece.segment)}
            number, flags = number + 1, flags | set(piece.segment.flags)
    yield chunk({}, _reason(flags)) | {"timing": job.timing}


def _reason(flags) -> str:
    return "length" if "cut" in flags else "stop"


def _task(question: str, usage: Usage) -> tuple[Task, str]:
    """A model's own instruction is its task, as it was trained; no question asks for a caption."""
    if not question:
        return "caption", ""
    own = {use.instruction.strip(): task for task, use in usage.tasks.items() if task != "ask"}
    return (own[question], "") if question in own else ("ask", question)


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(
            400, "input_audio.data: not base64; encode the file's bytes", param="messages", code="invalid_audio"
        ) from None


async def _read(request: Request) -> ChatRequest:
    try:
        text = (await request.body()).decode("utf-8")
        if sum(map(text.count, ",[{")) > _MARKS:  # of which base64 has none
            raise ValueError("more is in it than a sound and a question")
        given = loads(text)
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(given, dict):
        raise ApiError(400, "the body is not a JSON object", code="invalid_json")
    try:
        return ChatRequest.model_validate(given)
    except ValidationError as error:
        raise bad_parameters(error) from None
