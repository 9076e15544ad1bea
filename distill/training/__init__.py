"""The training: objective, step, loop, checkpoints, validation."""
