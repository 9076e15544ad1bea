"""The plan as a person gets it, and the disk that a cache takes."""

import json

import numpy as np
import pytest

from data.batches import LengthBatches
from data.cache.reader import CacheReader
from data.cache.row import CachedRow, CacheIdentity
from data.cache.targets import SparseTargets
from data.cache.writer import CacheWriter
from data.errors import InputError
from data.paths import REPOSITORY
from distill.planning.clips import Clips, counted_clips, stated_clips
from distill.planning.disk import cache_bytes
from distill.recipe.reading import read_recipe
from distill.recipe.rows import read_rows
from teacher.cache import CacheSettings
from teacher.config import SalmonnConfig

SMALL = ["--memory", "0.05", "--reserve", "0", "--set", "deepspeed.zero_optimization.reduce_bucket_size=1000"]


@pytest.fixture
def plan(command, tiny_recipe, capfd):
    """A function that plans the tiny recipe: figures as JSON, and the page."""

    def plan(*words):
        status, out, err = command("scripts/plan.py", "--config", tiny_recipe, "--json", *words)
        assert status == 0, err
        status, page, err = command("scripts/plan.py", "--config", tiny_recipe, *words)
        assert status == 0, err
        return json.loads(out), page

    return plan


def test_a_recipe_is_planned_by_its_rows_and_shapes(plan, monkeypatch, tiny_recipe):
    monkeypatch.setattr("teacher.build.load_pretrained", None)  # no weight is loaded
    found, page = plan(*SMALL)
    features, distil = found["stages"]
    assert found["clips"].startswith("12 rows") and [of["name"] for of in found["stages"]] == ["features", "distil"]
    assert features["memory"]["teacher's weights"] < found["caching"]["memory"]["teacher's weights"]
    assert "teacher's weights" not in distil["memory"] and distil["memory"]["loss"] > 0
    assert features["memory"]["optimizer states"] == distil["memory"]["optimizer states"]
    rows = read_rows(read_recipe(tiny_recipe), read_recipe(tiny_recipe).data.train)
    batches = LengthBatches(np.maximum(rows.durations_s, 1) + 0.1, max_seconds=6, seed=0)
    assert distil["steps_an_epoch"] == pytest.approx(batches.steps_per_epoch, rel=0.35)
    assert "in all (of 0.1)" in page and "the largest that fits" in page and "computed, not run" in page
    more, _ = plan(*SMALL, "--set", "deepspeed.activation_checkpointing={}")
    assert more["stages"][1]["memory"]["activations"] < distil["memory"]["activations"]
    assert more["stages"][1]["flop_a_step"] > distil["flop_a_step"]


def test_the_largest_budget_fits_and_more_does_not(plan):
    (_, distil), page = plan(*SMALL)[0]["stages"], plan(*SMALL)[1]
    largest = distil["largest"]
    for seconds, fits in ((largest, True), (2 * largest, False)):
        found, page = plan(*SMALL, "--set", f"train.stages.1.max_seconds={seconds}")
        assert (sum(found["stages"][1]["memory"].values()) <= found["room"]) is fits
    assert (
        f"distil does not fit: set train.stages.1.max_seconds to {largest}; the largest part is 'activations'" in page
    )


def test_where_nothing_fits_the_largest_part_is_named(plan):
    found, page = plan("--memory", "0.001")
    assert found["stages"][0]["largest"] is None
    assert (
        "features does not fit: nothing fits, whatever train.stages.0.max_seconds; the largest part is 'reduce" in page
    )


