import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

import distill.scoring.evaluation
import distill.scoring.sources
import distill.scoring.speeds
import distill.scoring.writing
from data.errors import InputError
from distill.models.card import describe
from distill.recipe.reading import read_recipe
from distill.recipe.rows import read_held_out
from distill.recipe.test_sets import Selection
from distill.scoring.evaluation import evaluate, submit
from distill.scoring.hypothesis_file import hypotheses_for
from distill.scoring.hypothesis_writer import HypothesisWriter
from distill.scoring.submission import check_submission
from student.shrink import shrink
from teacher.hypotheses import Hypothesis


@pytest.fixture
def measured(monkeypatch):
    """The names of the models of each measurement, which do not run: the first has a TTFT of 1, the next of 2."""
    calls = []

    def measure(recipe, models, protocol):
        calls.append([model.name for model in models])
        metrics = {"tpot_s": 0.01, "peak_memory_bytes": 1000, "threads": 2}
        return {name: metrics | {"ttft_s": len(calls)} for name in calls[-1]}

    monkeypatch.setattr(distill.scoring.speeds, "measure", measure)
    return calls


@pytest.fixture
def recipe(tiny_recipe, measured):
    """The tiny recipe; memory and times are not measured."""
    return read_recipe(tiny_recipe)


@pytest.fixture
def generated(monkeypatch):
    """The rows that were written for since the test began."""
    rows = []
    write = distill.scoring.sources.write_batch

    def spy(model, processor, pairs, settings):
        rows.extend(row.id for row, _ in pairs)
        return write(model, processor, pairs, settings)

    monkeypatch.setattr(distill.scoring.sources, "write_batch", spy)
    return rows


def lines(recipe, which="teacher"):
    path = recipe.results_dir / which / "hypotheses.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_metrics_say_what_was_scored(recipe, generated):
    metrics = evaluate(recipe, "teacher")
    assert json.loads((recipe.results_dir / "teacher" / "metrics.json").read_text()) == metrics
    assert metrics["asr"]["clips"] == 4 and metrics["asr"]["wer"] > 0.5
    assert metrics["encoder_layers"] == 2 and metrics["llm_layers"] == 4
    parts = metrics["parts"]
    assert metrics["parameters"] == sum(parts.values())
    assert parts["embeddings"] == 301 * 48 and min(parts.values()) > 0
    assert metrics["parameters_without_embeddings"] == metrics["parameters"] - parts["embeddings"]
    assert (metrics["ttft_s"], metrics["tpot_s"], metrics["peak_memory_bytes"]) == (1, 0.01, 1000)
    assert metrics["threads"] == 2 and metrics["asr"]["unreadable"] == {"clips": 0, "ids": []}
    assert list(metrics["asr"]["by_duration"]) == ["0 to 2 s", "2 to 5 s"]
    assert metrics["asr"]["by_corpus"]["unnamed"]["errors"] == metrics["asr"]["errors"]
    worst = metrics["asr"]["worst"]
    assert worst[0]["alignment"].startswith("REF: ") and worst[0]["errors"] >= worst[-1]["errors"] > 0
    assert len(metrics["examples"]) == 4 and metrics["examples"][0]["sound"].endswith("test_asr_0.wav")
    assert sorted(generated) == sorted(line["id"] for line in lines(recipe))
    assert read_recipe(recipe.results_dir / "recipe.json") == recipe


def test_a_killed_evaluation_goes_on_with_what_is_missing(recipe, generated, monkeypatch):
    monkeypatch.setattr(distill.scoring.writing, "BATCH_SECONDS", 4.0)  # two clips
    whole = evaluate(recipe, "teacher")
    path = recipe.results_dir / "teacher" / "hypotheses.jsonl"
    written = path.read_text().splitlines(keepends=True)
    path.write_text("".join(written[:2]) + written[2][:-20])  # cut off in the middle of a line
    for again in (False, True):
        generated.clear()
        assert evaluate(recipe, "teacher") | {"ttft_s": 1} == whole
        assert sorted(line["id"] for line in lines(recipe)) == [f"test_asr_{i}" for i in range(4)]
        assert len(generated) == (0 if again else 3)  # the batches that were cut, whole


