import importlib
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pytest
import soundfile

from data import mini
from data.mini import asterisk, mixtures, pico, piper, queen, sentences, sky, sphinx, synthetic, takes, tuxpaint
from data.mini.changes import Changed
from data.mini.clips import AAC, ASR, Clip, Splits, at_level, trimmed
from data.mini.takes import Take
from data.paths import REPOSITORY, cache_dir
from data.rows.manifest_reader import read_manifest
from data.sound.audio import SAMPLE_RATE

FETCHED = (cache_dir() / "packages" / "tuxpaint-stamps-default").is_dir()
needs_packages = pytest.mark.skipif(not FETCHED, reason="the corpora are not fetched (bash scripts/setup.sh)")


@dataclass(frozen=True)
class Tone:
    id: str
    text: str
    task: str = ASR
    corpus: str = "tones"
    references: tuple[str, ...] = ()
    level: float = 0.3

    def render(self):
        return np.full(SAMPLE_RATE, self.level, np.float32)


# Plans, without the packages.


def test_trimmed_and_level():
    sound = np.concatenate([np.zeros(8000), np.full(8000, 0.5), np.zeros(8000)]).astype(np.float32)
    assert len(trimmed(sound)) == 8000 + 2 * 800
    np.testing.assert_array_equal(trimmed(sound * 0), sound * 0)
    assert np.sqrt((at_level(sound, 0.1) ** 2).mean()) == pytest.approx(0.1)
    assert np.abs(at_level(sound, 10.0)).max() == pytest.approx(0.95)


def test_takes_cover_a_recording_and_are_short(monkeypatch):
    sound = np.random.default_rng(0).standard_normal(8 * SAMPLE_RATE).astype(np.float32)
    sound[: 2 * SAMPLE_RATE] *= 0.01  # too faint to tell anything, but for its loud end
    monkeypatch.setitem(takes._READERS, "noise", lambda file: sound)
    first, second, third = takes.cut("noise", "noise", "x.ogg")
    assert (first.end, second.end, third.end) == (second.start, third.start, len(sound))
    assert len(third.samples()) == third.end - third.start < 3.6 * SAMPLE_RATE
    sound[: 3 * SAMPLE_RATE] = 0
    assert list(takes.cut("noise", "noise", "x.ogg")) == [second, third]
    sound *= 0
    assert not list(takes.cut("noise", "noise", "x.ogg"))


def test_texts_nearly_the_same_are_held_out_together():
    texts = ["press one to send it", "press one to send it now", "goodbye", "hello", "goodbye", "you may send it"]
    groups = asterisk._groups([asterisk.Prompt(str(i), text) for i, text in enumerate(texts)])
    assert sorted(sorted(prompt.name for prompt in group) for group in groups) == [["0", "1"], ["2", "4"], ["3"], ["5"]]


def test_plain_sentences_only():
    fortune = 'A cloud does not know why it moves.  "It just does," in 1984!\nWhy should IBM care?  No.\n\t\t-- A. Nony'
    assert list(sentences.plain(fortune)) == ["A cloud does not know why it moves."]


def test_captions_name_the_sounds_in_their_order():
    dog, bell = Take("a dog", "x", "dog.ogg", 0, 1), Take("a bell", "x", "bell.ogg", 0, 1)
    scene = mixtures.Scene("x", (dog, bell), "then", 1, 0, 0.1, 0, 0.1, 1.0)
    assert scene.references == ("a dog then a bell", "a dog followed by a bell", "first a dog and then a bell")
    assert scene.text == "a dog followed by a bell"


def test_held_out_texts_leave_training(monkeypatch):
    splits = Splits(
        {"asr": [Tone("t", "one")]}, [Tone("v", "two")], [Tone("a", "one"), Tone("b", "three")], [Tone("c", "two")]
    )
    caption = Tone("d", "one", task=AAC)
    for module, planned in ((asterisk, splits), (tuxpaint, Splits(train=[Tone("e", "two"), caption]))):
        monkeypatch.setattr(module, "splits", lambda planned=planned: planned)
    for module in (sky, sphinx, pico, queen, synthetic, mixtures):
        monkeypatch.setattr(module, "splits", Splits)
    found = mini.corpora()
    assert [clip.id for splits in found.values() for clip in splits.train + splits.extra] == ["b", "d"]


# The real plan.


@pytest.fixture(scope="module")
def found():
    return mini.corpora()


def gathered(found, *splits) -> list[Clip]:
    return [clip for planned in found.values() for split in splits for clip in getattr(planned, split)]


@needs_packages
def test_held_out_speech_shares_no_text(found):
    train = {clip.text for clip in gathered(found, "train", "extra") if clip.task == ASR}
    valid = {clip.text for clip in gathered(found, "valid") if clip.task == ASR}
    test = {clip.text for clip in gathered(found, "test") if clip.task == ASR}
    assert len(train) > 3000 and len(valid) > 90 and len(test) > 800
    assert not train & valid and not (train | valid) & test


