"""What settings of a recipe go together: what one section asks of another."""

from data.paths import resolve
from distill.recipe.recipe import Recipe
from distill.recipe.stages import PARTS, StageSettings
from teacher.device import DTYPES


def require_consistent(recipe: Recipe) -> None:
    """Refuses a recipe whose sections contradict each other.

    Raises:
        ValueError: Names the keys and the mend.
    """
    if len(recipe.validation_sets) < len(recipe.data.valid):
        raise ValueError("data.valid: two files of one name; they are told apart by it in the logs")
    for stage in recipe.train.stages:
        _require_stage(recipe, stage)
    for section, key in (("student", "base"), ("student", "weights"), ("teacher", "weights")):
        start = getattr(getattr(recipe, section), key, None)
        if start and resolve(start).is_relative_to(recipe.run_dir / "model"):
            raise ValueError(f"{section}.{key}: {start} is of this run, which would write over it; name it otherwise")
    if recipe.deepspeed.get("zero_optimization", {}).get("elastic_checkpoint"):
        raise ValueError("deepspeed.zero_optimization.elastic_checkpoint: such a run cannot go on (seen); leave it out")
    if recipe.train.compile:
        _require_compilable(recipe)
    if recipe.train.rounded_llm and not (recipe.student and recipe.student.lora is None):
        raise ValueError(
            "train.rounded_llm: weights are rounded whole, after adapters are folded in; "
            "that takes a student with student.lora null"
        )
    _require_cache(recipe)
    _require_teacher(recipe)
    if recipe.train.kd.vocabulary == "universal":
        _require_universal_possible(recipe)


def _require_compilable(recipe: Recipe) -> None:
    """What DeepSpeed does within layers is no part of what is compiled."""
    key = "train.compile"
    if "activation_checkpointing" in recipe.deepspeed:
        raise ValueError(f"{key}: layers that are computed again are not compiled; leave one of both out")
    if recipe.deepspeed.get("zero_optimization", {}).get("stage") == 3:
        raise ValueError(f"{key}: at ZeRO 3 a layer's weights are fetched within it; set stage 2, or leave {key} out")


def _require_stage(recipe: Recipe, stage: StageSettings) -> None:
    """A stage trains something, and what its losses need is there."""
    if not any(stage.used.model_dump().values()) or not any(map(stage.peak_lr, PARTS)):
        raise ValueError(f"stage '{stage.name}' trains nothing: give it a loss and a learning rate")
    if stage.used.kd and not (recipe.student and (recipe.cache or not recipe.distils_from_cache(stage))):
        raise ValueError(
            f"stage '{stage.name}' has a kd weight; that takes a cache and a student section "
            "(or, without a cache, train.teacher 'memory')"
        )
    if stage.used.ctc and "hypothesis" in recipe.trained_on(stage):
        raise ValueError(
            f"stage '{stage.name}' has a ctc weight, which goes with the annotation's texts: set its targets to "
            "[\"reference\"], or train.hypotheses.share 0 and no data.faults.no_text 'teacher'"
        )
    if recipe.train.keep_encoded and (stage.lr.encoder or stage.lr.beats or stage.matched - {"audio_tokens"}):
        raise ValueError(f"train.keep_encoded: stage '{stage.name}' trains the encoder or matches its features")
    if stage.lr.beats and not (recipe.student.beats if recipe.student else recipe.teacher.beats):
        raise ValueError(f"stage '{stage.name}' trains a BEATs (lr.beats) that the model does not have")
    if stage.matched and not recipe.student:
        raise ValueError(f"stage '{stage.name}' matches the teacher's features, but there is no student section")
    if stage.used.beats and (recipe.student.beats or not recipe.teacher.beats):
        raise ValueError(
            f"stage '{stage.name}' has a beats weight; that takes a teacher with BEATs and a student without"
        )
    if stage.matched and _hears_longer(recipe):
        raise ValueError(
            f"student.margin_s {recipe.student.margin_s} is longer than teacher.margin_s {recipe.teacher.margin_s}"
            f", but stage '{stage.name}' matches features; set student.margin_s to at most that"
        )
    if stage.matched - {"hidden"} and _has_more_tokens(recipe):
        raise ValueError(
            f"student.reference_padding: stage '{stage.name}' matches features, of which the teacher has none after a "
            "clip's end (teacher.reference_padding is false); leave one out"
        )


