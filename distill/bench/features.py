"""How many clips a second are decoded and made into features, against the reference's way, in one run.

    python scripts/bench.py features [--clips 400] [--beats]

The reference takes clip by clip: soundfile, librosa's resampling, a log-mel of 30 s (transformers'
WhisperFeatureExtractor). Clips: the mini recipe's recordings joined and cut to durations like those of SALMONN's
training data (median 5.3 s), flac and wav, one in four at 44.1 kHz. Writes results/features.md and features.json.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch
from transformers import WhisperFeatureExtractor

from data.batches import batches_by_length
from data.sound.audio import MAX_SECONDS, SAMPLE_RATE, load_audio
from data.sound.decode import sound_info
from data.sound.features import fbank, log_mel
from distill.bench.sound_mix import write_mix
from distill.report.table import markdown, write_measured

ROUNDS = 3
MARGIN_S = 0.1
MAX_BATCH_S = 120.0


def ours(files: list[Path], seconds: list[float], beats: bool) -> None:
    """Batch by batch, in as many threads as cores: as the training's loader does."""

    def make(batch: list[int]) -> None:
        waves = [load_audio(files[i]) for i in batch]
        log_mel(waves, mel_bins=80, margin_s=MARGIN_S)
        if beats:
            fbank(waves)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for made in [pool.submit(make, batch) for batch in batches_by_length(seconds, MAX_BATCH_S)]:
            made.result()


def reference(files: list[Path], extractor: WhisperFeatureExtractor, beats: bool) -> None:
    """Clip by clip, each as 30 s."""
    for file in files:
        samples, rate = soundfile.read(file)
        samples = samples if samples.ndim == 1 else samples[:, 0]
        if rate != SAMPLE_RATE:
            samples = librosa.resample(samples, orig_sr=rate, target_sr=SAMPLE_RATE)
        samples = np.pad(samples, (0, max(0, SAMPLE_RATE - len(samples))))[: MAX_SECONDS * SAMPLE_RATE]
        extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        if beats:
            fbank([samples.astype(np.float32)])


def main(words: Sequence[str] | None = None) -> None:
    """Measures, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=400, help="clips a round")
    parser.add_argument("--beats", action="store_true", help="BEATs' filter banks too, on both sides")
    parser.add_argument("--out", type=Path, default=Path("results/features.md"), help="where the table goes")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        rates = (SAMPLE_RATE, SAMPLE_RATE, SAMPLE_RATE, 44_100)
        files = write_mix(Path(folder) / "sounds", arguments.clips, rates=rates, suffixes=("flac", "wav", "flac"))
        seconds = [min(sound_info(file).seconds, MAX_SECONDS) + MARGIN_S for file in files]
        extractor = WhisperFeatureExtractor()
        ways = {
            "this project": lambda of, s: ours(of, s, arguments.beats),
            "the reference's way": lambda of, s: reference(of, extractor, arguments.beats),
        }
        best = dict.fromkeys(ways, 0.0)
        for way in ways.values():
            way(files[:8], seconds[:8])  # filters and tables are made once
        for _ in range(ROUNDS):
            for name, way in ways.items():
                began = time.monotonic()
                way(files, seconds)
                best[name] = max(best[name], len(files) / (time.monotonic() - began))
    measured = {"clips": len(files), "mean_s": float(np.mean(seconds)) - MARGIN_S, "cores": os.cpu_count()}
    measured |= {"threads": torch.get_num_threads(), "beats": arguments.beats, "rates": best}
    write_measured(arguments.out, measured, page(measured))


def page(measured: dict) -> str:
    """The table, for people."""
    baseline = measured["rates"]["the reference's way"]
    lines = [[name, f"{rate:.1f}", f"{rate / baseline:.1f} x"] for name, rate in measured["rates"].items()]
    banks = " and BEATs' filter banks" if measured["beats"] else ""
    return (
        "# From sound files to features\n\n"
        f"Decoding, resampling and log-mel{banks} of {measured['clips']:,} clips, {measured['mean_s']:.1f} s of each "
        f"heard on average, on {measured['cores']} cores. The best of {ROUNDS} rounds in turn, files in memory. "
        f"`python scripts/bench.py features`\n\n{markdown(['way', 'clips/s', 'ratio'], lines)}\n"
    )
