import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from student.use.formats import formatted, stamp
from student.use.results import Segment, result_of

TIME = r"(\d\d+):(\d\d):(\d\d)([,.])(\d{3})"
texts = st.text(alphabet=st.characters(exclude_categories=("Cs", "Cc")), max_size=30)
spans = st.tuples(st.floats(0, 100), st.floats(0, 30), texts)


def seconds(match) -> float:
    hours, minutes, whole, _, thousandths = match
    assert int(minutes) < 60 and int(whole) < 60
    return 3600 * int(hours) + 60 * int(minutes) + int(whole) + int(thousandths) / 1000


@given(milliseconds=st.integers(0, 10**9), point=st.sampled_from(",."))
def test_a_time_reads_back(milliseconds, point):
    (found,) = re.findall(f"^{TIME}$", stamp(milliseconds, point))
    assert round(1000 * seconds(found)) == milliseconds and found[3] == point


@pytest.mark.parametrize(("how", "point"), [("srt", ","), ("vtt", ".")])
@given(parts=st.lists(spans, max_size=6))
def test_subtitles_are_in_order_and_hold_every_text(how, point, parts):
    segments, at = [], 0.0
    for gap, length, text in parts:
        segments.append(Segment(at + gap, at + gap + length, text))
        at += gap + length
    page = formatted(result_of("transcribe", segments, at), how)
    times = re.findall(f"^{TIME} --> {TIME}$", page, re.MULTILINE)
    spoken = [segment for segment in segments if segment.text.split()]
    assert len(times) == len(spoken)
    before = 0.0
    for time, segment in zip(times, spoken, strict=True):
        start, end = seconds(time[:5]), seconds(time[5:])
        assert before <= start < end and time[3] == time[8] == point
        assert abs(start - segment.start_s) < 0.01 and abs(end - segment.end_s) < 0.01
        before = end
    blocks = [block for block in page.split("\n\n") if block and block != "WEBVTT"]
    assert len(blocks) == len(spoken), "a blank line would end a subtitle"
    for block, segment in zip(blocks, spoken, strict=True):
        shown = block.split("\n")[-1]
        if how == "vtt":
            assert "<" not in shown and "-->" not in shown
            shown = shown.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        assert shown == " ".join(segment.text.split())


def test_text_and_json():
    segments = [Segment(0.1, 1.0, "a b", ("cut",), -0.5), Segment(2.0, 2.5, "", ("silence",)), Segment(3.0, 4.0, "c")]
    result = result_of("caption", segments, 5.0)
    assert formatted(result, "text") == "a b\nc\n" and result.flags == ("cut",)
    found = json.loads(formatted(result, "json"))
    assert found["text"] == "a b\nc" and found["seconds"] == 5.0 and found["flags"] == ["cut"]
    assert found["segments"][0] == {"start_s": 0.1, "end_s": 1.0, "text": "a b", "flags": ["cut"], "logp": -0.5}


def test_nothing_at_all_is_silence():
    assert result_of("transcribe", [], 3.0).flags == ("silence",)
