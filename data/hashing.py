"""Hashes that name a thing by its content, and chances that are drawn from them."""

import hashlib
import json
from typing import Any


def hash_of(value: Any) -> str:
    """SHA-256 (hexadecimal) of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(canonical(value)).hexdigest()


def canonical(value: Any) -> bytes:
    """A JSON value as bytes, the same whatever the order of its keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def seed_of(value: Any) -> int:
    """A whole number of 48 bits, as if by chance, that depends on a JSON value alone: the same on every machine."""
    return int(hash_of(value)[:12], 16)


def drawn(value: Any) -> float:
    """As `seed_of`, a number in [0, 1)."""
    return seed_of(value) / 2**48
