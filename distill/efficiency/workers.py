"""Processes that hold one model each and time it when told: in PyTorch, or as a device package."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from data.errors import InputError
from data.paths import REPOSITORY
from distill.models.packages import package_bytes, package_sizes

_LAUNCHER = {"RANK", "LOCAL_RANK", "CROSS_RANK", "WORLD_SIZE", "LOCAL_SIZE", "LOCAL_WORLD_SIZE", "CROSS_SIZE"}


def alone() -> dict[str, str]:
    """The environment of a process that is no rank: one of several on the CPU would take a part of the threads."""
    left = {name: value for name, value in os.environ.items() if name not in _LAUNCHER}
    if "TORCHELASTIC_RUN_ID" in left and left.get("OMP_NUM_THREADS") == "1":
        del left["OMP_NUM_THREADS"]  # torchrun's, for its ranks
    return left


class Worker:
    """A process that holds one model and times it when told.

    Args:
        name: The model's.
        folder: Where what it says is kept.
        command: Arguments of Python; it is told the pipe for its answers besides.
    """

    longest_batch: int | None = None
    """Clips that it hears at once, at most; None: any number."""

    def __init__(self, name: str, folder: Path, command: Sequence[object]) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        # Answers have a pipe of their own: libraries print to the standard output, some while they are imported.
        reading, writing = os.pipe()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *map(str, command), "--answers", str(writing)],
                cwd=REPOSITORY,
                env=alone(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[writing],
                text=True,
            )
        os.close(writing)
        self.answers = os.fdopen(reading)

    def __enter__(self) -> "Worker":
        try:
            self.about = self.answer()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.answers.close()

    def run(self, seconds: float, batch: int, tokens: int, sound: str, fresh: bool) -> dict:
        """One timed batch; see `distill.efficiency.timing.Subject.run`."""
        return self.ask(seconds=seconds, batch=batch, tokens=tokens, sound=sound, fresh=fresh)

    def ask(self, **what: object) -> dict:
        """Its answer to a line."""
        with suppress(BrokenPipeError):  # it ended; its last words are read below
            print(json.dumps(what), file=self.process.stdin, flush=True)
        return self.answer()

    def answer(self) -> dict:
        """Its next answer.

        Raises:
            InputError: It ended, or says that something that was given is wrong.
        """
        line = self.answers.readline()
        if not line:
            status = self.process.wait()
            message = (self.log.read_text().strip().splitlines() or ["no message"])[-1]
            cause = "killed, most likely for want of memory" if status == -9 else message
            raise InputError(f"measuring the {self.name} failed: {cause}")
        answer = json.loads(line)
        if "error" in answer:
            raise InputError(answer["error"])
        return answer


class DeviceWorker(Worker):
    """One whose process holds a device package, and no PyTorch.

    Args:
        name: The model's.
        folder: As `Worker`.
        package: The package's folder.
        threads: As many as the models in PyTorch have.
        instruction: What it is told.
        clip_file: Gives the file of a clip of so many seconds, of speech or noise.
    """

    longest_batch = 1

    def __init__(
        self,
        name: str,
        folder: Path,
        package: Path,
        threads: int,
        instruction: str,
        clip_file: Callable[[float, str], Path],
    ) -> None:
        self.package, self.clip_file = package, clip_file
        command = ["-m", "distill.efficiency.device_timing", "--package", package, "--threads", threads]
        super().__init__(name, folder, [*command, "--instruction", instruction])

    def __enter__(self) -> "DeviceWorker":
        super().__enter__()
        sizes = package_sizes(self.package)
        self.about |= {key: sizes[key] for key in ("parameters", "parts", "weight_bytes", "device")}
        self.about |= {"part_bytes": package_bytes(self.package)}
        return self

    def run(self, seconds: float, batch: int, tokens: int, sound: str, fresh: bool) -> dict:
        """One timed clip."""
        return self.ask(clip=str(self.clip_file(seconds, sound)), tokens=tokens, fresh=fresh)
