"""Whether a run that is killed, or meets a fault of the machine, ends as one that nobody touched."""
