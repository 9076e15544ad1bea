import copy
import json
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib.image import imread
from rich.console import Console

from data.errors import InputError
from distill.report import print_table, ratios, read_steps, read_validation, write_report
from distill.report.ablation import ablation_page, read_arms
from distill.report.table import markdown, value

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "report.py"

TEACHER = {
    "model": "teacher",
    "recipe": "kd_mini",
    "checkpoint": "teacher.safetensors",
    "asr": {"wer": 0.2, "wer_low": 0.15, "wer_high": 0.26, "errors": 20, "ref_words": 100, "clips": 10},
    "aac": {"cider_d": 4.0, "shuffled_cider_d": 0.1, "meteor": 0.4, "rouge_l": 0.5, "bleu_4": 0.3, "clips": 8},
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


def printed(report: dict) -> str:
    console = Console(file=StringIO(), width=80)
    print_table(report, console)
    return console.file.getvalue()


@pytest.fixture
def folder(tmp_path):
    put(tmp_path / "kd_mini", TEACHER)
    put(tmp_path / "kd_mini", student())
    return tmp_path / "kd_mini"


def test_both_models_and_their_ratios_stand_in_all_forms(folder):
    report = write_report(folder)
    assert report == json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert set(report) == {"teacher", "student", "ratio", "notes"}
    assert report["student"]["asr"]["wer"] == 0.3 and "examples" not in report["student"]
    assert report["ratio"]["asr"]["wer"] == pytest.approx(1.5)
    assert report["ratio"]["parameters"] == report["ratio"]["ttft_s"] == 0.5
    page, screen = (folder / "report.md").read_text(encoding="utf-8"), printed(report)
    for text in ("20.0 (15.0 to 26.0)", "4.00 (0.10)", "1,024.0", "160.0", "200.0", "0.50 x", "1.50 x"):
        assert text in page and text in screen
    assert "…" not in screen
    assert "| asr | press \\| one | press one | press one |" in page
    assert "heard by the teacher alone" not in page
    assert "Learning curve" not in page and str(folder) not in page
    assert list(folder.glob(".*")) == []


def test_one_model_alone_is_shown_as_far_as_it_goes(tmp_path):
    block = student()
    del block["aac"], block["asr"]["wer_low"]
    put(tmp_path, block)
    report = write_report(tmp_path)
    assert report["ratio"] == {} and "teacher" not in report
    assert "30.0 " in printed(report) and "–" in printed(report)
    assert (tmp_path / "report.png").is_file()


def test_the_learning_curve_adds_a_row_to_the_picture_and_a_table_to_the_page(folder):
    write_report(folder)
    height = imread(folder / "report.png").shape[0]
    rows = [{"step": i, "loss": 3 / i, "ce": 2 / i} for i in range(1, 101)]
    (folder / "steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "recipe.json").write_text("{}", encoding="utf-8")
    write_report(folder)
    page = (folder / "report.md").read_text(encoding="utf-8")
    assert "| step | loss | ce |" in page and "| 100 | 0.030 | 0.020 |" in page
    assert "`recipe.json`" in page
    assert imread(folder / "report.png").shape[0] > height


def test_an_interrupted_log_counts_the_later_row_and_not_half_a_line(tmp_path):
    path = tmp_path / "steps.jsonl"
    path.write_text('{"step": 1, "loss": 5}\n{"step": 2, "loss": 4}\n{"step": 1, "loss": 3}\n{"st', encoding="utf-8")
    assert read_steps(path) == [{"step": 1, "loss": 3}, {"step": 2, "loss": 4}]
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n', encoding="utf-8")
    with pytest.raises(InputError, match="line 2"):
        read_steps(path)


def test_what_was_not_alike_is_noted(tmp_path):
    other = student() | {"device": "cuda"}
    other["asr"]["clips"] = 3
    put(tmp_path, TEACHER)
    put(tmp_path, other)
    report = write_report(tmp_path)
    assert "the teacher was scored on 10 speech clips, the student on 3" in report["notes"]
    assert "cuda for the student" in printed(report)
    assert "Note: device" in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[]", "not a JSON object")])
def test_a_broken_metrics_file_is_named_and_nothing_is_written(folder, text, message):
    (folder / "student" / "metrics.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        write_report(folder)
    assert not list(folder.glob("report.*"))


numbers = st.one_of(st.integers(-1000, 1000), st.floats(-1e3, 1e3))
blocks = st.dictionaries(
    st.sampled_from("abcd"), st.one_of(numbers, st.text(max_size=2), st.dictionaries(st.sampled_from("xy"), numbers))
)


@given(blocks, blocks)
@example({"a": 1e-308}, {"a": 2})
def test_a_ratio_times_the_teacher_is_the_student(teacher, student):
    for name, ratio in ratios(teacher, student).items():
        pairs = {f"{name}.{part}": r for part, r in ratio.items()} if isinstance(ratio, dict) else {name: ratio}
        for key, r in pairs.items():
            assert r * value(teacher, key) == pytest.approx(value(student, key), rel=1e-9, abs=1e-300)


def test_a_cell_cannot_break_a_markdown_table():
    assert markdown(("a",), [("x | y\nz",)]).splitlines()[-1] == "| x \\| y z |"


def run(wer: float, cider_d: float | None) -> dict:
    return {"asr": {"wer": wer}, "aac": {} if cider_d is None else {"cider_d": cider_d}}


def test_an_ablation_shows_mean_spread_and_difference_paired_by_seed():
    page = ablation_page({"ce": [run(0.4, 1.0), run(0.5, 2.0)], "ce_kd": [run(0.3, 2.0), run(0.4, 3.0)]})
    assert "| ce | 45.0 ± 7.1 | – | 1.500 ± 0.707 | – |" in page
    assert "| ce_kd | 35.0 ± 7.1 | -10.0 ± 0.0 | 2.500 ± 0.707 | +1.000 ± 0.000 |" in page
    assert "| ce_kd | WER, % | 30.0 | 40.0 |" in page


def test_an_ablation_of_one_seed_has_no_spread_and_a_missing_figure_no_mean():
    page = ablation_page({"ce": [run(0.4, None)], "ce_kd": [run(0.3, 2.0)]})
    assert "| ce | 40.0 | – | – | – |" in page
    assert "| ce_kd | 30.0 | -10.0 | 2.000 | – |" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ce"], "write ARM=FOLDER"),
        (["ce={0}", "ce={0}"], "given twice"),
        (["ce={0}", "kd={0},{0}"], "the same seeds"),
        (["ce={0}/none"], "none/student/metrics.json: not there"),
    ],
)
def test_bad_ablation_arguments(folder, arguments, message):
    with pytest.raises(InputError, match=message):
        read_arms([argument.format(folder) for argument in arguments])


def test_the_script_reports_a_folder_and_an_ablation(folder):
    def call(*arguments: object) -> subprocess.CompletedProcess:
        command = [sys.executable, str(SCRIPT), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    told = call(folder)
    assert told.returncode == 0 and "CIDEr-D" in told.stdout
    out = folder / "ablation.md"
    assert call("--ablation", f"ce={folder}/teacher", f"kd={folder}", "--out", out).returncode == 0
    assert "| kd | 30.0 | +10.0 |" in out.read_text(encoding="utf-8")
    told = call(folder / "none")
    assert told.returncode == 2 and told.stderr.startswith("error: ") and told.stderr.count("\n") == 1


def test_curves_that_should_be_one(tmp_path, command):
    for name, losses in {"a": [2.0, 1.0], "b": [2.0, 1.001], "short": [2.0]}.items():
        (tmp_path / name).mkdir()
        lines = [json.dumps({"step": i, "loss": loss}) for i, loss in enumerate(losses)]
        (tmp_path / name / "steps.jsonl").write_text("\n".join(lines) + "\n")
    curves = [f"one={tmp_path}/a", f"two={tmp_path}/b"]
    status, out, _ = command("scripts/report.py", "--curves", *curves, "--out", tmp_path / "curves.md")
    assert status == 0 and "difference to `one` is 1.0e-03" in out
    assert "| 1 | 1.0000000 | 1.0010000 |" in (tmp_path / "curves.md").read_text()
    for bad, message in (
        ("two", "write NAME=RUN_FOLDER"),
        ("x=/no", "train the run first"),
        (f"x={tmp_path}/short", "the same steps"),
    ):
        status, _, err = command("scripts/report.py", "--curves", curves[0], bad, "--out", tmp_path / "no.md")
        assert status == 2 and message in err
    assert not (tmp_path / "no.md").exists()


def test_validation_is_drawn_and_stands_in_the_ablation(folder):
    rows = [{"step": step, "set": "valid_asr", "ce": 2 / step, "wer": 0.5 / step} for step in (1, 2)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "validation.jsonl").write_text(lines, encoding="utf-8")
    (folder / "steps.jsonl").write_text('{"step": 1, "loss": 3}\n{"step": 2, "loss": 2}\n', encoding="utf-8")
    write_report(folder)
    assert read_validation(folder / "validation.jsonl") == rows
    stage = {"losses": {"ce": 0.2, "kd": 0.8, "ctc": 0}, "steps": 7}
    recipe = {"seed": 5, "data": {"train": "x/rows.json"}, "student": None, "train": {"stages": [stage]}}
    (folder / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    page = ablation_page(read_arms([f"ce={folder}", f"kd={folder}"]))
    assert "`kd`: 0.2 ce + 0.8 kd; 7 steps on `rows.json`." in page and "| seed 5 |" in page
    assert "cross-entropy, valid_asr" in page and "| kd | cross-entropy, valid_asr | 1.000 |" in page
    (folder / "validation.jsonl").write_text(lines + "{", encoding="utf-8")  # a run that was killed
    assert read_validation(folder / "validation.jsonl") == rows
    (folder / "validation.jsonl").write_text(lines + "{}\n{", encoding="utf-8")
    with pytest.raises(InputError, match=r"validation.jsonl, line 3: not a JSON object with a step and a set"):
        write_report(folder)
