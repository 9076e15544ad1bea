import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.cache.reader import CacheReader
from data.errors import InputError
from distill.losses.matching import FeatureMatching
from distill.losses.settings import LossWeights
from distill.recipe.reading import read_recipe
from distill.recipe.rows import read_rows
from distill.training.examples import Examples
from student.shrink import shrink
from teacher.connector import within
from teacher.processor import SalmonnProcessor

NO_CTC = "train.stages.1.losses.ctc=0"


class Rewritten(CacheReader):
    """A cache whose rows say something else."""

    def __init__(self, folder, **changes):
        super().__init__(folder)
        self.changes = changes

    def texts(self):
        for entry in super().texts():
            yield replace(entry, **self.changes)

    def __getitem__(self, row_id):
        return replace(super().__getitem__(row_id), **self.changes)


@pytest.fixture
def examples(tiny_recipe, tiny_teacher, fill_tiny_cache):
    """A function that makes the examples of the tiny recipe over its filled cache."""
    folder, _ = fill_tiny_cache()

    def make(*overrides, **changes):
        recipe = read_recipe(tiny_recipe, [NO_CTC, *overrides])
        rows = read_rows(recipe, recipe.data.train)
        # The untrained teacher's texts are all cut at the cap.
        return Examples(recipe, tiny_teacher[1], rows, Rewritten(folder, **{"hypothesis_ended": True} | changes))

    return make


def supervised_texts(examples, weights):
    """Text by row id, as the labels have it."""
    indices = range(len(examples.rows))
    labels_BT = examples(list(indices), weights).batch.labels_BT
    texts = [examples.processor.decode(row[None, row != -100])[0] for row in labels_BT]
    return {examples.rows[i].id: text for i, text in zip(indices, texts, strict=True)}


def test_a_share_of_the_rows_is_trained_on_what_the_teacher_wrote(examples):
    good = ["train.hypotheses.max_wer=100", "train.hypotheses.min_logp=-1000"]
    weights = LossWeights(ce=0.5, kd=0.5)
    mixed, cache = examples("train.hypotheses.share=0.5", *good), examples().cache
    hypotheses = {row_id: cache[row_id].hypothesis for row_id in cache.ids()}
    references = {row.id: row.text for row in mixed.rows}
    assert all(hypotheses.values()) and not hypotheses.items() & references.items()
    texts = supervised_texts(mixed, weights)
    written = [row_id for row_id, text in texts.items() if text == hypotheses[row_id]]
    assert 0 < len(written) < len(texts)
    assert all(texts[row_id] == references[row_id] for row_id in texts.keys() - written)
    # The same rows without distillation, in another order, and one by one.
    assert supervised_texts(mixed, LossWeights(ce=1)) == texts
    assert supervised_texts(examples("train.hypotheses.share=0.5", *good), weights) == texts
    assert supervised_texts(examples("train.hypotheses.share=0.5", "seed=5", *good), weights) != texts
    assert supervised_texts(examples("train.hypotheses.share=1", *good), weights) == hypotheses
    assert supervised_texts(examples(), weights) == references


def test_the_distribution_is_that_on_the_text(examples):
    made = examples("train.hypotheses.share=1", "train.hypotheses.max_wer=100", "train.hypotheses.min_logp=-1000")
    indices = [2, 0]
    signal = made(indices, LossWeights(kd=1)).signal
    targets = [made.cache[made.rows[i].id].targets["hypothesis"] for i in indices]
    np.testing.assert_array_equal(signal.tail_N.numpy(), np.concatenate([target.tail for target in targets]))


@pytest.mark.parametrize(
    ("cached", "kept"),
    [
        ({"hypothesis_wer": 0.2, "hypothesis_logp": -9.0}, True),
        ({"hypothesis_wer": 0.21, "hypothesis_logp": -0.01}, False),
        ({"hypothesis_wer": None, "hypothesis_logp": -0.3}, True),
        ({"hypothesis_wer": None, "hypothesis_logp": -0.31}, False),
        ({"hypothesis": "", "hypothesis_wer": 0.0, "hypothesis_logp": 0.0}, False),
        ({"hypothesis_wer": None, "hypothesis_logp": 0.0, "hypothesis_ended": False}, False),
    ],
)
def test_a_text_that_is_not_good_enough_is_not_trained_on(examples, cached, kept):
    limits = ["train.hypotheses.share=1", "train.hypotheses.max_wer=0.2", "train.hypotheses.min_logp=-0.3"]
    made = examples(*limits, "train.hypotheses.characters_per_second=[0,1000]", **cached)
    texts = supervised_texts(made, LossWeights(ce=1))
    references = {row.id: row.text for row in made.rows}
    assert (texts == references) == (not kept)


