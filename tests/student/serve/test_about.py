"""What a server says of its models."""

import json
from pathlib import Path

import httpx

from student.serve.about import about
from tests.student.serve.conftest import running


def test_facts_are_of_the_model_that_was_loaded(fake, tmp_path):
    weights, card = tmp_path / "model.safetensors", tmp_path / "card.json"
    weights.write_bytes(bytes(7))
    card.write_text(json.dumps({"model": "student"}))
    fake.folder = tmp_path
    with running({"fake": fake}) as server:
        # Another is exported to where it was.
        weights.write_bytes(bytes(70))
        card.write_text(json.dumps({"model": "teacher"}))
        (listed,) = httpx.get(f"{server.url}/v1/models").json()["data"]
        assert listed == httpx.get(f"{server.url}/v1/models/fake").json()
    assert (listed["about"]["role"], listed["about"]["weight_bytes"]) == ("student", 7)


def test_what_cannot_be_read_is_not_known(fake, tmp_path, monkeypatch):
    fake.folder = tmp_path
    card = tmp_path / "card.json"
    card.write_text(json.dumps({"model": "student"}))
    assert about(fake)["weight_bytes"] is None
    (tmp_path / "model-00001-of-00002.safetensors").symlink_to("gone")
    assert about(fake)["role"] == "student" and about(fake)["weight_bytes"] is None

    def denied(path, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", denied)
    assert about(fake)["role"] is None
