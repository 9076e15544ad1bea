"""Kills a small run again and again, at moments that a seed draws, and compares each end with that of an untouched one.

A round is a run from nothing: each command is killed and started again until it ends before its next kill comes, or has
had its share. Half of the moments are drawn from the time that the untouched command took, half from its changes of
files (making, renaming, removing), before each of which, or some milliseconds later, a kill leaves most behind.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from data.errors import InputError
from data.progress import clock
from distill.chaos.commands import Ended, Moment
from distill.chaos.small_run import Command, SmallRun

_MOST_LATER_S = 0.03
_LAST_WORDS = 2000


@dataclass
class Untouched:
    """A run that nobody touched: what is there at its end, and how each command ended."""

    end: dict[str, str]
    commands: dict[str, Ended]


@dataclass
class Kills:
    """What was found.

    Attributes:
        of: Kills of each command.
        rounds: Runs that came to their end.
        faults: What was not as in the untouched run, a line each.
    """

    of: dict[str, int] = field(default_factory=dict)
    rounds: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def all(self) -> int:
        """Kills of all commands."""
        return sum(self.of.values())


def untouched(run: SmallRun) -> Untouched:
    """Runs all commands, once, and looks.

    Raises:
        InputError: One fails by itself.
    """
    run.begin()
    ended = {command.name: whole(run, command) for command in run.commands}
    return Untouched(run.end(), ended)


def whole(run: SmallRun, command: Command) -> Ended:
    """Runs a command to its end.

    Raises:
        InputError: It fails.
    """
    ended = run.run(command)
    if ended.status:
        raise InputError(f"{command.name} ended with status {ended.status}: {ended.said[-_LAST_WORDS:].strip()}")
    return ended


def kill_in_a_row(
    run: SmallRun, model: Untouched, kills: int, seed: int, share: int, say: Callable[[str], None]
) -> Kills:
    """Kills so often, over as many runs as it takes.

    Args:
        run: The run.
        model: The untouched one.
        kills: How many.
        seed: Of the moments.
        share: Most kills of a command in a run.
        say: Told how it goes.
    """
    draws, found, began = random.Random(seed), Kills(), time.monotonic()
    while found.all < kills:
        run.begin()
        for command in run.commands:
            for _ in range(min(share, kills - found.all)):
                moment = drawn(draws, model.commands[command.name])
                ended = run.start(command, moment).ended()
                if not ended.killed:
                    break
                found.of[command.name] = found.of.get(command.name, 0) + 1
                left = (time.monotonic() - began) / found.all * (kills - found.all)
                say(f"kill {found.all}/{kills}: {command.name}, {moment}; {clock(left)} left")
            else:
                ended = run.run(command)
            if ended.status:
                found.faults.append(f"{command.name}, started again, ends with {ended.status}: {_last_line(ended)}")
                return found
        found.rounds += 1
        differing = differences(model.end, run.end())
        found.faults += [f"round {found.rounds}: {line}" for line in differing]
        say(f"round {found.rounds}, {found.all} kills: {'equal' if not differing else '; '.join(differing)}")
    return found


def drawn(draws: random.Random, ended: Ended) -> Moment:
    """A moment within what a command did when nobody touched it."""
    if not ended.changes or draws.random() < 0.5:
        return Moment(after_s=draws.uniform(0, ended.seconds))
    later_s = draws.uniform(0, _MOST_LATER_S) if draws.random() < 0.5 else 0.0
    return Moment(change=draws.randint(1, ended.changes), later_s=later_s)


def differences(model: dict[str, str], end: dict[str, str]) -> list[str]:
    """How an end differs from the untouched one, a line each."""
    lines = [f"{name} is missing" for name in model.keys() - end.keys()]
    lines += [f"{name} was left behind" for name in end.keys() - model.keys()]
    lines += [f"{name} is another" for name in model.keys() & end.keys() if model[name] != end[name]]
    return sorted(lines)


def _last_line(ended: Ended) -> str:
    return next(reversed(ended.said.strip().splitlines()), "")
