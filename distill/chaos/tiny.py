"""A tiny SALMONN of random weights, a few seconds of sound, and a recipe over both: all that a whole run needs."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

SAMPLE_RATE = 16_000
QFORMER = {"layers": 1, "width": 32, "heads": 2, "feed_forward": 64, "dropout": 0.0}
SENTENCES = [
    "the agent is now logged in",
    "please enter your password",
    "your call is important to us",
    "press one to leave a message",
    "a dog is barking",
    "a cow, then a bell",
]
PROMPTS = {"asr": ["transcribe"], "audiocaption": ["describe the sound", "what is heard"]}
DURATIONS = (1.0, 1.3, 2.9, 1.7, 2.2, 1.1, 2.6, 1.5, 2.0, 1.9, 2.4, 1.2)
"""Seconds, in the order of the training rows: mixed lengths, so that batches are padded."""


def sound(seconds: float, seed: int) -> np.ndarray:
    """A gliding tone over noise: real-shaped, and different for each seed."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(seed).normal(scale=0.05, size=len(time))
    return (0.3 * np.sin(2 * np.pi * (200 + 90 * seed + 60 * time) * time) + noise).astype(np.float32)


def write_annotation_of(folder: Path, name: str, rows: Sequence[tuple[str, float, str]]) -> None:
    """`name.json` and its wavs; a row is task, seconds and text."""
    import soundfile

    entries = []
    for index, (task, seconds, text) in enumerate(rows):
        path = folder / "sounds" / f"{name}_{index}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, sound(seconds, index + len(name)), SAMPLE_RATE, subtype="PCM_16")
        entry = {"path": f"sounds/{path.name}", "text": text, "task": task, "id": f"{name}_{index}"}
        entries.append(entry | ({"references": [text, text + " loudly"]} if task == "audiocaption" else {}))
    (folder / f"{name}.json").write_text(json.dumps({"annotation": entries}))


def write_data(folder: Path) -> None:
    """train.json (asr and audiocaption), valid.json, test_asr.json and test_aac.json with their sounds."""
    tasks = ["audiocaption" if text.startswith("a ") else "asr" for text in SENTENCES]
    pairs = list(zip(tasks, SENTENCES, strict=True))
    write_annotation_of(
        folder,
        "train",
        [(task, seconds, text) for seconds, (task, text) in zip(DURATIONS, pairs * 2, strict=True)],
    )
    write_annotation_of(folder, "valid", [("asr", 1.2, SENTENCES[0]), ("asr", 2.1, SENTENCES[1])])
    write_annotation_of(folder, "test_asr", [("asr", s, SENTENCES[i]) for i, s in enumerate((1.0, 2.3, 1.6, 1.4))])
    write_annotation_of(folder, "test_aac", [("audiocaption", s, SENTENCES[4]) for s in (1.5, 2.0)])


def teacher_section(weights: Path) -> dict:
    """The recipe's teacher, but for its trained part."""
    return {
        "encoder": str(weights / "whisper"),
        "llm": str(weights / "llm"),
        "dtype": "fp32",
        "qformer": QFORMER,
        "window_frames": 8,
        "window_stride": 8,
        "margin_s": 0.1,
        "lora": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": ["q_proj", "v_proj"]},
        "prompt": {"template": "USER: {}\nASSISTANT:", "audio": "<SpeechHere> {}"},
    }


def tiny_sections(data: Path, weights: Path, out: Path) -> dict:
    """A recipe of six steps in fp32 without dropout, as its JSON.

    Args:
        data: What `write_data` wrote.
        weights: What `write_weights` (`tiny_weights.py`) wrote.
        out: Where cache, runs and results go.
    """
    batches = {"max_seconds": 6, "warmup_steps": 1}
    return {
        "name": "tiny",
        "runs": str(out / "runs"),
        "results": str(out / "results"),
        "data": {
            "train": str(data / "train.json"),
            "valid": [str(data / "valid.json")],
            "test": {"asr": str(data / "test_asr.json")},
            "prompts": PROMPTS,
        },
        "teacher": teacher_section(weights) | {"weights": str(weights / "trained.safetensors")},
        "student": {
            "encoder_layers": [1],
            "llm_layers": [0, 1, 3],
            "qformer": QFORMER,
            "qformer_layers": [0],
            "margin_s": 0.1,
        },
        "cache": {
            "folder": str(out / "cache"),
            "targets": ["reference", "hypothesis"],
            "top_k": 16,
            "max_seconds": 6,
        },
        "train": {
            "save_every": 2,
            "validate_every": 100,
            "stages": [
                {
                    "name": "features",
                    "steps": 2,
                    "losses": {"encoder": 1.0, "audio_tokens": 1.0},
                    "lr": {"encoder": 1e-3, "connector": 1e-3},
                    **batches,
                },
                {
                    "name": "distil",
                    "steps": 4,
                    "losses": {"ce": 0.5, "kd": 0.5, "ctc": 0.1},
                    "lr": {"encoder": 1e-3, "connector": 1e-3, "llm": 1e-3},
                    **batches,
                },
            ],
        },
        "generation": {"max_new_tokens": 8, "max_seconds": 6},
        "evaluation": {"warmup_runs": 1, "measured_runs": 1},
        "deepspeed": {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": 1.0,
            # DeepSpeed's own reserves 2 GB for each engine: after a few tests the process is too large to fork.
            "zero_optimization": {"stage": 1, "reduce_bucket_size": 1_000_000},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 1_000_000_000,
        },
    }
