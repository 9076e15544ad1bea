import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import InputError
from data.hashing import hash_of
from data.rows.annotation import write_annotation
from data.rows.faults import Thresholds
from data.rows.identity import RowsDigest
from data.rows.json_stream import stream_list
from data.rows.manifest import Manifest, fingerprint_of, joined, sounds_of
from data.rows.manifest_reader import read_manifest
from data.rows.manifest_writer import write_manifest
from data.rows.row import Row
from data.scan.report import report_of
from data.sound.audio import load_clip


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
        (b'{"root": "a\\u0000", "annotation": []}', 'rows.json: "root" holds a NUL character'),
        (b'{"root": "a\\ud800", "annotation": []}', 'rows.json: "root" holds half a character'),
        (b'{"annotation": [null]}', "row 0: must be an object"),
        (b'{"annotation": [{"path": "a", "path": "b"}]}', 'line 1: not JSON .the key "path" is there twice'),
        (b'{"annotation": [], "annotation": []}', 'the key "annotation" is there twice'),
        (b'{"root": ".", "annotation": [], "root": ".."}', 'the key "root" is there twice'),
        (b'{"annotation": [' + b"[" * 100_000, "line 1: not JSON .nested too deep"),
        (b'{"annotation": [{"duration": 1' + b"0" * 5_000 + b"}]}", "line 1: not JSON .Exceeds the limit"),
        (b'{"annotation": [], 1: 2}', "line 1: not JSON"),
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


def test_the_root_may_stand_behind_the_rows(folder, tmp_path):
    path = tmp_path / "lists" / "rows.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"annotation": [A, B], "root": str(folder)}))
    assert [row.path for row in read_manifest(path)] == [folder / "a.wav", folder / "b.wav"]
    assert report_of(path, None, Thresholds(), decode=False, quiet=True).classes["missing_file"] == []
    path.write_text(json.dumps({"annotation": [A], "root": str(folder), "more": [[1]]}).replace("]]", "]]" + " " * 9))
    with pytest.raises(InputError, match=r'does not exist|"root" must come first'):
        read_manifest(path)
    soundfile.write(path.parent / "a.wav", np.full(24_000, 0.1), 16_000)
    with pytest.raises(InputError, match='"root" must come first; move it before "annotation"'):
        read_manifest(path)


def test_whole_paths_are_below_the_root_or_what_they_are(folder, tmp_path):
    (folder / "sub").mkdir(exist_ok=True)
    elsewhere = annotation(folder, {**A, "path": str(folder / "a.wav")}, {**B, "path": "/b.wav"})
    elsewhere = elsewhere.rename(folder / "sub" / "rows.json")
    for root in (folder, None):
        if root is None:
            (folder / "sub" / "b.wav").write_bytes((folder / "b.wav").read_bytes())
        rows = read_manifest(elsewhere, root)
        assert [row.path for row in rows] == [folder / "a.wav", (root or folder / "sub") / "b.wav"]
        other = annotation(folder, {**A, "id": "other"})
        assert [row.path for row in joined([rows, read_manifest(other)])][:2] == [row.path for row in rows]
        write_manifest([elsewhere], folder / "lists" / "rows.arrow", root, workers=1)
        assert list(read_manifest(folder / "lists" / "rows.arrow")) == list(rows)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"refernces": ["x"]}, 'row 1: unknown key "refernces"; did you mean "references"'),
        ({"Duration": 1.0}, 'row 1: unknown key "Duration"; did you mean "duration"'),
        ({"ID": "x"}, 'row 1: unknown key "ID"; did you mean "id"'),
        ({"offset": 0.5}, 'row 1: "offset" is "start" here'),
        ({"expand_wav": ["b.wav"]}, 'row 1: "expand_wav" joins more files'),
        ({"duration": 10**400}, 'row 1: "duration" must be seconds'),
        ({"text": "\ud800"}, 'row 1: "text" holds half a character'),
        ({"id": "\udcff"}, 'row 1: "id" holds half a character'),
        ({"path": "a\udc80.wav"}, 'row 1: "path" holds half a character'),
        ({"references": ["\ud800"]}, 'row 1: "references" holds half a character'),
        ({"path": "a\0.wav"}, 'row 1: "path" holds a NUL character'),
        ({"path": ""}, 'row 1: "path" names .* does not exist'),
    ],
)
def test_keys_that_are_no_keys_and_values_that_nothing_holds(folder, change, told):
    with pytest.raises(InputError, match=f"rows.json, {told}") as error:
        read_manifest(annotation(folder, A, {**B, **change}))
    assert "\n" not in str(error.value) and str(error.value).encode()


