"""Which texts of a folder are there already, so that the same command goes on where it was."""

import json
from contextlib import suppress
from pathlib import Path

from data.hashing import hash_of
from data.sound.headers import fingerprint
from student.use.audio_lm import AudioLM
from teacher.weights import folder_hash

FILE = ".transcribed.jsonl"


class Written:
    """Knows a text again by its model, by what was asked and by the content of its sound.

    Args:
        folder: Of the texts.
        model: What writes them.
        asked: What it is asked, as JSON has it.
    """

    def __init__(self, folder: Path, model: AudioLM, asked: object) -> None:
        self.folder = folder
        weights = folder_hash(model.folder) if model.folder else ""
        self.identity = hash_of([weights, model.usage.model_dump(), asked])
        self._keys: dict[str, str] = {}
        with suppress(OSError):
            for line in (folder / FILE).read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError, TypeError, KeyError, RecursionError):  # half a line, of a run that was killed
                    entry = json.loads(line)
                    self._keys[entry["text"]] = entry["key"]

    def has(self, text: Path, sound: Path) -> bool:
        """Whether a sound's text is there."""
        key = self._key(sound)
        return bool(key) and self._keys.get(text.name) == key and text.is_file()

    def add(self, text: Path, sound: Path) -> None:
        """Notes that it is."""
        if key := self._key(sound):
            with (self.folder / FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"text": text.name, "key": key}) + "\n")

    def _key(self, sound: Path) -> str:
        try:
            return hash_of([self.identity, fingerprint(sound)])
        except OSError:  # standard input, or a file that is not there
            return ""
