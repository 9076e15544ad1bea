"""Scores the teacher or the student of a recipe on its held-out sets, and renews the recipe's report.

python scripts/evaluate.py --model student [--config C] [--task SETS] [--split test|valid] [--limit N] [--json]
python scripts/evaluate.py --model student --runtime device [--llm q8_0|q4_0|q4_k_m|f16]  # a package without PyTorch
python scripts/evaluate.py --model student --mode submission        # the challenge's CSVs instead of scores
deepspeed scripts/evaluate.py --model student                       # on several devices
"""

import argparse
import json
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import get_args

# Not scripts/: there this file would stand before the library `evaluate`.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import InputError, run_cli
from data.kinds import KINDS, kind_of
from data.ranks import launched_rank, launched_world
from distill.models.packages import require_device
from distill.recipe.inputs import require_inputs, written_together
from distill.recipe.meeting import meeting
from distill.recipe.reading import recipe_of, recipe_parser
from distill.recipe.recipe import Recipe
from distill.recipe.test_sets import Selection
from distill.report import print_table, write_report
from distill.scoring.evaluation import evaluate, results_folder, submit
from student.device.llm_gguf import LLMFormat
from teacher.build import hashed_files
from teacher.device import DTYPES, pick_device, prepare_process
from teacher.quantise import require_quantisation
from teacher.settings import Quantisation
from teacher.weights import model_files


def parsed():
    parser = recipe_parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", choices=("teacher", "student"), required=True)
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="a model folder instead of the run's own")
    parser.add_argument("--quantise", choices=get_args(Quantisation), help="its LLM in fewer bits: a row of its own")
    parser.add_argument(
        "--runtime",
        choices=("torch", "device"),
        default="torch",
        help="device: as a package that runs without PyTorch (scripts/export.py), a row of its own",
    )
    parser.add_argument("--llm", choices=get_args(LLMFormat), help="how the package's LLM is stored (q8_0)")
    parser.add_argument(
        "--task",
        default=",".join(KINDS),
        help="test sets by name, such as asr_speakers; a kind, asr or aac, for all of its sets (both kinds)",
    )
    parser.add_argument("--split", choices=("test", "valid"), default="test", help="the test sets or the validation's")
    parser.add_argument(
        "--mode",
        choices=("score", "submission"),
        default="score",
        help="score: against the references; submission: write the challenge's CSVs, without references",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="score only the first N clips of each set")
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON, and all else to stderr")
    parser.add_argument("--local_rank", type=int, default=-1, help="set by the launcher")
    return parser.parse_args()


def selection_of(arguments) -> Selection:
    """What the arguments ask for.

    Raises:
        InputError: A name that no test set can have, or a limit below 1.
    """
    names = tuple(dict.fromkeys(name.strip() for name in arguments.task.split(",") if name.strip()))
    if not names or not all(map(kind_of, names)):
        raise InputError(f"--task {arguments.task}: give {' or '.join(KINDS)}, or test sets, with commas between")
    if arguments.limit is not None and arguments.limit < 1:
        raise InputError(f"--limit {arguments.limit}: give the number of clips, 1 or more")
    return Selection(names, arguments.split, arguments.limit, answers=arguments.mode == "score")


def device_llm_of(arguments, recipe: Recipe) -> LLMFormat | None:
    """How the LLM of the package is stored that is asked for; None where it is the model in PyTorch.

    Raises:
        InputError: Options that do not go together, or what a package needs is missing.
    """
    if arguments.runtime == "torch":
        if arguments.llm:
            raise InputError(f"--llm {arguments.llm}: goes with --runtime device; in PyTorch there is --quantise")
        return None
    if arguments.quantise:
        raise InputError(f"--quantise {arguments.quantise}: is PyTorch's; --runtime device takes --llm instead")
    if launched_world() > 1:
        raise InputError("--runtime device: one process writes with all cores; start it with python, not deepspeed")
    require_device(recipe)
    return arguments.llm or "q8_0"


def report(recipe: Recipe, selection: Selection, is_own_student: bool) -> None:
    """Renews the report of what was scored, with the training's log beside the scores of the run's own student."""
    folder = results_folder(recipe, selection)
    if is_own_student and (recipe.run_dir / "steps.jsonl").is_file():
        for name in ("steps.jsonl", "validation.jsonl"):
            (folder / name).unlink(missing_ok=True)  # of an earlier run
            if (recipe.run_dir / name).is_file():
                shutil.copy(recipe.run_dir / name, folder / name)
    try:
        print_table(write_report([folder]))
    except InputError as error:  # of a file that another run left damaged: the scores are written all the same
        print(f"scored, but no report could be made: {error}")
        return
    print(f"written: {folder}/report.html, report.md, report.json")


def main() -> None:
    arguments = parsed()
    with meeting() as together:
        recipe, selection = recipe_of(arguments), selection_of(arguments)
        builds_teacher = arguments.model == "teacher" and arguments.checkpoint is None
        files = selection.files(recipe)
        require_inputs(recipe, files, teacher=builds_teacher)
        model = arguments.checkpoint or recipe.run_dir / "model"
        weights = hashed_files(recipe.teacher) if builds_teacher else model_files(model)
        together.agree(recipe, files, weights, written_together(recipe))
    if arguments.quantise:
        require_quantisation(arguments.quantise, pick_device(), DTYPES[recipe.teacher.dtype])
    device_llm = device_llm_of(arguments, recipe)
    prepare_process()
    checkpoint = arguments.checkpoint and arguments.checkpoint.resolve()
    with redirect_stdout(sys.stderr if arguments.json else sys.stdout):
        if arguments.mode == "submission":
            files = submit(recipe, arguments.model, checkpoint, selection, arguments.quantise, device_llm)
            found = {"submissions": [str(file) for file in files or ()]}
            for file in files or ():
                print(f"written: {file}")
        else:
            found = evaluate(recipe, arguments.model, checkpoint, selection, arguments.quantise, device_llm)
            if found is not None:
                own = checkpoint in (None, (recipe.run_dir / "model").resolve())
                report(recipe, selection, arguments.model == "student" and own)
    if arguments.json and launched_rank() == 0:
        print(json.dumps(found, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    run_cli(main)
