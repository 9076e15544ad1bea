import json

import pytest
import soundfile

from data.corpora.prepare import MISSING, TEXTLESS
from data.errors import InputError
from tests.data.corpora.conftest import written


def wavcaps(root, sound, blacklist=True):
    clips = {
        "AudioSet_SL/as_final.json": [("Yb0.wav", "A dog barks."), ("Yblocked.wav", "A test clip.")],
        "BBC_Sound_Effects/bbc_final.json": [("NHU05104086", "Birds sing."), ("NHU1", "Not fetched.")],
        "FreeSound/fsd_final.json": [("17", "A bell rings."), ("18", "")],
        "SoundBible/sb_final.json": [("17", "Rain falls.")],
    }
    for name, items in clips.items():
        path = root / "json_files" / name
        path.parent.mkdir(parents=True)
        data = [{"id": clip, "caption": caption, "duration": 2.5} for clip, caption in items]
        path.write_text(json.dumps({"num_captions_per_audio": 1, "data": data}))
    for name in ("AudioSet_SL/Yb0", "AudioSet_SL/Yblocked", "BBC_Sound_Effects/NHU05104086", "FreeSound/17"):
        sound(f"Zip_files/{name}.flac")
    sound("Zip_files/SoundBible/mnt/WavCaps/data/waveforms/SoundBible_flac/17.flac")
    if blacklist:
        path = root / "json_files/blacklist/blacklist_exclude_test_ac.json"
        path.parent.mkdir()
        path.write_text(json.dumps({"AudioSet": ["Yblocked.wav"], "FreeSound": []}))
    return root


def test_wavcaps(root, sound, tmp_path):
    made, splits = written("wavcaps", wavcaps(root, sound), tmp_path)
    assert [(row.path.parent.name, row.text) for row in splits["train"]] == [
        ("AudioSet_SL", "A dog barks."),
        ("BBC_Sound_Effects", "Birds sing."),
        ("FreeSound", "A bell rings."),
        ("SoundBible_flac", "Rain falls."),
    ]
    # The JSON says 2.5 s of all of them; the header is right.
    assert all(abs(row.duration_s - soundfile.info(row.path).duration) < 0.001 for row in splits["train"])
    assert made.left_out == {MISSING: 1, TEXTLESS: 1, "that are in a test set of AudioCaps or Clotho": 1}
    assert made.first[MISSING] == "BBC_Sound_Effects/NHU1"
    assert len({row.id for row in splits["train"]}) == 4


def test_without_its_blacklist_it_is_refused(root, sound, tmp_path, command):
    wavcaps(root, sound, blacklist=False)
    with pytest.raises(
        InputError, match=r"no blacklist_exclude_test_ac\.json, so clips of the test sets .*--no-blacklist"
    ):
        written("wavcaps", root, tmp_path)
    _, splits = written("wavcaps", root, tmp_path, blacklist=False)
    assert "A test clip." in [row.text for row in splits["train"]]
    arguments = ["--root", root, "--out", tmp_path / "by command"]
    assert command("scripts/prepare_data.py", "wavcaps", *arguments)[0] == 2
    status, out, _ = command("scripts/prepare_data.py", "wavcaps", *arguments, "--no-blacklist")
    assert status == 0 and "5 rows (5 audiocaption)" in out
    status, _, err = command("scripts/prepare_data.py", "clotho", *arguments, "--no-blacklist")
    assert status == 2 and "clotho has no such list" in err


@pytest.mark.parametrize(
    "content",
    ['["Yb0"]', '{"AudioSet": 3}', '{"Audioset": ["Yb0"]}', "{", '{"AudioSet": [3]}', "{}", '{"FreeSound": []}'],
)
def test_a_blacklist_that_is_none(root, sound, tmp_path, content):
    (wavcaps(root, sound) / "json_files/blacklist/blacklist_exclude_test_ac.json").write_text(content)
    with pytest.raises(InputError, match=r"blacklist_exclude_test_ac\.json: "):
        written("wavcaps", root, tmp_path)
