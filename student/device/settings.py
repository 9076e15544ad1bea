"""What the run-time of a device package is told: shapes, instructions and their token ids, bounds of the texts."""

import json
from pathlib import Path

import numpy as np

from data.paths import written_whole
from data.sound.features import mel_filters
from student.use.usage import Usage
from teacher.processor import SalmonnProcessor

FILE, FILTERS = "settings.json", "mel_filters.npy"


def settings_of(processor: SalmonnProcessor, usage: Usage) -> dict:
    """The settings, as JSON has them.

    Instructions come as token ids too: the run-time tokenises questions alone.
    """
    config = processor.config
    begin = processor.tokenizer.bos_token_id
    return {
        "format": 1,
        "audio": {
            "margin_s": config.margin_s,
            "window_frames": config.window_frames,
            "window_stride": config.window_stride,
            "reference_padding": config.reference_padding,
        },
        "mix": usage.mono == "mix",
        "num_beams": usage.num_beams,
        "begin": [] if begin is None else [begin],
        "end": config.eos_token_id,
        "pieces": list(processor.prompt_pieces),
        "tasks": {
            task: use.model_dump() | dict(zip(("before", "after"), _around(processor, use.instruction), strict=True))
            for task, use in usage.tasks.items()
        },
    }


def _around(processor: SalmonnProcessor, instruction: str) -> tuple[list[int], list[int]]:
    """The ids before the audio tokens and after them."""
    ids = processor.prompt_ids(instruction, 1)
    place = ids.index(processor.config.pad_token_id)
    return ids[:place], ids[place + 1 :]


def write_settings(processor: SalmonnProcessor, usage: Usage, folder: Path) -> None:
    """Writes `settings.json`, and the mel filters."""
    with written_whole(folder / FILTERS) as temporary, open(temporary, "wb") as file:
        np.save(file, mel_filters(processor.config.encoder_config.num_mel_bins).numpy())
    with written_whole(folder / FILE) as temporary:
        text = json.dumps(settings_of(processor, usage), indent=2, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")
