"""Several test sets of a kind on one page: columns in the recipe's order, the first ranked by, each with its parts."""

import copy
import json
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from distill.report import print_table, write_report
from distill.report.leaderboard import columns, entries, rank_sums
from distill.report.runs import Run, read_run
from distill.report.sets import sets_in, sets_of, titled
from tests.distill.report.conftest import TEACHER, put, put_grid, student

SETS = ("asr_speakers", "asr_voice", "asr", "aac")
BEYOND = {"overgenerated_clips": 2, "overgenerated_words": 30, "overgeneration_rate": 0.3, "capped_wer": 0.1}


def with_sets(block: dict, wers: dict[str, float]) -> dict:
    """A model's metrics with test sets of speech before its own; an example and a worst clip in each."""
    sets, block = {}, copy.deepcopy(block)
    for name, wer in wers.items():
        sets[name] = copy.deepcopy(block["asr"]) | BEYOND | {"kind": "asr", "wer": wer}
        sets[name]["worst"][0]["id"] = f"{name}_worst"
        example = {"id": "0", "kind": "asr", "set": name, "task": "asr", "reference": f"of {name}", "hypothesis": "a"}
        block["examples"].insert(0, example)
    return (
        {key: of for key, of in block.items() if key not in ("asr", "aac")}
        | sets
        | {
            "asr": block["asr"] | {"kind": "asr"},
            "aac": block["aac"] | {"kind": "aac"},
        }
    )


@pytest.fixture
def several(tmp_path):
    """A run with three sets of speech and one of sounds."""
    put(tmp_path / "run", with_sets(TEACHER, {"asr_speakers": 0.4, "asr_voice": 0.25}))
    put(tmp_path / "run", with_sets(student(), {"asr_speakers": 0.8, "asr_voice": 0.5}))
    return tmp_path / "run"


def test_every_set_has_a_column_with_its_ratio_in_the_recipe_s_order(several, pictures):
    write_report([several])
    page = (several / "report.md").read_text(encoding="utf-8")
    assert "|  | WER speakers, % | WER voice, % | WER, % | CIDEr-D | size, MB |" in page
    assert "| student | 80.0 (2.00 x) | 50.0 (2.00 x) | 30.0 (1.50 x) | 4.00 (1.00 x) |" in page
    assert "Of the sets of a kind the recipe's first counts: WER speakers (`asr_speakers`)." in page
    assert "10 speech (speakers), 10 speech (voice), 10 speech and 8 captioned clips" in page
    ratio = json.loads((several / "report.json").read_text())["ratio"]
    assert ratio["asr_speakers"]["wer"] == ratio["asr_voice"]["wer"] == 2.0
    for name in ("report.png", "durations.png"):
        assert (several / name).stat().st_size > 1000


def test_several_sets_fit_on_a_narrow_screen(several):
    console = Console(file=StringIO(), width=80)
    print_table([read_run(several)], console)
    screen = console.file.getvalue()
    for text in ("speakers", "voice", "80.0", "(2.00 x)", "4.00", "1,024.0", "200.0", "rank"):
        assert text in screen
    assert screen.count("student") == 2 and "…" not in screen and max(map(len, screen.splitlines())) <= 80


def test_parts_lengths_examples_and_worst_clips_go_by_set(several):
    write_report([several])
    page = (several / "report.md").read_text(encoding="utf-8")
    assert "| set |  | WER, % | 95% interval |" in page
    assert "| asr_voice | student | 50.0 | 15.0 to 26.0 |" in page
    assert "| asr_speakers | student | 2 (20.0%) | 30 | 30.0 | 80.0 | 10.0 |" in page
    assert "| asr | student | 2 (20.0%) |" not in page  # of a set where it was not counted nothing is said
    assert "| WER voice, % by clip length | clips | words | teacher | student |" in page
    assert "| asr (speakers) | of asr_speakers | a | a |" in page and "| asr | press" in page
    assert "student, asr_voice\n\n```\nasr_voice_worst\n" in page


