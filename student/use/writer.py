"""The texts of stretches, whichever sounds and tasks they are of, in one batch."""

from collections.abc import Iterable, Sequence

import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from student.use.guards import StopsCircling, circling
from student.use.results import Flag, Segment
from student.use.stretches import Stretch
from student.use.usage import TaskUse
from teacher.hypotheses import write_ids
from teacher.model import SalmonnForConditionalGeneration
from teacher.processor import Clip, SalmonnProcessor


class Writer:
    """Writes under guards: silence has no text, what goes in circles is stopped, what is too long for its sound is cut.

    Args:
        model: In evaluation mode, on its device.
        processor: The model's.
        num_beams: Beams; 1 is greedy.
    """

    def __init__(self, model: SalmonnForConditionalGeneration, processor: SalmonnProcessor, num_beams: int) -> None:
        self.model, self.processor, self.num_beams = model, processor, num_beams

    @torch.no_grad()
    def segments(
        self,
        asked: Sequence[tuple[Stretch, TaskUse]],
        streamer: BaseStreamer | None = None,
        stopping_criteria: Iterable[StoppingCriteria] = (),
    ) -> list[Segment]:
        """A segment for each stretch, with what its model is asked about it.

        Args:
            asked: One batch.
            streamer: Gets the ids of a single stretch as they are written; of greedy search alone.
            stopping_criteria: Further ones.
        """
        audible = [i for i, (stretch, _) in enumerate(asked) if not stretch.silent]
        found = [Segment(stretch.start_s, stretch.end_s, "", ("silence",)) for stretch, _ in asked]
        if not audible:
            return found
        batch = self.processor([Clip(asked[i][0].wave, asked[i][1].instruction) for i in audible]).to(self.model.device)
        caps = [asked[i][1].cap(asked[i][0].seconds) for i in audible]
        written = write_ids(
            self.model,
            batch,
            self.model.audio_tokens(batch),
            caps,
            self.num_beams,
            stopping_criteria=[StopsCircling(), *stopping_criteria],
            streamer=streamer,
        )
        for i, ids, logp, ended in zip(audible, written.ids_BT.tolist(), written.logp, written.ended, strict=True):
            text, flags = self._guarded(ids, ended)
            found[i] = Segment(asked[i][0].start_s, asked[i][0].end_s, text, flags, logp)
        return found

    def text(self, ids: list[int]) -> str:
        """The text of some ids."""
        return self.processor.decode(torch.tensor([ids], dtype=torch.long))[0]

    def _guarded(self, ids: list[int], ended: bool) -> tuple[str, tuple[Flag, ...]]:
        end = self.processor.config.eos_token_id
        ids = ids[: ids.index(end)] if end in ids else ids
        if ended:
            return self.text(ids), ()
        if again := circling(ids):
            return self.text(ids[:-again]), ("repeats",)
        return self.text(ids), ("cut",)
