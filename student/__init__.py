"""A smaller SALMONN made from the teacher, and either of them used: `from student import AudioLM`."""

from student.use.audio_lm import AudioLM

__all__ = ["AudioLM"]
