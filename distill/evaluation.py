"""Scores one model of a recipe on the held-out sets: hypotheses, WER, CIDEr-D, sizes, times."""

import json
from dataclasses import asdict
from pathlib import Path

from data.cache import hash_of
from data.manifest import Row
from data.paths import REPOSITORY, resolve, written_whole
from data.prompts import instruction
from distill.captions import score_captions
from distill.efficiency import measure_apart
from distill.examples import read_rows
from distill.models import load_for_scoring, parameter_counts, student_folder
from distill.recipe import Recipe
from distill.scoring import score_asr
from teacher.build import weights_hash
from teacher.hypotheses import write_hypotheses
from teacher.weights import folder_hash

EXAMPLES = 6


def evaluate(recipe: Recipe, which: str, folder: Path | None = None) -> dict:
    """Scores a model and writes `results/<recipe>/<which>/{hypotheses.jsonl,metrics.json}`.

    Hypotheses are written as they come; a restart does only what is missing, as long as the model, the data and the
    way of writing are the same.

    Args:
        recipe: The recipe.
        which: "teacher" or "student".
        folder: A model folder to score instead of the run's own.

    Returns:
        What metrics.json holds.

    Raises:
        InputError: Weights, a checkpoint or sound files are missing.
    """
    results = recipe.results_dir / which
    tests = {kind: read_rows(recipe, path) for kind, path in recipe.data.test.items()}
    # A recipe without a student trains the teacher itself, and that is what is scored.
    if which == "student" or folder or recipe.student is None:
        folder = student_folder(recipe, folder)
    identity = _identity(recipe, tests, folder)
    model, processor = load_for_scoring(recipe, which, folder)
    written = _hypotheses(recipe, model, processor, tests, results / "hypotheses.jsonl", identity, which)

    metrics: dict = {
        "model": which,
        "recipe": recipe.name,
        "checkpoint": _shown(recipe, folder),
        "data": hash_of([[row.id, row.text, row.references] for kind in tests.values() for row in kind])[:16],
    }
    for kind, rows in tests.items():
        texts = [written[f"{kind}/{row.id}"] for row in rows]
        references = [list(row.references) or [row.text] for row in rows]
        if kind == "asr":
            metrics["asr"] = score_asr([row.text for row in rows], texts).summary()
        else:
            metrics["aac"] = score_captions(references, texts).summary()
        metrics.setdefault("examples", []).extend(
            {"id": row.id, "task": row.task, "reference": row.text, "hypothesis": text}
            for row, text in list(zip(rows, texts, strict=True))[:: max(len(rows) // EXAMPLES, 1)][:EXAMPLES]
        )
    parts = parameter_counts(model)
    metrics |= {
        "parameters": sum(parts.values()),
        "parameters_without_embeddings": sum(parts.values()) - parts["embeddings"],
        "encoder_layers": len(model.encoder.layers),
        "llm_layers": model.config.llm_config.num_hidden_layers,
        "parts": parts,
        "weight_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
        "device": model.device.type,
        "dtype": recipe.teacher.dtype if folder else recipe.teacher.precision_shown(),
    }
    del model
    with written_whole(recipe.results_dir / "recipe.json") as path:
        path.write_text(recipe.model_dump_json(indent=2) + "\n")
    print("measuring memory and speed in a process of its own", flush=True)
    metrics |= asdict(measure_apart(recipe.results_dir / "recipe.json", which, folder))
    with written_whole(results / "metrics.json") as path:
        path.write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics


def _shown(recipe: Recipe, folder: Path | None) -> str:
    """The checkpoint as a reader elsewhere can make sense of it."""
    weights = None if recipe.teacher.random_weights else recipe.teacher.weights
    path = folder or (resolve(weights) if weights else Path("untrained"))
    return str(path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path)


def _identity(recipe: Recipe, tests: dict[str, list[Row]], folder: Path | None) -> str:
    """A hash of what decides the hypotheses: the model, its precision, the rows, the prompts, the way of writing."""
    rows = [[row.id, row.path.name, row.task, row.text, row.duration_s] for kind in tests.values() for row in kind]
    weights = folder_hash(folder) if folder else weights_hash(recipe.teacher)
    written = [recipe.teacher.dtype, recipe.generation.model_dump(exclude={"max_seconds"}), recipe.data.prompts]
    return hash_of([weights, written, rows])[:16]


def _hypotheses(
    recipe: Recipe, model, processor, tests: dict[str, list[Row]], path: Path, identity: str, which: str
) -> dict[str, str]:
    """All hypotheses by `kind/id`, those of an earlier run of the same identity taken over."""
    written: dict[str, str] = {}
    kept: list[str] = []
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.endswith("}") and (entry := json.loads(line)).get("identity") == identity:
                written[f"{entry['kind']}/{entry['id']}"] = entry["hypothesis"]
                kept.append(line)
    # Without what another model wrote, and the line that a killed run may have left half-written.
    with written_whole(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in kept))
    with path.open("a") as file:
        for kind, rows in tests.items():
            todo = [row for row in rows if f"{kind}/{row.id}" not in written]
            pairs = [(row, instruction(recipe.data.prompts, row.task)) for row in todo]
            for out in write_hypotheses(model, processor, pairs, recipe.generation, label=f"{which}, {kind}"):
                entry = {
                    "id": out.row.id,
                    "kind": kind,
                    "task": out.row.task,
                    "reference": out.row.text,
                    "hypothesis": out.text,
                    "logp": round(out.logp, 4),
                    "seconds": round(out.seconds, 4),
                    "identity": identity,
                }
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
                file.flush()
                written[f"{kind}/{out.row.id}"] = out.text
    return written
