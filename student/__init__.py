"""A smaller SALMONN made from the teacher, and either of them used: `from student import AudioLM`."""

from typing import TYPE_CHECKING

import teacher.processor  # noqa: F401 (which makes transformers' own classes, AutoModel and the like, know the model)

if TYPE_CHECKING:
    from student.use.audio_lm import AudioLM

__all__ = ["AudioLM"]


def __getattr__(name: str) -> object:
    # On request: what makes students takes no part of using them.
    if name == "AudioLM":
        from student.use.audio_lm import AudioLM

        return AudioLM
    raise AttributeError(f"module 'student' has no attribute '{name}'")
