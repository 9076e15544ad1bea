"""One model's work: what waits is written in batches, whichever requests it is of."""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Condition, Semaphore, Thread
from time import monotonic

from data.errors import InputError
from student.serve.errors import ApiError, bad_sound, internal
from student.serve.job import Job
from student.serve.metrics import Metrics
from student.serve.rows import EndsGone, Rows
from student.use.audio_lm import AudioLM
from student.use.streaming import TextStreamer
from student.use.stretches import Stretch
from teacher.processor import heard_seconds

_AHEAD = 8
"""Stretches of one sound that are made before they are needed."""
_ALIKE = 2
"""A stretch waits for none that is over so many times as long, as they all end with the longest text."""
_LOG = logging.getLogger(__name__)


@dataclass
class _Part:
    """A stretch that is being written, and what says its text; None where it is said when it is whole."""

    job: Job
    stretch: Stretch
    streamer: TextStreamer | None = None


class Batcher:
    """Takes what waits, a stretch of each request in turn, as many as the model hears at once.

    Sounds are decoded in threads of their own, a thread writes.

    Args:
        name: The model's.
        model: The model.
        metrics: Get batches, sound and first tokens.
        took: Told the seconds of each batch.
    """

    def __init__(
        self, name: str, model: AudioLM, metrics: Metrics, took: Callable[[float], None] = lambda s: None
    ) -> None:
        self.name, self.model, self._metrics, self._took = name, model, metrics, took
        self._changed = Condition()
        self._jobs: deque[Job] = deque()
        self._stopped = False
        self._decoding = Semaphore(os.cpu_count() or 1)
        self._worker = Thread(target=self._work, name=f"writes {name}", daemon=True)
        metrics.waiting_is(name, self._waiting)

    def start(self) -> None:
        """Begins to write."""
        self._worker.start()

    def stop(self) -> None:
        """Ends the work; what was not finished is told so."""
        with self._changed:
            self._stopped = True
            for job in self._jobs:
                job.gone = True
                job.end(ApiError(503, "the server has stopped", code="stopping"))
            self._changed.notify_all()
        if self._worker.is_alive():
            self._worker.join()

    def add(self, job: Job) -> None:
        """Takes a sound."""
        with self._changed:
            self._jobs.append(job)
        Thread(target=self._feed, args=(job,), name="decodes", daemon=True).start()

    def leave(self, job: Job) -> None:
        """Nobody waits for it any more: what is left of it is not written."""
        with self._changed:
            job.gone = True
            job.ready.clear()
            if job in self._jobs:
                self._jobs.remove(job)
            self._changed.notify_all()

    def _waiting(self) -> int:
        with self._changed:
            return sum(len(job.ready) for job in self._jobs)

    def _feed(self, job: Job) -> None:
        fault = None
        try:
            stretches = job.stretches(self.model.usage.mono)
            while (stretch := self._next(stretches)) is not None and self._put(job, stretch):
                pass
        except ApiError as error:
            fault = error
        except InputError as error:
            fault = bad_sound(error, job.param)
        except Exception:
            _LOG.exception("a sound could not be decoded")
            fault = internal()
        with self._changed:
            job.fed, job.fault = True, job.fault or fault
            if fault:
                job.ready.clear()
            self._changed.notify_all()

    def _next(self, stretches: Iterator[Stretch]) -> Stretch | None:
        with self._decoding:
            return next(stretches, None)

    def _put(self, job: Job, stretch: Stretch) -> bool:
        """Waits until there is room; whether the job still wants it."""
        with self._changed:
            self._changed.wait_for(lambda: job.gone or len(job.ready) < _AHEAD)
            if not job.gone:
                job.ready.append(stretch)
                self._changed.notify_all()
            return not job.gone

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or any(job.ready or job.fed for job in self._jobs))
                if self._stopped:
                    return
                self._settle()
                batch = self._take()
            if batch:
                began = monotonic()
                self._write(batch)
                self._took(monotonic() - began)

    def _settle(self) -> None:
        """Takes leave of those that are finished."""
        for job in [job for job in self._jobs if job.fed and not job.ready]:
            self._jobs.remove(job)
            job.end(job.fault)

    def _take(self) -> list[_Part]:
        """The next batch: in turn a stretch of each job, of like length, within the model's padded seconds."""
        batch: list[_Part] = []
        turns = deque(self._jobs)
        self._jobs.rotate(-1)
        while turns:
            job = turns.popleft()
            if job.ready and self._fits(batch, job.ready[0]):
                batch.append(_Part(job, job.ready.popleft()))
                turns.append(job)
        self._changed.notify_all()
        return batch

    def _fits(self, batch: list[_Part], stretch: Stretch) -> bool:
        lengths = [stretch.seconds, *(part.stretch.seconds for part in batch)]
        alike = max(lengths) <= _ALIKE * min(lengths)
        longest = max(heard_seconds(lengths, self.model.processor.config.margin_s))
        return not batch or (alike and longest * len(lengths) <= self.model.usage.max_seconds)

    def _write(self, batch: list[_Part]) -> None:
        """Writes a batch; where it fails, each of its stretches alone, so that one does not fail others."""
        try:
            segments = self._segments(batch)
        except Exception:
            _LOG.exception("a batch of %d failed", len(batch))
            for part in batch if len(batch) > 1 else []:
                if not part.job.gone:
                    self._write([part])
            if len(batch) == 1:
                self._fail(batch[0].job)
            return
        self._metrics.batch.labels(self.name).observe(len(batch))
        self._metrics.sound.labels(self.name).inc(sum(part.stretch.seconds for part in batch))
        self._first(batch, segments)
        for part, segment in zip(batch, segments, strict=True):
            if part.streamer:
                part.streamer.say(segment.text)
            elif part.job.live and segment.text:
                part.job.say(segment.text)
            part.job.end_segment(segment)

    def _segments(self, batch: list[_Part]) -> list:
        writer, audible = self.model.writer, [part for part in batch if not part.stretch.silent]
        streamed = None
        if self.model.usage.num_beams == 1:  # beams change their mind
            self._stream(audible)
            streamed = Rows([part.streamer for part in audible], lambda: self._first(audible))
        gone = EndsGone(lambda: [part.job.gone for part in audible])
        asked = [(part.stretch, part.job.use) for part in batch]
        segments = writer.segments(asked, streamed, stopping_criteria=[gone])
        for job in {part.job for part in audible} if streamed else ():
            job.steps, job.steps_s = job.steps + streamed.steps, job.steps_s + streamed.seconds
        return segments

    def _stream(self, parts: list[_Part]) -> None:
        """Of each live job the first stretch is said as it is written; anew, it goes on where it was."""
        end, seen = self.model.processor.config.eos_token_id, set()
        for part in parts:
            if part.job.live and part.job not in seen:
                said = part.streamer.said if part.streamer else ""
                part.streamer = TextStreamer(self.model.writer.text, end, part.job.say)
                part.streamer.said = said
            seen.add(part.job)

    def _first(self, parts: list[_Part], segments: list | None = None) -> None:
        """Notes the time of each job's first token; with beams, of its first text."""
        for i, part in enumerate(parts):
            if part.job.first_s is None and (segments is None or segments[i].text):
                part.job.first_s = monotonic() - part.job.began
                self._metrics.first_token.labels(self.name).observe(part.job.first_s)

    def _fail(self, job: Job) -> None:
        with self._changed:
            job.fed, job.fault = True, internal()
            job.gone = True
            job.ready.clear()
            self._changed.notify_all()
