import json

import pytest

import distill.scoring.speeds
from distill.efficiency.measuring import Measured, Protocol, sound_of
from distill.recipe.reading import read_recipe
from distill.report.measured import with_efficiency
from distill.scoring.speeds import measure_scored


@pytest.fixture
def recipe(tiny_recipe):
    return read_recipe(tiny_recipe)


@pytest.fixture
def results(recipe, monkeypatch):
    """The recipe's results, where the teacher was scored; measuring takes no time."""

    def measure(recipe, models, protocol):
        block = {"ttft_s": 1.0, "tpot_s": 0.1, "peak_memory_bytes": 1000, "threads": 2, "device": "cpu", "rtfx": {}}
        cell = {"seconds": 10.0, "batch": 1}
        blocks = {model.name: block | cell for model in models}
        return {"at": "2025-03-01T12:00:00+00:00", "protocol": vars(protocol), **blocks, "ratio": {}}

    monkeypatch.setattr(distill.scoring.speeds, "measure", measure)
    scored(recipe.results_dir, "teacher", json.dumps({"model": "teacher", "asr": {"wer": 0.5}}))
    return recipe.results_dir


def scored(results, model: str, text: str):
    (results / model).mkdir(parents=True)
    (results / model / "metrics.json").write_text(text)


def metrics(results, model: str = "teacher") -> dict:
    return json.loads((results / model / "metrics.json").read_text())


def test_figures_say_how_they_were_measured(recipe, results):
    found = measure_scored(recipe, results, Measured("student"))
    how = {"protocol": "scoring", "at": "2025-03-01T12:00:00+00:00", "seconds": 10.0, "batch": 1, "tokens": 64}
    assert found["measured"] == how | {"sound": "speech", "counts_features": True} and found["threads"] == 2
    assert metrics(results)["measured"] == found["measured"] and metrics(results)["asr"] == {"wer": 0.5}


def test_a_package_that_was_scored_before_is_measured_again(recipe, results):
    scored(results, "teacher_device_q8_0", json.dumps({"model": "teacher_device_q8_0", "checkpoint": "weights"}))
    found = measure_scored(recipe, results, Measured("teacher"))
    assert metrics(results, "teacher_device_q8_0")["measured"] == found["measured"]


def test_where_no_run_is_asked_for_nothing_is_measured_and_what_was_stays(tiny_recipe, recipe, results):
    measure_scored(recipe, results, Measured("student"))
    before = metrics(results)
    recipe = read_recipe(tiny_recipe, ["evaluation.measured_runs=0"])
    assert measure_scored(recipe, results, Measured("student")) == {} and metrics(results) == before


def test_a_later_run_of_the_same_code_renews_what_was_scored(recipe, results):
    subject = {"checkpoint": "a", "dtype": "fp32", "parameters": 1, "weight_bytes": 4, "device": "cpu"}
    models = {"student": subject | measure_scored(recipe, results, Measured("student"))}
    protocol = Protocol("default", sound=sound_of(recipe))
    found = distill.scoring.speeds.measure(recipe, [Measured("student")], protocol)
    later = found | {"at": "2025-03-01T12:00:01+00:00", "student": found["student"] | subject | {"ttft_s": 0.5}}
    assert with_efficiency(models, later)["student"]["ttft_s"] == 0.5
    assert with_efficiency(models, later | {"at": found["at"]})["student"]["ttft_s"] == 1.0


@pytest.mark.parametrize(
    "text",
    ['{"model": "stud', "", "[]", "null", pytest.param("[" * 10**5, id="deep"), "\udcff", '{"checkpoint": 3}', "{}"],
)
def test_a_damaged_file_of_another_model_stops_nothing(recipe, results, capsys, text):
    scored(results, "student", "")
    (results / "student" / "metrics.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    (results / "student_int8" / "metrics.json").mkdir(parents=True)
    assert measure_scored(recipe, results, Measured("teacher"))["ttft_s"] == 1
    told = capsys.readouterr().out
    assert (f"{results}/student/metrics.json: not " in told) == (not text.endswith("}"))
    assert f"{results}/student_int8/metrics.json: cannot be read (Is a directory)" in told


def test_a_file_that_is_damaged_meanwhile_is_left_alone(recipe, results, monkeypatch, capsys):
    measure = distill.scoring.speeds.measure

    def damages(*of):
        (results / "teacher" / "metrics.json").write_text("{")
        return measure(*of)

    monkeypatch.setattr(distill.scoring.speeds, "measure", damages)
    assert measure_scored(recipe, results, Measured("student"))["ttft_s"] == 1
    assert (results / "teacher" / "metrics.json").read_text() == "{" and "not JSON" in capsys.readouterr().out
