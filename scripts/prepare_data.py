"""Reads a corpus as it is distributed, and writes an annotation file for each of its splits.

python scripts/prepare_data.py librispeech --root /data/LibriSpeech --out /data/lists
python scripts/make_manifest.py /data/lists/librispeech_train-*.json --out /data/lists/train.arrow
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.corpora import CORPORA
from data.corpora.prepare import prepare
from data.errors import InputError, run_cli


def main() -> None:
    known = "".join(f"\n  {name}: {corpus.LAYOUT}" for name, corpus in CORPORA.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"looked for:{known}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", choices=tuple(CORPORA), metavar="CORPUS", help=", ".join(CORPORA))
    parser.add_argument("--root", type=Path, required=True, help="the folder with its sound files, at any depth")
    parser.add_argument("--out", type=Path, required=True, help="where the annotation files go: CORPUS_SPLIT.json")
    parser.add_argument("--lists", type=Path, help="where its lists (CSV, JSON, TXT) lie, if not below --root")
    parser.add_argument("--tasks", type=lambda text: tuple(text.split(",")), default=(), help="keep these alone: A,B")
    parser.add_argument(
        "--task", action="append", default=[], metavar="OLD=NEW", help="gives a task another name, before --tasks"
    )
    arguments = parser.parse_args()
    corpus, lists = CORPORA[arguments.corpus], arguments.lists or arguments.root
    on_hub = corpus.NAME == "huggingface" and len(lists.parts) <= 2 and not lists.is_absolute()
    if missing := [folder for folder in (arguments.root, lists) if not folder.exists() and not on_hub]:
        raise InputError(f"{missing[0]}: no such folder; give one with {corpus.LAYOUT}")
    if wrong := [text for text in arguments.task if not all(text.partition("="))]:
        raise InputError(f"--task {wrong[0]}: write it as OLD=NEW, such as audiocaption=audiocaption_v2")
    renamed = dict(text.split("=", 1) for text in arguments.task)
    made = prepare(corpus, arguments.root, arguments.out, lists, tasks=arguments.tasks, renamed=renamed)
    for split, path in made.files.items():
        counts = Counter({task: count for (of, task), count in made.rows.items() if of == split})
        print(f"{path}: {counts.total()} rows ({', '.join(f'{n} {task}' for task, n in counts.items())})")
    if made.textless:
        print(f"left out: {made.textless} rows in which nothing is said")
    if made.missing:
        print(f"left out: {made.missing} rows whose sound file is not there, the first of them {made.first_missing}")


if __name__ == "__main__":
    run_cli(main)
