"""The losses: the fused head and loss, divergences, what the teacher says, features, other vocabularies, CTC."""
