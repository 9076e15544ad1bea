"""On-policy stages by the real command in this process, on the tiny recipe."""

import json
import shutil
import weakref

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from distill.models.frozen import FrozenTeacher
from distill.recipe.reading import read_recipe
from distill.training.objective import Objective
from distill.training.on_policy import OnPolicy, RowDraws
from distill.training.run_log import RunLog
from distill.training.step import OptimizerStep

# A small rate: Adam's first steps are the signs of gradients, and would make rounding of the small ones visible.
RATES = {"encoder": 1e-4, "connector": 1e-4, "llm": 1e-4}
OWN = ['train.stages.1.losses={"kd": 0.5}', "train.stages.1.on_policy={}", f"train.stages.1.lr={json.dumps(RATES)}"]


def stages(*names, **own):
    """An override that has these stages, of two steps: "cache" reads it, "own" is on-policy, "ce" has no teacher."""
    losses = {"cache": {"ce": 0.5, "kd": 0.5}, "own": {"kd": 0.5}, "ce": {"ce": 1.0}}
    each = {"steps": 2, "max_seconds": 6, "warmup_steps": 0, "lr": RATES}
    made = [{"name": name, "losses": losses[name], **each} for name in names]
    for stage in made:
        stage |= {"on_policy": own} if stage["name"] == "own" else {}
    return f"train.stages={json.dumps(made)}"


@pytest.fixture
def train(command, tiny_recipe, tmp_path):
    """Runs distill/train.py; gives the records of its steps, and what was printed or, where it fails, the error."""

    def train(name, *overrides, ends=0):
        options = [word for override in (f"name={name}", *overrides) for word in ("--set", override)]
        status, out, err = command("distill/train.py", "--config", tiny_recipe, *options)
        assert status == ends, err
        path = tmp_path / "runs" / name / "steps.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        steps = [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]
        return steps, out if status in (0, 130) else err

    return train


@pytest.fixture
def written(monkeypatch):
    """The texts of every micro-batch that the student rewrote, and what became of it."""
    seen = []
    with_texts = OnPolicy._with_texts

    def note(self, example, texts, settings):
        made = with_texts(self, example, texts, settings)
        seen.append((texts, made))
        return made

    monkeypatch.setattr(OnPolicy, "_with_texts", note)
    return seen


def test_the_students_own_texts_are_trained_on(train, written, tmp_path):
    steps, _ = train("own", "cache=null", *OWN, "train.stages.1.on_policy.max_new_tokens=7", "student.margin_s=0.05")
    assert [step["on_policy"] for step in steps] == [False] * 2 + [True] * 4
    for step in steps[2:]:
        assert not step.keys() & {"ce", "ctc", "correct", "kept_mass"} and step["kd"] > 0
        assert step["loss"] == pytest.approx(0.5 * step["kd"])
        assert 0 <= step["agreement"] <= 1 and 0 < step["overlap"] < 1
    assert len(written) == 4
    for step, (texts, example) in zip(steps[2:], written, strict=True):
        assert step["tokens"] == sum(map(len, texts))
        assert step["ended"] == sum(text[-1] == 1 for text in texts) / len(texts)
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
    train("padded", "cache=null", stages("own"), f"student.llm={padded}", "student.llm_layers=null")
    assert written and all(id < 300 for texts, _ in written for text in texts for id in text)


def test_a_text_is_the_same_whichever_clips_are_beside_it(train, written):
    many = ["cache=null", "data.mix=[]", stages("own"), "deepspeed.gradient_accumulation_steps=2"]
    together, _ = train("together", *many)
    first = {row: text for texts, example in written for row, text in zip(example.ids, texts, strict=True)}
    assert len(written) == 4 and len({tuple(text) for text in first.values()}) > 6
    written.clear()
    apart, _ = train("apart", *many, "train.stages.0.on_policy.rows_at_once=1")
    assert {row: text for texts, example in written for row, text in zip(example.ids, texts, strict=True)} == first
    assert [step["loss"] for step in apart] == pytest.approx([step["loss"] for step in together], rel=1e-5)


