"""A whole run over the tiny model: caching, training, scoring, exporting, report; and what is there at its end."""

import hashlib
import json
import os
import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

import distill.scoring.evaluation as evaluation
import student.device.package  # noqa: F401 (what the commands import is there before they are forked)
import teacher.cache as caching
from data.cache.reader import CacheReader
from data.cache.writer import CacheWriter
from data.paths import is_temporary
from distill.chaos.commands import Ended, Moment, Running
from distill.chaos.tiny import tiny_sections, write_data
from distill.chaos.tiny_weights import write_weights
from distill.training.checkpoints import SEAL
from distill.training.loop import Trainer  # noqa: F401

_SHARD_ROWS = 2
_EXPORTS = find_spec("onnx") is not None and find_spec("onnxscript") is not None
if _EXPORTS:
    import_module("onnxscript")
_OF_A_CLOCK = ("seconds",)


class Command(NamedTuple):
    """One of a run's commands: what a person calls it, its script, its arguments."""

    name: str
    script: str
    words: tuple[str, ...]


class SmallRun:
    """Runs the commands in a folder, from nothing, as often as it is asked.

    Args:
        folder: A new one. All paths in it stay the same from run to run, so that files can be compared.
        overrides: Of its recipe, as `--set` takes them.
    """

    def __init__(self, folder: Path, overrides: Sequence[str] = ()) -> None:
        self.inputs, self.folder = folder / "inputs", folder / "run"
        self._asked = [word for override in overrides for word in ("--set", override)]
        self.inputs.mkdir(parents=True)
        write_data(self.inputs)
        aside(lambda: write_weights(self.inputs))
        sections = tiny_sections(self.inputs, self.inputs, self.folder)
        sections["train"] |= {"validate_every": 3}
        sections["train"]["stages"][1]["steps"] = 8
        (self.inputs / "tiny.json").write_text(json.dumps(sections, indent=2))

    @property
    def commands(self) -> tuple[Command, ...]:
        """All commands, in order; no exporting where its libraries are not installed."""
        out, recipe = self.folder, ("--config", str(self.inputs / "tiny.json"), *self._asked)
        model, results, page = str(out / "runs/tiny/model"), str(out / "results/tiny"), str(out / "page")
        package = ("--model", model, "--out", str(out / "package"), "--llm", "f16", "--audio", "f32")
        exporting = (Command("exporting", "scripts/export.py", package),) if _EXPORTS else ()
        return (
            Command("caching", "scripts/cache_teacher.py", recipe),
            Command("training", "distill/train.py", recipe),
            Command("scoring", "scripts/evaluate.py", ("--model", "student", *recipe)),
            *exporting,
            Command("report", "scripts/report.py", (results, "--out", page)),
        )

    def begin(self) -> None:
        """Forgets what was run."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def start(
        self,
        command: Command,
        kill: Moment | None = None,
        prepare: Callable[[], None] = lambda: None,
        rank: tuple[int, int, int] = (0, 1, 0),
    ) -> Running:
        """Starts a command; see `Running`."""
        return Running(command.script, command.words, self.folder, kill, lambda: (prepare(), _small()), rank)

    def run(self, command: Command, prepare: Callable[[], None] = lambda: None) -> Ended:
        """Runs a command to its end."""
        return self.start(command, prepare=prepare).ended()

    def end(self) -> dict[str, str]:
        """What is there: a hash of each file by its path, but for what a clock says, and of all that is cached.

        Shards' borders are no part of it, as a kill may move them; nor is half a file under a temporary name, which
        later commands remove.
        """
        return aside(lambda: dict(self._found()))

    def _found(self) -> Iterator[tuple[str, str]]:
        if (self.folder / "cache/identity.json").is_file():
            yield "cache", CacheReader(self.folder / "cache").content_sha256()
        for path in sorted(self.folder.rglob("*")):
            name = str(path.relative_to(self.folder))
            of_cache = name.startswith("cache/") and path.name.startswith("shard-")
            if path.is_file() and not of_cache and path.suffix != ".lock" and not is_temporary(path):
                yield name, hashlib.sha256(_content(path)).hexdigest()


def aside(work: Callable[[], object]) -> object:
    """What some work gives, as JSON has it, done in a child: this process must have no threads when it is forked.

    Raises:
        RuntimeError: It failed, as it says on stderr.
    """
    reading, writing = os.pipe()
    if not (pid := os.fork()):
        try:
            with os.fdopen(writing, "w") as answer:
                json.dump(work(), answer)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as answer:
        said = answer.read()
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("a child failed")
    return json.loads(said)


def _content(path: Path) -> bytes:
    """What a file says: a log's lines without how long they took, a checkpoint's values.

    Of the same values pickle writes other bytes where a string is there once, or twice.
    """
    if path.suffix == ".pt":
        return b"".join(_parts(torch.load(path, map_location="cpu", weights_only=False)))
    if path.name == SEAL:
        return " ".join(json.loads(path.read_text())).encode()
    if path.suffix != ".jsonl":
        return path.read_bytes()
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return json.dumps([{k: v for k, v in line.items() if k not in _OF_A_CLOCK} for line in lines]).encode()


def _parts(value: object) -> Iterator[bytes]:
    """All that a value holds, one after the other."""
    if isinstance(value, torch.Tensor):
        yield f"{value.dtype} {[*value.shape]} ".encode()
        yield value.detach().flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, Mapping):
        for key, of in value.items():
            yield f"{key!r}: ".encode()
            yield from _parts(of)
    elif isinstance(value, list | tuple):
        for of in value:
            yield from _parts(of)
    elif hasattr(value, "__dict__") and not isinstance(value, Enum | type):
        yield type(value).__name__.encode()
        yield from _parts(vars(value))
    else:
        yield repr(value).encode()


def _small() -> None:
    """In a child, for its command alone: twelve rows are several shards, and no time is measured, which is no fact."""
    caching.CacheWriter = partial(CacheWriter, shard_rows=_SHARD_ROWS)
    evaluation.measure_or_say = lambda *_: {}
