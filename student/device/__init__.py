"""A trained model as a package for a small machine: ONNX, GGUF, and a run-time of one file."""
