"""Progress with rate and time left, on a terminal as one line that renews itself, in a log as a line now and then."""

import sys
import time
from typing import TextIO


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """Counts units of work towards a total and tells how it goes.

    The first line comes when some time has passed: from the first moment nothing can be told of the rest.

    Args:
        label: What is done.
        total: Units in all; None where they cannot be known before the end, which `end` tells.
        unit: Name of a unit.
        seconds: Of sound, in all units, by which the time left is told where it is given: the longest clips come first,
            and by their number it would be told too long.
        quiet: Say nothing (ranks other than the first).
        stream: Where it is said; stdout if not given.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        unit: str = "clips",
        *,
        seconds: float | None = None,
        quiet: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        self.label, self.total, self.unit, self.seconds, self.quiet = label, total, unit, seconds, quiet
        self.stream = stream or sys.stdout
        self.start = self.said = time.monotonic()
        self.done, self.done_s = 0, 0.0
        self.terminal = self.stream.isatty()

    def add(self, units: int, seconds: float = 0.0, audio_s: float | None = None) -> None:
        """Counts finished units, and says so now and then and at the end.

        Args:
            units: How many more are done.
            seconds: Their part of all `seconds`.
            audio_s: Seconds of sound read so far, where they are to be told.
        """
        self.done += units
        self.done_s += seconds
        now = time.monotonic()
        finished = self.total is not None and self.done >= self.total
        if self.quiet or (not finished and now - self.said < (0.5 if self.terminal else 15.0)):
            return
        self.said = now
        spent = now - self.start
        if self.total is None or finished:
            left = f"took {clock(spent)}" if finished else f"{clock(spent)} so far"
        else:
            share = self.done_s / self.seconds if self.seconds else self.done / self.total
            left = f"{clock(spent / share - spent)} left" if share else f"{clock(spent)} so far"
        of = "" if self.total is None else f"/{self.total}"
        rate = self.done / max(spent, 1e-9)
        heard = "" if audio_s is None else f", {audio_s / max(spent, 1e-9):.0f} audio-s/s"
        line = f"{self.label}: {self.done}{of} {self.unit}, {rate:.1f} {self.unit}/s{heard}, {left}"
        end = "\n" if finished or not self.terminal else ""
        print(f"\r\x1b[K{line}" if self.terminal else line, end=end, file=self.stream, flush=True)

    def end(self) -> None:
        """Tells that there is no more to come, where that was not known before."""
        self.total = self.done
        self.add(0)
