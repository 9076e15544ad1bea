"""The models of a server, and a request's sound brought to one of them."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import time

from fastapi import Request

from data.errors import InputError
from data.sound.source import SoundBytes
from student.serve.about import about
from student.serve.batcher import Batcher
from student.serve.errors import ApiError
from student.serve.job import Job
from student.serve.metrics import Metrics
from student.serve.places import Places
from student.serve.settings import ServeSettings
from student.use.audio_lm import AudioLM
from student.use.results import Piece, Result, Task


@dataclass(frozen=True)
class Asked:
    """What a request wants of a model.

    Attributes:
        model: Its name.
        content: The sound file's bytes.
        param: The parameter that they came in.
        task: Of use.
        question: What is asked.
        most_tokens: Of the text, fewer than the model's own bound.
    """

    model: str
    content: bytes
    param: str
    task: Task
    question: str = ""
    most_tokens: int | None = None


class Service:
    """Models by name, each with what writes its batches.

    Args:
        models: By the names that clients give.
        settings: Of the server.
    """

    def __init__(self, models: Mapping[str, AudioLM], settings: ServeSettings) -> None:
        self.models, self.settings = dict(models), settings
        # Once, while the folders are those that were loaded: a later export to the same place is another model.
        self.about = {name: about(model) for name, model in self.models.items()}
        self.metrics, self.places, self.created = Metrics(), Places(settings.max_queue), int(time())
        self.metrics.queue_is(lambda: self.places.taken)
        self._batchers = {name: Batcher(name, model, self.metrics, self._took) for name, model in self.models.items()}

    def _took(self, seconds: float) -> None:
        self.places.wait_s = seconds

    def start(self) -> None:
        """Begins to write."""
        for batcher in self._batchers.values():
            batcher.start()

    def stop(self) -> None:
        """Ends, also what is being written."""
        for batcher in self._batchers.values():
            batcher.stop()

    def model(self, name: str) -> AudioLM:
        """A model by its name.

        Raises:
            ApiError: There is none of it.
        """
        if name not in self.models:
            raise ApiError(
                404, f"model {name}: not here; there is {', '.join(self.models)}", param="model", code="model_not_found"
            )
        return self.models[name]

    async def whole(self, request: Request, asked: Asked) -> Result:
        """What is written of a sound.

        Raises:
            ApiError: It cannot be heard, or the client has gone.
        """
        return await _unless_gone(request, self._job(request, asked, live=False).result())

    async def live(self, request: Request, asked: Asked) -> tuple[Job, AsyncIterator[Piece]]:
        """What is written of a sound, as it is written; its first piece is there, or there is none.

        Raises:
            ApiError: It cannot be heard, or the client has gone.
        """
        job = self._job(request, asked, live=True)
        pieces = job.pieces()
        first = await _unless_gone(request, anext(pieces, None))
        return job, _chained(first, pieces)

    def _job(self, request: Request, asked: Asked, live: bool) -> Job:
        model = self.model(asked.model)
        try:
            use = model.usage.asked(asked.task, asked.question)
        except InputError as error:
            raise ApiError(400, str(error), param="model", code="task_not_learnt") from None
        if asked.most_tokens is not None:
            use = use.model_copy(update={"max_new_tokens": min(asked.most_tokens, use.max_new_tokens)})
        # A name that a client sent is nowhere used: formats are told by their bytes.
        sound = SoundBytes(asked.content, "sound")
        job = Job(sound, asked.task, use, live, self.settings.max_seconds, request.state.began, asked.param)
        self._batchers[asked.model].add(job)
        request.state.ends.append(lambda: self._batchers[asked.model].leave(job))
        return job


async def _chained(first: Piece | None, others: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
    if first is not None:
        yield first
        async for piece in others:
            yield piece


async def _unless_gone(request: Request, work) -> object:
    """What is waited for.

    Raises:
        ApiError: The client has gone before it was there.
    """
    work, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ApiError(499, "the client has gone", code="client_gone")
        return work.result()
    finally:
        work.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def names_of(folders: list[Path]) -> dict[str, Path]:
    """What clients call each model: the run of `runs/NAME/model`, or a folder's own name.

    Raises:
        InputError: Two have one name.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        there = folder.resolve()
        name = there.parent.name if there.name == "model" else there.name
        if name in found:
            raise InputError(f"{found[name]} and {folder}: both would be called {name}; rename the folder of one")
        found[name] = folder
    return found
