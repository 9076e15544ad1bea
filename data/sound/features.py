"""What the encoders hear of a clip's real length: Whisper's log-mel spectrogram, and BEATs' Kaldi filter banks.

Letters: B clips, M mel bins, T frames (10 ms), F filter banks.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torchaudio.compliance import kaldi
from transformers.audio_utils import mel_filter_bank

from data.sound.audio import SAMPLE_RATE

_FFT, HOP = 400, 160
WINDOW_S = 30
FBANK_BINS = 128
_FBANK_MEAN, _FBANK_STD = 15.41663, 6.55582  # of AudioSet, as BEATs was trained


@dataclass
class Features:
    """The features of a batch of clips.

    Args:
        mel_BMT: Log-mel features, zeros past each clip's end and margin.
        mel_frames_B: Frames of each clip that become audio tokens; counts stay on the host, which reads them.
        fbank_BTF: Normalised filter banks, where the model has BEATs; zeros past each clip's end.
        fbank_frames_B: Real frames of them, on the host too.
    """

    mel_BMT: Tensor
    mel_frames_B: Tensor
    fbank_BTF: Tensor | None = None
    fbank_frames_B: Tensor | None = None

    def to(self, device: torch.device | str) -> "Features":
        """The same features on another device; their counts where they are."""

        def moved(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(device, non_blocking=True)

        return Features(moved(self.mel_BMT), self.mel_frames_B, moved(self.fbank_BTF), self.fbank_frames_B)

    def of(self, clips: list[int]) -> "Features":
        """The features of some clips."""
        return Features(*[None if x is None else x[clips] for x in vars(self).values()])


@cache
def mel_filters(mel_bins: int) -> Tensor:
    """Whisper's mel filters (M, frequencies of the spectrum)."""
    bank = mel_filter_bank(
        num_frequency_bins=1 + _FFT // 2,
        num_mel_filters=mel_bins,
        min_frequency=0.0,
        max_frequency=8_000.0,
        sampling_rate=SAMPLE_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    # Copied into memory of torch's own alignment: products with it then round the same in every process.
    return torch.from_numpy(bank.T.astype(np.float32)).clone()


def log_mel(waves: list[np.ndarray], *, mel_bins: int, margin_s: float | None) -> tuple[Tensor, Tensor]:
    """Whisper's features: log10 mel power, floored at 8 below the clip's maximum, scaled to about [-1, 1].

    Args:
        waves: Mono 16 kHz clips, float32.
        mel_bins: 80, or 128 for Whisper large-v3.
        margin_s: Silence appended to each clip, seconds; None pads to 30 s, as Whisper was trained.

    Returns:
        mel_BMT, zeros after each clip's end (with the margin), and its frames mel_frames_B (int64).
    """
    limit = WINDOW_S * SAMPLE_RATE
    frames = []
    for wave in waves:
        padded = limit if margin_s is None else min(len(wave) + round(margin_s * SAMPLE_RATE), limit)
        frames.append(max(padded // (2 * HOP), 1) * 2)  # whole encoder frames
    mel_BMT = torch.zeros(len(waves), mel_bins, max(frames))
    for row_MT, wave, length in zip(mel_BMT, waves, frames, strict=True):
        spectrum_MT = (mel_filters(mel_bins) @ _power(wave, length).T).clamp_(min=1e-10).log10_()
        spectrum_MT.clamp_(min=spectrum_MT.max() - 8.0).add_(4.0)
        torch.div(spectrum_MT, 4.0, out=row_MT[:, :length])
    return mel_BMT, torch.tensor(frames)


def _power(wave: np.ndarray, length: int) -> Tensor:
    """The power (T, frequencies) of a clip in so many frames, silence after it; each frame's middle is at a hop.

    As `torch.stft` has it, bit for bit, with its ends reflected; written out, log-mel takes 0.8 x the time.
    """
    size, half = length * HOP, _FFT // 2
    samples = torch.zeros(size + _FFT)
    kept = min(len(wave), size)
    samples[half : half + kept] = torch.from_numpy(wave[:kept])
    samples[:half] = samples[half + 1 : _FFT + 1].flip(0)
    samples[half + size :] = samples[size - 1 : size + half - 1].flip(0)
    bins = torch.fft.rfft(samples.unfold(0, _FFT, HOP)[:length] * _window())
    return bins.real.square().addcmul_(bins.imag, bins.imag)  # half the time of abs() ** 2


@cache
def _window() -> Tensor:
    return torch.hann_window(_FFT)


def fbank(waves: list[np.ndarray], *, bins: int = FBANK_BINS, reference_padding: bool = False) -> tuple[Tensor, Tensor]:
    """Kaldi's log filter banks (25 ms windows, 10 ms hop), normalised as BEATs expects them.

    Args:
        waves: Mono 16 kHz clips, float32, of at least 25 ms.
        bins: Filter banks.
        reference_padding: Of the waves padded to the longest one, counted as the released BEATs counts them; else of
            each clip alone.

    Returns:
        fbank_BTF, zeros after each clip's end (not with `reference_padding`), and its frames (int64).
    """
    lengths = [len(wave) for wave in waves]
    if reference_padding:
        waves = [np.pad(wave, (0, max(lengths) - len(wave))) for wave in waves]
    banks = [
        kaldi.fbank(
            torch.from_numpy(wave)[None] * 2**15,
            num_mel_bins=bins,
            sample_frequency=SAMPLE_RATE,
            frame_length=25,
            frame_shift=10,
        )
        for wave in waves
    ]
    banks = [(bank - _FBANK_MEAN) / (2 * _FBANK_STD) for bank in banks]
    frames_B = torch.tensor([len(bank) for bank in banks])
    if reference_padding:
        # The released BEATs cuts the wave into as many equal parts as there are frames.
        part = max(lengths) // len(banks[0])
        frames_B = ((torch.tensor(lengths) + part - 1) // part).minimum(frames_B)
    return torch.nn.utils.rnn.pad_sequence(banks, batch_first=True), frames_B
