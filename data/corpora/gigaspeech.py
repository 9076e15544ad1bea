"""GigaSpeech (Chen et al. 2021): podcasts, audiobooks and videos; one JSON with the segments of every recording.

A row is a stretch of its recording: nothing is cut or written. The training subsets hold each other (XS is in S, S in
M, and so on); here each is what it has beyond the smaller ones, so that M is `train-xs`, `train-s` and `train-m`.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from data.corpora.entry import Entry
from data.corpora.files import SOUNDS, Files
from data.errors import InputError
from data.rows.json_stream import stream_list

NAME = "gigaspeech"
LAYOUT = "GigaSpeech.json, and the recordings that it names (audio/...)"
NORMALISE = "english"
_MARKS = {"COMMA": ",", "PERIOD": ".", "QUESTIONMARK": "?", "EXCLAMATIONPOINT": "!"}
_MARK = re.compile(rf"\s*<({'|'.join(_MARKS)})>")
_SPLITS = {"{DEV}": "valid", "{TEST}": "test"} | {
    f"{{{size}}}": f"train-{size.lower()}" for size in ["XS", "S", "M", "L", "XL"]
}


def entries(sounds: Files, lists: Files) -> Iterator[Entry]:
    """Every segment as `asr`; one with a garbage tag, or one that is not known, has no text."""
    # In this case alone: what is made of the corpus is called gigaspeech_*.json.
    for listed in (path for path in lists.named("GigaSpeech*.json") if path.name.startswith("GigaSpeech")):
        beside = Files(listed.parent)
        # Some gigabytes at full size: recording by recording.
        for audio in stream_list(listed, "audios"):
            name = audio.get("aid", "?") if isinstance(audio, dict) else "?"
            try:
                sound = _sound(sounds, audio["path"]) or _sound(beside, audio["path"])
                for segment in audio["segments"]:
                    yield _entry(audio, segment, sound, f"{listed}, recording {name}, segment {segment['sid']}")
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise InputError(
                    f"{listed}, recording {name}: not as GigaSpeech has it ({error!r}); fetch it again"
                ) from None


def _entry(audio: dict[str, Any], segment: dict[str, Any], sound: Path | None, where: str) -> Entry:
    start_s, end_s = float(segment["begin_time"]), float(segment["end_time"])
    if not 0 <= start_s < math.inf or not 0 <= end_s < math.inf:
        raise ValueError(f"segment {segment['sid']} is from {start_s} to {end_s} s")
    subsets = segment.get("subsets") or audio["subsets"]
    split = next((name for subset, name in _SPLITS.items() if subset in subsets), None)
    if split is None:
        raise ValueError(f"segment {segment['sid']} is in none of {', '.join(_SPLITS)}")
    # An end of 0 would be the recording's: a segment without length is told as one.
    end_s = end_s or -1.0
    text = plain(segment["text_tn"])
    return Entry(split, str(segment["sid"]), sound, text, "asr", start_s=start_s, end_s=end_s, where=where)


def plain(text: str) -> str:
    """The words of a segment with their punctuation; empty where a garbage tag stands for them."""
    text = _MARK.sub(lambda match: _MARKS[match[1]], text)
    # <SIL>, <MUSIC>, <NOISE> and <OTHER> stand for no words; <UNK>, for words that are not written.
    return "" if "<" in text else text.strip()


def _sound(files: Files, name: str) -> Path | None:
    """The recording, also where it was converted."""
    stem = PurePosixPath(name).with_suffix("")
    return files.at(name) or next(filter(None, (files.at(f"{stem}{ending}") for ending in SOUNDS)), None)