def test_a_share_of_the_steps_is_on_policy_and_the_others_read_the_cache(train, fill_tiny_cache):
    fill_tiny_cache()
    some, _ = train("some", "train.stages.1.on_policy.share=0.5", "train.stages.1.steps=8")
    own = [step["on_policy"] for step in some]
    assert 0 < sum(own) < 8
    assert all(("ce" in step) != step["on_policy"] and ("kept_mass" in step) != step["on_policy"] for step in some[2:])
    plain, _ = train("plain")
    first = own.index(True)
    assert [step["loss"] for step in some[:first]] == [step["loss"] for step in plain[:first]]


def test_the_largest_batches_are_tried_with_given_texts_and_with_own_ones_of_the_caps_length(train, monkeypatch):
    """A student that ends each text at once, as it may before it has learnt anything, later writes longer ones."""
    forward, passed = Objective.forward, []

    def note(self, example, *how):
        passed.append(example)
        return forward(self, example, *how)

    monkeypatch.setattr(Objective, "forward", note)
    end = torch.nn.functional.one_hot(torch.tensor(1), 301) * 1e4
    monkeypatch.setattr(RowDraws, "__call__", lambda self, input_ids, scores: scores + end)
    own = ["cache=null", "train.teacher=memory", stages("own", share=0.5, max_new_tokens=7), "train.validate_clips=0"]
    train("own", *own, "train.largest_first=always", "train.stages.0.steps=1")
    tried = passed[:-1]  # before the one step
    assert {example.on_policy is not None for example in tried} == {True, False}
    for example in tried:
        lengths = (example.batch.labels_BT != -100).sum(1).tolist()
        assert (lengths == [7] * len(example.ids)) if example.on_policy else max(lengths) > 7


def test_a_run_stopped_in_the_midst_of_the_stage_goes_on_bit_for_bit(train, fill_tiny_cache, stopping_at):
    fill_tiny_cache()
    both = [stages("cache", "own"), "train.stages.1.steps=4"]
    whole, out = train("whole", *both)
    assert [step["on_policy"] for step in whole] == [False] * 2 + [True] * 4
    assert out.count("the teacher is in memory") == 1 and out.index("the teacher is in memory") > out.index("cache 1/6")
    with stopping_at(3):
        assert len(train("stopped", *both, ends=130)[0]) == 4
    again, out = train("stopped", *both)
    assert again == whole and out.count("the teacher is in memory") == 1


@pytest.mark.parametrize("zero", [1, 3])
def test_the_teacher_is_in_memory_for_its_stage_alone(train, fill_tiny_cache, monkeypatch, zero):
    fill_tiny_cache()
    teachers, weights, alive, held = [], [], [], []
    made, step = FrozenTeacher.__init__, OptimizerStep.__call__

    def note(self, model):
        made(self, model)
        teachers.append(weakref.ref(self))
        weights.extend(map(weakref.ref, model.parameters()))

    def look(self, number):
        record = step(self, number)
        alive.append(sum(ref() is not None for ref in teachers))
        there = [ref() for ref in weights if ref() is not None]
        there += [of.ds_tensor for of in there if hasattr(of, "ds_tensor")]  # a rank's share of it
        held.append(sum(of.untyped_storage().nbytes() for of in there))
        return record

    monkeypatch.setattr(FrozenTeacher, "__init__", note)
    monkeypatch.setattr(OptimizerStep, "__call__", look)
    # At the threshold 0 no weight is small enough to stay whole, as at full size.
    block = f'{{"stage": {zero}, "stage3_param_persistence_threshold": 0}}'
    steps, _ = train("gone", stages("cache", "own", "cache"), f"deepspeed.zero_optimization={block}")
    assert alive == [0, 0, 1, 1, 0, 0]
    assert held[:2] == held[4:] == [0, 0] and min(held[2:4]) > 2**18
    if zero == 1:  # at ZeRO 3 DeepSpeed keeps the modules, emptied
        assert not any(ref() for ref in weights)
    assert ["kept_mass" in of for of in steps] == [True, True, False, False, True, True]


