"""What writes the texts of a test set: a model in PyTorch, or its device package."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Protocol

import numpy as np
import torch

from data.errors import InputError
from data.rows.manifest import durations_of
from data.rows.row import Row
from data.sound.audio import SAMPLE_RATE, load_clips
from distill.models.loading import parameter_counts, part_bytes
from distill.models.packages import package_sizes
from teacher.hypotheses import GenerationSettings, Hypothesis, write_batch
from teacher.model import SalmonnForConditionalGeneration
from teacher.processor import SalmonnProcessor, heard_seconds


class Source(Protocol):
    """Writes texts."""

    def seconds(self, rows: Sequence[Row]) -> np.ndarray:
        """Seconds that are heard of each row's clip."""

    def write(self, pairs: Sequence[tuple[Row, str]]) -> list[Hypothesis]:
        """A text for each row with the wording of its instruction; they are one batch."""

    def sizes(self) -> dict:
        """Parameters, layers, bytes and the device, as metrics.json has them."""


@dataclass(frozen=True)
class InTorch:
    """A model in PyTorch.

    Attributes:
        model: In evaluation mode, on its device.
        processor: The model's.
        settings: Beams and caps.
    """

    model: SalmonnForConditionalGeneration
    processor: SalmonnProcessor
    settings: GenerationSettings

    def seconds(self, rows: Sequence[Row]) -> np.ndarray:
        """See `Source`."""
        return self.processor.seconds(rows)

    def write(self, pairs: Sequence[tuple[Row, str]]) -> list[Hypothesis]:
        """See `Source`."""
        return write_batch(self.model, self.processor, pairs, self.settings)

    def sizes(self) -> dict:
        """See `Source`."""
        parts = parameter_counts(self.model)
        return {
            "parameters": sum(parts.values()),
            "parameters_without_embeddings": sum(parts.values()) - parts["embeddings"],
            "encoder_layers": len(self.model.encoder.layers),
            "llm_layers": self.model.config.llm_config.num_hidden_layers,
            "parts": parts,
            "weight_bytes": sum(part_bytes(self.model).values()),
            "device": self.model.device.type,
        }


class OnDevice:
    """A model's device package, by the code that lies in it; it writes one clip after the other.

    As a model in PyTorch is scored, so here: silence is heard, and a text that goes in circles goes on to its cap.

    Args:
        package: The package's folder.
        settings: Beams and caps.

    Raises:
        InputError: The package cannot be run.
    """

    def __init__(self, package: Path, settings: GenerationSettings) -> None:
        from student.device import run  # only here: models in PyTorch do without its libraries

        self.package, self.settings = package, settings
        try:
            self.lm = run.DeviceLM(package, torch.get_num_threads(), settings.num_beams, guarded=False)
        except run.InputError as error:  # of its own, as the file does without this repository
            raise InputError(str(error)) from None
        self._around = cache(self.lm.around)

    def seconds(self, rows: Sequence[Row]) -> np.ndarray:
        """See `Source`."""
        return heard_seconds(durations_of(rows), self.lm.settings["audio"]["margin_s"])

    def write(self, pairs: Sequence[tuple[Row, str]]) -> list[Hypothesis]:
        """See `Source`."""
        began = monotonic()
        waves, faults = load_clips([row for row, _ in pairs])
        texts = {i: self._text(wave, pairs[i][1]) for i, wave in waves.items()}
        seconds = (monotonic() - began) / len(pairs)
        return [Hypothesis(row, texts.get(i, ""), None, seconds, faults.get(i, "")) for i, (row, _) in enumerate(pairs)]

    def sizes(self) -> dict:
        """See `Source`."""
        return package_sizes(self.package)

    def _text(self, wave: np.ndarray, instruction: str) -> str:
        return self.lm.write(wave, *self._around(instruction), self.settings.cap(len(wave) / SAMPLE_RATE))[0]
