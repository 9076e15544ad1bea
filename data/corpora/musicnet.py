"""MusicNet (Thickstun et al. 2017): classical recordings whose labels say which instrument plays each note.

A recording is asked which instruments play in its beginning, as much of it as a model hears.
"""

from collections.abc import Iterator
from pathlib import Path

from data.corpora.entry import Entry
from data.corpora.files import Files
from data.corpora.lists import csv_rows
from data.errors import InputError

NAME = "musicnet"
LAYOUT = "musicnet_metadata.csv, train_labels/*.csv and test_labels/*.csv, and the sounds in train_data and test_data"
NORMALISE = "none"
QUESTION = "Which instruments are playing?"
_HEARD_S = 30.0
_LABEL_RATE = 44_100  # what the labels count in, Hz
_INSTRUMENTS = {  # General MIDI, counted from 1
    1: "piano",
    7: "harpsichord",
    41: "violin",
    42: "viola",
    43: "cello",
    44: "double bass",
    61: "horn",
    69: "oboe",
    71: "bassoon",
    72: "clarinet",
    74: "flute",
}


def entries(sounds: Files, lists: Files) -> Iterator[Entry]:
    """Every recording as `QA`."""
    metadata = lists.only("musicnet_metadata.csv")
    # The metadata is a download of its own: it may lie above the folders of labels.
    folder = Files(lists.folder) if lists.place.is_file() else lists
    labels = {path.stem: (path, split) for split in ("train", "test") for path in folder.named(f"{split}_labels/*.csv")}
    for row in csv_rows(metadata, "id", "seconds") if metadata else ():
        if row["id"] not in labels:
            raise InputError(f"{row.where}: recording {row['id']} has no labels in train_labels or test_labels")
        path, split = labels[row["id"]]
        sound = sounds.sound(row["id"], within=f"{split}_data")
        try:
            end_s = _HEARD_S if float(row["seconds"]) > _HEARD_S else 0.0
        except ValueError:
            raise InputError(f"{row.where}: 'seconds' must be a number, not '{row['seconds']}'; mend it") from None
        yield Entry(split, row["id"], sound, _playing(path), "QA", question=QUESTION, end_s=end_s, where=row.where)


def _playing(labels: Path) -> str:
    """The instruments of the beginning, in score order."""
    playing = set()
    for row in csv_rows(labels, "start_time", "instrument"):
        try:
            if int(row["start_time"]) < _HEARD_S * _LABEL_RATE:
                playing.add(_INSTRUMENTS[int(row["instrument"])])
        except (ValueError, KeyError):
            raise InputError(f"{row.where}: a note of instrument '{row['instrument']}' is none of MusicNet's") from None
    names = [name for name in _INSTRUMENTS.values() if name in playing]
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
