import pytest

from distill.training import stopping
from distill.training.run_log import RunLog


def without_seconds(records):
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


@pytest.mark.parametrize(("log", "call", "steps"), [("step", 3, 3), ("validation", 1, 4)])
def test_a_run_whose_words_nobody_reads_any_more_is_saved_and_goes_on(train, monkeypatch, tmp_path, log, call, steps):
    changes = ["train.save_every=100", "train.validate_every=3"]
    whole, _ = train("whole", *changes)
    logged, calls = getattr(RunLog, log), []

    def unread(self, *words):
        logged(self, *words)
        calls.append(words)
        if len(calls) == call:
            raise BrokenPipeError

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, log, unread)
        patch.setattr(stopping.os, "dup2", lambda *_: None)  # of this process, whose words are looked at
        begun, _ = train("stopped", *changes, ends=130)
    saved = tmp_path / "runs" / "stopped" / "checkpoints" / f"step_{steps}" / "sizes.json"
    assert len(begun) == steps and saved.is_file()  # after a validation there is a step before it is asked
    again, out = train("stopped", *changes)
    assert f"going on from step {steps}" in out and without_seconds(again) == without_seconds(whole)
