import hashlib

import pytest

from data import known_hashes
from data.known_hashes import known_sha256, stamp_of, take_over


@pytest.fixture
def read(monkeypatch):
    """The files that are read to be hashed, one after the other."""
    read, hashed = [], known_hashes.file_sha256
    monkeypatch.setattr(known_hashes, "file_sha256", lambda path: (read.append(path), hashed(path))[1])
    return read


def test_a_file_is_read_once_until_it_is_another(tmp_path, read):
    path = tmp_path / "model.safetensors"
    for content in (b"weights", b"other weights"):
        path.write_bytes(content)
        for _ in range(3):
            assert known_sha256(path) == hashlib.sha256(content).hexdigest()
    assert read == [path, path]


def test_what_another_process_has_hashed_is_not_read(tmp_path, read):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    take_over({stamp_of(path): "told"})
    assert known_sha256(path) == "told" and not read
    path.write_bytes(b"weights of another size")
    assert known_sha256(path) == hashlib.sha256(b"weights of another size").hexdigest()
