"""Captions of sounds: one alone, two one after the other, or one over the other."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from data.mini.clips import AAC, Clip, Splits, at_level, silence
from data.mini.takes import Take, takes
from data.sound.audio import SAMPLE_RATE, resample

NAME = "mixtures"
# Clips by how many are alone, in sequence, and at once.
_TRAIN, _EXTRA, _VALID, _TEST = (170, 170, 170), (600, 900, 900), (10, 10, 10), (30, 45, 45)
_WORDINGS = {
    "alone": ("{a}", "the sound of {a}", "{a} is heard"),
    "then": ("{a} then {b}", "{a} followed by {b}", "first {a} and then {b}"),
    "over": ("{a} while {b} is heard", "{a} and {b} at the same time", "{a} together with {b}"),
}
_LONGEST = 8.0


@dataclass(frozen=True)
class Scene:
    """One or two takes with how they are put together. The one that begins first is named first."""

    id: str
    takes: tuple[Take, ...]
    relation: str
    wording: int
    lead_s: float
    gap_s: float
    gain_db: float
    level: float
    speed: float
    task: str = AAC
    corpus: str = NAME

    @property
    def references(self) -> tuple[str, ...]:
        """Every wording of the caption."""
        names = dict(zip("ab", (take.label for take in self.takes), strict=False))
        return tuple(wording.format(**names) for wording in _WORDINGS[self.relation])

    @property
    def text(self) -> str:
        """The wording that is trained on."""
        return self.references[self.wording]

    def render(self) -> np.ndarray:
        """The takes put together, between 1 and 8 seconds."""
        first, *rest = (at_level(resample(take.samples(), self.speed * SAMPLE_RATE), 0.1) for take in self.takes)
        sound = first
        for second in rest:
            second = second * 10 ** (self.gain_db / 20)
            if self.relation == "then":
                sound = np.concatenate([first, silence(self.gap_s), second])
            else:
                # The second begins within the first third of the first, or they would be one after the other.
                start = min(round(self.gap_s * SAMPLE_RATE), len(first) // 3)
                sound = np.zeros(max(len(first), start + len(second)), np.float32)
                sound[: len(first)] += first
                sound[start : start + len(second)] += second
        sound = np.concatenate([silence(self.lead_s), at_level(sound, self.level)])[: round(_LONGEST * SAMPLE_RATE)]
        return np.pad(sound, (0, max(0, SAMPLE_RATE - len(sound))))


def splits() -> Splits:
    """Scenes for each split, from recordings of that split only; a pair of labels is in one split only."""
    found = takes()
    pairs = _pairs(found)
    train = list(_scenes("train", found["train"], pairs["train"], _TRAIN))
    extra = list(_scenes("extra", found["train"], pairs["train"], _EXTRA))
    valid = list(_scenes("valid", found["valid"], pairs["valid"], _VALID))
    test = list(_scenes("test", found["test"], pairs["test"], _TEST))
    return Splits({"aac": test}, valid, train, extra)


def _pairs(found: dict[str, Sequence[Take]]) -> dict[str, list[tuple[str, str]]]:
    """Unordered pairs of labels: the test labels' for the test, the valid ones' for validation, others for training."""
    pairs: dict[str, list[tuple[str, str]]] = {}
    used: set[tuple[str, str]] = set()
    for split in ("test", "valid", "train"):
        labels = sorted({take.label for take in found[split]})
        pairs[split] = [pair for pair in combinations(labels, 2) if pair not in used]
        used.update(pairs[split])
    return pairs


def _scenes(
    split: str, takes: Sequence[Take], pairs: Sequence[tuple[str, str]], counts: tuple[int, int, int]
) -> Iterator[Clip]:
    rng = random.Random(f"scenes {split}")
    held_out = split in ("test", "valid")
    by_label: dict[str, list[Take]] = {}
    for take in takes:
        by_label.setdefault(take.label, []).append(take)
    singles = _rounds(sorted(by_label), counts[0], rng)
    couples = _rounds(list(pairs), counts[1] + counts[2], rng)
    labels = [("alone", (label,)) for label in singles]
    labels += [("then" if i < counts[1] else "over", pair) for i, pair in enumerate(couples)]
    for number, (relation, names) in enumerate(labels):
        chosen = [rng.choice(by_label[name]) for name in rng.sample(names, len(names))]
        yield Scene(
            id=f"{NAME}-{split}-{relation}-{number:04d}",
            takes=tuple(chosen),
            relation=relation,
            wording=0 if held_out else rng.randrange(3),
            lead_s=0.0 if held_out else round(rng.uniform(0, 0.5), 2),
            gap_s=round(rng.uniform(0.1, 0.4), 2),
            gain_db=round(rng.uniform(-4, 4), 1),
            level=0.1 if held_out else round(rng.uniform(0.04, 0.16), 3),
            speed=1.0 if held_out else rng.choice((0.94, 0.97, 1.0, 1.03, 1.06)),
        )


def _rounds(items: list, count: int, rng: random.Random) -> list:
    """`count` items: all in a seeded order, again and again."""
    chosen: list = []
    while len(chosen) < count:
        chosen += rng.sample(items, len(items))
    return chosen[:count]
