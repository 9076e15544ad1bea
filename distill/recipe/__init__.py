"""A recipe: all settings of a run, how one is read, and the rows it names."""
