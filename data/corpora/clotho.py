"""Clotho (Drossos et al. 2020): five captions for each sound, a CSV and a folder a split."""

import os
from collections.abc import Iterator

from data.corpora.entry import Entry
from data.corpora.files import Files
from data.corpora.lists import csv_rows

NAME = "clotho"
LAYOUT = "clotho_captions_{development,validation,evaluation}.csv, and the sounds in folders of these names"
NORMALISE = "none"
_SPLITS = {"development": "train", "validation": "valid", "evaluation": "test"}
_CAPTIONS = [f"caption_{number}" for number in range(1, 6)]


def entries(sounds: Files, lists: Files) -> Iterator[Entry]:
    """A row for every caption in training; one for every clip, with its five captions, in validation and test."""
    for name, split in _SPLITS.items():
        listed = lists.only(f"clotho_captions_{name}.csv")
        # Three of the official names begin with a blank.
        for row in csv_rows(listed, "file_name", *_CAPTIONS, verbatim=["file_name"]) if listed else ():
            clip = os.path.splitext(row["file_name"])[0]
            sound = sounds.sound(clip, within=name)
            captions = tuple(row[column] for column in _CAPTIONS if row[column])
            if split == "train":
                for number, column in enumerate(_CAPTIONS, 1):
                    yield Entry(split, f"{name}/{clip}#{number}", sound, row[column], "audiocaption", where=row.where)
            else:
                text = captions[0] if captions else ""
                yield Entry(split, f"{name}/{clip}", sound, text, "audiocaption", captions, where=row.where)
