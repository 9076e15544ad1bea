"""What a scan found in an annotation file, as it is printed and as a recipe reads it back."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import InputError, one_line
from data.paths import file_sha256
from data.rows.annotation import checked_row, located, open_list
from data.rows.faults import FAULTS, Thresholds
from data.rows.identity import FreeNames
from data.rows.manifest import Manifest
from data.rows.manifest_reader import read_manifest
from data.rows.row import Mono
from data.scan.scanning import CLASSES, MALFORMED, Annotated, classify, copies, scan_sounds
from data.sound.checks import SoundCheck
from data.strict_json import loads

_OF_SAMPLES = ("silent", "clipped", "nan")


@dataclass(frozen=True)
class ScanReport:
    """The classes of an annotation file's rows.

    Attributes:
        annotation: The file.
        sha256: Of its content: a report is about no other.
        rows: How many rows it has.
        files: How many sound files they name.
        decoded: How many of them were decoded, in this scan or an earlier one.
        hours: Of all files, each counted once.
        thresholds: From where on a row is at fault.
        classes: Ids by class, in the order of the rows.
        undecoded: How many files are there and were not decoded.
        reasons: What is wrong with malformed rows and wrong lengths, by id.
        on_others: How many of the silent rows have sound on another channel than the first.
    """

    annotation: str
    sha256: str
    rows: int
    files: int
    decoded: int
    hours: float
    thresholds: Thresholds
    classes: dict[str, list[str]]
    undecoded: int = 0
    reasons: dict[str, str] = field(default_factory=dict)
    on_others: int = 0

    def as_json(self) -> dict[str, Any]:
        """Count and ids of each class, and under "scan" what was looked at."""
        about = {
            name: getattr(self, name)
            for name in ("annotation", "sha256", "rows", "files", "decoded", "hours", "reasons")
        }
        classes = {name: {"count": len(ids), "ids": ids} for name, ids in self.classes.items()}
        return classes | {"scan": about | {"thresholds": self.thresholds.model_dump()}}


def report_of(
    annotation: Path,
    root: Path | None,
    thresholds: Thresholds,
    *,
    decode: bool,
    workers: int | None = None,
    quiet: bool = False,
) -> ScanReport:
    """Scans an annotation file (see `scan_sounds` and `classify`).

    Raises:
        InputError: It is no annotation file. Rows at fault do not raise: they are what is looked for.
    """
    root, entries = raw_rows(annotation, root)
    rows = [_annotated(name, path, entry, thresholds) for name, path, entry in entries]
    found = scan_sounds(root, (row.path for row in rows), decode=decode, workers=workers, quiet=quiet)
    classes = classify(rows, found, copies(root, found, workers), thresholds)
    silent = set(classes["silent"])
    audible = 10 ** (thresholds.silence_db / 20)
    return ScanReport(
        annotation=str(annotation),
        sha256=file_sha256(annotation),
        rows=len(rows),
        files=len(found),
        decoded=sum(check.decoded for check in found.values()),
        hours=round(sum(check.duration_s for check in found.values()) / 3600, 4),
        thresholds=thresholds,
        classes=classes,
        undecoded=sum(not (check.decoded or check.missing) for check in found.values()),
        reasons=_reasons(rows, found, {*classes["wrong_length"], *classes[MALFORMED]}),
        on_others=sum(row.id in silent and found[row.path].peak_mix > audible for row in rows),
    )


def _annotated(name: str, path: str, entry: dict[str, Any], thresholds: Thresholds) -> Annotated:
    text_fault = thresholds.fault_of_text(entry.get("text"))
    try:
        row = checked_row("", {"path": path} | entry, texts=False)
    except InputError as error:
        return Annotated(name, path, text_fault, malformed=str(error).removeprefix(": "))
    return Annotated(name, path, text_fault, row["start_s"], row["end_s"], row["duration_s"])


def _reasons(rows: Iterable[Annotated], found: dict[str, SoundCheck], ids: set[str]) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for row in rows:
        there_s = found[row.path].duration_s  # 0 where no sound is
        if row.id in ids and (reason := row.malformed or (there_s and row.fault_of_times(there_s))):
            reasons.setdefault(row.id, reason)
    return reasons


def stretch_of(entry: dict[str, Any]) -> tuple[float, float]:
    """Where a row's clip begins and ends in its file, seconds; an end of 0 is the file's."""
    start_s, end_s = (entry.get(key) for key in ("start", "end"))
    return tuple(float(at) if isinstance(at, int | float) and 0 <= at < 1e9 else 0.0 for at in (start_s, end_s))


def raw_rows(annotation: Path, root: Path | None) -> tuple[Path, Iterator[tuple[str, str, dict[str, Any]]]]:
    """An annotation file whatever is wrong with its rows, or a manifest.

    Returns:
        What paths are relative to, and each row: its id, which where it has none is made as for reading it, its path,
        and the row as it stands there.

    Raises:
        InputError: It is no annotation file, or a row names no path.
    """
    if annotation.suffix == ".arrow":
        return _rows_of_manifest(read_manifest(annotation, root))
    root, entries = open_list(annotation, root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the one that the annotation's paths start from as --root")
    return root, _named(annotation, root, entries)


def _rows_of_manifest(manifest: Manifest) -> tuple[Path, Iterator[tuple[str, str, dict[str, Any]]]]:
    names = {"text": "text", "task": "task", "corpus": "corpus", "start": "start_s", "end": "end_s"}
    columns = map(manifest.values, ("id", "path", "duration_s", *names.values()))
    rows = zip(*columns, strict=True)
    return manifest.root, (
        (name, path, {"duration": seconds} | dict(zip(names, values, strict=True)))
        for name, path, seconds, *values in rows
    )


def _named(annotation: Path, root: Path, entries: Iterable[Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    made, numbered = set[str](), FreeNames()
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
            raise InputError(f'{annotation}, row {index}: must be an object with a "path"; mend it, or drop the row')
        path, given = located(root, _shown(entry["path"])), entry.get("id")
        if given not in (None, ""):
            name = _shown(str(given))
        else:
            name = numbered.first(f"{path}#{_shown(str(entry.get('task', '')))}", lambda name: name not in made)
        made.add(name)
        yield name, path, entry


def _shown(text: str) -> str:
    """A text with what no file's name and no line can hold (half a character, NUL) written out."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def summary(report: ScanReport, most_ids: int) -> str:
    """The report for a person: a line for each class, and its first ids."""
    lines = [f"{report.rows:,} rows, {report.files:,} files, {report.hours:,.2f} hours"]
    for name in CLASSES:
        ids = report.classes[name]
        more = (
            f"  ({report.undecoded:,} files were not decoded: --decode)"
            if name in _OF_SAMPLES and report.undecoded
            else ""
        )
        if name == "silent" and report.decoded:
            more += f"  (heard with --mono {report.thresholds.mono})"
        if name == "silent" and report.on_others:
            more += f"  ({report.on_others:,} have sound on another channel: --mono mix, and data.mono=mix)"
        lines.append(f"{name:<16} {len(ids):>12,}{more}")
        told = report.reasons if name in ("wrong_length", MALFORMED) else {}
        lines += [one_line(f"    {row}{f': {told[row]}' if row in told else ''}") for row in ids[:most_ids]]
        if len(ids) > most_ids:
            lines.append(f"    and {len(ids) - most_ids:,} more (--json has all)")
    return "\n".join(lines)


