"""What a run reads and builds before its first step, counted."""

from collections import Counter

import pytest

from data import known_hashes
from teacher import build


@pytest.fixture
def counts(monkeypatch):
    """How often each file is hashed, and an LLM is read, by the folder's name, while a command runs."""
    hashed, read = Counter(), Counter()
    monkeypatch.setattr(known_hashes, "_known", {})
    before = known_hashes.file_sha256, build.load_pretrained
    monkeypatch.setattr(known_hashes, "file_sha256", lambda path: (hashed.update([path.name]), before[0](path))[1])

    def reading(kind, folder, dtype):
        read.update([folder.name])
        return before[1](kind, folder, dtype)

    monkeypatch.setattr(build, "load_pretrained", reading)
    return hashed, read


def test_a_run_hashes_each_weight_file_once(train, counts, fill_tiny_cache):
    # In this process, which fills the cache and trains from it, as the first rank does that shows the teacher's texts.
    hashed, _ = counts
    fill_tiny_cache("cache.hypotheses=true")
    train("run")
    assert hashed["trained.safetensors"] == 1 and hashed["model.safetensors"] == 2  # the encoder's and the LLM's
    assert set(hashed.values()) == {1, 2}


def test_the_teachers_llm_is_read_where_a_stage_or_the_student_asks_it(train, counts, tiny_weights):
    _, read = counts
    own = ["train.teacher=memory", f"student.llm={tiny_weights}/llm", "student.llm_layers=null"]
    train("whole")
    assert read == {"llm": 1}  # the student's is cut from it; its features and distributions are cached
    read.clear()
    features = "train.stages=" + str(
        [{"name": "a", "steps": 1, "max_seconds": 6, "losses": {"encoder": 1}, "lr": {"encoder": 1e-3}}]
    ).replace("'", '"')
    train("features", *own, features)
    assert not read  # neither the student nor the stage asks it, with the teacher in memory
    train("in_memory", *own, "train.stages.0.steps=1", "train.stages.1.steps=1")
    assert read == {"llm": 1}  # the second stage does, and it alone
