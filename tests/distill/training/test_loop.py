"""Training by the real command in this process, on the tiny recipe."""

import json
import os
import resource
import shutil
import signal
import sys
from dataclasses import replace

import deepspeed
import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from data.cache.reader import CacheReader
from data.errors import InputError
from data.rows.manifest_reader import read_manifest
from data.rows.manifest_writer import write_manifest
from data.rows.shard_writer import write_shards
from distill.recipe.reading import read_recipe
from distill.recipe.stages import StageSettings
from distill.training import validation
from distill.training.examples import Examples
from distill.training.optimizer import learning_rate, parameter_groups
from distill.training.run_log import RunLog
from teacher.build import build_teacher
from teacher.model import SalmonnForConditionalGeneration
from tests.conftest import records


def stage(**changes):
    return StageSettings.model_validate(
        {"name": "s", "steps": 11, "warmup_steps": 4, "final_lr": 0.1, "losses": {}, "lr": {}} | changes
    )


def test_the_learning_rate_warms_up_and_falls_along_a_cosine():
    rates = [learning_rate(2.0, stage(), step) for step in range(11)]
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert rates[4] == pytest.approx(2.0) and rates[7] == pytest.approx(1.1) and rates[10] == pytest.approx(0.2)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert learning_rate(2.0, stage(warmup_steps=0, steps=1), 0) == 2.0
    assert learning_rate(0.0, stage(), 5) == 0.0
    from_above = [learning_rate(2.0, stage(initial_lr=0.2), step) for step in range(4)]
    assert from_above == pytest.approx([0.8, 1.2, 1.6, 2.0])


def test_only_matrices_decay(tiny_teacher):
    model, _ = tiny_teacher
    groups = parameter_groups(torch.nn.ModuleDict({"student": model}), 0.1)
    assert {group["name"] for group in groups} == {"encoder", "connector", "llm"}
    for group in groups:
        assert all((parameter.ndim > 1) == (group["weight_decay"] == 0.1) for parameter in group["params"])
    assert sum(len(group["params"]) for group in groups) == sum(
        parameter.requires_grad for parameter in model.parameters()
    )


def losses(steps):
    return [step["loss"] for step in steps]


def test_cached_features_take_no_teacher_in_memory(train, fill_tiny_cache, tmp_path):
    matched = 'train.stages.1.losses={"ce": 0.5, "encoder": 0.3, "audio_tokens": 0.2}'
    kept = [f"cache.folder={tmp_path}/features", 'cache.features=["encoder", "audio_tokens"]']
    fill_tiny_cache(*kept)
    in_memory, out = train("in_memory", matched)
    assert out.count("the teacher is in memory") == 1
    cached, out = train("cached", matched, *kept)
    assert "the teacher is in memory" not in out
    # Rounded to float16, relative to how little an untrained encoder's states differ: no closer than this.
    for name in ("encoder", "audio_tokens"):
        first = [[step[name] for step in steps[:3]] for steps in (cached, in_memory)]
        assert first[0] == pytest.approx(first[1], rel=0.1, abs=1e-3)


def test_every_feature_is_matched_with_a_teacher_in_memory(train, tiny_salmonn, tmp_path):
    tiny_salmonn()  # leaves its BEATs
    stages = [
        {"losses": {"encoder": 1, "beats": 1}, "lr": {"encoder": 1e-3}},
        {"losses": {"ce": 1, "kd": 1, "audio_tokens": 1, "hidden": 1}, "lr": {"connector": 1e-3, "llm": 1e-3}},
    ]
    stages = [{"name": str(i), "steps": 3, "max_seconds": 12, **stage} for i, stage in enumerate(stages)]
    changes = ["teacher.weights=null", f"teacher.beats={tmp_path}/beats.pt", "cache=null", "train.teacher=memory"]
    changes += [f"train.stages={json.dumps(stages)}", "train.match.hidden_layers=[[0, 0], [2, 3]]"]
    changes += ["train.match.encoder_layers=[[0, 0], [-1, -1]]", "train.match.hidden=cosine", "student.window_stride=5"]
    steps, _ = train("features", *changes)
    for step in steps[:3]:
        assert step["loss"] == pytest.approx(step["encoder"] + step["beats"]) and step["lr"]["projections"] > 0
    for step in steps[3:]:
        parts = ("ce", "kd", "audio_tokens", "hidden")
        assert step["loss"] == pytest.approx(sum(step[part] for part in parts)) and 0 < step["hidden"] < 2
    for name, change in (("partitioned", "zero_optimization.stage=3"), ("recomputed", "activation_checkpointing={}")):
        same, _ = train(name, *changes, f"deepspeed.{change}")
        assert losses(same) == pytest.approx(losses(steps), rel=1e-3)
        assert [step["grad_norm"] for step in same] == pytest.approx([step["grad_norm"] for step in steps], rel=1e-2)
    model = SalmonnForConditionalGeneration.from_pretrained(tmp_path / "runs" / "features" / "model")
    assert model.beats is None and not [name for name in model.state_dict() if "project" in name]