def test_another_model_or_way_of_writing_starts_anew(recipe, generated, tiny_recipe):
    evaluate(recipe, "teacher")
    for change in ("generation.max_new_tokens=5", "teacher.margin_s=0.2", 'data.prompts.asr=["write"]'):
        generated.clear()
        changed = read_recipe(tiny_recipe, [change])
        evaluate(changed, "teacher")
        assert len(generated) == 4
        assert len(lines(changed)) == 4


def test_texts_of_another_device_do_not_count(recipe, generated, monkeypatch):
    evaluate(recipe, "teacher")
    monkeypatch.setattr(distill.scoring.evaluation, "pick_device", lambda: torch.device("cuda"))
    generated.clear()
    evaluate(recipe, "teacher")
    assert len(generated) == 4


def test_lines_of_clips_that_a_test_set_has_no_more_are_dropped(recipe, own_data):
    evaluate(recipe, "teacher")
    path = own_data / "test_asr.json"
    rows = json.loads(path.read_text())["annotation"]
    path.write_text(json.dumps({"annotation": rows[:3]}))
    evaluate(recipe, "teacher", selection=Selection(("asr",)))
    assert sorted(line["id"] for line in lines(recipe)) == [f"test_asr_{i}" for i in range(3)]
    texts = hypotheses_for(recipe.results_dir / "teacher" / "hypotheses.jsonl", read_held_out(recipe, str(path)), "asr")
    assert len(texts) == 3


