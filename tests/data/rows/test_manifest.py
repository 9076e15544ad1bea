import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import InputError
from data.hashing import hash_of
from data.rows.annotation import write_annotation
from data.rows.identity import RowsDigest
from data.rows.json_stream import stream_list
from data.rows.manifest import Manifest, fingerprint_of, joined, read_manifest
from data.rows.manifest_writer import write_manifest
from data.rows.row import Row


@pytest.fixture
def folder(tmp_path):
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, np.full(24_000, 0.1), 16_000)
    return tmp_path


def annotation(folder, *entries):
    path = folder / "rows.json"
    path.write_text(json.dumps({"annotation": list(entries)}))
    return path


A = {"path": "a.wav", "text": "hello", "task": "asr"}
B = {"path": "b.wav", "text": "a dog", "task": "audiocaption"}


def test_reads_what_is_written(folder):
    rows = [
        Row("one", folder / "a.wav", "hello", "asr", "words", 1.5),
        Row("two", folder / "b.wav", "a dog", "QA", "sounds", 1.5, ("a dog", "the dog"), "What is it?", "test0001"),
        Row("three", folder / "b.wav", "a cat", "QA", "sounds", 0.75, start_s=0.25, end_s=1.0),
    ]
    write_annotation(folder / "rows.json", rows, folder)
    assert list(read_manifest(folder / "rows.json")) == rows


def test_slash_root_id_and_duration_are_filled_in(folder, tmp_path_factory):
    path = annotation(folder, {**A, "path": "/a.wav"}, {**A, "path": "/a.wav", "text": "hallo"}, {**A, "task": "QA"})
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "rows.json"
    path.rename(elsewhere)
    rows = read_manifest(elsewhere, root=folder)
    assert [row.path for row in rows] == [folder / "a.wav"] * 3
    assert [row.id for row in rows] == ["a.wav#asr", "a.wav#asr#2", "a.wav#QA"]
    assert [row.duration_s for row in rows] == [1.5] * 3


@pytest.mark.parametrize("key", ["path", "text", "task"])
def test_missing_key(folder, key):
    path = annotation(folder, A, {name: value for name, value in B.items() if name != key})
    with pytest.raises(InputError, match=f'rows.json, row 1: the key "{key}" is missing; add it'):
        read_manifest(path)


def test_null_is_no_key(folder):
    absent = dict.fromkeys(("id", "corpus", "Q", "testset_id", "references", "start", "end", "duration"))
    whole = list(read_manifest(annotation(folder, A, B)))
    assert list(read_manifest(annotation(folder, {**A, **absent}, B))) == whole
    with pytest.raises(InputError, match='row 0: the key "text" is missing'):
        read_manifest(annotation(folder, {**A, "text": None}))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"path": "c.wav"}, 'row 1: "path" names .*c.wav, which does not exist'),
        ({"text": 3}, 'row 1: "text" must be a string, not 3'),
        ({"id": ["x"]}, 'row 1: "id" must be a string'),
        ({"references": "a dog"}, 'row 1: "references" must be a list of strings'),
        ({"references": [1]}, 'row 1: "references" must be a list of strings'),
        ({"duration": "2"}, 'row 1: "duration" must be seconds'),
        ({"duration": -1}, 'row 1: "duration" must be seconds'),
        ({"start": 1, "end": 0.5}, 'row 1: "end" must come after "start"'),
        ({"path": "rows.json"}, 'row 1: "path" names .*rows.json: cannot be read as sound'),
        ({"id": "one"}, 'row 1: id "one" is there twice'),
    ],
)
def test_bad_values_name_file_row_and_key(folder, change, told):
    path = annotation(folder, {**A, "id": "one"}, {**B, **change})
    with pytest.raises(InputError, match=f"rows.json, {told}") as error:
        read_manifest(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"annotation": [\n{"path": }]}', "line 2: not JSON"),
        (b"", "line 1: not JSON"),
        (b"[]", 'must be {"annotation"'),
        (b'{"annotation": {}}', 'must be {"annotation"'),
        (b'{"annotation": ["a.wav"]}', "row 0: must be an object"),
        (b"\xff\xfe", "cannot be read"),
        (b'{"annotation": []} {}', "line 1: not JSON .Extra data"),
        (b'{"annotation": [\n, {}]}', "line 2: not JSON"),
        (b'{"root": 3, "annotation": []}', '"root" must be a folder, not 3'),
    ],
)
def test_bad_files(tmp_path, content, told):
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=told):
        read_manifest(path)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"rows\.json: no such annotation file"):
        read_manifest(tmp_path / "rows.json")


