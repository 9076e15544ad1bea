"""What is in annotation files: lengths, texts, words and rates by corpus and task, gathered in one pass."""

import hashlib
import heapq
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.rows.row import stretch_s
from data.sound.checks import SoundCheck

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_LONGEST_S = 1e9
UNNAMED = "(none)"


@dataclass(frozen=True, slots=True)
class Entry:
    """A row as it stands in an annotation file.

    Attributes:
        id: Its name.
        sound: The sound file.
        text: Its text; empty where it has none.
        task: Its task.
        corpus: Its corpus.
        duration_s: Seconds that the row states; None where it states none. They count where the sound cannot be read.
        start_s: Where the clip begins in its file, seconds.
        end_s: Where it ends there; 0: at the file's end.
    """

    id: str
    sound: Path
    text: str
    task: str
    corpus: str
    duration_s: float | None
    start_s: float = 0.0
    end_s: float = 0.0


@dataclass
class Group:
    """The rows of one corpus and task."""

    durations_s: array = field(default_factory=lambda: array("f"))
    words: array = field(default_factory=lambda: array("I"))
    vocabulary: Counter[str] = field(default_factory=Counter)
    textless: int = 0


@dataclass
class Look:
    """All that is shown.

    Attributes:
        groups: By (corpus, task).
        file_s: Seconds of each corpus' files, each counted once.
        files: How many files each corpus has.
        formats: Files by (suffix, rate in Hz, channels).
        samples: Some rows of each group, drawn by their ids' hashes: the same at every run.
    """

    groups: dict[tuple[str, str], Group]
    file_s: Counter[str]
    files: Counter[str]
    formats: Counter[tuple[str, int, int]]
    samples: dict[tuple[str, str], list[Entry]]


def shown(text: str) -> str:
    """A text with what no file in UTF-8 can hold, half a character, written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def stated_seconds(value: object) -> float | None:
    """A length that a row states; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LONGEST_S:
        return None
    return float(value)


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return _WORD.findall(text.lower())


def gather(entries: Iterable[Entry], checks: dict[Path, SoundCheck], samples: int) -> Look:
    """Goes over the rows once.

    Args:
        entries: The rows.
        checks: What the scan found, by sound file; files that are not in it, or cannot be read, have no format.
        samples: Rows of each group that are drawn.
    """
    groups: dict[tuple[str, str], Group] = defaultdict(Group)
    drawn: dict[tuple[str, str], list[tuple[int, str, str, int, Entry]]] = defaultdict(list)
    look = Look(groups, Counter(), Counter(), Counter(), {})
    seen: set[Path] = set()
    for number, entry in enumerate(entries):
        key = entry.corpus or UNNAMED, entry.task or UNNAMED
        group, check = groups[key], checks.get(entry.sound)
        readable = check is not None and not check.fault
        there_s = stretch_s(entry.start_s, entry.end_s, check.duration_s) if readable else 0.0
        seconds = there_s if readable else entry.duration_s or 0.0
        words = words_of(entry.text)
        group.durations_s.append(seconds)
        group.words.append(len(words))
        group.vocabulary.update(words)
        group.textless += not entry.text.strip()
        if entry.sound not in seen:
            seen.add(entry.sound)
            look.files[key[0]] += 1
            look.file_s[key[0]] += check.duration_s if readable else seconds
            if readable and check.rate:
                look.formats[entry.sound.suffix.lower().lstrip(".") or UNNAMED, check.rate, check.channels] += 1
        if there_s > 0:
            # The smallest hashes are a fair draw, without a list of all rows.
            order = -int.from_bytes(
                hashlib.blake2b(entry.id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
            )
            push = heapq.heappush if len(drawn[key]) < samples else heapq.heappushpop
            push(drawn[key], (order, entry.id, str(entry.sound), number, entry)) if samples else None
    look.samples = {key: [entry for *_, entry in sorted(drawn[key], reverse=True)] for key in sorted(groups)}
    look.groups = {key: groups[key] for key in sorted(groups)}
    return look


def joined(look: Look, by: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Durations (s) and text lengths (words) of all rows of a corpus (`by` 0) or a task (1), the largest first."""
    parts: dict[str, list[Group]] = defaultdict(list)
    for key, group in look.groups.items():
        parts[key[by]].append(group)
    whole = {
        name: (
            np.concatenate([np.frombuffer(group.durations_s, np.float32) for group in of]),
            np.concatenate([np.frombuffer(group.words, np.uint32) for group in of]),
        )
        for name, of in parts.items()
    }
    return dict(sorted(whole.items(), key=lambda item: -len(item[1][0])))
