"""What a person reads who starts a recipe whose files are not there."""

import pytest

from data.errors import InputError
from data.paths import cache_dir
from distill.recipe.inputs import require_inputs, weights_of
from distill.recipe.reading import read_recipe
from distill.training.optimizer import learning_rate


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """The full-size recipe on a machine with an empty cache folder."""
    monkeypatch.setenv("SALMONN_DISTILL_CACHE", str(tmp_path))
    return read_recipe("configs/kd_1b.json")


def test_one_message_names_all_that_is_missing_and_the_mini_recipe(recipe):
    with pytest.raises(InputError) as refused:
        require_inputs(recipe, [recipe.data.train, *recipe.data.valid])
    message, weights = str(refused.value), cache_dir() / "weights"
    assert f"hf download openai/whisper-large-v2 config.json model.safetensors --local-dir {weights}" in message
    assert f"--local-dir {weights / 'llama-3.2-3b-instruct'}" in message
    assert str(weights / "salmonn-3b/salmonn_3b_nota.pth") in message
    assert all(str(cache_dir() / "full" / name) in message for name in ("train.json", "valid_asr.json"))
    assert "--config configs/kd_mini.json" in message
    assert f"cpt2.pt --local-dir {weights / 'beats'}" in message
    assert "{folder}" not in message and "{place}" not in message and "{cache}" not in message


def test_what_is_there_is_not_named(recipe, tmp_path):
    folder = tmp_path / "weights/whisper-large-v2"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    with pytest.raises(InputError, match="encoder"):  # a download that was cut off
        require_inputs(recipe, [])
    (folder / "model.safetensors").touch()
    with pytest.raises(InputError) as refused:
        require_inputs(recipe, [])
    assert "encoder:" not in str(refused.value) and "data:" not in str(refused.value)


def test_a_student_is_scored_without_its_teacher(recipe):
    require_inputs(recipe, [], teacher=False)


@pytest.mark.parametrize(("key", "part"), [("llm", "llm"), ("base", "whisper"), ("weights", "whisper")])
def test_configurations_are_compared_between_hosts_with_the_weights(tiny_recipe, tiny_weights, key, part):
    compared = weights_of(read_recipe(tiny_recipe, [f"student.{key}={tiny_weights / part}"]))
    for folder in ("llm", "whisper"):
        own = [path.name for path in compared if path.parent == tiny_weights / folder]
        # As the teacher's, and as where the student starts.
        assert own == (2 if folder == part else 1) * ["model.safetensors", "config.json"]


def test_advice_is_no_part_of_what_was_run(recipe):
    assert recipe.teacher.sources
    assert "sources" not in recipe.model_dump_json()


def test_the_second_stage_of_a_teacher_names_the_first(tmp_path, monkeypatch):
    monkeypatch.setenv("SALMONN_DISTILL_CACHE", str(tmp_path))
    first, second = (read_recipe(f"configs/teacher_3b_stage{number}.json") for number in (1, 2))
    # The reference's: batches of eight windows, and rates in absolute terms.
    for stage in (first.train.stages[0], second.train.stages[0]):
        assert stage.max_seconds == 8 * 30 and stage.warmup_steps == 3000
        assert learning_rate(3e-5, stage, 0) == pytest.approx(1e-6, rel=0.02)
        assert learning_rate(3e-5, stage, 3000) == pytest.approx(3e-5)
        assert learning_rate(3e-5, stage, stage.steps - 1) == pytest.approx(1e-5, rel=1e-4)
    assert first.teacher.weights is None and not first.trains_from_cache
    with pytest.raises(InputError) as refused:
        require_inputs(second, [second.data.train])
    assert "runs/teacher_3b_stage1/model/trained.safetensors" in str(refused.value)
    assert "deepspeed distill/train.py --config configs/teacher_3b_stage1.json" in str(refused.value)
    assert "--config configs/kd_mini.json" in str(refused.value)
