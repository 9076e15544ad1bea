"""AudioCaps (Kim et al. 2019): captions of ten seconds of AudioSet; the sounds are named by their video."""

from collections import Counter
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
    clips: dict[str, dict[tuple[str, str], list[Listed]]] = {}
    for name in _SPLITS:
        listed = lists.only(f"{name}.csv")
        for row in csv_rows(listed, "audiocap_id", "youtube_id", "start_time", "caption") if listed else ():
            of_split = clips.setdefault(name, {})
            of_split.setdefault((row["youtube_id"], row["start_time"]), []).append(row)
    times = Counter(video for video, _ in {clip for of_split in clips.values() for clip in of_split})
    for name, of_split in clips.items():
        split = _SPLITS[name]
        for (video, start), rows in of_split.items():
            # The video alone names no clip where it has several.
            names = _names(video, start)[2 * (times[video] > 1) :]
            sound = sounds.sound(*names, *(row["audiocap_id"] for row in rows))
            captions = tuple(row["caption"] for row in rows if row["caption"])
            if split == "train":
                for row in rows:
                    yield Entry(split, row["audiocap_id"], sound, row["caption"], "audiocaption", where=row.where)
            else:
                text = captions[0] if captions else ""
                clip = video if times[video] == 1 else f"{video}_{start}"
                yield Entry(split, f"{name}/{clip}", sound, text, "audiocaption", captions, where=rows[0].where)


def _names(video: str, start: str) -> list[str]:
    """How those who fetched AudioCaps have named a clip: by video, with a Y before it, with its times after it."""
    endings = [""]
    if start.isdecimal():
        begin, end = int(start), int(start) + 10
        endings += [f"_{begin}", f"_{begin}_{end}", f"_{begin * 1000}", f"_{begin * 1000}_{end * 1000}"]
    return [f"{letter}{video}{ending}" for ending in endings for letter in ("", "Y")]
