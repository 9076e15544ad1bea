"""A tiny SALMONN of random weights, a few seconds of sound, and a recipe over both that writes into the test's folder.

The fixtures import what they need themselves, so that tests without a model do not wait for transformers.
"""

import json
import os
import runpy
import shutil
import signal
import socket
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# No deadline: a busy machine is no failure.
settings.register_profile("suite", deadline=None, max_examples=50)
settings.load_profile("suite")

REPOSITORY = Path(__file__).resolve().parents[1]
SAMPLE_RATE = 16_000
QFORMER = {"layers": 1, "width": 32, "heads": 2, "feed_forward": 64, "dropout": 0.0}
SENTENCES = [
    "the agent is now logged in",
    "please enter your password",
    "your call is important to us",
    "press one to leave a message",
    "a dog is barking",
    "a cow, then a bell",
]
PROMPTS = {"asr": ["transcribe"], "audiocaption": ["describe the sound", "what is heard"]}
# Seconds, in the order of the training rows: mixed lengths, so that batches are padded.
DURATIONS = (1.0, 1.3, 2.9, 1.7, 2.2, 1.1, 2.6, 1.5, 2.0, 1.9, 2.4, 1.2)


def sound(seconds: float, seed: int) -> np.ndarray:
    """A gliding tone over noise: real-shaped, and different for each seed."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(seed).normal(scale=0.05, size=len(time))
    return (0.3 * np.sin(2 * np.pi * (200 + 90 * seed + 60 * time) * time) + noise).astype(np.float32)


def write_annotation_of(folder: Path, name: str, rows: list[tuple[str, float, str]]) -> None:
    """`name.json` and its wavs; a row is task, seconds and text."""
    import soundfile

    entries = []
    for index, (task, seconds, text) in enumerate(rows):
        path = folder / "sounds" / f"{name}_{index}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, sound(seconds, index + len(name)), SAMPLE_RATE, subtype="PCM_16")
        entry = {"path": f"sounds/{path.name}", "text": text, "task": task, "id": f"{name}_{index}"}
        entries.append(entry | ({"references": [text, text + " loudly"]} if task == "audiocaption" else {}))
    (folder / f"{name}.json").write_text(json.dumps({"annotation": entries}))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """train.json (asr and audiocaption), valid.json, test_asr.json and test_aac.json with their sounds."""
    folder = tmp_path_factory.mktemp("tiny_data")
    tasks = ["audiocaption" if text.startswith("a ") else "asr" for text in SENTENCES]
    pairs = list(zip(tasks, SENTENCES, strict=True))
    write_annotation_of(
        folder,
        "train",
        [(task, seconds, text) for seconds, (task, text) in zip(DURATIONS, pairs * 2, strict=True)],
    )
    write_annotation_of(folder, "valid", [("asr", 1.2, SENTENCES[0]), ("asr", 2.1, SENTENCES[1])])
    write_annotation_of(folder, "test_asr", [("asr", s, SENTENCES[i]) for i, s in enumerate((1.0, 2.3, 1.6, 1.4))])
    write_annotation_of(folder, "test_aac", [("audiocaption", s, SENTENCES[4]) for s in (1.5, 2.0)])
    return folder


@pytest.fixture
def own_data(tiny_data, tmp_path) -> Path:
    """A copy of the tiny data that a test may spoil."""
    return shutil.copytree(tiny_data, tmp_path / "data")


def teacher_section(weights: Path) -> dict:
    """The recipe's teacher, but for its trained part."""
    return {
        "encoder": str(weights / "whisper"),
        "llm": str(weights / "llm"),
        "dtype": "fp32",
        "qformer": QFORMER,
        "window_frames": 8,
        "window_stride": 8,
        "margin_s": 0.1,
        "lora": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": ["q_proj", "v_proj"]},
        "prompt": {"template": "USER: {}\nASSISTANT:", "audio": "<SpeechHere> {}"},
    }


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory) -> Path:
    """whisper/ and llm/ (with its tokenizer) as Hugging Face folders, and trained.safetensors: all of random weights.

    The LoRA of the trained part does something, as after training.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, WhisperConfig, WhisperModel

    from teacher.build import build_teacher
    from teacher.settings import ModelSettings
    from teacher.weights import save_trained_part

    folder = tmp_path_factory.mktemp("tiny_weights")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whisper = WhisperConfig(
            d_model=32,
            num_mel_bins=80,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_layers=1,
            decoder_attention_heads=2,
            decoder_ffn_dim=64,
            vocab_size=60,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )
        WhisperModel(whisper).save_pretrained(folder / "whisper")
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
        )
        bpe.train_from_iterator(SENTENCES, trainer)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")
        tokenizer.save_pretrained(folder / "llm")
        llama = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.3,  # the usual 0.02 gives logits so flat that tests of them would pass by chance
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=1,
        )
        LlamaForCausalLM(llama).save_pretrained(folder / "llm")
        model, _ = build_teacher(ModelSettings.model_validate_json(json.dumps(teacher_section(folder))))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".lora_B." in name:
                    parameter.normal_(std=0.2)
        save_trained_part(model.state_dict(), folder / "trained.safetensors", torch.float32)
    return folder


@pytest.fixture
def tiny_recipe(own_data, tiny_weights, tmp_path) -> Path:
    """A recipe of six steps in fp32 without dropout; all that it reads but weights, and writes, is the test's own."""
    batches = {"max_seconds": 6, "warmup_steps": 1}
    recipe = {
        "name": "tiny",
        "runs": str(tmp_path / "runs"),
        "results": str(tmp_path / "results"),
        "data": {
            "train": str(own_data / "train.json"),
            "valid": [str(own_data / "valid.json")],
            "test": {"asr": str(own_data / "test_asr.json")},
            "prompts": PROMPTS,
        },
        "teacher": teacher_section(tiny_weights) | {"weights": str(tiny_weights / "trained.safetensors")},
        "student": {
            "encoder_layers": [1],
            "llm_layers": [0, 1, 3],
            "qformer": QFORMER,
            "qformer_layers": [0],
            "margin_s": 0.1,
        },
        "cache": {
            "folder": str(tmp_path / "cache"),
            "targets": ["reference", "hypothesis"],
            "top_k": 16,
            "max_seconds": 6,
        },
        "train": {
            "save_every": 2,
            "validate_every": 100,
            "stages": [
                {
                    "name": "features",
                    "steps": 2,
                    "losses": {"encoder": 1.0, "audio_tokens": 1.0},
                    "lr": {"encoder": 1e-3, "connector": 1e-3},
                    **batches,
                },
                {
                    "name": "distil",
                    "steps": 4,
                    "losses": {"ce": 0.5, "kd": 0.5, "ctc": 0.1},
                    "lr": {"encoder": 1e-3, "connector": 1e-3, "llm": 1e-3},
                    **batches,
                },
            ],
        },
        "generation": {"max_new_tokens": 8, "max_seconds": 6},
        "evaluation": {"warmup_runs": 1, "measured_runs": 1},
        "deepspeed": {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": 1.0,
            # DeepSpeed's own reserves 2 GB for each engine: after a few tests the process is too large to fork.
            "zero_optimization": {"stage": 1, "reduce_bucket_size": 1_000_000},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 1_000_000_000,
        },
    }
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(recipe, indent=2))
    return path


