"""Lists of clips as text: lines, CSV and TSV, JSON lines, in the encodings that spreadsheets write."""

import codecs
import csv
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from data.errors import InputError
from data.strict_json import loads

_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_DELIMITERS = (",", ";", "\t")
# A whole transcript fits; where a quotation mark that is never closed swallows a file, `strict` tells.
csv.field_size_limit(1 << 26)


class Listed(dict[str, Any]):
    """A row of a list, its values by their names.

    Attributes:
        where: The list and the line, for messages.
    """

    def __init__(self, values: dict[str, Any], where: str) -> None:
        super().__init__(values)
        self.where = where


def lines_of(path: Path) -> list[str]:
    """The lines of a text file, without their ends.

    Raises:
        InputError: It is neither UTF-8 nor UTF-16.
    """
    try:
        return path.read_text(encoding=_encoding(path)).split("\n")
    except UnicodeDecodeError:
        _refuse_encoding(path)


def csv_rows(
    path: Path,
    *columns: str,
    delimiter: str | None = None,
    verbatim: Sequence[str] = (),
    names: Collection[str] = (),
) -> Iterator[Listed]:
    """The rows of a CSV or TSV file with a header, their values without blanks around them; empty lines are none.

    Tabs need no quotes: between them a quotation mark is one.

    Args:
        path: The file.
        columns: Those that must be there.
        delimiter: Between the values; if not given, the one of comma, semicolon and tab that gives these columns.
        verbatim: Columns whose values keep the blanks around them, such as names of files.
        names: Columns of names: where one begins with a blank and the header's do not, it is the rest of a text that
            a comma has cut, in a line that lacks another value.

    Raises:
        InputError: A column is missing or there twice, a row is too short, too long or cut by a comma, its quotation
            marks do not pair, or the file is neither UTF-8 nor UTF-16; names the line.
    """
    line = 1  # that a row begins on: a quoted text may have several
    try:
        with path.open(encoding=_encoding(path), newline="") as file:
            head = file.readline()
            delimiter = delimiter or _delimiter(head, columns)
            file.seek(0)
            plain = delimiter == "\t"
            blanks = any(name.startswith(" ") for name in head.split(delimiter)[1:])
            reader = csv.reader(
                file,
                delimiter=delimiter,
                quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL,
                strict=not plain,
                skipinitialspace=blanks,
            )
            first = next(reader, [])
            header = _header(path, first, columns)
            line = reader.line_num + 1
            for fields in reader:
                where, line = f"{path}, line {line}", reader.line_num + 1
                if any(field.strip() for field in fields):
                    _require_uncut(where, header, fields, len(first), names if delimiter == "," else ())
                    yield _row(where, header, fields, columns, verbatim)
    except UnicodeDecodeError:
        _refuse_encoding(path)
    except csv.Error as error:
        raise InputError(f"{path}, line {line}: cannot be read as CSV ({error}); mend the line") from None


def json_rows(path: Path) -> Iterator[Listed]:
    """The objects of a file of JSON lines; empty lines are none.

    Raises:
        InputError: A line is no object, or the file is neither UTF-8 nor UTF-16; names the line.
    """
    try:
        with path.open(encoding=_encoding(path)) as file:
            for number, line in enumerate(file, 1):
                where = f"{path}, line {number}"
                if line.strip():
                    yield Listed(_object(where, line), where)
    except UnicodeDecodeError:
        _refuse_encoding(path)


def _header(path: Path, names: list[str], columns: Sequence[str]) -> list[str]:
    names = [name.strip() for name in names]
    while names and not names[-1]:  # what stands in a column without a name is a value too many
        names.pop()
    if missing := [name for name in columns if name not in names]:
        raise InputError(f"{path}: no column '{missing[0]}'; it has {', '.join(filter(None, names)) or 'none'}")
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise InputError(f"{path}: the column '{twice[0]}' is there twice; take one away")
    return names


def _require_uncut(where: str, header: list[str], fields: list[str], width: int, names: Collection[str]) -> None:
    """Refuses a row in which an unquoted comma has moved values on by a column.

    Spreadsheets fill rows up with empty values, and then the header too.
    """
    if any(field.strip() for field in fields[len(header) :]) or len(fields) > width == len(header):
        raise InputError(
            f"{where}: {len(fields)} values for {len(header)} columns; put a value with the delimiter in it in quotes"
        )
    cut = [name for name, field in zip(header, fields, strict=False) if name in names and field.startswith(" ")]
    if cut:
        raise InputError(f"{where}: '{cut[0]}' begins with a blank; put a text with commas in it in quotes")


def _row(where: str, header: list[str], fields: list[str], columns: Sequence[str], verbatim: Sequence[str]) -> Listed:
    there = dict(zip(header, fields, strict=False))
    if short := [name for name in columns if name not in there]:
        raise InputError(f"{where}: too short, it has no '{short[0]}'; mend the line")
    values = {name: value if name in verbatim else value.strip() for name, value in there.items() if name}
    return Listed(values, where)


def _object(where: str, line: str) -> dict[str, Any]:
    try:
        row = loads(line)
    except ValueError as error:
        raise InputError(f"{where}: must be an object, and is not JSON ({error}); mend the line") from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: must be an object, not {type(row).__name__}; mend the line")
    return row


def _delimiter(head: str, columns: Sequence[str]) -> str:
    """The one under which the header has most of the columns."""
    return max(
        _DELIMITERS, key=lambda of: len({name.strip().strip('"') for name in head.split(of)}.intersection(columns))
    )


def _encoding(path: Path) -> str:
    """UTF-8, unless the first bytes tell of another."""
    with path.open("rb") as file:
        start = file.read(4)
    for mark, name in _BOMS.items():
        if start.startswith(mark):
            return name
    # Without a mark: every second byte of what is ASCII is zero.
    if start[1:2] == b"\0":
        return "utf-16-le"
    return "utf-16-be" if start[:1] == b"\0" else "utf-8"


def _refuse_encoding(path: Path) -> NoReturn:
    with path.open("rb") as file:
        number = next((number for number, line in enumerate(file, 1) if not _is_utf8(line)), 1)
    raise InputError(f"{path}, line {number}: cannot be read as UTF-8; write the file again in it") from None


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
