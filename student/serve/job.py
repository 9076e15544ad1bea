"""One request's sound on its way: its stretches to the model, and what is written of them back to the request."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from data.rows.row import Mono
from data.sound.audio import SAMPLE_RATE
from data.sound.source import SoundBytes
from data.sound.stream import mono_blocks, seconds_of
from student.serve.errors import ApiError
from student.use.results import SEPARATOR, Piece, Result, Segment, Task, result_of
from student.use.stretches import Stretch, speech, windows
from student.use.usage import TaskUse


@dataclass(eq=False)
class Job:
    """A sound that is being heard. It is made in the event loop of its request; others hand it pieces from threads.

    Attributes:
        sound: In memory.
        task: Of use.
        use: What the model is asked.
        live: Whether the text is wanted as it is written.
        max_seconds: No longer sound is heard.
        began: When the request came, of the monotonic clock.
        param: The request's parameter that the sound came in.
        ready: Stretches that wait for the model.
        fed: Whether there will be no further ones.
        fault: Why.
        gone: Whether nobody waits for it any more.
        first_s: When the first token was written, seconds after the request came.
        steps: Tokens after the first one of each batch that it was in.
        steps_s: What they took, seconds.
        seconds: Of the sound, as far as it was read.
    """

    sound: SoundBytes
    task: Task
    use: TaskUse
    live: bool
    max_seconds: float
    began: float
    param: str
    ready: deque[Stretch] = field(default_factory=deque)
    fed: bool = False
    fault: ApiError | None = None
    gone: bool = False
    first_s: float | None = None
    steps: int = 0
    steps_s: float = 0.0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Piece | ApiError | None] = asyncio.Queue()
        self._lead = ""

    def stretches(self, mono: Mono) -> Iterator[Stretch]:
        """The sound as the model hears it, decoded as it is needed.

        Raises:
            InputError: It cannot be heard.
            ApiError: It is too long, by its header or by what is decoded.
        """
        self._require_length(seconds_of(self.sound))
        yield from (speech if self.task == "transcribe" else windows)(self._measured(mono), self.use.longest_s)

    def _measured(self, mono: Mono) -> Iterator[np.ndarray]:
        for block in mono_blocks(self.sound, mono):
            self.seconds += len(block) / SAMPLE_RATE
            self._require_length(self.seconds)
            yield block

    def _require_length(self, seconds: float) -> None:
        if seconds > self.max_seconds + 0.5:  # a codec adds some frames
            raise ApiError(
                400,
                f"sound: of {seconds:,.0f} s or more; this server hears up to {self.max_seconds:,g} s, cut it",
                param=self.param,
                code="sound_too_long",
            )

    @property
    def timing(self) -> dict[str, float | None]:
        """Time to the first token, and for each further one; none is known of beams, nor of silence."""
        first_s = None if self.first_s is None else round(self.first_s, 4)
        return {"ttft_s": first_s, "tpot_s": round(self.steps_s / self.steps, 5) if self.steps else None}

    def say(self, text: str) -> None:
        """Hands on some text as it is written."""
        self._put(Piece(self._lead + text))
        self._lead = ""

    def end_segment(self, segment: Segment) -> None:
        """Hands on a segment, all of whose text was said if it is wanted live."""
        self._put(Piece("", segment))
        self._lead = SEPARATOR[self.task] if segment.text else self._lead

    def end(self, fault: ApiError | None = None) -> None:
        """Says that nothing follows, and why if something should have."""
        self._put(fault)

    def _put(self, event: Piece | ApiError | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has ended
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def pieces(self) -> AsyncIterator[Piece]:
        """What is written, as it comes.

        Raises:
            ApiError: It goes no further.
        """
        while (event := await self._events.get()) is not None:
            if isinstance(event, ApiError):
                raise event
            yield event

    async def result(self) -> Result:
        """All of it.

        Raises:
            ApiError: The sound cannot be heard to its end.
        """
        segments = [piece.segment async for piece in self.pieces() if piece.segment]
        return result_of(self.task, segments, self.seconds)
