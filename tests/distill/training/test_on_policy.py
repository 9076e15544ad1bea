"""On-policy distillation by the real command in this process, on the tiny recipe with its teacher in memory."""

import json
import os
import shutil
import signal

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from distill.losses.settings import LossWeights
from distill.recipe.reading import read_recipe
from distill.training.on_policy import OnPolicy
from distill.training.run_log import RunLog

MEMORY = ["train.teacher=memory", "cache=null"]
ALL = "train.on_policy.fraction=1"
# A small rate: Adam's first steps are the signs of gradients, and would make rounding of the small ones visible.
SLOW = [f"train.stages.1.lr.{part}=1e-4" for part in ("encoder", "connector", "llm")]


@pytest.fixture
def train(command, tiny_recipe, tmp_path):
    """Runs distill/train.py without a cache; gives the records of its steps."""

    def train(name, *overrides, ends=0):
        options = [word for override in (f"name={name}", *MEMORY, *overrides) for word in ("--set", override)]
        status, _, err = command("distill/train.py", "--config", tiny_recipe, *options)
        assert status == ends, err
        lines = (tmp_path / "runs" / name / "steps.jsonl").read_text().splitlines()
        return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]

    return train


@pytest.fixture
def written(monkeypatch):
    """The texts of every micro-batch that the student rewrote, and what became of it."""
    seen = []
    with_texts = OnPolicy._with_texts

    def note(self, example, texts):
        made = with_texts(self, example, texts)
        seen.append((texts, made))
        return made

    monkeypatch.setattr(OnPolicy, "_with_texts", note)
    return seen


def test_the_students_own_texts_are_trained_on(train, written, tmp_path):
    steps = train("own", ALL, "train.on_policy.max_new_tokens=7", "student.margin_s=0.05")
    assert ["on_policy" in step and step["on_policy"] for step in steps] == [False] * 2 + [True] * 4
    for step in steps[2:]:
        assert not step.keys() & {"ce", "ctc", "correct"} and step["kd"] > 0 and step["agreement"] >= 0
        assert step["loss"] == pytest.approx(0.5 * step["kd"])
    assert len(written) == 4 and sum(step["tokens"] for step in steps[2:]) == sum(
        len(text) for texts, _ in written for text in texts
    )
    for texts, example in written:
        for batch in (example.batch, example.teacher_batch):  # as the student gets it, and as the teacher does
            assert [row[row != -100].tolist() for row in batch.labels_BT] == texts
        assert all(0 < len(text) <= 7 and 300 not in text for text in texts)  # [PAD] is no word
        assert all(1 not in text[:-1] for text in texts)  # nothing follows the end symbol
    assert (tmp_path / "runs" / "own" / "model" / "config.json").is_file()


def test_rows_that_only_pad_the_students_head_are_never_drawn(train, written, tiny_weights, tmp_path):
    padded = shutil.copytree(tiny_weights / "llm", tmp_path / "padded")
    config = json.loads((padded / "config.json").read_text()) | {"vocab_size": 320}
    llm = LlamaForCausalLM(LlamaConfig(**config))
    with torch.no_grad():
        llm.get_output_embeddings().weight[301:] *= 20  # else one of them would seldom be drawn
    llm.save_pretrained(padded)
    train("padded", ALL, f"student.llm={padded}", "student.llm_layers=null")
    assert written and all(id < 300 for texts, _ in written for text in texts for id in text)


def test_without_it_nothing_changes_and_a_part_is_between(train, written):
    plain = train("plain")
    assert train("none", "train.on_policy.fraction=0", "train.on_policy.temperature=3") == plain and not written
    some = train("some", "train.on_policy.fraction=0.5", "train.stages.1.steps=8")
    own = [step["on_policy"] for step in some]
    assert 0 < sum(own) < 8 and len(written) == sum(own)
    assert all(("ce" in step) != step["on_policy"] for step in some[2:])
    first = own.index(True)
    assert [step["loss"] for step in some[:first]] == [step["loss"] for step in plain[:first]]


def test_a_stopped_run_goes_on_bit_for_bit(train, monkeypatch):
    half = ["train.on_policy.fraction=0.7", "train.stages.1.steps=6"]
    whole = train("whole", *half)
    assert 1 < sum(step["on_policy"] for step in whole) < 6
    log = RunLog.step

    def stop_after_four(self, record, left_s):
        log(self, record, left_s)
        if record["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "step", stop_after_four)
        assert len(train("stopped", *half, ends=130)) == 4
    assert train("stopped", *half) == whole


def test_zero_3_partitions_the_teacher_and_changes_nothing(train):
    first = train("zero_1", ALL, *SLOW)
    # Threshold 0: at full size no weight is small enough to stay whole, so none may here.
    block = '{"stage": 3, "stage3_param_persistence_threshold": 0}'
    third = train("zero_3", ALL, *SLOW, f"deepspeed.zero_optimization={block}")
    assert [step["loss"] for step in third] == pytest.approx([step["loss"] for step in first], rel=1e-4)


def test_the_draw_is_that_of_seed_and_step(tiny_recipe):
    def chosen(fraction, seed=0):
        recipe = read_recipe(tiny_recipe, [*MEMORY, f"seed={seed}", f"train.on_policy.fraction={fraction}"])
        policy = OnPolicy(recipe, None, None)
        assert not any(policy.chosen(step, LossWeights(ce=1)) for step in range(50))
        return [policy.chosen(step, LossWeights(kd=1)) for step in range(400)]

    quarter = chosen(0.25)
    assert quarter == chosen(0.25) != chosen(0.25, seed=1) and 70 < sum(quarter) < 130
    assert all(more or not less for less, more in zip(quarter, chosen(0.5), strict=True))
    assert not any(chosen(0)) and all(chosen(1))