def test_other_keys_are_named_once(folder, capsys):
    path = annotation(folder, A, {**B, "speaker": "me", "gender": None}, {**A, "speaker": "you"})
    path.write_text(path.read_text().replace('{"annotation"', '{"licence": "none", "annotation"'))
    for _ in range(2):
        assert len(read_manifest(path)) == 3
    told = capsys.readouterr().err
    assert told.count("\n") == 2 and "gender" not in told
    assert '"speaker" (row 1)' in told and '"licence" (outside of the rows)' in told
    path.write_text(path.read_text().replace("licence", "Root"))
    with pytest.raises(InputError, match=r'rows\.json, outside of the rows: unknown key "Root"; did you mean "root"'):
        read_manifest(path)


# Arrow


@pytest.fixture
def lists(folder, tmp_path):
    """Two annotation files over one folder of sounds, and one over another; with and without what a row can have."""
    (tmp_path / "other").mkdir()
    soundfile.write(tmp_path / "other" / "c.wav", np.full((8_000, 2), 0.1), 8_000)
    first = annotation(folder, {**A, "id": "1", "duration": 1.5}, B, {**B, "references": ["a dog", "the dog"]})
    second = tmp_path / "other" / "more.json"
    rows = [{"path": "c.wav", "text": " ", "task": "QA", "Q": "who?", "start": 0.25, "corpus": "others"}]
    second.write_text(json.dumps({"annotation": [*rows, {**rows[0], "text": "me", "end": 0.75, "id": "2"}]}))
    return [first, second]


def test_an_arrow_file_holds_the_rows_of_annotation_files(lists, tmp_path):
    written = write_manifest(lists, tmp_path / "all" / "rows.arrow", workers=1)
    assert (written.rows, written.left_out, written.list.exists()) == (5, 0, False)
    mapped = read_manifest(tmp_path / "all" / "rows.arrow")
    together = joined([read_manifest(path) for path in lists])
    assert [row.duration_s for row in mapped] == [1.5, 1.5, 1.5, 0.75, 0.5]
    assert list(mapped) == list(together)
    assert written.seconds == pytest.approx(5.75) == sum(mapped.durations_s)
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


def test_the_fingerprint_is_a_hash_of_the_rows_as_json(folder):
    rows = read_manifest(annotation(folder, {**A, "duration": 1.5}, {**B, "duration": 1.5}))
    listed = [[row.id, row.path.name, row.task, row.text, round(row.duration_s, 3)] for row in rows]
    assert rows.fingerprint() == hash_of(listed)
    digest = RowsDigest()
    for _ in range(2500):
        for row in rows:
            digest.add(row.id, row.path.name, row.task, row.text, row.duration_s, "", 0.0, 0.0, "first")
    assert digest.hexdigest() == hash_of(listed * 2500) != RowsDigest().hexdigest() == hash_of([])


def test_other_sounds_under_the_same_names_are_known_where_their_content_is(folder):
    def sounds():
        path = annotation(folder, A, B)
        write_manifest([path], folder / "rows.arrow", workers=1)
        plain, mapped = read_manifest(path), read_manifest(folder / "rows.arrow")
        assert plain.fingerprint() == mapped.fingerprint() != mapped.with_mono("mix").fingerprint()
        assert sounds_of(mapped) == sounds_of(mapped.with_mono("mix")) == sounds_of(list(mapped)) and not sounds_of(
            plain
        )
        return sounds_of(mapped), sounds_of(mapped[:1])

    before = sounds()
    soundfile.write(folder / "b.wav", np.full(24_000, 0.2), 16_000)
    after = sounds()
    assert after[0] != before[0] and after[1] == before[1]


@pytest.mark.parametrize(
    ("times", "told"),
    [
        ({"duration": 0.1}, '"duration" is 0.1 s, but there are 1.50 s of sound in .*a.wav'),
        ({"duration": 1500}, '"duration" is 1500 s, but there are 1.50 s'),
        ({"duration": 0}, '"duration" is 0 s, but there are 1.50 s'),
        ({"duration": 1.5, "start": 1}, '"duration" is 1.5 s, but there are 0.50 s'),
        ({"end": 100}, '"end" is 100 s, but .*a.wav ends at 1.50 s'),
        ({"start": 2, "end": 3}, '"start" is 2 s, but .*a.wav ends at 1.50 s'),
    ],
)
def test_a_length_that_is_not_the_sounds_is_refused_or_corrected(folder, times, told):
    path = annotation(folder, {**A, "duration": 1.45}, B, {**A, **times})
    with pytest.raises(InputError, match=f"rows.json, row 2: {told}"):
        read_manifest(path)
    written = write_manifest([path], folder / "rows.arrow", workers=1)
    assert written.corrected + written.left_out == 1
    true_s = min(times.get("end", 1.5), 1.5) - times.get("start", 0)
    kept = [1.5, 1.5, true_s] if true_s > 0 else [1.5, 1.5]
    assert read_manifest(folder / "rows.arrow").durations_s.tolist() == kept


