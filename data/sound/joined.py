"""What is joined to a sound: one of another format is refused, and aiff, au, caf, w64 and NIST's sphere become one.

libsndfile hears the first alone. Some writers of those state no length, so where the next one begins is looked for in
all of the file: they are rare, and beginnings so long are no samples.
"""

import re
from collections.abc import Iterator

from data.errors import InputError
from data.sound.source import Part, Probe, joined_unlike, truncated

FORMATS = ("AIFF", "AU", "CAF", "W64", "NIST")
_BEGINS = {
    kind: re.compile(pattern, re.DOTALL)
    for kind, pattern in {
        "aiff": rb"FORM.{4}AIF[FC]",
        "au": rb"\.snd\0\0.{6}\0\0\0[\x01-\x1b]\0",
        "au of the other order": rb"dns\..{2}\0\0.{4}[\x01-\x1b]\0\0\0",
        "caf": rb"caff\0\x01\0\0desc",
        "w64": rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0",
        "nist": rb"NIST_1A\n",
        "wav": rb"RIF[FX].{4}WAVEfmt |RF64.{4}WAVEds64",
        "flac": rb"fLaC[\0\x80]\0\0\x22",
        "ogg": rb"OggS\0\x02\0{8}",
        "m4a": rb".{4}ftyp[ -~]{4}\0\0",
    }.items()
}
_NAMES = (b"FORM", b".snd", b"dns.", b"caff", b"riff", b"NIST", b"RIF", b"RF64", b"fLaC", b"OggS", b"ftyp")
_OTHERS = ("wav", "flac", "ogg", "m4a")
_FIELD = re.compile(rb"\n(sample_count|channel_count|sample_n_bytes) -(?:i|s\d+) (\d+)")


def signed_parts(sound: Probe, first: int) -> list[Part]:
    """The files of these kinds in a file, one after the other; none where it does not begin as one of them.

    Args:
        sound: The file.
        first: Where it begins, behind tags.

    Raises:
        InputError: One of another kind is joined to it, or a sphere ends before its sound does.
    """
    own = _kind(sound, first)
    if not own or own in _OTHERS:
        return []
    found = dict(_begun(sound, first))
    if set(found.values()) != {own}:
        raise _other_formats(sound)
    begins = list(found)
    parts = [Part(*place) for place in zip(begins, [*begins[1:], sound.size], strict=True)]
    return [_sphere(sound, part) for part in parts] if own == "nist" else parts


def require_no_other(sound: Probe, first: int, own: str) -> None:
    """Refuses a file in which a sound of another format begins at a byte or behind it.

    Raises:
        InputError: One does.
    """
    if any(kind != own for _, kind in _begun(sound, first)):
        raise _other_formats(sound)


def require_no_other_at(sound: Probe, at: int, own: str) -> None:
    """Refuses a file in which a sound of another format begins at this very byte.

    Raises:
        InputError: One does.
    """
    if _kind(sound, at) not in (None, own):
        raise _other_formats(sound)


def _other_formats(sound: Probe) -> InputError:
    return joined_unlike(sound, "other formats")


def _begun(sound: Probe, first: int) -> Iterator[tuple[int, str]]:
    """Where files begin, from a byte on, and their kinds."""
    for place in sound.places(*_NAMES, first=first):
        at = place - 4 if sound.read(place, 4) == b"ftyp" else place
        if kind := _kind(sound, at):
            yield at, kind


def _kind(sound: Probe, at: int) -> str | None:
    """What begins at a byte."""
    head = sound.read(at, 32)
    return next((kind for kind, begins in _BEGINS.items() if begins.match(head)), None)


def _sphere(sound: Probe, part: Part) -> Part:
    """A sphere with its end, which libsndfile takes to be the file's."""
    head = sound.read(part.first, 1024)
    stated = {name: int(value) for name, value in _FIELD.findall(head)}
    if len(stated) < 3 or b"shorten" in head or not head[8:16].strip().isdigit():
        return part
    size = stated[b"sample_count"] * stated[b"channel_count"] * stated[b"sample_n_bytes"]
    end = part.first + int(head[8:16]) + size
    if end > part.end:
        raise truncated(sound)
    return Part(part.first, end, head)