def test_what_relative_distances_are_measured_in_is_kept_in_the_checkpoint(train, monkeypatch, tmp_path):
    _, out = train("whole")
    assert out.count("spread of the teacher's features: 12/12") == 1
    folder = tmp_path / "runs" / "whole" / "checkpoints"
    state = torch.load(folder / "step_4" / "mp_rank_00_model_states.pt", weights_only=False)
    assert set(state["spreads"]) == {"encoder", "audio_tokens"} and all(of[0] > 0 for of in state["spreads"].values())
    features = 'train.stages.1.losses={"ce": 1, "encoder": 1}'
    long, _ = train("long", features)
    shutil.rmtree(tmp_path / "runs" / "long" / "checkpoints" / "step_6")
    monkeypatch.setattr("distill.training.loop.measured_spreads", lambda *_: pytest.fail("measured anew"))
    again, _ = train("long", features)
    assert losses(again) == losses(long)


def test_no_feature_is_measured_where_no_distance_is_relative(train):
    _, out = train("mse", "train.match.encoder=mse", "train.match.audio_tokens=cosine")
    assert "spread of" not in out


def test_cached_sounds_are_what_beats_makes_in_memory(train, command, tiny_recipe, tiny_salmonn, tmp_path):
    tiny_salmonn()
    stage = {"name": "s", "steps": 3, "max_seconds": 12, "losses": {"encoder": 1, "beats": 1}, "lr": {"encoder": 1e-3}}
    changes = ["teacher.weights=null", f"teacher.beats={tmp_path}/beats.pt", f"train.stages={json.dumps([stage])}"]
    changes += ["train.match.encoder=mse", "train.match.beats=mse"]
    kept = [*changes, f"cache.folder={tmp_path}/sounds", 'cache.features=["encoder", "beats"]']
    options = [word for override in kept for word in ("--set", override)]
    status, _, err = command("scripts/cache_teacher.py", "--config", tiny_recipe, *options)
    assert status == 0, err
    in_memory, _ = train("in_memory", *changes)
    cached, _ = train("cached", *kept)
    assert losses(cached) == pytest.approx(losses(in_memory), rel=1e-2)
    assert [step["beats"] for step in cached] == pytest.approx([step["beats"] for step in in_memory], rel=1e-2)


def test_rows_without_a_text_are_left_out(train, own_data):
    file = own_data / "train.json"
    content = json.loads(file.read_text())
    content["annotation"][3]["text"] = ""
    file.write_text(json.dumps(content))
    without_teacher = [
        "cache=null",
        'train.stages=[{"name": "ce", "steps": 3, "losses": {"ce": 1}, "lr": {"llm": 1e-3}}]',
    ]
    without_teacher += ["train.stages.0.max_seconds=60", "train.stages.0.max_text_tokens=50"]
    steps, out = train("texts", *without_teacher)
    assert all(step["tokens"] <= 50 for step in steps)
    assert "train.json: 1 of 12 rows dropped: 1 no_text (train_3)" in out
    assert all(np.isfinite(losses(steps)))


def whole_texts(monkeypatch):
    """Takes the untrained teacher's texts, which are all cut at the cap, for whole ones."""
    texts = CacheReader.texts
    monkeypatch.setattr(
        CacheReader, "texts", lambda cache: (replace(entry, hypothesis_ended=True) for entry in texts(cache))
    )


def test_the_teachers_texts_are_trained_on(train, monkeypatch):
    whole_texts(monkeypatch)
    plain, _ = train("plain", "train.stages.1.losses.ctc=0")
    texts = ["train.hypotheses.share=1", "train.hypotheses.max_wer=100", "train.hypotheses.min_logp=-1000"]
    written, _ = train("written", "train.stages.1.losses.ctc=0", *texts)
    assert losses(written)[:2] == losses(plain)[:2]  # no text there
    assert losses(written)[2] != losses(plain)[2]
    alone, _ = train("alone", 'train.stages.1.losses={"ce": 1}', *texts)
    assert [step["tokens"] for step in alone[2:]] == [step["tokens"] for step in written[2:]]


@pytest.fixture
def half_untexted(own_data):
    """Takes the texts of every other training row."""
    file = own_data / "train.json"
    content = json.loads(file.read_text())
    for entry in content["annotation"][::2]:
        del entry["text"]
    file.write_text(json.dumps(content))


LENIENT = ["train.hypotheses.min_logp=-1000", "train.hypotheses.characters_per_second=[0, 1000]"]