def test_a_student_must_be_there_and_of_this_recipe(recipe, tiny_recipe, tiny_teacher):
    with pytest.raises(InputError, match=r"runs/tiny/model: no trained model there; run 'deepspeed distill/train.py'"):
        evaluate(recipe, "student")
    teacher, processor = tiny_teacher
    folder = recipe.run_dir / "model"
    shrink(teacher, recipe.student).save_pretrained(folder)
    processor.save_pretrained(folder)
    assert evaluate(recipe, "student")["llm_layers"] == 3
    other = read_recipe(tiny_recipe, ["student.llm_layers=[0, 3]"])
    with pytest.raises(InputError, match=r"a checkpoint of another recipe, with 1 encoder and 3 LLM layers; this one"):
        evaluate(other, "student")
    # (As runs have written it down before stages had `on_policy`, and rows without a text the teacher's.)
    written = json.loads(recipe.model_dump_json())
    written["train"]["on_policy"] = {"fraction": 0.0, "temperature": 1.0, "max_new_tokens": 100}
    written["data"]["faults"]["no_text"] = "keep"
    (recipe.run_dir / "recipe.json").write_text(json.dumps(written))
    assert evaluate(recipe, "student")["llm_layers"] == 3
    other = read_recipe(tiny_recipe, ["student.llm_layers=[0, 1, 2]"])
    with pytest.raises(InputError, match=r"a checkpoint of another recipe \(other student.llm_layers\)"):
        evaluate(other, "student")
    (recipe.run_dir / "recipe.json").write_text("{")
    with pytest.raises(InputError, match=r"recipe.json: cannot be read \(1 faults\); train the model again"):
        evaluate(recipe, "student")
    (recipe.run_dir / "recipe.json").unlink()
    (folder / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(InputError, match=r"runs/tiny/model: not a model that can be read") as caught:
        evaluate(recipe, "student")
    assert "\n" not in str(caught.value)


def save_student(recipe, tiny_teacher):
    teacher, processor = tiny_teacher
    shrink(teacher, recipe.student).save_pretrained(recipe.run_dir / "model")
    processor.save_pretrained(recipe.run_dir / "model")


def test_speed_is_measured_in_turn_with_what_was_scored_before(recipe, tiny_teacher, measured, tmp_path):
    save_student(recipe, tiny_teacher)

    def ttft(which):
        return json.loads((recipe.results_dir / which / "metrics.json").read_text())["ttft_s"]

    evaluate(recipe, "teacher")
    assert measured == [["teacher"]]
    assert evaluate(recipe, "student")["ttft_s"] == ttft("teacher") == 2
    assert measured[1] == ["student", "teacher"]
    # What was scored, but is gone, no longer counts.
    (recipe.run_dir / "model" / "config.json").rename(tmp_path / "config.json")
    evaluate(recipe, "teacher")
    assert measured[2] == ["teacher"] and (ttft("teacher"), ttft("student")) == (3, 2)


def test_another_model_that_cannot_be_measured_stops_nothing(recipe, tiny_teacher, measured, monkeypatch, capsys):
    save_student(recipe, tiny_teacher)
    evaluate(recipe, "teacher")
    measure = distill.scoring.speeds.measure

    def fails_with_the_teacher(recipe, models, protocol):
        if any(model.which == "teacher" for model in models):
            raise InputError("the teacher is gone")
        return measure(recipe, models, protocol)

    monkeypatch.setattr(distill.scoring.speeds, "measure", fails_with_the_teacher)
    assert evaluate(recipe, "student")["ttft_s"] == 2
    assert measured[1] == ["student"] and "the teacher is gone\nmeasuring the student alone" in capsys.readouterr().out


def test_scores_stand_where_the_measurement_fails(command, tiny_recipe, tiny_teacher, monkeypatch):
    recipe = read_recipe(tiny_recipe)
    save_student(recipe, tiny_teacher)
    folder, place = recipe.run_dir / "model", recipe.results_dir / "student" / "metrics.json"
    describe(recipe, folder)
    seen = []

    def fails(*_):
        seen.append((json.loads(place.read_text())["asr"]["wer"], json.loads((folder / "card.json").read_text())))
        raise seen_as

    monkeypatch.setattr(distill.scoring.speeds, "measure", fails)
    for seen_as in (InputError("measuring the student failed: killed"), OSError(12, "Cannot allocate memory")):
        status, out, err = command("scripts/evaluate.py", "--config", tiny_recipe, "--model", "student")
        assert status == 2 and "report.html" not in out
        (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
        assert str(seen_as) in line and "evaluation.measured_runs=0" in line
        metrics = json.loads(place.read_text())
        wer, card = seen[-1]
        assert wer == metrics["asr"]["wer"] == card["scores"]["asr"]["wer"] and "ttft_s" not in metrics
    assert len(seen) == 2


def test_a_quantised_model_has_a_row_of_its_own(recipe, tiny_teacher, generated, measured, monkeypatch):
    save_student(recipe, tiny_teacher)
    full = evaluate(recipe, "student")
    quantised = []
    monkeypatch.setattr("distill.models.loading.require_quantisation", lambda *of: None)  # the library is optional
    monkeypatch.setattr("distill.models.loading.quantise_llm", lambda model, name, device: quantised.append(name))
    generated.clear()
    metrics = evaluate(recipe, "student", quantise="int8")
    assert quantised == ["int8"] and len(generated) == 4
    assert (metrics["model"], metrics["dtype"]) == ("student_int8", "fp32, llm int8")
    assert metrics["identity"] != full["identity"]
    assert measured[-1] == ["student_int8", "student"]
    assert len(lines(recipe, "student_int8")) == 4
    again = json.loads((recipe.results_dir / "student" / "metrics.json").read_text())
    assert again == full | {"ttft_s": 2}


def test_another_kind_of_score_is_refused(tiny_recipe, own_data):
    for name in ("ser", "asr_", "asr_Voice", "aac2", "xasr", "asr-voice"):
        with pytest.raises(InputError, match=rf"data.test: no test set can be named '{name}'; name it asr or aac, or"):
            read_recipe(tiny_recipe, [f"data.test.{name}={own_data}/test_asr.json"])


def test_a_limit_a_kind_or_a_split_does_not_cost_what_there_is(tiny_recipe, recipe, generated, own_data, monkeypatch):
    def stand_in(references, texts):  # Java takes seconds
        assert references == [["a dog is barking", "a dog is barking loudly"]] * 2
        return SimpleNamespace(summary=lambda: {"cider_d": 1.0, "clips": len(texts)})

    monkeypatch.setattr(distill.scoring.evaluation, "score_captions", stand_in)
    both = read_recipe(tiny_recipe, [f"data.test.aac={own_data}/test_aac.json"])
    evaluate(both, "teacher", selection=Selection(names=("asr",)))
    few = evaluate(both, "teacher", selection=Selection(names=("asr",), limit=2))
    assert few["asr"]["clips"] == 2 and len(generated) == 4 and len(lines(both)) == 4
    metrics = evaluate(both, "teacher", selection=Selection(names=("aac",)))
    assert metrics["asr"] == few["asr"] and metrics["aac"]["clips"] == 2 and len(generated) == 6
    assert [entry["kind"] for entry in metrics["examples"]] == ["asr", "asr", "aac", "aac"]
    held_out = evaluate(both, "teacher", selection=Selection(split="valid"))
    assert held_out["asr"]["clips"] == 2 and "aac" not in held_out
    assert (both.results_dir / "valid" / "teacher" / "metrics.json").is_file() and len(lines(both)) == 6
    with pytest.raises(InputError, match="valid sets have no rows for aac"):
        evaluate(both, "teacher", selection=Selection(names=("aac",), split="valid"))


@pytest.fixture
def several(tiny_recipe, measured, own_data):
    """The tiny recipe with a part of its speech as a set of its own before the whole: the ids are the same."""
    rows = json.loads((own_data / "test_asr.json").read_text())["annotation"][1:3]
    (own_data / "voice.json").write_text(json.dumps({"annotation": rows}))
    files = {"asr_voice": f"{own_data}/voice.json", "asr": f"{own_data}/test_asr.json"}
    return read_recipe(tiny_recipe, [f"data.test={json.dumps(files)}"])


def test_sets_of_a_kind_are_written_scored_and_kept_apart(several, recipe, generated):
    old = evaluate(recipe, "teacher")
    assert old["asr"]["kind"] == "asr" and {line.get("set") for line in lines(recipe)} == {None}
    generated.clear()
    metrics = evaluate(several, "teacher", selection=Selection(("asr_voice",)))
    assert sorted(generated) == ["test_asr_1", "test_asr_2"]  # what is there of another set stays
    assert [key for key in metrics if key.startswith("asr")] == ["asr_voice", "asr"]
    assert metrics["asr"] == old["asr"] and metrics["asr_voice"]["clips"] == 2
    assert [entry.get("set", entry["kind"]) for entry in metrics["examples"]] == ["asr_voice"] * 2 + ["asr"] * 4
    generated.clear()
    assert evaluate(several, "teacher")["asr_voice"] == metrics["asr_voice"] and generated == []
    written = {(line["kind"], line.get("set"), line["id"]): line["hypothesis"] for line in lines(several)}
    assert len(written) == 6 and written["asr", "asr_voice", "test_asr_1"] == written["asr", None, "test_asr_1"]
    for entry in (by_set := {name: metrics[name] for name in ("asr_voice", "asr")}).values():
        assert entry["kind"] == "asr" and entry["capped_wer"] <= 1
    assert by_set["asr_voice"]["data"] != by_set["asr"]["data"]
    # A set that is no longer the recipe's is no longer told of.
    assert "asr_voice" not in evaluate(recipe, "teacher")


def test_each_set_has_a_submission_of_its_own(several):
    paths = submit(several, "teacher", None, Selection(answers=False))
    assert [path.name for path in paths] == ["submission_asr_voice.csv", "submission_asr.csv"]
    assert [len(path.read_text().splitlines()) for path in paths] == [3, 5]


def test_another_text_of_a_row_is_written_for_anew_with_its_batch(recipe, generated, own_data):
    evaluate(recipe, "teacher")
    file = own_data / "test_asr.json"
    content = json.loads(file.read_text())
    content["annotation"][2]["text"] = "rain"
    file.write_text(json.dumps(content))
    generated.clear()
    evaluate(recipe, "teacher")
    assert sorted(generated) == [f"test_asr_{i}" for i in range(4)] and len(lines(recipe)) == 4


@pytest.mark.parametrize("texts", [True, False])
def test_a_clip_of_several_rows_is_written_for_once_and_submitted_for_each(
    tiny_recipe, measured, own_data, generated, monkeypatch, texts
):
    monkeypatch.setattr(distill.scoring.evaluation, "score_captions", lambda *_: SimpleNamespace(summary=dict))
    rows = [
        {"path": f"sounds/test_aac_{clip}.wav", "task": "audiocaption", "id": f"row {clip} {reference}"}
        | {"testset_id": f"test{10 * reference + clip:04}"}
        | ({"text": f"a dog barks {reference} times"} if texts else {})
        for reference in range(3)
        for clip in range(2)
    ]
    (own_data / "captions.json").write_text(json.dumps({"annotation": rows}))
    recipe = read_recipe(tiny_recipe, [f"data.test.aac={own_data}/captions.json"])
    (path,) = submit(recipe, "teacher", None, Selection(("aac",), answers=False))
    assert sorted(generated) == ["row 0 0", "row 1 0"]
    written = {line["id"]: line["hypothesis"] for line in lines(recipe)}
    submitted = [line.split(",", 1) for line in path.read_text().splitlines()[1:]]
    assert [name for name, _ in submitted] == ["test0000", "test0001", "test0010", "test0011", "test0020", "test0021"]
    assert check_submission(path, read_held_out(recipe, f"{own_data}/captions.json", texts=False)) == 6
    for name, text in submitted:
        assert text == (" ".join(written[f"row {name[-1]} 0"].split()) or ".")
    generated.clear()
    (path,) = submit(recipe, "teacher", None, Selection(("aac",), limit=1, answers=False))
    assert [line[:8] for line in path.read_text().splitlines()[1:]] == ["test0000", "test0010", "test0020"]
    if texts:  # scoring takes them as they are, and a submission those of scoring
        evaluate(recipe, "teacher", selection=Selection(("aac",)))
        submit(recipe, "teacher", None, Selection(("aac",), answers=False))
    assert generated == [] and {line["id"]: line["hypothesis"] for line in lines(recipe)} == written


def test_a_submission_needs_no_answers_and_names_every_row(recipe, own_data):
    file = own_data / "test_asr.json"
    content = json.loads(file.read_text())
    for number, row in enumerate(content["annotation"]):
        row["testset_id"] = f"test{7 - number:04}"
        del row["text"]
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match='the key "text" is missing'):
        evaluate(recipe, "teacher")
    (path,) = submit(recipe, "teacher", None, Selection(answers=False))
    written = path.read_text().splitlines()
    assert path.name == "submission_asr.csv" and written[0] == "testset_id,text"
    assert [line[:9] for line in written[1:]] == ["test0007,", "test0006,", "test0005,", "test0004,"]
    assert not (recipe.results_dir / "teacher" / "metrics.json").exists()
    content["annotation"][1]["testset_id"] = "test7"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r'row "test_asr_1": testset_id "test7" is not "test" and four digits'):
        submit(recipe, "teacher", None, Selection(answers=False))