@pytest.fixture
def tiny_teacher(tiny_recipe):
    """Model and processor of the tiny recipe's teacher."""
    from distill.recipe.reading import read_recipe
    from teacher.build import build_teacher

    return build_teacher(read_recipe(tiny_recipe).teacher)


@pytest.fixture
def tiny_salmonn(tiny_recipe, tmp_path):
    """A function that builds the tiny teacher with a BEATs, untrained, under overrides of its settings."""
    import torch

    from distill.recipe.reading import read_recipe
    from teacher.beats import BeatsEncoder, BeatsSettings
    from teacher.build import build_teacher
    from tests.released import CFG, SIZES, released_beats

    def build(*overrides: str):
        torch.manual_seed(0)
        beats = released_beats(BeatsEncoder(BeatsSettings(**SIZES)))
        torch.save({"cfg": CFG, "model": beats}, tmp_path / "beats.pt")
        own = ["teacher.weights=null", f"teacher.beats={tmp_path}/beats.pt", *overrides]
        return build_teacher(read_recipe(tiny_recipe, own).teacher)

    return build


@pytest.fixture
def fill_tiny_cache(tiny_recipe, tiny_teacher):
    """A function that runs the tiny teacher over the tiny recipe's training rows, into its cache."""
    from distill.recipe.reading import read_recipe
    from distill.recipe.rows import read_rows
    from teacher.cache import cache_identity, fill_cache

    def fill(*overrides: str, rank: int = 0, world: int = 1, model=None):
        recipe = read_recipe(tiny_recipe, overrides)
        teacher, processor = tiny_teacher
        rows = read_rows(recipe, recipe.data.train)
        settings = (recipe.data.prompts, recipe.cache, recipe.generation)
        identity = cache_identity(recipe.teacher, recipe.cache, recipe.generation, recipe.data.prompts, rows, processor)
        fill_cache(model or teacher, processor, rows, *settings, identity, rank=rank, world=world)
        return Path(recipe.cache.folder), identity

    return fill


