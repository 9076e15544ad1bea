"""Accuracy of a recipe's models: transcripts, captions, submissions."""
