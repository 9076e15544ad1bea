"""Who makes micro-batches ahead: threads of the training's process, or processes beside it.

A thread shares the interpreter with what launches the step's operations. On a GPU, where a step is many short
launches, that holds these up (results/README.md has figures); on a CPU the step takes the cores anyway.
"""

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from data.cache.targets import Target
from data.errors import InputError
from data.ranks import ranks_here
from distill.losses.settings import LossWeights
from distill.training.examples import Examples
from distill.training.objective import Example

MOST = 4
"""Processes for each rank, if nothing is said: with a core each they make some 8,000 seconds of sound a second
(results/published/loader.md), far more than a step takes."""
_OPEN_FILES = 65536
_PR_SET_PDEATHSIG = 1


class Asked(NamedTuple):
    """What `Examples` is called with."""

    rows: list[int]
    weights: LossWeights
    targets: Sequence[Target]
    own_texts: bool


class Maker(Protocol):
    """Makes the micro-batches of a step, and meanwhile those of the next ones."""

    def load(self, step: int) -> list[Example]:
        """A step's micro-batches."""

    def close(self) -> None:
        """Ends what makes them."""


class InThreads:
    """Threads of this process.

    Args:
        examples: Makes a micro-batch.
        asked: What is asked of it for each micro-batch of a step.
        steps: Of the run.
        ahead: Steps that are made ahead, in as many threads.
    """

    def __init__(self, examples: Examples, asked: Callable[[int], list[Asked]], steps: int, ahead: int) -> None:
        self.examples, self.asked, self.steps, self.ahead = examples, asked, steps, ahead
        self._pool = ThreadPoolExecutor(max(ahead, 1))
        self._coming: dict[int, list[Future[Example]]] = {}

    def load(self, step: int) -> list[Example]:
        """A step's micro-batches."""
        begun = self._coming.pop(step, None) or self._begin(step)
        made = [example.result() for example in begun]
        for ahead in range(step + 1, min(step + 1 + self.ahead, self.steps)):
            if ahead not in self._coming:
                self._coming[ahead] = self._begin(ahead)
        return made

    def close(self) -> None:
        """Begins no further one, and waits for those that are begun."""
        self._pool.shutdown(cancel_futures=True)

    def _begin(self, step: int) -> list[Future[Example]]:
        return [self._pool.submit(self.examples, *asked) for asked in self.asked(step)]