def test_rows_without_a_text_are_trained_on_what_the_teacher_wrote(
    train, half_untexted, fill_tiny_cache, monkeypatch, tmp_path
):
    """Half of the rows have no text; the last stage, at a low rate, is on the annotation's alone."""
    whole_texts(monkeypatch)
    finish = {"name": "finish", "steps": 2, "losses": {"ce": 1}, "lr": {"llm": 1e-5}, "targets": ["reference"]}
    stages = [{"name": "distil", "steps": 4, "losses": {"ce": 0.5, "kd": 0.5}, "lr": {"llm": 1e-3}}, finish]
    stages = [stage | {"max_seconds": 60, "warmup_steps": 1} for stage in stages]
    own = ["data.faults.no_text=teacher", f"cache.folder={tmp_path}/both", f"train.stages={json.dumps(stages)}"]
    fill_tiny_cache(*own, "cache.hypotheses=true")  # for the last run, which takes the teacher's texts of all rows
    trained_on, call = [], Examples.__call__

    def note(self, *given):
        example = call(self, *given)
        texts = [self.processor.decode(ids[None, ids != -100])[0] for ids in example.batch.labels_BT]
        trained_on.append(dict(zip(example.ids, texts, strict=True)))
        return example

    monkeypatch.setattr(Examples, "__call__", note)
    steps, out = train("both", *own, *LENIENT)
    assert "teacher's texts: 6 of 6 rows without a text are trained on them" in out
    assert all(np.isfinite(losses(steps)))
    cache = CacheReader(tmp_path / "both")
    whole, annotated = {}, {}
    for row_id in cache.ids():
        whole[row_id] = cache[row_id].reference or cache[row_id].hypothesis
        if cache[row_id].reference:
            annotated[row_id] = cache[row_id].reference
    assert len(annotated) == 6 and trained_on == [whole] * 4 + [annotated] * 2
    # Other thresholds over the same cache.
    _, out = train("strict", *own, LENIENT[1])
    assert "teacher's texts: 0 of 6 rows without a text are trained on them; 6 are left out (6 min_logp)" in out
    assert trained_on[6:] == [annotated] * 6
    alone = {"name": "alone", "steps": 1, "losses": {"kd": 1}, "lr": {"llm": 1e-3}, "targets": ["hypothesis"]}
    only = [*own[:2], f"train.stages={json.dumps([alone])}"]
    train("only", *only, *LENIENT, "train.hypotheses.max_wer=1000")
    assert trained_on[12:] == [{row_id: cache[row_id].hypothesis for row_id in cache.ids()}]


def test_a_run_over_rows_without_texts_goes_on_bit_for_bit(
    train, half_untexted, fill_tiny_cache, monkeypatch, stopping_at, tmp_path
):
    whole_texts(monkeypatch)
    own = ["data.faults.no_text=teacher", "train.stages.1.losses.ctc=0", f"cache.folder={tmp_path}/both", *LENIENT]
    fill_tiny_cache(*own)
    whole, _ = train("whole", *own)
    with stopping_at(3):
        assert len(train("stopped", *own, ends=130)[0]) == 4
    finished, _ = train("stopped", *own)
    assert losses(finished) == losses(whole) and len(finished) == 6
    weights = [load_file(tmp_path / "runs" / name / "model" / "model.safetensors") for name in ("whole", "stopped")]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_a_run_leaves_its_recipe_steps_validation_checkpoints_and_model(train, tiny_recipe, tmp_path):
    steps, out = train("whole", "train.validate_every=5", "train.keep_checkpoints=1")
    run = tmp_path / "runs" / "whole"
    assert [step["step"] for step in steps] == list(range(6))
    assert [step["stage"] for step in steps] == ["features"] * 2 + ["distil"] * 4
    for step in steps:
        measured = {"encoder", "audio_tokens"} if step["stage"] == "features" else {"ce", "kd", "ctc"}
        assert measured == set(step) & {"encoder", "audio_tokens", "ce", "kd", "ctc"}
        assert step["grad_norm"] > 0 and step["seconds"] > 0 and step["audio_s"] > 1
    assert [step["lr"]["llm"] for step in steps[:3]] == [0.0, 0.0, 1e-3]
    assert steps[2]["loss"] == pytest.approx(0.5 * steps[2]["ce"] + 0.5 * steps[2]["kd"] + 0.1 * steps[2]["ctc"])
    validation = records(run / "validation.jsonl")
    assert [(record["step"], record["set"]) for record in validation] == [(5, "valid"), (6, "valid")]
    assert all(record["ce"] > 0 and record["wer"] >= 0 for record in validation)
    assert {path.name for path in (run / "checkpoints").glob("step_*")} == {"step_5", "step_6"}  # best and last
    assert read_recipe(run / "recipe.json") == read_recipe(
        tiny_recipe, ["name=whole", "train.validate_every=5", "train.keep_checkpoints=1"]
    )
    model = SalmonnForConditionalGeneration.from_pretrained(run / "model")
    assert len(model.encoder.layers) == 1 and model.config.llm_config.num_hidden_layers == 3
    assert not list(run.glob(".*")) and f"trained model: {run}/model" in out


