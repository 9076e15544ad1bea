"""The model card: what it says of a model's folder, before and after it is scored."""

import json

import pytest
from huggingface_hub import ModelCard

from data.corpora.licences import UNKNOWN, licence_of
from data.errors import InputError
from distill.models.card import add_scores, describe
from distill.models.loading import parameter_counts
from distill.recipe.reading import read_recipe
from student.use.usage import read_usage

METRICS = {
    "asr": {"kind": "asr", "wer": 0.2, "wer_low": 0.15, "wer_high": 0.26, "clips": 10},
    "aac_birds": {"kind": "aac", "cider_d": 0.4, "cider_d_low": 0.3, "cider_d_high": 0.55, "clips": 8},
    **{"ttft_s": 0.2, "tpot_s": 0.03, "peak_memory_bytes": 2**30, "device": "cpu", "dtype": "bf16"},
    "examples": [{"sound": "/home/someone/a.wav"}],
}


@pytest.fixture
def exported(tiny_recipe, tiny_teacher, tmp_path):
    """The tiny recipe, and its teacher as a folder with a card."""
    model, processor = tiny_teacher
    recipe, folder = read_recipe(tiny_recipe), tmp_path / "runs" / "tiny" / "model"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    describe(recipe, folder)
    return recipe, folder


def test_a_card_says_what_the_model_is_and_is_one_that_hubs_read(exported, tiny_teacher):
    _, folder = exported
    facts = json.loads((folder / "card.json").read_text())
    counts = parameter_counts(tiny_teacher[0])
    assert sum(facts["parameters"].values()) == sum(counts.values())
    assert facts["parameters"]["connector"] == counts["connector"]
    assert [(row["task"], row["rows"]) for row in facts["data"]] == [("asr", 8), ("audiocaption", 4)]
    page = (folder / "README.md").read_text()
    card = ModelCard(page)
    assert card.data.library_name == "transformers" and card.data.eval_results is None
    for said in ("has not been scored", "features (2 steps), distil (4 steps)", UNKNOWN, "a guess", "How well"):
        assert said in page
    assert str(folder) not in page and "whisper" in page


def test_a_task_without_rows_was_not_learnt(exported, own_data):
    recipe, folder = exported
    kept = [row for row in json.loads((own_data / "train.json").read_text())["annotation"] if row["task"] == "asr"]
    assert {task: use.trained for task, use in read_usage(folder).tasks.items()} == {
        "transcribe": True,
        "caption": True,
        "ask": False,
    }
    (own_data / "train.json").write_text(json.dumps({"annotation": kept}))
    describe(recipe, folder)
    assert not read_usage(folder).tasks["caption"].trained and read_usage(folder).tasks["transcribe"].trained
    assert "used to caption or ask is a guess" in (folder / "README.md").read_text()


def test_scores_come_onto_the_card_with_their_intervals(exported):
    _, folder = exported
    add_scores(folder, METRICS)
    page = (folder / "README.md").read_text()
    assert "| WER, % | 20.0 | 15.0 to 26.0 | 10 |" in page
    assert "| CIDEr-D birds | 0.40 | 0.30 to 0.55 | 8 |" in page
    assert "200.0 ms" in page and "1,024 MiB" in page and "someone" not in page and "How well" not in page
    results = {of.dataset_name: (of.metric_type, of.metric_value) for of in ModelCard(page).data.eval_results}
    assert results == {"asr": ("wer", 20.0), "aac_birds": ("cider_d", 0.4)}


def test_rows_that_are_gone_cost_nothing_but_their_table(exported, own_data):
    recipe, folder = exported
    (own_data / "train.json").unlink()
    describe(recipe, folder)
    assert "could not be read" in (folder / "README.md").read_text()


def test_a_folder_without_a_card_stays_without_and_a_broken_one_is_named(exported):
    _, folder = exported
    (folder / "card.json").write_text("[")
    with pytest.raises(InputError, match="cannot be read"):
        add_scores(folder, METRICS)
    (folder / "card.json").unlink()
    (folder / "README.md").write_text("mine")
    add_scores(folder, METRICS)
    assert (folder / "README.md").read_text() == "mine"


def test_licences_are_known_of_what_is_fetched_here():
    assert licence_of("asterisk") == "CC-BY-SA-3.0" and licence_of("somebody's") == UNKNOWN
