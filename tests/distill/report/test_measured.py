"""Memory and times in a report: of one measurement, and told which."""

import json
from pathlib import Path

import pytest

from distill.report import write_report
from distill.report.leaderboard import entries, rank_sums, ratio
from distill.report.measured import comparable, conditions_shown, measured_of
from distill.report.runs import Run, read_run
from tests.distill.report.conftest import TEACHER, put, student

HOW = {"seconds": 10.0, "batch": 1, "tokens": 64, "sound": "speech", "counts_features": True}
SCORED = {"threads": 2, "measured": HOW | {"protocol": "scoring", "at": "2025-03-01T12:00:00+00:00"}}


def efficiency(at: str = "2025-03-01T13:00:00+00:00", protocol: dict | None = None, **student_differs) -> dict:
    """What scripts/efficiency.py leaves of the models of the folder, with a TTFT of 9 s; the student's may differ."""
    same = ("parameters", "weight_bytes", "dtype", "device", "checkpoint")
    block = {"threads": 2, "seconds": 10.0, "batch": 1, "ttft_s": 9.0, "tpot_s": 0.9, "peak_memory_bytes": 7}
    blocks = {of["model"]: {key: of[key] for key in same} | block for of in (TEACHER, student())}
    blocks["student"] |= student_differs
    how = {"name": "default", "seconds": [10.0, 30.0], "tokens": 64, "sound": "speech", "counts_features": True}
    ratios = {name: {"peak_memory_bytes": 1.0, "ttft_s": 1.0} for name in blocks}
    found = {"recipe": "kd_mini", "at": at, "protocol": how | (protocol or {}), **blocks}
    return found | {"ratio": ratios["student"], "ratios": ratios}


@pytest.fixture
def scored(tmp_path):
    """A run whose metrics.json say how memory and times were measured."""
    for block in (TEACHER, student()):
        put(tmp_path / "kd_mini", block | SCORED)
    return tmp_path / "kd_mini"


def times(folder: Path, found: dict) -> dict:
    (folder / "efficiency.json").write_text(json.dumps(found))
    return {name: block["ttft_s"] for name, block in read_run(folder).models.items()}


def test_a_later_measurement_of_the_same_renews_the_figures(scored):
    assert times(scored, efficiency()) == {"teacher": 9, "student": 9}
    block = read_run(scored).models["student"]
    assert (block["tpot_s"], block["peak_memory_bytes"], block["asr"]["wer"]) == (0.9, 7, 0.3)
    write_report([scored])
    page = (scored / "report.md").read_text(encoding="utf-8")
    how = "memory and time with 10 s of speech, batch 1, 1 + 64 tokens, 2 threads"
    assert f"float32 on cpu; {how} (from efficiency.json, 2025-03-01T13:00:00+00:00)" in page and "Note" not in page
    (scored / "efficiency.json").unlink()
    write_report([scored])
    page = (scored / "report.md").read_text(encoding="utf-8")
    assert f"float32 on cpu; {how} (as it was scored, 2025-03-01T12:00:00+00:00)" in page and "Note" not in page


@pytest.mark.parametrize(
    "found",
    [
        *(efficiency(seconds=30.0), efficiency(batch=8), efficiency(threads=1), efficiency(device="cuda")),
        *(efficiency(dtype="bfloat16"), efficiency(dtype="float32, llm int8"), efficiency(checkpoint="other/model")),
        *(efficiency(parameters=1), efficiency(weight_bytes=1)),
        *(efficiency(protocol={"tokens": 1}), efficiency(protocol={"sound": "noise"})),
        efficiency(protocol={"counts_features": False}),
        *(efficiency(at="2025-03-01T11:59:59+00:00"), efficiency(at="2025-03-01T12:00:00+00:00")),
        *(efficiency(at=None), efficiency(at=7), efficiency() | {"protocol": None}, efficiency() | {"protocol": []}),
        *({name: of for name, of in efficiency().items() if name != key} for key in ("at", "protocol", "teacher")),
        *(efficiency(**{key: None}) for key in ("threads", "checkpoint", "dtype", "parameters", "seconds")),
        # One model of the two was measured otherwise: the other's figures would be of another measurement.
        efficiency() | {"teacher": efficiency(batch=8)["student"] | {"parameters": TEACHER["parameters"]}},
    ],
)
def test_another_measurement_or_a_stale_one_renews_nothing(scored, found):
    assert times(scored, found) == {"teacher": 0.2, "student": 0.1}
    assert ratio(entries([read_run(scored)])[1], "ttft_s") == 0.5


