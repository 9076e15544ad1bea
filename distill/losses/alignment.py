"""Two tokenisations of one text, cut where both have a boundary: the spans over which other vocabularies are compared.

A boundary lies between characters of the text itself, so it does not matter how a tokenizer writes its tokens (bytes,
"▁", byte fallback), what it normalises, or whether it splits a character over several tokens. (Where it gives the bytes
of several unknown characters the place of all of them, they are one span.)
"""

import copy
from itertools import pairwise
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from data.errors import InputError
from teacher.processor import MAX_TEXT_TOKENS, SalmonnProcessor

Offsets = list[tuple[int, int]]
"""First character, and the one after the last, of each token of a text."""


class Span(NamedTuple):
    """A piece of a text: tokens `start` to before `end` of the student's and of the teacher's."""

    student_start: int
    student_end: int
    teacher_start: int
    teacher_end: int


class Alignment:
    """Cuts a text as two processors tokenise it, end symbols included (see `SalmonnProcessor.text_ids`).

    Args:
        student_processor: The student's.
        teacher_processor: The teacher's.

    Raises:
        InputError: A tokenizer cannot say which characters a token stands for.
    """

    def __init__(self, student_processor: SalmonnProcessor, teacher_processor: SalmonnProcessor) -> None:
        self.teacher_processor = teacher_processor
        self._student_offsets, self._teacher_offsets = _Offsets(student_processor), _Offsets(teacher_processor)

    def __call__(self, text: str) -> list[Span]:
        """The spans of a text, in order; its end symbols are the last one."""
        return spans(*self._student_offsets(text), *self._teacher_offsets(text))


def spans(student: Offsets, student_kept: int, teacher: Offsets, teacher_kept: int) -> list[Span]:
    """The smallest spans that both tokenisations agree on.

    Where one of them is cut off (at 300 tokens) it has no end symbol: spans end at the last common boundary then, and
    what comes after it, the other's end symbol included, is in none.

    Args:
        student: Characters of the student's tokens, without the end symbol.
        student_kept: How many of these tokens are kept.
        teacher: The same of the teacher's.
        teacher_kept: The same of the teacher's.
    """
    own, other = _boundaries(student, student_kept), _boundaries(teacher, teacher_kept)
    ends, i, j = [(0, 0)], 0, 0
    while i < len(own) and j < len(other):
        (at, first, last), (other_at, other_first, other_last) = own[i], other[j]
        if first <= other_last and other_first <= last:
            ends.append((at, other_at))
            i, j = i + 1, j + 1
        elif last < other_first:
            i += 1
        else:
            j += 1
    whole = (student_kept, teacher_kept) == (len(student), len(teacher))
    if whole and student and teacher:
        ends.append((len(student), len(teacher)))
    found = [Span(start, end, begin, stop) for (start, begin), (end, stop) in pairwise(ends)]
    if whole:
        found.append(Span(len(student), len(student) + 1, len(teacher), len(teacher) + 1))
    return found


def _boundaries(offsets: Offsets, kept: int) -> list[tuple[int, int, int]]:
    """Tokens before each boundary, and the characters between which it lies: apart where the tokens leave a gap.

    The text's end is none: it goes with the other's end and nothing else, whatever white space one of them drops.
    """
    begins = [start for start, _ in offsets]
    for at in range(len(begins) - 2, -1, -1):
        begins[at] = min(begins[at], begins[at + 1])
    found, ended = [], 0
    for at in range(1, min(kept + 1, len(offsets))):
        ended = max(ended, offsets[at - 1][1])
        if ended <= begins[at]:  # else a character is split over the tokens before and after
            found.append((at, ended, begins[at]))
    return found


class _Offsets:
    """Which characters each token of a text stands for, and how many of the tokens are kept."""

    def __init__(self, processor: SalmonnProcessor) -> None:
        if not processor.tokenizer.is_fast:
            raise InputError(
                f"train.kd.vocabulary 'universal': the tokenizer {processor.tokenizer.name_or_path or ''} does not say "
                "which characters a token stands for; name a model that has a tokenizer.json"
            )
        self._tokenizer: PreTrainedTokenizerBase = copy.deepcopy(processor.tokenizer)
        # It adds nothing here, but may trim white space off the offsets.
        self._tokenizer.backend_tokenizer.post_processor = None

    def __call__(self, text: str) -> tuple[Offsets, int]:
        # A special token's name within a text is plain text, as in `SalmonnProcessor.text_ids`.
        asked = {"add_special_tokens": False, "split_special_tokens": True, "return_offsets_mapping": True}
        offsets = self._tokenizer(text, **asked).offset_mapping
        return offsets, min(len(offsets), MAX_TEXT_TOKENS)