def test_neither_weights_nor_data_need_be_there(command):
    """At full size, and one line for what cannot be."""
    words = ["scripts/plan.py", "--config", REPOSITORY / "configs/kd_1b.json", "--set", "data.train=/none.json"]
    status, out, err = command(*words, "--gpus", 8, "--hours", 2000, "--json")
    assert status == 0, err
    found = json.loads(out)
    assert found["clips"].startswith("2,000 hours in 720,000 clips")
    for of in [found["caching"], *found["stages"]]:
        assert sum(of["memory"].values()) < found["room"] and of["max_seconds"] <= of["largest"], of["name"]
    assert found["stages"][2]["memory"]["student's weights"] == pytest.approx(3.2e9, rel=0.02)
    for wrong, line in (
        (["--clips", 5], "--clips 5: say their --hours too"),
        (["--hours", 1000, "--clips", 5], "a clip of 720000.0 s on average"),
        (["--gpus", 0], "--gpus 0: must be above 0"),
        (["--hours", "nan"], "--hours nan: must be above 0, and at most 1e+12"),
        (["--memory", "nan"], "--memory nan: must be above 0"),
        (["--hours", "1e300"], "--hours 1e+300: must be above 0, and at most"),
        (["--hours", 0.0001], "a clip of 0.4 s on average"),
        (["--reserve", 1], "--reserve 1.0: a share"),
    ):
        status, _, err = command(*words, *wrong)
        assert status == 2 and line in err


def test_clips_are_counted_by_length(tiny_recipe):
    recipe = read_recipe(tiny_recipe)
    rows = read_rows(recipe, recipe.data.train)
    clips = counted_clips(rows)
    assert clips.number.sum() == 12 and clips.seconds[-1] == 3.0 and (clips.longest >= clips.tokens).all()
    assert clips.hours == pytest.approx(rows.durations_s.sum() / 3600, rel=0.3)
    stated = stated_clips(100, 36_000)
    assert stated.hours == pytest.approx(100) and stated.seconds.tolist() == [1, 10, 30]
    with pytest.raises(InputError, match="change one of them"):
        stated_clips(100, 100)
    few = stated_clips(0.001, None)
    assert few.number.sum() == 1 and few.hours == pytest.approx(0.001)


def test_a_cache_takes_the_disk_that_is_planned(tmp_path):
    """Of ids without a pattern, texts of words, probabilities as the mini teacher's cache has them."""
    rng, V, rows, tokens = np.random.default_rng(0), 49_152, 1024, 11
    words = (REPOSITORY / "README.md").read_text().split()
    identity = CacheIdentity("a", "b", "c", "d", "e")
    kept = 0
    with CacheWriter(tmp_path / "cache", identity, rank=0, world=1) as writer:
        for number in range(rows):
            counts = rng.geometric(1 / 11, tokens).clip(1, 128).astype(np.int32)
            kept += counts.sum()
            ids = rng.integers(V, size=counts.sum()).astype(np.int32)
            falling = [
                np.log(0.5) - 0.45 * np.arange(count) - rng.uniform(0, 0.4, count).cumsum() / 4 for count in counts
            ]
            logp = np.concatenate(falling).astype(np.float16)
            logp = (logp.view(np.int16) & ~0x3F).view(np.float16).astype(np.float32)  # as few bits as it is stored in
            targets = SparseTargets(rng.integers(V, size=tokens).astype(np.int32), ids, logp, counts)
            text = " ".join(rng.choice(words, tokens * 4 // 7))
            sound = rng.bytes(8).hex()
            row = CachedRow(f"clip_{number}", "asr", "transcribe", text, targets={"reference": targets}, sound=sound)
            writer.add(row)
    clips = Clips(np.array([3.0]), np.array([rows]), np.array([tokens]), np.array([tokens]), "")
    config = SalmonnConfig(llm_config={"model_type": "llama", "vocab_size": V})
    settings = CacheSettings(folder="cache")
    planned = cache_bytes(settings, config, clips, kept / (rows * tokens))
    assert sum(planned.values()) == pytest.approx(CacheReader(tmp_path / "cache").stats().bytes, rel=0.15)
    with_features = settings.model_copy(update={"features": ("encoder", "audio_tokens")})
    found = cache_bytes(with_features, config, clips)["features"]
    assert found / rows == pytest.approx(2 * (50 * 3 * config.encoder_config.d_model + 9 * 4096), rel=0.1)
