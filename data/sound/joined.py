"""Aiff, au, caf, w64 and NIST's sphere: files of one kind joined to one, of which libsndfile hears the first alone.

Some of their writers state no length, so where the next one begins is looked for in all of the file: they are rare, and
beginnings so long are no samples.
"""

import re

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
        "wav": rb"RIFF.{4}WAVEfmt ",
        "flac": rb"fLaC[\0\x80]\0\0\x22",
        "ogg": rb"OggS\0\x02\0{8}",
    }.items()
}
_NAMES = (b"FORM", b".snd", b"dns.", b"caff", b"riff", b"NIST", b"RIFF", b"fLaC", b"OggS")
_OTHERS = ("wav", "flac", "ogg")
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
    found = {at: kind for at in sound.places(*_NAMES, first=first) if (kind := _kind(sound, at))}
    if set(found.values()) != {own}:
        raise joined_unlike(sound, "other formats")
    begins = list(found)
    parts = [Part(*place) for place in zip(begins, [*begins[1:], sound.size], strict=True)]
    return [_sphere(sound, part) for part in parts] if own == "nist" else parts


def is_another(sound: Probe, first: int) -> bool:
    """Whether a sound that is no wav begins at a byte."""
    return _kind(sound, first) not in (None, "wav")


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