@needs_packages
def test_test_sets_are_of_people_and_voices_that_nothing_else_has(found):
    sets: dict[str, list[Clip]] = {}
    for planned in found.values():
        for name, clips in planned.tests.items():
            sets.setdefault(name, []).extend(clips)
    corpora = {name: {clip.corpus for clip in clips} for name, clips in sets.items()}
    assert corpora["asr_speakers"] == {"sky", "librivox", "cards"} and len(sets["asr_speakers"]) == 410
    assert corpora["asr_voice"] == {"pico_en_us", "pico_en_gb"} and len(sets["asr_voice"]) == 300
    assert len({clip.text for clip in sets["asr_voice"]}) == 300
    assert corpora["asr"] == {"asterisk"} and len(sets["asr"]) >= 130
    others = {clip.corpus for clip in gathered(found, "train", "extra", "valid")}
    assert not others & (corpora["asr_speakers"] | corpora["asr_voice"])


@needs_packages
def test_subtitles_and_sounds_of_the_games():
    assert sky._subtitle(0, 15) == "You nicked me KNACKWURST!"
    assert sky._subtitle(4, 1115) == "...but one takes little NOTICE of mere MAINTENANCE men."
    assert len(sky._codes()) == 123
    sound = np.frombuffer(sky._sound(0, 15), np.uint8)
    assert len(sound) > 16000 and abs(sound.mean() - 128) < 4
    lines = {line.file: line.text for line in queen._lines()}
    assert lines["020009P1.SB"] == "ha ha ha" and "6600A9P1.SB" not in lines  # a gulp
    assert lines["020008P2.SB"] == "now get out of my sight while you still can"


@needs_packages
def test_held_out_prompts_are_in_no_chain_and_no_voice(found):
    held_out = {clip.name for clip in gathered(found, "test", "valid") if isinstance(clip, asterisk.Prompt)}
    chains = [clip for clip in gathered(found, "train", "extra") if isinstance(clip, asterisk.Chain)]
    assert len(chains) == 450
    assert not held_out & {prompt.name for chain in chains for prompt in chain.prompts}


@needs_packages
def test_held_out_sounds_are_of_other_recordings_of_known_kinds(found):
    files, pairs, labels = {}, {}, {}
    for split in ("train", "valid", "test"):
        names = ("train", "extra") if split == "train" else (split,)
        clips = gathered(found, *names)
        scenes = [clip for clip in clips if isinstance(clip, mixtures.Scene)]
        noises = [clip.noise for clip in clips if isinstance(clip, Changed) and clip.noise]
        heard = {take for scene in scenes for take in scene.takes}
        files[split] = {(take.source, take.file) for take in [*heard, *noises]}
        labels[split] = {take.label for take in heard}
        pairs[split] = {frozenset(take.label for take in scene.takes) for scene in scenes if len(scene.takes) == 2}
        assert all(len(pair) == 2 for pair in pairs[split])
    for one, other in combinations(files, 2):
        assert not pairs[one] & pairs[other] and not files[one] & files[other]
    assert labels["test"] | labels["valid"] < labels["train"] and len(labels["test"]) == 10


@needs_packages
def test_ids_are_unique_and_texts_as_trained(found):
    clips = gathered(found, "test", "valid", "train", "extra")
    assert len({clip.id for clip in clips}) == len(clips)
    assert not [clip.id for clip in clips if clip.text != " ".join(clip.text.lower().split()) or not clip.text]
    assert all(clip.text in clip.references for clip in clips if clip.task == AAC)


@needs_packages
def test_every_corpus_renders(found):
    first = {clip.corpus: clip for clip in gathered(found, "train", "valid", "test")}
    voices = {clip.voice: clip for clip in found["synthetic"].train if isinstance(clip, synthetic.Spoken)}
    assert len(voices) > 12
    for clip in [*first.values(), *voices.values()]:
        samples = clip.render()
        assert samples.dtype == np.float32 and samples.ndim == 1
        assert 0.25 * SAMPLE_RATE < len(samples) <= 20 * SAMPLE_RATE and np.sqrt((samples**2).mean()) > 0.01
        np.testing.assert_array_equal(samples, clip.render())


@needs_packages
def test_the_plan_is_the_same_in_another_process(found):
    code = "import hashlib; from data.mini import corpora; print(hashlib.sha256(repr(corpora()).encode()).hexdigest())"
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


@needs_packages
def test_each_sentence_has_one_voice_and_real_speech_is_heard_twice_at_most(found):
    clips = gathered(found, "train", "extra")
    spoken = [getattr(clip, "clip", clip) for clip in clips]
    sentences_said = [clip.text for clip in spoken if isinstance(clip, synthetic.Spoken)]
    assert len(set(sentences_said)) == len(sentences_said) > 20000
    recordings = Counter(clip.file for clip in spoken if isinstance(clip, queen.Line))
    prompts = Counter(clip.name for clip in spoken if isinstance(clip, asterisk.Prompt))
    assert len(recordings) > 3000 and max(recordings.values()) == max(prompts.values()) == 2
    changes = [clip for clip in clips if isinstance(clip, Changed)]
    assert 0.3 < len(changes) / len(clips) < 0.6