def test_failed_writing_leaves_nothing(folder):
    with pytest.raises(ValueError):
        write_annotation(folder / "rows.json", [Row("x", folder.parent / "out.wav", "a", "asr")], folder)
    assert sorted(path.name for path in folder.iterdir()) == ["a.wav", "b.wav"]


def test_the_root_stands_in_the_file(folder, tmp_path):
    rows = [Row("one", folder / "a.wav", "hello", "asr", duration_s=1.5)]
    write_annotation(tmp_path / "lists" / "rows.json", rows, folder)
    assert list(read_manifest(tmp_path / "lists" / "rows.json")) == rows
    write_annotation(folder / "rows.json", rows, folder)
    assert "root" not in json.loads((folder / "rows.json").read_text())


# Arrow


@pytest.fixture
def lists(folder, tmp_path):
    """Two annotation files over one folder of sounds, and one over another; with and without what a row can have."""
    (tmp_path / "other").mkdir()
    soundfile.write(tmp_path / "other" / "c.wav", np.full((8_000, 2), 0.1), 8_000)
    first = annotation(folder, {**A, "id": "1", "duration": 9}, B, {**B, "references": ["a dog", "the dog"]})
    second = tmp_path / "other" / "more.json"
    rows = [{"path": "c.wav", "text": " ", "task": "QA", "Q": "who?", "start": 0.25, "corpus": "others"}]
    second.write_text(json.dumps({"annotation": [*rows, {**rows[0], "text": "me", "end": 0.75, "id": "2"}]}))
    return [first, second]


def test_an_arrow_file_holds_the_rows_of_annotation_files(lists, tmp_path):
    written = write_manifest(lists, tmp_path / "all" / "rows.arrow", workers=1)
    assert (written.rows, written.left_out, written.list.exists()) == (5, 0, False)
    mapped = read_manifest(tmp_path / "all" / "rows.arrow")
    together = joined([read_manifest(path) for path in lists])
    # The header is right, not the annotation.
    assert [row.duration_s for row in mapped] == [1.5, 1.5, 1.5, 0.75, 0.5]
    assert list(mapped)[1:] == list(together)[1:] and mapped[0].path == together[0].path
    assert written.seconds == pytest.approx(5.75) == sum(mapped.durations_s)
    assert list(mapped.values("sample_rate")) == [16_000] * 3 + [8_000] * 2
    assert list(mapped.values("channels")) == [1] * 3 + [2] * 2
    assert len(set(mapped.values("fingerprint"))) == 2  # a and b are equal
    assert mapped.fingerprint() == fingerprint_of(list(mapped)) == Manifest(mapped.table, mapped.root).fingerprint()
    assert read_manifest(tmp_path / "all" / "rows.arrow", root=tmp_path / "moved")[0].path.parts[-2] != "all"


def test_rows_are_chosen_by_column(lists, tmp_path):
    write_manifest(lists, tmp_path / "rows.arrow", workers=1)
    mapped = read_manifest(tmp_path / "rows.arrow")
    rows = list(mapped)
    for chosen, expected in (
        (mapped[:2], rows[:2]),
        (mapped[1:].where(mapped[1:].with_text), [rows[1], rows[2], rows[4]]),
        (mapped.where(mapped.among("task", ["QA"])), rows[3:]),
        (mapped.where(mapped.among("task", ["QA"]))[1:], rows[4:]),
        (mapped.where(np.zeros(5, bool)), []),
    ):
        assert list(chosen) == expected == [chosen[i] for i in range(len(chosen))]
        assert list(chosen.values("id")) == [row.id for row in expected]
        assert chosen.durations_s.tolist() == [row.duration_s for row in expected]
        assert chosen.fingerprint() == fingerprint_of(expected)
        order = sorted(range(len(expected)), key=lambda i: (-expected[i].duration_s, expected[i].id))
        assert chosen.longest_first().tolist() == order
    assert mapped[-1] == rows[-1] and mapped[:] is mapped and mapped[:9] is mapped
    with pytest.raises(IndexError):
        mapped[5]
    with pytest.raises(ValueError):
        mapped[::-1]