@pytest.mark.parametrize("ctc", [False, True])
def test_a_silent_clip_does_not_end_the_run_at_its_validation(train, own_data, tmp_path, ctc):
    path = read_manifest(own_data / "valid.json")[0].path
    settings = (
        ['train.stages.1.losses={"ctc": 1}', 'train.stages.1.lr={"connector": 1e-3}']
        if ctc
        else ['deepspeed.tensorboard={"enabled": true}']
    )
    whole, _ = train("whole", *settings)
    samples, rate = soundfile.read(path)
    soundfile.write(path, 0 * samples, rate)
    steps, out = train("silent", *settings)
    assert losses(steps) == losses(whole)
    (line,) = [line for line in out.splitlines() if "cannot be heard" in line]
    assert (
        line.startswith("validation valid: 1 of 2 clips cannot be heard and count as empty texts") and path.name in line
    )
    (record,) = records(tmp_path / "runs" / "silent" / "validation.jsonl")
    assert record["wer"] > 0 and ctc != ("ce" in record)
    assert records(tmp_path / "runs" / "silent" / "texts.jsonl")[0]["student"] == ""


def test_training_lowers_the_loss(train):
    long = ["train.stages.0.steps=1", "train.stages.1.steps=40", "train.save_every=100", "train.stages.1.losses.kd=0"]
    steps, _ = train("long", *long)
    ce = [step["ce"] for step in steps if "ce" in step]
    assert sum(ce[-5:]) < 0.7 * sum(ce[:5])


def test_a_stopped_run_goes_on_as_if_it_had_not_been(train, tmp_path, monkeypatch):
    whole, _ = train("whole")
    step, signals = RunLog.step, {2: signal.SIGTERM, 4: signal.SIGINT, 5: signal.SIGTERM}

    def stopped(self, record, left_s):
        step(self, record, left_s)
        if record["step"] in signals:
            os.kill(os.getpid(), signals[record["step"]])

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "step", stopped)
        for done in (3, 5, 6):
            begun, out = train("stopped", ends=130)
            assert len(begun) == done and f"stopped at step {done}; the same command goes on from there" in out
    run = tmp_path / "runs" / "stopped"
    assert not (run / "model").exists() and not (run / "validation.jsonl").exists()
    finished, out = train("stopped")
    assert "going on from step 6" in out and [record["step"] for record in records(run / "validation.jsonl")] == [6]
    assert losses(finished) == pytest.approx(losses(whole), rel=1e-6)
    texts = run / "texts.jsonl"
    strange = texts.read_text() + '{"step": 6, "student": "one\u2028two"}\n'  # as a student may write
    texts.write_text(strange + '{"step": 6, "lr": {"llm": 1}')  # cut off
    again, _ = train("stopped")  # nothing left to do: the model is written once more
    assert again == finished and texts.read_text() == strange


def test_a_signal_breaks_a_validation_off(train, tmp_path, monkeypatch):
    # A batch of the validation for each clip.
    changes = ["train.validate_every=3", "train.save_every=100", "generation.max_seconds=2.5"]
    whole, _ = train("whole", *changes)
    looked, heard = [], validation._by_llm

    def signalled(*asked):
        looked.append(asked)
        os.kill(os.getpid(), signal.SIGTERM)
        return heard(*asked)

    with monkeypatch.context() as patch:
        patch.setattr(validation, "_by_llm", signalled)
        begun, out = train("stopped", *changes, ends=130)
    run = tmp_path / "runs" / "stopped"
    assert len(looked) == 1 and len(begun) == 3 and "stopped at step 3; " in out
    assert not (run / "validation.jsonl").exists() and (run / "checkpoints" / "step_3" / "sizes.json").is_file()
    finished, _ = train("stopped", *changes)
    assert losses(finished) == losses(whole)
    looks = [records(tmp_path / "runs" / name / "validation.jsonl") for name in ("whole", "stopped")]
    assert looks[0] == looks[1] and [look["step"] for look in looks[0]] == [3, 6]


def test_a_manifest_trains_as_the_annotation_file_that_it_was_made_of(train, own_data):
    listed, _ = train("listed")
    write_manifest([own_data / "train.json"], own_data / "train.arrow", workers=1)
    mapped, _ = train("mapped", f"data.train={own_data}/train.arrow")  # from the same cache
    assert losses(mapped) == losses(listed)


