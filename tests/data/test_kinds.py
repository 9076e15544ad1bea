import pytest

from data.kinds import KINDS, kind_of, named, own_name, set_of


@pytest.mark.parametrize(
    ("name", "kind", "own"),
    [
        ("asr", "asr", ""),
        ("aac", "aac", ""),
        ("asr_speakers", "asr", "speakers"),
        ("aac_far_field_2", "aac", "far field 2"),
    ],
)
def test_a_test_set_is_named_by_its_kind_and_a_name_of_its_own(name, kind, own):
    assert (kind_of(name), own_name(name)) == (kind, own)
    assert named(name) == ({"kind": kind} if name in KINDS else {"kind": kind, "set": name})
    assert set_of(named(name)) == name


@pytest.mark.parametrize("name", ["", "ser", "asr_", "asr_Voice", "aac2", "xasr", "asr-voice", "asr_a\n", "asr_\u00e9"])
def test_other_names_are_of_no_kind(name):
    assert kind_of(name) is None


def test_an_entry_that_names_no_set_is_of_none():
    assert set_of({"id": "a"}) is None
