"""Trains by a recipe: `deepspeed distill/train.py --config configs/kd_mini.json`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from data.cache.reader import CacheReader
from data.errors import INTERRUPTED, InputError, run_cli
from data.paths import resolve
from data.prompts import instruction
from data.ranks import launched_rank
from distill.models.sizes import beside
from distill.models.students import cut_from_llm, processor_of, student_of
from distill.recipe.inputs import require_inputs, weights_of, written_together
from distill.recipe.meeting import meeting
from distill.recipe.reading import recipe_of, recipe_parser
from distill.recipe.rows import read_rows
from distill.training.checking import check
from distill.training.checkpoints import has_begun
from distill.training.loop import Trainer
from teacher.build import build_teacher
from teacher.cache import cache_identity
from teacher.device import alone_without_launcher, prepare_process


def main() -> None:
    """Reads the recipe, builds the model that it trains, trains it, saves it."""
    parser = recipe_parser(__doc__)
    parser.add_argument("--local_rank", type=int, default=-1, help="set by the launcher")
    parser.add_argument("--check", action="store_true", help="say what would be refused or trained, and do no more")
    arguments = parser.parse_args()
    if arguments.check:
        told, refused = check(recipe_of(arguments))
        print(told, flush=True)
        if refused:
            raise InputError(*refused)
        return
    with meeting() as together:
        recipe = recipe_of(arguments)
        files = [recipe.data.train, *recipe.data.valid]
        require_inputs(recipe, files, student=True)
        together.agree(recipe, files, weights_of(recipe), written_together(recipe))

    alone_without_launcher()
    prepare_process()
    torch.manual_seed(recipe.seed)
    teacher, processor = build_teacher(recipe.teacher, torch.float32, with_llm=cut_from_llm(recipe))
    cache = None
    if recipe.student is None:
        trainer = Trainer(recipe, teacher, processor)
    else:
        if recipe.trains_from_cache:
            rows = read_rows(recipe, recipe.data.train)
            settings = (recipe.teacher, recipe.cache, recipe.generation, recipe.data.prompts)
            cache = CacheReader(resolve(recipe.cache.folder), cache_identity(*settings, rows, processor))
        student = student_of(recipe, teacher, processor)
        teacher_processor, processor = processor, processor_of(recipe, student, processor)
        if launched_rank() == 0 and not has_begun(recipe.run_dir):
            wording = instruction(recipe.data.prompts, next(iter(recipe.data.prompts)))
            print(
                beside({"teacher": (teacher, teacher_processor), "student": (student, processor)}, wording), flush=True
            )
        del teacher  # in float32, and with its adapters apart
        trainer = Trainer(recipe, student, processor, cache, teacher_processor)
    trainer.train()
    if trainer.stopped:
        trainer.close()
        sys.exit(INTERRUPTED)
    if trainer.finished:
        trainer.close()
        if trainer.rank == 0:
            print(
                f"finished before: {recipe.run_dir}/model stays as it is, as its checkpoints are gone; "
                "to train anew remove that folder",
                flush=True,
            )
        return
    folder, step = trainer.save_model()
    trainer.close()
    if trainer.rank == 0:
        print(f"trained model: {folder} (of step {step}, the {recipe.train.export} one)", flush=True)


if __name__ == "__main__":
    run_cli(main)
