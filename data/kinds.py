"""The kinds of score, and the test sets of a recipe, each named by its kind and perhaps a name of its own."""

import re
from typing import Literal

Kind = Literal["asr", "aac"]
KINDS: tuple[Kind, ...] = ("asr", "aac")
"""Speech by its words (automatic speech recognition), sounds by their captions (automated audio captioning)."""
FORM = "asr or aac, or one of them with a name in small letters, digits and _, such as asr_speakers"
_SET = re.compile(r"(asr|aac)(_[a-z0-9_]+)?")


def kind_of(name: str) -> Kind | None:
    """The kind of a test set by its name; None where it is no test set's."""
    found = _SET.fullmatch(name)
    return found[1] if found else None


def own_name(name: str) -> str:
    """What a test set is called beside its kind, for people; empty where it has its kind alone."""
    return name.partition("_")[2].replace("_", " ").strip()


def named(name: str) -> dict[str, str]:
    """What an entry about a clip says of its test set: the kind, and the set where that is not its kind alone."""
    return {"kind": kind_of(name)} | ({} if name in KINDS else {"set": name})


def set_of(entry: dict) -> str | None:
    """The test set that such an entry is of; None where it does not say."""
    return entry.get("set") or entry.get("kind")