def test_of_many_rows_some_are_compared_and_the_others_when_they_are_heard(folder, monkeypatch):
    monkeypatch.setattr("data.rows.manifest_reader.SPOT_CHECKED", 3)
    rows = [{**A, "duration": 1.5} for _ in range(9)]
    rows[3]["duration"] = 15.0
    (wrong,) = read_manifest(annotation(folder, *rows))[3:4]
    with pytest.raises(InputError, match=r"a\.wav: 1\.50 s are heard, where row .* states 15 s"):
        load_clip(wrong)
    rows[4]["duration"] = 15.0  # the middle one is looked at
    with pytest.raises(InputError, match='row 4: "duration" is 15 s'):
        read_manifest(annotation(folder, *rows))


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


def test_no_manifest_is_made_of_no_rows(tmp_path):
    (tmp_path / "empty.json").write_text('{"annotation": []}')
    with pytest.raises(InputError, match=r"empty\.json: no rows; there is nothing to make a manifest of"):
        write_manifest([tmp_path / "empty.json"], tmp_path / "a.arrow", workers=1)
    assert not (tmp_path / "a.arrow").exists()


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


def rewritten(path, about, **columns):
    """A manifest with other columns, or with something else known of it."""
    table = read_manifest(path).table
    for name, values in columns.items():
        at = table.column_names.index(name)
        table = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
    path = path.with_name("other.arrow")
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
        writer.write_batch(pa.RecordBatch.from_pylist([], table.schema), custom_metadata=about)
    return path


@pytest.mark.parametrize(
    ("about", "columns", "told"),
    [
        ({"root": "."}, {}, "not a whole Arrow file .*fingerprint"),
        ({"root": "a\0b", "fingerprint": ""}, {}, "null"),
        ({"root": b"\xff", "fingerprint": ""}, {}, "utf-8"),
        ({}, {}, "not a manifest of this version"),
        (None, {"id": ["a", None]}, "id of a row is null"),
        (None, {"references": [["x"], [None]]}, "references of a row is null"),
        (None, {"duration_s": [1.0, float("nan")]}, "duration_s of a row is no number of seconds"),
        (None, {"end_s": [-1.0, 0.0]}, "end_s of a row is no number of seconds"),
    ],
)
def test_a_manifest_that_nobody_wrote_is_refused(folder, lists, about, columns, told):
    write_manifest(lists[:1], folder / "rows.arrow", workers=1)
    columns = {name: (values * 9)[: len(read_manifest(folder / "rows.arrow"))] for name, values in columns.items()}
    about = {"root": ".", "fingerprint": ""} if about is None else about
    with pytest.raises(InputError, match=rf"other\.arrow: .*{told}.*make it again"):
        read_manifest(rewritten(folder / "rows.arrow", about, **columns))


def test_a_damaged_place_of_a_text_does_not_lead_out_of_memory(folder, lists):
    write_manifest(lists, folder / "rows.arrow", workers=1)
    texts = ["x" * (77 + number) for number in range(len(read_manifest(folder / "rows.arrow")))]
    path = rewritten(folder / "rows.arrow", {"root": ".", "fingerprint": ""}, text=texts)
    assert [row.text for row in read_manifest(path)] == texts
    whole = path.read_bytes()
    reader = pa.ipc.open_file(pa.BufferReader(whole))
    offsets = reader.get_batch(0).column("text").buffers()[1].to_pybytes()[:12]
    assert whole.count(offsets) == 1
    path.unlink()  # what is mapped stays as it is
    path.write_bytes(whole.replace(offsets, offsets[:4] + b"\xff\xff\xff\x7f" + offsets[8:]))
    with pytest.raises(InputError, match=r"other\.arrow: not a whole Arrow file"):
        read_manifest(path)


def test_a_flipped_bit_is_told_or_changes_nothing(folder, lists):
    path = folder / "rows.arrow"
    write_manifest(lists, path, workers=1)
    whole, content = list(read_manifest(path)), path.read_bytes()
    fingerprint, rng, told = read_manifest(path).fingerprint(), np.random.default_rng(0), 0
    for at in rng.integers(0, len(content), 400).tolist():
        path.unlink()  # what is mapped stays as it is
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << rng.integers(8)]) + content[at + 1 :])
        try:
            found = read_manifest(path)
        except InputError as error:
            assert str(error).startswith(f"{path}: ") and "make it again" in str(error)
            told += 1
            continue
        # The root and the rows' hash are looked at where they are used: sounds are not there, a cache is of other rows.
        if found.root == folder.resolve() and found.fingerprint() == fingerprint:
            assert list(found) == whole, at
    assert told > 200


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


def test_an_annotation_of_no_rows_is_a_manifest_of_none(tmp_path):
    (tmp_path / "empty.json").write_text('{"annotation": []}')
    assert len(read_manifest(tmp_path / "empty.json")) == 0
