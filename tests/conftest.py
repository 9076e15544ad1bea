"""A tiny SALMONN of random weights, a few seconds of sound, and a recipe over both that writes into the test's folder.

The fixtures import what they need themselves, so that tests without a model do not wait for transformers.
"""

import importlib
import json
import os
import runpy
import shutil
import signal
import socket
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from distill.chaos.tiny import (  # noqa: F401 (tests take them from here)
    PROMPTS,
    SAMPLE_RATE,
    SENTENCES,
    sound,
    teacher_section,
    tiny_sections,
    write_annotation_of,
    write_data,
)

# No deadline: a busy machine is no failure.
settings.register_profile("suite", deadline=None, max_examples=50)
settings.load_profile("suite")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """train.json (asr and audiocaption), valid.json, test_asr.json and test_aac.json with their sounds."""
    folder = tmp_path_factory.mktemp("tiny_data")
    write_data(folder)
    return folder


@pytest.fixture
def own_data(tiny_data, tmp_path) -> Path:
    """A copy of the tiny data that a test may spoil."""
    return shutil.copytree(tiny_data, tmp_path / "data")


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory) -> Path:
    """whisper/ and llm/ (with its tokenizer) as Hugging Face folders, and trained.safetensors: all of random weights.

    The LoRA of the trained part does something, as after training.
    """
    from distill.chaos.tiny_weights import write_weights

    folder = tmp_path_factory.mktemp("tiny_weights")
    write_weights(folder)
    return folder


@pytest.fixture
def tiny_recipe(own_data, tiny_weights, tmp_path) -> Path:
    """A recipe of six steps in fp32 without dropout; all that it reads but weights, and writes, is the test's own."""
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(tiny_sections(own_data, tiny_weights, tmp_path), indent=2))
    return path


@pytest.fixture
def tiny_teacher(tiny_recipe):
    """Model and processor of the tiny recipe's teacher."""
    from distill.recipe.reading import read_recipe
    from teacher.build import build_teacher

    return build_teacher(read_recipe(tiny_recipe).teacher)


@pytest.fixture
def tiny_salmonn(tiny_recipe, tmp_path):
    """A function that builds the tiny teacher with a BEATs, untrained, under overrides of its settings."""
    import torch

    from distill.recipe.reading import read_recipe
    from teacher.beats import BeatsEncoder, BeatsSettings
    from teacher.build import build_teacher
    from tests.released import CFG, SIZES, released_beats

    def build(*overrides: str):
        torch.manual_seed(0)
        beats = released_beats(BeatsEncoder(BeatsSettings(**SIZES)))
        torch.save({"cfg": CFG, "model": beats}, tmp_path / "beats.pt")
        own = ["teacher.weights=null", f"teacher.beats={tmp_path}/beats.pt", *overrides]
        return build_teacher(read_recipe(tiny_recipe, own).teacher)

    return build


@pytest.fixture
def fill_tiny_cache(tiny_recipe, tiny_teacher):
    """A function that runs the tiny teacher over the tiny recipe's training rows, into its cache."""
    from distill.recipe.reading import read_recipe
    from distill.recipe.rows import read_rows
    from teacher.cache import cache_identity, fill_cache

    def fill(*overrides: str, rank: int = 0, world: int = 1, model=None):
        recipe = read_recipe(tiny_recipe, overrides)
        teacher, processor = tiny_teacher
        rows = read_rows(recipe, recipe.data.train)
        settings = (recipe.data.prompts, recipe.cache, recipe.generation)
        identity = cache_identity(recipe.teacher, recipe.cache, recipe.generation, recipe.data.prompts, rows, processor)
        fill_cache(model or teacher, processor, rows, *settings, identity, rank=rank, world=world)
        return Path(recipe.cache.folder), identity

    return fill


@pytest.fixture(scope="session")
def waves() -> list[np.ndarray]:
    """Three clips of different lengths."""
    return [sound(seconds, seed) for seed, seconds in enumerate((1.0, 2.7, 1.64))]


@pytest.fixture(scope="session")
def free_port() -> int:
    """The first of ten ports that nothing listens on, this process's alone: tests take the next ones too.

    They are below those that systems give to outgoing connections, and no two workers of a run begin at the same ones.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    block = 16 * os.getppid() + worker
    while not all(map(_is_free, range(first := 10_000 + 10 * (block % 997), first + 10))):
        block += 16
    return first


def _is_free(port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.bind(("", port))
        return True
    return False


@pytest.fixture
def command(monkeypatch, capfd, free_port):
    """A function that runs one of the commands in this process, as the only rank: exit status, stdout, stderr."""
    rank = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port}
    for name, value in rank.items():
        monkeypatch.setenv(name, str(value))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    functional = importlib.import_module("torch.nn.functional")
    monkeypatch.setattr(functional, "linear", functional.linear)  # ZeRO 3 puts its own there, and leaves it

    def run(script: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        monkeypatch.setattr(sys, "path", [*sys.path])
        capfd.readouterr()
        status = 0
        try:
            runpy.run_path(str(REPOSITORY / script), run_name="__main__")
        except SystemExit as end:
            status = end.code or 0
        return status, *capfd.readouterr()

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def records(path: Path) -> list[dict]:
    """The lines of a JSON lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def train(command, tiny_recipe, fill_tiny_cache, tmp_path):
    """Runs distill/train.py; gives the records of its steps."""
    fill_tiny_cache()

    def train(name, *overrides, ends=0):
        options = [word for override in (f"name={name}", *overrides) for word in ("--set", override)]
        status, out, err = command("distill/train.py", "--config", tiny_recipe, *options)
        assert status == ends, err
        return records(tmp_path / "runs" / name / "steps.jsonl"), out

    return train


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """For commands in processes of their own: one thread, as more only get in each other's way on a tiny model."""
    scripts = Path(sys.executable).parent
    return {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture
def stopping_at(monkeypatch):
    """A context in which a run gets SIGTERM when a step, counted from 0, is logged."""
    from distill.training.run_log import RunLog

    logged = RunLog.step

    @contextmanager
    def stopping_at(step):
        def stopped(self, record, left_s):
            logged(self, record, left_s)
            if record["step"] == step:
                os.kill(os.getpid(), signal.SIGTERM)

        with monkeypatch.context() as patch:
            patch.setattr(RunLog, "step", stopped)
            yield

    return stopping_at
