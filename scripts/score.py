"""Scores texts against references, whoever wrote them: the code that scores teacher and student.

python scripts/score.py --task asr --pairs FILE [--worst N] [--json]
python scripts/score.py --task aac --pairs FILE [--protocol literature|nota-v1.1|nota-v1.0] [--json]
python scripts/score.py --task asr|aac|SET --hypotheses FILE.jsonl --annotation FILE.json [...]

A file of pairs is JSON: {"refs": [...], "hyps": [...]}, in the same order; a caption's references may be a list of
texts. A file of hypotheses has a line {"id": ..., "hypothesis": ...} for each clip, as scripts/evaluate.py writes it;
where it has the texts of several test sets of a kind, --task names one of them (asr_speakers).
"""

import argparse
import json
import sys
from pathlib import Path

# Not scripts/: there evaluate.py would stand before the library of that name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import InputError, run_cli
from data.kinds import FORM, kind_of
from data.rows.manifest_reader import read_manifest
from data.strict_json import loads
from distill.recipe.test_sets import grouped, of_kind
from distill.scoring.captions import PROTOCOLS, caption_metrics
from distill.scoring.hypothesis_file import hypotheses_for
from distill.scoring.transcripts import alignment, score_asr


def read_pairs(path: Path) -> tuple[list, list[str]]:
    """References and hypotheses of a file.

    Raises:
        InputError: The file cannot be read, or is of another form.
    """
    try:
        pairs = loads(path.read_text(encoding="utf-8"))
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
    parser.add_argument(
        "--task", required=True, help="asr: word error rate; aac: caption metrics; or a test set's name"
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--pairs", type=Path, metavar="FILE", help="references and hypotheses")
    source.add_argument("--hypotheses", type=Path, metavar="FILE", help="hypotheses by id; takes --annotation")
    parser.add_argument("--annotation", type=Path, metavar="FILE", help="the test set that --hypotheses are for")
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        help=f"of captions (default {PROTOCOLS[0]}): PTB tokens and all references, or the challenge's, on whitespace "
        "tokens",
    )
    parser.add_argument("--worst", type=int, metavar="N", help="of transcripts: also the N worst, aligned")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    if (arguments.hypotheses is None) != (arguments.annotation is None):
        raise InputError("--hypotheses and --annotation go together: texts by id, and the test set with those ids")
    if (kind := kind_of(arguments.task)) is None:
        raise InputError(f"--task {arguments.task}: give {FORM}")
    other = {"asr": "protocol", "aac": "worst"}[kind]
    if getattr(arguments, other) is not None:
        raise InputError(f"--{other} is not for --task {arguments.task}; leave it out")
    if arguments.worst is not None and arguments.worst < 0:
        raise InputError(f"--worst {arguments.worst}: give a number of clips, 0 or more")
    if arguments.pairs:
        refs, hyps = read_pairs(arguments.pairs)
    else:
        rows = grouped(of_kind(read_manifest(arguments.annotation, sounds=False), kind), kind)
        refs = [row.text if kind == "asr" else list(row.references) or row.text for row in rows]
        hyps = hypotheses_for(arguments.hypotheses, rows, arguments.task)
    if kind == "asr":
        if any(isinstance(ref, list) for ref in refs):
            raise InputError(f"{arguments.pairs}: a clip of speech has one reference, a text")
        score = score_asr(refs, hyps)
        metrics = score.summary()
        worst = [alignment(refs[clip], hyps[clip]) for clip in score.worst(arguments.worst or 0)]
        metrics |= {"worst": worst} if worst else {}
    else:
        references = [ref if isinstance(ref, list) else [ref] for ref in refs]
        metrics = caption_metrics(references, hyps, arguments.protocol or PROTOCOLS[0])
    if arguments.json:
        print(json.dumps(metrics, indent=2))
        return
    missing, worst = metrics.pop("not_computed", {}), metrics.pop("worst", [])
    for name, metric in metrics.items():
        shown = f"not computed; for its parts: {missing[name]}" if name in missing else metric
        print(f"{name:<20} {shown:.4f}" if isinstance(shown, float) else f"{name:<20} {shown}")
    for aligned in worst:
        print(f"\n{aligned}")


if __name__ == "__main__":
    run_cli(main)
