"""Scores of captions by the protocols in use, through aac-metrics.

`literature`: PTB tokens, all references of a clip. `nota-v1.1` and `nota-v1.0`: the challenge's own, on whitespace
tokens, where each reference is a row of its own with the clip's caption. What v1.0 prints times 100 as SPIDEr is
CIDEr-D; here it has its true name, `cider_d_split`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np

from data.errors import InputError
from distill.scoring import caption_parts, java_parts
from distill.scoring.bootstrap import interval
from distill.scoring.transcripts import check_lengths

Protocol = Literal["literature", "nota-v1.1", "nota-v1.0"]
PROTOCOLS: tuple[Protocol, ...] = ("literature", "nota-v1.1", "nota-v1.0")


@dataclass(frozen=True)
class CaptionScore:
    """Caption metrics over a test set, on PTB tokens; CIDEr-D runs from 0 to 10, SPIDEr to 5.5, the others to 1.

    Attributes:
        shuffled_cider_d: The chance level: the same captions, dealt out among the clips.
        spider: The mean of CIDEr-D and SPICE; like `spice` and `fense` None where a part of it is missing.
        vocabulary: Different tokens in all captions; `reference_vocabulary`: in all references.
        not_computed: Metrics that are None, and the command that brings their parts.
    """

    cider_d: float
    cider_d_low: float
    cider_d_high: float
    shuffled_cider_d: float
    meteor: float
    rouge_l: float
    bleu_1: float
    bleu_2: float
    bleu_3: float
    bleu_4: float
    spice: float | None
    spider: float | None
    fense: float | None
    vocabulary: int
    reference_vocabulary: int
    clip_cider_d: tuple[float, ...]
    not_computed: dict[str, str] = field(default_factory=dict)

    def summary(self) -> dict:
        """The figures of the whole set, as they stand in metrics.json."""
        metrics = asdict(self)
        del metrics["clip_cider_d"]
        return metrics | {"clips": len(self.clip_cider_d)}


def caption_metrics(references: Sequence[Sequence[str]], hypotheses: Sequence[str], protocol: Protocol) -> dict:
    """The figures of a protocol by their names, with `protocol`, `clips` and `not_computed`.

    Raises:
        InputError: As `score_captions`.
    """
    if protocol == "literature":
        metrics = score_captions(references, hypotheses).summary()
    elif protocol == "nota-v1.0":
        metrics = {"cider_d_split": cider_d_split(references, hypotheses), "clips": len(hypotheses)}
    else:
        metrics = _untokenised_spider(references, hypotheses)
    return metrics | {"protocol": protocol}


def score_captions(
    references: Sequence[Sequence[str]], hypotheses: Sequence[str], *, bootstrap: int = 1000, seed: int = 0
) -> CaptionScore:
    """The literature's protocol: PTB tokens, and every caption against all references of its clip.

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
    from aac_metrics.functional import bleu, meteor, rouge_l, vocab  # seconds to import, and WER does not need it

    parts = java_parts.lay_out()
    wanted, candidates = _tokenised(references, hypotheses, parts)
    by_clip = _cider_d(wanted, candidates)
    low, high = interval(lambda picks_BN: by_clip[picks_BN].mean(-1), len(by_clip), bootstrap, seed)
    spice, missing = _spice(wanted, candidates, parts)
    fense, missing_too = _fense([[text for text in clip if text.strip()] for clip in references], list(hypotheses))
    words, _ = vocab(candidates, wanted)
    return CaptionScore(
        cider_d=float(by_clip.mean()),
        cider_d_low=low,
        cider_d_high=high,
        shuffled_cider_d=float(np.mean([_cider_d(wanted, _dealt_out(candidates, seed + i)).mean() for i in range(5)])),
        meteor=float(meteor(candidates, wanted, False, parts.cache_path, parts.java_path)),
        rouge_l=float(rouge_l(candidates, wanted, False)),
        **{f"bleu_{n}": float(bleu(candidates, wanted, False, n=n)) for n in range(1, 5)},
        spice=spice,
        spider=None if spice is None else (float(by_clip.mean()) + spice) / 2,
        fense=fense,
        vocabulary=int(words["vocab.cands"]),
        reference_vocabulary=int(words["vocab.mrefs_full"]),
        clip_cider_d=tuple(by_clip.tolist()),
        not_computed=missing | missing_too,
    )


