from pathlib import Path

import pytest

from data.errors import InputError
from data.paths import REPOSITORY
from distill.recipe.reading import read_recipe

RECIPES = sorted((REPOSITORY / "configs").glob("*.json"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_repositorys_recipes_are_valid_and_named_after_their_files(path):
    recipe = read_recipe(path)
    assert recipe.name == path.stem
    assert recipe.run_dir == REPOSITORY / "runs" / path.stem
    assert recipe.results_dir == REPOSITORY / "results" / path.stem


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("cache=null", "stage 'distil' has a kd weight; that takes a cache and a student section"),
        ("student=null", "there is no student section|takes a cache and a student section"),
        (
            "train.on_policy.fraction=0.5",
            r"unknown key 'train.on_policy'; it is a stage's now: train.stages.N.on_policy",
        ),
        ("train.on_policy=null", "unknown key 'train.on_policy'; it is a stage's now"),
        ("train.stages.1.on_policy={}", "stage 'distil' is on_policy: .* so its ce weight never counts; leave it out"),
        ('train.stages.0.losses={"ctc": 1, "kd": 1}; train.stages.0.on_policy={}', "its ctc weight never counts"),
        ("train.stages.0.on_policy={}", "stage 'features' is on_policy: it takes a kd weight from its first step"),
        (
            'train.stages.1.on_policy={}; train.stages.1.losses={"kd": 1}; train.stages.1.final_losses={"encoder": 1}',
            "it takes a kd weight from its first step to its last",
        ),
        (
            'train.stages.1.losses={"ce": 0}; train.stages.1.final_losses={"ce": 1}',
            "stage 'distil': its losses have no weight that reaches what is trained, so its first step",
        ),
        (
            'train.stages.1.final_losses={"encoder": 1}; train.stages.1.lr={"llm": 1}',
            "stage 'distil': its final_losses have no weight that reaches what is trained, so its last step",
        ),
        ("train.stages.1.on_policy.fraction=1", "unknown key 'train.stages.1.on_policy.fraction'"),
        ("train.stages.1.on_policy.share=0.5; cache=null", "stage 'distil' has a kd weight; that takes a cache"),
        ("train.stages.1.kd.divergence=js; cache.method=sampled", "draws stand for forward_kl at temperature 1"),
        (
            "train.teacher=memory; teacher.precision.llm=bf16; deepspeed.zero_optimization.stage=3",
            "teacher.precision: at ZeRO 3 a teacher in memory is partitioned, and its parts have one precision",
        ),
        *(
            (
                f'{change}; train.keep_encoded=true; train.stages.0.losses={{"ce": 1}}; '
                'train.stages.0.lr={"llm": 1}; train.stages.1.lr={"llm": 1}',
                "train.keep_encoded: a teacher in memory hears the clips",
            )
            for change in ("train.teacher=memory", "train.stages.1.on_policy.share=0.5")
        ),
        ('cache.targets=["hypothesis"]', "cache.targets lacks 'reference', which a kd weight distils on"),
        (
            "train.hypotheses.share=0.5",
            "stage 'distil' has a ctc weight, which goes with the annotation.s texts: set its targets",
        ),
        ("train.kd.temperature=2; cache.method=sampled", "draws stand for forward_kl at temperature 1"),
        ("train.kd.divergence=js; cache.method=sampled", "draws stand for forward_kl at temperature 1"),
        ('teacher.margin_s=null; cache.features=["encoder"]', r"cache\.features: set teacher\.margin_s"),
        ("deepspeed.zero_optimization.elastic_checkpoint=true", "such a run cannot go on"),
        ('cache.features=["beats"]', r"cache\.features: the teacher has no BEATs"),
        ("train.stages.0.losses.beats=1", "has a beats weight; that takes a teacher with BEATs and a student without"),
        ("train.stages.0.lr.beats=1", r"trains a BEATs \(lr.beats\) that the model does not have"),
        ("student.margin_s=0.5", "student.margin_s .* teacher.margin_s"),
        ("student.margin_s=null", "student.margin_s .* teacher.margin_s"),
        (
            "student.margin_s=null; student.reference_padding=true; teacher.margin_s=null",
            "student.reference_padding: stage 'features' matches features, of which the teacher has none after",
        ),
        ("student.reference_padding=true", "reference_padding: it goes with 30 s that are heard; set margin_s to null"),
        ("train.keep_encoded=true", "train.keep_encoded: stage 'features' trains the encoder or matches its features"),
        ("student.connector=stack", "qformer: the connector is 'stack'; leave this out, or set connector 'qformer'"),
        (
            "student.connector=stack; student.qformer=null",
            "qformer_layers: connector 'stack' has none, only stack.fram",
        ),
        ("student.qformer=null", "qformer: its sizes are missing"),
        ('student.stack={"frames": 10}', "stack: the connector is 'qformer'; leave this out, or set connector 'stack'"),
        ("train.stages=[]", "key 'train.stages'"),
        ("train.stages.0.lr.llm=1", r"stage 'features' has lr\.llm, but none of its losses reaches it; leave it out"),
        (
            'train.stages.0.losses={"encoder": 1}',
            r"stage 'features' has lr\.connector, but none of its losses reaches it; leave it out",
        ),
        ("teacher.dtype=fp8", "key 'teacher.dtype'.*'fp32', 'bf16' or 'fp16'"),
        ("student.llm_layer=[1]", "unknown key 'student.llm_layer'; did you mean 'llm_layers'"),
        ("teacher.prompt.audio=listen {}", "teacher.prompt.* <SpeechHere>"),
    ],
)
def test_sections_that_contradict_each_other_are_refused(tiny_recipe, change, line):
    with pytest.raises(InputError, match=line) as caught:
        read_recipe(tiny_recipe, change.split("; "))
    assert "\n" not in str(caught.value)


