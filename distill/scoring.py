"""Scores of transcripts (WER) and captions (CIDEr-D and its kin), by the protocols the field uses.

Both functions take plain lists of texts, so that teacher, student and a file of somebody else's hypotheses are scored
by the same code. Intervals are 95% percentile bootstraps over clips (Bisani and Ney, 2004: "Bootstrap estimates for
confidence intervals in ASR performance evaluation"): the clip is what was drawn at random, the word is not.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import jiwer
import numpy as np

from data.errors import InputError
from data.words import asr_words
from distill import java_parts


@dataclass(frozen=True)
class AsrScore:
    """Word errors over a test set; `clip_errors` and `clip_words` are in the order of the clips."""

    wer: float
    wer_low: float
    wer_high: float
    errors: int
    ref_words: int
    substitutions: int
    deletions: int
    insertions: int
    clip_errors: tuple[int, ...]
    clip_words: tuple[int, ...]

    def summary(self) -> dict[str, float | int]:
        """The figures of the whole set, as they stand in metrics.json."""
        return _without(asdict(self), "clip_errors", "clip_words") | {"clips": len(self.clip_words)}


@dataclass(frozen=True)
class CaptionScore:
    """Caption metrics over a test set, on PTB tokens; CIDEr-D runs from 0 to 10, the others from 0 to 1.

    `shuffled_cider_d` is the chance level: the same captions, dealt out among the clips.
    """

    cider_d: float
    cider_d_low: float
    cider_d_high: float
    shuffled_cider_d: float
    meteor: float
    rouge_l: float
    bleu_1: float
    bleu_4: float
    clip_cider_d: tuple[float, ...]

    def summary(self) -> dict[str, float | int]:
        """The figures of the whole set, as they stand in metrics.json."""
        return _without(asdict(self), "clip_cider_d") | {"clips": len(self.clip_cider_d)}


def score_asr(
    references: Sequence[str], hypotheses: Sequence[str], *, bootstrap: int = 1000, seed: int = 0
) -> AsrScore:
    """Corpus-level word error rate: all errors over all reference words.

    An empty hypothesis counts as deletions. A clip whose reference has no words after normalisation ("[noise]") adds
    no words, and every hypothesised word there is an insertion, as in the reference implementation.

    Args:
        references: What was said, one text a clip.
        hypotheses: What the model wrote, in the same order.
        bootstrap: Resamples of the clips for the interval.
        seed: Of the resampling.

    Raises:
        InputError: No clips, lists of unequal length, or not one reference word in all of them.
    """
    _check_lengths(references, hypotheses)
    reference_words = [asr_words(text) for text in references]
    if not any(reference_words):
        raise InputError("scoring: no reference has a word after normalisation, so there is no word error rate")
    aligned = jiwer.process_words(
        [" ".join(words) for words in reference_words], [" ".join(asr_words(text)) for text in hypotheses]
    )
    words = [len(clip) for clip in reference_words]
    errors = [sum(_chunk_errors(chunk) for chunk in clip) for clip in aligned.alignments]

    def rate(picks_BN: np.ndarray) -> np.ndarray:
        # A resample of a tiny set may hold no reference word at all: then count against one word, not none.
        return np.asarray(errors)[picks_BN].sum(-1) / np.asarray(words)[picks_BN].sum(-1).clip(min=1)

    low, high = _interval(rate, len(words), bootstrap, seed)
    return AsrScore(
        wer=sum(errors) / sum(words),
        wer_low=low,
        wer_high=high,
        errors=sum(errors),
        ref_words=sum(words),
        substitutions=aligned.substitutions,
        deletions=aligned.deletions,
        insertions=aligned.insertions,
        clip_errors=tuple(errors),
        clip_words=tuple(words),
    )


def score_captions(
    references: Sequence[Sequence[str]], hypotheses: Sequence[str], *, bootstrap: int = 1000, seed: int = 0
) -> CaptionScore:
    """CIDEr-D, METEOR, ROUGE-L and BLEU under PTB tokenisation, as the captioning literature does (aac-metrics).

    An empty hypothesis scores zero. The interval of CIDEr-D resamples clips with the document frequencies of the whole
    test set, so it says how far the clips vary, not what another set of references would weigh.

    Args:
        references: One or more captions a clip.
        hypotheses: The model's caption of each clip, in the same order.
        bootstrap: Resamples of the clips for the interval.
        seed: Of the resampling and of the five shuffles.

    Raises:
        InputError: Fewer than two clips, lists of unequal length, or a clip without a reference with words.
    """
    _check_captions(references, hypotheses)
    from aac_metrics.functional import bleu, meteor, rouge_l  # seconds to import, and WER does not need it

    parts = java_parts.lay_out()
    tokenised = iter(_ptb([*hypotheses, *(text for clip in references for text in clip)], parts))
    candidates = [next(tokenised) for _ in hypotheses]
    wanted = [[text for text in (next(tokenised) for _ in clip) if text] for clip in references]
    for row, clip in enumerate(wanted):
        if not clip:
            raise InputError(f"scoring: reference {row} has no words: {list(references[row])!r}")

    by_clip = _cider_d(wanted, candidates)
    low, high = _interval(lambda picks_BN: by_clip[picks_BN].mean(-1), len(by_clip), bootstrap, seed)
    return CaptionScore(
        cider_d=float(by_clip.mean()),
        cider_d_low=low,
        cider_d_high=high,
        shuffled_cider_d=float(np.mean([_cider_d(wanted, _dealt_out(candidates, seed + i)).mean() for i in range(5)])),
        meteor=float(meteor(candidates, wanted, False, parts.cache_path, parts.java_path)),
        rouge_l=float(rouge_l(candidates, wanted, False)),
        bleu_1=float(bleu(candidates, wanted, False, n=1)),
        bleu_4=float(bleu(candidates, wanted, False, n=4)),
        clip_cider_d=tuple(by_clip.tolist()),
    )


def cider_d_split(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> float:
    """CIDEr-D (0 to 10) on whitespace tokens: case and punctuation count. What `nota-v1.0` prints times 100 as SPIDEr.

    Raises:
        InputError: As `score_captions`.
    """
    _check_captions(references, hypotheses)
    return float(_cider_d([list(clip) for clip in references], list(hypotheses)).mean())


def _cider_d(references: list[list[str]], hypotheses: list[str]) -> np.ndarray:
    """CIDEr-D of each clip (Vedantam et al., 2015), on the whitespace tokens of the texts as they are."""
    from aac_metrics.functional import cider_d

    _, by_clip = cider_d(hypotheses, references)
    return by_clip["cider_d"].numpy()


def _dealt_out(texts: list[str], seed: int) -> list[str]:
    """The texts in another order in which none stays in its place: one random cycle through all of them."""
    order = np.random.default_rng(seed).permutation(len(texts))
    dealt = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    return [texts[dealt[place]] for place in range(len(texts))]


def _ptb(texts: list[str], parts: java_parts.JavaParts) -> list[str]:
    """The texts as PTB tokens joined by spaces, lower-case, without punctuation; one call, one start of Java.

    The tokeniser reads a text a line and loses count at empty ones, so each is made one line and empty ones stay out.
    METEOR separates texts with "|||", so bars go as well.
    """
    from aac_metrics.utils.tokenization import preprocess_mono_sents

    lines = [" ".join(text.replace("|", " ").split()) for text in texts]
    filled = [line for line in lines if line]
    tokenised = iter(preprocess_mono_sents(filled, parts.cache_path, parts.java_path))
    return [next(tokenised) if line else "" for line in lines]


def _interval(
    statistic: Callable[[np.ndarray], np.ndarray], clips: int, resamples: int, seed: int
) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of a statistic over resamples of the clips, drawn with replacement."""
    picks_BN = np.random.default_rng(seed).integers(0, clips, (resamples, clips))
    low, high = np.percentile(statistic(picks_BN), [2.5, 97.5])
    return float(low), float(high)


def _chunk_errors(chunk: jiwer.AlignmentChunk) -> int:
    if chunk.type == "equal":
        return 0
    return max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)


def _check_lengths(references: Sequence, hypotheses: Sequence) -> None:
    if len(references) != len(hypotheses):
        raise InputError(f"scoring: {len(references)} references but {len(hypotheses)} hypotheses; give one for each")
    if not references:
        raise InputError("scoring: no clips to score")


def _check_captions(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> None:
    _check_lengths(references, hypotheses)
    if len(references) < 2:
        raise InputError("scoring: CIDEr-D weighs words by how rare they are among clips: it needs two clips or more")
    for row, clip in enumerate(references):
        if isinstance(clip, str) or not any(text.strip() for text in clip):
            raise InputError(f"scoring: reference {row} must be a list with at least one caption: {clip!r}")


def _without(figures: dict, *names: str) -> dict:
    return {name: value for name, value in figures.items() if name not in names}
