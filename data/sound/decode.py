"""Sound files decoded: wav, flac, ogg, aiff, au, caf, w64 and NIST's sphere; mp3 and m4a through FFmpeg (PyAV).

A header that can be believed is believed. Where it cannot, the sound that is there is heard, and the header says how
much that is; what breaks off is refused.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from data.errors import InputError
from data.sound.flac import flac_parts
from data.sound.foreign import foreign_blocks, foreign_header
from data.sound.joined import FORMATS, signed_parts
from data.sound.lengths import behind_id3, is_mp3
from data.sound.ogg import ogg_parts
from data.sound.source import (
    Part,
    Probe,
    Sound,
    SoundBytes,
    Window,
    block_frames,
    joined_unlike,
    require_plausible,
    rewound,
    truncated,
    unreadable,
)
from data.sound.wav import wav_parts

__all__ = ["Sound", "SoundBytes", "SoundInfo", "blocks", "sound_info"]

_LOUDEST = 10.0
"""Full scale is 1; floats that go on to tens or thousands are integers that were not divided."""
_CHECKED = ("WAV", "WAVEX", "RF64", "FLAC", "OGG")
"""Formats whose length is compared with what is there."""
_UNKNOWN = 0x7FFF0000
"""A length about as large as 31 bits hold, or larger, is that of a writer that did not know it."""
_SHORTER = re.compile(r": (\d+) \(should be (\d+)\)")
"""What libsndfile notes of a length in a header, and of what is there."""


@dataclass(frozen=True, slots=True)
class SoundInfo:
    """What a sound file's header says of it.

    Attributes:
        frames: Samples of one channel.
        rate: Samples a second.
        channels: Channels.
    """

    frames: int
    rate: int
    channels: int

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.frames / self.rate if self.rate else 0.0


def sound_info(sound: Sound) -> SoundInfo:
    """Reads a file's header; where it cannot be believed, counts the samples that `blocks` gives.

    Raises:
        InputError: It is not a sound file, or one that ends before its header says or has a rate or channels beyond
            those of sounds.
    """
    try:
        with ExitStack() as stack:
            files = _opened(sound, stack)
            return SoundInfo(sum(file.frames for file in files), files[0].samplerate, files[0].channels)
    except _Foreign:
        return SoundInfo(*foreign_header(sound))


def blocks(sound: Sound, *, start_s: float = 0.0, seconds: float | None = None) -> Iterator[tuple[np.ndarray, int]]:
    """Decodes a stretch of a file, at most 30 s at a time, and of many channels less.

    Args:
        sound: The file.
        start_s: Where the stretch begins, seconds.
        seconds: Its length; None: to the end.

    Yields:
        float32 samples, shape [frames, channels], and the file's own rate, Hz.

    Raises:
        InputError: It cannot be decoded, ends before its header says, has a rate or channels beyond those of sounds, or
            is far louder than they can be.
    """
    for samples, rate in _blocks(sound, start_s, seconds):
        if max(samples.max(), -samples.min()) > _LOUDEST and np.isfinite(samples).all():
            raise InputError(
                f"{sound}: samples go up to {np.abs(samples).max():,.0f}, where 1 is full scale; they are integers "
                "written as floats: divide them (of 16 bits by 32768), and write it again"
            )
        yield samples, rate


class _Foreign(Exception):
    """libsndfile does not know the format, or does not hear all of it."""


def _blocks(sound: Sound, start_s: float, seconds: float | None) -> Iterator[tuple[np.ndarray, int]]:
    try:
        with ExitStack() as stack:
            files = _opened(sound, stack)
            rate, frames = files[0].samplerate, sum(file.frames for file in files)
            first = min(round(start_s * rate), frames)
            end = frames if seconds is None else min(frames, first + round(seconds * rate))
            for file in files:
                for samples in _stretch(sound, file, first, min(end, file.frames)):
                    yield samples, rate
                first, end = max(first - file.frames, 0), max(end - file.frames, 0)
    except _Foreign:
        yield from foreign_blocks(sound, start_s, seconds)


def _stretch(sound: Sound, file: soundfile.SoundFile, first: int, end: int) -> Iterator[np.ndarray]:
    try:
        if first and first < end:
            file.seek(first)
        while first < end:
            wanted = min(end - first, block_frames(file.samplerate, file.channels))
            samples = file.read(wanted, dtype="float32", always_2d=True)
            if len(samples) < wanted:
                raise truncated(sound)
            first += wanted
            yield samples
    except (soundfile.LibsndfileError, RuntimeError, ValueError) as error:
        raise unreadable(sound, error) from None


def _opened(sound: Sound, stack: ExitStack) -> list[soundfile.SoundFile]:
    """The sound as libsndfile hears it: one file, or several that were joined to one."""
    probe = stack.enter_context(_probed(sound))
    if probe.read(4, 4) == b"ftyp" or is_mp3(probe):
        raise _Foreign
    parts = _parts(probe)
    as_it_is = len(parts) == 1 and not (parts[0].first or parts[0].head)
    windows = [] if as_it_is else [Window(sound, part) for part in parts]
    try:
        files = [stack.enter_context(soundfile.SoundFile(file)) for file in windows or [rewound(sound)]]
    except soundfile.LibsndfileError as error:
        # Of a file that is called .mp3 and has no frame it says that there is none.
        reason = "Format not recognised" if "does not exist" in error.error_string else error.error_string
        raise unreadable(sound, reason) from None
    except (RuntimeError, ValueError, TypeError) as error:
        raise unreadable(sound, error) from None
    if len({(file.samplerate, file.channels) for file in files}) > 1:
        raise joined_unlike(sound)
    require_plausible(sound, files[0].samplerate, files[0].channels)
    if files[0].format == "MP3":
        raise _Foreign
    if files[0].format not in (*_CHECKED, *FORMATS):
        raise InputError(
            f"{sound}: its format, {files[0].format_info}, is not read here; write it as wav or flac (ffmpeg or sox do)"
        )
    if files[0].format in FORMATS and (not parts or any(map(_ends_early, files))):
        raise truncated(sound)
    return files


def _parts(probe: Probe) -> list[Part]:
    """The files that a file is made of; none where it is laid out as none that is known, for libsndfile to say why."""
    first = behind_id3(probe)
    start = probe.read(first, 4)
    if start == b"fLaC":
        return flac_parts(probe)
    if start == b"OggS":
        if parts := ogg_parts(probe, first):
            return parts
        raise _Foreign
    return wav_parts(probe, first) or signed_parts(probe, first)


def _ends_early(file: soundfile.SoundFile) -> bool:
    """Whether the header of another format (aiff, au, caf, w64) states more bytes than there are."""
    noted = ((int(stated), int(there)) for stated, there in _SHORTER.findall(file.extra_info))
    return any(64 < stated - there < _UNKNOWN for stated, there in noted)


def _probed(sound: Sound) -> Probe:
    if isinstance(sound, Path) and not sound.is_file():
        raise InputError(f"{sound}: no such sound file; check the path in the annotation")
    probe = Probe(sound)
    if not probe.size:
        raise InputError(f"{sound}: the file is empty (0 bytes); fetch or record it again, or drop its row")
    return probe
