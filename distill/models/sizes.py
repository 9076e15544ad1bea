"""The student beside the teacher, part by part: parameters, bytes, and operations for ten seconds of audio."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from data.sound.audio import SAMPLE_RATE
from distill.models.loading import parameter_counts
from teacher.config import SalmonnConfig
from teacher.model import SalmonnForConditionalGeneration
from teacher.processor import Clip, SalmonnProcessor

AUDIO_S = 10


@torch.no_grad()
def operations(config: SalmonnConfig, processor: SalmonnProcessor, instruction: str) -> dict[str, int]:
    """Floating-point operations of one clip of ten seconds up to its first logits, by part.

    Counted on a pass of sizes alone, on the meta device (matrix products, convolutions and attention; a multiplication
    and an addition are two).

    Args:
        config: The model's.
        processor: The model's.
        instruction: What is asked of the clip.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = SalmonnForConditionalGeneration(config).eval().requires_grad_(False)
    wave = np.random.default_rng(0).normal(scale=0.1, size=AUDIO_S * SAMPLE_RATE).astype(np.float32)
    # Nothing of one clip is padded; whether a mask says so could not be asked of a device without values.
    batch = replace(processor([Clip(wave, instruction)]).to(model.device), attention_mask_BT=None)

    def counted(what: Callable[[], object]) -> tuple[object, int]:
        # Fused attention is not counted on every device; its plain form is matrix products.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            out = what()
        return out, counter.get_total_flops()

    states, encoder = counted(lambda: model.encode(batch.features))
    audio_NH, connector = counted(lambda: model.connector(states))
    head = model.llm.get_output_embeddings()
    _, llm = counted(lambda: head(model.hidden(batch, audio_NH)[:, -1]))
    return {"encoder": encoder, "connector": connector, "llm": llm}


def beside(models: dict[str, tuple[SalmonnForConditionalGeneration, SalmonnProcessor]], instruction: str) -> str:
    """A table of two or more models' parts, for people.

    Args:
        models: By name, with their processors; the ratio is the last one's to the first one's.
        instruction: Of the clip on which operations are counted.
    """
    columns = []
    for model, processor in models.values():
        counts = parameter_counts(model)
        parts = {
            "encoder": counts["encoder"] + counts.get("beats", 0),
            "connector": counts["connector"],
            "llm": counts["llm"],
            "embeddings": counts["embeddings"],
            "all": sum(counts.values()),
        }
        flops = operations(model.config, processor, instruction)
        columns.append(
            {f"{part}, M parameters": number / 1e6 for part, number in parts.items()}
            | {f"{part}, MB in 16 bits": 2 * number / 1e6 for part, number in parts.items()}
            | {f"{part}, GFLOP for {AUDIO_S} s": number / 1e9 for part, number in flops.items()}
        )
    lines = [f"{'':<30}" + "".join(f"{name:>12}" for name in models) + f"{'ratio':>8}"]
    for label in columns[0]:
        amounts = [column[label] for column in columns]
        ratio = f"{amounts[-1] / amounts[0]:>6.2f} x" if amounts[0] else ""
        lines.append(f"{label:<30}" + "".join(f"{amount:>12,.1f}" for amount in amounts) + ratio)
    return "\n".join(lines)
