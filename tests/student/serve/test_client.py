"""The official client works against the server, unchanged."""

import base64
import io

import numpy as np
import openai
import pytest
import soundfile

from student.use.formats import formatted
from tests.conftest import sound
from tests.student.serve.conftest import RATE, running, wav


@pytest.fixture
def long():
    """35 s with pauses, as a file."""
    pause, file = np.zeros(int(0.8 * RATE), np.float32), io.BytesIO()
    wave = np.concatenate([part for i in range(7) for part in (sound(4 + i % 3 / 2, i), pause)])
    soundfile.write(file, wave, RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def heard(client, content, **options):
    return client.audio.transcriptions.create(model="tiny", file=("../../a.wav", content), **options)


def asked(client, content, *texts, **options):
    audio = {"type": "input_audio", "input_audio": {"data": base64.b64encode(content).decode(), "format": "wav"}}
    content = [audio, *({"type": "text", "text": text} for text in texts)]
    return client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": content}], **options)


def test_models(client):
    (model,) = client.models.list().data
    assert model.id == "tiny" and model.tasks["transcribe"] == {"trained": True}
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="there is tiny"):
        client.models.retrieve("another")


def test_a_transcript_in_each_format(client, tiny_lm, long):
    for content, forms in ((wav(2), ("text", "srt", "vtt")), (long, ("srt",))):
        result = tiny_lm.transcribe(content)
        assert result.text
        assert heard(client, content).text == result.text
        for form in forms:
            assert heard(client, content, response_format=form) == formatted(result, form)
        verbose = heard(
            client, content, response_format="verbose_json", timestamp_granularities=["segment"], language="en"
        )
        assert verbose.text == result.text and verbose.duration == pytest.approx(result.seconds, abs=1e-3)
        assert len(verbose.segments) == len(result.segments) and verbose.usage.seconds == verbose.duration
        for segment, expected in zip(verbose.segments, result.segments, strict=True):
            assert segment.text == expected.text
            assert (segment.start, segment.end) == pytest.approx((expected.start_s, expected.end_s), abs=1e-3)
            assert segment.avg_logprob == pytest.approx(expected.logp, abs=1e-3)


def test_a_transcript_as_it_is_written(client, tiny_lm, long):
    result = tiny_lm.transcribe(long)
    *deltas, done = heard(client, long, stream=True)
    assert {event.type for event in deltas} == {"transcript.text.delta"} and len(deltas) > len(result.segments)
    assert "".join(event.delta for event in deltas) == done.text == result.text
    assert done.type == "transcript.text.done"
    events = list(heard(client, long, stream=True, timestamp_granularities=["segment"]))
    segments = [event for event in events if event.type == "transcript.text.segment"]
    assert [event.text for event in segments] == [segment.text for segment in result.segments]


def test_no_more_is_heard_at_once_than_the_model_has_learnt(client, tiny_lm):
    content = wav(15)  # of which 10 s are heard at once
    segments = heard(client, content, response_format="verbose_json").segments
    assert len(segments) == 2
    assert [segment.text for segment in segments] == [of.text for of in tiny_lm.transcribe(content).segments]
    assert asked(client, content).choices[0].message.content == tiny_lm.caption(content).text


def test_times_and_segments_are_told_at_the_end_of_a_stream(client, tiny_lm, long):
    *_, done = heard(client, long, stream=True)
    assert done.timing["tpot_s"] > 0 and 0 < done.timing["ttft_s"] < 60
    chunks = list(asked(client, long, stream=True))
    assert chunks[-1].timing["tpot_s"] > 0 and not hasattr(chunks[0], "timing")
    segments = [chunk.segment for chunk in chunks if hasattr(chunk, "segment")]
    captions = tiny_lm.caption(long).segments
    assert [(of["id"], of["text"]) for of in segments] == [(i, of.text) for i, of in enumerate(captions)]
    assert [of["start"] for of in segments] == pytest.approx([of.start_s for of in captions], abs=1e-3)


