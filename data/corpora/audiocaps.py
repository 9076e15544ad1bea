"""AudioCaps (Kim et al. 2019): captions of ten seconds of AudioSet; the sounds are named by their video."""

from collections.abc import Iterator
from pathlib import Path

from data.corpora.entry import Entry, SoundFiles, csv_rows, found

NAME = "audiocaps"
LAYOUT = "train.csv, val.csv, test.csv (audiocap_id, youtube_id, start_time, caption), and sounds named by either id"
_SPLITS = {"train": "train", "val": "valid", "test": "test"}


def entries(root: Path, lists: Path) -> Iterator[Entry]:
    """A row for every caption in training; one for every clip, with its five captions, in validation and test."""
    sounds = SoundFiles(root)
    for name, split in _SPLITS.items():
        for listed in found(lists, f"{name}.csv"):
            clips: dict[str, list[dict[str, str]]] = {}
            for row in csv_rows(listed, "audiocap_id", "youtube_id", "start_time", "caption"):
                clips.setdefault(row["youtube_id"], []).append(row)
            for video, rows in clips.items():
                sound = sounds.find(*_names(video, rows[0]["start_time"]), *(row["audiocap_id"] for row in rows))
                captions = tuple(row["caption"] for row in rows)
                if split == "train":
                    for row in rows:
                        yield Entry(split, row["audiocap_id"], sound, row["caption"], "audiocaption")
                else:
                    yield Entry(split, f"{name}/{video}", sound, captions[0], "audiocaption", captions)


def _names(video: str, start: str) -> list[str]:
    """How those who fetched AudioCaps have named a clip: by video, with a Y before it, with its times after it."""
    endings = [""]
    if start.isdigit():
        begin, end = int(start), int(start) + 10
        endings += [f"_{begin}", f"_{begin}_{end}", f"_{begin * 1000}", f"_{begin * 1000}_{end * 1000}"]
    return [f"{letter}{video}{ending}" for ending in endings for letter in ("", "Y")]
