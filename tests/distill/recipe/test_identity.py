import pytest

from data.hashing import hash_of
from distill.recipe.identity import NOT_OF_A_MODEL, NOT_OF_A_RUN, counting
from distill.recipe.reading import read_recipe
from teacher.settings import StackSettings


def keys_of(tree):
    """Its keys and its sections', as `section.key`."""
    sections = {name: section for name, section in tree.items() if isinstance(section, dict)}
    return set(tree) | {f"{name}.{key}" for name, section in sections.items() for key in section}


@pytest.mark.parametrize("keys", [NOT_OF_A_RUN, NOT_OF_A_MODEL])
def test_these_keys_are_left_out_and_no_others(tiny_recipe, keys):
    whole, kept = (keys_of(counting(read_recipe(tiny_recipe), of)) for of in ((), keys))
    sections = {key for key in whole if key.partition(".")[0] in set(keys)}
    assert whole - kept == set(keys) | sections and not kept - whole


def test_what_counts_makes_another_recipe_and_the_rest_does_not(tiny_recipe):
    def of_run(*overrides):
        return hash_of(counting(read_recipe(tiny_recipe, overrides), NOT_OF_A_RUN))

    same = of_run(
        "train.save_every=7", "train.timeout_s=9", "runs=elsewhere", "generation.num_beams=4", "data.valid=[]"
    )
    assert same == of_run() != of_run("seed=1")
    assert of_run("train.weight_decay=0.2") != of_run()


WATCHING = [
    "steps_per_print=7",
    "wall_clock_breakdown=true",
    "memory_breakdown=true",
    "dump_state=true",
    "log_level=20",
    'timers={"throughput": {"enabled": false}}',
    'flops_profiler={"enabled": true}',
    'comms_logger={"enabled": true}',
    *(f'{name}={{"enabled": true}}' for name in ("tensorboard", "wandb", "comet", "csv_monitor")),
]


@pytest.mark.parametrize("change", WATCHING)
@pytest.mark.parametrize("keys", [NOT_OF_A_RUN, NOT_OF_A_MODEL])
def test_monitors_and_prints_of_deepspeed_make_no_other_recipe(tiny_recipe, change, keys):
    plain, watched = (counting(read_recipe(tiny_recipe, of), keys) for of in ([], [f"deepspeed.{change}"]))
    assert plain == watched


def test_what_deepspeed_computes_counts(tiny_recipe):
    plain = counting(read_recipe(tiny_recipe), NOT_OF_A_RUN)
    for change in ("gradient_clipping=2", "zero_optimization.stage=2", "activation_checkpointing={}"):
        assert counting(read_recipe(tiny_recipe, [f"deepspeed.{change}"]), NOT_OF_A_RUN) != plain
    profiled = [f"deepspeed.activation_checkpointing={block}" for block in ("{}", '{"profile": true}')]
    first, second = (counting(read_recipe(tiny_recipe, [change]), NOT_OF_A_RUN) for change in profiled)
    assert first == second


def test_a_section_that_is_not_there_stays_null(tiny_recipe):
    stage = '[{"name": "ce", "steps": 1, "losses": {"ce": 1}, "lr": {"llm": 1e-3}}]'
    recipe = read_recipe(tiny_recipe, ["student=null", "cache=null", f"train.stages={stage}"])
    assert counting(recipe, NOT_OF_A_MODEL)["student"] is None


def test_a_recipe_is_what_it_was_before_it_had_a_key(tiny_recipe):
    later = {"connector", "stack", "reference_padding"}
    assert not later & counting(read_recipe(tiny_recipe), NOT_OF_A_RUN)["student"].keys()
    recipe = read_recipe(tiny_recipe)
    changed = {"connector": "stack", "stack": StackSettings(), "reference_padding": True}
    for name, value in changed.items():
        other = recipe.model_copy(update={"student": recipe.student.model_copy(update={name: value})})
        assert counting(other, NOT_OF_A_RUN)["student"].keys() & later == {name}