@pytest.mark.parametrize("margin_s", [0.1, 0.05])
def test_cached_features_are_those_that_the_teacher_would_make(
    tiny_recipe, tiny_teacher, fill_tiny_cache, tmp_path, margin_s
):
    kept = [f"cache.folder={tmp_path}/features", 'cache.features=["encoder", "audio_tokens"]']
    folder, _ = fill_tiny_cache(*kept)
    recipe = read_recipe(tiny_recipe, [*kept, f"student.margin_s={margin_s}"])
    teacher, teacher_processor = tiny_teacher
    student = shrink(teacher, recipe.student)
    own = SalmonnProcessor(teacher_processor.tokenizer, student.config)
    rows = read_rows(recipe, recipe.data.train)
    weights = LossWeights(encoder=1, audio_tokens=1)
    cached = Examples(recipe, own, rows, CacheReader(folder))([3, 0, 7], weights)
    assert cached.features.audio_NH.dtype == torch.float16
    cached = cached.to("cpu")
    with_teacher = Examples(
        read_recipe(tiny_recipe, [f"student.margin_s={margin_s}"]), own, rows, None, teacher_processor
    )
    example = with_teacher([3, 0, 7], weights)
    assert example.features is None
    states = student.encode(example.batch.features)
    matching = FeatureMatching(student, teacher.config, recipe.train.match)
    batch = example.teacher_batch or example.batch
    found = matching.answer(teacher, batch, states.frames_B, weights.features, llm=False)
    (cached_BTD,), cached_NH, (encoder_BTD,) = cached.features.encoder, cached.features.audio_NH, found.encoder
    real_BT = within(states.frames_B, cached_BTD.shape[1])
    torch.testing.assert_close(cached_BTD[real_BT], encoder_BTD[:, : real_BT.shape[1]][real_BT], atol=2e-3, rtol=2e-3)
    assert cached_NH.shape == found.audio_NH.shape
    same_N = (cached_NH - found.audio_NH).abs().amax(1) < 5e-3
    assert same_N.all() if margin_s == 0.1 else same_N.float().mean() > 0.8  # a last window may hear less there
    only = Examples(recipe, own, rows, CacheReader(folder))([3], LossWeights(audio_tokens=1))
    assert only.features.encoder == [] and only.features.audio_NH is not None


def test_an_annotation_that_changed_since_is_refused(examples):
    made = examples()
    made.rows = [replace(row, text="something else") for row in made.rows]
    with pytest.raises(InputError, match="its tokens are not the recipe's text 'something else'"):
        made([0], LossWeights(kd=1))


def test_a_sound_that_was_replaced_under_its_name_since_is_refused(
    tiny_recipe, tiny_teacher, own_data, fill_tiny_cache, tmp_path
):
    kept = [f"cache.folder={tmp_path}/sounds", 'cache.features=["encoder", "audio_tokens"]', NO_CTC]
    folder, _ = fill_tiny_cache(*kept)
    recipe = read_recipe(tiny_recipe, kept)
    made = Examples(recipe, tiny_teacher[1], read_rows(recipe, recipe.data.train), CacheReader(folder))
    path = own_data / "sounds" / "train_0.wav"
    (at,) = (number for number, row in enumerate(made.rows) if row.path == path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3_000] + bytes(3_000))  # as long as before
    for weights in (LossWeights(kd=1), LossWeights(encoder=1)):
        with pytest.raises(InputError, match=rf"train_0\.wav: another sound than row {made.rows[at].id} was cached of"):
            made([at], weights)
    made([at - 1], LossWeights(kd=1))
    made([at], LossWeights(ce=1))  # nothing of the teacher's is asked
    path.unlink()
    path.write_bytes(whole)  # a copy, at another time
    made([at], LossWeights(kd=1))
    earlier = Examples(recipe, tiny_teacher[1], made.rows, Rewritten(folder, sound=""))
    path.write_bytes(whole[:-3_000] + bytes(3_000))
    earlier([at], LossWeights(kd=1))  # of a cache of before, nothing is known
    path.write_bytes(whole)


def test_what_was_asked_of_a_cached_row_is_asked_of_the_student(tiny_recipe, tiny_teacher, own_data, fill_tiny_cache):
    file = own_data / "train.json"
    content = json.loads(file.read_text())
    for entry in content["annotation"][::4]:
        entry |= {"task": "QA", "Q": f"what is {entry['id']} about?"}
    file.write_text(json.dumps(content))
    wordings = {"asr": ["transcribe", "write", "say"], "audiocaption": ["describe", "what is heard"], "QA": ["{}"]}
    changes = [NO_CTC, f"data.prompts={json.dumps(wordings)}"]
    folder, _ = fill_tiny_cache(*changes)
    recipe = read_recipe(tiny_recipe, changes)
    rows = read_rows(recipe, recipe.data.train)
    made = Examples(recipe, tiny_teacher[1], rows, CacheReader(folder))
    asked = {}
    for weights in (LossWeights(kd=1), LossWeights(ce=1)):
        example = made(list(range(len(rows))), weights)
        for row, instruction, ids in zip(rows, example.instructions, example.batch.input_ids_BT.tolist(), strict=True):
            assert instruction == made.cache[row.id].prompt
            assert f" {instruction}\nASSISTANT:" in made.processor.tokenizer.decode(ids)
            asked.setdefault(row.task, set()).add(instruction)
    assert asked["QA"] == {f"what is train_{number} about?" for number in (0, 4, 8)}
    assert asked["asr"] <= set(wordings["asr"]) and len(asked["asr"]) > 1


