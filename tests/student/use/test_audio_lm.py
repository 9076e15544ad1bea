import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor

from data.errors import InputError
from data.sound.audio import load_audio
from student import AudioLM
from student.use.guards import circling
from student.use.results import Result, Segment
from student.use.sounds import as_sound
from student.use.usage import read_usage, usage_of
from teacher.hypotheses import GenerationSettings, generate_texts
from teacher.model import SalmonnForConditionalGeneration
from teacher.processor import Clip, SalmonnProcessor
from tests.conftest import sound

RATE = 16_000


@pytest.fixture
def files(tmp_path):
    """Sounds of 2 s, silence, 45 s with pauses, and one word of 0.4 s."""
    pause = np.zeros(int(0.8 * RATE), np.float32)
    waves = {
        "short": sound(2, 1),
        "silence": np.zeros(3 * RATE, np.float32),
        "long": np.concatenate([part for i in range(9) for part in (sound(4 + i % 3 / 2, i), pause)]),
        "word": np.concatenate([pause, sound(0.4, 4), pause]),
    }
    for name, wave in waves.items():
        soundfile.write(tmp_path / f"{name}.wav", wave, RATE, subtype="PCM_16")
    return {name: tmp_path / f"{name}.wav" for name in waves}


def test_a_clip_has_the_text_that_is_scored(tiny_lm, files):
    model, processor = tiny_lm.model, tiny_lm.processor
    wave = load_audio(files["short"])
    batch = processor([Clip(wave, "transcribe")])
    use = tiny_lm.usage.tasks["transcribe"]
    caps = type(use)(**use.model_dump())
    settings = _Beams(caps)
    ((text, logp, ended),) = generate_texts(model, processor, batch, model.audio_tokens(batch), [2.0], settings)
    result = tiny_lm.transcribe(files["short"])
    (segment,) = result.segments
    assert result.text == segment.text == text and segment.logp == pytest.approx(logp, abs=1e-5)
    assert segment.flags == (() if ended else ("cut",)) and result.seconds == 2
    assert (segment.start_s, segment.end_s) == pytest.approx((0, 2), abs=0.04)


class _Beams:
    num_beams = 1

    def __init__(self, caps):
        self.cap = caps.cap


def test_a_rate_of_numpys_is_a_rate():
    sound = as_sound((np.zeros((8, 2), np.int16), np.int64(8000)))
    assert sound.rate == 8000 and sound.seconds == 0.001


def test_a_batch_has_the_texts_of_each_sound_alone(tiny_lm, files):
    given = [files["long"], files["silence"], files["short"], files["word"], files["short"]]
    together = tiny_lm.transcribe(given)
    alone = [tiny_lm.transcribe(path) for path in given]
    for one, other in zip(together, alone, strict=True):
        assert [(s.text, s.start_s, s.end_s, s.flags) for s in one.segments] == [
            (s.text, s.start_s, s.end_s, s.flags) for s in other.segments
        ]
        assert one.text == other.text
    long, silence, _, word, _ = together
    assert len(long.segments) == 9 and long.text and len({s.text for s in long.segments}) > 1
    assert silence == Result("", (), 3.0) and silence.flags == ("silence",)
    assert len(word.segments) == 1 and word.segments[0].start_s == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize("task", ["transcribe", "caption", "ask"])
@pytest.mark.parametrize("beams", [1, 2])
def test_what_is_streamed_is_the_whole(tiny_lm, files, task, beams):
    usage = tiny_lm.usage.model_copy(update={"num_beams": beams})
    lm = AudioLM(tiny_lm.model, tiny_lm.processor, usage)
    question = ("how many?",) if task == "ask" else ()
    result = getattr(lm, task)(files["long"], *question)
    pieces = list(getattr(lm, task)(files["long"], *question, stream=True))
    assert "".join(piece.text for piece in pieces) == result.text
    segments = [piece.segment for piece in pieces if piece.segment]
    assert [(s.text, s.start_s, s.flags) for s in segments] == [(s.text, s.start_s, s.flags) for s in result.segments]
    if beams == 1 and task == "transcribe":
        assert sum(bool(piece.text) for piece in pieces) > len(segments)


