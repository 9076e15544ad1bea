"""What is in a corpus: figures, plots, a page."""