def test_a_clip_that_cannot_be_read_any_more_is_left_out_where_the_recipe_says_so(examples, own_data, capsys):
    weights = LossWeights(ce=1)
    strict, lenient = examples(), examples("data.faults.unreadable=drop")
    few = examples("data.faults.unreadable=drop", "data.faults.max_dropped=0.1")
    ids = [row.id for row in lenient.rows]
    for name in ("train_2", "train_4"):  # as a disk that fails in the middle of a run
        (own_data / "sounds" / f"{name}.wav").write_bytes(b"RIFF")
    with pytest.raises(InputError, match=r"train_2.wav.*\(left out with data.faults.unreadable=drop\)"):
        strict([1, 2, 3], weights)
    for _ in range(2):
        made = lenient([1, 2, 3], weights)
        assert made.ids == ("train_1", "train_3") and len(made.batch.labels_BT) == 2
    assert capsys.readouterr().out.count("1 clips left out that cannot be read, the last: ") == 1
    alone = lenient([2], weights)
    (stand_in,) = alone.ids
    tasks = {row.id: row.task for row in lenient.rows}
    assert stand_in == next(row_id for row_id in ids[3:] if tasks[row_id] == tasks["train_2"])
    assert lenient([4], weights).ids != ("train_4",) and "2 clips left out" in capsys.readouterr().out
    assert few([2, 3], weights).ids == ("train_3",)
    with pytest.raises(InputError, match=r"more clips than data.faults.max_dropped cannot be read"):
        few([4, 5], weights)


def test_with_kept_states_too_a_clip_that_cannot_be_read_is_left_out_where_the_recipe_says_so(
    examples, tiny_teacher, own_data, capsys
):
    weights, drop = LossWeights(ce=1), "data.faults.unreadable=drop"
    strict, kept, heard, few = examples(), examples(drop), examples(drop), examples(drop, "data.faults.max_dropped=0")
    path = own_data / "sounds" / "train_2.wav"  # its header is whole
    path.write_bytes(path.read_bytes()[:-3_000])

    def keep(of):
        of.keep_encoded(tiny_teacher[0], max_seconds=3, quiet=True)

    with pytest.raises(InputError, match=r"train_2.wav.*\(left out with data.faults.unreadable=drop\)"):
        keep(strict)
    with pytest.raises(InputError, match=r"more clips than data.faults.max_dropped cannot be read"):
        keep(few)
    keep(kept)
    assert capsys.readouterr().out.count("1 clips left out that cannot be read") == 2
    for indices in ([1, 2, 3], [2]):
        made = kept(indices, weights)
        assert made.ids == heard(indices, weights).ids and "train_2" not in made.ids and len(made.ids) > 0
        assert len(made.states.frames_B) == len(made.batch.labels_BT) == len(made.ids)


def test_where_no_clip_of_a_task_can_be_read_it_is_said(examples, own_data):
    made = examples("data.faults.unreadable=drop", "data.faults.max_dropped=1")
    for row in made.rows:
        if row.task == "audiocaption":
            row.path.write_bytes(b"RIFF")
    (first, *_) = [number for number, row in enumerate(made.rows) if row.task == "audiocaption"]
    with pytest.raises(InputError, match="no clip of task 'audiocaption' with a text of the stage can be read"):
        made([first], LossWeights(ce=1))


def test_kept_states_are_those_without_dropout(tiny_recipe, tiny_teacher, own_data):
    teacher, processor = tiny_teacher
    recipe = read_recipe(
        tiny_recipe,
        ["cache=null", 'train.stages=[{"name": "a", "steps": 1, "losses": {"ce": 1}, "lr": {"llm": 1e-3}}]'],
    )
    made = Examples(recipe, processor, read_rows(recipe, recipe.data.train))
    kept = []
    for training in (True, False):
        for layer in teacher.encoder.layers:
            layer.dropout = 0.5
        made.keep_encoded(teacher.train(training), max_seconds=60, quiet=True)
        kept.append(made([0, 1], LossWeights(ce=1)).states.speech_BTD)
    assert torch.equal(*kept)
