"""Clotho (Drossos et al. 2020): five captions for each sound, a CSV and a folder a split."""

from collections.abc import Iterator
from pathlib import Path

from data.corpora.entry import Entry, SoundFiles, csv_rows, found

NAME = "clotho"
LAYOUT = "clotho_captions_{development,validation,evaluation}.csv, and the sounds in folders of these names"
_SPLITS = {"development": "train", "validation": "valid", "evaluation": "test"}
_CAPTIONS = [f"caption_{number}" for number in range(1, 6)]


def entries(root: Path, lists: Path) -> Iterator[Entry]:
    """A row for every caption in training; one for every clip, with its five captions, in validation and test."""
    sounds = SoundFiles(root)
    for name, split in _SPLITS.items():
        for listed in found(lists, f"clotho_captions_{name}.csv"):
            for row in csv_rows(listed, "file_name", *_CAPTIONS):
                clip = Path(row["file_name"]).stem
                sound = sounds.find(clip, within=name)
                captions = tuple(row[column] for column in _CAPTIONS)
                if split == "train":
                    for number, caption in enumerate(captions, 1):
                        yield Entry(split, f"{name}/{clip}#{number}", sound, caption, "audiocaption")
                else:
                    yield Entry(split, f"{name}/{clip}", sound, captions[0], "audiocaption", captions)