def test_two_processes_write_one_file(recipe, tmp_path):
    rows = Selection().rows(recipe)["asr"]
    path, barrier = tmp_path / "hypotheses.jsonl", Barrier(2, timeout=20)

    def run(rank, texts):
        with HypothesisWriter(path, "one", {}, rank, 2, barrier.wait) as writer:
            todo = [row for row in rows if not writer.has("asr", [row], "batch")][rank::2]
            for row, text in zip(todo, texts, strict=False):
                writer.append("asr", Hypothesis(row, text, -0.5, 0.1), "batch")
        return writer, [row.id for row in todo]

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, (0, 1), (["a\u2028a"], ["b"])))  # each stops after its first
    path.with_name("hypotheses.1.jsonl").write_text(path.read_text().split("\n")[1] + '\n{"id": "{}')
    with ThreadPoolExecutor(2) as pool:
        (writer, first), (_, second) = pool.map(run, (0, 1), (["c"], ["d"]))
    assert (first, second) == (["test_asr_2"], ["test_asr_3"])
    assert writer.texts("asr", rows) == ["a\u2028a", "b", "c", "d"]
    assert [found.name for found in tmp_path.glob("hypotheses*")] == ["hypotheses.jsonl"]
    assert len(path.read_text().removesuffix("\n").split("\n")) == 4
    with HypothesisWriter(path, "one", {}) as writer:
        assert writer.has("asr", rows, "batch") and not writer.has("asr", rows[:1], "other")
    with HypothesisWriter(path, "another", {}) as writer:
        assert not any(writer.has("asr", [row], "batch") for row in rows)
    assert path.read_text() == ""


