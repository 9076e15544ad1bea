"""The largest batches come first and change nothing; memory that is used up is one line, and nothing is lost."""

import json

import numpy as np
import pytest
import torch

from data.batches import LengthBatches
from distill.training.objective import Objective
from tests.conftest import records


@pytest.mark.parametrize("most", [200, None])
def test_the_largest_batches_are_of_most_seconds_clips_and_text(most):
    rng = np.random.default_rng(0)
    seconds, tokens = rng.uniform(1, 10, 200), rng.integers(1, 50, 200)
    batches = LengthBatches(seconds, max_seconds=30, seed=1, text_tokens=tokens, max_text_tokens=most)
    of_epoch = [batches.step(number)[0] for number in range(batches.steps_per_epoch)]
    largest = batches.largest(tokens)
    assert all(batch in of_epoch for batch in largest)
    for size in (
        lambda batch: len(batch) * seconds[batch].max(),
        len,
        lambda batch: len(batch) * tokens[batch].max(),
    ):
        assert max(map(size, largest)) == max(map(size, of_epoch))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_what_is_tried_first_changes_nothing(train, stopping_at, tmp_path, accumulation):
    own = [f"deepspeed.gradient_accumulation_steps={accumulation}", "train.stages.1.max_seconds=4"]
    own += ["student.qformer.dropout=0.1"]
    plain, told = train("plain", *own)
    tried, out = train("tried", *own, "train.largest_first=always")
    assert "the largest batches fit" in out and "the largest batches fit" not in told
    with stopping_at(2):
        train("stopped", *own, "train.largest_first=always", ends=130)
    resumed, _ = train("stopped", *own, "train.largest_first=always")
    for other in (tried, resumed):
        assert [of["loss"] for of in other] == [of["loss"] for of in plain]
        assert [of["grad_norm"] for of in other] == [of["grad_norm"] for of in plain]


@pytest.fixture
def full(monkeypatch):
    """A function after which memory is used up in the n-th forward pass."""

    def full(number):
        forward, passed = Objective.forward, []

        def until(self, *arguments):
            passed.append(1)
            if len(passed) > number:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return forward(self, *arguments)

        monkeypatch.setattr(Objective, "forward", until)

    return full


def test_memory_that_is_used_up_names_the_stage_and_nothing_is_lost(
    command, tiny_recipe, fill_tiny_cache, full, monkeypatch, tmp_path
):
    fill_tiny_cache()
    whole = Objective.forward
    full(4)
    status, _, err = command("distill/train.py", "--config", tiny_recipe)
    line = err.strip().splitlines()[-1]
    assert status == 2 and "Traceback" not in err
    assert line.startswith(
        "error: out of memory on cpu: lower train.stages.1.max_seconds, which is 6, or go on from the"
    )
    assert (tmp_path / "runs/tiny/checkpoints/step_4").is_dir()
    monkeypatch.setattr(Objective, "forward", whole)
    again = ["--set", "deepspeed.activation_checkpointing={}"]
    status, out, err = command("distill/train.py", "--config", tiny_recipe, *again)
    assert status == 0 and "going on from step 4" in out, err
    assert [of["step"] for of in records(tmp_path / "runs/tiny/steps.jsonl")] == [*range(6)]


def test_memory_that_is_used_up_at_the_start_is_told_there(command, tiny_recipe, fill_tiny_cache, full, tmp_path):
    fill_tiny_cache()
    full(0)
    words = ["--set", "train.largest_first=always", "--set", "deepspeed.activation_checkpointing={}"]
    status, _, err = command("distill/train.py", "--config", tiny_recipe, *words)
    line = err.strip().splitlines()[-1]
    assert status == 2 and "lower train.stages.0.max_seconds, which is 6; the last checkpoint is kept" in line
    assert not (tmp_path / "runs/tiny/steps.jsonl").exists()


def _out_of_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory.")


def _until_memory_is_used_up(made, calls):
    """`made`, which runs out of memory after some calls."""
    left = iter(range(calls))
    return lambda *arguments: _out_of_memory() if next(left, None) is None else made(*arguments)


def test_memory_that_is_used_up_in_validation_names_its_budget(command, tiny_recipe, fill_tiny_cache, monkeypatch):
    fill_tiny_cache()
    monkeypatch.setattr("distill.training.validation.write_batch", _out_of_memory)
    status, _, err = command("distill/train.py", "--config", tiny_recipe, "--set", "train.validate_every=2")
    line = err.strip().splitlines()[-1]
    assert status == 2 and "lower generation.max_seconds, which is 6; this run then goes on" in line, err


def test_memory_that_is_used_up_in_caching_keeps_what_is_cached(command, tiny_recipe, monkeypatch, tmp_path):
    from data.cache.reader import CacheReader
    from teacher import cache

    made = cache._cache_batch
    monkeypatch.setattr(cache, "_cache_batch", _until_memory_is_used_up(made, 2))
    status, _, err = command("scripts/cache_teacher.py", "--config", tiny_recipe)
    line = err.strip().splitlines()[-1]
    assert status == 2 and "Traceback" not in err
    assert "out of memory on cpu: lower cache.max_seconds, which is 6 (what is cached stays" in line
    cached = CacheReader(tmp_path / "cache").ids()
    assert cached
    monkeypatch.setattr(cache, "_cache_batch", made)
    assert command("scripts/cache_teacher.py", "--config", tiny_recipe)[0] == 0
    assert len(CacheReader(tmp_path / "cache").ids()) == 12 > len(cached)


def test_memory_that_is_used_up_in_scoring_keeps_what_is_written(command, tiny_recipe, monkeypatch, tmp_path):
    from distill.scoring import sources

    monkeypatch.setattr(sources, "write_batch", _until_memory_is_used_up(sources.write_batch, 1))
    words = ["--config", tiny_recipe, "--model", "teacher", "--set", "evaluation.max_seconds=4"]
    status, _, err = command("scripts/evaluate.py", *words)
    line = err.strip().splitlines()[-1]
    assert status == 2 and "lower evaluation.max_seconds, which is 4 (what is written stays" in line, err
    lines = (tmp_path / "results/tiny/teacher/hypotheses.jsonl").read_text().splitlines()
    assert [json.loads(of).get("id") for of in lines if "hypothesis" in json.loads(of)]
