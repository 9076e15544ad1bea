import json
import re
import shutil
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib.image import imread
from rich.console import Console

from data.errors import InputError
from distill.report import print_table, write_report
from distill.report.blocks import Table
from distill.report.curves import largest_difference, read_curves
from distill.report.leaderboard import entries, rank_sums, ratios
from distill.report.plots import _legend_height, _styles
from distill.report.published import same_speech
from distill.report.runs import read_run, read_steps, read_validation
from distill.report.table import markdown, value
from tests.distill.report.conftest import TEACHER, put, put_grid, put_log, student


def printed(folder: Path) -> str:
    console = Console(file=StringIO(), width=80)
    print_table([read_run(folder)], console)
    return console.file.getvalue()


def test_one_run_stands_in_all_forms(folder, pictures):
    write_report([folder])
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert set(report) == {"teacher", "student", "ratio", "notes"}
    assert report["student"]["asr"]["wer"] == 0.3
    assert report["ratio"]["asr"]["wer"] == pytest.approx(1.5)
    assert report["ratio"]["parameters"] == report["ratio"]["ttft_s"] == 0.5
    page, screen = (folder / "report.md").read_text(encoding="utf-8"), printed(folder)
    for text in ("20.0", "4.00", "1,024.0", "320.0", "200.0", "(0.50 x)", "(1.50 x)"):
        assert text in page and text in screen
    assert "…" not in screen and max(map(len, screen.splitlines())) <= 80
    for text in ("15.0 to 26.0", "| asr | press \\| one | press one | press one |", "160.0", "REF: press <one>"):
        assert text in page
    assert "- spice: not computed; for its parts: `python -m distill.scoring.caption_parts spice`" in page
    assert "| 0 to 2 s | 6 | 30 | 50.0 | 50.0 |" in page and imread(folder / "durations.png").std() > 0
    assert "heard by the teacher alone" not in page
    assert "Learning curve" not in page and str(folder) not in page
    assert list(folder.glob(".*")) == []


def test_the_html_needs_no_other_file(folder, tiny_data):
    block = student()
    for row in TEACHER["examples"], block["examples"]:
        row[0] = row[0] | {"sound": str(tiny_data / "sounds" / "test_asr_0.wav"), "end_s": 0.5}
    try:
        put(folder.parent / "other", TEACHER)
        put(folder.parent / "other", block)
    finally:
        TEACHER["examples"][0] = {key: TEACHER["examples"][0][key] for key in ("id", "task", "reference", "hypothesis")}
    write_report([folder.parent / "other"])
    html = (folder.parent / "other" / "report.html").read_text(encoding="utf-8")
    assert html.count("<audio") == 1 and html.count("data:image/png;base64,") == 2
    assert not [link for link in re.findall(r'(?:src|href)="([^"]*)"', html) if not link.startswith("data:")]
    assert "REF: press &lt;one&gt;" in html and "<script" not in html
    assert str(tiny_data) not in html + (folder.parent / "other" / "report.json").read_text(encoding="utf-8")


def test_one_model_alone_is_shown_as_far_as_it_goes(tmp_path):
    block = student()
    del block["aac"], block["asr"]["wer_low"], block["asr"]["by_duration"]
    put(tmp_path, block)
    write_report([tmp_path])
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["ratio"] == {} and "teacher" not in report
    assert "30.0 " in printed(tmp_path) and "–" in printed(tmp_path)
    assert (tmp_path / "report.png").is_file()


def test_what_was_measured_and_not_scored_has_no_plot_of_accuracy(tmp_path):
    block = {"parameters": 1, "weight_bytes": 2, "peak_memory_bytes": 3, "ttft_s": 1.0, "tpot_s": 1.0, "device": "cpu"}
    (tmp_path / "efficiency.json").write_text(json.dumps({"teacher": block, "student": block | {"ttft_s": 0.5}}))
    write_report([tmp_path])
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "500.0 (0.50 x)" in page and "Accuracy against memory" not in page
    assert not (tmp_path / "report.png").exists()


def test_what_was_scored_and_not_measured_has_no_plot_of_accuracy_either(tmp_path):
    block = {key: what for key, what in student().items() if key not in ("peak_memory_bytes", "ttft_s", "tpot_s")}
    put(tmp_path, block)
    write_report([tmp_path])
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "## Speech" in page and "Accuracy against memory" not in page
    assert not (tmp_path / "report.png").exists()


def test_the_learning_curve_of_one_run_and_of_several(folder):
    put_log(folder)
    (folder / "recipe.json").write_text("{}", encoding="utf-8")
    write_report([folder])
    page = (folder / "report.md").read_text(encoding="utf-8")
    assert "| step | loss | ce |" in page and "| 100 | 0.030 | 0.020 |" in page
    assert "losses.png" in page


