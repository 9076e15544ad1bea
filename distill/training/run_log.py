"""What a run says of itself while it runs: its .jsonl files, the progress line, DeepSpeed's monitors."""

import json
import math
from collections import deque
from pathlib import Path
from typing import Any

import torch
from deepspeed.monitor.monitor import MonitorMaster

from data.progress import clock
from data.rows.row import Row
from data.sound.audio import SAMPLE_RATE, load_clips
from distill.efficiency.memory import peak_bytes
from distill.recipe.recipe import Recipe
from distill.training.objective import UNITS

_PACE_STEPS = 50
"""Steps from which the time of one is told."""


class RunLog:
    """Writes down what was measured; for the first rank alone.

    Args:
        recipe: The run.
        monitor: The engine's: TensorBoard, Weights & Biases or CSV, as the recipe's `deepspeed` block has them.
        device: Whose memory is told.
        teacher_texts: What the teacher wrote for validation rows, by their ids, where that is cached.
    """

    def __init__(
        self, recipe: Recipe, monitor: MonitorMaster, device: torch.device, teacher_texts: dict[str, str]
    ) -> None:
        self.recipe, self.monitor, self.device = recipe, monitor, device
        self.run_dir, self.teacher_texts = recipe.run_dir, teacher_texts
        self._shown_sounds: set[str] = set()

    def step(self, record: dict, left_s: float) -> None:
        """A step's record, and now and then a line of it with the time left, in seconds."""
        _append(self.run_dir / "steps.jsonl", [record])
        memory_gib = peak_bytes(self.device) / 2**30
        rates = {f"lr/{part}": rate for part, rate in record["lr"].items()}
        speed = {name: record[name] / record["seconds"] for name in ("tokens", "audio_s")}
        metrics = {name: value for name, value in record.items() if isinstance(value, float)} | rates
        metrics |= {"tokens_per_s": speed["tokens"], "audio_s_per_s": speed["audio_s"], "memory_gib": memory_gib}
        self._monitored("train", metrics, record["step"])
        done = record["step"] + 1
        if done % 10 == 0 or done in (1, self.recipe.total_steps):
            names = ("loss", *UNITS, "correct", "agreement", "overlap", "ended", "kept_mass", "grad_norm")
            shown = " ".join(f"{name} {record[name]:.3f}" for name in names if name in record)
            print(
                f"{record['stage']} {done}/{self.recipe.total_steps}: {shown} | {speed['tokens']:.0f} tokens/s, "
                f"{speed['audio_s']:.0f} audio-s/s, {memory_gib:.1f} GiB, {clock(left_s)} left",
                flush=True,
            )

    def validation(self, step: int, sets: dict[str, tuple[dict[str, float], list[Row], dict[str, str]]]) -> None:
        """A validation's records, and some of its clips with their texts (reference, teacher, student) and sound.

        Args:
            step: Steps done.
            sets: Figures, rows and texts by row id, of each set by its name.
        """
        shown = {name: [row for row in rows if row.id in texts] for name, (_, rows, texts) in sets.items()}
        shown = {name: rows[: self.recipe.train.validate_shown] for name, rows in shown.items()}
        tables = {
            name: [
                {
                    "step": step,
                    "set": name,
                    "id": row.id,
                    "reference": row.text,
                    "teacher": self.teacher_texts.get(row.id),
                    "student": sets[name][2][row.id],
                    "path": str(row.path),
                }
                for row in rows
            ]
            for name, rows in shown.items()
        }
        _append(self.run_dir / "texts.jsonl", [line for table in tables.values() for line in table])
        # Last, and of all sets at once: they say that this validation is done.
        records = [{"step": step, "set": name} | figures for name, (figures, _, _) in sets.items()]
        _append(self.run_dir / "validation.jsonl", records)
        for record in records:
            name = record["set"]
            metrics = {metric: value for metric, value in record.items() if isinstance(value, float)}
            self._monitored(f"validation/{name}", metrics, step)
            self._show(record, tables[name], shown[name])
            numbers = " ".join(f"{metric} {value:.3f}" for metric, value in metrics.items())
            print(f"validation {name} at step {step}: {numbers}", flush=True)

    def _monitored(self, group: str, metrics: dict[str, float], step: int) -> None:
        if self.monitor.enabled:
            self.monitor.write_events([(f"{group}/{name}", value, step) for name, value in metrics.items()])

    def _show(self, record: dict, table: list[dict], rows: list[Row]) -> None:
        """Texts and sounds on TensorBoard, which alone of DeepSpeed's monitors takes them through its writer."""
        board = self.monitor.tb_monitor
        if board is None or not table:
            return
        columns = ("id", "reference", "teacher", "student")
        lines = [columns, ["---"] * len(columns), *([_cell(entry[name]) for name in columns] for entry in table)]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        board.summary_writer.add_text(f"texts/{record['set']}", text, record["step"])
        new = [row for row in rows if row.id not in self._shown_sounds]  # a sound does not change from step to step
        for i, wave in load_clips(new)[0].items():
            self._shown_sounds.add(new[i].id)
            tag = f"sounds/{record['set']}/{new[i].id}"
            board.summary_writer.add_audio(tag, torch.from_numpy(wave)[None], record["step"], SAMPLE_RATE)
        board.flush()


class Pace:
    """How long a run still takes.

    Steps go by the last ones of their stage, as those of another may take twice as long; validations by all so far.

    Args:
        total: Steps of the run.
        validate_every: Steps between validations, of which the last step has one too; 0: there are none.
    """

    def __init__(self, total: int, validate_every: int = 0) -> None:
        self.total, self.every = total, validate_every
        self._stage, self._seconds = "", deque[float](maxlen=_PACE_STEPS)
        self._validations, self._validating_s = 0, 0.0

    def __call__(self, stage: str, seconds: float, done: int) -> float:
        """Seconds left after a step, and before the validation that it may have.

        Args:
            stage: Its stage, whose first step, in which much is made ready, counts alone.
            seconds: How long it took.
            done: Steps done, with it.
        """
        if stage != self._stage:
            self._stage = stage
            self._seconds.clear()
            step_s = seconds
        else:
            self._seconds.append(seconds)
            step_s = sum(self._seconds) / len(self._seconds)
        validation_s = self._validating_s / max(self._validations, 1)
        return step_s * (self.total - done) + validation_s * self._validations_left(done)

    def validated(self, seconds: float) -> None:
        """A validation took so long."""
        self._validations += 1
        self._validating_s += seconds

    def _validations_left(self, done: int) -> int:
        """Validations from this step on, with its own."""
        if not self.every:
            return 0
        return self.total // self.every - (done - 1) // self.every + bool(self.total % self.every)


def _cell(text: str | None) -> str:
    """A text within one cell of a Markdown table."""
    return " ".join((text or "").replace("|", "\\|").split())


def _append(path: Path, records: list[dict]) -> None:
    with path.open("a", encoding="utf-8") as file:
        # In one write: records that belong together are there together.
        file.write(
            "".join(json.dumps(_finite(record), ensure_ascii=False, allow_nan=False) + "\n" for record in records)
        )


def _finite(value: Any) -> Any:
    """A value without numbers that JSON does not have: infinite, or none, as of a step that fp16 leaves out."""
    if isinstance(value, dict):
        return {key: _finite(of) for key, of in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
