import json
import shutil
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import fsspec
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from data.batches import LengthBatches
from data.errors import InputError
from data.rows.manifest_reader import read_manifest
from data.rows.shard_writer import write_shards
from data.rows.shards import layout_hash, read_member, shard_manifest, shards_of
from data.sound.audio import load_clip
from tests.conftest import SAMPLE_RATE, sound


@pytest.fixture
def annotation(tmp_path, monkeypatch):
    """Twelve sounds of several formats in two folders, with one name twice; one sound has two rows, one a stretch."""
    monkeypatch.setenv("SALMONN_DISTILL_CACHE", str(tmp_path / "cache"))
    entries = []
    for number in range(12):
        name = f"{'ab'[number % 2]}/{number // 2}.{('wav', 'flac', 'ogg')[number % 3]}"
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, sound(1.0 + number / 10, number), SAMPLE_RATE)
        entries.append({"path": name, "text": f"this is {number}", "task": "asr", "id": str(number)})
    entries += [
        {"path": "b/3.flac", "text": "a tone", "task": "audiocaption", "references": ["a tone", "a sound"]},
        {"path": "a/0.wav", "text": "half", "task": "QA", "Q": "how much?", "start": 0.25, "end": 0.75},
    ]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"annotation": entries}))
    return path


@pytest.fixture
def shards(annotation, tmp_path):
    write_shards(read_manifest(annotation), tmp_path / "shards", megabytes=0.1, quiet=True)
    return tmp_path / "shards"


def same(rows, others):
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        assert (row.id, row.path.name, row.text, row.question) == (
            other.id,
            other.path.name,
            other.text,
            other.question,
        )
        assert (row.references, row.duration_s, row.start_s) == (other.references, other.duration_s, other.start_s)
        np.testing.assert_array_equal(load_clip(row), load_clip(other))


def test_rows_and_sounds_are_those_of_the_files(annotation, shards):
    files, packed = read_manifest(annotation), read_manifest(*shard_manifest(str(shards)))
    same(packed, files)
    # What was cached over the files is taken for the shards.
    assert (
        packed.fingerprint()
        == files.fingerprint()
        == packed[:].with_mono("first").where(np.ones(14, bool)).fingerprint()
    )
    numbers = shards_of(packed)
    assert len(set(numbers)) > 2 and set(numbers) == {int(path.stem) for path in shards.glob("*.tar")}
    assert shards_of(packed[3:5]).tolist() == numbers[3:5].tolist()


def test_the_files_need_not_be_there_any_more(annotation, shards, tmp_path):
    waves = [load_clip(row) for row in read_manifest(annotation)]
    for folder in ("a", "b"):
        shutil.rmtree(tmp_path / folder)
    moved = shutil.move(shards, tmp_path / "elsewhere")
    for row, wave in zip(read_manifest(*shard_manifest(str(moved))), waves, strict=True):
        np.testing.assert_array_equal(load_clip(row), wave)


def test_at_an_address(annotation, shards):
    files = fsspec.filesystem("memory")
    files.put(str(shards), "/bucket/train", recursive=True)
    manifest, root = shard_manifest("memory://bucket/train")
    same(read_manifest(manifest, root), read_manifest(annotation))
    assert shard_manifest("memory://bucket/train")[0] == manifest
    files.rm("/bucket/train/000000.tar")
    with pytest.raises(InputError, match=r"memory://bucket/train/000000\.tar: cannot be read"):
        [load_clip(row) for row in read_manifest(manifest, root)]
    with pytest.raises(InputError, match=r"memory://bucket/none/manifest\.arrow: cannot be read"):
        shard_manifest("memory://bucket/none")


def test_a_shard_is_a_tar_of_pairs(annotation, shards, tmp_path):
    rows = {row.id: row for row in read_manifest(annotation)}
    seen = []
    for path in sorted(shards.glob("*.tar")):
        assert path.stat().st_size < 200_000
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            for clip, about in zip(members[::2], members[1::2], strict=True):
                assert clip.name.partition(".")[0] == about.name.partition(".")[0] and about.name.endswith(".json")
                for entry in json.loads(tar.extractfile(about).read())["annotation"]:
                    row = rows[entry["id"]]
                    assert tar.extractfile(clip).read() == row.path.read_bytes()
                    assert (entry["path"], entry["text"]) == (row.path.name, row.text)
                    seen.append(entry["id"])
    assert sorted(seen) == sorted(rows)


