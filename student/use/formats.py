"""A result as text, JSON, or subtitles (SubRip's srt, WebVTT)."""

import json
from collections.abc import Iterator
from typing import Literal

from student.use.results import Result, Segment

Format = Literal["text", "json", "srt", "vtt"]
SUFFIX: dict[Format, str] = {"text": "txt", "json": "json", "srt": "srt", "vtt": "vtt"}


def formatted(result: Result, how: Format) -> str:
    """A result in a format, with an end of line."""
    if how == "json":
        return json.dumps(result.as_dict(), ensure_ascii=False, indent=2) + "\n"
    if how == "srt":
        cues = enumerate(_cues(result, ","), 1)
        return "".join(f"{number}\n{times}\n{text}\n\n" for number, (times, text) in cues)
    if how == "vtt":
        cues = ((times, text.replace("&", "&amp;").replace("<", "&lt;")) for times, text in _cues(result, "."))
        return "WEBVTT\n\n" + "".join(f"{times}\n{text.replace('>', '&gt;')}\n\n" for times, text in cues)
    return result.text + "\n"


def stamp(milliseconds: int, point: str) -> str:
    """Time as hh:mm:ss and thousandths, which srt sets off with a comma and vtt with a point."""
    seconds, thousandths = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{thousandths:03}"


def _cues(result: Result, point: str) -> Iterator[tuple[str, str]]:
    """Times and text of the segments that have one; none begins before the one before it has ended."""
    before = 0
    for segment in result.segments:
        if text := " ".join(segment.text.split()):
            start, before = _times(segment, before)
            yield f"{stamp(start, point)} --> {stamp(before, point)}", text


def _times(segment: Segment, before: int) -> tuple[int, int]:
    """Start and end in milliseconds, which differ."""
    start = max(round(1000 * segment.start_s), before)
    return start, max(round(1000 * segment.end_s), start + 1)
