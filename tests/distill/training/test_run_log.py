"""What a run shows of itself, read back from where it was written."""

import csv
import json

import numpy as np
import pytest
import soundfile
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distill.training.run_log import Pace
from tests.conftest import records


@pytest.fixture
def board(train, command, tiny_recipe, own_data, tmp_path):
    """A run with captions among its validation sets, TensorBoard and csv on: its records, output and folder."""
    captions = json.loads((own_data / "test_aac.json").read_text())
    (own_data / "valid_aac.json").write_text(json.dumps(captions))
    asked = [
        f'data.valid=["{own_data}/valid.json", "{own_data}/valid_aac.json"]',
        "train.validate_every=4",
        "train.validate_shown=1",
        'deepspeed.tensorboard={"enabled": true}',
        'deepspeed.csv_monitor={"enabled": true}',
    ]
    settings = [word for one in asked for word in ("--set", one)]
    status, _, err = command("scripts/cache_teacher.py", "--config", tiny_recipe, "--split", "valid", *settings)
    assert status == 0, err
    steps, out = train("shown", *asked)
    return steps, out, tmp_path / "runs" / "shown"


def test_the_time_left_is_told_by_the_last_steps_of_the_stage():
    pace = Pace(total=10)
    assert [pace("encoder", seconds, step) for step, seconds in enumerate((60.0, 2.0, 3.0), 1)] == [540.0, 16.0, 17.5]
    assert [pace("distil", seconds, step) for step, seconds in enumerate((9.0, 4.0, 4.0), 4)] == [54.0, 20.0, 16.0]


def test_the_time_left_counts_validations_by_what_they_took_so_far():
    pace = Pace(total=10, validate_every=4)
    assert pace("distil", 1.0, 3) == 7.0  # nothing is known of them yet
    pace.validated(10.0)
    # Steps 8 and 10 are still to be looked at, and step 4 where its line is told before.
    assert pace("distil", 1.0, 4) == 6.0 + 30.0 and pace("distil", 1.0, 5) == 5.0 + 20.0
    pace.validated(20.0)
    assert pace("distil", 1.0, 8) == 2.0 + 30.0 and pace("distil", 1.0, 9) == 1.0 + 15.0
    assert pace("distil", 1.0, 10) == 15.0
    every = Pace(total=8, validate_every=4)
    every.validated(3.0)
    assert every("distil", 1.0, 5) == 3.0 + 3.0  # the last step is one of every four


def test_what_is_measured_stands_on_the_board_in_csv_and_in_the_line(board):
    steps, out, run = board
    events = EventAccumulator(str(run / "tensorboard" / "log"), size_guidance={"audio": 0, "scalars": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    of_steps = {"loss", "ce", "kd", "ctc", "encoder", "audio_tokens", "agreement", "correct", "kept_mass", "grad_norm"}
    of_steps |= {"lr/encoder", "lr/connector", "lr/llm", "tokens_per_s", "audio_s_per_s", "memory_gib"}
    of_looks = {"valid/ce", "valid/wer", "valid_aac/ce", "valid_aac/cider_d"}
    assert {f"train/{name}" for name in of_steps} | {f"validation/{name}" for name in of_looks} <= set(tags["scalars"])
    assert [(event.step, event.value) for event in events.Scalars("train/kd")] == [
        (step["step"], pytest.approx(step["kd"], rel=1e-6)) for step in steps if "kd" in step
    ]
    last = steps[-1]
    assert 0.5 < last["kept_mass"] < 1 and 0 <= last["agreement"] <= 1
    assert events.Scalars("train/lr/llm")[-1].value == pytest.approx(last["lr"]["llm"])
    with (run / "csv" / "log" / "train_loss.csv").open() as file:
        assert [float(row[1]) for row in csv.reader(file) if row[0] != "step"] == [step["loss"] for step in steps]
    (line,) = [line for line in out.splitlines() if line.startswith("distil 6/6: ")]
    for part in ("loss ", "ce ", "kd ", "ctc ", "kept_mass ", "tokens/s", "audio-s/s", "GiB", " left"):
        assert part in line, line
    assert "validation valid_aac at step 6: ce " in out and "cider_d " in out


def test_texts_and_sounds_of_the_validation_can_be_looked_at(board, own_data):
    _, _, run = board
    shown = records(run / "texts.jsonl")
    assert [(entry["step"], entry["set"], entry["id"]) for entry in shown] == [
        (step, name, f"{file}_0") for step in (4, 6) for name, file in (("valid", "valid"), ("valid_aac", "test_aac"))
    ]
    for entry in shown:
        assert entry["teacher"] and entry["student"] is not None and entry["path"].endswith(f"{entry['id']}.wav")
    events = EventAccumulator(str(run / "tensorboard" / "log"), size_guidance={"audio": 0, "tensors": 0})
    events.Reload()
    (first, last) = events.Tensors("texts/valid/text_summary")
    table = last.tensor_proto.string_val[0].decode()
    assert (first.step, last.step) == (4, 6) and "the agent is now logged in" in table
    assert table.splitlines()[0] == "| id | reference | teacher | student |"
    (sound,) = events.Audio("sounds/valid/valid_0")
    path = run / "valid_0.wav"
    path.write_bytes(sound.encoded_audio_string)
    heard, rate = soundfile.read(path)
    meant, _ = soundfile.read(own_data / "sounds" / "valid_0.wav")
    assert rate == 16_000 and np.abs(heard - meant).max() < 1e-3
