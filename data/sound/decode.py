"""Sound files decoded: wav, flac, ogg, mp3 and what else libsndfile reads; m4a through FFmpeg (PyAV)."""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from data.errors import InputError


class SoundBytes(io.BytesIO):
    """A sound file that lies in memory.

    Args:
        content: The file's bytes.
        name: What messages call it.
    """

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name

    def __str__(self) -> str:
        return self.name


Sound = Path | SoundBytes

_BLOCK_S = 30
_RIFF = ("WAV", "WAVEX")


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
    """Reads a file's header, not its samples.

    Raises:
        InputError: It is not a sound file, or a wav that ends before its header says.
    """
    try:
        with _opened(sound) as file:
            if file.format in _RIFF:
                _require_whole(sound)
            return SoundInfo(file.frames, file.samplerate, file.channels)
    except _Foreign:
        return _foreign_header(sound)


def blocks(sound: Sound, *, start_s: float = 0.0, seconds: float | None = None) -> Iterator[tuple[np.ndarray, int]]:
    """Decodes a stretch of a file, at most 30 s at a time.

    Args:
        sound: The file.
        start_s: Where the stretch begins, seconds.
        seconds: Its length; None: to the end.

    Yields:
        float32 samples, shape [frames, channels], and the file's own rate, Hz.

    Raises:
        InputError: It cannot be decoded, or ends before its header says.
    """
    try:
        with _opened(sound) as file:
            yield from _native_blocks(sound, file, start_s, seconds)
            if file.format in _RIFF:
                _require_whole(sound)
    except _Foreign:
        yield from _foreign_blocks(sound, start_s, seconds)


class _Foreign(Exception):
    """libsndfile does not know the format, or guesses the length."""


def _unreadable(sound: Sound, reason: object) -> InputError:
    short = str(getattr(reason, "strerror", None) or reason).split(": ", 1)[-1].rstrip(".")
    return InputError(f"{sound}: cannot be read as sound ({short}); fetch it again, or drop its row")


def _truncated(sound: Sound) -> InputError:
    return InputError(f"{sound}: truncated, the file ends before its sound does; fetch it again, or drop its row")


def _rewound(sound: Sound) -> io.BytesIO | str:
    if isinstance(sound, SoundBytes):
        sound.seek(0)
        return sound
    return str(sound)


def _opened(sound: Sound) -> soundfile.SoundFile:
    try:
        file = soundfile.SoundFile(_rewound(sound))
        if file.format == "MP3" and not _counts_its_frames(sound):
            file.close()
            raise _Foreign
        return file
    except soundfile.LibsndfileError as error:
        _require_content(sound)
        if _first_bytes(sound)[0][4:8] == b"ftyp":
            raise _Foreign from None
        raise _unreadable(sound, error.error_string) from None
    except (RuntimeError, ValueError, TypeError) as error:
        raise _unreadable(sound, error) from None


def _native_blocks(
    sound: Sound, file: soundfile.SoundFile, start_s: float, seconds: float | None
) -> Iterator[tuple[np.ndarray, int]]:
    first = min(round(start_s * file.samplerate), file.frames)
    left = file.frames - first if seconds is None else min(file.frames - first, round(seconds * file.samplerate))
    try:
        if first:
            file.seek(first)
        while left:
            wanted = min(left, _BLOCK_S * file.samplerate)
            samples = file.read(wanted, dtype="float32", always_2d=True)
            if len(samples) < wanted:
                raise _truncated(sound)
            left -= wanted
            yield samples, file.samplerate
    except (soundfile.LibsndfileError, RuntimeError, ValueError) as error:
        raise _unreadable(sound, error) from None


def _counts_its_frames(sound: Sound) -> bool:
    """Whether a tag in an mp3's first frame says how many there are; libsndfile guesses it by the first one's size."""
    start = _first_bytes(sound)[0]
    # An ID3 tag before it states its own length in four bytes of seven bits.
    first = 10 + (start[6] << 21 | start[7] << 14 | start[8] << 7 | start[9]) if start[:3] == b"ID3" else 0
    frame = _first_bytes(sound, 128, first)[0]
    return b"Xing" in frame or b"Info" in frame


def _first_bytes(sound: Sound, count: int = 12, first: int = 0) -> tuple[bytes, int]:
    """The first bytes, and how many there are in all."""
    if isinstance(sound, SoundBytes):
        return sound.getbuffer()[first : first + count].tobytes(), sound.getbuffer().nbytes
    with open(sound, "rb", buffering=0) as file:
        file.seek(first)
        return file.read(count), os.fstat(file.fileno()).st_size


def _require_content(sound: Sound) -> None:
    if isinstance(sound, Path) and not sound.is_file():
        raise InputError(f"{sound}: no such sound file; check the path in the annotation")
    if not _first_bytes(sound)[1]:
        raise InputError(f"{sound}: the file is empty (0 bytes); fetch or record it again, or drop its row")


def _require_whole(sound: Sound) -> None:
    """Refuses a wav with fewer bytes than its RIFF header promises: libsndfile reads it without a complaint."""
    start, there = _first_bytes(sound)
    if start[:4] != b"RIFF" or start[8:] != b"WAVE":
        return
    size = int.from_bytes(start[4:8], "little")
    # Writers that stream do not know the size: 0 or all ones.
    if size not in (0, 0xFFFFFFFF) and size + 8 > there:
        raise _truncated(sound)


def _foreign_header(sound: Sound) -> SoundInfo:
    import av  # here, as few files need it

    try:
        with av.open(_rewound(sound)) as container:
            stream = container.streams.audio[0]
            if container.format.name == "mp3":
                seconds = float(sum(packet.duration or 0 for packet in container.demux(stream)) * stream.time_base)
            else:
                seconds = float(stream.duration * stream.time_base) if stream.duration else container.duration / 1e6
            return SoundInfo(round(seconds * stream.rate), stream.rate, stream.channels)
    except (av.error.FFmpegError, IndexError, TypeError) as error:
        raise _unreadable(sound, error) from None


def _foreign_blocks(sound: Sound, start_s: float, seconds: float | None) -> Iterator[tuple[np.ndarray, int]]:
    import av

    header = _foreign_header(sound)
    first = round(start_s * header.rate)
    end = header.frames if seconds is None else min(first + round(seconds * header.rate), header.frames)
    at = 0
    try:
        with av.open(_rewound(sound)) as container:
            floats = av.AudioResampler(format="fltp")
            for frame in container.decode(container.streams.audio[0]):
                for part in floats.resample(frame):
                    samples = part.to_ndarray().T
                    kept = samples[max(first - at, 0) : max(end - at, 0)]
                    at += len(samples)
                    if len(kept):
                        yield np.ascontiguousarray(kept, dtype=np.float32), header.rate
                if at >= end:
                    return
    except av.error.FFmpegError as error:
        raise _unreadable(sound, error) from None
    # The last frame of AAC may be shorter than the container says.
    if at + header.rate // 10 < end:
        raise _truncated(sound)
