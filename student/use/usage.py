"""How a model is used: the instruction of each task and the bounds of its texts, as `usage.json` beside its weights."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, TypeAdapter, ValidationError

from data.errors import InputError
from data.paths import REPOSITORY, written_whole
from data.prompts import QUESTION, Prompts
from data.rows.row import Mono
from data.settings import Settings, read_settings
from data.sound.audio import MAX_SECONDS
from data.strict_json import loads
from student.use.results import Task
from teacher.hypotheses import GenerationSettings, LengthCap

FILE = "usage.json"
CARD = ("README.md", "card.json")
"""What else a model's folder says of it (`distill/models/card.py`)."""
ROWS: dict[Task, tuple[str, ...]] = {
    "transcribe": ("asr",),
    "caption": ("audiocaption", "audiocaption_v2"),
    "ask": ("QA", "inference_QA"),
}
"""The recipes' tasks that a model has learnt each task of use from."""
_PROMPTS = TypeAdapter(Prompts)
_LONGEST_S = (10.0, float(MAX_SECONDS))
"""Bounds of what is heard at once."""
_SPOKEN = 12.0
"""Tokens a second that no speech has: a recipe that bounds no texts is used with this bound."""


class TaskUse(LengthCap):
    """One task."""

    instruction: str = Field(description="what the model is told; {} is where a question comes in")
    longest_s: float = Field(
        15.0,
        ge=2,
        le=MAX_SECONDS,
        description="seconds of sound that are heard at once, at most: about as long as the clips of training",
    )
    trained: bool = Field(True, description="whether the model was trained on such instructions")


class Usage(Settings):
    """How a model is used."""

    format: Literal[1] = 1
    tasks: dict[Task, TaskUse] = Field(description="by name; a model that has not learnt a task does not have it")
    num_beams: int = Field(1, ge=1, description="beams; 1 is greedy")
    max_seconds: float = Field(
        120.0, gt=0, description="padded seconds of sound of a batch; a model that hears 30 s counts 30"
    )
    mono: Mono = Field("first", description="what is heard of several channels: the first, or their mean (mix)")

    def asked(self, task: Task, question: str = "") -> TaskUse:
        """A task with its question in its place.

        Raises:
            InputError: The model does not have the task, or there is no question where one is needed, or one where not.
        """
        if task not in self.tasks:
            raise InputError(f"{task}: the model has not learnt this; it can {', '.join(self.tasks)}")
        use = self.tasks[task]
        if (QUESTION in use.instruction) != bool(question.strip()):
            raise InputError(
                "ask: ask something, such as 'what is heard?'"
                if QUESTION in use.instruction
                else f"{task}: takes no question; leave it out, or use ask"
            )
        return use.model_copy(update={"instruction": use.instruction.replace(QUESTION, question.strip())})


def usage_of(
    prompts: Prompts, generation: GenerationSettings, mono: Mono = "first", learnt: Mapping[str, float] | None = None
) -> Usage:
    """The use of a model that was trained under these prompts, as it is scored: their first wordings, its own caps.

    Args:
        prompts: The recipe's.
        generation: The recipe's.
        mono: The recipe's.
        learnt: For each task of the rows that it was trained on how long nearly all of its clips are at most, seconds;
            None where the rows are not known: all tasks that have prompts.
    """
    caps = generation.model_dump(include=set(LengthCap.model_fields))
    tasks: dict[Task, TaskUse] = {}
    for task, rows in ROWS.items():
        worded = [name for name in rows if prompts.get(name)]
        taught = [name for name in worded if learnt is None or name in learnt]
        if not worded and task != "ask":
            continue
        wording = prompts[(taught or worded)[0]][0] if worded else QUESTION
        use = TaskUse(instruction=wording, trained=bool(taught), **caps)
        if learnt and taught:
            use = use.model_copy(update={"longest_s": _longest(max(learnt[name] for name in taught), generation)})
        if task == "transcribe" and generation.tokens_per_second is None:
            use = use.model_copy(update={"tokens_per_second": _SPOKEN})
        tasks[task] = use
    return Usage(tasks=tasks, num_beams=generation.num_beams, max_seconds=generation.max_seconds, mono=mono)


def _longest(trained_s: float, caps: LengthCap) -> float:
    """What is heard at once: as much as in training, and no more than the longest text has room for."""
    room_s = MAX_SECONDS if caps.tokens_per_second is None else caps.max_new_tokens / caps.tokens_per_second
    return round(min(max(min(trained_s, room_s), _LONGEST_S[0]), _LONGEST_S[1]), 1)


def write_usage(usage: Usage, folder: Path) -> None:
    """Writes `usage.json`."""
    with written_whole(folder / FILE) as temporary:
        temporary.write_text(json.dumps(usage.model_dump(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_usage(folder: Path) -> Usage:
    """The use of a model: of its folder, else of the recipe of the run that it lies in, else the usual one, as is told.

    Raises:
        InputError: A file is there, but broken.
    """
    if (folder / FILE).exists():
        return read_settings(Usage, folder / FILE, what="usage", where="runs/NAME/model")
    if (recipe := folder.parent / "recipe.json").is_file():
        return _of_recipe(recipe)
    print(
        f"note: {folder}: no {FILE}, and no recipe beside it: asked with the first wordings of data/prompts.json",
        file=sys.stderr,
        flush=True,
    )
    wordings = loads((REPOSITORY / "data" / "prompts.json").read_text(encoding="utf-8"))
    return usage_of({task: tuple(of) for task, of in wordings.items()}, GenerationSettings())


def _of_recipe(file: Path) -> Usage:
    try:
        made = loads(file.read_text(encoding="utf-8"))
        prompts = _PROMPTS.validate_python(made["data"]["prompts"])
        generation = GenerationSettings.model_validate_json(json.dumps(made["generation"]))
        return usage_of(prompts, generation, made["data"].get("mono", "first"))
    except (ValueError, ValidationError, KeyError, TypeError, AttributeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else f"{type(error).__name__}: {error}"
        raise InputError(f"{file}: no recipe that can be read ({reason}); write {file.parent}/model/{FILE}") from None
