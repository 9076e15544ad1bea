"""Memory and speed of a recipe's models."""
