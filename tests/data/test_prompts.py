import json
import re

import pytest

from data.errors import InputError
from data.paths import REPOSITORY
from data.prompts import instruction, require_prompts
from data.rows.manifest_reader import read_manifest
from distill.recipe.reading import read_recipe

PROMPTS = {"asr": ("transcribe", "write it down", "what is said"), "empty": (), "QA": ("{}",), "time": ("when '{}'?",)}


def test_tests_get_the_first_wording_and_training_rows_always_the_same_one_of_all():
    assert instruction(PROMPTS, "asr") == "transcribe"
    ids = [f"clip {number}" for number in range(30)]
    drawn = [instruction(PROMPTS, "asr", row_id) for row_id in ids]
    assert drawn == [instruction(PROMPTS, "asr", row_id) for row_id in ids]
    assert set(drawn) == set(PROMPTS["asr"])


@pytest.mark.parametrize("task", ["aac", "empty"])
def test_a_task_without_a_wording_is_named(task):
    with pytest.raises(InputError, match=f"no prompt for task '{task}'; add its wordings to data.prompts"):
        instruction(PROMPTS, task)


def test_a_question_comes_into_the_wording():
    assert instruction(PROMPTS, "QA", "a", question=" How many {x} birds? ") == "How many {x} birds?"
    assert instruction(PROMPTS, "time", question="tree") == "when 'tree'?"
    assert instruction(PROMPTS, "asr", question="How many?") == "transcribe"
    with pytest.raises(InputError, match="task 'QA' asks what its rows ask, but a row asks nothing"):
        instruction(PROMPTS, "QA", "a", question=" ")


def test_rows_that_could_not_be_asked_are_refused_at_once(own_data):
    file = own_data / "train.json"
    content = json.loads(file.read_text())
    require_prompts(read_manifest(file), {"asr": ("a",), "audiocaption": ("b", "c")})
    with pytest.raises(InputError, match="no prompt for task 'audiocaption'"):
        require_prompts(read_manifest(file), {"asr": ("a",)})
    content["annotation"][1] |= {"task": "QA", "Q": "Who?"}
    content["annotation"][3] |= {"task": "QA"}
    file.write_text(json.dumps(content))
    wordings = {"asr": ("a",), "audiocaption": ("b",), "QA": ("listen", "{}")}
    require_prompts(read_manifest(file)[:3], wordings)
    with pytest.raises(InputError, match="row train_3: task 'QA' asks what the row asks, but it has no \"Q\""):
        require_prompts(read_manifest(file), wordings)


def test_the_prompt_sets_are_data(tiny_recipe, tmp_path):
    content = json.loads((REPOSITORY / "data/prompts.json").read_text())
    stages = {"asr", "audiocaption", "audiocaption_v2", "QA", "phone_recognition", "gender_recognition"}
    assert stages <= set(content)
    for task, wordings in content.items():
        assert wordings and len(set(wordings)) == len(wordings), task
        assert all(wording.strip() == wording != "" for wording in wordings)
        # A question comes into all wordings of a task, or into none.
        assert len({"{}" in wording for wording in wordings}) == 1 and not re.search(r"\{[^}]", " ".join(wordings))
    recipe = read_recipe(tiny_recipe, ["data.prompts=data/prompts.json"])
    assert recipe.data.prompts == {task: tuple(wordings) for task, wordings in content.items()}
    # A run's own recipe holds the wordings, wherever they were.
    (tmp_path / "again.json").write_text(recipe.model_dump_json())
    assert read_recipe(tmp_path / "again.json") == recipe


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[", "no JSON file of wordings"),
        ('{"asr": ["a"], "asr": ["b"]}', 'the key "asr" is there twice'),
        ('{"asr": 3}', "valid array"),
        ("[]", "prompts.json.*an object"),
        ('{"asr": "a"}', "prompts.json.* valid array"),
        ('{"asr": [3]}', "prompts.json.* valid array"),
        ('{"asr": ["\\ud800"]}', "prompts.json.* half a character"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_has_no_wordings_is_refused(tiny_recipe, tmp_path, content, told):
    if content is not None:
        (tmp_path / "prompts.json").write_text(content)
    with pytest.raises(InputError, match=f"data.prompts.*{told}"):
        read_recipe(tiny_recipe, [f"data.prompts={tmp_path}/prompts.json"])
