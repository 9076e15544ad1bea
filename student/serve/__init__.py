"""Trained models behind HTTP, as OpenAI's API has it: transcripts, captions, answers."""
