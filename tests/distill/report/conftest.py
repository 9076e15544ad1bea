"""Runs as they lie in their folders, for the tests of reports."""

import copy
import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

TEACHER = {
    "model": "teacher",
    "recipe": "kd_mini",
    "checkpoint": "teacher.safetensors",
    "asr": {
        **{"wer": 0.2, "wer_low": 0.15, "wer_high": 0.26, "errors": 20, "ref_words": 100, "clips": 10, "cer": 0.1},
        "by_duration": {
            "0 to 2 s": {"clips": 6, "errors": 15, "ref_words": 30, "wer": 0.5},
            "over 30 s": {"clips": 4, "errors": 5, "ref_words": 70, "wer": 1 / 14},
        },
        "by_corpus": {"prompts": {"clips": 10, "errors": 20, "ref_words": 100, "wer": 0.2}},
        "worst": [{"id": "0", "errors": 1, "ref_words": 2, "alignment": "REF: press <one>\nHYP: press won"}],
    },
    "aac": {
        **{"cider_d": 4.0, "shuffled_cider_d": 0.1, "meteor": 0.4, "rouge_l": 0.5, "bleu_4": 0.3, "clips": 8},
        **{"spice": None, "spider": None, "not_computed": {"spice": "python -m distill.scoring.caption_parts spice"}},
    },
    "parameters": 160_000_000,
    "parameters_without_embeddings": 130_000_000,
    "encoder_layers": 6,
    "parts": {"encoder": 20, "connector": 9, "llm": 106, "embeddings": 28},
    "weight_bytes": 320_000_000,
    "peak_memory_bytes": 1024 * 2**20,
    "ttft_s": 0.2,
    "tpot_s": 0.03,
    "device": "cpu",
    "dtype": "float32",
    "examples": [
        {"id": "0", "task": "asr", "reference": "press | one", "hypothesis": "press one"},
        {"id": "0", "task": "aac", "reference": ["a dog barks", "barking"], "hypothesis": "a dog"},
        {"id": "1", "task": "aac", "reference": ["rain"], "hypothesis": "heard by the teacher alone"},
    ],
}


def student() -> dict:
    block = copy.deepcopy(TEACHER) | {"model": "student", "parameters": 80_000_000, "ttft_s": 0.1}
    block["asr"]["wer"] = 0.3
    block["examples"].pop()
    return block


def put(folder: Path, metrics: dict) -> None:
    (folder / metrics["model"]).mkdir(parents=True)
    (folder / metrics["model"] / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")


def put_log(folder: Path, scale: float = 3.0) -> None:
    rows = [{"step": i, "stage": "distil", "loss": scale / i, "ce": 2 / i} for i in range(1, 101)]
    (folder / "steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    looks = [{"step": step, "set": "valid_asr", "ce": 2 / step, "wer": 0.5 / step} for step in (50, 100)]
    (folder / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in looks), encoding="utf-8")


def put_grid(folder: Path, wers: dict[str, list[float | None]], cider_d: float | None = None) -> None:
    """A grid's folder as scripts/explore.py leaves it; a run without a WER failed."""
    runs, failed = [], {}
    for arm, amounts in wers.items():
        for seed, wer in enumerate(amounts):
            name = f"{arm}_{seed}"
            runs.append({"arm": arm, "seed": seed, "folder": name})
            if wer is None:
                failed[name] = "no memory"
                continue
            block = student() | {"recipe": f"grid/{name}"}
            block["asr"] = {"wer": wer}
            block["aac"] = {} if cider_d is None else {"cider_d": cider_d + seed}
            put(folder / name, block)
            put_log(folder / name)
    put(folder / "teacher", TEACHER | {"recipe": "grid/teacher"})
    about = {arm: f"`train.stages` = {arm}" for arm in wers}
    state = {"name": "grid", "seeds": [5, 6], "about": about, "runs": runs, "failed": failed, "done": {}}
    (folder / "grid.json").write_text(json.dumps(state))


@pytest.fixture
def pictures():
    """Marks a test whose pictures are rendered."""


@pytest.fixture(autouse=True)
def drawn(request, monkeypatch):
    """Pictures are composed, but rendered only for the tests marked so: a second each."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: Path(path).write_bytes(b"a picture"))


@pytest.fixture
def folder(tmp_path):
    put(tmp_path / "kd_mini", TEACHER)
    put(tmp_path / "kd_mini", student())
    return tmp_path / "kd_mini"
