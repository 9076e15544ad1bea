import json
from pathlib import Path

import pytest
from pydantic import Field

from data.errors import InputError
from data.settings import Settings, read_settings


class Stage(Settings):
    steps: int = Field(ge=1)
    rate: float = 0.1


class Loop(Settings):
    stages: tuple[Stage, ...]
    betas: tuple[float, float] = (0.9, 0.98)


class Plan(Settings):
    name: str
    loop: Loop
    best: Stage | None = None
    other: dict[str, str] = Field(default_factory=dict)


PLAN = {"name": "plan", "loop": {"stages": [{"steps": 1}, {"steps": 2, "rate": 1}]}}


@pytest.fixture
def read(tmp_path):
    def read(plan, *overrides):
        path = tmp_path / "plan.json"
        path.write_text(plan if isinstance(plan, str) else json.dumps(plan))
        return read_settings(Plan, path, overrides)

    return read


def test_a_recipe_is_read_and_frozen(read):
    plan = read(PLAN)
    assert [stage.rate for stage in plan.loop.stages] == [0.1, 1.0]
    with pytest.raises(ValueError, match="frozen"):
        plan.name = "another"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"nmae": "plan"}, "unknown key 'nmae'; did you mean 'name'?"),
        ({"loop": {"stages": [{"steps": 1}], "beta": [1, 2]}}, "unknown key 'loop.beta'; did you mean 'betas'?"),
        ({"loop": {"stages": [{"steps": 1, "rats": 1}]}}, "unknown key 'loop.stages.0.rats'; did you mean 'rate'?"),
        ({"best": {"steps": 1, "xyz": 1}}, "unknown key 'best.xyz'; known here: steps, rate"),
        ({"loop": {}}, "key 'loop.stages' is missing; add it"),
        ({"loop": {"stages": [{"steps": 1.5}]}}, r"'loop.stages.0.steps'.*integer \(it is 1.5\)"),
        ({"loop": {"stages": [{"steps": "1"}]}}, r"'loop.stages.0.steps'.*integer \(it is '1'\)"),
        ({"loop": {"stages": [{"steps": 0}]}}, "greater than or equal to 1"),
        ({"name": 7}, "key 'name'.*string"),
        ({"best": 7}, "key 'best'"),
        ({"other": {"asr": 1}}, "key 'other.asr'.*string"),
    ],
)
def test_what_does_not_fit_is_one_line_with_file_key_and_mend(read, change, line):
    with pytest.raises(InputError, match=f"plan.json: .*{line.replace('?', chr(92) + '?')}") as caught:
        read(PLAN | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '"text"',
        pytest.param("[" * 10**5, id="deep"),
        '{"name": "a", "name": "a"}',
        '{"loop": {"stages": [{"steps": 1, "steps": 2}]}}',
    ],
)
def test_a_file_that_is_no_recipe_is_refused(read, text):
    with pytest.raises(InputError, match=r"plan.json: (not valid JSON|a recipe is one JSON object)"):
        read(text)


def test_bytes_that_are_no_text_and_files_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"absent.json: no such recipe; the repository's are in configs/"):
        read_settings(Plan, tmp_path / "absent.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"bytes.json: not valid JSON"):
        read_settings(Plan, tmp_path / "bytes.json")
    with pytest.raises(InputError, match=str(tmp_path)):
        read_settings(Plan, tmp_path)
    with pytest.raises(InputError, match="no such recipe"):
        read_settings(Plan, tmp_path / "a\0b.json")
    with pytest.raises(InputError, match="/dev/zero: a recipe is one JSON object"):
        read_settings(Plan, Path("/dev/zero"))


def test_overrides_are_json_where_they_are_and_reach_into_sections_and_lists(read):
    plan = read(
        PLAN,
        "name=a = b",
        "loop.stages.1.steps=5",
        "loop.betas=[0.5, 0.6]",
        'best={"steps": 3}',
        "best.rate=2",
        "other.asr=file.json",
    )
    assert plan.name == "a = b"
    assert plan.loop.stages[1].steps == 5 and plan.loop.stages[0].steps == 1
    assert plan.loop.betas == (0.5, 0.6)
    assert plan.best == Stage(steps=3, rate=2.0)
    assert plan.other == {"asr": "file.json"}
    assert read(PLAN | {"best": {"steps": 1}}, "best=null").best is None


@pytest.mark.parametrize(
    ("assignment", "line"),
    [
        ("name", "--set name: write it as section.key=value"),
        ("=3", "--set =3: write it as section.key=value"),
        ("name.first=x", "--set name.first=x: what 'first' is to be looked up in is neither a section nor a list"),
        ("loop.stages.7.steps=1", "--set loop.stages.7.steps=1: '7' is no entry of a list of 2"),
        (f"loop.stages.{'9' * 5000}.steps=1", "9' is no entry of a list of 2"),
        ("loop.stages.\u00b2.steps=1", "'\u00b2' is no entry of a list of 2"),
        ("loop.stages.first.steps=1", "--set loop.stages.first.steps=1"),
        ("loop.stages.9=1", "--set loop.stages.9=1"),
        ("loop.stage.0.steps=1", "unknown key 'loop.stage'; did you mean 'stages'?"),
        ("name=3", "key 'name'.*string"),
        ('other={"asr": "a", "asr": "b"}', '--set other=.*: the key "asr" is there twice; mend it'),
        ('best={"steps": 1, "steps": 2}', 'the key "steps" is there twice'),
        pytest.param("loop.betas=" + "[" * 10**5, "nested too deep; mend it", id="deep"),
    ],
)
def test_an_override_that_cannot_be_is_refused(read, assignment, line):
    with pytest.raises(InputError, match=line.replace("?", r"\?")):
        read(PLAN, assignment)