@pytest.fixture
def recording(tmp_path):
    """A recording of 70 s of each kind, with stretches, two of which are one, and a row that hears its beginning."""
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 70 * SAMPLE_RATE)
    entries = []
    for name, options in (
        ("long.wav", {"subtype": "PCM_16"}),
        ("long.flac", {"subtype": "PCM_24"}),
        ("long.ogg", {}),
        ("loud.wav", {"subtype": "FLOAT"}),
    ):
        soundfile.write(tmp_path / name, noise * (4 if name == "loud.wav" else 1), SAMPLE_RATE, **options)
        for number, (start, end) in enumerate([(0, 1.5), (61.2345, 63.5), (61.2345, 63.5), (68, None)]):
            entry = {"path": name, "text": f"this is {number}", "task": "asr", "start": start, "end": end}
            entries.append(entry)
    entries.append({"path": "long.wav", "text": "whole", "task": "audiocaption"})
    path = tmp_path / "stretches.json"
    path.write_text(json.dumps({"annotation": entries}))
    return path


def test_stretches_of_a_long_recording_are_cut_out(recording, tmp_path):
    files = read_manifest(recording)
    write_shards(files, tmp_path / "cut", megabytes=0.5, quiet=True)
    packed = read_manifest(*shard_manifest(str(tmp_path / "cut")))
    assert packed.fingerprint() == files.fingerprint() and packed[:3].fingerprint() == files[:3].fingerprint()
    for row, other in zip(packed, files, strict=True):
        exact = other.path.name in ("long.wav", "long.flac", "loud.wav")
        np.testing.assert_allclose(load_clip(row), load_clip(other), rtol=0, atol=0 if exact else 1e-6)
        if other.text != "whole":
            assert len(read_member(row.path).getbuffer()) < 4 * 2.5 * SAMPLE_RATE + 1000
    assert packed[1].path == packed[2].path != packed[0].path
    assert (packed[1].start_s, packed[1].end_s, packed[1].path.name) == (61.2345, 63.5, "long.wav")


def test_what_lies_outside_or_is_no_sound_is_not_packed(annotation, command, tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    soundfile.write(tmp_path / "out.wav", sound(1.0, 0), SAMPLE_RATE)
    (tmp_path / "secret").write_text("a key\n" * 99)
    rows = {"text": "x", "task": "asr", "duration": 1.0}
    for path, told in (
        ("../out.wav", "outside of"),
        ("a/../../out.wav", "outside of"),
        (str(tmp_path / "out.wav"), "outside of"),
        ("secret", "secret: cannot be read as sound"),
    ):
        (inside / "a").mkdir(exist_ok=True)
        (inside / "secret").write_text("a key\n" * 99)
        (inside / "rows.json").write_text(json.dumps({"annotation": [{"path": path, **rows}]}))
        status, _, err = command("scripts/shard_data.py", inside / "rows.json", "--out", tmp_path / "o")
        assert status == 2 and told in err and "Traceback" not in err
        assert not list((tmp_path / "o").glob("*.tar"))
        shutil.rmtree(tmp_path / "o", ignore_errors=True)
        status, _, err = command("scripts/shard_data.py", inside / "rows.json", "--out", tmp_path / "o", "--outside")
        assert status == (2 if path == "secret" else 0), err
        shutil.rmtree(tmp_path / "o", ignore_errors=True)


def test_a_server_without_byte_ranges_is_named(shards, monkeypatch):
    pytest.importorskip("aiohttp")

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(shards))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        rows = read_manifest(*shard_manifest(f"http://127.0.0.1:{server.server_port}"))
        with pytest.raises(InputError, match=r"\.tar: the server gives no byte ranges") as error:
            load_clip(rows[0])
        server.shutdown()
    assert "\n" not in str(error.value)


def test_a_cut_shard_is_named(shards):
    first = sorted(shards.glob("*.tar"))[0]
    first.write_bytes(first.read_bytes()[:2_000])
    rows = read_manifest(*shard_manifest(str(shards)))
    inside = [row for row in rows if row.path.parts[-3] == first.name]
    with pytest.raises(InputError, match=r"000000\.tar: ends before .* does"):
        [read_member(row.path) for row in inside]


