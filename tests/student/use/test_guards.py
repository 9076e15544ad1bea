import numpy as np
import pytest
import torch

from student.use.guards import Stops, StopsCircling, circling
from student.use.streaming import TextStreamer, pumped


@pytest.mark.parametrize(
    ("ids", "again"),
    [
        ([], 0),
        ([5] * 12, 0),
        ([5] * 13, 12),
        ([1, 2, 9, *[5] * 20], 19),
        ([7, *[1, 2, 3] * 4], 0),
        ([7, *[1, 2, 3] * 5], 12),
        ([7, *[1, 2, 3] * 5, 1], 13),
        ([*range(10)] * 3, 0),
        ([*range(10)] * 4, 30),
        ([*[1, 2, 3] * 5, 4], 0),
        (list(range(100)), 0),
    ],
)
def test_a_text_in_circles_is_seen(ids, again):
    assert circling(ids) == again
    assert StopsCircling()(torch.tensor([ids, ids]).long(), None).tolist() == [again > 0] * 2


WORDS = ["no", " no", " yes", ".", " \u00e9", "t", "\u00e9", " 1", " 2", "\u5b57"]


def decode(ids):
    return "".join(WORDS[i] for i in ids).strip()


def streamed(ids):
    """What a streamer has said after each id."""
    said, pieces = [], []
    streamer = TextStreamer(decode, 99, pieces.append)
    streamer.put(torch.zeros(1, 0))
    for i in ids:
        streamer.put(torch.tensor([i]))
        said.append("".join(pieces))
    return streamer, pieces, said


@pytest.mark.parametrize("seed", range(20))
def test_what_was_said_is_never_taken_back(seed):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, len(WORDS), rng.integers(0, 12)).tolist()
    circle = rng.integers(0, len(WORDS), rng.integers(1, 8)).tolist()
    ids += circle * rng.integers(1, 12)
    stops = next((n for n in range(1, len(ids) + 1) if circling(ids[:n])), None)
    ids = ids[:stops] if stops else ids
    text = decode(ids[: len(ids) - circling(ids)])
    streamer, pieces, said = streamed(ids)
    assert all(text.startswith(part) for part in said)
    streamer.say(text)
    assert "".join(pieces) == text


def test_words_come_once_they_are_whole():
    _, _, said = streamed([0, 2, 7, 3, 8])
    assert said == ["", "no", "no yes", "no yes", "no yes 1."]


def test_a_worker_left_early_is_told_and_waited_for():
    seen = []

    def work(put, stops):
        for i in range(10_000_000):
            put(i)
            if stops(torch.zeros(1, 1), None).item():
                seen.append(i)
                return

    pieces = pumped(work)
    assert [next(pieces), next(pieces)] == [0, 1]
    pieces.close()
    assert len(seen) == 1 and seen[0] < 9_999_999


def test_what_goes_wrong_in_a_worker_is_raised():
    def work(put, stops):
        put(1)
        raise OSError("broken")

    pieces = pumped(work)
    assert next(pieces) == 1
    with pytest.raises(OSError, match="broken"):
        next(pieces)
    assert not Stops.now
