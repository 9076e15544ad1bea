"""Scores the teacher or the student of a recipe on its held-out sets, and renews the recipe's report."""

import shutil
import sys
from pathlib import Path

# Not scripts/: there this file would stand before the library `evaluate`.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import run_cli
from distill.evaluation import evaluate
from distill.inputs import require_inputs
from distill.recipe import recipe_of, recipe_parser
from distill.report import print_table, write_report
from teacher.device import prepare_process


def main() -> None:
    parser = recipe_parser(__doc__)
    parser.add_argument("--model", choices=("teacher", "student"), required=True)
    parser.add_argument("--checkpoint", type=Path, help="a model folder to score instead of the run's own")
    arguments = parser.parse_args()
    recipe = recipe_of(arguments)
    builds_teacher = arguments.model == "teacher" and arguments.checkpoint is None
    require_inputs(recipe, recipe.data.test.values(), teacher=builds_teacher)
    prepare_process()
    evaluate(recipe, arguments.model, arguments.checkpoint and arguments.checkpoint.resolve())
    for name in ("steps.jsonl", "validation.jsonl"):
        if arguments.model == "student":
            (recipe.results_dir / name).unlink(missing_ok=True)  # of an earlier run
            if (recipe.run_dir / name).is_file():
                shutil.copy(recipe.run_dir / name, recipe.results_dir / name)
    print_table(write_report(recipe.results_dir))
    print(f"written: {recipe.results_dir}/report.json, report.md, report.png")


if __name__ == "__main__":
    run_cli(main)
