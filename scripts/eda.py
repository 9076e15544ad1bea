"""A look at the data before it is trained on: one HTML page and its pictures.

python scripts/eda.py ANNOTATION... [--root DIR] --out DIR

Lengths of clips and texts by corpus and task, rows and hours, formats and rates, vocabulary, and clips to listen to.
Headers are read as scripts/scan_data.py reads them, and kept. Where a row names no corpus, the first folder of its path
stands for it. Writes DIR/index.html, which needs nothing beside it, and the pictures as PNGs.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import InputError, run_cli
from data.look.gathering import Entry, gather, shown, stated_seconds
from data.look.page import look_page
from data.look.plots import pictures
from data.paths import written_whole
from data.scan.report import raw_rows, stretch_of
from data.scan.scanning import scan_sounds


def entries_of(annotation: Path, root: Path | None) -> Iterator[Entry]:
    """The rows of a file, whatever is wrong with them."""
    root, rows = raw_rows(annotation, root)
    for name, path, row in rows:
        folder = Path(path).parts[0] if len(Path(path).parts) > 1 else annotation.stem
        start_s, end_s = stretch_of(row)
        yield Entry(
            id=name,
            sound=root / path,
            text=shown(row.get("text") if isinstance(row.get("text"), str) else ""),
            task=shown(str(row.get("task") or "")),
            corpus=shown(str(row.get("corpus") or folder)),
            duration_s=stated_seconds(end_s - start_s if end_s else row.get("duration")),
            start_s=start_s,
            end_s=end_s,
        )


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Writes the page and its pictures."""
    try:
        for name, content in files.items():
            with written_whole(folder / name) as temporary:
                temporary.write_bytes(content)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror}); give another --out") from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", type=Path, nargs="+", metavar="ANNOTATION", help="annotation files")
    parser.add_argument("--root", type=Path, metavar="DIR", help="what their paths are relative to; default: their own")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the page and the pictures go")
    parser.add_argument("--samples", type=int, default=2, help="clips to listen to of each corpus and task")
    parser.add_argument("--workers", type=int, help="processes that read headers; default: one a core")
    arguments = parser.parse_args()
    checks = {}
    for annotation in arguments.annotations:
        root, rows = raw_rows(annotation, arguments.root)
        found = scan_sounds(root, (path for _, path, _ in rows), decode=False, workers=arguments.workers)
        checks |= {root / path: check for path, check in found.items()}
    if not checks:
        raise InputError(f"{', '.join(map(str, arguments.annotations))}: no rows; there is nothing to look at")
    entries = (entry for annotation in arguments.annotations for entry in entries_of(annotation, arguments.root))
    look = gather(entries, checks, arguments.samples)
    drawn = pictures(look)
    title = shown("Data: " + ", ".join(annotation.name for annotation in arguments.annotations))
    write(arguments.out, drawn | {"index.html": look_page(title, look, drawn).encode()})
    print(f"written: {arguments.out / 'index.html'}")


if __name__ == "__main__":
    run_cli(main)
