"""A trained model in a person's hands: sounds of any length in, texts with their times out."""
