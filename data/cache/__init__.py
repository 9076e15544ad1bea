"""The teacher cache: what it holds, its files, writing and reading them."""