def test_a_sound_may_be_given_in_any_form(tiny_lm, files):
    path = files["short"]
    stored, rate = soundfile.read(path, dtype="int16")
    expected = tiny_lm.transcribe(path).text
    content = path.read_bytes()
    with open(path, "rb") as opened:
        for given in (str(path), content, io.BytesIO(content), opened, (stored, rate), (stored / 2**15, rate)):
            assert tiny_lm.transcribe(given).text == expected
    for given in (3, (stored, "fast"), io.StringIO("text")):
        with pytest.raises(InputError, match="no sound"):
            tiny_lm.transcribe([given])


def test_a_sound_that_cannot_be_heard_is_told_in_its_place(tiny_lm, files, tmp_path):
    (tmp_path / "bad.wav").write_text("no sound")
    whole = files["long"].read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    given = [files["short"], tmp_path / "bad.wav", files["word"], tmp_path / "cut.wav", files["short"]]
    seconds = []
    found = list(tiny_lm.results(given, "transcribe", heard=seconds.append))
    faulty = [isinstance(result, InputError) for result in found]
    assert faulty == [False, True, False, True, False]
    assert found[0].text == found[4].text and "bad.wav" in str(found[1]) and "truncated" in str(found[3])
    assert sum(seconds) >= sum(of.seconds for of in found if isinstance(of, Result)) - 1e-6
    with pytest.raises(InputError, match=r"bad\.wav"):
        tiny_lm.transcribe(given)


@pytest.mark.parametrize(("margin_s", "largest"), [(None, 2), (0.1, 4)])
def test_a_batch_is_as_large_as_what_is_heard_allows(tiny_lm, files, monkeypatch, margin_s, largest):
    """Of a model without a margin each stretch is filled up to 30 s."""
    monkeypatch.setattr(tiny_lm.processor.config, "margin_s", margin_s)
    lm = AudioLM(tiny_lm.model, tiny_lm.processor, tiny_lm.usage.model_copy(update={"max_seconds": 60.0}))
    batches = []

    def segments(asked):
        batches.append([stretch.seconds for stretch, _ in asked])
        return [Segment(of.start_s, of.end_s, "text") for of, _ in asked]

    monkeypatch.setattr(lm.writer, "segments", segments)
    results = list(lm.results([files["short"], files["word"], files["short"], files["long"]], "transcribe"))
    assert [len(of.segments) for of in results] == [1, 1, 1, 9]
    padded = [len(batch) * min(max(batch) + (30 if margin_s is None else margin_s), 30) for batch in batches]
    assert max(padded) <= 60 and max(map(len, batches)) >= largest and sum(map(len, batches)) == 12
    assert all(batch == sorted(batch, reverse=True) for batch in batches)


def test_captions_and_answers_are_of_windows(tiny_lm, files):
    found = tiny_lm.caption(files["long"])
    assert len(found.segments) == 5 and all(of.end_s - of.start_s <= 10 for of in found.segments)
    assert found.segments[0].end_s == found.segments[1].start_s
    assert found.text == "\n".join(segment.text for segment in found.segments if segment.text)
    assert tiny_lm.caption(files["silence"]).flags == ("silence",)
    assert tiny_lm.ask(files["short"], "who?").text != tiny_lm.ask(files["short"], "which bell is it?").text


@pytest.mark.parametrize("ask", [lambda lm, of: lm.ask(of, " "), lambda lm, of: lm.stream(of, "caption", "who?")])
def test_a_question_belongs_to_asking(tiny_lm, files, ask):
    with pytest.raises(InputError, match="ask"):
        ask(tiny_lm, files["short"])


def test_a_text_that_goes_in_circles_is_stopped_and_told(tiny_lm, files, monkeypatch):
    head, decoded = tiny_lm.model.llm.get_output_embeddings(), tiny_lm.processor.decode
    with torch.no_grad():
        head.weight.zero_()  # every logit is 0, and the first id is always chosen
    monkeypatch.setattr(tiny_lm.processor, "decode", lambda ids: ["x" * int(ids.numel())])
    tasks = {"transcribe": tiny_lm.usage.tasks["transcribe"].model_copy(update={"tokens_per_second": None})}
    lm = AudioLM(tiny_lm.model, tiny_lm.processor, tiny_lm.usage.model_copy(update={"tasks": tasks}))
    result = lm.transcribe([files["short"], files["word"]])
    assert [(of.text, of.flags) for of in result] == [("x", ("repeats",))] * 2
    assert circling([0] * 13) == 12 and decoded is not None
    capped = tiny_lm.usage.tasks["transcribe"].model_copy(update={"max_new_tokens": 5})
    lm = AudioLM(tiny_lm.model, tiny_lm.processor, tiny_lm.usage.model_copy(update={"tasks": {"transcribe": capped}}))
    assert lm.transcribe(files["short"]).flags == ("cut",)