def test_a_report_is_made_again_from_its_json_alone(folder):
    write_report([folder])
    page = (folder / "report.md").read_text(encoding="utf-8")
    for model in ("teacher", "student"):
        shutil.rmtree(folder / model)
    write_report([folder])
    again = (folder / "report.md").read_text(encoding="utf-8")
    assert again == page and "## Examples" in again


def test_runs_of_one_teacher_share_its_line_and_quantised_models_have_their_own(folder, tmp_path, pictures):
    other = student() | {"recipe": "kd_other", "peak_memory_bytes": 512 * 2**20, "dtype": "int8"}
    put(tmp_path / "b", TEACHER | {"recipe": "kd_other", "ttft_s": 0.4})  # the same one, measured on another day
    put(tmp_path / "b", other | {"model": "student_int8"})
    measured = {"cells": [], "parameters": 1, "weight_bytes": 10**6, "peak_memory_bytes": 2**20, "tpot_s": 0.5}
    efficiency = {"recipe": "b", "protocol": {"name": "default"}, "student_int4": measured, "ratios": {}}
    (tmp_path / "b" / "efficiency.json").write_text(json.dumps(efficiency))
    put_log(folder)
    put_log(tmp_path / "b", 5.0)
    out = tmp_path / "page"
    runs = write_report([folder, tmp_path / "b"], out)
    labels = ["teacher", "kd_mini", "kd_other int4", "kd_other int8"]
    assert [entry.label for entry in entries(runs)] == labels
    page = (out / "report.md").read_text(encoding="utf-8")
    assert "| kd_other int4 | – | – | 1.0 (0.00 x) | 1.0 | – | 500.0 | – |" in page
    assert "| kd_other int8 | 30.0 (1.50 x) |" in page
    assert "100.0 (0.50 x)" in page and "100.0 (0.25 x)" in page  # each to the teacher of its own run
    assert "Note: dtype: float32 for the teacher, int8 for the kd_other int8." in page
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert set(report["runs"]) == {"kd_mini", "kd_other"}
    assert imread(out / "losses.png").std() > 0
    with pytest.raises(InputError, match="two of the runs are named kd_mini"):
        write_report([folder, folder], out)
    with pytest.raises(InputError, match="say where it goes with --out"):
        write_report([folder, tmp_path / "b"])


def test_the_ranking_is_the_weighted_sum_of_ranks():
    def block(wer, cider_d, memory, ttft, tpot, **more):
        figures = {"peak_memory_bytes": memory, "ttft_s": ttft, "tpot_s": tpot, "checkpoint": str(wer)}
        return figures | {"asr": {"wer": wer}, "aac": {"cider_d": cider_d}} | more

    blocks = {
        "teacher": block(0.1, 3.0, 9, 9, 9),
        "student": block(0.2, 3.0, 4, 5, 9),  # ties: both captions 1st, both TPOT 2nd
        "small": block(0.4, 1.0, 2, 6, 3),
        "elsewhere": block(0.0, 9.0, 1, 1, 1, device="cuda"),
        "unmeasured": {"asr": {"wer": 0.1}, "aac": {"cider_d": 1.0}},
    }
    from distill.report.runs import Run

    lines = entries([Run("a", Path("a"), blocks)])
    assert rank_sums(lines) == [
        1 * 1 + 1 * 1 + 2 * 3 + 1 * 3 + 1 * 2,
        1 * 2 + 1 * 1 + 2 * 2 + 1 * 1 + 1 * 2,
        1 * 3 + 1 * 3 + 2 * 1 + 1 * 2 + 1 * 1,
        None,
        None,
    ]


def test_published_systems_are_shown_only_beside_a_line_on_their_own_clips(folder, pictures):
    write_report([folder])
    assert "Published systems" not in (folder / "report.md").read_text(encoding="utf-8")
    assert not (folder / "published.png").exists()
    block = student()
    block["asr"] |= {"clips": 2939, "by_corpus": {"librispeech": {"clips": 2939, "ref_words": 100, "wer": 0.3}}}
    shutil.rmtree(folder / "student")
    put(folder, block)
    write_report([folder])
    page = (folder / "report.md").read_text(encoding="utf-8")
    assert "these have a WER of the same speech: student." in page and imread(folder / "published.png").std() > 0
    assert "| nlp-12 | 0.3304 | 7.70 | 4.05 | – | – | 845.8 | V100 |" in page
    assert "| cv-20, final (nf4) | 0.3218 | 6.12 | 5.96 | – | – | 240.0 | H100 |" in page
    assert "| SALMONN-3B, as first published | 0.3678 | 6.42 | 9.18 | 206.8 | 44.5 | – | V100 |" in page


