"""Ids of rows that state none: one rule for what reads rows and what scans them, in time linear in the rows."""

import json
import random

import pytest

from data.errors import InputError
from data.rows.identity import FreeNames, Ids
from data.scan.report import raw_rows


def name_from_the_start(entry: dict, before: list[str]) -> str:
    """The rule by definition: the first number that is free, looked for from the start."""
    name = first = entry.get("id") or f"{entry['path']}#{entry['task']}"
    number = 1
    while name in before:
        number += 1
        name = f"{first}#{number}"
    return name


@pytest.mark.parametrize("seed", range(20))
def test_made_ids_have_the_first_free_number_beside_ids_that_are_given(tmp_path, seed):
    draw = random.Random(seed)
    given = [f"a.wav#asr{end}" for end in ("#2", "#3", "#5", "#2#2", "")] + ["a.wav#asr#2#asr", "b.wav#QA#2"]
    draw.shuffle(given)
    paths = [draw.choice(["a.wav", "b.wav", "a.wav#asr#2"]) for _ in range(60)]
    entries = [{"path": path, "task": draw.choice(["asr", "QA"]), "text": "x"} for path in paths]
    for place in sorted(draw.sample(range(60), len(given))):
        entries[place]["id"] = given.pop()
    expected: list[str] = []
    for entry in entries:  # an id that was made before is no longer free to be given
        if entry.get("id") in expected:
            del entry["id"]
        expected.append(name_from_the_start(entry, expected))
    ids = Ids()
    assert [ids.take("here", {"id": "", **entry}) for entry in entries] == expected
    (tmp_path / "rows.json").write_text(json.dumps({"annotation": entries}))
    assert [name for name, *_ in raw_rows(tmp_path / "rows.json", None)[1]] == expected
    with pytest.raises(InputError, match="is there twice"):
        ids.take("here", {"id": expected[-1]})


def test_rows_of_one_recording_are_named_in_linear_time():
    asked, taken = [], set()

    def is_free(name: str) -> bool:
        asked.append(name)
        return name not in taken

    names = FreeNames()
    for _ in range(1000):
        taken.add(names.first("a.wav#asr", is_free))
    assert len(taken) == 1000 and "a.wav#asr#1000" in taken and len(asked) < 2010