def _require_cache(recipe: Recipe) -> None:
    """What is trained on is cached."""
    if (
        recipe.cache
        and recipe.cache.features
        and recipe.teacher.margin_s is None
        and not recipe.teacher.reference_padding
    ):
        raise ValueError("cache.features: set teacher.margin_s or teacher.reference_padding, which say what is kept")
    if recipe.cache and "beats" in recipe.cache.features and not recipe.teacher.beats:
        raise ValueError("cache.features: the teacher has no BEATs whose states could be kept")
    _require_texts(recipe)
    if cached := [stage for stage in recipe.train.stages if recipe.distils_from_cache(stage)]:
        compared = [recipe.divergence_of(stage) for stage in cached]
        if recipe.cache.method == "sampled" and any(
            (c.temperature, c.divergence) != (1, "forward_kl") for c in compared
        ):
            raise ValueError("cache.method 'sampled': draws stand for forward_kl at temperature 1, not for others")
        trained_on = {text for stage in cached for text in recipe.trained_on(stage)}
        for text in sorted(trained_on):
            if text not in recipe.cache.targets:
                raise ValueError(f"cache.targets lacks '{text}', which a kd weight distils on here")


def _require_texts(recipe: Recipe) -> None:
    """Where the teacher's texts are trained on, they are cached."""
    alone = next((stage for stage in recipe.train.stages if recipe.trained_on(stage) == {"hypothesis"}), None)
    asked = {
        "train.hypotheses.share": recipe.train.hypotheses.share,
        "data.faults.no_text 'teacher'": recipe.data.faults.no_text == "teacher",
        f"stage '{alone and alone.name}' with targets 'hypothesis'": alone,
    }
    for key in (key for key, asks in asked.items() if asks):
        if not (recipe.cache and recipe.student):
            raise ValueError(f"{key}: the teacher's texts take a cache and a student section")
        if not recipe.cache.writes_texts:
            raise ValueError(f"{key}: cache.hypotheses false leaves the teacher's texts out; change one")
    if recipe.asks_hypotheses is True and recipe.cache.hypotheses == "untexted":
        raise ValueError("cache.hypotheses 'untexted': the recipe trains on the teacher's texts of other rows too")
    least, most = recipe.train.hypotheses.characters_per_second
    if least > most:
        raise ValueError(f"train.hypotheses.characters_per_second: the least, {least:g}, is above the most, {most:g}")


def _require_teacher(recipe: Recipe) -> None:
    """A teacher in memory hears the clips, and can be partitioned as the recipe has it."""
    if recipe.train.keep_encoded and recipe.teacher_in_memory:
        raise ValueError("train.keep_encoded: a teacher in memory hears the clips at every step; leave one out")
    if recipe.teacher_in_memory and recipe.deepspeed.get("zero_optimization", {}).get("stage") == 3:
        asked = {recipe.in_memory(stage) for stage in recipe.train.stages}
        parts = {"encoder", "connector"} | ({"llm"} if "whole" in asked else set())
        parts |= {"beats"} if recipe.teacher.beats else set()
        names = {name or recipe.teacher.dtype for part, name in recipe.teacher.precision if part in parts}
        if len(names) > 1 or not names <= DTYPES.keys():
            raise ValueError(
                "teacher.precision: at ZeRO 3 a teacher in memory is partitioned, and its parts have one precision; "
                "set teacher.dtype alone, or deepspeed.zero_optimization.stage=2"
            )


def _require_universal_possible(recipe: Recipe) -> None:
    """Sorted distances need two vocabularies, and cached distributions."""
    key, kd = "train.kd.vocabulary 'universal'", recipe.train.kd
    if recipe.student is None or recipe.student.llm is None:
        raise ValueError(f"{key}: the student has the teacher's LLM, and so its vocabulary; leave the key out")
    if (kd.divergence, kd.tail, kd.temperature) != ("forward_kl", "even", 1):
        raise ValueError(f"{key}: has a distance of its own; leave out train.kd.divergence, tail and temperature")
    for stage in recipe.train.stages:
        if stage.on_policy or stage.kd:
            name = "on_policy" if stage.on_policy else "kd"
            raise ValueError(f"{key}: takes the teacher's cached distributions alone; stage '{stage.name}' has {name}")
    if any(map(recipe.asks_teacher, recipe.train.stages)):
        raise ValueError(f"{key}: the teacher's distributions come from its cache; set train.teacher to 'cache'")
    if "hidden" in recipe.matched:
        raise ValueError(f"{key}: the LLMs' tokens are not the same, so no hidden weight can match their states")
    if recipe.cache and recipe.cache.method == "sampled":
        raise ValueError(f"{key}: few draws say little of sorted probabilities; set cache.method 'topk'")


def _hears_longer(recipe: Recipe) -> bool:
    """Whether the student hears more of a clip's end than the teacher; a margin of None is all of 30 s."""
    of_student, of_teacher = recipe.student.margin_s, recipe.teacher.margin_s
    return of_teacher is not None and (of_student is None or of_student > of_teacher)


def _has_more_tokens(recipe: Recipe) -> bool:
    """Whether the student has audio tokens of the padding, and the teacher of the clip alone."""
    return recipe.student.reference_padding and not recipe.teacher.reference_padding
