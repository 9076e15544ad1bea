"""Faults of the machine, one by one, on the small run: each is told in one line, and costs no bit of the end."""

import os
import random
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from data.errors import INTERRUPTED, InputError
from distill.chaos.commands import Ended
from distill.chaos.kills import Untouched, differences, whole
from distill.chaos.mounts import own_mounts, read_only, small_disk, used_bytes
from distill.chaos.small_run import Command, SmallRun, aside
from teacher.device import free_port

_ROOM = 1 << 28
_SPARE = (0, 60_000)
"""Bytes that are left on the disk: for nothing, and for some files of a command."""
_LONGEST_FILE = 40_000
_GRACE_S = 30
_LOST_S = 60
_TRIES = 3


def full_disk(run: SmallRun, model: Untouched) -> list[str]:
    """Each command meets a disk without room, which is made then."""
    return _on_a_disk(run, model, _full)


def read_only_folder(run: SmallRun, model: Untouched) -> list[str]:
    """Each command meets a folder that cannot be written to."""
    return _on_a_disk(run, model, _unwritable)


def quota(run: SmallRun, model: Untouched) -> list[str]:
    """Each command meets a bound of a file's length."""
    run.begin()
    lines = []
    for command in run.commands:
        bounded = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (_LONGEST_FILE, resource.RLIM_INFINITY))  # noqa: E731
        lines += _as_told(command, run.run(command, bounded))
        whole(run, command)
    return lines + differences(model.end, run.end())


def terminated(run: SmallRun, model: Untouched) -> list[str]:
    """Each command gets SIGTERM, as a scheduler sends it some time before SIGKILL."""
    draws, lines = random.Random(0), []
    run.begin()
    for command in run.commands:
        for _ in range(_TRIES):
            running = run.start(command)
            if not running.wait(draws.uniform(0, model.commands[command.name].seconds)):
                running.signal(signal.SIGTERM)
            if not running.wait(_GRACE_S):
                lines.append(f"{command.name} goes on for {_GRACE_S} s after SIGTERM")
            ended = running.ended()
            if ended.status not in (0, INTERRUPTED, -signal.SIGTERM) or "Traceback" in ended.said:
                lines.append(f"{command.name} ends with {ended.status}: {ended.said[-300:]}")
        whole(run, command)
    return lines + differences(model.end, run.end())


def flipped_byte(run: SmallRun, model: Untouched) -> list[str]:
    """A byte of what training reads is another: in the cache, or in the newest checkpoint."""
    draws, lines = random.Random(0), []
    caching, training, *others = run.commands
    run.begin()
    whole(run, caching)
    for path in sorted((run.folder / "cache").glob("shard-*.parquet"))[:_TRIES]:
        before = flip(path, draws)
        ended = run.run(training)
        if ended.status:  # else it was a byte that nobody reads, and the end says so
            lines += _as_told(training, ended)
        path.write_bytes(before)
    whole(run, training)
    newest = max((run.folder / "runs/tiny/checkpoints").glob("step_*"), key=lambda folder: int(folder.name[5:]))
    for path in sorted(newest.glob("*.pt")):
        if path.is_file():
            flip(path, draws)
            whole(run, training)
    for command in others:
        whole(run, command)
    return lines + differences(model.end, run.end())


def flip(path: Path, draws: random.Random) -> bytes:
    """Flips a bit of a byte of a file; gives what was there."""
    before = path.read_bytes()
    at = draws.randrange(len(before))
    path.write_bytes(before[:at] + bytes([before[at] ^ 1 << draws.randrange(8)]) + before[at + 1 :])
    return before


def lost_rank(run: SmallRun, model: Untouched) -> list[str]:
    """One of two processes of a training is killed: the other one ends with a line, and both go on."""
    draws, lines = random.Random(0), []
    caching, training, *_ = run.commands

    def both(kill_s: float | None = None) -> list[Ended]:
        port = free_port()
        two = [run.start(training, rank=(number, 2, port)) for number in range(2)]
        if kill_s is not None:
            two[1].wait(kill_s)
            two[1].signal(signal.SIGKILL)
            if two[0].wait(_LOST_S) is False:
                lines.append(f"rank 0 waits for a lost one for more than {_LOST_S} s")
        return [of.ended() for of in two]

    ends = []
    for kills in (0, _TRIES):
        run.begin()
        whole(run, caching)
        for _ in range(kills):
            first, second = both(draws.uniform(0, 1.5 * model.commands[training.name].seconds))
            if (second.killed and first.status not in (0, 2)) or "Traceback" in first.said:
                lines.append(f"rank 0 ends with {first.status}: {first.said[-300:]}")
        if any(ended.status for ended in both()):
            return [*lines, "two ranks, started again, fail"]
        ends.append(run.end())
    return lines + differences(*ends)


FAULTS: dict[str, Callable[[SmallRun, Untouched], list[str]]] = {
    "disk": full_disk,
    "quota": quota,
    "read_only": read_only_folder,
    "flipped": flipped_byte,
    "sigterm": terminated,
    "rank": lost_rank,
}
"""By the names that a person gives; each gives what was not as it should be, a line each."""


def _on_a_disk(run: SmallRun, model: Untouched, spoilt: Callable[[SmallRun, Command], Iterator[Ended]]) -> list[str]:
    """The commands on a disk of their own, each first as it is spoilt, then as it should be."""

    def tried() -> list[str]:
        run.begin()
        try:
            own_mounts()
        except InputError as error:
            return [str(error)]
        small_disk(run.folder, _ROOM)
        lines = []
        for command in run.commands:
            for ended in spoilt(run, command):
                lines += _as_told(command, ended)
            whole(run, command)
        return lines + differences(model.end, run.end())

    return aside(tried)


def _full(run: SmallRun, command: Command) -> Iterator[Ended]:
    for spare in _SPARE:
        small_disk(run.folder, used_bytes(run.folder) + spare + os.sysconf("SC_PAGE_SIZE"))
        yield run.run(command)
        small_disk(run.folder, _ROOM)


def _unwritable(run: SmallRun, command: Command) -> Iterator[Ended]:
    read_only(run.folder, True)
    yield run.run(command)
    read_only(run.folder, False)


def _as_told(command: Command, ended: Ended) -> list[str]:
    """What is wrong with how a command met a fault: nothing where a line says it, or it needed no more than it had."""
    lines = [line for line in ended.said.splitlines() if line.startswith("error: ")]
    if ended.status == 0 or (ended.status == 2 and len(lines) == 1 and "Traceback" not in ended.said):
        return []
    return [f"{command.name} ends with {ended.status}: {ended.said[-300:].strip()}"]