def test_a_mix_is_gone_on_with_where_it_was(train, stopping_at):
    mixed = ['data.mix=[{"task": "asr", "weight": 2.5}, {"task": "audiocaption", "weight": 0.5}]']
    mixed.append('train.stages.0.mix=[{"task": "asr", "weight": 0}]')
    whole, _ = train("whole", *mixed)
    plain, _ = train("plain")
    assert losses(whole) != losses(plain)
    with stopping_at(3):
        train("stopped", *mixed, ends=130)
    finished, _ = train("stopped", *mixed)
    assert losses(finished) == pytest.approx(losses(whole), rel=1e-6)


def test_a_gradient_that_is_no_number_is_not_saved(train, command, tiny_recipe, monkeypatch, tmp_path):
    norm = deepspeed.DeepSpeedEngine.get_global_grad_norm
    steps = iter([False, False, False, True])
    monkeypatch.setattr(
        deepspeed.DeepSpeedEngine,
        "get_global_grad_norm",
        lambda engine: float("inf") if next(steps) else norm(engine),
    )
    status, _, err = command("distill/train.py", "--config", tiny_recipe)
    assert status == 2 and "the gradient's norm is inf at step 3, over the clips train_" in err
    assert [path.name for path in (tmp_path / "runs" / "tiny" / "checkpoints").glob("step_*")] == ["step_2"]


def test_the_best_checkpoint_is_kept_and_exported_where_asked_for(train, monkeypatch, tmp_path):
    run, rates = tmp_path / "runs" / "tiny", {2: 0.5, 4: 0.2, 6: 0.4}
    step_of = iter([2, 4, 6])
    monkeypatch.setattr("distill.training.loop.score_texts", lambda rows, texts: {"wer": rates[next(step_of)]})
    # The first two steps write no texts, so have no WER.
    every = ['train.stages.0.losses={"ce": 1}', "train.validate_every=2", "train.save_every=100", "name=tiny"]
    _, out = train("tiny", *every, "train.keep_checkpoints=1")
    assert {path.name for path in (run / "checkpoints").glob("step_*")} == {"step_4", "step_6"}
    assert f"trained model: {run}/model (of step 6, the last one)" in out
    models = [load_file(run / "model" / "model.safetensors")]
    for _ in range(2):  # an export leaves the run as it was: the next one gives the same
        _, out = train("tiny", *every, "train.export=best")
        assert "going on from step 6" in out and "(of step 4, the best one)" in out
        models.append(load_file(run / "model" / "model.safetensors"))
    last, best, again = models
    assert all(torch.equal(best[name], again[name]) for name in best)
    saved = torch.load(run / "checkpoints/step_4/mp_rank_00_model_states.pt", weights_only=False)["module"]
    trained = [name for name in best if f"student.{name}" in saved]
    assert trained and all(torch.equal(best[name], saved[f"student.{name}"]) for name in trained)
    assert any(not torch.equal(best[name], last[name]) for name in trained)
    (run / "checkpoints/step_4/sizes.json").unlink()
    _, _ = train("tiny", *every, "train.export=best", ends=2)


def test_a_monitor_whose_package_is_missing_is_named(command, tiny_recipe, train, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    asked = 'deepspeed.wandb={"enabled": true, "project": "salmonn"}'
    status, _, err = command("distill/train.py", "--config", tiny_recipe, "--set", asked)
    line = err.strip().splitlines()[-1]
    assert status == 2 and line.startswith("error: deepspeed section of the recipe: it takes a package"), err


def test_a_full_disk_costs_no_earlier_checkpoint(train, command, tiny_recipe, monkeypatch, tmp_path):
    whole, _ = train("whole")
    step, limits = RunLog.step, resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk(self, record, left_s):
        step(self, record, left_s)
        if record["step"] == 5:  # no file may grow longer than the log is
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "step", fill_the_disk)
        try:
            status, _, err = command("distill/train.py", "--config", tiny_recipe)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    run = tmp_path / "runs" / "tiny"
    assert status == 2 and "cannot be written" in err and "make room on the disk" in err
    assert {path.name for path in (run / "checkpoints").glob("step_*")} == {"step_2", "step_4"}
    again, out = train("tiny")
    assert "going on from step 4" in out and losses(again) == losses(whole)


def test_a_run_that_was_killed_in_its_first_save_begins_anew(train, command, tiny_recipe, monkeypatch, tmp_path):
    whole, _ = train("whole")

    def killed(folder):
        assert [*folder.glob("*.pt")]
        raise InputError("killed")  # what a kill does not run: nothing that follows in this process

    with monkeypatch.context() as patch:
        patch.setattr("distill.training.checkpoints._seal", killed)
        status, _, err = command("distill/train.py", "--config", tiny_recipe)
    assert status == 2 and "killed" in err
    assert [path.name for path in (tmp_path / "runs/tiny/checkpoints").glob("step_*")] == ["step_2"]
    again, out = train("tiny")
    assert "going on" not in out and losses(again) == losses(whole)
    assert (tmp_path / "runs/tiny/checkpoints/latest").read_text() == "step_6"


