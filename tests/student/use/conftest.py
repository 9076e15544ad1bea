"""A tiny model in use, and a detector that takes what is loud for speech, as a test's speech is."""

import numpy as np
import pytest

from student.use.voice import FRAME, VoiceDetector


class Loud(VoiceDetector):
    def __init__(self) -> None:
        return

    def __call__(self, wave):
        frames = np.pad(wave, (0, -len(wave) % FRAME)).reshape(-1, FRAME)
        return np.where(np.abs(frames).max(1, initial=0) > 0.1, 0.99, 0.01).astype(np.float32)


@pytest.fixture
def loud(monkeypatch):
    monkeypatch.setattr("student.use.stretches.VoiceDetector", Loud)


@pytest.fixture
def tiny_lm(tiny_teacher, loud):
    """An `AudioLM` of the tiny teacher, whose texts are capped by their sound's length and may end early."""
    from student.use.audio_lm import AudioLM
    from student.use.usage import usage_of
    from teacher.hypotheses import GenerationSettings
    from tests.conftest import PROMPTS

    model, processor = tiny_teacher
    prompts = {task: tuple(wordings) for task, wordings in PROMPTS.items()}
    generation = GenerationSettings(max_new_tokens=24, tokens_per_second=3, max_seconds=8)
    return AudioLM(model.eval(), processor, usage_of(prompts, generation, learnt={"asr": 30.0, "audiocaption": 30.0}))
