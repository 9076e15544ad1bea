"""What a person sees of the three commands when something they gave is wrong."""

import json
import re
import subprocess
import sys
from argparse import Namespace

import numpy as np
import pytest
import soundfile

from data.cache.reader import CacheReader
from data.errors import InputError
from data.paths import REPOSITORY
from distill.recipe.reading import read_recipe, recipe_of
from teacher.build import build_teacher
from tests.teacher.test_build import SHAPES

COMMANDS = {
    "cache": ["scripts/cache_teacher.py"],
    "train": ["distill/train.py"],
    "evaluate": ["scripts/evaluate.py", "--model", "teacher"],
}
# A run that needs no cache, so that it is the sounds that stop it.
WITHOUT_CACHE = [
    "cache=null",
    'train.stages=[{"name": "ce", "steps": 4, "max_seconds": 6, "losses": {"ce": 1}, "lr": {"connector": 1e-3}}]',
]


@pytest.fixture(params=COMMANDS)
def run(request, command, tiny_recipe):
    """Runs one of the commands on the tiny recipe, and gives its one line of complaint."""
    script, *options = COMMANDS[request.param]

    def run(*overrides):
        if request.param == "train":
            overrides = (*WITHOUT_CACHE, *overrides)
        settings = [word for override in overrides for word in ("--set", override)]
        status, _, err = command(script, "--config", tiny_recipe, *options, *settings)
        assert status == 2, err
        assert "Traceback" not in err
        # A linker's own lines may be there too: DeepSpeed tries what it can compile, once a process.
        assert sum(line.startswith("error: ") for line in err.splitlines()) == 1
        assert err.strip().splitlines()[-1].startswith("error: "), err
        return err.strip().splitlines()[-1]

    return run


def missing(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


def truncated(path):
    path.write_bytes(path.read_bytes()[:-8000])


def silent(path):
    soundfile.write(path, np.zeros(32_000), 16_000, subtype="PCM_16")


def no_audio(path):
    path.write_text("this is no sound\n" * 100)


@pytest.mark.parametrize("spoil", [missing, empty, truncated, silent, no_audio])
def test_a_bad_sound_is_named_with_the_mend_and_nothing_is_half_written(run, own_data, tmp_path, spoil):
    for path in (own_data / "sounds").glob("t*.wav"):
        spoil(path)
    line = run()
    assert f"{own_data}/sounds/t" in line
    assert any(mend in line for mend in ("fetch", "record", "mend"))
    assert not [*tmp_path.glob("results/tiny/*/metrics.json"), *tmp_path.glob("results/tiny/report*")]
    assert not [*tmp_path.glob("runs/tiny/model"), *tmp_path.glob("cache/shard*"), *tmp_path.rglob("*.tmp")]


@pytest.mark.parametrize("key", ["path", "task"])
def test_a_row_without_a_key_is_named(run, own_data, tmp_path, key):
    for name in ("train", "test_asr"):
        file = own_data / f"{name}.json"
        content = json.loads(file.read_text())
        del content["annotation"][1][key]
        file.write_text(json.dumps(content))
    line = run()
    assert f"{own_data}/t" in line and f'.json, row 1: the key "{key}" is missing; add it' in line
    assert not [path for name in ("runs", "results", "cache") for path in (tmp_path / name).rglob("*")]


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("tarin.kd.target=reference", "unknown key 'tarin'; did you mean 'train'?"),
        ("teacher.windowframes=8", "unknown key 'teacher.windowframes'; did you mean 'window_frames'?"),
        ('generation.num_beams="four"', "key 'generation.num_beams'"),
    ],
)
def test_a_misspelt_key_or_a_wrong_type_is_named(run, tiny_recipe, tmp_path, override, complaint):
    line = run(override)
    assert line.startswith(f"error: {tiny_recipe}: ") and complaint in line
    assert not [path for name in ("runs", "results", "cache") for path in (tmp_path / name).rglob("*")]


@pytest.mark.parametrize("name", COMMANDS)
def test_without_its_weights_the_full_recipe_names_the_mini_one(command, monkeypatch, tmp_path, name):
    monkeypatch.setenv("SALMONN_DISTILL_CACHE", str(tmp_path))
    script, *options = COMMANDS[name]
    status, _, err = command(script, *options)
    assert status == 2 and "Traceback" not in err
    complaint = err[err.index("error: ") :]
    assert "files that are not on this machine" in complaint
    assert f"{tmp_path}/weights" in complaint and "--config configs/kd_mini.json" in complaint
    assert not [*tmp_path.iterdir()]


