"""Parameters, memory, time to first token by part, time per token and RTFx of a recipe's models, timed in turn.

python scripts/efficiency.py --config configs/kd_mini.json [--seconds 2,5,10,30] [--batch 1,8] [--quantise none,int8]
python scripts/efficiency.py --runtime torch,device [--llm q8_0,q4_k_m]      # beside packages that run without PyTorch
python scripts/efficiency.py --random-weights               # kd_1b's shapes, nothing downloaded
python scripts/efficiency.py --mode reference               # the reference's protocol: 10 s of noise, 10 + 100 runs

Written: results/NAME/efficiency.json and efficiency.md (`--out` names another folder), in the mode `reference`
efficiency_reference.json and .md.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import get_args

# This folder has an evaluate.py, which would shadow the library of that name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import InputError, run_cli
from data.paths import written_whole
from distill.efficiency.measuring import REFERENCE, Measured, Protocol, measure, sound_of
from distill.models.loading import student_folder
from distill.models.packages import require_device
from distill.recipe.inputs import require_inputs
from distill.recipe.reading import recipe_of, recipe_parser
from distill.recipe.recipe import Recipe
from distill.report.efficiency import efficiency_page
from student.device.llm_gguf import LLMFormat
from teacher.device import DTYPES, pick_device
from teacher.quantise import require_quantisation


def numbers(text: str, kind: type, low: float, high: float, what: str) -> tuple:
    """A comma-separated list of numbers within bounds."""
    try:
        values = tuple(dict.fromkeys(kind(part) for part in text.split(",")))
    except ValueError:
        values = ()
    if not values or not all(low <= value <= high for value in values):
        raise InputError(f"--{what} {text}: give {what} between {low:g} and {high:g}, with commas between them")
    return values


def protocol_of(arguments: argparse.Namespace, recipe: Recipe) -> Protocol:
    if arguments.mode == "reference":
        if arguments.seconds or arguments.batch or arguments.tokens:
            raise InputError("--mode reference: its clip, batch and tokens are fixed; leave out the other options")
        protocol = REFERENCE
    else:
        settings = recipe.evaluation
        protocol = Protocol(
            seconds=numbers(arguments.seconds or "2,5,10,30", float, 1, 30, "seconds"),
            batches=numbers(arguments.batch or "1,8", int, 1, 1024, "batch"),
            warmup=settings.warmup_runs,
            runs=settings.measured_runs,
            tokens=arguments.tokens or 64,
            sound=sound_of(recipe),
        )
    stated = {"warmup": arguments.warmup, "runs": arguments.runs}
    protocol = dataclasses.replace(protocol, **{name: value for name, value in stated.items() if value is not None})
    if not protocol.runs:
        raise InputError("evaluation.measured_runs is 0, for which nothing is measured; give --runs, 1 or more")
    return protocol


def chosen(text: str, known: Sequence[str], option: str) -> list[str]:
    """Those of a comma-separated list of names, each once."""
    names = list(dict.fromkeys(text.split(",")))
    if not set(names) <= set(known):
        raise InputError(f"--{option} {text}: give of {', '.join(known)}, with commas between them")
    return names


def runtimes_of(arguments: argparse.Namespace) -> list[str]:
    return chosen(arguments.runtime, ("torch", "device"), "runtime")


def device_llms_of(arguments: argparse.Namespace, recipe: Recipe) -> list[str]:
    """How the packages' LLMs are stored; nothing where no packages are asked for."""
    runtimes = runtimes_of(arguments)
    if "device" not in runtimes:
        if arguments.llm:
            raise InputError(f"--llm {arguments.llm}: goes with --runtime device; in PyTorch there is --quantise")
        return []
    if "torch" not in runtimes and arguments.quantise != "none":
        raise InputError(f"--quantise {arguments.quantise}: is PyTorch's; give --runtime torch,device, or --llm")
    if arguments.batch and arguments.batch.split(",")[0] != "1":
        raise InputError(f"--batch {arguments.batch}: a package hears one clip at a time; let 1 come first")
    require_device(recipe)
    return chosen(arguments.llm or "q8_0", get_args(LLMFormat), "llm")


def models_of(arguments: argparse.Namespace, recipe: Recipe) -> list[Measured]:
    """The models that were asked for; what cannot be measured is refused before anything is loaded."""
    which = ("teacher", "student") if arguments.model == "both" else (arguments.model,)
    precisions = [None if name == "none" else name for name in dict.fromkeys(arguments.quantise.split(","))]
    for name in filter(None, precisions):
        require_quantisation(name, pick_device(), DTYPES[recipe.teacher.dtype])
    folder = arguments.checkpoint
    if "student" in which:
        if recipe.student is None:
            raise InputError(f"{arguments.config}: the recipe has no student; --model teacher measures its teacher")
        if folder or not arguments.random_weights:
            folder = student_folder(recipe, folder and folder.resolve())
    elif folder:
        raise InputError("--checkpoint: names a student's folder, but --model teacher measures no student")
    require_inputs(recipe, (), teacher="teacher" in which)
    folders = {of: folder if of == "student" else None for of in which}
    in_torch = [Measured(of, name, folders[of]) for name in precisions for of in which]
    packages = [Measured(of, None, folders[of], llm) for llm in device_llms_of(arguments, recipe) for of in which]
    return (in_torch if "torch" in runtimes_of(arguments) else []) + packages


def main() -> None:
    parser = recipe_parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", choices=("teacher", "student", "both"), default="both")
    parser.add_argument("--checkpoint", type=Path, help="a student's model folder instead of the run's own")
    parser.add_argument("--quantise", default="none", help="LLM in none, int8, int4, bnb_int8, bnb_nf4; commas between")
    parser.add_argument("--runtime", default="torch", help="torch, device (scripts/export.py), or both; commas between")
    parser.add_argument("--llm", help="how the packages' LLM is stored: q8_0, q4_0, q4_k_m, f16; commas between (q8_0)")
    parser.add_argument("--mode", choices=("default", "reference"), default="default")
    parser.add_argument("--seconds", help="lengths of the clips (2,5,10,30)")
    parser.add_argument("--batch", help="batch sizes; all but the first at 10 s only (1,8)")
    parser.add_argument("--tokens", type=int, help="tokens after the first one (64)")
    parser.add_argument("--warmup", type=int, help="runs that do not count (the recipe's)")
    parser.add_argument("--runs", type=int, help="runs that do (the recipe's)")
    parser.add_argument("--out", type=Path, help="the folder that is written to")
    parser.add_argument("--json", action="store_true", help="print what efficiency.json holds")
    arguments = parser.parse_args()
    for name, low in (("tokens", 1), ("warmup", 0), ("runs", 1)):
        if (value := getattr(arguments, name)) is not None and value < low:
            raise InputError(f"--{name} {value}: must be at least {low}")
    recipe = recipe_of(arguments)
    protocol = protocol_of(arguments, recipe)
    with redirect_stdout(sys.stderr if arguments.json else sys.stdout):  # JSON stands alone
        found = measure(recipe, models_of(arguments, recipe), protocol)
    page = efficiency_page(found)
    folder = arguments.out or recipe.results_dir
    stem = "efficiency" if arguments.mode == "default" else f"efficiency_{arguments.mode}"
    for suffix, text in (("json", json.dumps(found, indent=2) + "\n"), ("md", page)):
        with written_whole(folder / f"{stem}.{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8")
    print(json.dumps(found, indent=2) if arguments.json else page + f"\nwritten: {folder}/{stem}.json, .md")


if __name__ == "__main__":
    run_cli(main)
