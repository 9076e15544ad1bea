"""Scores one model of a recipe on held-out sets: hypotheses, WER, caption scores, sizes, times; or a submission."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from data.hashing import hash_of
from data.kinds import KINDS, kind_of, named, set_of
from data.paths import remove_leftovers, written_whole
from data.prompts import instruction
from data.ranks import launched_rank, launched_world
from data.rows.row import Row
from distill.efficiency.measuring import Measured
from distill.efficiency.memory import empty_cache
from distill.models.card import add_scores
from distill.models.loading import checkpoint_shown, load_for_scoring, student_folder, weights_identity
from distill.models.packages import device_package, package_identity
from distill.recipe.recipe import Recipe
from distill.recipe.test_sets import Selection, clip_of
from distill.scoring.alone import scored_alone
from distill.scoring.captions import score_captions
from distill.scoring.hypothesis_writer import HypothesisWriter
from distill.scoring.sources import InTorch, OnDevice, Source
from distill.scoring.speeds import measure_or_say
from distill.scoring.submission import submission_ids, write_submission
from distill.scoring.transcripts import alignment, score_asr
from distill.scoring.writing import faults_of_files, require_readable, write_set
from student.device.llm_gguf import LLMFormat
from teacher.device import pick_device

EXAMPLES = 6
WORST = 10
_NAMED = 3


@dataclass(frozen=True)
class Written:
    """What a model wrote for the rows of a test set that are scored.

    Attributes:
        rows: The rows.
        texts: In their order.
        unreadable: Why clips could not be heard, by id; their texts are empty.
    """

    rows: list[Row]
    texts: list[str]
    unreadable: dict[str, str]


def evaluate(
    recipe: Recipe,
    which: str,
    folder: Path | None = None,
    selection: Selection | None = None,
    quantise: str | None = None,
    device_llm: LLMFormat | None = None,
) -> dict | None:
    """Scores a model and writes `hypotheses.jsonl` and `metrics.json` into its folder of the results.

    A quantised model has a folder of its own, such as `student_int8`, and so has a device package:
    `student_device_q8_0`.

    Hypotheses are written as they come; a restart does only what is missing, as long as the model, the data and the
    way of writing are the same. Under a launcher every process does its share. A text is the same whatever is missing,
    is limited or is shared (see `distill.scoring.writing`). A clip that cannot be heard counts as an empty text, and is
    told. Scores of a set that is not selected stay in metrics.json, if they are of the same model. Those of whole test
    sets are also told on the card in the model's folder. Memory and times follow once scores are written; where they
    cannot be measured, an error says so.

    Args:
        recipe: The recipe.
        which: "teacher" or "student".
        folder: A model folder to score instead of the run's own.
        selection: What is scored; all test sets if not given.
        quantise: Of its LLM (see `teacher.quantise`), or None.
        device_llm: How the LLM of its device package is stored, which then is scored; None: it runs in PyTorch.

    Returns:
        What metrics.json holds; None in the processes that only helped.

    Raises:
        InputError: Weights or a checkpoint are missing, too many clips cannot be heard, or another command is scoring
            the model.
    """
    selection = selection or Selection()
    every = replace(selection, limit=None).rows(recipe)
    what = Measured(which, quantise, folder, device_llm)
    with scored_alone(place := results_folder(recipe, selection) / what.name):
        return _evaluated(recipe, what, selection, every, place)


def _evaluated(
    recipe: Recipe, what: Measured, selection: Selection, every: dict[str, list[Row]], place: Path
) -> dict | None:
    found, about, source = _written(recipe, what, selection, every)
    if found is None:
        return None
    for folder in filter(None, (place, about["folder"])):
        remove_leftovers(folder)
    metrics = _scored(found, _kept(place / "metrics.json", about), replace(selection, names=KINDS).sets(recipe))
    metrics |= source.sizes()
    del source
    empty_cache()  # for the processes that measure beside this one
    with written_whole(place.parent / "recipe.json") as path:
        path.write_text(recipe.model_dump_json(indent=2) + "\n")
    is_whole = what.name == what.which and selection.split == "test" and selection.limit is None
    card_folder = about["folder"] if is_whole else None
    _tell(metrics, place, card_folder)  # what was scored stays, whatever becomes of the measurement
    if measured := measure_or_say(recipe, place.parent, replace(what, folder=about["folder"])):
        _tell(metrics := metrics | measured, place, card_folder)
    return metrics


def _tell(metrics: dict, place: Path, card_folder: Path | None) -> None:
    """Writes metrics.json, and the scores on the card of a model's folder, where there is one."""
    with written_whole(place / "metrics.json") as path:
        path.write_text(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if card_folder:
        add_scores(card_folder, metrics)


def submit(
    recipe: Recipe,
    which: str,
    folder: Path | None,
    selection: Selection,
    quantise: str | None = None,
    device_llm: LLMFormat | None = None,
) -> list[Path] | None:
    """Writes `submission_<set>.csv` for each board, beside the hypotheses that it is made of.

    A clip's text is written once, as for scoring, and stands in each of its rows.

    Returns:
        The files; None in the processes that only helped.

    Raises:
        InputError: As `evaluate`, or a row's testset_id is missing or of another form.
    """
    whole = replace(selection, limit=None)
    lines = whole.lines(recipe)
    ids = {name: submission_ids(rows, f"the {name} test set") for name, rows in lines.items()}  # before the work
    every = whole.clips(lines)
    what = Measured(which, quantise, folder, device_llm)
    with scored_alone(place := results_folder(recipe, selection) / what.name):
        found, *_ = _written(recipe, what, selection, every)
    if found is None:
        return None
    files = []
    for name, written in found.items():
        _report_unreadable(name, written)
        files.append(place / f"submission_{name}.csv")
        texts = {clip_of(row, kind_of(name)): text for row, text in zip(written.rows, written.texts, strict=True)}
        listed = {row_id: clip_of(row, kind_of(name)) for row_id, row in zip(ids[name], lines[name], strict=True)}
        told = {row_id: texts[clip] for row_id, clip in listed.items() if clip in texts}
        write_submission(files[-1], list(told), list(told.values()))
    return files


def results_folder(recipe: Recipe, selection: Selection) -> Path:
    """Where results go: other splits than the test sets have a folder of their own below the run's."""
    return recipe.results_dir if selection.split == "test" else recipe.results_dir / selection.split


def _scored(found: dict[str, Written], kept: dict, order: Iterable[str]) -> dict:
    """The first part of metrics.json: what is kept with the blocks and examples of what is scored now, in order."""
    order = list(order)
    blocks = {name: kept[name] for name in order if name in kept}
    examples = [entry for entry in kept["examples"] if set_of(entry) in order and set_of(entry) not in found]
    for name, written in found.items():
        blocks[name] = _score(name, written.rows, written.texts) | _report_unreadable(name, written)
        pairs = list(zip(written.rows, written.texts, strict=True))
        examples += [
            {**named(name), "id": row.id, "task": row.task, "reference": row.text, "hypothesis": text}
            | {"sound": str(row.path), "start_s": row.start_s, "end_s": row.end_s}
            for row, text in pairs[:: max(len(pairs) // EXAMPLES, 1)][:EXAMPLES]
        ]
    examples.sort(key=lambda entry: order.index(set_of(entry)))
    about = {key: entry for key, entry in kept.items() if kind_of(key) is None}
    return about | {"examples": examples} | {name: blocks[name] for name in order if name in blocks}


def _score(name: str, rows: list[Row], texts: list[str]) -> dict:
    """The block of one test set in metrics.json; `data` is a hash of what was scored against."""
    about = {"kind": kind_of(name)}
    data = {"data": hash_of([[row.id, row.text, row.references] for row in rows])[:16]}
    if kind_of(name) == "aac":
        score = score_captions([list(row.references) or [row.text] for row in rows], texts)
        return about | score.summary() | data | {"corpora": sorted({row.corpus for row in rows})}
    score = score_asr([row.text for row in rows], texts)
    return (
        about
        | score.summary()
        | data
        | {
            "by_duration": score.by_duration([row.duration_s for row in rows]),
            "by_corpus": score.by([row.corpus or "unnamed" for row in rows]),
            "worst": [
                {"id": rows[i].id, "errors": score.clip_errors[i], "ref_words": score.clip_words[i]}
                | {"alignment": alignment(rows[i].text, texts[i])}
                for i in score.worst(WORST)
            ],
        }
    )


def _kept(path: Path, about: dict) -> dict:
    """The start of metrics.json: what is scored, and what an earlier run has scored of the very same."""
    shown = {name: entry for name, entry in about.items() if name != "folder"} | {"examples": []}
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return shown
    if not isinstance(earlier, dict) or earlier.get("identity") != about["identity"]:
        return shown
    return shown | {key: entry for key, entry in earlier.items() if key == "examples" or kind_of(key)}


def _report_unreadable(name: str, written: Written) -> dict:
    """Says which clips count as empty texts because they could not be heard; what metrics.json has of them."""
    lost = written.unreadable
    if lost:
        names = ", ".join(list(lost)[:_NAMED]) + (", ..." if len(lost) > _NAMED else "")
        print(
            f"{name}: {len(lost)} of {len(written.rows)} clips cannot be heard and count as empty texts: {names} "
            f"({next(iter(lost.values()))})",
            flush=True,
        )
    return {"unreadable": {"clips": len(lost), "ids": list(lost)}}


def _written(
    recipe: Recipe, what: Measured, selection: Selection, every: dict[str, list[Row]]
) -> tuple[dict[str, Written] | None, dict, Source]:
    """The hypotheses of the rows (None but in the first process), about what wrote them, and that itself."""
    limit, most = selection.limit, recipe.evaluation.max_unreadable
    # All that can be known is asked before the model is loaded.
    pairs = {
        name: [(row, instruction(recipe.data.prompts, row.task, question=row.question)) for row in rows]
        for name, rows in every.items()
    }
    for name, rows in every.items():
        require_readable(name, faults_of_files(rows[:limit]), len(rows[:limit]), most)
    about = _about(recipe, what, selection)
    if what.device_llm:
        package = device_package(recipe, what.which, about["folder"], what.device_llm)
        source = OnDevice(package, recipe.generation)
    else:
        source = InTorch(*load_for_scoring(recipe, what.which, about["folder"], what.quantise), recipe.generation)
    rank, world = launched_rank(), launched_world()
    path = results_folder(recipe, selection) / what.name / "hypotheses.jsonl"
    ids = {name: [row.id for row in rows] for name, rows in every.items()}
    with HypothesisWriter(path, about["identity"], ids, rank, world, torch.distributed.barrier) as writer:
        how = {"limit": limit, "max_unreadable": most, "rank": rank, "world": world}
        how |= {"max_seconds": recipe.evaluation.max_seconds}
        for name, of in pairs.items():
            write_set(source, writer, name, of, **how, label=f"{what.name}, {name}")
    if rank > 0:
        return None, about, source
    found = {
        name: Written(rows[:limit], writer.texts(name, rows[:limit]), writer.faults(name, rows[:limit]))
        for name, rows in every.items()
    }
    for name, written in found.items():
        require_readable(name, written.unreadable, len(written.rows), most)
    return found, about, source


def _about(recipe: Recipe, what: Measured, selection: Selection) -> dict:
    """What is scored, as it stands in metrics.json, and the model's folder; the identity is that of its texts."""
    # A recipe without a student trains the teacher itself, and that is what is scored.
    folder = what.folder
    if what.which == "student" or folder or recipe.student is None:
        folder = student_folder(recipe, folder)
    weights = weights_identity(recipe, folder)
    precision = recipe.teacher.dtype if folder else recipe.teacher.precision_shown()
    package = what.device_llm and package_identity(recipe, folder, what.device_llm)
    # The last bits of a number are the device's.
    writing = [
        pick_device().type,
        recipe.teacher.dtype,
        recipe.generation.model_dump(exclude={"max_seconds"}),
        recipe.data.prompts,
    ]
    return {
        "model": what.name,
        "recipe": recipe.name,
        "split": selection.split,
        "checkpoint": checkpoint_shown(recipe, folder),
        "dtype": what.dtype_shown(precision),
        "identity": hash_of([weights, writing, recipe.data.mono, *filter(None, [what.quantise, package])])[:16],
        "folder": folder,
    }
