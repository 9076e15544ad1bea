"""What `scripts/transcribe.py` does: sounds that are named in, texts to the screen or into a folder."""

import json
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError
from data.paths import resolve, written_whole
from data.progress import Progress
from data.sound.decode import Sound, SoundBytes
from data.sound.stream import seconds_of
from student.use.audio_lm import AudioLM
from student.use.formats import SUFFIX, Format, formatted
from student.use.results import Result, Task
from student.use.written import Written

STANDARD_INPUT = "-"


def require_asked(task: Task, question: str, model: Path) -> None:
    """Refuses what can be known to be wrong before a model is loaded.

    Raises:
        InputError: A question is missing, or asked of another task; or there is no model.
    """
    if (task == "ask") != bool(question.strip()):
        raise InputError("--question: goes with --task ask, which needs one, such as --question 'what is heard?'")
    if not (model / "config.json").is_file():
        made = "bash scripts/quickstart.sh trains it" if model == resolve("runs/kd_mini/model") else "train one first"
        raise InputError(f"{model}: no trained model there; {made}, or name another folder with --model")


@dataclass
class Outputs:
    """The sounds, and where their texts go.

    Args:
        names: Paths; `-` is standard input.
        form: How a text is written.
        folder: Where; None: to standard output.

    Raises:
        InputError: Two texts would have one name, or subtitles of several sounds one place.
    """

    names: list[str]
    form: Format
    folder: Path | None = None

    def __post_init__(self) -> None:
        if self.names.count(STANDARD_INPUT) > 1:
            raise InputError("-: standard input is named twice")
        if self.folder is None:
            if len(self.names) > 1 and self.form in ("srt", "vtt"):
                raise InputError(f"--format {self.form}: of several sounds a file each; name a folder with --out DIR")
            return
        firsts: dict[Path, str] = {}
        for name in self.names:
            if (place := self.place(name)) in firsts:
                raise InputError(f"{firsts[place]} and {name}: both would be {place}; write them apart")
            firsts[place] = name

    def place(self, name: str) -> Path:
        """The file of a sound's text."""
        stem = "stdin" if name == STANDARD_INPUT else Path(name).stem
        return self.folder / f"{stem}.{SUFFIX[self.form]}"

    def put(self, name: str, result: Result) -> None:
        """Writes a sound's text."""
        if self.folder is not None:
            with written_whole(self.place(name)) as temporary:
                temporary.write_text(formatted(result, self.form), encoding="utf-8", errors="replace")
        elif self.form == "json":  # a line each
            print(json.dumps({"file": name} | result.as_dict(), ensure_ascii=False), flush=True)
        elif len(self.names) > 1:
            print(f"{name}\t{' '.join(result.text.split())}", flush=True)
        else:
            print(formatted(result, self.form), end="", flush=True)


def write_all(model: AudioLM, outputs: Outputs, task: Task, question: str) -> int:
    """Writes the texts of all sounds; one that cannot be heard is told in a line, and the others go on.

    In a folder, texts that are there already are left as they are.

    Returns:
        The exit status: 2 where a sound could not be heard.
    """
    if not model.usage.asked(task, question).trained:
        print(f"note: this model was not trained to {task}; take what it writes as a guess", file=sys.stderr)
    names, written = outputs.names, None
    if outputs.folder is not None:
        written = Written(outputs.folder, model, [task, question, outputs.form])
        names = [name for name in names if not written.has(outputs.place(name), Path(name))]
        if there := len(outputs.names) - len(names):
            print(f"note: {there} of {len(outputs.names)} are written already", file=sys.stderr, flush=True)
    sounds, faults = [_named(name) for name in names], 0
    told = _Whole(task, sounds)
    for name, result in zip(names, model.results(sounds, task, question, told.add), strict=True):
        if isinstance(result, InputError):
            print(f"error: {result}", file=sys.stderr, flush=True)
            faults += 1
            continue
        outputs.put(name, result)
        if written:
            written.add(outputs.place(name), Path(name))
        if result.flags:
            print(f"note: {name}: {', '.join(result.flags)}", file=sys.stderr, flush=True)
    return 2 if faults else 0


def _named(name: str) -> Sound:
    return SoundBytes(sys.stdin.buffer.read(), "standard input") if name == STANDARD_INPUT else Path(name)


class _Whole:
    """Progress in whole seconds of sound."""

    def __init__(self, task: Task, sounds: list[Sound]) -> None:
        total, self.seconds = 0.0, 0.0
        for sound in sounds:
            with suppress(InputError):  # which is told when its turn comes
                total += seconds_of(sound)
        self.progress = Progress(task, max(round(total), 1), "s", stream=sys.stderr)

    def add(self, seconds: float) -> None:
        """Counts further seconds."""
        self.seconds += seconds
        if new := min(round(self.seconds), self.progress.total) - self.progress.done:
            self.progress.add(new)