def cider_d(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> float:
    """CIDEr-D (0 to 10) alone, on PTB tokens: the `cider_d` of `score_captions`.

    Raises:
        InputError: As `score_captions`.
    """
    _check_captions(references, hypotheses)
    wanted, candidates = _tokenised(references, hypotheses, java_parts.lay_out())
    return float(_cider_d(wanted, candidates).mean())


def cider_d_split(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> float:
    """CIDEr-D (0 to 10) on whitespace tokens: case and punctuation count. Each reference is a row of its own.

    Raises:
        InputError: As `score_captions`.
    """
    _check_captions(references, hypotheses)
    return float(_cider_d(*_a_row_each(references, hypotheses)).mean())


def _untokenised_spider(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> dict:
    """`nota-v1.1`: aac-metrics' SPIDEr and its two parts, on texts as they are, a row for each reference."""
    _check_captions(references, hypotheses)
    wanted, candidates = _a_row_each(references, hypotheses)
    cider_d = float(_cider_d(wanted, candidates).mean())
    spice, missing = _spice(wanted, candidates, java_parts.lay_out())
    return {
        "cider_d_split": cider_d,
        "spice": spice,
        "spider": None if spice is None else (cider_d + spice) / 2,
        "clips": len(hypotheses),
        "not_computed": missing,
    }


def _a_row_each(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    rows = [(text, written) for clip, written in zip(references, hypotheses, strict=True) for text in clip]
    return [[text] for text, _ in rows], [written for _, written in rows]


def _cider_d(references: list[list[str]], hypotheses: list[str]) -> np.ndarray:
    """CIDEr-D of each clip (Vedantam et al., 2015), on the whitespace tokens of the texts as they are."""
    from aac_metrics.functional import cider_d

    _, by_clip = cider_d(hypotheses, references)
    return by_clip["cider_d"].numpy()


def _spice(
    references: list[list[str]], hypotheses: list[str], parts: java_parts.JavaParts
) -> tuple[float | None, dict[str, str]]:
    """SPICE, or None and what to do for it."""
    if not caption_parts.has_spice():
        return None, dict.fromkeys(("spice", "spider"), caption_parts.command("spice"))
    from aac_metrics.functional import spice

    return float(spice(hypotheses, references, False, parts.cache_path, parts.java_path)), {}


def _fense(references: list[list[str]], hypotheses: list[str]) -> tuple[float | None, dict[str, str]]:
    """FENSE of the texts as they are, or None and what to do for it."""
    if not caption_parts.has_fense():
        return None, {"fense": caption_parts.command("fense")}
    from aac_metrics.functional import fense

    return float(fense(hypotheses, references, False)), {}


def _dealt_out(texts: list[str], seed: int) -> list[str]:
    """The texts in another order in which none stays in its place: one random cycle through all of them."""
    order = np.random.default_rng(seed).permutation(len(texts))
    dealt = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    return [texts[dealt[place]] for place in range(len(texts))]


def _tokenised(
    references: Sequence[Sequence[str]], hypotheses: Sequence[str], parts: java_parts.JavaParts
) -> tuple[list[list[str]], list[str]]:
    """References and hypotheses as PTB tokens."""
    tokenised = iter(_ptb([*hypotheses, *(text for clip in references for text in clip)], parts))
    candidates = [next(tokenised) for _ in hypotheses]
    wanted = [[text for text in (next(tokenised) for _ in clip) if text] for clip in references]
    for row, clip in enumerate(wanted):
        if not clip:
            raise InputError(f"scoring: reference {row} has no words: {list(references[row])!r}")
    return wanted, candidates


def _ptb(texts: list[str], parts: java_parts.JavaParts) -> list[str]:
    """The texts as PTB tokens joined by spaces, lower-case, without punctuation; one call, one start of Java.

    The tokeniser reads a text a line and loses count at empty ones, so each is made one line and empty ones stay out.
    METEOR separates texts with "|||", so bars go as well; and half a surrogate pair, which no file can hold, is "?".
    """
    from aac_metrics.utils.tokenization import preprocess_mono_sents

    def one_line(text: str) -> str:
        return " ".join(text.encode("utf-8", "replace").decode().replace("|", " ").split())

    lines = [one_line(text) for text in texts]
    filled = [line for line in lines if line]
    tokenised = iter(preprocess_mono_sents(filled, parts.cache_path, parts.java_path))
    return [next(tokenised) if line else "" for line in lines]


def _check_captions(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> None:
    check_lengths(references, hypotheses)
    if len(references) < 2:
        raise InputError("scoring: CIDEr-D weighs words by how rare they are among clips: it needs two clips or more")
    for row, clip in enumerate(references):
        if isinstance(clip, str) or not any(text.strip() for text in clip):
            raise InputError(f"scoring: reference {row} must be a list with at least one caption: {clip!r}")