def test_a_clip_that_is_left_out_counts_on_at_the_next_start(
    train, command, tiny_recipe, own_data, stopping_at, tmp_path
):
    path = own_data / "sounds" / "train_2.flac"
    soundfile.write(path, *soundfile.read(path.with_suffix(".wav")))
    content = json.loads((own_data / "train.json").read_text())
    (entry,) = [entry for entry in content["annotation"] if entry["path"].endswith("train_2.wav")]
    entry["path"] = str(path)
    (own_data / "train.json").write_text(json.dumps(content))
    whole = path.read_bytes()
    path.write_bytes(whole[:-200])  # its header is whole
    stage = {"name": "a", "steps": 4, "losses": {"ce": 1}, "lr": {"llm": 1e-3}}
    changes = [f"train.stages={json.dumps([stage])}", "train.keep_encoded=true", "cache=null", "name=run"]
    changes.append("data.faults.unreadable=drop")
    with stopping_at(1):
        _, out = train("run", *changes, ends=130)
    assert out.count("1 clips left out that cannot be read") == 1
    states = tmp_path / "runs/run/checkpoints/step_2/mp_rank_00_model_states.pt"
    assert torch.load(states, weights_only=False)["left_out"] == [entry["id"]]
    changes.append("data.faults.max_dropped=0")
    _ = train("run", *changes, ends=2)
    path.write_bytes(whole)
    assert len(train("run", *changes)[0]) == 4


def test_a_finished_run_without_checkpoints_keeps_its_model(train, command, tiny_recipe, tmp_path):
    train("tiny")
    run = tmp_path / "runs" / "tiny"
    shutil.rmtree(run / "checkpoints")

    def there():
        files = [path for path in run.rglob("*") if path.is_file() and "tensorboard" not in path.parts]
        return {path.relative_to(run): path.read_bytes() for path in files}

    before = there()
    _, out = train("tiny", "train.save_every=1")
    assert f"finished before: {run}/model stays as it is" in out and "trained model" not in out and there() == before
    for change, told in (("seed=1", "recipe"), ("train.export=best", "exported")):
        status, _, err = command("distill/train.py", "--config", tiny_recipe, "--set", change)
        assert status == 2 and f"runs/tiny: its model is of another run (other {told}); give this one another" in err
        assert there() == before
    shutil.rmtree(run / "model")  # to train anew
    again, out = train("tiny", "seed=1")
    assert len(again) == 6 and f"trained model: {run}/model" in out


def test_shards_are_trained_on_as_files_are(train, own_data, tmp_path, command, tiny_recipe):
    files, out = train("files")
    assert "distil: " in out and "% of the sound is padding" in out
    write_shards(read_manifest(own_data / "train.json"), tmp_path / "shards", megabytes=0.1, quiet=True)
    of_shards = ["data.source=shards", f"data.train={tmp_path}/shards"]
    # In one buffer the batches are those of files, and what was cached over the files is taken.
    shards, _ = train("one_buffer", *of_shards)
    assert losses(shards) == losses(files)
    buffers, _ = train("buffers", *of_shards, "data.buffer_rows=2", "train.stages.0.max_seconds=3")
    assert losses(buffers) != losses(files) and all(np.isfinite(losses(buffers)))
    # Another layout would go on with other batches.
    shutil.rmtree(tmp_path / "shards")
    write_shards(read_manifest(own_data / "train.json"), tmp_path / "shards", megabytes=0.2, quiet=True)
    options = [word for override in ("name=one_buffer", *of_shards) for word in ("--set", override)]
    status, _, err = command("distill/train.py", "--config", tiny_recipe, *options)
    assert status == 2 and "its checkpoints are of another run (other shards)" in err


def test_a_damaged_checkpoint_falls_back_to_the_one_before(train, tmp_path):
    whole, _ = train("whole")
    folder = tmp_path / "runs" / "whole" / "checkpoints"
    assert {path.name for path in folder.glob("step_*")} == {"step_4", "step_6"}
    states = next((folder / "step_6").glob("*optim_states.pt"))
    states.write_bytes(states.read_bytes()[:-100])
    again, out = train("whole")
    assert f"warning: {folder}/step_6: cut off or damaged; going back to the checkpoint before it" in out
    assert "going on from step 4" in out and losses(again) == losses(whole)
    (folder / "step_6" / "sizes.json").unlink()  # killed before it was sealed
    assert "going on from step 4" in train("whole")[1]
    for path in folder.glob("step_*/sizes.json"):
        path.write_text("{")
    assert losses(train("whole", ends=2)[0]) == losses(whole)


