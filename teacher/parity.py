"""How far this model is from the reference implementation, stage by stage, on a fixture that the reference ran."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from data.errors import InputError
from data.sound.audio import load_audio
from teacher.build import build_teacher
from teacher.model import SalmonnForConditionalGeneration
from teacher.processor import Clip, SalmonnProcessor
from teacher.settings import ModelSettings

TOLERANCES = {
    "spectrogram": 1e-4,
    "whisper": 1e-4,
    "beats": 1e-4,
    "audio_tokens": 1e-4,
    "inputs_embeds": 1e-4,
    "logits": 5e-4,
    "loss": 1e-4,
}
"""The largest absolute difference allowed in each stage."""

_PLACE = "<SpeechHere>"
_IDS = {"labels", "generate_beam1", "generate_beam4"}
_WHISPER_STEP = 25  # the fixture keeps every 25th frame
_POSITIONS, _WINDOW_S = 1500, 30.0  # of Whisper: windows are stated in seconds, and count frames


@dataclass
class Parity:
    """The outcome.

    Args:
        differences: Largest absolute difference by stage over samples and batches; infinite where shapes differ.
        equal: Whether `labels` and each kind of generated ids are the same everywhere.
    """

    differences: dict[str, float] = field(default_factory=dict)
    equal: dict[str, bool] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every stage was compared and is within its tolerance, and all ids are the same."""
        compared = self.differences.keys() | {"beats"} >= TOLERANCES.keys() and self.equal.keys() >= _IDS
        near = all(value <= TOLERANCES[stage] for stage, value in self.differences.items())
        return compared and near and all(self.equal.values())

    def add(self, stage: str, ours: Tensor, reference: Tensor) -> None:
        """Takes a stage's values into account; NaN is infinitely far."""
        difference = float("inf")
        if ours.shape == reference.shape and ours.numel() and (ours - reference).isfinite().all():
            difference = float((ours - reference).abs().max())
        self.differences[stage] = max(self.differences.get(stage, 0.0), difference)

    def same(self, name: str, ours: Tensor, reference: Tensor) -> None:
        """Takes ids into account."""
        self.equal[name] = self.equal.get(name, True) and torch.equal(ours, reference)


def check_parity(folder: Path) -> Parity:
    """Runs a fixture's samples alone and batched as its reference did.

    Args:
        folder: `model.json`, `samples.json`, `expected.safetensors`, the parts' files, and the sounds.

    Raises:
        InputError: A file is missing or broken, or the fixture is of a kind of SALMONN that is not known here.
    """
    model, processor, prompts = _build(folder)
    samples = _json(folder / "samples.json").get("annotation", [])
    try:
        expected = load_file(folder / "expected.safetensors")
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}/expected.safetensors: cannot be read ({error})") from error
    parity = Parity()
    for run in sorted({key.partition(".")[0] for key in expected}):
        numbers = re.fullmatch(r"s(\d+)|batch(\d+)", run)
        if numbers is None:
            raise InputError(f"{folder}/expected.safetensors: '{run}' is neither a sample (s0) nor a batch (batch02)")
        # A batch is named by its samples' digits.
        indices = [int(numbers[1])] if numbers[1] else [int(digit) for digit in numbers[2]]
        if max(indices) >= len(samples):
            raise InputError(f"{folder}/samples.json: has {len(samples)} samples, and expected.safetensors has '{run}'")
        rows = [samples[i] for i in indices]
        waves = [load_audio(folder / row["path"].lstrip("/")) for row in rows]
        clips = [Clip(wave, prompts[row["task"]], row["text"]) for wave, row in zip(waves, rows, strict=True)]
        of_run = {key.partition(".")[2]: value for key, value in expected.items() if key.partition(".")[0] == run}
        if lacks := sorted((TOLERANCES.keys() | {"labels"}) - {"beats"} - of_run.keys()):
            raise InputError(f"{folder}/expected.safetensors: {run} lacks {', '.join(lacks)}")
        _compare(parity, model, processor, clips, of_run)
    return parity


