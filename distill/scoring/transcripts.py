"""Word and character error rates of transcripts, by the protocol of the reference implementation.

Plain lists of texts in, so that teacher, student and a file of somebody else's hypotheses are scored by the same code.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import jiwer
import numpy as np

from data.errors import InputError
from data.words import asr_words
from distill.scoring.bootstrap import interval

DURATIONS_S = (0, 2, 5, 10, 20, 30)
"""Lower ends of the classes of clip length."""
MAX_CHARACTERS = 20_000
"""Of one text: what it takes to align two grows with the square of their length."""


@dataclass(frozen=True)
class AsrScore:
    """Word and character errors over a test set.

    A text that does not end, or is made up, can count more errors than its clip has words. The figures from
    `overgenerated_clips` on tell how much of the WER that is; none of them changes `wer`.

    Attributes:
        wer: `errors` over `ref_words`, by the protocol of the reference; `wer_low`, `wer_high`: its 95% interval.
        cer: `char_errors` over `ref_chars`.
        overgenerated_clips: Clips whose hypothesis has more words than the reference.
        overgenerated_words: Words beyond the reference's length, over all clips: the sum of max(0, words of the
            hypothesis - words of the reference). Insertions are at least as many.
        overgeneration_rate: `overgenerated_words` over `ref_words`.
        capped_errors: Errors where each clip counts at most as many as its reference has words.
        capped_wer: `capped_errors` over `ref_words`: the WER without run-on, never above 1 nor above `wer`.
        clip_errors: Of each clip, in order; `clip_words`: words of its reference.
    """

    wer: float
    wer_low: float
    wer_high: float
    errors: int
    ref_words: int
    substitutions: int
    deletions: int
    insertions: int
    cer: float
    char_errors: int
    ref_chars: int
    overgenerated_clips: int
    overgenerated_words: int
    overgeneration_rate: float
    capped_errors: int
    capped_wer: float
    clip_errors: tuple[int, ...]
    clip_words: tuple[int, ...]

    def summary(self) -> dict[str, float | int]:
        """The figures of the whole set, as they stand in metrics.json."""
        metrics = asdict(self)
        del metrics["clip_errors"], metrics["clip_words"]
        return metrics | {"clips": len(self.clip_words)}

    def by(self, classes: Sequence[str]) -> dict[str, dict[str, float | int | None]]:
        """Word errors by class of clip, in the order in which the classes first appear.

        Args:
            classes: The class of each clip, such as its corpus.

        Returns:
            For each class `clips`, `errors`, `ref_words` and `wer`, which is None where it has no reference word.
        """
        metrics = {}
        for name in dict.fromkeys(classes):
            of = [i for i, other in enumerate(classes) if other == name]
            errors, words = (sum(counts[i] for i in of) for counts in (self.clip_errors, self.clip_words))
            wer = errors / words if words else None
            metrics[name] = {"clips": len(of), "errors": errors, "ref_words": words, "wer": wer}
        return metrics

    def by_duration(self, seconds: Sequence[float]) -> dict[str, dict[str, float | int | None]]:
        """Word errors by clip length, shortest first; classes without a clip are left out."""
        order = [_length_class(length) for length in seconds]
        names = [f"{low} to {high} s" for low, high in pairwise(DURATIONS_S)]
        names.append(f"over {DURATIONS_S[-1]} s")
        found = self.by([names[place] for place in order])
        return {name: found[name] for name in names if name in found}

    def worst(self, count: int) -> list[int]:
        """The clips with most word errors, most first; none that is right."""
        order = sorted(range(len(self.clip_errors)), key=lambda i: (-self.clip_errors[i], self.clip_words[i]))
        return [i for i in order[:count] if self.clip_errors[i]]


def score_asr(
    references: Sequence[str], hypotheses: Sequence[str], *, bootstrap: int = 1000, seed: int = 0
) -> AsrScore:
    """Corpus-level word error rate: all errors over all reference words; and that of characters.

    An empty hypothesis counts as deletions. A clip whose reference has no words after normalisation ("[noise]") adds
    no words, and every hypothesised word there is an insertion, as in the reference implementation. Characters are
    those of the same words with a space between them.

    Args:
        references: What was said, one text a clip.
        hypotheses: What the model wrote, in the same order.
        bootstrap: Resamples of the clips for the interval.
        seed: Of the resampling.

    Raises:
        InputError: No clips, lists of unequal length, a text beyond all measure, or not one reference word in all.
    """
    check_lengths(references, hypotheses)
    for row, text in enumerate(text for pair in zip(references, hypotheses, strict=True) for text in pair):
        if len(text) > MAX_CHARACTERS:
            raise InputError(
                f"scoring: row {row // 2}: a text of {len(text):,} characters; cut it into clips of {MAX_CHARACTERS:,} "
                "at most"
            )
    wanted, written = ([_words(row, text) for row, text in enumerate(texts)] for texts in (references, hypotheses))
    if not any(wanted):
        raise InputError("scoring: no reference has a word after normalisation, so there is no word error rate")
    by_word, by_character = jiwer.process_words(wanted, written), jiwer.process_characters(wanted, written)
    words = [len(text.split()) for text in wanted]
    beyond = [max(0, len(text.split()) - count) for text, count in zip(written, words, strict=True)]
    errors = [sum(_chunk_errors(chunk) for chunk in clip) for clip in by_word.alignments]
    capped = sum(map(min, errors, words))
    errors_N, words_N = np.asarray(errors), np.asarray(words)

    def rate(picks_BN: np.ndarray) -> np.ndarray:
        # A resample of a tiny set may hold no reference word at all: then count against one word, not none.
        return errors_N[picks_BN].sum(-1) / words_N[picks_BN].sum(-1).clip(min=1)

    low, high = interval(rate, len(words), bootstrap, seed)
    char_errors = by_character.substitutions + by_character.deletions + by_character.insertions
    ref_chars = sum(map(len, wanted))
    return AsrScore(
        wer=sum(errors) / sum(words),
        wer_low=low,
        wer_high=high,
        errors=sum(errors),
        ref_words=sum(words),
        substitutions=by_word.substitutions,
        deletions=by_word.deletions,
        insertions=by_word.insertions,
        cer=char_errors / ref_chars,
        char_errors=char_errors,
        ref_chars=ref_chars,
        overgenerated_clips=sum(count > 0 for count in beyond),
        overgenerated_words=sum(beyond),
        overgeneration_rate=sum(beyond) / sum(words),
        capped_errors=capped,
        capped_wer=capped / sum(words),
        clip_errors=tuple(errors),
        clip_words=tuple(words),
    )


def alignment(reference: str, hypothesis: str) -> str:
    """Reference, hypothesis and S, D or I under each wrong word, in three lines of even width."""
    wanted, written = (" ".join(asr_words(text)) for text in (reference, hypothesis))
    shown = jiwer.visualize_alignment(jiwer.process_words(wanted, written), show_measures=False, skip_correct=False)
    return "\n".join(line.rstrip() for line in shown.splitlines() if line.strip() and not line.startswith("==="))


def check_lengths(references: Sequence, hypotheses: Sequence) -> None:
    """Refuses lists of unequal length, and empty ones.

    Raises:
        InputError: They are.
    """
    if len(references) != len(hypotheses):
        raise InputError(f"scoring: {len(references)} references but {len(hypotheses)} hypotheses; give one for each")
    if not references:
        raise InputError("scoring: no clips to score")


def _words(row: int, text: str) -> str:
    try:
        return " ".join(asr_words(text))
    except InputError as error:
        raise InputError(f"scoring: row {row}: {error}") from None


def _chunk_errors(chunk: jiwer.AlignmentChunk) -> int:
    if chunk.type == "equal":
        return 0
    return max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)


def _length_class(seconds: float) -> int:
    """The last class whose lower end is not above the length; a clip of exactly 30 s is not over 30 s."""
    if seconds == DURATIONS_S[-1]:
        return len(DURATIONS_S) - 2
    return sum(seconds >= low for low in DURATIONS_S[1:])