def test_old_checkpoints_that_a_kill_left_are_removed(train, tmp_path):
    train("whole")
    folder = tmp_path / "runs" / "whole" / "checkpoints"
    shutil.copytree(folder / "step_4", folder / "step_2")  # it is removed once step 6 is there
    train("whole")
    assert {path.name for path in folder.glob("step_*")} == {"step_4", "step_6"}


def test_files_that_a_kill_left_are_no_part_of_a_checkpoint(train, tmp_path):
    folder = tmp_path / "runs" / "whole" / "checkpoints" / "step_6"
    folder.mkdir(parents=True)
    (folder / "zero_pp_rank_1_mp_rank_00_optim_states.pt").touch()  # killed at its first save, begun anew with fewer
    train("whole")
    assert len([*folder.glob("*optim_states.pt")]) == 1
    assert "going on from step 6" in train("whole")[1]


def test_weights_move_over_a_stage(train):
    moving = {"losses": {"ce": 1.0}, "final_losses": {"ce": 0.2, "kd": 0.6}, "curve": "cosine"}
    found = stage(**moving | {"steps": 5})
    assert [found.weights_at(step).kd for step in range(5)] == pytest.approx([0, 0.0879, 0.3, 0.5121, 0.6], abs=1e-4)
    assert found.weights_at(4).ce == pytest.approx(0.2) and found.used.kd == 0.6 and found.used.ce == 1.0
    assert stage(losses={"ce": 0.5}).weights_at(7).ce == 0.5
    line = stage(losses={"ce": 1.0, "kd": 0.5}, final_losses={"kd": 0.5}, steps=3)
    assert [line.weights_at(step).ce for step in range(3)] == [1.0, 0.5, 0.0]
    overrides = [f"train.stages.1.{key}={json.dumps(value)}" for key, value in moving.items()]
    steps, _ = train("moving", *overrides)
    assert "kd" not in steps[2] and all(step["kd"] > 0 for step in steps[3:])
    last = steps[-1]
    assert last["loss"] == pytest.approx(0.2 * last["ce"] + 0.6 * last["kd"])


def test_a_loss_that_is_no_number_names_the_clips(command, tiny_recipe, train, tmp_path):
    train("begun", "train.stages.1.lr.llm=0")  # the cache is filled
    wild = ["--set", "name=wild", "--set", "train.stages.1.lr.llm=1e30", "--set", "train.stages.1.warmup_steps=0"]
    status, _, err = command("distill/train.py", "--config", tiny_recipe, *wild)
    assert status == 2 and "the loss is nan at step" in err
    assert ", over the clips train_" in err and "lower train.stages.1.lr (the last checkpoint is kept)" in err
    saved = json.loads((tmp_path / "runs" / "wild" / "failed_batch_0.json").read_text())
    assert saved["ids"] and all(f"train_{name}" in err for name in [saved["ids"][0].removeprefix("train_")])
    assert [*(tmp_path / "runs" / "wild" / "checkpoints").glob("step_*")]


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_every_zero_stage_gives_the_same_curve_and_model(train, tmp_path, zero):
    # Adam's first steps are the signs of gradients: a large rate would make rounding of the small ones visible.
    slow = [f"train.stages.{stage}.lr.{part}=1e-4" for stage in (0, 1) for part in ("encoder", "connector")]
    slow.append("train.stages.1.lr.llm=1e-4")
    first, _ = train("zero_1", *slow)
    steps, _ = train(
        f"zero_{zero}",
        *slow,
        # Threshold 0: at full size no weight is small enough to stay whole, so none may here.
        f'deepspeed.zero_optimization={{"stage": {zero}, "stage3_param_persistence_threshold": 0}}',
    )
    assert losses(steps) == pytest.approx(losses(first), rel=1e-4)
    models = [
        SalmonnForConditionalGeneration.from_pretrained(tmp_path / "runs" / name / "model").state_dict()
        for name in ("zero_1", f"zero_{zero}")
    ]
    for key, value in models[0].items():
        torch.testing.assert_close(models[1][key], value, atol=1e-4, rtol=1e-3, msg=key)


