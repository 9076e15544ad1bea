"""A trained model, teacher or student, as people use it."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, overload

import torch
from huggingface_hub import HfApi

from data.batches import batches_by_length
from data.errors import InputError
from data.sound.audio import SAMPLE_RATE
from data.sound.stream import mono_blocks
from student.use.guards import Stops
from student.use.results import SEPARATOR, Piece, Result, Segment, Task, result_of
from student.use.sounds import Given, all_of, as_sound
from student.use.streaming import TextStreamer, pumped
from student.use.stretches import Stretch, speech, windows
from student.use.usage import CARD, TaskUse, Usage, read_usage, write_usage
from student.use.writer import Writer
from teacher.device import DTYPES, cpu_has_bf16, pick_device
from teacher.model import SalmonnForConditionalGeneration, merge_lora
from teacher.processor import SalmonnProcessor, heard_seconds
from teacher.weights import load_pretrained, locate

_AHEAD = 4
"""Batches of stretches that are made at once, so that those of like length come together."""


class AudioLM:
    """Hears sounds of any length and writes what is said, what is heard, or answers.

    Of speech a text comes in segments that end at pauses; where nobody speaks there is none. Of other sounds a text is
    of as much as the model hears at once: a longer one is captioned, or asked about, in windows.

    Args:
        model: In evaluation mode, on its device.
        processor: The model's.
        usage: Instructions and bounds.
        folder: Where it was loaded from; its card goes with it when it is saved.
    """

    def __init__(
        self,
        model: SalmonnForConditionalGeneration,
        processor: SalmonnProcessor,
        usage: Usage,
        folder: Path | None = None,
    ) -> None:
        self.model, self.processor, self.usage, self.folder = model, processor, usage, folder
        self.writer = Writer(model, processor, usage.num_beams)

    @classmethod
    def load(cls, folder: str | Path, *, device: str | None = None, dtype: str | None = None) -> "AudioLM":
        """Loads what a run left (`runs/NAME/model`), teacher or student.

        Args:
            folder: The model's folder, or the name of one that was downloaded from the hub.
            device: Such as "cpu"; the accelerator if there is one.
            dtype: "fp32", "bf16" or "fp16"; as the folder says, but fp32 on a CPU that does not compute in bf16.

        Raises:
            InputError: There is no model, or a broken one.
        """
        place = Path(folder) if Path(folder).exists() else locate(str(folder))
        if not (place / "config.json").is_file():
            raise InputError(f"{folder}: no trained model there; name the folder that a run left: runs/NAME/model")
        usage, processor = read_usage(place), SalmonnProcessor.from_pretrained(place)
        on = torch.device(device) if device else pick_device()
        model = load_pretrained(SalmonnForConditionalGeneration, place, _dtype(processor, on, dtype))
        merge_lora(model)
        return cls(model.eval().to(on), processor, usage, place)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the model, its tokenizer and `usage.json`, and the card that it was loaded with."""
        folder = Path(folder)
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        write_usage(self.usage, folder)
        for name in CARD:
            if self.folder and self.folder.resolve() != folder.resolve() and (self.folder / name).is_file():
                shutil.copy(self.folder / name, folder / name)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Puts all of it on a hub, the model card too (transformers' own `push_to_hub` would put one of its own there).

        Args:
            repo_id: `name` or `owner/name`; it is made if it is not there.
            private: Whether nobody else sees it, where it is made.
            token: Of the hub; that of `hf auth login` if not given.

        Returns:
            The address of the commit.
        """
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload model").commit_url

    @overload
    def transcribe(self, sound: Given, *, stream: Literal[False] = False) -> Result: ...
    @overload
    def transcribe(self, sound: Iterable[Given], *, stream: Literal[False] = False) -> list[Result]: ...
    @overload
    def transcribe(self, sound: Given, *, stream: Literal[True]) -> Iterator[Piece]: ...
    def transcribe(self, sound, *, stream=False):
        """What is said: of one sound its result, of a list one each; or pieces of text as they are written.

        Raises:
            InputError: A sound cannot be heard.
        """
        return self._asked(sound, "transcribe", "", stream)

    def caption(self, sound, *, stream=False):
        """What is heard, as `transcribe`."""
        return self._asked(sound, "caption", "", stream)

    def ask(self, sound, question: str, *, stream=False):
        """The answer to a question about a sound, as `transcribe`."""
        return self._asked(sound, "ask", question, stream)

    def _asked(self, sound, task: Task, question: str, stream: bool):
        sounds = all_of(sound)
        if stream:
            if sounds is not None:
                raise InputError("stream: of one sound at a time; call it for each")
            return self.stream(sound, task, question)
        found = []
        for result in self.results([sound] if sounds is None else sounds, task, question):
            if isinstance(result, InputError):
                raise result
            found.append(result)
        return found[0] if sounds is None else found

    def results(
        self,
        sounds: Iterable[Given],
        task: Task,
        question: str = "",
        heard: Callable[[float], None] = lambda seconds: None,
    ) -> Iterator[Result | InputError]:
        """Each sound's result, or why it cannot be heard, in their order and as they come.

        No more of the sounds is in memory than some minutes; stretches of like length are written together.

        Args:
            sounds: Any number.
            task: "transcribe", "caption" or "ask".
            question: What is asked.
            heard: Called now and then, with the seconds of sound that were done since it was called before.

        Raises:
            InputError: The model has not learnt the task, or has been asked nothing.
        """
        use = self.usage.asked(task, question)
        begun, clock = [], _Clock()
        waiting: list[tuple[_Begun, int, Stretch]] = []

        def write() -> None:
            waiting.sort(key=lambda entry: -entry[2].seconds)  # of like length too where each is filled up to 30 s
            lengths, read = [stretch.seconds for *_, stretch in waiting], clock.told()
            for batch in batches_by_length(self._heard(lengths), self.usage.max_seconds):
                for i, segment in zip(batch, self.writer.segments([(waiting[i][2], use) for i in batch]), strict=True):
                    waiting[i][0].segments[waiting[i][1]] = segment
                heard(read * sum(lengths[i] for i in batch) / sum(lengths))
            waiting.clear()

        for given in sounds:
            one = _Begun(clock)
            begun.append(one)
            try:
                for stretch in self._stretches(given, task, one):
                    waiting.append((one, len(one.segments), stretch))
                    one.segments.append(None)
                    if sum(self._heard([of.seconds for *_, of in waiting])) >= _AHEAD * self.usage.max_seconds:
                        write()
            except InputError as error:
                one.fault = error
                waiting[:] = [entry for entry in waiting if entry[0] is not one]
            one.ended = True
            if not waiting:
                heard(clock.told())
            yield from _finished(begun, task)
        write()
        heard(clock.told())
        yield from _finished(begun, task)

    def _heard(self, lengths_s: list[float]) -> list[float]:
        """Of stretches of these lengths the seconds that count in a batch."""
        return heard_seconds(lengths_s, self.processor.config.margin_s).tolist()

    def stream(self, sound: Given, task: Task, question: str = "") -> Iterator[Piece]:
        """A sound's text as it is written, stretch after stretch; with beams, each stretch's at once.

        Raises:
            InputError: As `results`, or the sound cannot be heard.
        """
        use = self.usage.asked(task, question)
        return pumped(lambda put, stops: self._stream(sound, task, use, put, stops))

    def _stream(self, sound: Given, task: Task, use: TaskUse, put: Callable[[Piece], None], stops: Stops) -> None:
        lead, next_lead = "", SEPARATOR[task]

        def say(text: str) -> None:
            nonlocal lead
            put(Piece(lead + text))
            lead = ""

        for stretch in self._stretches(sound, task, _Begun(_Clock())):
            streamer = TextStreamer(self.writer.text, self.processor.config.eos_token_id, say)
            (segment,) = self.writer.segments(
                [(stretch, use)], streamer if self.usage.num_beams == 1 else None, stopping_criteria=[stops]
            )
            if stops.now:
                return
            streamer.say(segment.text)
            put(Piece("", segment))
            lead = next_lead if segment.text else lead

    def _stretches(self, given: Given, task: Task, one: "_Begun") -> Iterator[Stretch]:
        def measured() -> Iterator:
            for block in mono_blocks(as_sound(given), self.usage.mono):
                one.add(len(block) / SAMPLE_RATE)
                yield block

        return (speech if task == "transcribe" else windows)(measured(), self.usage.tasks[task].longest_s)


@dataclass
class _Clock:
    """Seconds of sound that were read."""

    seconds: float = 0.0
    before: float = 0.0

    def told(self) -> float:
        """Those since it was asked before."""
        new, self.before = self.seconds - self.before, self.seconds
        return new


@dataclass
class _Begun:
    """A sound whose segments are being written."""

    clock: _Clock
    segments: list[Segment | None] = field(default_factory=list)
    seconds: float = 0.0
    ended: bool = False
    fault: InputError | None = None

    def add(self, seconds: float) -> None:
        """Counts what was read."""
        self.seconds += seconds
        self.clock.seconds += seconds

    @property
    def finished(self) -> bool:
        """Whether all of it was read and written."""
        return self.ended and (self.fault is not None or None not in self.segments)


def _finished(begun: list[_Begun], task: Task) -> Iterator[Result | InputError]:
    """Takes out the first sounds, as far as they are finished."""
    while begun and begun[0].finished:
        one = begun.pop(0)
        yield one.fault or result_of(task, one.segments, one.seconds)


def _dtype(processor: SalmonnProcessor, device: torch.device, name: str | None) -> torch.dtype:
    if name and name not in DTYPES:
        raise InputError(f"dtype '{name}': give one of {', '.join(DTYPES)}")
    if name:
        return DTYPES[name]
    stored = getattr(processor.config, "dtype", None)
    kept = stored if stored in DTYPES.values() else torch.float32
    return kept if device.type != "cpu" or cpu_has_bf16() else torch.float32