class InProcesses:
    """Processes of torch's DataLoader, one thread each; they begin with the first step that is asked for.

    They are forked: rows, cache and tokenizer are this process's own pages, which none of them writes to. So no thread
    of this process may be reading sounds as they begin: the locks that it holds would never be free in them. A step
    that does not follow on the last one lets go of what was made ahead.

    Args:
        examples: Makes a micro-batch.
        asked: What is asked of it for each micro-batch of a step.
        steps: Of the run.
        ahead: Steps that are made ahead; at least a micro-batch in each process.
        workers: Processes.
        accumulation: Micro-batches of a step.
        pinned: Whether batches are handed over in pinned memory, from which a GPU copies by itself.

    Raises:
        InputError: This is not Linux.
    """

    def __init__(
        self,
        examples: Examples,
        asked: Callable[[int], list[Asked]],
        steps: int,
        ahead: int,
        *,
        workers: int,
        accumulation: int,
        pinned: bool,
    ) -> None:
        if sys.platform != "linux":
            raise InputError("train.workers: processes that make batches take Linux; set it to 0")
        self.examples, self.asked, self.steps = examples, asked, steps
        self._next = 0
        # Each tensor that comes from another process is an open file until it is let go of. No more than that: there
        # are machines with a limit of a billion, and programs that close all numbers up to it as they begin.
        files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, min(most, _OPEN_FILES)), most))
        self._loader: DataLoader | None = DataLoader(
            _Made(examples),
            batch_size=None,  # an item is a micro-batch
            sampler=_Following(self),
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=pinned,
            worker_init_fn=_begin_worker,
            multiprocessing_context="fork",
            generator=torch.Generator(),  # its draws are not the run's
            prefetch_factor=max(-(-ahead * accumulation // workers), 1),
            persistent_workers=True,
        )
        self._coming: Iterator[tuple[_Pinnable | Exception, dict[str, str]]] | None = None

    def load(self, step: int) -> list[Example]:
        """A step's micro-batches."""
        if self._coming is None or step != self._next:
            self._next = step
            self._coming = iter(self._loader)
        self._next += 1
        return [self._taken() for _ in self.asked(step)]

    def close(self) -> None:
        """Ends the processes."""
        if self._coming is not None:
            # What DataLoader does where nobody holds this any more; an error that is on its way holds it.
            self._coming._shutdown_workers()
            for worker in self._coming._workers:
                if worker.is_alive():  # it reads something that never comes, and passed over DataLoader's SIGTERM
                    worker.kill()
                    worker.join()
        self._coming = self._loader = None

    def asked_from_next(self) -> Iterator[Asked]:
        """What is asked for, from the next step on."""
        for step in range(self._next, self.steps):
            yield from self.asked(step)

    def _taken(self) -> Example:
        made, left_out = next(self._coming)
        for row_id, reason in left_out.items():
            self.examples.left_out.add(row_id, reason)
        if isinstance(made, Exception):
            raise made
        return made.example


class _Following:
    """What a maker asks for, anew from its next step each time that it is gone through."""

    def __init__(self, maker: InProcesses) -> None:
        self.maker = maker

    def __iter__(self) -> Iterator[Asked]:
        return self.maker.asked_from_next()


class _Pinnable:
    """An example as DataLoader pins it: by a method of this name, in a thread of the training's process."""

    def __init__(self, example: Example) -> None:
        self.example = example

    def pin_memory(self) -> "_Pinnable":
        return _Pinnable(pinned(self.example))


class _Made(Dataset):
    """Micro-batches by what is asked for, and why clips were left out of them.

    What the person can mend comes back as a value: DataLoader would make a traceback of it.
    """

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __getitem__(self, asked: Asked) -> tuple[_Pinnable | Exception, dict[str, str]]:
        try:
            made = _Pinnable(self.examples(*asked))
        except (InputError, OSError, MemoryError) as error:
            made = error
        return made, self.examples.left_out.take_new()


def workers_of(asked: int | None, kind: str) -> int:
    """The processes that make a rank's batches, where the recipe leaves it open.

    On a GPU its share of the cores but one, at most `MOST`. On a CPU none: the step takes the cores, and what it
    writes to would be copied for them.

    Args:
        asked: What the recipe says.
        kind: Of the device that trains: cpu, cuda, ...
    """
    if asked is not None:
        return asked
    if kind == "cpu" or sys.platform != "linux":
        return 0
    share = len(os.sched_getaffinity(0)) // ranks_here()
    return min(max(share - 1, 1), MOST)


def pinned(of: Any) -> Any:
    """The same with its tensors in pinned memory, be it a tensor, a container or a dataclass."""
    if isinstance(of, torch.Tensor):
        return of.pin_memory()
    if isinstance(of, list | tuple):
        return type(of)(map(pinned, of))
    if is_dataclass(of):
        values = {field.name: getattr(of, field.name) for field in fields(of)}
        return replace(of, **{name: pinned(value) for name, value in values.items() if _holds_tensors(value)})
    return of


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_holds_tensors, value))
    return isinstance(value, torch.Tensor) or is_dataclass(value)


def _as_it_is(item: Any) -> Any:
    return item


def _begin_worker(_: int) -> None:
    """Makes a forked process a worker of the training, which alone decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _on_first_term)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # however the training ends, this ends with it
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # their threads are not forked
    torch.utils.data.get_worker_info().dataset.examples.left_out.quiet = True


def _on_first_term(*_: object) -> None:
    """A scheduler's SIGTERM reaches every process, and the training still takes its step; a second one ends this."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