def spoil(own_data, kind, number, how):
    """Makes a clip of a test set one that cannot be heard."""
    path = own_data / "sounds" / f"test_{kind}_{number}.wav"
    if how == "missing":
        path.unlink()
    elif how == "silent":
        soundfile.write(path, np.zeros(16_000), 16_000)
    elif how == "broken":
        path.write_bytes(b"no sound")
    elif how == "nothing":
        soundfile.write(path, [], 16_000)
    elif how == "short":  # 1.6 s are stated
        soundfile.write(path, np.ones(4000), 16_000)
    elif how == "nan":
        soundfile.write(path, np.full(16_000, np.nan), 16_000, subtype="FLOAT")


@pytest.mark.parametrize("how", ["missing", "silent", "broken", "nan", "nothing", "short"])
def test_a_clip_that_cannot_be_heard_is_an_empty_text_counted_and_told(tiny_recipe, measured, own_data, how, capsys):
    recipe = read_recipe(tiny_recipe)
    file = own_data / "test_asr.json"
    entries = json.loads(file.read_text())["annotation"]
    stated = [entry | {"duration": seconds} for entry, seconds in zip(entries, (1.0, 2.3, 1.6, 1.4), strict=True)]
    file.write_text(json.dumps({"annotation": stated}))
    before = evaluate(recipe, "teacher")
    texts = {line["id"]: line["hypothesis"] for line in lines(recipe)}
    spoil(own_data, "asr", 2, how)
    again = read_recipe(tiny_recipe, ["name=spoilt"])
    capsys.readouterr()
    metrics = evaluate(again, "teacher")
    assert metrics["asr"]["unreadable"] == {"clips": 1, "ids": ["test_asr_2"]}
    assert (metrics["asr"]["clips"], metrics["asr"]["ref_words"]) == (4, before["asr"]["ref_words"])
    assert "asr: 1 of 4 clips cannot be heard and count as empty texts: test_asr_2 (" in capsys.readouterr().out
    assert {line["id"]: line["hypothesis"] for line in lines(again)} == texts | {"test_asr_2": ""}
    (path,) = submit(again, "teacher", None, Selection(answers=False))
    assert path.read_text().splitlines()[3] == "test0002,."
    status = metrics["asr"]["worst"]
    assert next(entry for entry in status if entry["id"] == "test_asr_2")["errors"] == 6


