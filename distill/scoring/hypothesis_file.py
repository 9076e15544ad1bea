"""hypotheses.jsonl: what a model wrote for a test set, a line a clip, appended as it comes.

A line has `id`, `kind` (asr or aac), `set` (the test set's name, where it is more than the kind), `task`, `reference`,
`hypothesis`, `logp` (mean log-probability of its tokens; null of a device package, which does not tell), `seconds` (its
share of the batch's time), `fault` where the clip cannot be heard, and two hashes: `identity` of the model and its way
of writing, and `batch` of what was asked, with the rows beside it.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from data.errors import InputError
from data.kinds import set_of
from data.rows.row import Row
from data.strict_json import loads

_TYPES = {"id": str, "hypothesis": str, "kind": str | None, "set": str | None}


def read_hypotheses(path: Path) -> list[dict]:
    """The lines of a file; half a line at its end, which a killed run leaves, does not count.

    Raises:
        InputError: The file is missing, a line is of another form or has a key twice, or two lines are of one clip.
    """
    try:
        # Not splitlines(): a text may hold a line separator of Unicode.
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); scripts/evaluate.py writes such files") from error
    entries, places = [], {}
    for number, line in enumerate(lines, start=1):
        try:
            entry = loads(line)
        except json.JSONDecodeError:
            if number == len(lines):
                break
            entry = None
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}; mend it") from error
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), of) for key, of in _TYPES.items()):
            raise InputError(f'{path}, line {number}: must be {{"id": "...", "hypothesis": "..."}}; mend it')
        key = set_of(entry), entry["id"]
        if key in places:
            raise InputError(
                f'{path}, line {number}: id "{entry["id"]}" is in line {places[key]} already; keep one of the two'
            )
        places[key] = number
        entries.append(entry)
    return entries


def hypotheses_for(path: Path, rows: Sequence[Row], name: str) -> list[str]:
    """The hypotheses of a file in the order of the rows that they are for.

    Args:
        path: The file.
        rows: Of the test set.
        name: The test set's; lines that name none are taken for its own.

    Raises:
        InputError: As `read_hypotheses`; or a row has two or none, or one is for no row: they are of another split.
    """
    lines = read_hypotheses(path)
    others = dict.fromkeys(set_of(line) for line in lines)
    if lines and name not in others and None not in others:
        raise InputError(f"{path}: no texts of the set {name}; give --task one that it has: {', '.join(others)}")
    texts = {}
    for line in lines:
        if set_of(line) not in (name, None):
            continue
        if line["id"] in texts:
            raise InputError(f'{path}: id "{line["id"]}" is there with a kind and without one; keep one of the two')
        texts[line["id"]] = line["hypothesis"]
    match_ids(path, texts, [row.id for row in rows], "the annotation")
    return [texts[row.id] for row in rows]


def match_ids(path: Path, given: Iterable[str], wanted: Sequence[str], where: str) -> None:
    """Refuses a file whose clips are not those of a test set.

    Raises:
        InputError: Says how many are missing and how many are foreign, and names the first of each.
    """
    given, known = set(given), set(wanted)
    missing, foreign = [name for name in wanted if name not in given], sorted(given - known)
    if not missing and not foreign:
        return
    parts = []
    if missing:
        parts.append(f'{len(missing)} of {len(known)} clips of {where} are missing (the first: "{missing[0]}")')
    if foreign:
        parts.append(f'{len(foreign)} are not in it (the first: "{foreign[0]}")')
    mend = "it is of another split: give both of the same one" if foreign else "finish it with scripts/evaluate.py"
    raise InputError(f"{path}: {'; '.join(parts)}; {mend}")