def test_a_recipe_without_a_cache_section_has_nothing_to_cache(command, tiny_recipe):
    settings = [word for override in WITHOUT_CACHE for word in ("--set", override)]
    status, _, err = command("scripts/cache_teacher.py", "--config", tiny_recipe, *settings)
    assert status == 2 and f"{tiny_recipe}: the recipe has no cache section" in err


def test_another_split_has_a_cache_of_its_own(command, tiny_recipe, own_data, tmp_path):
    def cache(split, *options):
        return command("scripts/cache_teacher.py", "--config", tiny_recipe, "--split", split, *options)

    status, _, err = cache("test")
    assert status == 0, err
    held_out = CacheReader(tmp_path / "cache_test")
    assert held_out.ids() == [f"test_asr_{i}" for i in range(4)] and not (tmp_path / "cache").exists()
    assert {row.prompt for row in held_out.rows()} == {"transcribe"}
    twice = f'data.valid=["{own_data}/valid.json", "{own_data}/again.json"]'
    (own_data / "again.json").write_text((own_data / "valid.json").read_text())
    status, _, err = cache("valid", "--set", twice)
    assert status == 2 and 'id "valid_0" is in two of them' in err


def test_a_cache_is_inspected(command, fill_tiny_cache):
    folder, _ = fill_tiny_cache()
    status, out, _ = command("scripts/inspect_cache.py", folder, "--examples", 2, "--clips", 1200)
    assert status == 0
    assert "rows 12, tokens" in out and out.count("hypothesis:") == 2
    size = sum(path.stat().st_size for path in folder.glob("*.parquet"))
    assert f"estimate for 1,200 clips like these: {size * 100 / 1e9:,.1f} GB" in out
    status, out, _ = command("scripts/inspect_cache.py", folder, "--json")
    told = json.loads(out)
    keys = ("tokens", "bytes_per_token", "kept_mass_mean", "kept_mass_p01", "ids_per_token", "content_sha256")
    assert told["rows"] == 12 and all(told[key] for key in keys)
    status, _, err = command("scripts/inspect_cache.py", folder / "nowhere")
    assert status == 2 and "nowhere" in err


def test_a_recipe_is_tried_at_random_weights(command, tiny_recipe, tmp_path):
    shapes = f"teacher.shapes={json.dumps(SHAPES)}"
    gone = ["--set", "teacher.llm=/no/llm", "--set", "teacher.encoder=/no/whisper", "--set", "teacher.weights=/no.pth"]
    arguments = ["--config", tiny_recipe, "--random-weights", "--set", shapes, *gone]
    status, _, err = command("scripts/cache_teacher.py", *arguments)
    assert status == 0, err
    assert CacheReader(tmp_path / "cache_random").stats().rows == 12
    status, out, err = command("scripts/evaluate.py", *arguments, "--model", "teacher")
    assert status == 0, err
    assert "WER" in out and (tmp_path / "results" / "tiny_random" / "teacher" / "metrics.json").is_file()


def test_a_recipe_without_shapes_has_those_of_its_files_at_random_weights(tiny_recipe):
    words = Namespace(config=str(tiny_recipe), set=[], random_weights=True)
    recipe = recipe_of(words)
    (tiny, _), (whole, _) = build_teacher(recipe.teacher), build_teacher(read_recipe(tiny_recipe).teacher)
    assert recipe.name == "tiny_random" and recipe.teacher.shapes.llm["model_type"] == "llama"
    assert {n: p.shape for n, p in tiny.named_parameters()} == {n: p.shape for n, p in whole.named_parameters()}
    words.set = ["teacher.llm=/no/llm"]
    with pytest.raises(InputError, match=r"states no teacher.shapes.* and its encoder and LLM are not on this machine"):
        build_teacher(recipe_of(words).teacher)


def test_the_keys_of_a_recipe_are_told(command):
    status, out, _ = command("scripts/recipe_keys.py", "train.stages.0.losses")
    assert status == 0 and "train.stages[].losses.kd: divergence from the teacher" in out
    status, _, err = command("scripts/recipe_keys.py", "train.hypothesis")
    assert status == 2 and "no key of a recipe begins with 'train.hypothesis'; did you mean 'train.hypotheses" in err