def test_the_teachers_texts_take_their_cache(tiny_recipe):
    share, no_ctc = "train.hypotheses.share=0.5", "train.stages.1.losses.ctc=0"
    assert read_recipe(tiny_recipe, [share, no_ctc]).trains_from_cache
    with pytest.raises(InputError, match=r"cache\.targets lacks 'hypothesis'"):
        read_recipe(tiny_recipe, [share, no_ctc, 'cache.targets=["reference"]'])
    without_kd = [no_ctc, "train.stages.1.losses.kd=0", "cache=null"]
    assert not read_recipe(tiny_recipe, without_kd).trains_from_cache
    with pytest.raises(InputError, match="the teacher's texts take a cache and a student section"):
        read_recipe(tiny_recipe, [share, *without_kd])


def test_stages_and_rows_that_take_the_teachers_texts_have_them_cached(tiny_recipe):
    no_ctc = "train.stages.1.losses.ctc=0"
    alone, untexted = 'train.stages.1.targets=["hypothesis"]', "data.faults.no_text=teacher"
    only = 'cache.targets=["hypothesis"]'
    asked = read_recipe(tiny_recipe, [alone, no_ctc, only])
    assert asked.trains_on_hypotheses_alone and asked.cache.writes_texts
    by_ce = 'train.stages.1.losses={"ce": 1}'
    with pytest.raises(InputError, match=r"cache\.hypotheses 'untexted': the recipe trains on .* of other rows too"):
        read_recipe(tiny_recipe, [alone, no_ctc, "cache.hypotheses=untexted"])
    for change, name in ((alone, "stage 'distil' with targets 'hypothesis'"), (untexted, "data.faults.no_text")):
        recipe = read_recipe(tiny_recipe, [change, by_ce, 'cache.targets=["reference"]'])
        assert recipe.cache.hypotheses == ("untexted" if change == untexted else True)
        assert recipe.trains_on_hypotheses and recipe.trains_from_cache
        with pytest.raises(InputError, match=f"{name}.*cache.hypotheses false leaves the teacher's texts out"):
            read_recipe(tiny_recipe, [change, by_ce, 'cache.targets=["reference"]', "cache.hypotheses=false"])
        with pytest.raises(InputError, match=f"{name}.*: the teacher's texts take a cache and a student section"):
            read_recipe(tiny_recipe, [change, by_ce, "cache=null"])
        with pytest.raises(InputError, match=r"cache\.targets lacks 'hypothesis'"):
            read_recipe(tiny_recipe, [change, no_ctc, 'cache.targets=["reference"]'])
        with pytest.raises(InputError, match=r"which goes with the annotation's texts"):
            read_recipe(tiny_recipe, [change])
    gold = read_recipe(tiny_recipe, [untexted, 'train.stages.1.targets=["reference"]', 'cache.targets=["reference"]'])
    assert not gold.trains_on_hypotheses and gold.cache.writes_texts  # its rows are in the first stage
    with pytest.raises(InputError, match="characters_per_second: the least, 3, is above the most, 2"):
        read_recipe(tiny_recipe, ["train.hypotheses.characters_per_second=[3, 2]"])