def test_a_teacher_that_is_gone_when_its_stage_begins_is_told_and_what_was_done_is_kept(
    train, tiny_weights, monkeypatch, tmp_path
):
    weights = shutil.copy(tiny_weights / "trained.safetensors", tmp_path / "trained.safetensors")
    log = RunLog.step

    def lose(self, record, left_s):
        log(self, record, left_s)
        (tmp_path / "trained.safetensors").unlink(missing_ok=True)

    monkeypatch.setattr(RunLog, "step", lose)
    changes = [f"teacher.weights={weights}", "cache=null", stages("ce", "own"), "train.save_every=100"]
    steps, said = train("lost", *changes, ends=2)
    assert len(steps) == 2 and f"weights: {tmp_path}/trained.safetensors" in said and "Traceback" not in said
    assert (tmp_path / "runs" / "lost" / "checkpoints" / "step_2" / "sizes.json").is_file()


def test_a_teacher_that_cannot_run_here_is_refused_before_the_first_step(train, monkeypatch):
    monkeypatch.setattr("teacher.quantise.find_spec", lambda name: None)
    steps, said = train("int8", "cache=null", stages("ce", "own"), "teacher.precision.llm=int8", ends=2)
    assert not steps and "quantisation int8: the package torchao is not installed" in said


def test_zero_3_partitions_the_teacher_and_changes_nothing(train):
    first, _ = train("zero_1", "cache=null", *OWN)
    block = '{"stage": 3, "stage3_param_persistence_threshold": 0}'
    third, _ = train("zero_3", "cache=null", *OWN, f"deepspeed.zero_optimization={block}")
    assert [step["loss"] for step in third] == pytest.approx([step["loss"] for step in first], rel=1e-4)


def test_which_steps_are_on_policy_is_drawn_by_seed_and_step(tiny_recipe):
    def chosen(share, seed=0):
        changes = [f"seed={seed}", "train.stages.1.steps=400", f"train.stages.1.on_policy.share={share}"]
        changes.append(f'train.stages.1.losses={{"kd": 1, "ce": {0 if share == 1 else 1}}}')
        recipe = read_recipe(tiny_recipe, changes)
        own = [recipe.on_policy_at(step) is not None for step in range(recipe.total_steps)]
        weights = [recipe.weights_at(step) for step in range(recipe.total_steps)]
        assert not any(own[:2]) and all((of.ce == 0) == o for of, o in zip(weights[2:], own[2:], strict=True))
        return own[2:]

    quarter = chosen(0.25)
    assert quarter == chosen(0.25) != chosen(0.25, seed=1) and 70 < sum(quarter) < 130
    assert all(more or not less for less, more in zip(quarter, chosen(0.5), strict=True))
    assert all(chosen(1))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_are_of_the_distribution_and_a_rows_own(temperature):
    scores_V = torch.tensor([2.0, 1.0, -torch.inf, 0.0, -1.0])
    draws = RowDraws(list(range(4000)), temperature, torch.device("cpu"))
    first, second = (draws(None, scores_V.expand(4000, 5)).argmax(1) for _ in range(2))
    wanted_V = (scores_V / temperature).softmax(0)
    for drawn in (first, second):
        found_V = torch.bincount(drawn, minlength=5) / 4000
        assert (found_V - wanted_V).abs().max() < 4 * 0.5 / 4000**0.5 and found_V[2] == 0
    # As likely after one another as at once: nothing of the first draw is in the second.
    assert float((first == second).float().mean()) == pytest.approx(float(wanted_V.square().sum()), abs=0.04)
    alone = RowDraws([7], temperature, torch.device("cpu"))
    assert [int(alone(None, scores_V[None]).argmax(1)) for _ in range(2)] == [int(first[7]), int(second[7])]


def test_rows_without_a_text_are_written_about_too(train, own_data):
    """Of all rows none has a text: whatever is not asked of given texts goes on without."""
    content = json.loads((own_data / "train.json").read_text())
    for entry in content["annotation"]:
        entry["text"] = ""
    (own_data / "train.json").write_text(json.dumps(content))
    untexted = ["data.faults.no_text=teacher", stages("own"), "train.stages.0.steps=1"]
    steps, _ = train("untexted", *untexted)
    assert steps[0]["on_policy"] and steps[0]["kd"] > 0
    hidden = 'train.stages.0.losses={"kd": 0.5, "hidden": 0.5}'
    steps, said = train("relative", *untexted, hidden, ends=2)
    assert "train.match.hidden 'relative': no training row has a text" in said and not steps
