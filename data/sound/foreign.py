"""Sounds decoded by FFmpeg (PyAV): mp3 and m4a, and what libsndfile does not hear to its end.

Samples are counted as they are decoded, so that a file's length is what is heard of it.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from data.sound.lengths import behind_id3, mp3_begin, mp3_counted, require_one_m4a
from data.sound.source import (
    Part,
    Probe,
    Sound,
    Window,
    joined_unlike,
    require_plausible,
    rewound,
    truncated,
    unreadable,
)

_MARGIN_S = 1.0
"""What is decoded before a stretch: a frame of mp3 or AAC sounds as it does only behind those before it."""
_PART_S = 30
_ADDED = 5
"""Frames of AAC by which a length may differ from those that there are: encoders add some, which are not heard."""
_MP4 = "mov,mp4,m4a,3gp,3g2,mj2"


@contextmanager
def _container(sound: Sound) -> Iterator:
    import av  # here, as few files need it

    with Probe(sound) as probe:
        begin, stated, size = mp3_begin(probe), behind_id3(probe), probe.size
        if probe.read(4, 4) == b"ftyp":
            require_one_m4a(probe)
    try:
        # FFmpeg would go by a tag's length, also where it is wrong.
        file = Window(sound, Part(begin, size)) if begin < stated else rewound(sound)
        with av.open(file, metadata_errors="replace") as container:
            if not container.streams.audio:
                raise unreadable(sound, "it has no sound")
            codec = container.streams.audio[0].codec_context
            if not (codec and codec.sample_rate and codec.channels):
                raise unreadable(sound, "its header names no codec, rate or channels that there are")
            require_plausible(sound, codec.sample_rate, codec.channels)
            yield container
    except (av.error.FFmpegError, IndexError, TypeError) as error:
        raise unreadable(sound, error) from None


def foreign_header(sound: Sound) -> tuple[int, int, int]:
    """Samples of a channel, rate and channels."""
    with Probe(sound) as probe:
        if counted := mp3_counted(probe):
            return counted
    with _container(sound) as container:
        stream = container.streams.audio[0]
        rate, channels, length = stream.rate, stream.channels, _stated(sound, container)
    if length is None:
        length = sum(len(samples) for samples, _ in foreign_blocks(sound, 0.0, None))
    return length, rate, channels


def foreign_blocks(sound: Sound, start_s: float, seconds: float | None) -> Iterator[tuple[np.ndarray, int]]:
    """Samples [frames, channels] of a stretch, and their rate.

    Long files are decoded in parts of 30 s, each by a decoder of its own: so a stretch is that of the whole to the last
    bit (AAC fills bands with noise that depends on all that its decoder heard), and what lies before its part is not
    decoded.
    """
    with _container(sound) as container:
        rate, stated = container.streams.audio[0].rate, _stated(sound, container)
        in_parts = container.format.name in ("mp3", _MP4)
    first = round(start_s * rate)
    end = math.inf if seconds is None else first + round(seconds * rate)
    end = end if stated is None else min(end, stated)
    part = _PART_S * rate if in_parts else 0
    begin, channels = first // part * part if part else 0, 0
    while first < end:
        until = min(begin + part, end) if part else end
        for samples in _part(sound, begin, first, until, stated is not None):
            channels = channels or samples.shape[1]
            if samples.shape[1] != channels:
                raise joined_unlike(sound)
            yield samples, rate
            first += len(samples)
        if first < until or not part:
            break
        begin += part
    # The last frame of AAC may be shorter than the container says.
    if stated is not None and first + rate // 10 < end:
        raise truncated(sound)


def _part(sound: Sound, begin: int, first: int, end: float, indexed: bool) -> Iterator[np.ndarray]:
    """The samples from `first` to `end`, of a decoder that starts a little before `begin`."""
    import av

    with _container(sound) as container:
        stream, at = container.streams.audio[0], None
        rate = stream.rate  # of its first frames
        starts = stream.start_time or 0  # what an encoder added before the sound is not heard
        from_tick = starts + int((begin / rate - _MARGIN_S) / stream.time_base) if begin else None
        if begin and indexed:
            container.seek(from_tick, stream=stream)
        floats = av.AudioResampler(format="fltp")
        for packet in container.demux(stream):
            # Without an index a place is found by counting frames, which are not decoded.
            if begin and not indexed and packet.pts is not None and packet.pts < from_tick:
                continue
            for frame in _decoded(packet):
                if frame.sample_rate != rate:
                    raise joined_unlike(sound)
                if at is None:
                    at = round((frame.pts - starts) * stream.time_base * rate) if begin else 0
                for piece in floats.resample(frame):
                    samples = piece.to_ndarray().T
                    kept = samples[max(first - at, 0) : max(min(end, at + len(samples)) - at, 0)]
                    at += len(samples)
                    if len(kept):
                        yield np.ascontiguousarray(kept, dtype=np.float32)
            if at is not None and at >= end:
                return


def _decoded(packet) -> list:
    """The frames of a packet; none of what lies between the frames of an mp3, as a tag does in the middle of one."""
    import av

    try:
        return packet.decode()
    except av.error.InvalidDataError:
        if packet.stream.codec_context.name not in ("mp3", "mp3float"):
            raise
        return []


def _stated(sound: Sound, container) -> int | None:
    """Samples of a channel as the file states them, where that can be believed."""
    if container.format.name == "mp3":
        with Probe(sound) as probe:
            counted = mp3_counted(probe)
        return counted and counted[0]
    stream = container.streams.audio[0]
    if container.format.name == _MP4:
        for length, unit in ((stream.duration, stream.time_base), (container.duration, 1e-6)):
            if length and length > 0:  # a damaged header may state less than nothing
                samples, there = round(length * unit * stream.rate), stream.frames * stream.codec_context.frame_size
                return samples if not there or abs(there - samples) <= _ADDED * there // stream.frames else None
    return None