def test_what_was_scored_before_it_was_kept_how_it_was_measured_is_not_renewed(folder):
    assert times(folder, efficiency()) == {"teacher": 0.2, "student": 0.1}
    write_report([folder])
    assert "how memory and time were measured was not kept" in (folder / "report.md").read_text(encoding="utf-8")


def test_a_model_that_was_not_scored_has_a_ratio_only_to_a_teacher_measured_alike(scored):
    found = efficiency(seconds=30.0, batch=8)
    found["student_int4"] = found.pop("student") | {"weight_bytes": 80_000_000, "dtype": "float32, llm int4"}
    assert times(scored, found) == {"teacher": 0.2, "student": 0.1, "student_int4": 9}
    write_report([scored])
    page, report = (scored / "report.md").read_text(encoding="utf-8"), json.loads((scored / "report.json").read_text())
    assert "| student_int4 | – | – | 80.0 (0.25 x) | 0.0 | 9,000.0 | 900.0 | – |" in page
    assert "memory and time of the student_int4 were measured otherwise than the teacher's: no ratio" in page
    assert report["ratio"]["ttft_s"] == 0.5 and "measured" not in report["ratio"]
    assert "memory and time with 30 s of speech, batch 8, 1 + 64 tokens, 2 threads (from efficiency.json" in page


def test_the_report_keeps_no_ratio_between_two_ways_of_measuring(tmp_path):
    put(tmp_path, TEACHER | SCORED)
    put(tmp_path, student() | SCORED | {"threads": 1})
    write_report([tmp_path])
    kept = json.loads((tmp_path / "report.json").read_text())["ratio"]
    assert kept["parameters"] == 0.5 and not {"ttft_s", "tpot_s", "peak_memory_bytes", "measured"} & set(kept)


def test_ranks_are_among_lines_that_were_measured_alike():
    def line(name, **differs):
        return student() | SCORED | {"aac": {"cider_d": 1.0}, "checkpoint": name} | differs

    alike = {name: line(name) for name in ("teacher", "student")}
    others = {
        "student_a": line("a", ttft_s=0.01, threads=1),
        "student_b": line("b", ttft_s=0.01, measured=SCORED["measured"] | {"batch": 8}),
    }
    assert rank_sums(entries([Run("a", Path("a"), alike | others)])) == [6, 6, None, None]


def test_models_that_were_not_timed_in_turn_are_named(scored):
    later = {"measured": HOW | {"protocol": "scoring", "at": "2025-03-02T12:00:00+00:00"}}
    put(scored.parent / "b", student() | SCORED | later | {"recipe": "b"})
    write_report([scored, scored.parent / "b"], scored.parent / "page")
    page = (scored.parent / "page" / "report.md").read_text(encoding="utf-8")
    assert "Note: not timed in turn with the teacher, but at another time: b." in page and "(0.50 x)" in page


@pytest.mark.parametrize("how", [None, 3, [], {}, {"seconds": "10", "batch": None, "tokens": 64}])
def test_what_says_nothing_of_how_it_was_measured_is_told_so(how):
    block = {"ttft_s": 1.0, "device": "cpu", "measured": how}
    assert conditions_shown(block) == "how memory and time were measured was not kept"
    assert conditions_shown({"measured": how}) == ""
    assert comparable(block, block) == {"ttft_s": 1.0, "device": "cpu"}


def test_the_test_set_of_the_recordings_is_told_where_it_was_kept():
    found = efficiency(protocol={"sound_set": "asr_speakers"})
    how = measured_of(found, "student")
    assert how["sound_set"] == "asr_speakers" and "sound_set" not in measured_of(efficiency(), "student")
    block = {"ttft_s": 0.1, "measured": how}
    assert "memory and time with 10 s of speech of the test set asr_speakers, batch 1" in conditions_shown(block)
