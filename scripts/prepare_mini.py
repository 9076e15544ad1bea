"""Makes the mini recipe's sounds and annotation files in the cache folder."""

import argparse
import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import soundfile

from data.errors import run_cli
from data.hashing import drawn
from data.mini import AAC, ASR, Clip, corpora
from data.paths import REPOSITORY, cache_dir, written_whole
from data.rows.annotation import write_annotation
from data.rows.row import Row
from data.sound.audio import SAMPLE_RATE

RENDERING = 1  # counted up when the same plan is to sound different
SHORTEST, LONGEST = 0.25, 20.0  # seconds; synthesis sometimes fails on a sentence
SILENT = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--large", action="store_true", help="also make train_large.json (the teacher's; half an hour on two cores)"
    )
    large = parser.parse_args().large
    folder = cache_dir() / "mini"
    if _is_done(folder, large):
        print(f"mini data: ready in {folder}", flush=True)
        return
    started = time.monotonic()
    sets = _sets(large)
    clips = list({clip.id: clip for group in sets.values() for clip in group}.values())
    lengths = _render_all(clips, folder)
    summary, texted = {}, _texted(sets)
    for name, group in sets.items():
        rows = [_row(clip, folder, lengths[clip.id]) for clip in group if lengths[clip.id]]
        if name in texted:
            rows = [row if row.id in texted[name] else replace(row, text="", references=()) for row in rows]
        write_annotation(folder / f"{name}.json", rows, folder)
        summary[name] = len(rows)
        counts = Counter(f"{row.task}/{row.corpus}" for row in rows)
        hours = sum(row.duration_s for row in rows) / 3600
        print(f"{name}.json: {len(rows)} rows, {hours:.2f} h: {dict(counts)}", flush=True)
    with written_whole(_stamp(folder, large)) as temporary:
        temporary.write_text(json.dumps({"code": _code_digest(), "rows": summary}))
    print(f"mini data: {len(clips)} clips in {folder}, {time.monotonic() - started:.0f} s", flush=True)


def _sets(large: bool) -> dict[str, list[Clip]]:
    """The clips of each annotation file."""
    found = corpora().values()
    valid = [clip for splits in found for clip in splits.valid]
    train = [clip for splits in found for clip in splits.train]
    sets: dict[str, list[Clip]] = {}
    for splits in found:
        for name, clips in splits.tests.items():
            sets.setdefault(f"test_{name}", []).extend(clips)
    for task, ending in ((ASR, "asr"), (AAC, "aac")):
        sets[f"valid_{ending}"] = [clip for clip in valid if clip.task == task]
    sets["train_small"] = train
    if large:
        extra = [clip for splits in found for clip in splits.extra]
        sets["train_large"] = train + extra
        # As many again, evenly from all that is there: the mix is that of the whole.
        more = min(len(train), len(extra))
        sets["ladder_all"] = train + [extra[i * len(extra) // more] for i in range(more)]
        sets["ladder_tenth"] = sets["ladder_all"]
    return sets


def _texted(sets: dict[str, list[Clip]]) -> dict[str, set[str]]:
    """The clips whose text is told, by set; of the other sets it is told of all."""
    ids = [clip.id for clip in sets["train_small"]]
    tenth = sorted(ids, key=drawn)[: len(ids) // 10]
    return {"ladder_all": set(ids), "ladder_tenth": set(tenth)}


def _render_all(clips: Sequence[Clip], folder: Path) -> dict[str, float]:
    """Renders what is not there yet, on all cores; gives each clip's seconds, 0 for one that is not usable."""
    workers = len(os.sched_getaffinity(0))
    lengths, started, told = {}, time.monotonic(), 0.0
    with ProcessPoolExecutor(workers) as pool:
        for done, (clip, seconds) in enumerate(
            zip(clips, pool.map(_render, clips, [folder] * len(clips), chunksize=32), strict=True), 1
        ):
            lengths[clip.id] = seconds
            passed = time.monotonic() - started
            if passed > told + 5 or done == len(clips):
                told = passed
                print(f"sounds: {done} of {len(clips)}, {passed / done * (len(clips) - done):.0f} s left", flush=True)
    return lengths


def _render(clip: Clip, folder: Path) -> float:
    """Writes a clip's 16-bit wav; gives its seconds, 0 when it is silent or of no sensible length."""
    path = _sound(clip, folder)
    if path.is_file():
        return soundfile.info(path).duration
    samples = clip.render()
    seconds = len(samples) / SAMPLE_RATE
    if not SHORTEST <= seconds <= LONGEST or np.sqrt((samples**2).mean()) < SILENT:
        return 0.0
    samples = samples * min(1.0, 0.99 / np.abs(samples).max())
    with written_whole(path) as temporary:
        soundfile.write(temporary, samples, SAMPLE_RATE, subtype="PCM_16", format="WAV")
    return seconds


def _sound(clip: Clip, folder: Path) -> Path:
    digest = hashlib.sha256(f"{RENDERING} {clip!r}".encode()).hexdigest()[:8]
    return folder / "sounds" / clip.corpus / f"{clip.id}.{digest}.wav"


def _row(clip: Clip, folder: Path, seconds: float) -> Row:
    return Row(clip.id, _sound(clip, folder), clip.text, clip.task, clip.corpus, seconds, clip.references)


def _is_done(folder: Path, large: bool) -> bool:
    """Made by this code, and every sound is there."""
    try:
        stamp = json.loads(_stamp(folder, large).read_text())
        if stamp["code"] != _code_digest():
            return False
        for name in stamp["rows"]:
            entries = json.loads((folder / f"{name}.json").read_text())["annotation"]
            if not all((folder / entry["path"]).is_file() for entry in entries):
                return False
    except (OSError, ValueError, KeyError):
        return False
    return True


def _stamp(folder: Path, large: bool) -> Path:
    return folder / ("large.stamp.json" if large else "small.stamp.json")


def _code_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted([Path(__file__), REPOSITORY / "data/text.py", *(REPOSITORY / "data/mini").glob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    run_cli(main)