def test_the_speech_of_the_published_systems_is_told_from_other_speech():
    of = {"clips": 2939, "by_corpus": {"LibriSpeech test-other": {}}}
    assert same_speech(of)
    assert not same_speech(of | {"clips": 132})
    assert not same_speech(of | {"by_corpus": {"asterisk": {}}})
    assert not same_speech({})


def test_among_many_runs_the_seeds_of_an_arm_share_a_colour_and_a_place_in_the_legend():
    arms = [f"grid/{arm}" for arm in ("ce", "kd", "int8", "beta-0.5")]
    few, many = _styles(f"{arm}_0" for arm in arms), _styles(f"{arm}_{seed}" for seed in range(3) for arm in arms)
    assert [style["label"] for style in few.values()] == [f"{arm}_0" for arm in arms]
    assert len({style["color"] for style in few.values()}) == 4
    for arm in arms:
        assert many[f"{arm}_0"] == many[f"{arm}_1"] == many[f"{arm}_2"] and many[f"{arm}_0"]["label"] == arm
    assert len({style["color"] for style in many.values()}) == 4
    assert _legend_height(many) == _legend_height(few) > 0


@pytest.mark.parametrize("cell", ["–", "1,024.0", "0.5 (0.50 x)", "-3.0 ± 4.3", "", "+0.1"])
def test_figures_stand_to_the_right_and_words_to_the_left(cell):
    assert "class=number" in Table(["a"], [[cell]]).to_html(Path("."))
    assert "class=number" not in Table(["a"], [[cell], ["a dog"]]).to_html(Path("."))


def test_an_interrupted_log_counts_the_later_row_and_not_half_a_line(tmp_path):
    path = tmp_path / "steps.jsonl"
    path.write_text('{"step": 1, "loss": 5}\n{"step": 2, "loss": 4}\n{"step": 1, "loss": 3}\n{"st', encoding="utf-8")
    assert read_steps(path) == [{"step": 1, "loss": 3}, {"step": 2, "loss": 4}]
    for wrong in ("nonsense", '{"step": 1, "stage": ["distil"]}'):
        path.write_text(f'{{"step": 1}}\n{wrong}\n{{"step": 2}}\n', encoding="utf-8")
        with pytest.raises(InputError, match="line 2"):
            read_steps(path)


def test_what_was_not_alike_is_noted(tmp_path):
    other = student() | {"device": "cuda"}
    other["asr"]["clips"] = 3
    put(tmp_path, TEACHER)
    put(tmp_path, other)
    write_report([tmp_path])
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert "the teacher was scored on 10 speech clips, the student on 3" in report["notes"]
    assert "cuda for the student" in printed(tmp_path)
    assert "Note: device" in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[]", "not a JSON object")])
