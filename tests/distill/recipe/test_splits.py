import json

from distill.recipe.reading import read_recipe
from distill.recipe.splits import files_of, read_split


def test_a_file_of_two_test_sets_is_read_once(tiny_recipe, own_data):
    files = dict.fromkeys(("asr", "aac", "asr_known"), str(own_data / "test_asr.json"))
    recipe = read_recipe(tiny_recipe, [f"data.test={json.dumps(files)}"])
    assert files_of(recipe, "test") == (files["asr"],)
    assert len(read_split(recipe, "test").rows) == len(
        json.loads((own_data / "test_asr.json").read_text())["annotation"]
    )