@pytest.mark.parametrize(
    ("changes", "tail"),
    [
        ([], "even"),
        (["train.kd.temperature=2"], "bucket"),
        (["train.kd.divergence=reverse_kl"], "bucket"),
        (["train.kd.tail=bucket"], "bucket"),
        (["train.kd.tail=even", "train.kd.temperature=2"], "even"),
        (["train.kd.tail=null", "train.kd.divergence=js"], "bucket"),
    ],
)
def test_the_tail_is_what_is_nearer_to_the_whole_distribution(tiny_recipe, changes, tail):
    assert read_recipe(tiny_recipe, changes).train.kd.tail == tail


def test_a_teacher_in_memory_takes_no_cache(tiny_recipe):
    recipe = read_recipe(tiny_recipe, ["train.teacher=memory", "cache=null"])
    assert [recipe.in_memory(stage) for stage in recipe.train.stages] == ["without_llm", "whole"]
    assert not recipe.trains_from_cache
    cached = read_recipe(tiny_recipe)
    assert [cached.in_memory(stage) for stage in cached.train.stages] == ["without_llm", None]
    assert cached.teacher_in_memory and cached.trains_from_cache
    texts = ["train.teacher=memory", "train.hypotheses.share=0.5", "train.stages.1.losses.ctc=0"]
    assert read_recipe(tiny_recipe, [*texts, 'cache.targets=["reference"]']).trains_from_cache
    with pytest.raises(InputError, match=r"has a kd weight; .* \(or, without a cache, train\.teacher 'memory'\)"):
        read_recipe(tiny_recipe, ["cache=null"])


def test_an_on_policy_stage_has_the_teacher_in_memory_and_a_divergence_of_its_own(tiny_recipe):
    own = ['train.stages.1.losses={"kd": 1}', "train.stages.1.on_policy={}", 'train.stages.1.kd={"divergence": "js"}']
    recipe = read_recipe(tiny_recipe, [*own, "cache=null"])
    features, stage = recipe.train.stages
    assert recipe.in_memory(stage) == "whole" and not recipe.trains_from_cache
    assert stage.on_policy.max_new_tokens == 64 and stage.on_policy.temperature == 1 and stage.on_policy.top == 32
    divergences = [recipe.divergence_of(of).divergence for of in (features, stage)]
    assert divergences == ["forward_kl", "js"]
    mixed = read_recipe(tiny_recipe, ["train.stages.1.on_policy.share=0.5"])
    assert mixed.in_memory(mixed.train.stages[1]) == "whole" and mixed.trains_from_cache


def test_features_come_from_the_cache_where_it_has_all_that_are_matched(tiny_recipe):
    assert read_recipe(tiny_recipe).matched == {"encoder", "audio_tokens"}
    assert not read_recipe(tiny_recipe, ['cache.features=["encoder"]']).matches_from_cache
    assert read_recipe(tiny_recipe, ['cache.features=["encoder", "audio_tokens"]']).matches_from_cache


def test_a_longer_margin_is_fine_where_nothing_is_held_against_it(tiny_recipe):
    recipe = read_recipe(tiny_recipe, ["student.margin_s=0.5", 'train.stages.0.losses={"ce": 1}'])
    assert recipe.student.margin_s == 0.5
    assert read_recipe(tiny_recipe, ["teacher.margin_s=null"]).teacher.margin_s is None


def test_runs_and_results_lie_where_the_recipe_says(tiny_recipe, tmp_path):
    recipe = read_recipe(tiny_recipe, ["name=other", "results=somewhere"])
    assert recipe.run_dir == tmp_path / "runs" / "other"
    assert recipe.results_dir == REPOSITORY / "somewhere" / "other"
    assert isinstance(recipe.run_dir, Path) and recipe.total_steps == 6


@pytest.mark.parametrize("name", ["..", "a/../b", "/a", "a/", "published", "published/kd_mini", ".hidden", 201 * "a"])
def test_a_name_leads_nowhere_but_to_folders_of_its_own(tiny_recipe, name):
    with pytest.raises(InputError, match="name"):
        read_recipe(tiny_recipe, [f"name={name}"])


@pytest.mark.parametrize("key", ["student.base", "student.weights", "teacher.weights"])
def test_a_run_does_not_start_from_a_model_that_it_writes_over(tiny_recipe, tmp_path, key):
    start = f"{key}={tmp_path}/runs/tiny/model"
    with pytest.raises(InputError, match=rf"{key}: .*tiny/model is of this run, which would write over it"):
        read_recipe(tiny_recipe, [start])
    assert read_recipe(tiny_recipe, [start, "name=second"]).name == "second"