def test_a_broken_metrics_file_is_named_and_nothing_is_written(folder, text, message):
    (folder / "student" / "metrics.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        write_report([folder])
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


def test_the_arms_of_a_grid_are_told_over_seeds_and_paired(tmp_path):
    put_grid(tmp_path / "grid", {"ce": [0.4, 0.5], "kd": [0.3, 0.4]}, cider_d=1.0)
    write_report([tmp_path / "grid"])
    page = (tmp_path / "grid" / "report.md").read_text(encoding="utf-8")
    assert "| ce | 45.0 ± 7.1 | – | 1.500 ± 0.707 | – |" in page
    assert "| kd | 35.0 ± 7.1 | -10.0 ± 0.0 | 1.500 ± 0.707 | +0.000 ± 0.000 |" in page
    assert "| arm |  | seed 5 | seed 6 |" in page and "| kd | WER, % | 30.0 | 40.0 |" in page
    assert "| kd | cross-entropy, valid_asr | 0.020 | 0.020 |" in page and "- `kd`: `train.stages` = kd" in page
    assert "| teacher | 20.0 |" in page and "| grid/kd_1 | 40.0 (2.00 x) |" in page


def test_a_held_out_set_may_have_dots_in_its_name(tmp_path):
    put_grid(tmp_path / "grid", {"ce": [0.4, 0.5], "kd": [0.3, 0.4]})
    for path in (tmp_path / "grid").glob("*/validation.jsonl"):
        path.write_text(path.read_text(encoding="utf-8").replace("valid_asr", "valid.v1.2"), encoding="utf-8")
    write_report([tmp_path / "grid"])
    page = (tmp_path / "grid" / "report.md").read_text(encoding="utf-8")
    assert "| kd | cross-entropy, valid.v1.2 | 0.020 | 0.020 |" in page


def test_a_run_that_failed_is_told_and_its_arm_has_no_mean(tmp_path):
    put_grid(tmp_path / "grid", {"ce": [0.4, 0.5], "kd": [0.3, None]})
    write_report([tmp_path / "grid"])
    page = (tmp_path / "grid" / "report.md").read_text(encoding="utf-8")
    assert "| kd | – | – |" in page and "| kd | WER, % | 30.0 | – |" in page and "- kd_1: no memory" in page
    (tmp_path / "grid" / "grid.json").write_text("{}")
    with pytest.raises(InputError, match=r"grid.json: not as scripts/explore.py writes it"):
        write_report([tmp_path / "grid"])


def test_the_script_reports_runs_and_names_what_is_missing(folder, command):
    status, out, _ = command("scripts/report.py", folder)
    assert status == 0 and "CIDEr-D" in out and "report.html" in out
    status, _, err = command("scripts/report.py", folder / "none")
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1


def test_curves_that_should_be_one(tmp_path, command):
    for name, losses in {"a": [2.0, 1.0], "b": [2.0, 1.001], "short": [2.0]}.items():
        (tmp_path / name).mkdir()
        lines = [json.dumps({"step": i, "loss": loss}) for i, loss in enumerate(losses)]
        (tmp_path / name / "steps.jsonl").write_text("\n".join(lines) + "\n")
    for name, text in {
        "none": b'{"step": 0, "loss": 1}\n{"step": 1, "loss": "2"}\n',
        "true": b'{"step": true, "loss": 1}\n{"step": 1, "loss": 1}\n',
        "no_step": b'{"step": "0", "loss": 1}\n{"step": 1, "loss": 1}\n',
        "bytes": b'{"step": 0, "loss": 1}\n\xff\n',
        "huge": b'{"step": 0, "loss": 1}\n{"step": 1, "loss": 1' + 400 * b"0" + b"}\n",
        "zero": b'{"step": 0, "loss": 0.0}\n',
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "steps.jsonl").write_bytes(text)
    assert largest_difference(read_curves([f"a={tmp_path}/zero", f"b={tmp_path}/zero"])) == 0
    curves = [f"one={tmp_path}/a", f"two={tmp_path}/b"]
    status, out, _ = command("scripts/report.py", "--curves", *curves, "--out", tmp_path / "curves.md")
    assert status == 0 and "difference to `one` is 1.0e-03" in out
    assert "| 1 | 1.0000000 | 1.0010000 |" in (tmp_path / "curves.md").read_text()
    for bad, message in (
        ("two", "write NAME=RUN_FOLDER"),
        ("x=/no", "train the run first"),
        (f"x={tmp_path}/short", "the same steps"),
        (f"x={tmp_path}/none", "steps.jsonl, step 1: no loss; take another run"),
        (f"x={tmp_path}/true", "steps.jsonl, line 1: not a JSON object with a step"),
        (f"x={tmp_path}/no_step", "steps.jsonl, line 1: not a JSON object with a step"),
        (f"x={tmp_path}/huge", "the same steps"),  # a last line that nobody can read is that of a run that was killed
        (f"x={tmp_path}/bytes", "steps.jsonl: cannot be read"),
    ):
        status, _, err = command("scripts/report.py", "--curves", curves[0], bad, "--out", tmp_path / "no.md")
        assert status == 2 and message in err
    assert not (tmp_path / "no.md").exists()


def test_a_damaged_look_is_named(folder):
    put_log(folder)
    path = folder / "validation.jsonl"
    rows, lines = read_validation(path), path.read_text(encoding="utf-8")
    path.write_text(lines + "{", encoding="utf-8")  # a run that was killed
    assert read_validation(path) == rows
    path.write_text(lines + "{}\n{", encoding="utf-8")
    with pytest.raises(InputError, match=r"validation.jsonl, line 3: not a JSON object with a step and a set"):
        write_report([folder])


def test_clips_that_could_not_be_heard_are_told(tmp_path):
    block = student()
    block["asr"]["unreadable"] = {"clips": 2, "ids": ["3", "4"]}
    put(tmp_path / "run", TEACHER)
    put(tmp_path / "run", block)
    write_report([tmp_path / "run"], tmp_path / "out")
    page = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    (told,) = [line for line in page.splitlines() if "could not be heard" in line]
    assert "student: " in told and "2 of these clips could not be heard and count as empty texts" in told
