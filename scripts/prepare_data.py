"""Reads a corpus as it is distributed, and writes an annotation file for each of its splits.

python scripts/prepare_data.py librispeech --root /data/LibriSpeech --out /data/lists
python scripts/make_manifest.py /data/lists/librispeech_train-*.json --out /data/lists/train.arrow
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.corpora import CORPORA, wavcaps
from data.corpora.prepare import prepare
from data.errors import InputError, run_cli


def main() -> None:
    known = "".join(f"\n  {name}: {corpus.LAYOUT}" for name, corpus in CORPORA.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"looked for:{known}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", choices=tuple(CORPORA), metavar="CORPUS", help=", ".join(CORPORA))
    parser.add_argument("--root", type=Path, required=True, help="the folder with its sound files, at any depth")
    parser.add_argument("--out", type=Path, required=True, help="where the annotation files go: NAME_SPLIT.json")
    parser.add_argument("--lists", type=Path, help="where its lists (CSV, JSON, TXT) lie, if not below --root")
    parser.add_argument(
        "--name", default="", help="what it is called in files and rows; default: CORPUS, for huggingface its folder"
    )
    parser.add_argument("--tasks", type=lambda text: tuple(text.split(",")), default=(), help="keep these alone: A,B")
    parser.add_argument(
        "--task", action="append", default=[], metavar="OLD=NEW", help="gives a task another name, before --tasks"
    )
    english = ", ".join(name for name, corpus in CORPORA.items() if corpus.NORMALISE == "english")
    parser.add_argument(
        "--normalise",
        choices=("none", "english"),
        default="",
        help="transcripts (asr) as they are, or in lower case, with numbers as words and without punctuation or what "
        f"is in brackets; default: english for {english}, else none",
    )
    parser.add_argument(
        "--keep-untexted",
        action="store_true",
        help="rows without a text stay, for data.faults.no_text=teacher of a recipe, but for those of dev, valid, test "
        "and eval splits; a table or dataset then needs no column of texts",
    )
    parser.add_argument(
        "--no-blacklist", action="store_true", help="wavcaps with its clips of AudioCaps' and Clotho's test sets"
    )
    arguments = parser.parse_args()
    corpus, lists = CORPORA[arguments.corpus], arguments.lists or arguments.root
    on_hub = corpus.NAME == "huggingface" and len(lists.parts) <= 2 and not lists.is_absolute()
    if missing := [folder for folder in (arguments.root, lists) if not folder.exists() and not on_hub]:
        raise InputError(f"{missing[0]}: no such folder; give one with {corpus.LAYOUT}")
    if wrong := [text for text in arguments.task if not all(text.partition("="))]:
        raise InputError(f"--task {wrong[0]}: write it as OLD=NEW, such as audiocaption=audiocaption_v2")
    if arguments.no_blacklist and corpus is not wavcaps:
        raise InputError(f"--no-blacklist: {corpus.NAME} has no such list; leave it out")
    made = prepare(
        corpus,
        arguments.root,
        arguments.out,
        lists,
        tasks=arguments.tasks,
        renamed=dict(text.split("=", 1) for text in arguments.task),
        name=arguments.name,
        normalised=arguments.normalise,
        untexted=arguments.keep_untexted,
        **({"blacklist": False} if arguments.no_blacklist else {}),
    )
    for split, path in made.files.items():
        counts = Counter({task: count for (of, task), count in made.rows.items() if of == split})
        without = f", {made.untexted[split]} of them without a text" if made.untexted[split] else ""
        print(f"{path}: {counts.total()} rows ({', '.join(f'{n} {task}' for task, n in counts.items())}){without}")
    if made.corrected:
        print(f"corrected: {made.corrected} rows stated another length than their sound has; that is taken")
    for line in made.told():
        print(f"left out: {line}")


if __name__ == "__main__":
    run_cli(main)
