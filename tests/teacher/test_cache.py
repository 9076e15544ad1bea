import dataclasses
import functools
import json
import os
import signal

import numpy as np
import pytest
import soundfile

import teacher.cache
from data.cache.reader import CacheReader
from data.cache.targets import sparsify
from data.cache.writer import CacheWriter
from data.errors import InputError
from data.rows.manifest_reader import read_manifest
from data.words import word_error_rate
from distill.recipe.reading import read_recipe
from teacher.cache import cache_identity, fill_cache
from teacher.processor import Clip


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Two rows a shard, so that a kill loses little of twelve rows."""
    monkeypatch.setattr(teacher.cache, "CacheWriter", functools.partial(CacheWriter, shard_rows=2))


class Killed(BaseException):
    pass


def killed_after(model, batches):
    """The model, which dies at a batch."""
    encode, count = model.encode, iter(range(batches))

    def dying(features):
        if next(count, None) is None:
            raise Killed
        return encode(features)

    model.encode = dying
    return lambda: vars(model).pop("encode")


def distributions(targets):
    ends = np.cumsum(targets.counts)
    for start, end, tail in zip(ends - targets.counts, ends, targets.tail, strict=True):
        yield dict(zip(targets.ids[start:end].tolist(), targets.logp[start:end].tolist(), strict=True)), tail


def test_the_rows_hold_what_the_teacher_says(fill_tiny_cache, tiny_teacher, own_data):
    folder, identity = fill_tiny_cache()
    cache = CacheReader(folder, identity)
    model, processor = tiny_teacher
    rows = {row.id: row for row in read_manifest(own_data / "train.json")}
    assert cache.ids() == sorted(rows)
    assert all(
        cached.hypothesis_wer
        == (word_error_rate(cached.reference, cached.hypothesis) if cached.task == "asr" else None)
        for cached in cache.rows()
    )
    assert {cache[row_id].prompt for row_id in rows} == {"transcribe", "describe the sound", "what is heard"}
    for row_id in ("train_0", "train_4", "train_5"):
        row, cached = rows[row_id], cache[row_id]
        assert (cached.task, cached.reference) == (row.task, row.text)
        samples = soundfile.read(row.path, dtype="float32")[0]
        logits = model(processor([Clip(samples, cached.prompt, row.text)])).logits.detach()[0]
        text = processor.text_ids(row.text)
        targets = cached.targets["reference"]
        assert targets.token_ids.tolist() == text
        logp_NV = logits.log_softmax(-1)[-len(text) - 1 : -1]
        for logp_V, (kept, tail) in zip(logp_NV, distributions(targets), strict=True):
            assert set(kept) == set(logp_V.topk(len(kept)).indices.tolist())
            for token, value in kept.items():
                assert np.exp(value) == pytest.approx(float(logp_V[token].exp()), abs=5e-4)
            assert tail == pytest.approx(1 - float(logp_V[list(kept)].exp().sum()), abs=2e-3)
        assert cached.targets["hypothesis"].token_ids[-1] == model.config.eos_token_id


def test_drawn_targets_are_the_same_whatever_the_batches(fill_tiny_cache, tmp_path):
    sampled = ["cache.method=sampled", "cache.draws=40", "train.stages.1.losses.ctc=0"]
    together, _ = fill_tiny_cache(*sampled)
    alone, _ = fill_tiny_cache(*sampled, f"cache.folder={tmp_path}/alone", "cache.max_seconds=2")
    drawn, same = CacheReader(together), CacheReader(alone)
    differs = 0
    for row_id in drawn.ids():
        ours, theirs = drawn[row_id].targets["reference"], same[row_id].targets["reference"]
        assert ours.draws == 40 and not ours.tail.any()
        shares = np.exp(ours.logp.astype(np.float64)) * 40
        np.testing.assert_allclose(shares, np.rint(shares), atol=1e-4)
        assert np.bincount(np.repeat(np.arange(len(ours)), ours.counts), shares) == pytest.approx(40)
        differs += ours.ids.tolist() != theirs.ids.tolist()
    assert differs <= 1  # where rounding moves a draw over an edge


def test_features_are_what_the_encoder_and_the_connector_make(fill_tiny_cache, tiny_teacher, own_data, tmp_path):
    folder, _ = fill_tiny_cache('cache.features=["encoder", "audio_tokens"]')
    cache = CacheReader(folder)
    model, processor = tiny_teacher
    for row in read_manifest(own_data / "train.json"):
        features = processor.features([soundfile.read(row.path, dtype="float32")[0]])
        states = model.encode(features)
        kept = cache.features(row.id)
        np.testing.assert_allclose(kept["encoder"], states.speech_BTD[0].detach(), rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(kept["audio_tokens"], model.connector(states).detach(), rtol=2e-3, atol=2e-3)
    without, _ = fill_tiny_cache(f"cache.folder={tmp_path}/without")
    assert CacheReader(without).features("train_0") == {}
    assert CacheReader(without).content_sha256() != cache.content_sha256()


def test_a_killed_run_goes_on_with_what_is_missing(fill_tiny_cache, tiny_teacher, tmp_path, capsys):
    whole, identity = fill_tiny_cache(f"cache.folder={tmp_path}/whole")
    model, _ = tiny_teacher
    revive = killed_after(model, 3)
    with pytest.raises(Killed):
        fill_tiny_cache()
    revive()
    begun = CacheReader(tmp_path / "cache", identity)
    assert 0 < len(begun) < 12
    shards = {path: path.read_bytes() for path in (tmp_path / "cache").glob("*.parquet")}
    encoded = []
    encode = model.encode
    model.encode = lambda features: encoded.append(len(features.mel_frames_B)) or encode(features)
    fill_tiny_cache()
    # Whole batches, and only those in which something is missing.
    assert 12 - len(begun) <= sum(encoded) < 12
    assert all(path.read_bytes() == content for path, content in shards.items())
    assert CacheReader(tmp_path / "cache").content_sha256() == CacheReader(whole, identity).content_sha256()
    encoded.clear()
    capsys.readouterr()
    fill_tiny_cache()
    assert encoded == [] and not capsys.readouterr().out


def test_two_ranks_write_what_one_does(fill_tiny_cache, tmp_path):
    alone, identity = fill_tiny_cache(f"cache.folder={tmp_path}/alone")
    together, _ = fill_tiny_cache(rank=0, world=2)
    assert 4 <= len(CacheReader(together, identity)) <= 8
    fill_tiny_cache(rank=1, world=2)
    assert CacheReader(together).content_sha256() == CacheReader(alone).content_sha256()


def silence(own_data, *numbers):
    for number in numbers:
        soundfile.write(own_data / "sounds" / f"train_{number}.wav", np.zeros(16_000), 16_000)


def test_a_few_unreadable_clips_are_listed_and_the_rest_is_cached(fill_tiny_cache, own_data):
    silence(own_data, 0, 1)
    folder, identity = fill_tiny_cache("cache.max_failed=0.2")
    cache = CacheReader(folder, identity)
    assert len(cache) == 10
    assert set(cache.failed()) == {"train_0", "train_1"}
    assert "train_0.wav: silent" in cache.failed()["train_0"]


def test_a_clip_on_which_the_teacher_fails_is_listed_alone(fill_tiny_cache, tiny_teacher, own_data, monkeypatch):
    rows = read_manifest(own_data / "train.json")
    bad = tiny_teacher[1].text_ids(rows[3].text)

    def overflows(logits_NV, token_ids, **cut):
        if any(list(text) == bad for text in token_ids):
            raise FloatingPointError("logits are NaN or infinite")
        return sparsify(logits_NV, token_ids, **cut)

    monkeypatch.setattr(teacher.cache, "sparsify", overflows)
    folder, _ = fill_tiny_cache("cache.max_failed=0.5", 'cache.targets=["reference"]', "train.stages.1.losses.ctc=0")
    failed = CacheReader(folder).failed()
    assert set(failed) == {row.id for row in rows if row.text == rows[3].text}
    assert all("teacher's logits are NaN or infinite; try another teacher.precision" in why for why in failed.values())
    assert len(CacheReader(folder)) == 12 - len(failed) > 0


def without_texts(own_data, *numbers):
    """Takes the texts of some training rows: every other one has an empty one, the rest none at all."""
    file = own_data / "train.json"
    content = json.loads(file.read_text())
    for at, number in enumerate(numbers):
        content["annotation"][number]["text"] = "  "
        if at % 2:
            del content["annotation"][number]["text"]
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("untexted", [[0, 3, 4, 7, 8, 11], [*range(12)]])
def test_of_a_row_without_a_text_the_teachers_is_cached_alone(fill_tiny_cache, own_data, tmp_path, untexted):
    folder, with_texts = fill_tiny_cache()
    before = CacheReader(folder, with_texts)
    without_texts(own_data, *untexted)
    changes = ("data.faults.no_text=teacher", "train.stages.1.losses.ctc=0")
    folder, identity = fill_tiny_cache(*changes, f"cache.folder={tmp_path}/without", "cache.hypotheses=true")
    found = CacheReader(folder, identity)
    assert len(found) == 12 and not found.failed() and identity.differences(with_texts) == ["audio"]
    only, asked = fill_tiny_cache(*changes, f"cache.folder={tmp_path}/only")
    assert len(CacheReader(folder, asked)) == 12  # which has more than is asked for
    with pytest.raises(InputError, match=r"made from another hypotheses \(.*: untexted \w+ there"):
        CacheReader(only, identity)
    only = CacheReader(only, asked)
    assert asked.differences(identity) == ["hypotheses"] and len(only) == 12
    for number, row_id in enumerate(f"train_{number}" for number in range(12)):
        row, other = only[row_id], found[row_id]
        if number in untexted:
            assert row.hypothesis == other.hypothesis and set(row.targets) == {"hypothesis"}
        else:
            assert row.hypothesis is None and row.reference == other.reference and set(row.targets) == {"reference"}
    for number, row_id in enumerate(f"train_{number}" for number in range(12)):
        row, other = found[row_id], before[row_id]
        assert row.hypothesis == other.hypothesis and row.prompt == other.prompt
        assert row.hypothesis_logp == pytest.approx(other.hypothesis_logp, abs=1e-5)
        if number not in untexted:
            assert set(row.targets) == {"reference", "hypothesis"} and row.reference == other.reference
            np.testing.assert_allclose(row.targets["reference"].tail, other.targets["reference"].tail, atol=1e-3)
        else:
            assert set(row.targets) == {"hypothesis"} and row.reference is row.hypothesis_wer is None
        kept = row.targets["hypothesis"].tail
        np.testing.assert_allclose(kept, other.targets["hypothesis"].tail, atol=1e-3)


def test_a_cache_of_rows_without_texts_is_the_same_on_any_ranks_and_after_an_interruption(
    fill_tiny_cache, own_data, tmp_path
):
    without_texts(own_data, 0, 3, 4, 7, 8, 11)
    changes = ("data.faults.no_text=teacher", "train.stages.1.losses.ctc=0")
    folder, identity = fill_tiny_cache(*changes)
    whole = CacheReader(folder, identity).content_sha256()
    for rank in (1, 0):
        apart, _ = fill_tiny_cache(*changes, f"cache.folder={tmp_path}/ranks", rank=rank, world=2)
    assert CacheReader(apart, identity).content_sha256() == whole
    next(iter(sorted(apart.glob("shard-00001-*")))).unlink()
    fill_tiny_cache(*changes, f"cache.folder={tmp_path}/ranks")
    assert CacheReader(apart, identity).content_sha256() == whole


def test_where_no_texts_are_written_rows_without_one_are_listed(tiny_recipe, tiny_teacher, own_data):
    without_texts(own_data, 3)
    changes = ['cache.targets=["reference"]', "train.stages.1.losses.ctc=0", "cache.max_failed=0.2"]
    recipe, (model, processor) = read_recipe(tiny_recipe, changes), tiny_teacher
    rows = read_manifest(own_data / "train.json", texts=False)
    settings = (recipe.cache, recipe.generation)
    identity = cache_identity(recipe.teacher, *settings, recipe.data.prompts, rows, processor)
    fill_cache(model, processor, rows, recipe.data.prompts, *settings, identity)
    assert CacheReader(recipe.cache.folder).failed() == {
        "train_3": "row train_3 has no text to be distilled on; write one, or drop it"
    }


def test_too_many_unreadable_clips_stop_the_run_and_name_a_file(fill_tiny_cache, own_data):
    silence(own_data, 0, 1)
    with pytest.raises(
        InputError, match=r"of 12 rows cannot be read, more than cache.max_failed .*train_[01].wav: silent"
    ) as caught:
        fill_tiny_cache()
    assert "\n" not in str(caught.value)


def zeros(path):
    """Silences a clip, as long as it is; gives back what it was."""
    before = path.read_bytes()
    soundfile.write(path, np.zeros(soundfile.info(path).frames), 16_000, subtype="PCM_16")
    return before


def test_what_an_earlier_start_met_does_not_count(fill_tiny_cache, own_data):
    folder, _ = fill_tiny_cache()
    (folder / "failed.jsonl").write_text("".join(f'{{"id": "train_{n}", "reason": "gone"}}\n' for n in range(12)))
    for path in folder.glob("shard-*"):
        path.unlink()
    zeros(own_data / "sounds" / "train_0.wav")
    fill_tiny_cache("cache.max_failed=0.1")  # one of twelve
    assert len(CacheReader(folder)) == 11 and set(CacheReader(folder).failed()) == {"train_0"}


def test_a_row_that_is_there_and_is_heard_again_is_no_failure(fill_tiny_cache, own_data):
    one_batch = ("cache.max_seconds=999", "cache.max_failed=0.2")
    clips = [own_data / "sounds" / f"train_{number}.wav" for number in range(5)]
    before = [zeros(path) for path in clips[1:3]]
    folder, _ = fill_tiny_cache(*one_batch)
    assert len(CacheReader(folder)) == 10
    clips[2].write_bytes(before[1])
    for number in (0, 3, 4):
        zeros(clips[number])
    fill_tiny_cache(*one_batch)
    assert len(CacheReader(folder)) == 11 and set(CacheReader(folder).failed()) == {"train_1"}


def test_no_text_is_written_that_nothing_asks_for(fill_tiny_cache, tiny_recipe, monkeypatch, tmp_path):
    def asked(*_):
        raise AssertionError("a text is written")

    plain = ['cache.targets=["reference"]', "train.hypotheses.share=0", 'train.stages.1.losses={"ce": 1}']
    wanted, with_texts = fill_tiny_cache(*plain, f"cache.folder={tmp_path}/with", "cache.hypotheses=true")
    monkeypatch.setattr(teacher.cache, "generate_texts", asked)
    folder, identity = fill_tiny_cache(*plain)
    without = CacheReader(folder, identity)
    assert len(without) == 12 and identity.hypotheses == "" != with_texts.hypotheses
    no_text = dict.fromkeys(("hypothesis", "hypothesis_logp", "hypothesis_ended", "hypothesis_wer"))
    for row, other in zip(without.rows(), CacheReader(wanted, with_texts).rows(), strict=True):
        assert {name: getattr(row, name) for name in no_text} == no_text and other.hypothesis is not None
        assert dataclasses.replace(other, **no_text).sha256() == row.sha256()
    assert len(CacheReader(wanted, identity)) == 12  # texts that are there do no harm
    with pytest.raises(InputError, match=r"another hypotheses .*cache\.hypotheses"):
        CacheReader(folder, with_texts)
    with pytest.raises(AssertionError, match="a text is written"):
        fill_tiny_cache(*plain, "train.hypotheses.share=0.5", f"cache.folder={tmp_path}/asked")
    with pytest.raises(InputError, match=r"cache\.hypotheses false"):
        read_recipe(tiny_recipe, [*plain, "train.hypotheses.share=0.5", "cache.hypotheses=false"])
    with pytest.raises(InputError, match=r"cache\.targets has 'hypothesis'"):
        read_recipe(tiny_recipe, ["cache.hypotheses=false", 'cache.targets=["reference", "hypothesis"]'])


def test_the_identity_says_what_changed(tiny_recipe, tiny_teacher, own_data):
    processor = tiny_teacher[1]

    def identity(*overrides, rows=None):
        recipe = read_recipe(tiny_recipe, overrides)
        rows = rows or read_manifest(own_data / "train.json")
        return cache_identity(recipe.teacher, recipe.cache, recipe.generation, recipe.data.prompts, rows, processor)

    rows = read_manifest(own_data / "train.json")
    first = identity()
    assert identity("train.save_every=7", "cache.max_failed=0.5", "generation.max_seconds=3") == first
    assert identity("teacher.margin_s=0.2").differences(first) == ["teacher"]
    for key in ("cache.top_k=3", "cache.max_seconds=9"):  # the batch decides the last bit
        assert identity(key).differences(first) == ["targets"]
    assert identity("generation.num_beams=3").differences(first) == ["hypotheses"]
    assert identity('data.prompts.asr=["write"]').differences(first) == ["prompts"]
    changed = [dataclasses.replace(rows[0], text="other"), *rows[1:]]
    assert identity(rows=changed).differences(first) == ["audio"]
    assert identity(rows=rows[1:]).differences(first) == ["audio"]
    assert identity(rows=rows.with_mono("mix")).differences(first) == ["audio"]
    sounds = [dataclasses.replace(rows[0], fingerprint="0" * 16), *rows[1:]]
    assert identity(rows=sounds) == first  # as long as one is not known, nothing is
    sounds = [dataclasses.replace(row, fingerprint="0" * 16) for row in rows]
    assert identity(rows=sounds).differences(first) == ["sounds"]


def test_a_clip_that_was_mended_is_cached_by_the_next_run(fill_tiny_cache, tiny_teacher, own_data):
    whole = (own_data / "sounds" / "train_0.wav").read_bytes()
    silence(own_data, 0)
    folder, identity = fill_tiny_cache("cache.max_failed=0.2")
    (own_data / "sounds" / "train_0.wav").write_bytes(whole)
    fill_tiny_cache("cache.max_failed=0.2")
    cache = CacheReader(folder, identity)
    assert len(cache) == 12 and not cache.failed()


def test_a_command_that_is_told_to_stop_writes_what_it_has(command, tiny_recipe, tmp_path, monkeypatch):
    config = ["--config", tiny_recipe, "--set"]
    assert command("scripts/cache_teacher.py", *config, f"cache.folder={tmp_path}/whole")[0] == 0
    made, cached = [], teacher.cache._cache_batch

    def signalled(*asked):
        made.append(cached(*asked))
        os.kill(os.getpid(), signal.SIGTERM)
        return made[-1]

    with monkeypatch.context() as patch:
        patch.setattr(teacher.cache, "_cache_batch", signalled)
        status, out, _ = command("scripts/cache_teacher.py", *config, f"cache.folder={tmp_path}/stopped")
    assert status == 130 and "stopped; what was cached is written" in out
    assert len(made) == 1 and CacheReader(tmp_path / "stopped").ids() == sorted(row.id for row in made[0])
    assert command("scripts/cache_teacher.py", *config, f"cache.folder={tmp_path}/stopped")[0] == 0
    contents = [CacheReader(tmp_path / name).content_sha256() for name in ("whole", "stopped")]
    assert contents[0] == contents[1]
