import numpy as np
import pytest
import soundfile

from data.cache.reader import CacheReader
from data.errors import InputError
from distill.recipe.reading import read_recipe
from distill.training.rows import training_rows, validation_rows


def test_of_a_cache_the_rows_that_it_has(tiny_recipe, own_data, fill_tiny_cache):
    soundfile.write(own_data / "sounds" / "train_2.wav", np.zeros(46_400), 16_000)
    folder, identity = fill_tiny_cache("cache.max_failed=0.5")
    recipe, cache = read_recipe(tiny_recipe), CacheReader(folder, identity)
    found = training_rows(recipe, cache)
    assert [row.id for row in found] == [f"train_{number}" for number in range(12) if number != 2]
    (folder / "failed.jsonl").unlink()  # now nobody knows why it is not there
    with pytest.raises(InputError, match="1 of 12 rows are not cached yet"):
        training_rows(recipe, CacheReader(folder, identity))


def test_so_many_clips_of_each_validation_set_are_looked_at(tiny_recipe, own_data):
    both = f'data.valid=["{own_data}/valid.json", "{own_data}/test_asr.json"]'
    found = validation_rows(read_recipe(tiny_recipe, [both, "train.validate_clips=3"]))
    assert {name: len(rows) for name, rows in found.items()} == {"valid": 2, "test_asr": 3}
    assert validation_rows(read_recipe(tiny_recipe, ["data.valid=[]"])) == {}
