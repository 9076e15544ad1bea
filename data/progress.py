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

    Args:
        label: What is done.
        total: Units in all; None where they cannot be known before the end, which `end` tells.
        unit: Name of a unit.
        quiet: Say nothing (ranks other than the first).
        stream: Where it is said; stdout if not given.
    """

    def __init__(
        self, label: str, total: int | None, unit: str = "clips", quiet: bool = False, stream: TextIO | None = None
    ) -> None:
        self.label, self.total, self.unit, self.quiet = label, total, unit, quiet
        self.stream = stream or sys.stdout
        self.done, self.start, self.said = 0, time.monotonic(), 0.0
        self.terminal = self.stream.isatty()

    def add(self, units: int, audio_s: float | None = None) -> None:
        """Counts finished units, and says so now and then and at the end; with the audio heard so far, where known."""
        self.done += units
        now = time.monotonic()
        finished = self.total is not None and self.done >= self.total
        if self.quiet or (not finished and now - self.said < (0.5 if self.terminal else 15.0)):
            return
        self.said = now
        spent = now - self.start
        rate = self.done / max(spent, 1e-9)
        if self.total is None or finished:
            left = f"took {clock(spent)}" if finished else f"{clock(spent)} so far"
        else:
            left = f"{clock((self.total - self.done) / max(rate, 1e-9))} left"
        of = "" if self.total is None else f"/{self.total}"
        heard = "" if audio_s is None else f", {audio_s / max(spent, 1e-9):.0f} audio-s/s"
        line = f"{self.label}: {self.done}{of} {self.unit}, {rate:.1f} {self.unit}/s{heard}, {left}"
        end = "\n" if finished or not self.terminal else ""
        print(f"\r\x1b[K{line}" if self.terminal else line, end=end, file=self.stream, flush=True)

    def end(self) -> None:
        """Tells that there is no more to come, where that was not known before."""
        self.total = self.done
        self.add(0)