@pytest.mark.parametrize("words", [["recipe_keys.py", "train.kd.tem"], ["bench.py", "step", "--help"]])
def test_what_is_printed_is_what_was_asked_for(words):
    """In a process of its own: DeepSpeed says what it found as it is imported."""
    done = subprocess.run([sys.executable, *words], cwd=REPOSITORY / "scripts", capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(("train.kd.temperature: ", "usage: bench.py")), done.stdout


def test_the_types_of_keys_are_what_a_person_types(command):
    status, out, _ = command("scripts/recipe_keys.py")
    told = dict(line.split(": ", 1) for line in out.splitlines())
    for key, kind in {
        "name": "(text)",
        "seed": "(whole number; default 0)",
        "data.limit": "(whole number >= 1, or null; default null)",
        "student.encoder_layers": "(whole number >= 1, list of whole numbers, or null; default null)",
        "student.encoder_rank": "(whole number >= 1, number > 0 and < 1, or null; default null)",
        "student.beats": "(true or false; default false)",
        "data.mono": '(one of "first", "mix"; default "first")',
        "train.betas": "(list of 2 numbers; default [0.9, 0.98])",
        "train.match.hidden_layers": "(list of lists of 2 whole numbers; default [[-1, -1]])",
        "data.prompts": "(object of lists of texts)",
        "teacher.precision.llm": '(one of "fp32", "bf16", "fp16", "int8", "int4", "bnb_int8", "bnb_nf4", or null; ',
    }.items():
        assert kind in told[key], told[key]
    for key, line in told.items():
        assert not re.search(r"typing|Annotated|Union|Literal|NoneType|\btuple\b|\bdict\b|\bstr\b|\bint\b", line), key
    assert status == 0


def test_training_needs_no_launcher(command, tiny_recipe, monkeypatch, tmp_path):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name)
    settings = [word for override in WITHOUT_CACHE for word in ("--set", override)]
    done = subprocess.run(
        [sys.executable, "distill/train.py", "--config", tiny_recipe, *settings],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"trained model: {tmp_path}/runs/tiny/model" in done.stdout


@pytest.mark.parametrize("way", ["ours", "universal", "full_vocabulary", "cross_entropy_only"])
def test_a_loss_is_timed_and_its_memory_measured(command, way):
    sizes = ["--rows", 64, "--width", 16, "--vocabulary", 20_000, "--kept", 8]
    status, out, err = command("scripts/bench.py", "loss", "--one", way, *sizes)
    assert status == 0, err
    figures = json.loads(out.splitlines()[-1])
    assert figures["seconds"] > 0 and figures["peak_bytes"] >= 0


def test_a_peer_that_is_not_installed_is_left_out(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchtune", None)
    status, _, err = command("scripts/bench.py", "loss", "--one", "torchtune", "--rows", 4, "--vocabulary", 50)
    assert status == 3 and "torchtune" in err


def test_metrics_are_printed_as_json_alone_and_bad_choices_named(command, tiny_recipe):
    arguments = ["scripts/evaluate.py", "--config", tiny_recipe, "--model", "teacher"]
    status, out, err = command(*arguments, "--json", "--limit", 2, "--task", "asr")
    assert status == 0 and json.loads(out)["asr"]["clips"] == 2, err
    status, out, err = command(*arguments, "--json", "--mode", "submission", "--limit", 3)
    (file,) = json.loads(out)["submissions"]
    status, out, _ = command("scripts/validate_submission.py", file)
    assert status == 0 and "3 rows" in out
    for options, message in (
        (["--task", "ser"], "give asr or aac"),
        (["--task", "asr_voice"], "the recipe has no test set asr_voice; it has asr"),
        (["--limit", 0], "1 or more"),
    ):
        status, _, err = command(*arguments, *options)
        assert status == 2 and message in err


@pytest.mark.parametrize("script", ["evaluate", "efficiency"])
def test_nothing_but_json_comes_to_the_standard_output(script):
    command = [sys.executable, f"scripts/{script}.py", "--config", "/no.json", "--model", "teacher", "--json"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and "no such recipe" in done.stderr


def test_a_checkpoint_without_a_config_is_named(command, tiny_recipe, tmp_path):
    arguments = ["--config", tiny_recipe, "--model", "student", "--checkpoint", tmp_path]
    status, _, err = command("scripts/evaluate.py", *arguments)
    assert status == 2 and f"{tmp_path}: no trained model there" in err


def test_a_bench_names_the_package_that_it_lacks(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "librosa", None)
    monkeypatch.delitem(sys.modules, "distill.bench.scan", raising=False)
    status, _, err = command("scripts/bench.py", "scan")
    assert status == 2 and err == "error: librosa is not installed; pip install -r requirements-dev.txt\n"


@pytest.mark.parametrize("script", [*sorted(REPOSITORY.glob("scripts/*.py")), REPOSITORY / "distill/train.py"])
def test_every_command_says_how_it_is_called(command, script):
    status, out, _ = command(script.relative_to(REPOSITORY), "--help")
    assert status == 0 and out.startswith(f"usage: {script.name}")