def read_report(path: Path, annotation: Path, mono: Mono) -> dict[str, list[str]]:
    """The ids of each fault, of a report that `scan_data.py --out` wrote.

    Args:
        path: The report.
        annotation: The file that it must be of.
        mono: What of several channels it must have heard, where it heard any.

    Raises:
        InputError: It is no such report, or one of another annotation file, or of one that changed since, or of what is
            heard otherwise.
    """
    try:
        content = loads(path.read_text(encoding="utf-8"))
        about = content["scan"]
        heard = about["thresholds"]["mono"] if about["decoded"] else mono
        sha256, classes = about["sha256"], {name: content[name]["ids"] for name in FAULTS}
        for name, ids in classes.items():
            if not isinstance(ids, list):
                raise TypeError(f"{name} lists no ids")
            "".join(ids).encode()  # an id is a text of whole characters
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not the report of a scan ({error}); write it: scripts/scan_data.py {annotation} --out {path}"
        ) from None
    if sha256 != file_sha256(annotation):
        raise InputError(
            f"{path}: the scan of another annotation file, or {annotation} changed since; make it again: "
            f"scripts/scan_data.py {annotation} --out {path}"
        )
    if heard != mono:
        raise InputError(
            f"{path}: a scan of what data.mono={heard} hears, where the recipe says {mono}; make it again: "
            f"scripts/scan_data.py {annotation} --decode --mono {mono} --out {path}"
        )
    return classes
