"""The challenge's submissions: a CSV with exactly `testset_id,text`, ids `testNNNN`, a text in every row."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from data.errors import InputError
from data.paths import written_whole
from data.rows.row import Row
from distill.scoring.hypothesis_file import match_ids

COLUMNS = ["testset_id", "text"]
ID = re.compile(r"test[0-9]{4}")
NOTHING = "."
"""Stands for an empty hypothesis: the form wants a text, and a full stop counts as no word in WER."""
READ_AS_MISSING = {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"}
READ_AS_MISSING |= {"N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"}
"""Texts that `pandas.read_csv`, by which submissions are read, takes for no text."""


def submission_ids(rows: Sequence[Row], where: str) -> list[str]:
    """The name of each row in a submission; where no row has one, they are numbered from test0000 in their order.

    Args:
        rows: The rows of one board.
        where: Of the message.

    Raises:
        InputError: Some rows have a testset_id and some have none, or one is of another form, or there twice.
    """
    given = [row.testset_id for row in rows]
    if not any(given):
        if len(rows) > 10_000:
            raise InputError(f"{where}: ids have four digits, and there are {len(rows)} rows; give them a testset_id")
        return [f"test{number:04}" for number in range(len(rows))]
    seen = set()
    for row, name in zip(rows, given, strict=True):
        if not ID.fullmatch(name):
            raise InputError(f'{where}, row "{row.id}": testset_id "{name}" is not "test" and four digits; mend it')
        if name in seen:
            raise InputError(f'{where}, row "{row.id}": testset_id "{name}" is there twice; give each row its own')
        seen.add(name)
    return given


def write_submission(path: Path, ids: Sequence[str], texts: Sequence[str]) -> None:
    """Writes a board's CSV; a text is one line, an empty one a full stop, which also guards what is read as missing."""
    lines = [" ".join(text.split()) for text in texts]
    guarded = [f"{line} {NOTHING}".strip() if line in READ_AS_MISSING else line for line in lines]
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(zip(ids, guarded, strict=True))


def check_submission(path: Path, rows: Sequence[Row] | None = None) -> int:
    """Checks columns, the form of ids, texts, and completeness.

    Args:
        path: The CSV.
        rows: The test set that it is for, where that is known.

    Returns:
        The number of rows.

    Raises:
        InputError: The first fault, with its line and the mend.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [(reader.line_num, line) for reader in [csv.reader(file, strict=True)] for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV in UTF-8 ({error})") from error
    if not lines or lines[0][1] != COLUMNS:
        found = ",".join(lines[0][1])[:60] if lines else "nothing"
        raise InputError(f"{path}, line 1: the columns must be exactly testset_id,text, not {found}")
    places: dict[str, int] = {}
    for number, line in lines[1:]:
        where = f"{path}, line {number}"
        if len(line) != len(COLUMNS):
            raise InputError(f"{where}: {len(line)} fields, not 2; put a text that has a comma into quotes")
        name, text = line
        if not ID.fullmatch(name):
            raise InputError(f'{where}: the id "{name}" is not "test" and four digits, such as test0042')
        if name in places:
            raise InputError(f'{where}: the id "{name}" is in line {places[name]} already; keep one of the two')
        if not text.strip():
            raise InputError(f'{where}: the text of "{name}" is empty; write "{NOTHING}" where nothing was heard')
        if text in READ_AS_MISSING:
            raise InputError(f'{where}: pandas reads "{text}" as no text; write "{text} {NOTHING}"')
        places[name] = number
    if not places:
        raise InputError(f"{path}: no rows; write one for each clip")
    if rows is not None:
        match_ids(path, places, submission_ids(rows, "the annotation"), "the annotation")
    return len(places)
