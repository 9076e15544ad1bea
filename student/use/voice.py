"""Where somebody speaks: Silero's voice detector (MIT), a small recurrent network, by onnxruntime."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime

from data.errors import InputError

FRAME = 512
"""Samples at 16 kHz that the detector judges at once: 32 ms."""
_CONTEXT = 64
_FILE = "data/silero_vad_16k_sequence.onnx"


@cache
def _detector() -> onnxruntime.InferenceSession:
    # Only the file is taken: importing the package sets PyTorch to one thread.
    package = find_spec("silero_vad")
    file = Path(package.origin).parent / _FILE if package else None
    if file is None or not file.is_file():
        raise InputError("silero-vad: not installed, or an older one; pip install -r requirements.txt")
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


class VoiceDetector:
    """Tells of one sound, part after part, how likely speech is in each frame.

    Raises:
        InputError: The detector is not installed.
    """

    def __init__(self) -> None:
        self._session = _detector()
        self._hidden, self._cell = (np.zeros((1, 1, 128), np.float32) for _ in range(2))
        self._before = np.zeros(_CONTEXT, np.float32)

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        """Probabilities of the next frames.

        Args:
            wave: float32 mono at 16 kHz, whole frames of it; of the sound's end the last one may be shorter.

        Returns:
            float32 [frames].
        """
        if not len(wave):
            return np.zeros(0, np.float32)
        frames = np.pad(wave, (0, -len(wave) % FRAME)).reshape(-1, FRAME)
        # Each frame is judged with the end of the one before it.
        ends = np.concatenate([self._before[None], frames[:-1, -_CONTEXT:]])
        self._before = frames[-1, -_CONTEXT:]
        given = {"input": np.concatenate([ends, frames], 1), "h": self._hidden, "c": self._cell}
        speech, self._hidden, self._cell = self._session.run(["speech_probs", "hn", "cn"], given)
        return speech.reshape(-1)
