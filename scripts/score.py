"""Scores texts against references, whoever wrote them: the code that scores teacher and student.

python scripts/score.py --task asr|aac --pairs FILE [--protocol literature|nota-v1.0] [--json]

FILE is JSON: {"refs": [...], "hyps": [...]}, in the same order; a caption's references may be a list of texts.
"""

import argparse
import json
import sys
from pathlib import Path

# Not scripts/: there evaluate.py would stand before the library of that name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import InputError, run_cli
from distill.scoring import cider_d_split, score_asr, score_captions


def read_pairs(path: Path) -> tuple[list, list[str]]:
    """References and hypotheses of a file.

    Raises:
        InputError: The file cannot be read, or is of another form.
    """
    try:
        pairs = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from error
    refs, hyps = (pairs.get(key) if isinstance(pairs, dict) else None for key in ("refs", "hyps"))
    if not isinstance(refs, list) or not isinstance(hyps, list):
        raise InputError(f'{path}: must be {{"refs": [...], "hyps": [...]}}')
    for row, (ref, hyp) in enumerate(zip(refs, hyps, strict=False)):
        texts = ref if isinstance(ref, list) else [ref]
        if not isinstance(hyp, str) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{path}: row {row}: a hypothesis is a text, a reference a text or a list of texts")
    return refs, hyps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("asr", "aac"), required=True, help="word error rate, or caption metrics")
    parser.add_argument("--pairs", type=Path, required=True, metavar="FILE", help="references and hypotheses")
    parser.add_argument(
        "--protocol",
        choices=("literature", "nota-v1.0"),
        default="literature",
        help="of captions: PTB tokens and all references, or CIDEr-D on whitespace tokens",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    refs, hyps = read_pairs(arguments.pairs)
    if arguments.task == "asr":
        if any(isinstance(ref, list) for ref in refs):
            raise InputError(f"{arguments.pairs}: a clip of speech has one reference, a text")
        figures = score_asr(refs, hyps).summary()
    else:
        captions = [ref if isinstance(ref, list) else [ref] for ref in refs]
        if arguments.protocol == "literature":
            figures = score_captions(captions, hyps).summary()
        else:
            figures = {"cider_d_split": cider_d_split(captions, hyps), "clips": len(hyps)}
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    for name, figure in figures.items():
        print(f"{name:<20} {figure:.4f}" if isinstance(figure, float) else f"{name:<20} {figure}")


if __name__ == "__main__":
    run_cli(main)