def test_writing_goes_on(annotation, tmp_path, monkeypatch):
    from data.rows import shard_writer

    write, made = shard_writer._write_shard, []

    def interrupted(rows, out, *more):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(out.name)
        return write(rows, out, *more)

    rows = read_manifest(annotation)
    monkeypatch.setattr(shard_writer, "_write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_shards(rows, tmp_path / "out", megabytes=0.1, quiet=True)
    with pytest.raises(InputError, match="no such manifest of shards"):
        shard_manifest(str(tmp_path / "out"))
    with pytest.raises(InputError, match="holds shards of other rows, or of another size or seed"):
        write_shards(rows, tmp_path / "out", megabytes=0.2, quiet=True)
    for name, told in (("plan.json", "holds shards of other rows"), (".000000.tar.json", "damaged; remove it")):
        path = tmp_path / "out" / name
        whole = path.read_text()
        for text in ("", "{", "[]", "[[1]]", "[" * 10**5, "null"):
            path.write_text(text)
            with pytest.raises(InputError, match=told):
                write_shards(rows, tmp_path / "out", megabytes=0.1, quiet=True)
        path.write_text(whole)
    again = []
    monkeypatch.setattr(shard_writer, "_write_shard", lambda *args: again.append(args[1].name) or write(*args))
    count = write_shards(rows, tmp_path / "out", megabytes=0.1, quiet=True)
    assert made + again == [f"{number:06d}.tar" for number in range(count)] and len(again) == count - 2
    same(read_manifest(*shard_manifest(str(tmp_path / "out"))), rows)
    assert not list((tmp_path / "out").glob(".*"))


def test_the_command(command, annotation, tmp_path):
    status, out, _ = command("scripts/shard_data.py", annotation, "--out", tmp_path / "out", "--megabytes", 0.1)
    assert status == 0 and "14 rows in" in out
    status, _, err = command("scripts/shard_data.py", annotation, "--out", tmp_path / "out", "--megabytes", 0.1)
    assert status == 2 and "are there already" in err
    status, _, err = command("scripts/shard_data.py", annotation, "--out", tmp_path / "o", "--megabytes", 0)
    assert status == 2 and "must be more than 0" in err


def test_another_layout_is_told_apart(annotation, shards, tmp_path):
    write_shards(read_manifest(annotation), tmp_path / "other", megabytes=0.2, quiet=True)
    hashes = [layout_hash(read_manifest(*shard_manifest(str(folder)))) for folder in (shards, tmp_path / "other")]
    assert hashes[0] != hashes[1] and hashes[0] == layout_hash(read_manifest(*shard_manifest(str(shards))))


ROWS = st.lists(st.tuples(st.floats(0.5, 30), st.integers(0, 9)), min_size=8, max_size=80)


@given(rows=ROWS, seed=st.integers(0, 99), ranks=st.sampled_from([1, 2, 3]), buffer=st.sampled_from([1, 10, 100]))
def test_ranks_share_the_shards_without_overlap_or_loss(rows, seed, ranks, buffer):
    seconds, shards = (np.array(column) for column in zip(*rows, strict=True))
    budget = {"max_seconds": 40.0, "seed": seed, "shards": shards, "buffer_rows": buffer}
    whole = [batch.tolist() for batch in LengthBatches(seconds, **budget)._make(0)]
    assert sorted(row for batch in whole for row in batch) == list(range(len(rows)))
    try:
        each = [LengthBatches(seconds, rank=rank, world=ranks, **budget) for rank in range(ranks)]
    except InputError:
        assert len(whole) < ranks
        return
    steps = [batch for step in range(each[0].steps_per_epoch) for rank in each for batch in rank.step(step)]
    assert steps == whole[: len(steps)] and len(whole) - len(steps) < ranks


def test_batches_are_made_among_the_shards_of_a_buffer():
    rng = np.random.default_rng(0)
    shards = np.repeat(np.arange(20), 50)
    batches = LengthBatches(
        rng.uniform(1, 9, 1_000), max_seconds=30, seed=0, shards=shards[rng.permutation(1_000)], buffer_rows=200
    )
    orders = []
    for epoch in range(2):
        made = batches._make(epoch)
        met = [sorted({int(batches.shards[row]) for row in batch}) for batch in made]
        # Four shards at a time: a shard that is left does not come again.
        order = list(dict.fromkeys(shard for shards in met for shard in shards))
        buffers = [set(order[first : first + 4]) for first in range(0, 20, 4)]
        at = [next(i for i, buffer in enumerate(buffers) if set(shards) <= buffer) for shards in met]
        assert at == sorted(at) and len(set(at)) == 5
        orders.append(order)
    assert orders[0] != orders[1]