@torch.no_grad()
def _compare(
    parity: Parity,
    model: SalmonnForConditionalGeneration,
    processor: SalmonnProcessor,
    clips: list[Clip],
    expected: dict[str, Tensor],
) -> None:
    batch = processor(clips)
    states = model.encode(batch.features)
    audio_NH = model.connector(states)
    output = model(batch)
    logits = expected["logits"]
    ours = {
        "spectrogram": batch.features.mel_BMT[..., : expected["spectrogram"].shape[-1]],
        "whisper": states.speech_BTD[:, ::_WHISPER_STEP],
        "audio_tokens": audio_NH.unflatten(0, (len(clips), -1)),
        "inputs_embeds": model.embed(batch, audio_NH),
        "logits": output.logits[..., : logits.shape[-1]],
        "loss": output.loss.reshape(1),
    }
    if states.sound_BTD is not None:
        ours["beats"] = states.sound_BTD
    # What stands after the last supervised position is padding, which the reference fills otherwise.
    matters_BT = (expected["labels"] != -100).flip(1).cummax(1).values.flip(1)
    for stage in TOLERANCES:
        if stage not in ours and stage not in expected:
            continue
        if stage not in ours or stage not in expected:
            has = "has" if stage in expected else "lacks"
            raise InputError(f"expected.safetensors {has} '{stage}', and the fixture's parts say otherwise")
        mine, reference = ours[stage], expected[stage]
        if stage in ("inputs_embeds", "logits") and mine.shape == reference.shape:
            mine, reference = mine[matters_BT], reference[matters_BT]
        parity.add(stage, mine, reference)
    parity.same("labels", batch.labels_BT, expected["labels"])
    prompt = processor([Clip(clip.wave, clip.instruction) for clip in clips])
    for name, reference in expected.items():
        if beams := re.fullmatch(r"generate_beam(\d+)", name):
            written = model.generate(prompt, num_beams=int(beams[1]), max_new_tokens=reference.shape[1])
            parity.same(name, written, reference)


def _build(folder: Path) -> tuple[SalmonnForConditionalGeneration, SalmonnProcessor, dict[str, str]]:
    settings, qformer = _json(folder / "model.json"), _json(folder / "qformer" / "config.json")
    try:
        if not (settings["use_speech_Qformer"] and settings["window_level_Qformer"]):
            raise InputError(f"{folder}/model.json: only SALMONNs with a window-level Q-Former are known here")
        if settings["num_speech_query_token"] != 1:
            raise InputError(f"{folder}/model.json: only one query a window is known here")
        before, instructions = _apart(folder / "model.json", settings["prompts"])
        beats = folder / "beats.pt"
        lora = {
            "r": settings["lora_rank"],
            "lora_alpha": settings["lora_alpha"],
            "lora_dropout": settings["lora_dropout"],
        }
        parts = ModelSettings(
            encoder=str((folder / "whisper").absolute()),
            beats=str(beats.absolute()) if beats.is_file() else None,
            llm=str((folder / "llm").absolute()),
            weights=str((folder / "salmonn.pth").absolute()),
            dtype="fp32",
            qformer={
                "layers": settings["qformer_layers"],
                "width": qformer["hidden_size"],
                "heads": qformer["num_attention_heads"],
                "feed_forward": qformer["intermediate_size"],
            },
            window_frames=round(_POSITIONS * settings["second_per_window"] / _WINDOW_S),
            window_stride=round(_POSITIONS * settings["second_stride"] / _WINDOW_S),
            reference_padding=True,
            lora=lora if settings["lora"] else None,
            prompt={"template": settings["prompt_template"], "audio": f"{before}{_PLACE}{{}}"},
            end_symbol=settings["end_sym"],
        )
    except (KeyError, ValidationError) as error:
        raise InputError(f"{folder}/model.json: {error}") from error
    model, processor = build_teacher(parts)
    return model, processor, instructions


def _apart(path: Path, prompts: dict[str, str]) -> tuple[str, dict[str, str]]:
    """A fixture's prompts have the audio's place in them: what stands before it in all, and what after it in each."""
    parts = {task: prompt.partition(_PLACE) for task, prompt in prompts.items()}
    befores = {before for before, place, _ in parts.values() if place}
    if len(befores) != 1 or not all(place for _, place, _ in parts.values()):
        raise InputError(f"{path}: each of its prompts must have one {_PLACE}, with the same before it")
    return befores.pop(), {task: after for task, (_, _, after) in parts.items()}


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); name a fixture folder") from error
