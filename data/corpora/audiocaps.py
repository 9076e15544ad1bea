"""AudioCaps (Kim et al. 2019): captions of ten seconds of AudioSet; the sounds are named by their video."""

from collections.abc import Iterator

from data.corpora.entry import Entry
from data.corpora.files import Files
from data.corpora.lists import Listed, csv_rows

NAME = "audiocaps"
LAYOUT = "train.csv, val.csv, test.csv (audiocap_id, youtube_id, start_time, caption), and sounds named by either id"
NORMALISE = "none"
_SPLITS = {"train": "train", "val": "valid", "test": "test"}


def entries(sounds: Files, lists: Files) -> Iterator[Entry]:
    """A row for every caption in training; one for every clip, with its five captions, in validation and test."""
    for name, split in _SPLITS.items():
        listed = lists.only(f"{name}.csv")
        clips: dict[tuple[str, str], list[Listed]] = {}
        for row in csv_rows(listed, "audiocap_id", "youtube_id", "start_time", "caption") if listed else ():
            clips.setdefault((row["youtube_id"], row["start_time"]), []).append(row)
        for (video, start), rows in clips.items():
            sound = sounds.sound(*_names(video, start), *(row["audiocap_id"] for row in rows))
            captions = tuple(row["caption"] for row in rows if row["caption"])
            if split == "train":
                for row in rows:
                    yield Entry(split, row["audiocap_id"], sound, row["caption"], "audiocaption", where=row.where)
            else:
                text = captions[0] if captions else ""
                yield Entry(split, f"{name}/{video}", sound, text, "audiocaption", captions, where=rows[0].where)


def _names(video: str, start: str) -> list[str]:
    """How those who fetched AudioCaps have named a clip: by video, with a Y before it, with its times after it."""
    endings = [""]
    if start.isdecimal():
        begin, end = int(start), int(start) + 10
        endings += [f"_{begin}", f"_{begin}_{end}", f"_{begin * 1000}", f"_{begin * 1000}_{end * 1000}"]
    return [f"{letter}{video}{ending}" for ending in endings for letter in ("", "Y")]