def test_what_was_saved_is_loaded(tiny_lm, files, tmp_path):
    tiny_lm.save_pretrained(tmp_path / "run" / "model")
    loaded = AudioLM.load(tmp_path / "run" / "model", dtype="fp32")
    assert loaded.usage == tiny_lm.usage
    assert loaded.transcribe(files["long"]).text == tiny_lm.transcribe(files["long"]).text
    assert not loaded.model.config.adapted and not loaded.model.training
    with pytest.raises(InputError, match="no trained model there"):
        AudioLM.load(tmp_path / "run")
    with pytest.raises(InputError, match="dtype 'int3'"):
        AudioLM.load(tmp_path / "run" / "model", dtype="int3")


def test_all_of_it_goes_to_a_hub_with_its_card(tiny_lm, tmp_path, monkeypatch):
    tiny_lm.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("the card")
    sent = {}

    def upload(api, *, repo_id, folder_path, commit_message):
        sent[repo_id] = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        return SimpleNamespace(commit_url="there")

    made = SimpleNamespace(repo_id="somebody/tiny")
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda api, name, **options: made)
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload)
    assert AudioLM.load(tmp_path, dtype="fp32").push_to_hub("tiny") == "there"
    files = sent["somebody/tiny"]
    assert files["README.md"] == b"the card" and {"model.safetensors", "config.json", "usage.json"} <= set(files)
    assert files["usage.json"] == (tmp_path / "usage.json").read_bytes()


@pytest.mark.parametrize(
    ("trained_s", "caps", "heard_s"),
    [(3, {}, 10), (17.31, {}, 17.3), (90, {}, 30), (25, {"tokens_per_second": 5, "max_new_tokens": 80}, 16)],
)
def test_as_much_is_heard_at_once_as_in_training(trained_s, caps, heard_s):
    usage = usage_of({"asr": ("transcribe",)}, GenerationSettings(**caps), learnt={"asr": trained_s})
    assert usage.tasks["transcribe"].longest_s == heard_s and usage.tasks["ask"].longest_s == 15


def test_transformers_own_classes_load_it(tiny_lm, tmp_path):
    tiny_lm.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).model_type == "salmonn"
    model = AutoModel.from_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert type(model) is SalmonnForConditionalGeneration and type(processor) is SalmonnProcessor
    batch = processor([Clip(sound(1.2, 1), "transcribe")])
    assert torch.equal(model.eval().generate(batch, max_new_tokens=4), tiny_lm.model.generate(batch, max_new_tokens=4))


def test_a_folder_of_before_is_asked_as_its_recipe_says(tiny_lm, tiny_recipe, tmp_path, capsys):
    tiny_lm.save_pretrained(tmp_path / "run" / "model")
    (tmp_path / "run" / "model" / "usage.json").unlink()
    usual = read_usage(tmp_path / "run" / "model")
    assert "no usage.json" in capsys.readouterr().err
    assert usual.tasks["ask"].trained and usual.tasks["transcribe"].instruction.endswith("transcription.")
    shutil.copy(tiny_recipe, tmp_path / "run" / "recipe.json")
    usage = read_usage(tmp_path / "run" / "model")
    assert not capsys.readouterr().err
    assert {task: use.instruction for task, use in usage.tasks.items()} == {
        "transcribe": "transcribe",
        "caption": "describe the sound",
        "ask": "{}",
    }
    assert usage.tasks["caption"].max_new_tokens == 8 and not usage.tasks["ask"].trained
    (tmp_path / "run" / "recipe.json").write_text('{"data": {"prompts": {"asr": 3}}, "generation": {}}')
    with pytest.raises(InputError, match=r"recipe\.json: no recipe that can be read"):
        read_usage(tmp_path / "run" / "model")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not valid JSON"),
        ("[]", "a usage is one JSON object"),
        (json.dumps({"format": 2, "tasks": {}}), "format"),
        (json.dumps({"tasks": {"transcribe": {"instruktion": "x"}}}), "instruktion"),
    ],
)
def test_a_broken_usage_is_named(tmp_path, content, complaint):
    (tmp_path / "usage.json").write_text(content)
    with pytest.raises(InputError, match=complaint):
        read_usage(tmp_path)