def test_a_wrong_folder_is_told_before_a_model_is_loaded(recipe, own_data, monkeypatch):
    monkeypatch.setattr(distill.scoring.evaluation, "load_for_scoring", lambda *_: pytest.fail("a model is loaded"))
    for number in range(4):
        spoil(own_data, "asr", number, "missing")
    with pytest.raises(InputError, match=r"the asr set: 4 of 4 clips cannot be heard.*test_asr_0.wav"):
        evaluate(recipe, "teacher")
    (own_data / "test_asr.json").unlink()
    with pytest.raises(InputError, match=r"test_asr.json: no such annotation file"):
        evaluate(recipe, "teacher")


def test_a_row_that_cannot_be_asked_about_is_told_before_a_model_is_loaded(
    tiny_recipe, measured, own_data, monkeypatch
):
    monkeypatch.setattr(distill.scoring.evaluation, "load_for_scoring", lambda *_: pytest.fail("a model is loaded"))
    recipe = read_recipe(tiny_recipe, [f"data.test.aac={own_data}/test_aac.json", 'data.prompts={"asr": ["write"]}'])
    with pytest.raises(InputError, match="no prompt for task 'audiocaption'"):
        evaluate(recipe, "teacher")


def test_texts_are_those_of_the_tokenizer_and_channels_at_hand(recipe, generated, tiny_recipe, tiny_teacher):
    save_student(recipe, tiny_teacher)
    folder = recipe.run_dir / "model"
    before = evaluate(recipe, "student")["identity"]
    mixed = read_recipe(tiny_recipe, ["data.mono=mix"])
    generated.clear()
    assert evaluate(mixed, "student")["identity"] != before and len(generated) == 4
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    generated.clear()
    other = evaluate(recipe, "student")["identity"]
    assert other != before and len(generated) == 4
    (folder / "pytorch_model.bin").write_bytes(b"weights")
    assert evaluate(recipe, "student")["identity"] not in (before, other)
