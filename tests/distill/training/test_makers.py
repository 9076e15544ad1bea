"""Micro-batches that processes make are those that threads make, and nothing of them is left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data.cache.reader import CacheReader
from data.errors import InputError
from distill.recipe.reading import read_recipe
from distill.recipe.rows import read_rows
from distill.training import makers
from distill.training.examples import Examples
from distill.training.loader import StepLoader
from distill.training.makers import MOST, InProcesses, pinned, workers_of
from tests.conftest import REPOSITORY, records

pytestmark = pytest.mark.timeout(400)


def tensors(of):
    """All tensors of an example, in order."""
    if isinstance(of, torch.Tensor):
        return [of]
    if is_dataclass(of):
        of = [getattr(of, field.name) for field in fields(of)]
    return [x for part in of for x in tensors(part)] if isinstance(of, list | tuple) else []


def same(a, b):
    assert a.ids == b.ids and a.batch.texts == b.batch.texts
    found = tensors(a)
    assert len(found) > 8
    assert all(torch.equal(x, y) for x, y in zip(found, tensors(b), strict=True))


@pytest.fixture
def loader(tiny_recipe, tiny_teacher, fill_tiny_cache):
    """A function that makes a loader of the tiny recipe, with its cached features."""
    kept = ['cache.features=["encoder", "audio_tokens"]', "deepspeed.gradient_accumulation_steps=2"]
    folder, _ = fill_tiny_cache(*kept)
    made = []

    def loader(*changes):
        recipe = read_recipe(tiny_recipe, [*kept, "train.prefetch=2", *changes])
        examples = Examples(recipe, tiny_teacher[1], read_rows(recipe, recipe.data.train), CacheReader(folder))
        made.append(StepLoader(recipe, examples, rank=0, world=1, accumulation=2))
        return made[-1]

    yield loader
    for one in made:
        one.close()
    assert not multiprocessing.active_children()


def test_processes_make_what_threads_make_also_after_a_jump(loader):
    steps = (0, 1, 2, 4, 5, 3)
    threads, processes = loader(), loader("train.workers=2")
    asked = [threads.load(step) for step in steps]
    threads.close()
    for at, step in enumerate(steps):
        found = processes.load(step)
        assert len(multiprocessing.active_children()) == 2
        for a, b in zip(asked[at], found, strict=True):
            same(a, b)


def test_a_clip_that_cannot_be_read_is_told_in_the_line_of_before(loader, own_data, capfd):
    drop = ("train.workers=2", "data.faults.unreadable=drop")
    stricts = [loader(), loader("train.workers=2")]
    lenient, few = loader(*drop), loader(*drop, "data.faults.max_dropped=0.1")
    (own_data / "sounds" / "train_2.wav").write_bytes(b"RIFF")  # as a disk that fails in the middle of a run
    lines = []
    for strict in stricts:
        with pytest.raises(InputError) as error:
            for step in range(6):
                strict.load(step)
        lines.append(str(error.value))
        strict.close()
    assert "train_2.wav" in lines[0] and lines[0] == lines[1]
    capfd.readouterr()
    ids = {row for step in range(6) for example in lenient.load(step) for row in example.ids}
    assert "train_2" not in ids and len(ids) == 11
    assert capfd.readouterr().out.count("1 clips left out that cannot be read") == 1
    (own_data / "sounds" / "train_4.wav").write_bytes(b"RIFF")
    with pytest.raises(InputError, match=r"more clips than data.faults.max_dropped cannot be read"):
        for step in range(6):
            few.load(step)


def test_an_error_of_the_program_shows_where_it_was(loader, monkeypatch):
    monkeypatch.setattr(makers.Examples, "_load", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError, match=r"(?s)worker process.*examples\.py"):
        loader("train.workers=1").load(0)


def test_a_process_that_is_killed_ends_the_run_in_a_line(train, command, tiny_recipe, monkeypatch, tmp_path):
    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(makers.Examples, "_load", die)
    status, _, err = command(
        *("distill/train.py", "--config", tiny_recipe),
        *("--set", "train.workers=1", "--set", 'train.stages.0.losses={"ce": 1}', "--set", "cache=null"),
        *("--set", "train.teacher=memory"),
    )
    assert status == 2 and not multiprocessing.active_children()
    assert "a process that makes batches is gone" in err.splitlines()[-1] and "train.workers=0" in err.splitlines()[-1]


def test_a_run_goes_on_bit_for_bit_with_processes_or_without(train, stopping_at, tmp_path):
    whole, _ = train("threads")
    shared = set(os.listdir("/dev/shm"))
    with stopping_at(2):
        train("processes", "train.workers=2", ends=130)
        assert not multiprocessing.active_children()
    train("processes", "train.workers=2")
    assert not multiprocessing.active_children() and set(os.listdir("/dev/shm")) <= shared
    names = ("loss", "grad_norm", "tokens", "audio_s")
    found = records(tmp_path / "runs" / "processes" / "steps.jsonl")
    assert [[step[name] for name in names] for step in found] == [[step[name] for name in names] for step in whole]


def test_a_process_that_does_not_answer_is_ended_too(monkeypatch):
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    begun = multiprocessing.get_context("fork").Event()

    def examples(number):
        if number:
            begun.set()
            time.sleep(1000)
        return torch.zeros(1)

    examples.left_out = SimpleNamespace(quiet=False, take_new=dict)
    made = InProcesses(examples, lambda step: [(step,)], 2, 1, workers=1, accumulation=1, pinned=False)
    made.load(0)
    assert begun.wait(20)
    made.close()
    assert not multiprocessing.active_children()


HELD = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_DFL)  # where the tests run it may be ignored
sys.path.insert(0, {root!r})
from types import SimpleNamespace
import torch
from distill.training import makers

class Slow:
    left_out = SimpleNamespace(quiet=False, take_new=dict)
    def __call__(self, number):
        time.sleep(0.01)
        return torch.zeros(100_000) + number

made = makers.InProcesses(Slow(), lambda step: [(step,)], 10**6, 4, workers=2, accumulation=1, pinned=False)
for step in range(10**6):
    assert float(made.load(step)[0][0]) == step
    if step == 3:
        import multiprocessing
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_whatever_ends_the_training_ends_what_makes_its_batches(number, environment):
    shared = set(os.listdir("/dev/shm"))
    words = [sys.executable, "-c", HELD.format(root=str(REPOSITORY))]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as held, ExitStack() as kept:
        kept.callback(held.kill)  # whatever fails: without it this would wait for all its steps
        children = [int(word) for word in held.stdout.readline().split()]
        assert len(children) == 2
        if number == signal.SIGTERM:  # a scheduler's, to all of them: those that make batches wait for the training
            for child in children:
                os.kill(child, number)
            time.sleep(0.5)
            assert all(Path(f"/proc/{child}").exists() for child in children) and held.poll() is None
        held.send_signal(number)
        held.wait(30)
    until = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    assert set(os.listdir("/dev/shm")) <= shared


def test_every_tensor_of_a_batch_is_pinned(loader, monkeypatch):
    example = loader().load(2)[0]
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: x.clone())
    copied = pinned(example)
    same(example, copied)
    assert not {x.data_ptr() for x in tensors(example) if x.numel()} & {x.data_ptr() for x in tensors(copied)}


def test_how_many_make_batches_where_nothing_is_said(monkeypatch):
    assert workers_of(None, "cpu") == 0 and workers_of(3, "cpu") == 3 and workers_of(0, "cuda") == 0
    for cores, ranks, wanted in ((128, 8, MOST), (16, 8, 1), (4, 1, 3), (1, 1, 1)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: range(cores))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        assert workers_of(None, "cuda") == wanted


def test_other_systems_make_them_in_threads(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert workers_of(None, "cuda") == 0
    with pytest.raises(InputError, match=r"train\.workers: .* take Linux; set it to 0"):
        InProcesses(None, None, 1, 1, workers=1, accumulation=1, pinned=False)