def test_a_teacher_trains_by_the_same_loop(train, tiny_recipe, tmp_path):
    stages = [
        {"name": "ctc", "steps": 2, "losses": {"ctc": 1.0}, "lr": {"connector": 1e-3}, "tasks": ["asr"]},
        {"name": "ce", "steps": 2, "losses": {"ce": 1.0, "ctc": 0.2}, "lr": {"connector": 1e-3, "llm": 1e-3}},
    ]
    stages = [stage | {"max_seconds": 6, "warmup_steps": 1} for stage in stages]
    changes = [
        "teacher.weights=null",
        "student=null",
        "cache=null",
        f"train.stages={json.dumps(stages)}",
        "train.keep_encoded=true",
    ]
    steps, _ = train("teacher", *changes)
    assert [set(step) & {"ce", "ctc"} for step in steps] == [{"ctc"}] * 2 + [{"ce", "ctc"}] * 2
    weights = tmp_path / "runs" / "teacher" / "model" / "trained.safetensors"
    untrained, _ = build_teacher(read_recipe(tiny_recipe, ["teacher.weights=null"]).teacher)
    trained, _ = build_teacher(read_recipe(tiny_recipe, [f"teacher.weights={weights}"]).teacher)
    for name, parameter in trained.named_parameters():
        if name.startswith("encoder."):
            assert torch.equal(parameter, untrained.get_parameter(name))
        elif ".lora_B." in name:
            assert parameter.any(), name


def test_stacked_frames_learn_what_the_q_former_says_from_the_cache(train, fill_tiny_cache, tiny_recipe, tmp_path):
    stage = {"max_seconds": 6, "warmup_steps": 1, "steps": 40}
    stages = [
        stage | {"name": "match", "losses": {"audio_tokens": 1.0}, "lr": {"connector": 3e-3}},
        stage | {"name": "distil", "steps": 2, "losses": {"ce": 1, "kd": 1}, "lr": {"connector": 1e-3, "llm": 1e-3}},
    ]
    changes = [
        "student.connector=stack",
        'student.stack={"frames": 10, "width": 64}',
        "student.qformer=null",
        "student.qformer_layers=[]",
        'cache.features=["audio_tokens"]',
        f"cache.folder={tmp_path}/with_features",
        f"train.stages={json.dumps(stages)}",
        "train.keep_encoded=true",
    ]
    fill_tiny_cache(*changes)
    steps, _ = train("stack", *changes)
    first, last = (sum(step["audio_tokens"] for step in steps[at : at + 5]) / 5 for at in (0, 35))
    assert last < 0.7 * first and {"ce", "kd"} <= steps[40].keys()
    saved = SalmonnForConditionalGeneration.from_pretrained(tmp_path / "runs" / "stack" / "model")
    assert saved.config.stack == {"width": 64} and saved.config.window_frames == 10


def test_a_stage_of_ctc_alone_is_validated_by_its_best_path_at_zero_3_too(train, tmp_path):
    stage = {"name": "ctc", "steps": 1, "max_seconds": 6, "losses": {"ctc": 1.0}, "lr": {"connector": 1e-3}}
    changes = [f"train.stages={json.dumps([stage])}", "train.keep_encoded=true", "cache=null"]
    train("zero_1", *changes)
    train("zero_3", *changes, 'deepspeed.zero_optimization={"stage": 3, "stage3_param_persistence_threshold": 0}')
    texts = [records(tmp_path / "runs" / name / "texts.jsonl") for name in ("zero_1", "zero_3")]
    assert len(texts[0]) == 2 and texts[0] == texts[1]


def test_the_cache_must_be_of_this_recipe(command, tiny_recipe, train, tmp_path):
    for change, part in (("teacher.margin_s=0.2", "teacher"), ("cache.top_k=3", "targets"), ("data.limit=6", "audio")):
        status, _, err = command("distill/train.py", "--config", tiny_recipe, "--set", change)
        assert status == 2 and f"{tmp_path}/cache: made from another {part}" in err
    assert not (tmp_path / "runs").exists()


def test_the_checkpoint_of_another_recipe_is_left_alone(command, tiny_recipe, train, tmp_path):
    train("tiny")
    run = tmp_path / "runs" / "tiny"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for change in ("seed=1", "student.llm_layers=[0, 1]", "student.qformer.width=16"):
        status, _, err = command("distill/train.py", "--config", tiny_recipe, "--set", change)
        line = err.strip().splitlines()[-1]
        assert status == 2 and line.startswith(f"error: {run}: its checkpoints are of another run (other recipe")
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    again, _ = train("tiny", "train.save_every=3", "evaluation.warmup_runs=2")  # this may change
    assert len(again) == 6


def test_rows_that_the_teacher_could_not_hear_are_left_out(train, fill_tiny_cache, own_data, tmp_path):
    steps, _ = train("whole")
    for path in (tmp_path / "cache").glob("shard-*"):
        path.unlink()
    soundfile.write(own_data / "sounds" / "train_2.wav", np.zeros(46_400), 16_000)
    folder, identity = fill_tiny_cache("cache.max_failed=0.5")
    assert len(CacheReader(folder, identity)) == 11
    fewer, _ = train("fewer")
    assert len(fewer) == len(steps)
