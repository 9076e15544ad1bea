"""Plain English sentences to be spoken: of the fortunes, and WordNet's examples of use. Each is said by one voice."""

import random
import re
from collections.abc import Iterator
from functools import cache

from data.fetch import check_contents, debian_package
from data.text import normalise

FORTUNES = "06af41b73393a5721e47108e76a77b8f625e93a1303ed0e38d32a1e59b9d66f5"
WORDNET = "6939137001d4b8709a733052f99f16c22bc98f1085146eae1266d657640edd5d"
_SKIPPED_FILES = {"ascii-art", "songs-poems", "translate-me", "perl", "ethnic"}
_SENTENCE = re.compile(r"[A-Z][a-z']*(?:,? [A-Za-z][a-z']*(?:-[a-z]+)*)+[.!?]")
_EXAMPLE = re.compile(r'"([^"]+)"')
_WORDS = range(4, 19)


@cache
def sentences() -> tuple[str, ...]:
    """All of them, each once, in a seeded order: whoever takes a stretch of it takes one that nobody else does."""
    found: dict[str, str] = {}
    for sentence in [*_fortunes(), *_examples()]:
        found.setdefault(normalise(sentence), sentence)
    ordered = list(found.values())
    random.Random("sentences").shuffle(ordered)
    return tuple(ordered)


def plain(written: str) -> Iterator[str]:
    """Sentences of 4 to 18 words without figures, abbreviations or capitals within them."""
    written = re.sub(r"\s+", " ", written.replace('"', " ").replace("``", " ").replace("''", " "))
    for sentence in re.split(r"(?<=[.!?])\s+", written.strip()):
        if _SENTENCE.fullmatch(sentence) and len(sentence.split()) in _WORDS:
            yield sentence


def _fortunes() -> Iterator[str]:
    folder = debian_package("fortunes") / "usr/share/games/fortunes"
    files = sorted(path for path in folder.iterdir() if not path.suffix and path.name not in _SKIPPED_FILES)
    check_contents("fortunes", folder, files, FORTUNES)
    for file in files:
        for fortune in re.split(r"^%$", file.read_text(encoding="utf-8"), flags=re.MULTILINE):
            yield from plain(re.split(r"\s--\s", fortune)[0])  # what follows is the author


def _examples() -> Iterator[str]:
    """What stands in quotes after a definition, as a sentence: with a capital and a full stop."""
    folder = debian_package("wordnet-base") / "usr/share/wordnet"
    files = sorted(folder.glob("data.*"))
    check_contents("wordnet-base", folder, files, WORDNET)
    for file in files:
        for line in file.read_text(encoding="latin-1").splitlines():
            for example in _EXAMPLE.findall(line.partition(" | ")[2]):
                written = example.strip().rstrip(";,.")
                yield from plain(written[:1].upper() + written[1:] + ("" if written.endswith(("!", "?")) else "."))