@needs_packages
def test_the_neural_voice_gets_sounds_and_punctuation_and_says_a_seed_always_alike():
    assert piper._phonemes("Well, can't he see it?", "en-us") == "wˈɛl, kˈænt hiː sˈiː ɪt?"
    samples, rate = piper.say("Well, can't he see it?", 1.0, 1.0, 7)
    assert rate == 22050 and 0.8 < len(samples) / rate < 3
    np.testing.assert_array_equal(samples, piper.say("Well, can't he see it?", 1.0, 1.0, 7)[0])
    assert len(samples) < len(piper.say("Well, can't he see it?", 0.6, 1.0, 7)[0])
    other = piper.say("Well, can't he see it?", 1.0, 1.0, 8)[0]
    assert len(other) != len(samples) or not np.array_equal(other, samples)


def test_changes_are_as_planned():
    tone = Tone("t", "one")
    plain = Changed(tone, "x", 1.0, 0.0, 0.0, float("inf"), None, False, 0.05, 1)
    np.testing.assert_allclose(plain.render(), np.full(SAMPLE_RATE, 0.05), atol=1e-6)
    assert (plain.id, plain.text, plain.corpus) == ("t-x", "one", "tones")
    assert len(replace(plain, speed=1.1).render()) == pytest.approx(SAMPLE_RATE / 1.1, abs=2)
    hiss = replace(plain, snr_db=20.0).render()
    assert 20 * np.log10(hiss.mean() / hiss.std()) == pytest.approx(20, abs=0.5)
    echo = replace(plain, rt60_s=0.3, wet_db=-6.0).render()
    assert np.abs(echo - plain.render()).max() > 1e-3 and len(echo) == SAMPLE_RATE
    assert np.abs(replace(plain, telephone=True).render()).max() < 0.05  # a constant is below the band
    for one in (plain, replace(plain, snr_db=20.0), replace(plain, rt60_s=0.3, wet_db=-6.0)):
        np.testing.assert_array_equal(one.render(), one.render())


# The script, on a few clips.


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.setenv("SALMONN_DISTILL_CACHE", str(tmp_path))
    # By its name, so that worker processes find it too where they are not forked, as from Python 3.14 on.
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")
    monkeypatch.delitem(sys.modules, "prepare_mini", raising=False)
    module = importlib.import_module("prepare_mini")
    planned = Splits(
        {"asr": [Tone("t", "one")], "aac": [Tone("u", "a dog", AAC, references=("a dog", "the dog"))]},
        [Tone("v", "two")],
        [Tone("a", "three"), Tone("loud", "four", level=3.0), Tone("silent", "five", level=0.0)],
        [Tone("e", "six")],
    )
    monkeypatch.setattr(module, "corpora", lambda: {"tones": planned})
    return module


def run(script, monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["prepare_mini.py", *options])
    script.main()


def test_script_writes_annotations_and_goes_on_where_it_was(script, tmp_path, monkeypatch, capsys):
    run(script, monkeypatch)
    folder = tmp_path / "mini"
    assert {path.name for path in folder.glob("*.json")} >= {"test_asr.json", "valid_aac.json", "train_small.json"}
    assert not (folder / "train_large.json").exists()
    rows = read_manifest(folder / "train_small.json")
    assert [row.id for row in rows] == ["a", "loud"]  # the silent one is dropped
    (row,) = read_manifest(folder / "test_aac.json")
    assert row.references == ("a dog", "the dog") and row.duration_s == 1.0 and row.corpus == "tones"
    info = soundfile.info(rows[1].path)
    assert (info.samplerate, info.channels, info.subtype) == (SAMPLE_RATE, 1, "PCM_16")
    assert soundfile.read(rows[1].path)[0].max() == pytest.approx(0.99, abs=1e-3)
    capsys.readouterr()
    run(script, monkeypatch)
    assert capsys.readouterr().out.startswith("mini data: ready")

    kept = rows[0].path.stat().st_mtime_ns
    rows[1].path.unlink()
    run(script, monkeypatch, "--large")
    assert [row.id for row in read_manifest(folder / "train_large.json")] == ["a", "loud", "e"]
    assert rows[1].path.is_file() and rows[0].path.stat().st_mtime_ns == kept
    assert json.loads((folder / "large.stamp.json").read_text())["rows"]["train_large"] == 3
    texts = [row["text"] for row in json.loads((folder / "ladder_all.json").read_text())["annotation"]]
    assert len(texts) == 3 and all(texts[:2]) and not texts[2]  # of another clip it is not told
