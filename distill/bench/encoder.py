"""What the student's encoder costs where it hears a clip and its margin, and where it always hears 30 s: seconds.

    python scripts/bench.py encoder --config configs/kd_mini.json
    python scripts/bench.py encoder --config configs/kd_1b.json --random-weights

The speech encoder alone, at random weights (which change no time) and in the recipe's precision, one clip of noise at a
time. With --random-weights its sizes come from the recipe's `teacher.shapes`, else from the encoder's folder.
"""

import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import WhisperConfig

from data.errors import InputError
from data.paths import written_whole
from data.sound.audio import SAMPLE_RATE
from data.sound.features import WINDOW_S, log_mel
from distill.recipe.reading import recipe_of, recipe_parser
from distill.recipe.recipe import Recipe
from distill.report.table import markdown
from student.earlier import base_config
from student.low_rank import lower_rank
from student.shrink import layers_kept
from teacher.build import default_dtype, missing_error, missing_parts
from teacher.device import DTYPES, get_accelerator, pick_device, prepare_process
from teacher.encoder import SpeechEncoder
from teacher.weights import locate

SECONDS = (2, 5, 10, 30)


def student_encoder(recipe: Recipe) -> SpeechEncoder:
    """An untrained encoder of the student's shape.

    Raises:
        InputError: The recipe has no student, or the sizes of its encoder are not on this machine.
    """
    settings, teacher = recipe.student, recipe.teacher
    if settings is None:
        raise InputError("the recipe has no student section: its encoder always hears what the teacher's does")
    ranks = {}
    if settings.base:
        base = base_config(settings.base)
        config, ranks = base.encoder_config, base.encoder_ranks
    elif teacher.random_weights:
        if teacher.shapes is None:
            raise InputError("--random-weights: the recipe states no teacher.shapes, as configs/kd_1b.json does")
        config = WhisperConfig(**teacher.shapes.encoder)
    else:
        if missing := [part for part in missing_parts(teacher) if part.startswith("encoder:")]:
            raise missing_error(missing)
        config = WhisperConfig.from_pretrained(locate(teacher.encoder), trust_remote_code=False)
    kept = layers_kept(settings.encoder_layers, config.encoder_layers, "encoder_layers")
    config.encoder_ffn_dim = settings.encoder_ffn or config.encoder_ffn_dim
    with default_dtype(DTYPES[teacher.dtype]):
        encoder = SpeechEncoder(config, ranks=ranks)
    encoder.layers = torch.nn.ModuleList(encoder.layers[number] for number in kept)
    if settings.encoder_rank:
        lower_rank(encoder, settings.encoder_rank, None)
    return encoder.eval()


@torch.no_grad()
def measure(
    encoder: SpeechEncoder, margin_s: float | None, *, seconds: Sequence[int], runs: int
) -> dict[str, dict[str, float]]:
    """Times one clip of each length.

    Args:
        encoder: On its device.
        margin_s: The student's.
        seconds: Lengths of the clips.
        runs: Of each; the two ways in turn, after one run of each that is not counted.

    Returns:
        By length, the medians `seconds` and `always_30_s`.
    """
    device = encoder.conv1.weight.device
    synchronize = get_accelerator().synchronize if device.type != "cpu" else (lambda: None)
    noise = np.random.default_rng(0).normal(scale=0.1, size=WINDOW_S * SAMPLE_RATE).astype(np.float32)
    found = {}
    for length in seconds:
        wave = noise[: length * SAMPLE_RATE]
        ways = {}
        for way, margin in (("seconds", margin_s), ("always_30_s", None)):
            mel_BMT, frames_B = log_mel([wave], mel_bins=encoder.conv1.in_channels, margin_s=margin)
            ways[way] = mel_BMT.to(device), frames_B
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(runs + 1):
            for way, inputs in ways.items():
                synchronize()
                began = time.perf_counter()
                encoder(*inputs)
                synchronize()
                taken[way].append(time.perf_counter() - began)
        found[str(length)] = {way: statistics.median(times[1:]) for way, times in taken.items()}
        print(f"{length} s: {found[str(length)]}", file=sys.stderr, flush=True)
    return found


def page(entries: dict[str, dict]) -> str:
    """The table of all recipes that were measured."""
    lines = []
    for name, of in entries.items():
        for length, times in of["clips"].items():
            own, always = times["seconds"], times["always_30_s"]
            shape = f"{of['layers']} x {of['width']}, {of['dtype']}, {of['device']}"
            lines.append([name, shape, length, f"{1e3 * own:.1f}", f"{1e3 * always:.1f}", f"{always / own:.1f} x"])
    header = ["recipe", "encoder", "clip, s", "clip and margin, ms", "always 30 s, ms", "ratio"]
    return (
        "# The student's encoder on clips of their own length\n\n"
        "One clip at a time through the speech encoder of the student's shape, untrained: the clip and its margin "
        "(`student.margin_s`), and padded to 30 s as Whisper's own. Medians; the two ways in turn "
        f"(`scripts/bench.py encoder`).\n\n{markdown(header, lines)}\n"
    )


def main(words: Sequence[str] | None = None) -> None:
    """Measures, renews this recipe's lines of the table, and prints it."""
    parser = recipe_parser(__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, nargs="+", default=SECONDS, help="lengths of the clips")
    parser.add_argument("--runs", type=int, default=10, help="runs counted")
    parser.add_argument("--out", type=Path, default=Path("results/bench_encoder.md"), help="where the table goes")
    parser.add_argument("--json", action="store_true", help="print the figures")
    arguments = parser.parse_args(words)
    if not all(1 <= length <= WINDOW_S for length in arguments.seconds) or arguments.runs < 1:
        raise InputError(f"--seconds: clips of 1 to {WINDOW_S} s are heard; --runs: at least 1")
    recipe = recipe_of(arguments)
    prepare_process()
    encoder = student_encoder(recipe).to(pick_device())
    measured = {
        "layers": len(encoder.layers),
        "width": encoder.conv1.out_channels,
        "dtype": recipe.teacher.dtype,
        "device": get_accelerator().device_name(),
        "threads": torch.get_num_threads(),
        "margin_s": recipe.student.margin_s,
        "clips": measure(encoder, recipe.student.margin_s, seconds=arguments.seconds, runs=arguments.runs),
    }
    kept = arguments.out.with_suffix(".json")
    entries = json.loads(kept.read_text()) if kept.is_file() else {}
    entries[recipe.name.removesuffix("_random")] = measured  # the weights change no time
    with written_whole(kept) as temporary:
        temporary.write_text(json.dumps(entries, indent=2) + "\n")
    with written_whole(arguments.out) as temporary:
        temporary.write_text(page(entries), encoding="utf-8")
    print(json.dumps(measured, indent=2) if arguments.json else page(entries))
