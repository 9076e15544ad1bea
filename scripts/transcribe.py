"""Writes what is said or heard in sound files of any length, with a trained model, teacher or student.

python scripts/transcribe.py FILE... [--model runs/kd_mini/model] [--task transcribe|caption|ask] [--question Q]
python scripts/transcribe.py lecture.mp3 --format srt > lecture.srt     # text, json, srt or vtt
python scripts/transcribe.py *.wav --format json --out texts            # a file each, in a folder
arecord -f cd -d 10 | python scripts/transcribe.py -                    # - is standard input
"""

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import get_args

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import run_cli
from data.paths import resolve

with redirect_stdout(sys.stderr):  # DeepSpeed says which device it found, as it is imported
    from student.use.audio_lm import AudioLM
    from student.use.command import Outputs, require_asked, write_all
    from student.use.formats import Format
    from student.use.results import Task
    from teacher.device import prepare_process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="sound files; - is standard input")
    parser.add_argument("--model", type=Path, default=resolve("runs/kd_mini/model"), help="a run's model folder")
    parser.add_argument("--task", choices=get_args(Task), default="transcribe")
    parser.add_argument("--question", default="", help="what --task ask asks")
    parser.add_argument("--format", choices=get_args(Format), default="text")
    parser.add_argument("--out", type=Path, metavar="DIR", help="a file for each sound, instead of standard output")
    arguments = parser.parse_intermixed_args()  # files may stand before and after options
    require_asked(arguments.task, arguments.question, arguments.model)
    outputs = Outputs(arguments.files, arguments.format, arguments.out)
    prepare_process()
    with redirect_stdout(sys.stderr):
        model = AudioLM.load(arguments.model)
    sys.exit(write_all(model, outputs, arguments.task, arguments.question))


if __name__ == "__main__":
    run_cli(main)
