"""WavCaps (Mei et al. 2023): weakly labelled captions of sounds from four sources, a JSON each."""

from collections.abc import Iterator
from pathlib import Path

from data.corpora.entry import Entry
from data.corpora.files import Files
from data.corpora.lists import lines_of
from data.errors import InputError
from data.rows.json_stream import stream_list
from data.strict_json import loads

NAME = "wavcaps"
BLACKLIST = "blacklist_exclude_test_ac.json"
"""The corpus's own list of clips that are in the test sets of AudioCaps and Clotho."""
LAYOUT = (
    "as_final.json, bbc_final.json, fsd_final.json or sb_final.json, and the sounds in a folder of the source's name, "
    f"such as AudioSet_SL or AudioSet_SL_flac; {BLACKLIST}"
)
NORMALISE = "none"
_SOURCES = {"as": "AudioSet_SL", "bbc": "BBC_Sound_Effects", "fsd": "FreeSound", "sb": "SoundBible"}


def entries(sounds: Files, lists: Files, *, blacklist: bool = True) -> Iterator[Entry]:
    """Every clip as `audiocaption`.

    Args:
        sounds: The sounds.
        lists: The four JSONs, and the list of what is in a test set.
        blacklist: Whether what is in a test set is left out.

    Raises:
        InputError: That list is not there.
    """
    excluded: set[tuple[str, str]] | None = None
    for short, source in _SOURCES.items():
        listed = lists.only(f"{short}_final.json", f"*_{short}_final.json")
        if listed is None:
            continue
        if excluded is None:  # asked for once there is something to leave out of
            excluded = _excluded(lists) if blacklist else set()
        for item in stream_list(listed, "data"):
            try:
                name, caption = Path(str(item["id"])).stem, (item["caption"] or "").strip()
            except (KeyError, TypeError, AttributeError) as error:
                raise InputError(f"{listed}: a clip is not as WavCaps has it ({error!r}); fetch it again") from None
            sound = sounds.sound(name, within=source) or sounds.sound(name, within=f"{source}_flac")
            left_out = (
                "that are in a test set of AudioCaps or Clotho"
                if (source.removesuffix("_SL"), name) in excluded
                else ""
            )
            yield Entry("train", f"{source}/{name}", sound, caption, "audiocaption", left_out=left_out)


def _excluded(lists: Files) -> set[tuple[str, str]]:
    """Source and id of clips that are in a test set."""
    path = lists.only(BLACKLIST)
    if path is None:
        raise InputError(
            f"{lists.place}: no {BLACKLIST}, so clips of the test sets would be trained on; fetch it "
            "(json_files/blacklist of WavCaps), or go without it: --no-blacklist"
        )
    try:
        content = loads("\n".join(lines_of(path)))
        excluded = {(source, Path(name).stem) for source, names in content.items() for name in names}
    except (ValueError, AttributeError, TypeError):
        raise InputError(f"{path}: must be lists of ids by source; fetch it again") from None
    if not excluded:
        raise InputError(f"{path}: names no clip; fetch it again, or go without it: --no-blacklist")
    known = {source.removesuffix("_SL") for source in _SOURCES.values()}
    if unknown := sorted({source for source, _ in excluded} - known):
        raise InputError(f"{path}: '{unknown[0]}' is no source of WavCaps ({', '.join(sorted(known))}); fetch it again")
    return excluded
