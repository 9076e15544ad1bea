"""What a run says of itself while it runs: steps.jsonl, validation.jsonl, the progress line, DeepSpeed's monitors."""

import json
from pathlib import Path

from deepspeed.monitor.monitor import MonitorMaster

from data.progress import clock
from distill.objective import UNITS
from distill.recipe import Recipe


class RunLog:
    """Writes down what was measured; for the first rank alone.

    Args:
        recipe: The run.
        monitor: The engine's: TensorBoard, Weights & Biases or CSV, as the recipe's `deepspeed` block has them.
    """

    def __init__(self, recipe: Recipe, monitor: MonitorMaster) -> None:
        self.recipe, self.monitor, self.run_dir = recipe, monitor, recipe.run_dir

    def step(self, record: dict, left_s: float) -> None:
        """A step's record, and now and then a line of it with the time left, in seconds."""
        _append(self.run_dir / "steps.jsonl", record)
        events = [(f"train/{name}", record[name], record["step"]) for name in record if isinstance(record[name], float)]
        if self.monitor.enabled:
            self.monitor.write_events(events)
        done = record["step"] + 1
        if done % 10 == 0 or done in (1, self.recipe.total_steps):
            shown = " ".join(
                f"{name} {record[name]:.3f}" for name in (*UNITS, "correct", "agreement") if name in record
            )
            print(
                f"{record['stage']} {done}/{self.recipe.total_steps}: {shown} | "
                f"{record['tokens'] / record['seconds']:.0f} tokens/s, "
                f"{record['audio_s'] / record['seconds']:.0f} audio-s/s, {clock(left_s)} left",
                flush=True,
            )

    def validation(self, record: dict) -> None:
        """A validation's record."""
        _append(self.run_dir / "validation.jsonl", record)
        numbers = " ".join(f"{key} {value:.3f}" for key, value in record.items() if isinstance(value, float))
        print(f"validation {record['set']} at step {record['step']}: {numbers}", flush=True)


def _append(path: Path, record: dict) -> None:
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
