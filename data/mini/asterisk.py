"""Real speech: the prompts of a telephone exchange, one speaker, with their texts."""

import gzip
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import av
import numpy as np

from data.fetch import check_contents, debian_package
from data.mini.changes import changed
from data.mini.clips import ASR, Splits, silence
from data.sound.audio import SAMPLE_RATE, resample
from data.text import normalise

NAME = "asterisk"
CONTENTS = "fd73419e9104c31f1a11aaf59465bcd9c5dae6c24aedbb42a308524783e21960"
TEXTS = "ed06a52383a51c07e0a789b2cc201c002571259d70fd6a007db2831d0d5d1fb4"
_MAX_SECONDS = 20.0
_BYTES_PER_SECOND = 8000  # G.722 at 64 kbit/s
_TEST_CLIPS, _VALID_CLIPS = 132, 40
_SAME_WORDS = 0.75  # texts that share this part of their words are held out together
_CHAINS, _EXTRA_CHAINS, _CHAIN_SECONDS = 150, 300, 12.0
# What is said where the written text does not tell.
_SAID = {"spy-h323": "H three twenty three", "demo-moreinfo": "", "letters/ascii39": "tick"}
_MISSPELT = {
    "exclaimation": "exclamation",
    "umute": "unmute",
    "represenatives": "representatives",
    "Un-indentified": "unidentified",
    "witheld": "withheld",
}
_NOT_SAID = re.compile(r"\[[^\]]*\]|\([^)]*\)|<[^>]*>")
_LINE = re.compile(r"^([\w./-]+):\s*(.*)$")


@dataclass(frozen=True)
class Prompt:
    """One prompt, perhaps said faster or slower."""

    name: str
    text: str
    speed: float = 1.0
    task: str = ASR
    corpus: str = NAME
    references: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Unique among all clips."""
        return f"{self.corpus}-{self.name.replace('/', '_')}-{round(self.speed * 100)}"

    def render(self) -> np.ndarray:
        """The recording at its speed."""
        return resample(read_g722(_sounds() / f"{self.name}.g722"), self.speed * SAMPLE_RATE)


@dataclass(frozen=True)
class Chain:
    """Prompts one after the other, with short pauses."""

    number: int
    prompts: tuple[Prompt, ...]
    pauses_s: tuple[float, ...]
    task: str = ASR
    corpus: str = "asterisk_chain"
    references: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Unique among all clips."""
        return f"{self.corpus}-{self.number:04d}"

    @property
    def text(self) -> str:
        """All that is said."""
        return " ".join(prompt.text for prompt in self.prompts)

    def render(self) -> np.ndarray:
        """The prompts with their pauses."""
        parts = []
        for prompt, pause_s in zip(self.prompts, self.pauses_s, strict=True):
            parts += [prompt.render(), silence(pause_s)]
        return np.concatenate(parts)


def splits() -> Splits:
    """Held-out prompts; the others, each once; chains of those; and for the long recipe each once more, changed."""
    check_contents("asterisk-core-sounds-en-g722", _sounds(), _sounds().rglob("*.g722"), CONTENTS)
    check_contents("asterisk-core-sounds-en", _texts().parent, [_texts()], TEXTS)
    test, valid, train = prompt_splits()
    rng = random.Random("asterisk changes")
    again = [changed(prompt, rng) for prompt in train]
    chains = list(_chains(train, _CHAINS + _EXTRA_CHAINS))
    return Splits({"asr": list(test)}, list(valid), [*train, *chains[:_CHAINS]], [*chains[_CHAINS:], *again])


@cache
def prompt_splits() -> tuple[list[Prompt], list[Prompt], list[Prompt]]:
    """Test, valid and train prompts: a seeded shuffle of groups of like texts, so no text is in two of them."""
    groups = _groups(_prompts())
    random.Random("asterisk splits").shuffle(groups)
    test, valid, train = [], [], []
    for group in groups:
        split = test if len(test) < _TEST_CLIPS else valid if len(valid) < _VALID_CLIPS else train
        split.extend(group)
    return test, valid, train


def read_g722(path: Path) -> np.ndarray:
    """Decodes a raw G.722 file: float32, 16 kHz, [samples]."""
    with av.open(str(path), format="g722") as file:
        blocks = [frame.to_ndarray()[0] for frame in file.decode(audio=0)]
    return np.concatenate(blocks).astype(np.float32) / 32768


def _prompts() -> list[Prompt]:
    """Every spoken prompt of at most 20 s, sorted by name."""
    lines = gzip.decompress(_texts().read_bytes()).decode().splitlines()
    prompts = []
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue
        name, written = match.groups()
        for wrong, right in _MISSPELT.items():
            written = written.replace(wrong, right)
        said = _SAID.get(name, _NOT_SAID.sub(" ", written).replace("*", " star ").replace("#", " pound "))
        sound = _sounds() / f"{name}.g722"
        if normalise(said) and sound.is_file() and _seconds(name) <= _MAX_SECONDS:
            prompts.append(Prompt(name, normalise(said)))
    return sorted(prompts, key=lambda prompt: prompt.name)


@cache
def _sounds() -> Path:
    return debian_package("asterisk-core-sounds-en-g722") / "usr/share/asterisk/sounds/en_US_f_Allison"


@cache
def _texts() -> Path:
    return debian_package("asterisk-core-sounds-en") / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"


def _seconds(name: str) -> float:
    return (_sounds() / f"{name}.g722").stat().st_size / _BYTES_PER_SECOND


def _groups(prompts: Sequence[Prompt]) -> list[list[Prompt]]:
    """Prompts whose texts are the same, or nearly (by the words they share, followed transitively)."""
    groups: list[list[Prompt]] = []
    for prompt in prompts:
        like = [group for group in groups if any(_alike(prompt.text, other.text) for other in group)]
        groups = [group for group in groups if group not in like] + [[p for group in like for p in group] + [prompt]]
    return groups


def _alike(one: str, other: str) -> bool:
    a, b = set(one.split()), set(other.split())
    return one == other or len(a & b) >= _SAME_WORDS * len(a | b)


def _chains(prompts: Sequence[Prompt], count: int) -> Iterator[Chain]:
    rng = random.Random("asterisk chains")
    number = 0
    while number < count:
        speed = rng.choice((0.9, 0.95, 1.0, 1.05, 1.1))
        chosen = rng.sample(prompts, rng.choice((2, 2, 2, 3)))
        pauses = tuple(round(rng.uniform(0.1, 0.5), 2) for _ in chosen)
        if sum(_seconds(prompt.name) / speed for prompt in chosen) + sum(pauses) > _CHAIN_SECONDS:
            continue
        yield Chain(number, tuple(Prompt(prompt.name, prompt.text, speed) for prompt in chosen), pauses)
        number += 1
