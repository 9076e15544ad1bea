"""What a report reads: own runs, pages of several runs, grids; each run once."""

import json
import shutil
from pathlib import Path

import pytest

import scripts.report
from data.errors import InputError
from data.paths import REPOSITORY
from distill.report import print_table, write_report
from distill.report.leaderboard import entries
from distill.report.runs import read_run, read_runs
from tests.distill.report.conftest import TEACHER, put, put_grid, put_log, student


def forget_measured(folder: Path) -> None:
    """Leaves the reports, and takes what they were made from."""
    for path in list(folder.rglob("metrics.json")):
        shutil.rmtree(path.parent)


def pages(folder: Path) -> tuple[str, dict]:
    return (folder / "report.md").read_text(encoding="utf-8"), json.loads((folder / "report.json").read_text())


@pytest.fixture
def several(folder):
    """A page of two runs, without what it was made from; the runs' logs are still there."""
    put(folder.parent / "kd_other", student() | {"recipe": "kd_other"})
    for name, scale in (("kd_mini", 3.0), ("kd_other", 5.0)):
        put_log(folder.parent / name, scale)
    out = folder.parent / "page"
    write_report([folder, folder.parent / "kd_other"], out)
    forget_measured(folder.parent)
    return out


def test_a_page_of_several_runs_is_made_again_from_its_json(several):
    page, report = pages(several)
    assert {run.name: list(run.models) for run in read_runs(several)} == {
        "kd_mini": ["teacher", "student"],
        "kd_other": ["student"],
    }
    write_report([several])
    assert pages(several) == (page, report) and "losses.png" in page


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"asr": 3}, "asr"),
        ({"asr": None}, "asr"),
        ({"asr": {"worst": 3}}, "asr.worst"),
        ({"asr": {"worst": [{"id": "a"}]}}, "asr.worst.0.alignment"),
        ({"asr": {"by_corpus": {"a": {"wer": "x", "clips": 1, "ref_words": 1}}}}, "asr.by_corpus.a.wer"),
        ({"asr": {"by_duration": {"a": {"clips": 1, "ref_words": 1}}}}, "asr.by_duration.a.*"),
        ({"asr": {"data": []}}, "asr.data"),
        ({"aac": {"not_computed": 3}}, "aac.not_computed"),
        ({"asr_voice": 3}, "asr_voice"),
        ({"asr_voice": {"kind": "aac"}}, "asr_voice.kind"),
        ({"aac_b": {"not_computed": 3}}, "aac_b.not_computed"),
        ({"examples": [3]}, "examples.0"),
        ({"examples": [{"id": "a", "task": "asr", "reference": [], "hypothesis": ""}]}, r"examples.0.reference.*"),
        ({"checkpoint": {}}, "checkpoint"),
        ({"measured": {"seconds": "x"}}, "measured.seconds"),
        ({"recipe": 3}, "recipe"),
    ],
)
@pytest.mark.parametrize("name", ["student/metrics.json", "report.json"])
def test_metrics_of_another_form_are_named(tmp_path, change, key, name):
    block = student() | change
    put(tmp_path, TEACHER)
    if name == "report.json":
        (tmp_path / name).write_text(json.dumps({"teacher": TEACHER, "student": block}))
        forget_measured(tmp_path)
    else:
        put(tmp_path, block)
    with pytest.raises(InputError, match=rf"{name}: key '{key}': .*; make it again") as caught:
        write_report([tmp_path])
    assert "\n" not in str(caught.value) and not (tmp_path / "report.md").exists()


def test_a_grid_is_made_again_from_its_json(tmp_path):
    put_grid(tmp_path / "grid", {"ce": [0.4, 0.5], "kd": [0.3, None]}, cider_d=1.0)
    write_report([tmp_path / "grid"])
    page, report = pages(tmp_path / "grid")
    forget_measured(tmp_path)
    write_report([tmp_path / "grid"])
    assert pages(tmp_path / "grid") == (page, report) and "| ce | 45.0 ± 7.1 | – |" in page


def test_a_grid_that_ran_again_does_not_tell_what_it_no_longer_has(tmp_path):
    grid = tmp_path / "grid"
    put_grid(grid, {"ce": [0.4, 0.5], "kd": [0.3, 0.3]})
    write_report([grid])
    shutil.rmtree(grid / "kd_0")
    write_report([grid])
    assert "| kd | – | – |" in pages(grid)[0] and "grid/kd_0" not in pages(grid)[1]["runs"]


def test_a_run_told_twice_is_shown_once(several, tmp_path):
    own = tmp_path / "kd_mini"
    put(own, student())
    put(own, TEACHER | {"ttft_s": 7.0})  # measured anew since the page was made
    for folders in ([own, several], [several, own]):
        runs = {run.name: run for run in write_report(folders, tmp_path / "out")}
        assert set(runs) == {"kd_mini", "kd_other"} and runs["kd_mini"].models["teacher"]["ttft_s"] == 7


def tell(page: Path, runs: dict[str, dict]) -> Path:
    """Leaves a page of several runs, or of one; gives its folder."""
    page.mkdir(parents=True, exist_ok=True)
    (page / "report.json").write_text(json.dumps(runs.get(page.name, {"runs": runs})))
    return page


def told(wer: float, at: str = "", models: tuple[str, ...] = ("student",), name: str = "kd_mini") -> dict:
    blocks = {model: student() | {"model": model, "recipe": name, "asr": {"wer": wer}} for model in models}
    return {model: block | ({"measured": {"at": at}} if at else {}) for model, block in blocks.items()}


