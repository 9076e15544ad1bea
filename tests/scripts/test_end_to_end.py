"""The real commands on the mini recipe's weights and sounds: a few clips, a few steps."""

import json
import subprocess
from pathlib import Path

import pytest
from matplotlib.image import imread

from data.paths import cache_dir

REPOSITORY = Path(__file__).resolve().parents[2]
SHORT = [
    "data.limit=10",
    "train.stages.0.steps=4",
    "train.stages.0.max_seconds=6",
    "train.validate_clips=2",
    "generation.max_new_tokens=8",
    "evaluation.warmup_runs=1",
    "evaluation.measured_runs=1",
]


@pytest.mark.end_to_end
def test_from_the_cache_to_the_table(tmp_path, environment, free_port):
    where = ["name=short", f"runs={tmp_path}/runs", f"results={tmp_path}/results", f"cache.folder={tmp_path}/cache"]
    settings = ["--config", "configs/kd_mini.json"]
    settings += [word for override in [*where, *SHORT] for word in ("--set", override)]
    environment = {name: value for name, value in environment.items() if name != "OMP_NUM_THREADS"}

    def run(*words):
        done = subprocess.run(
            [*words, *settings], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "teacher cache: 10/10 clips" in run("bash", "scripts/cache_teacher.sh")
    assert (tmp_path / "cache" / "identity.json").is_file()
    assert len([*(tmp_path / "cache").glob("shard-*.parquet")]) == 1

    trained = run("deepspeed", "--master_port", str(free_port + 3), "distill/train.py")
    folder = tmp_path / "runs" / "short"
    assert f"trained model: {folder}/model" in trained
    steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    assert [step["stage"] for step in steps] == ["distil"] * 4
    assert {"ce", "kd", "loss", "grad_norm"} <= set(steps[-1])
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in (folder / "model").iterdir()
    }
    assert (folder / "validation.jsonl").is_file() and (folder / "checkpoints" / "latest").is_file()

    assert "WER" in run("python", "scripts/evaluate.py", "--model", "teacher")
    table = run("python", "scripts/evaluate.py", "--model", "student")
    assert "WER" in table and "CIDEr-D" in table
    results = tmp_path / "results" / "short"
    report = json.loads((results / "report.json").read_text())
    for which in ("teacher", "student"):
        block = report[which]
        assert all(block[name]["wer"] >= 0 for name in ("asr_speakers", "asr_voice", "asr_known"))
        assert block["aac"]["cider_d"] >= 0
        for key in ("parameters", "peak_memory_bytes", "ttft_s", "tpot_s"):
            assert block[key] > 0, (which, key)
        written = (results / which / "hypotheses.jsonl").read_text().splitlines()
        assert len(written) == 40 and all(json.loads(line)["hypothesis"] is not None for line in written)
        assert (results / which / "metrics.json").is_file()
    teacher, student = report["teacher"], report["student"]
    assert student["parameters_without_embeddings"] <= 0.75 * teacher["parameters_without_embeddings"]
    assert "CIDEr-D" in (results / "report.md").read_text()
    assert imread(results / "report.png").std() > 0
    assert (results / "steps.jsonl").read_text() == (folder / "steps.jsonl").read_text()

    card = (folder / "model" / "README.md").read_text()
    assert "CC-BY-SA-3.0" in card and "| WER speakers, % |" in card
    clip = json.loads((cache_dir() / "mini" / "test_asr.json").read_text())["annotation"][0]
    words = ["python", "scripts/transcribe.py", cache_dir() / "mini" / clip["path"], "--format", "json"]
    words += ["--model", folder / "model"]
    heard = subprocess.run(words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600)
    assert heard.returncode == 0, heard.stderr
    written = json.loads(heard.stdout)
    assert written["seconds"] == pytest.approx(clip["duration"], abs=0.01) and written["flags"] != ["silence"]
    (segment,) = written["segments"]
    assert 0 <= segment["start_s"] < segment["end_s"] <= written["seconds"] and "transcribe: " in heard.stderr