def test_the_fingerprint_of_plain_rows_is_that_of_the_caches_that_are_there(folder):
    rows = read_manifest(annotation(folder, A, B))
    listed = [[row.id, row.path.name, row.task, row.text, round(row.duration_s, 3)] for row in rows]
    assert rows.fingerprint() == hash_of(listed)
    digest = RowsDigest()
    for _ in range(2500):
        for row in rows:
            digest.add(row.id, row.path.name, row.task, row.text, row.duration_s, "", 0.0, 0.0, "first")
    assert digest.hexdigest() == hash_of(listed * 2500) != RowsDigest().hexdigest() == hash_of([])


def test_sounds_that_cannot_be_read_are_left_out_and_listed(folder, lists):
    (folder / "b.wav").write_text("no sound")
    written = write_manifest(lists, folder / "rows.arrow", workers=1)
    assert (written.rows, written.left_out) == (3, 2)
    listed = [json.loads(line) for line in written.list.read_text().splitlines()]
    assert all(
        entry["path"].endswith("b.wav") and entry["reason"].startswith("cannot be read as sound") for entry in listed
    )
    (folder / "a.wav").unlink()
    with pytest.raises(InputError, match="none of its sound files can be read below"):
        write_manifest(lists[:1], folder / "other.arrow", workers=1)
    assert not list(folder.glob(".*")) and not (folder / "other.arrow").exists()


def test_an_id_in_two_files_is_refused(lists, folder):
    with pytest.raises(InputError, match=r'rows\.json, row 0: id "1" is there twice'):
        write_manifest([lists[0], lists[0]], folder / "rows.arrow", workers=1)
    with pytest.raises(InputError, match='id "1" is in two of them'):
        joined([read_manifest(lists[0])] * 2)


def test_no_manifest(folder, lists):
    with pytest.raises(InputError, match="no such manifest"):
        read_manifest(folder / "none.arrow")
    write_manifest(lists, folder / "rows.arrow", workers=1)
    whole = (folder / "rows.arrow").read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"{}"):
        (folder / "cut.arrow").write_bytes(content)
        with pytest.raises(InputError, match=r"cut\.arrow: not a whole Arrow file"):
            read_manifest(folder / "cut.arrow")
    with pytest.raises(InputError, match=r"ends in \.arrow"):
        write_manifest(lists, folder / "rows.parquet")


def test_the_measurement_measures(command, tmp_path):
    options = ["--rows", 300, "--files", 7, "--folder", tmp_path, "--out", tmp_path / "manifest.md"]
    status, out, err = command("distill/bench/manifest.py", *options)
    assert status == 0, err
    tenth, whole = json.loads((tmp_path / "manifest.json").read_text())
    assert (tenth["rows"], whole["rows"]) == (30, 300) and whole["annotation_bytes"] > 5 * tenth["annotation_bytes"]
    assert all(of[name] > 0 for of in (tenth, whole) for name in ("convert_s", "open_s", "peak_bytes", "file_bytes"))
    assert "| 300 |" in out and out.splitlines()[0] == "# Manifests"


# A long list in JSON, item by item.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200)
@given(
    items=st.lists(JSON, max_size=6),
    before=st.dictionaries(st.text().filter(lambda key: key != "rows"), JSON, max_size=3),
    indent=st.sampled_from([None, 1]),
    block=st.integers(1, 40),
)
def test_a_list_is_streamed_whatever_the_window(items, before, indent, block):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "rows.json"
        path.write_text(json.dumps(before | {"rows": items, "after": items}, indent=indent), encoding="utf-8")
        patch.setattr("data.rows.json_stream._BLOCK", block)
        found, read = {}, []
        assert list(stream_list(path, "rows", before=found, on_bytes=read.append)) == items
        assert found == before and sum(read) == path.stat().st_size


def test_what_does_not_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("data.rows.json_stream._BLOCK", 10)
    monkeypatch.setattr("data.rows.json_stream.LONGEST_ITEM", 1000)
    path = tmp_path / "rows.json"
    path.write_text('{"rows": [1,\n"' + 5000 * "x")
    with pytest.raises(InputError, match=r"line 2: not JSON .Unterminated string"):
        list(stream_list(path, "rows"))
    with pytest.raises(InputError, match=r'must be {"rows": \[...\]}'):
        path.write_text('{"row": []}')
        list(stream_list(path, "rows"))
