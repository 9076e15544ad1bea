"""What a corpus in miniature is made of: real sound where there is some, lists, and what is made of both."""

import csv

import numpy as np
import pytest
import soundfile

from data.corpora import CORPORA
from data.corpora.prepare import prepare
from data.paths import cache_dir
from data.rows.manifest_reader import read_manifest

RATE = 16_000
RECORDINGS = cache_dir() / "mini" / "test_asr.json"


@pytest.fixture(scope="session")
def speech():
    """Some real speech; tones where the mini recipe's sounds are not fetched."""
    if not RECORDINGS.is_file():
        return [0.3 * np.sin(np.arange(RATE * seconds) * 0.1 * (seconds + 1)) for seconds in (1, 2, 3)]
    return [soundfile.read(row.path)[0] for row in read_manifest(RECORDINGS)[:6]]


@pytest.fixture
def root(tmp_path):
    """The folder that a corpus is unpacked in."""
    return tmp_path / "corpus"


@pytest.fixture
def sound(root, speech):
    """A function that writes a sound file into the corpus."""
    number = iter(range(1000))

    def write(name, seconds=None, rate=RATE):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = speech[next(number) % len(speech)]
        samples = samples if seconds is None else np.resize(samples, round(seconds * rate))
        soundfile.write(path, samples, rate, **({"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}))

    return write


def table(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def written(corpus, root, tmp_path, **options):
    """What is made of a corpus, by split: as rows, through the annotation file."""
    made = prepare(CORPORA[corpus], root, tmp_path / "out", **options)
    assert made.rows.total() == sum(len(read_manifest(path)) for path in made.files.values())
    return made, {split: list(read_manifest(path)) for split, path in made.files.items()}


def shown(rows):
    return [(row.id, row.path.name, row.text, row.task) for row in rows]