NOT_SHOWN = "other figures of {} are not shown: those of the page {}; report its folder alone for them"


@pytest.mark.parametrize("turn", [1, -1])
def test_of_pages_that_tell_of_a_run_the_one_of_its_name_counts_then_the_latest(tmp_path, turn, capsys):
    own = tell(tmp_path / "kd_mini", {"kd_mini": told(0.3)})
    others = {
        "quantised": told(0.5, models=("teacher", "student", "student_int8")),
        "new": told(0.4, at="2026-12-02T00:00:00+00:00"),
        "old": told(0.6, at="2026-12-01T00:00:00+00:00", models=("student", "student_int8")),
        "same": told(0.3),
    }
    pages_of = [tell(tmp_path / page, {"kd_mini": models}) for page, models in others.items()]
    for folders, wer, hidden in (
        ([own, *pages_of], 0.3, {"quantised", "new", "old"}),
        (pages_of, 0.4, {"quantised", "old", "same"}),
        ([pages_of[0], pages_of[3]], 0.5, {"same"}),
        ([own, pages_of[3]], 0.3, set()),
    ):
        (run,) = write_report(folders[::turn], tmp_path / "out")
        assert run.models["student"]["asr"]["wer"] == wer and set(run.others) == hidden
        print_table([run])
        screen, page = " ".join(capsys.readouterr().out.split()), pages(tmp_path / "out")[0].replace("\\_", "_")
        for other in others:
            line = NOT_SHOWN.format("kd_mini", other)
            assert (other in hidden) == (line in screen) == (f"Note: {line}." in page)


def test_a_run_of_a_grid_is_shown_as_the_page_of_its_grid_has_it(tmp_path):
    grid = tell(tmp_path / "grid", {"grid/ce_0": told(0.3, name="grid/ce_0")})
    other = tell(tmp_path / "page", {"grid/ce_0": told(0.4, at="2026-12-02T00:00:00+00:00", name="grid/ce_0")})
    (run,) = write_report([other, grid], tmp_path / "out")
    assert run.models["student"]["asr"]["wer"] == 0.3 and run.others == ("page",)


def test_two_runs_of_one_name_are_told_apart_by_nobody(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(InputError, match=r"two of the runs are named kd_mini, .*kd_mini and .*copy; report one"):
        write_report([folder, tmp_path / "copy"], tmp_path / "out")


def test_of_one_teacher_the_line_with_its_times_is_shown(tmp_path):
    bare = {key: entry for key, entry in TEACHER.items() if key not in ("ttft_s", "tpot_s", "peak_memory_bytes")}
    put(tmp_path / "a", bare | {"recipe": "a"})
    put(tmp_path / "b", TEACHER | {"recipe": "b"})
    (line,) = entries([read_run(tmp_path / "a"), read_run(tmp_path / "b")])
    assert line.block["ttft_s"] == 0.2 and line.is_teacher


@pytest.mark.parametrize("runs", ['["a"]', '"a"', '{"../a": {}}', '{"/a": {}}', '{"a/../../b": {}}'])
def test_runs_that_no_report_was_made_of_are_refused(tmp_path, runs):
    (tmp_path / "report.json").write_text(f'{{"runs": {runs}}}')
    with pytest.raises(InputError, match=r"report.json: 'runs' are not as scripts/report.py writes them"):
        read_runs(tmp_path)


@pytest.mark.parametrize("runs", ["{}", '{"a": {}}', '{"a": 3}', '{"a": {"teacher": {"asr": 1}}}'])
def test_a_page_without_models_has_nothing_to_report(tmp_path, runs):
    (tmp_path / "report.json").write_text(f'{{"runs": {runs}}}')
    with pytest.raises(InputError, match=r"no teacher/metrics.json or student/metrics.json"):
        read_runs(tmp_path)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """The results of a fresh clone; what runs write there is not among them."""
    shutil.copytree(REPOSITORY / "results" / "published", tmp_path / "results" / "published")
    monkeypatch.setattr(scripts.report, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(scripts.report, "PUBLISHED", tmp_path / "results" / "published")
    return tmp_path / "results"


def report(monkeypatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["report.py", *map(str, words)])
    scripts.report.main()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_fresh_clone_reports_what_was_published_and_leaves_it_as_it_is(clone, monkeypatch, capsys):
    before = contents(clone / "published")
    report(monkeypatch)
    assert contents(clone / "published") == before
    runs = pages(clone)[1]["runs"]
    assert {"kd_mini", "kd_mini_long", "ablation/even_2"} <= set(runs)
    own = json.loads((clone / "published" / "kd_mini" / "report.json").read_text())
    assert runs["kd_mini"]["student"] == own["student"] and runs["kd_mini"]["teacher"] == own["teacher"]
    assert f"Note: {NOT_SHOWN.format('kd_mini', 'kd_mini_quantised')}" in pages(clone)[0].replace("\\_", "_")
    assert f"written: {clone}/report.html" in capsys.readouterr().out
    put(clone / "kd_mini", TEACHER)
    for _ in range(2):  # the page itself is no run
        report(monkeypatch)
        assert set(pages(clone)[1]) == {"teacher", "ratio", "notes"}  # what ran here stands alone


def test_a_published_page_is_not_written_over_by_chance(clone, monkeypatch, tmp_path):
    with pytest.raises(InputError, match="kd_mini is published: say where its page goes with --out FOLDER"):
        report(monkeypatch, clone / "published" / "kd_mini")
    report(monkeypatch, clone / "published" / "kd_mini", "--out", tmp_path / "out")
    assert (tmp_path / "out" / "report.md").is_file()
