"""Sounds: decoded, made mono at 16 kHz, checked, and turned into features."""
