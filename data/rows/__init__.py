"""Rows: annotation files, manifests and shards, what is at fault in them and what is done about it."""
