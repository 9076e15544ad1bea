"""Which text each row is trained on: the annotation's, or what the teacher wrote, where that is good enough.

What is not good enough is said here, and asked of the cache when a run starts: another threshold needs no other cache.
Shapes: N training rows.
"""

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from data.cache.reader import CacheReader
from data.cache.row import CachedRow
from data.cache.targets import Target
from data.hashing import drawn
from data.rows.manifest import Manifest
from data.sound.audio import MAX_SECONDS
from distill.recipe.recipe import HypothesisSettings, Recipe
from teacher.processor import SalmonnProcessor

NONE, REFERENCE, HYPOTHESIS = 0, 1, 2


def fault_of_hypothesis(entry: CachedRow, seconds: float, referenced: bool, wanted: HypothesisSettings) -> str:
    """Why a teacher's text is not trained on: a key of `train.hypotheses`, or what it is; empty where it is.

    Args:
        entry: What is cached of the row.
        seconds: Of its clip, as it is heard.
        referenced: Whether it has a text in the annotation, so that a WER says something.
        wanted: The thresholds.
    """
    text, logp = entry.hypothesis, entry.hypothesis_logp
    if not text:
        return "empty"
    if not entry.hypothesis_ended:
        return "cut at the cap"
    if referenced and entry.hypothesis_wer is not None:
        return "" if entry.hypothesis_wer <= wanted.max_wer else "max_wer"
    if logp is None or not logp >= wanted.min_logp:
        return "min_logp"
    least, most = wanted.characters_per_second
    if entry.task == "asr" and not least <= len(text) / seconds <= most:
        return "characters_per_second"
    return "max_compression" if compression(text) > wanted.max_compression else ""


def compression(text: str) -> float:
    """Bytes of a text over those that zlib makes of them: high where it repeats itself (as Whisper measures it)."""
    whole = text.encode()
    return len(whole) / len(zlib.compress(whole))


class TrainingTexts:
    """The texts that training rows have; which of them a row is trained on is the same throughout a run.

    Args:
        recipe: The run.
        rows: Training rows.
        cache: The teacher's cache, where the recipe asks for its texts.
        quiet: Do not print how many of them are trained on.
    """

    def __init__(self, recipe: Recipe, rows: Manifest, cache: CacheReader | None, *, quiet: bool = True) -> None:
        self.rows, self.cache = rows, cache
        self._chosen: dict[frozenset[Target], np.ndarray] = {}
        self.referenced_N = rows.with_text
        self._written_N, self._drawn_N = np.zeros((2, len(rows)), bool)
        if not recipe.trains_on_hypotheses:
            return
        share, always = recipe.train.hypotheses.share, recipe.trains_on_hypotheses_alone
        if share:
            self._drawn_N = np.fromiter((drawn([recipe.seed, row_id]) < share for row_id in rows.values("id")), bool)
        seconds_N = np.minimum(rows.durations_s, MAX_SECONDS)
        causes: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
        for at, entry in self._entries(~self.referenced_N | self._drawn_N | always):
            referenced = bool(self.referenced_N[at])
            fault = fault_of_hypothesis(entry, seconds_N[at], referenced, recipe.train.hypotheses)
            self._written_N[at] = not fault
            causes[referenced][fault] += 1
        if not quiet:
            for referenced, counts in causes.items():
                _tell(counts, referenced)

    def chosen(self, targets: Sequence[Target]) -> np.ndarray:
        """What each row is trained on, of these: NONE, REFERENCE or HYPOTHESIS; uint8 [N].

        Of both, the teacher's text where the annotation has none, or where it is drawn; a row whose text is not good
        enough has none of the teacher's.
        """
        key = frozenset(targets)
        if key not in self._chosen:
            reference_N = self.referenced_N & ("reference" in key)
            written_N = self._written_N & ("hypothesis" in key)
            hypothesis_N = written_N & (self._drawn_N | ~reference_N)
            chosen_N = np.where(hypothesis_N, HYPOTHESIS, np.where(reference_N, REFERENCE, NONE))
            self._chosen[key] = chosen_N.astype(np.uint8)
        return self._chosen[key]

    def lengths(self, processor: SalmonnProcessor, chosen_N: np.ndarray) -> np.ndarray:
        """Tokens of what each row is trained on, the end symbol among them; int64 [N]."""
        lengths_N = np.fromiter(processor.text_lengths(self.rows.values("text")), np.int64, len(self.rows))
        written = list(self._entries(chosen_N == HYPOTHESIS))
        lengths = processor.text_lengths(entry.hypothesis for _, entry in written)
        lengths_N[[at for at, _ in written]] = list(lengths)
        return lengths_N

    def _entries(self, of_N: np.ndarray) -> Iterator[tuple[int, CachedRow]]:
        """The cached texts of some rows, with the rows' numbers, in the cache's order."""
        if not of_N.any():
            return
        numbers = {row_id: at for at, row_id in enumerate(self.rows.values("id")) if of_N[at]}
        for entry in self.cache.texts():
            if (at := numbers.get(entry.id)) is not None:
                yield at, entry


def _tell(counts: Counter[str], referenced: bool) -> None:
    """Prints how many of the teacher's texts are trained on, and why others are not."""
    if not counts:
        return
    asked = f"{counts.total()} {'drawn rows' if referenced else 'rows without a text'}"
    others = ", ".join(f"{number} {cause}" for cause, number in sorted(counts.items()) if cause)
    then = "keep the annotation's" if referenced else "are left out"
    rest = f"; {counts.total() - counts['']} {then} ({others})" if others else ""
    print(f"teacher's texts: {counts['']} of {asked} are trained on them{rest}", flush=True)
