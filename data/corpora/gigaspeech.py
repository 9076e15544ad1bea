"""GigaSpeech (Chen et al. 2021): podcasts, audiobooks and videos; one JSON with the segments of every recording.

A row is a stretch of its recording: nothing is cut or written. The training subsets hold each other (XS is in S, S in
M, and so on); here each is what it has beyond the smaller ones, so that M is `train-xs`, `train-s` and `train-m`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.corpora.entry import SOUNDS, Entry, found
from data.errors import InputError
from data.rows.json_stream import stream_list
from data.text import normalise

NAME = "gigaspeech"
LAYOUT = "GigaSpeech.json, and the recordings that it names (audio/...)"
GARBAGE = ("<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>")
"""What stands for an utterance in which nothing is said: not for training."""
_MARKS = {"<COMMA>": ",", "<PERIOD>": ".", "<QUESTIONMARK>": "?", "<EXCLAMATIONPOINT>": "!"}
_SPLITS = {"{DEV}": "valid", "{TEST}": "test"} | {
    f"{{{size}}}": f"train-{size.lower()}" for size in ["XS", "S", "M", "L", "XL"]
}


def entries(root: Path, lists: Path) -> Iterator[Entry]:
    """Every segment as `asr`; one with a garbage tag has no text."""
    for listed in found(lists, "GigaSpeech*.json"):
        # Some gigabytes at full size: recording by recording.
        for audio in stream_list(listed, "audios"):
            try:
                sound = _sound(root, listed.parent, audio["path"])
                for segment in audio["segments"]:
                    yield _entry(audio, segment, sound)
            except (KeyError, TypeError, ValueError) as error:
                name = audio.get("aid", "?") if isinstance(audio, dict) else "?"
                raise InputError(
                    f"{listed}, recording {name}: not as GigaSpeech has it ({error!r}); fetch it again"
                ) from None


def _entry(audio: dict[str, Any], segment: dict[str, Any], sound: Path | None) -> Entry:
    start_s, end_s = float(segment["begin_time"]), float(segment["end_time"])
    subsets = segment.get("subsets") or audio["subsets"]
    split = next((name for subset, name in _SPLITS.items() if subset in subsets), None)
    if split is None:
        raise ValueError(f"segment {segment['sid']} is in none of {', '.join(_SPLITS)}")
    text = plain(segment["text_tn"])
    return Entry(split, segment["sid"], sound, text, "asr", duration_s=end_s - start_s, start_s=start_s, end_s=end_s)


def plain(text: str) -> str:
    """The words of a segment; empty where a garbage tag stands for them."""
    if any(tag in text for tag in GARBAGE):
        return ""
    for tag, mark in _MARKS.items():
        text = text.replace(tag, mark)
    return normalise(text)


def _sound(root: Path, beside: Path, name: str) -> Path | None:
    """The recording, also where it was converted."""
    named = [folder / name for folder in (root, beside)]
    paths = [*named, *(path.with_suffix(ending) for path in named for ending in SOUNDS)]
    return next((path for path in paths if path.is_file()), None)