def test_what_was_scored_on_fewer_sets_stands_beside_what_was_scored_on_all(tmp_path):
    put(tmp_path / "run", TEACHER)  # as it was scored before the recipe had more sets
    put(tmp_path / "run", with_sets(student(), {"asr_speakers": 0.8}))
    (run,) = [read_run(tmp_path / "run")]
    lines = entries([run])
    assert [column.of_set for column in columns(lines)[:3]] == ["asr_speakers", "asr", "aac"]
    assert rank_sums(lines) == [None, None]
    write_report([tmp_path / "run"])
    assert "| student | 80.0 | 30.0 (1.50 x) |" in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")


def test_other_clips_of_a_set_are_noted(several):
    path = several / "student" / "metrics.json"
    block = json.loads(path.read_text())
    block["asr_voice"]["clips"] = 3
    block["asr"]["data"] = "other"
    path.write_text(json.dumps(block))
    write_report([several])
    page = (several / "report.md").read_text(encoding="utf-8")
    assert "Note: the teacher was scored on 10 speech clips of asr_voice, the student on 3." in page
    assert "Note: the student was scored on other speech clips than the teacher." in page


def test_the_first_set_of_each_kind_is_ranked_by():
    def block(first, other, **more):
        cost = {"peak_memory_bytes": 1, "ttft_s": 1, "tpot_s": 1, "checkpoint": str(first)}
        return cost | {"asr_voice": {"wer": first}, "asr": {"wer": other}, "aac_b": {"cider_d": 1}} | more

    lines = entries([Run("a", None, {"teacher": block(0.1, 0.9), "student": block(0.2, 0.1)})])
    assert rank_sums(lines) == [1 + 1 + 2 + 1 + 1, 2 + 1 + 2 + 1 + 1]
    assert [column.label for column in columns(lines)[:3]] == ["WER voice, %", "WER, %", "CIDEr-D b"]


def test_arms_are_told_by_set(tmp_path):
    put_grid(tmp_path / "grid", {"ce": [0.4, 0.5], "kd": [0.3, 0.4]})
    for path in (tmp_path / "grid").glob("*/student/metrics.json"):
        block = json.loads(path.read_text())
        path.write_text(json.dumps({"asr_voice": {"wer": 2 * block["asr"]["wer"]}} | block))
    write_report([tmp_path / "grid"])
    page = (tmp_path / "grid" / "report.md").read_text(encoding="utf-8")
    assert "| arm | WER voice, % | minus ce | WER, % | minus ce |" in page
    assert "| kd | 70.0 ± 14.1 | -20.0 ± 0.0 | 35.0 ± 7.1 | -10.0 ± 0.0 |" in page


def test_a_page_of_several_sets_is_made_again_from_its_json(several, tmp_path):
    write_report([several])
    page = (several / "report.md").read_text(encoding="utf-8")
    (tmp_path / "alone").mkdir()
    (several / "report.json").rename(tmp_path / "alone" / "report.json")
    write_report([tmp_path / "alone"])
    again = (tmp_path / "alone" / "report.md").read_text(encoding="utf-8")
    assert again.split("## Leaderboard")[1] == page.split("## Leaderboard")[1]


@given(st.permutations(SETS), st.lists(st.sets(st.sampled_from(SETS)), max_size=4))
def test_the_order_is_the_recipe_s_where_one_model_has_all_sets(recipe, parts):
    whole = {"model": "teacher", **{name: {} for name in recipe}, "examples": []}
    others = [{name: {} for name in recipe if name in part} for part in parts]
    assert sets_of([whole, *others]) == list(recipe) == sets_in(whole)
    assert sorted(sets_of([*others, whole])) == sorted(recipe)
    assert sets_of([whole, *others], "asr") == [name for name in recipe if name != "aac"]


def test_a_set_without_a_name_of_its_own_is_called_by_the_figure_alone():
    assert titled("WER", "asr") == "WER" and titled("CIDEr-D", "aac_far_field") == "CIDEr-D far field"