def test_silence_has_an_empty_text(client):
    file = io.BytesIO()
    soundfile.write(file, np.zeros(2 * RATE), RATE, format="WAV")
    assert heard(client, file.getvalue()).text == ""
    (done,) = heard(client, file.getvalue(), stream=True)
    assert done.text == "" and done.timing == {"ttft_s": None, "tpot_s": None}


def test_captions_and_answers(client, tiny_lm):
    content = wav(2)
    caption = asked(client, content)
    assert caption.choices[0].message.content == tiny_lm.caption(content).text
    cut = "cut" in tiny_lm.caption(content).flags
    assert caption.choices[0].finish_reason == ("length" if cut else "stop")
    answer = asked(client, content, "which animal is it?").choices[0].message.content
    assert answer == tiny_lm.ask(content, "which animal is it?").text != caption.choices[0].message.content
    own = {task: use.instruction for task, use in tiny_lm.usage.tasks.items()}
    assert asked(client, content, own["transcribe"]).choices[0].message.content == tiny_lm.transcribe(content).text
    assert asked(client, content, own["caption"]).choices[0].message.content == tiny_lm.caption(content).text


def test_an_answer_as_it_is_written(client, tiny_lm):
    content = wav(3)
    chunks = list(asked(client, content, "who?", stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == tiny_lm.ask(content, "who?").text and chunks[-1].choices[0].finish_reason in ("stop", "length")


def test_a_bound_of_tokens_ends_the_text(client, tiny_lm):
    content = wav(3)
    short = asked(client, content, max_completion_tokens=2)
    whole = tiny_lm.caption(content).text
    text = short.choices[0].message.content
    assert short.choices[0].finish_reason == "length" and whole.startswith(text) and len(text) < len(whole)


def test_with_beams_all_is_the_same(tiny_lm, long):
    from student import AudioLM

    beams = AudioLM(tiny_lm.model, tiny_lm.processor, tiny_lm.usage.model_copy(update={"num_beams": 2}))
    with (
        running({"tiny": beams, "greedy": tiny_lm}) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        *deltas, done = heard(client, long, stream=True)
        assert "".join(event.delta for event in deltas) == done.text == beams.transcribe(long).text
        assert [model.id for model in client.models.list().data] == ["tiny", "greedy"]


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities"),
        ({"language": "de"}, "language"),
        ({"temperature": 0.4}, "temperature"),
        ({"prompt": "names: Ada"}, "prompt"),
        ({"include": ["logprobs"]}, "include"),
        ({"response_format": "diarized_json"}, "response_format"),
        ({"extra_body": {"new": 1}}, "new"),
    ],
)
def test_what_would_mean_another_text_is_refused(client, options, param):
    with pytest.raises(openai.BadRequestError) as refused:
        heard(client, wav(1), **options)
    assert refused.value.param == param and refused.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": 0.7}, "temperature"),
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"messages": [{"role": "user", "content": "hello"}]}, "messages.0.content"),
        ({"messages": [{"role": "system", "content": "be short"}]}, "messages.0.role"),
        ({"messages": []}, "messages"),
    ],
)
def test_in_a_chat_too(client, change, param):
    given = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]} | change
    if "messages" not in change:
        audio = {"data": base64.b64encode(wav(1)).decode(), "format": "wav"}
        given["messages"][0]["content"] = [{"type": "input_audio", "input_audio": audio}]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**given)
    assert refused.value.param == param


def test_a_sound_that_cannot_be_heard_is_told(client):
    with pytest.raises(openai.BadRequestError, match="sound: ") as refused:
        heard(client, b"no sound")
    assert refused.value.code == "invalid_audio" and refused.value.param == "file"
    with pytest.raises(openai.BadRequestError, match="sound: "):
        heard(client, wav(2)[:9000], stream=True)
    with pytest.raises(openai.BadRequestError, match="sound: "):
        asked(client, b"no sound")
