import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from data.errors import InputError
from data.rows.faults import FAULTS, Thresholds
from data.rows.manifest_reader import read_manifest
from data.rows.manifest_writer import write_manifest
from data.scan.report import read_report, report_of, summary
from data.scan.scanning import CLASSES, MALFORMED, OK, scan_sounds
from data.scan.store import ScanStore
from data.sound.checks import SoundCheck
from tests.conftest import REPOSITORY, SAMPLE_RATE, sound


@pytest.fixture(scope="session")
def recordings(tmp_path_factory) -> Path:
    """Real speech where set-up has fetched it, else tones: six clips of 1 to 5 seconds."""
    folder = tmp_path_factory.mktemp("recordings")
    mini = Path(os.environ.get("SALMONN_DISTILL_CACHE") or "~/.cache/salmonn-distill").expanduser() / "mini"
    rows = json.loads((mini / "test_asr.json").read_text())["annotation"] if (mini / "test_asr.json").is_file() else []
    real = [mini / row["path"] for row in rows if 1 < row["duration"] < 5][:6]
    for number in range(6):
        path = folder / f"{number}.wav"
        if len(real) == 6:
            shutil.copy(real[number], path)
        else:
            soundfile.write(path, sound(1.5 + number / 3, number), SAMPLE_RATE)
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SALMONN_DISTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def corpus(recordings, tmp_path, cache) -> Path:
    """An annotation file with every fault in it; ids say which."""
    root = tmp_path / "corpus"
    root.mkdir()
    clips = [soundfile.read(path)[0] for path in sorted(recordings.iterdir())]

    def write(name, samples, **options):
        soundfile.write(root / name, samples, SAMPLE_RATE, **options)

    write("fine.wav", clips[0])
    write("fine.flac", clips[1])
    shutil.copy(root / "fine.wav", root / "copy.wav")
    write("copy.flac", clips[0])  # the samples of fine.wav in another format
    write("short.wav", clips[2][:8_000])
    write("long.flac", np.tile(clips[2], 31 * SAMPLE_RATE // len(clips[2]) + 1))
    write("silent.flac", np.zeros(20_000))
    write("faint.wav", clips[3] / np.abs(clips[3]).max() * 5e-4)
    write("clipped.wav", np.clip(clips[4] / np.abs(clips[4]).max() * 20, -1, 1))
    write("nan.wav", np.where(np.arange(len(clips[5])) == 9_000, np.nan, clips[5]), subtype="FLOAT")
    write("zero.wav", clips[0][:0])
    (root / "nothing.flac").write_bytes(b"")
    whole = (root / "fine.flac").read_bytes()
    (root / "cut.flac").write_bytes(whole[: len(whole) * 2 // 3])
    (root / "cut.wav").write_bytes((root / "fine.wav").read_bytes()[:-5_000])
    (root / "noise.mp3").write_bytes(b"these are no samples" * 50)
    with av.open(root / "fine.m4a", "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(clips[3][None].astype(np.float32), format="fltp", layout="mono")
        frame.rate = SAMPLE_RATE
        container.mux([*stream.encode(frame), *stream.encode(None)])
    names = [path.name for path in sorted(root.iterdir()) if path.name != "fine.wav"]
    entries = [{"path": f"/{name}", "text": "something is said", "task": "asr", "id": name} for name in names]
    entries.insert(0, {"path": "fine.wav", "text": "it is said", "task": "asr"})
    entries += [
        {"path": "fine.wav", "text": "speech", "task": "audiocaption", "id": "the same file"},
        {"path": "gone.wav", "text": "lost", "task": "asr", "id": "gone"},
        {"path": "fine.flac", "text": "one", "task": "asr", "id": "twice"},
        {"path": "fine.flac", "text": "two", "task": "asr", "id": "twice"},
        {"path": "fine.flac", "text": " \n", "task": "asr", "id": "blank"},
        {"path": "fine.flac", "task": "asr", "id": "textless"},
        {"path": "short.wav", "text": "word " * 301, "task": "asr", "id": "wordy"},
    ]
    (tmp_path / "rows.json").write_text(json.dumps({"annotation": entries}))
    return tmp_path / "rows.json"


OF_HEADERS = {
    "unreadable": ["cut.flac", "cut.wav", "noise.mp3"],
    "zero_length": ["nothing.flac", "zero.wav"],
    "too_short": ["short.wav", "wordy"],
    "too_long": ["long.flac"],
    "duplicate_audio": ["copy.wav"],
    "duplicate_id": ["twice"],
    "no_text": ["blank", "textless"],
    "long_text": ["wordy"],
    "missing_file": ["gone"],
}
OF_SAMPLES = {
    "silent": ["faint.wav", "silent.flac"],
    "clipped": ["clipped.wav"],
    "nan": ["nan.wav"],
}


def faults(report):
    return {name: ids for name, ids in report.classes.items() if ids and name != OK}


def scanned(corpus, *, decode, **thresholds):
    return report_of(corpus, corpus.parent / "corpus", Thresholds(**thresholds), decode=decode, quiet=True)


def test_headers_alone_tell_these_faults(corpus):
    report = scanned(corpus, decode=False)
    assert faults(report) == OF_HEADERS
    assert (report.rows, report.files, report.decoded) == (23, 17, 0)


def test_every_fault_and_nothing_else(corpus):
    report = scanned(corpus, decode=True)
    found = faults(report)
    # As flac and wav, a copy is told by its samples; which of the two comes first is the annotation's order.
    assert found == OF_HEADERS | OF_SAMPLES | {"duplicate_audio": ["copy.flac", "copy.wav"]}
    assert report.classes[OK] == ["fine.wav#asr", "fine.flac", "fine.m4a", "the same file"]
    assert set(report.classes) == {*FAULTS, MALFORMED, OK} == set(CLASSES)


def test_what_training_refuses_is_told(tmp_path, cache):
    soundfile.write(tmp_path / "a.wav", sound(4.0, 1), SAMPLE_RATE)
    wrong = {
        "stated": {"duration": 40.0},
        "in ms": {"duration": 4000},
        "start": {"start": 9.0},
        "end": {"start": 1.0, "end": 9.0},
    }
    malformed = {
        "backwards": {"start": 2.0, "end": 1.0},
        "negative": {"start": -1.0},
        "a text": {"duration": "4"},
        "misspelt": {"refernces": ["x"]},
        "elsewhere": {"offset": 1.0},
        "numbers": {"references": [1]},
    }
    fine = {"right": {"duration": 4.1}, "stretch": {"start": 1.0, "end": 3.0}, "null": {"duration": None}}
    rows = [
        {"path": "a.wav", "text": "x", "task": "asr", "id": name} | more
        for name, more in (wrong | malformed | fine).items()
    ]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"annotation": [*rows, {"path": "a.wav", "text": "no task", "id": "no task"}]}))
    report = report_of(path, None, Thresholds(), decode=False, quiet=True)
    assert report.classes["wrong_length"] == list(wrong) and report.classes[OK] == list(fine)
    assert report.classes[MALFORMED] == [*malformed, "no task"]
    assert set(report.as_json()["scan"]["reasons"]) == {*wrong, *malformed, "no task"}
    told = summary(report, 20)
    assert 'stated: "duration" is 40 s, but there are 4.00 s of sound' in told
    assert "misspelt: unknown key" in told and 'no task: the key "task" is missing' in told
    for row in rows:  # the scan says of each row what reading it says
        path.write_text(json.dumps({"annotation": [row]}))
        if row["id"] in fine:
            read_manifest(path)
        else:
            with pytest.raises(InputError) as refused:
                read_manifest(path)
            assert report.reasons[row["id"]].replace("a.wav", str(tmp_path / "a.wav")) in str(refused.value)


def test_a_sound_that_is_not_there_has_no_wrong_length(tmp_path, cache):
    soundfile.write(tmp_path / "a.wav", sound(4.0, 1), SAMPLE_RATE)
    rows = [
        {"path": path, "text": "x", "task": "asr", "id": "twice", "duration": 9.0} for path in ("gone.wav", "a.wav")
    ]
    (tmp_path / "rows.json").write_text(json.dumps({"annotation": rows}))
    report = report_of(tmp_path / "rows.json", None, Thresholds(), decode=False, quiet=True)
    assert report.classes["missing_file"] == report.classes["wrong_length"] == ["twice"]
    assert report.reasons["twice"].startswith('"duration" is 9 s, but there are 4.00 s of sound in a.wav')


def test_a_manifest_whose_sounds_changed_is_told(tmp_path, cache):
    soundfile.write(tmp_path / "a.wav", sound(4.0, 1), SAMPLE_RATE)
    (tmp_path / "rows.json").write_text('{"annotation": [{"path": "a.wav", "text": "x", "task": "asr", "id": "a"}]}')
    write_manifest([tmp_path / "rows.json"], tmp_path / "rows.arrow", workers=1)
    for seconds, expected in ((4.0, {}), (2.0, {"wrong_length": ["a"]})):
        soundfile.write(tmp_path / "a.wav", sound(seconds, 1), SAMPLE_RATE)
        assert faults(report_of(tmp_path / "rows.arrow", None, Thresholds(), decode=False, quiet=True)) == expected


def test_what_was_not_decoded_is_told_alone(corpus):
    told = summary(scanned(corpus, decode=True), 0)  # one file is missing
    assert "--decode" not in told and "(heard with --mono first)" in told
    told = summary(scanned(corpus, decode=False), 0)
    assert "(16 files were not decoded: --decode)" not in told  # they were, in the scan before
    os.utime(corpus.parent / "corpus" / "fine.flac", ns=(0, 0))
    assert "(1 files were not decoded: --decode)" in summary(scanned(corpus, decode=False), 0)


def test_a_report_of_what_is_heard_otherwise_is_refused(corpus, tmp_path):
    for decode in (False, True):
        (tmp_path / "report.json").write_text(json.dumps(scanned(corpus, decode=decode).as_json()))
        if not decode:
            read_report(tmp_path / "report.json", corpus, "mix")  # nothing was heard
    with pytest.raises(InputError, match=r"a scan of what data\.mono=first hears.* --decode --mono mix"):
        read_report(tmp_path / "report.json", corpus, "mix")


def test_thresholds(corpus):
    loose = {"min_seconds": 0.4, "max_seconds": 60.0, "silence_db": -90.0, "clipped_share": 1.0, "max_text_tokens": 400}
    found = faults(scanned(corpus, decode=True, **loose))
    assert not {"too_short", "too_long", "clipped", "long_text"} & found.keys()
    assert found["silent"] == ["silent.flac"]
    assert "fine.wav#asr" in faults(scanned(corpus, decode=False, min_seconds=20.0))["too_short"]


def test_of_sounds_an_empty_one_is_in_one_class(tmp_path, cache):
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, np.zeros(0), SAMPLE_RATE)
    entries = [
        {"path": name, "text": "a", "task": "asr", "id": str(number)} for number, name in enumerate(("a.wav", "b.wav"))
    ]
    (tmp_path / "rows.json").write_text(json.dumps({"annotation": entries}))
    for decode in (False, True):
        report = report_of(tmp_path / "rows.json", None, Thresholds(), decode=decode, quiet=True)
        assert faults(report) == {"zero_length": ["0", "1"]}


def test_silence_is_what_is_heard(tmp_path, cache):
    tone = sound(2.0, 1)
    soundfile.write(tmp_path / "right.wav", np.stack([np.zeros_like(tone), tone], 1), SAMPLE_RATE)
    (tmp_path / "rows.json").write_text('{"annotation": [{"path": "right.wav", "text": "a", "task": "asr"}]}')
    for mono, silent in (("first", 1), ("mix", 0)):
        report = report_of(tmp_path / "rows.json", None, Thresholds(mono=mono), decode=True, quiet=True)
        assert len(report.classes["silent"]) == silent


def test_what_is_known_is_not_looked_at_again(corpus, monkeypatch):
    first = scanned(corpus, decode=True)
    decoded = []
    monkeypatch.setattr("data.sound.checks._samples", lambda path: decoded.append(path.name) or {})
    assert faults(scanned(corpus, decode=True)) == faults(scanned(corpus, decode=False)) == faults(first)
    assert not decoded
    path = corpus.parent / "corpus" / "fine.flac"
    os.utime(path, ns=(0, 0))
    scanned(corpus, decode=True)
    assert decoded == ["fine.flac"]


def test_a_header_scan_is_not_taken_for_a_decoded_one(corpus):
    scanned(corpus, decode=False)
    assert faults(scanned(corpus, decode=True)).keys() == (OF_HEADERS | OF_SAMPLES).keys()


def test_an_interrupted_scan_goes_on(recordings, cache, monkeypatch):
    from data.scan import scanning as scan

    names = [path.name for path in sorted(recordings.iterdir())]
    monkeypatch.setattr(scan, "_CHUNK", 2)
    check, looked = scan.check_sound, []

    def interrupted(path, **options):
        if len(looked) == 4:
            raise KeyboardInterrupt
        looked.append(path.name)
        return check(path, **options)

    monkeypatch.setattr(scan, "check_sound", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scan_sounds(recordings, names, decode=True, workers=1, quiet=True)
    assert looked == names[:4]
    again = []

    def counting(path, *, decode, known):
        again.append((path.name, known is not None))
        return check(path, decode=decode, known=known)

    monkeypatch.setattr(scan, "check_sound", counting)
    found = scan_sounds(recordings, names, decode=True, workers=1, quiet=True)
    assert again == [(name, name in names[:4]) for name in names]
    assert all(check.decoded and check.duration_s > 1 for check in found.values())


def test_a_report_is_for_its_annotation_alone(corpus, tmp_path):
    report = scanned(corpus, decode=False)
    (tmp_path / "report.json").write_text(json.dumps(report.as_json()))
    assert read_report(tmp_path / "report.json", corpus, "first") == {name: report.classes[name] for name in FAULTS}
    corpus.write_text(corpus.read_text() + " ")
    with pytest.raises(InputError, match="changed since; make it again"):
        read_report(tmp_path / "report.json", corpus, "first")
    content = report.as_json()
    for ids in (True, None, "text", {}, [1], [None], ["\ud800"]):
        (tmp_path / "report.json").write_text(json.dumps(content | {"nan": {"ids": ids}}))
        with pytest.raises(InputError, match=r"report\.json: not the report of a scan"):
            read_report(tmp_path / "report.json", corpus, "first")
    for text in ("{}", "[]", "3", ""):
        (tmp_path / "report.json").write_text(text)
        with pytest.raises(InputError, match=r"report\.json: not the report of a scan"):
            read_report(tmp_path / "report.json", corpus, "first")


def test_the_command(command, corpus, tmp_path):
    root = corpus.parent / "corpus"
    status, out, err = command("scripts/scan_data.py", corpus, "--root", root, "--decode", "--json")
    content = json.loads(out)
    assert status == 0 and "scan: 17/17 files" in err
    assert {name: content[name]["ids"] for name in OF_SAMPLES} == OF_SAMPLES
    assert all(content[name]["count"] == len(content[name]["ids"]) for name in CLASSES)
    status, out, _ = command(
        "scripts/scan_data.py", corpus, "--root", root, "--ids", 1, "--min-seconds", 0.1, "--out", tmp_path / "r.json"
    )
    assert status == 0 and read_report(tmp_path / "r.json", corpus, "first")["too_short"] == []
    assert "zero_length                 2\n    nothing.flac\n    and 1 more" in out
    status, _, err = command("scripts/scan_data.py", corpus, "--root", root, "--clipped-share", 2)
    assert status == 2 and "--clipped-share 2.0" in err and len(err.splitlines()) == 1
    status, _, err = command("scripts/scan_data.py", corpus, "--root", tmp_path / "none")
    assert status == 2 and "no such folder" in err


def test_ctrl_c_keeps_what_was_found(recordings, tmp_path):
    clips = [path for path in sorted(recordings.iterdir())]
    (tmp_path / "many").mkdir()
    names = [f"{number}.wav" for number in range(20_000)]  # some seconds of work
    for number, name in enumerate(names):
        os.link(clips[number % len(clips)], tmp_path / "many" / name)
    rows = [{"path": name, "text": "a", "task": "asr"} for name in names]
    (tmp_path / "many" / "rows.json").write_text(json.dumps({"annotation": rows}))
    command = [sys.executable, str(REPOSITORY / "scripts/scan_data.py"), str(tmp_path / "many" / "rows.json")]
    terminal, stderr = pty.openpty()  # on which progress is told at once
    scan = subprocess.Popen(
        [*command, "--decode", "--workers", "2"],
        stderr=stderr,
        env={**os.environ, "SALMONN_DISTILL_CACHE": str(tmp_path / "cache")},
        # Tests that run in the background have it ignored, and what they start inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(stderr)
    said = b""
    while b"files/s" not in said:  # the first chunk is done
        said += os.read(terminal, 1000)
    scan.send_signal(signal.SIGINT)
    assert scan.wait() == 130
    assert b"interrupted" in said + os.read(terminal, 100_000)
    os.close(terminal)
    assert list((tmp_path / "cache" / "scans").rglob("*.parquet"))


def test_ctrl_c_at_the_last_moment_keeps_what_was_found(recordings, cache, monkeypatch):
    write, interrupted = ScanStore._write, []

    def interrupted_once(store, checks):
        if not interrupted:
            interrupted.append(store)
            raise KeyboardInterrupt
        write(store, checks)

    monkeypatch.setattr(ScanStore, "_write", interrupted_once)
    names = [path.name for path in recordings.iterdir()]
    with pytest.raises(KeyboardInterrupt):
        scan_sounds(recordings, names, decode=False, workers=1, quiet=True)
    assert set(interrupted[0].read()) >= set(names)


def test_many_small_parts_become_one(tmp_path, monkeypatch):
    monkeypatch.setattr("data.scan.store._MOST_PARTS", 3)
    checks = [SoundCheck(size=number, duration_s=number / 2, fingerprint=f"{number:x}") for number in range(6)]
    for number, check in enumerate(checks):
        store = ScanStore(tmp_path)
        store.add(f"{number % 5}.wav", check)
        store.flush()
        store.flush()  # nothing more to keep
    newest = {f"{number % 5}.wav": check for number, check in enumerate(checks)}
    assert len(list(tmp_path.iterdir())) == 6
    assert ScanStore(tmp_path).read() == ScanStore(tmp_path).read() == newest
    assert len(list(tmp_path.iterdir())) == 1


def test_sound_on_another_channel_alone_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("SALMONN_DISTILL_CACHE", str(tmp_path / "cache"))
    right = np.stack([np.zeros(32_000), np.full(32_000, 0.1)], 1)
    soundfile.write(tmp_path / "right.wav", right, 16_000)
    soundfile.write(tmp_path / "silent.wav", np.zeros(32_000), 16_000)
    rows = [{"path": name, "text": "x", "task": "asr"} for name in ("right.wav", "silent.wav")]
    (tmp_path / "rows.json").write_text(json.dumps({"annotation": rows}))
    for mono, silent, told in (("first", 2, "1 have sound on another channel"), ("mix", 1, "")):
        report = report_of(tmp_path / "rows.json", None, Thresholds(mono=mono), decode=True, quiet=True)
        line = next(line for line in summary(report, 0).splitlines() if line.startswith("silent"))
        assert len(report.classes["silent"]) == silent
        assert told in line and ("data.mono=mix" in line) == bool(told)