@pytest.fixture(scope="session")
def waves() -> list[np.ndarray]:
    """Three clips of different lengths."""
    return [sound(seconds, seed) for seed, seconds in enumerate((1.0, 2.7, 1.64))]


@pytest.fixture(scope="session")
def free_port() -> int:
    """The first of ten ports that nothing listens on, this process's alone: tests take the next ones too.

    They are below those that systems give to outgoing connections, and no two workers of a run begin at the same ones.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    block = 16 * os.getppid() + worker
    while not all(map(_is_free, range(first := 10_000 + 10 * (block % 997), first + 10))):
        block += 16
    return first


def _is_free(port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.bind(("", port))
        return True
    return False


@pytest.fixture
def command(monkeypatch, capfd, free_port):
    """A function that runs one of the commands in this process, as the only rank: exit status, stdout, stderr."""
    rank = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port}
    for name, value in rank.items():
        monkeypatch.setenv(name, str(value))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(script: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        monkeypatch.setattr(sys, "path", [*sys.path])
        capfd.readouterr()
        status = 0
        try:
            runpy.run_path(str(REPOSITORY / script), run_name="__main__")
        except SystemExit as end:
            status = end.code or 0
        return status, *capfd.readouterr()

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def records(path: Path) -> list[dict]:
    """The lines of a JSON lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def train(command, tiny_recipe, fill_tiny_cache, tmp_path):
    """Runs distill/train.py; gives the records of its steps."""
    fill_tiny_cache()

    def train(name, *overrides, ends=0):
        options = [word for override in (f"name={name}", *overrides) for word in ("--set", override)]
        status, out, err = command("distill/train.py", "--config", tiny_recipe, *options)
        assert status == ends, err
        return records(tmp_path / "runs" / name / "steps.jsonl"), out

    return train


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """For commands in processes of their own: one thread, as more only get in each other's way on a tiny model."""
    scripts = Path(sys.executable).parent
    return {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture
def stopping_at(monkeypatch):
    """A context in which a run gets SIGTERM when a step, counted from 0, is logged."""
    from distill.training.run_log import RunLog

    logged = RunLog.step

    @contextmanager
    def stopping_at(step):
        def stopped(self, record, left_s):
            logged(self, record, left_s)
            if record["step"] == step:
                os.kill(os.getpid(), signal.SIGTERM)

        with monkeypatch.context() as patch:
            patch.setattr(RunLog, "step", stopped)
            yield

    return stopping_at
