"""WavCaps (Mei et al. 2023): weakly labelled captions of sounds from four sources, a JSON each."""

import json
from collections.abc import Iterator
from pathlib import Path

from data.corpora.entry import Entry, SoundFiles, found
from data.errors import InputError
from data.rows.json_stream import stream_list

NAME = "wavcaps"
LAYOUT = (
    "as_final.json, bbc_final.json, fsd_final.json or sb_final.json, and the sounds in a folder of the source's name, "
    "such as AudioSet_SL or AudioSet_SL_flac"
)
_SOURCES = {"as": "AudioSet_SL", "bbc": "BBC_Sound_Effects", "fsd": "FreeSound", "sb": "SoundBible"}
_BLACKLIST = "blacklist_exclude_test_ac.json"


def entries(root: Path, lists: Path) -> Iterator[Entry]:
    """Every clip as `audiocaption`, but for those in the test sets of AudioCaps and Clotho (the corpus's own list)."""
    sounds = SoundFiles(root)
    excluded = {(key, Path(name).stem) for path in found(lists, _BLACKLIST) for key, name in _excluded(path)}
    for short, source in _SOURCES.items():
        for listed in found(lists, f"{short}_final.json", f"*_{short}_final.json"):
            for item in stream_list(listed, "data"):
                try:
                    name, caption = Path(str(item["id"])).stem, item["caption"].strip()
                    seconds = float(item["duration"]) if item.get("duration") else None
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    raise InputError(f"{listed}: a clip is not as WavCaps has it ({error!r}); fetch it again") from None
                if (source.removesuffix("_SL"), name) not in excluded:
                    sound = sounds.find(name, within=source) or sounds.find(name, within=f"{source}_flac")
                    yield Entry("train", f"{source}/{name}", sound, caption, "audiocaption", duration_s=seconds)


def _excluded(path: Path) -> Iterator[tuple[str, str]]:
    """Source and id of clips that are in a test set."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        yield from ((source, name) for source, names in content.items() for name in names)
    except (ValueError, AttributeError, TypeError):
        raise InputError(f"{path}: must be lists of ids by source; fetch it again, or remove it") from None
