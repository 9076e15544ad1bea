"""A SALMONN from released parts: a Whisper encoder, a language model, and the trained part between them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    WhisperConfig,
)

from data.errors import InputError
from data.hashing import hash_of
from data.known_hashes import known_sha256
from data.paths import resolve
from teacher.beats import BeatsSettings
from teacher.config import SalmonnConfig
from teacher.device import DTYPES, pick_device
from teacher.model import SalmonnForConditionalGeneration, merge_lora
from teacher.processor import SalmonnProcessor
from teacher.quantise import quantise_llm, require_quantisation
from teacher.released import beats_settings, beats_tensors
from teacher.settings import ModelSettings
from teacher.weights import (
    load_encoder,
    load_exactly,
    load_pretrained,
    load_trained_part,
    locate,
    model_files,
    read_by_libraries,
    shaped_as,
    weight_files,
)

PAD_TOKEN = "[PAD]"


def missing_parts(settings: ModelSettings) -> list[str]:
    """What of a teacher this machine lacks: which part, where it is looked for, and how to get it."""
    missing = []
    if settings.random_weights:
        return missing
    for part in ("encoder", "beats", "llm", "weights"):
        name = getattr(settings, part)
        if name is None:
            continue
        if part in ("beats", "weights"):
            place, there, files = resolve(name), resolve(name).is_file(), ""
        else:
            place = locate(name)
            there = (place / "config.json").is_file() and bool(weight_files(place))
            files = " (config.json and *.safetensors)"
        if not there:
            how = settings.sources.get(part, "put it there, or name another place in the recipe")
            how = how.replace("{place}", str(place)).replace("{folder}", str(place.parent))
            missing.append(f"{part}: {place}{files}\n    {how}")
    return missing


def missing_error(missing: list[str]) -> InputError:
    """One message for all that is missing; it ends in the recipe that runs without any of it."""
    return InputError(
        *"\n  ".join(["the recipe needs files that are not on this machine:", *missing]).split("\n"),
        "bash scripts/download_weights.sh [kd_7b] fetches what configs/kd_1b.json [kd_7b.json] needs of the hub.",
        "To try without them: --config configs/kd_mini.json (bash scripts/setup.sh fetches its weights and sounds)",
    )


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The LLM's tokenizer with the `[PAD]` token that SALMONN adds."""
    with read_by_libraries(locate(name), "no tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(locate(name), trust_remote_code=False)
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    return tokenizer


def stand_in_tokenizer(end_symbol: str | None, vocab_size: int) -> PreTrainedTokenizerBase:
    """A tokenizer of single bytes, for untrained models: any text has ids, and `[PAD]` the first one past the LLM's."""
    end = end_symbol or "</s>"
    vocabulary = {token: i for i, token in enumerate(["<s>", end, *sorted(ByteLevel.alphabet())])} | {
        PAD_TOKEN: vocab_size
    }
    bytewise = Tokenizer(BPE(vocabulary, []))
    bytewise.pre_tokenizer, bytewise.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    return PreTrainedTokenizerFast(tokenizer_object=bytewise, bos_token="<s>", eos_token=end, pad_token=PAD_TOKEN)


def build_teacher(
    settings: ModelSettings, dtype: torch.dtype | None = None, *, with_llm: bool = True
) -> tuple[SalmonnForConditionalGeneration, SalmonnProcessor]:
    """Puts the parts together: pretrained encoders and LLM, connector and LoRA untrained or from `settings.weights`.

    Each part is made in its precision at once: the peak of memory is the model and its largest tensor.

    Args:
        settings: The parts.
        dtype: Of every part, to train; None: as the settings say, for caching and scoring.
        with_llm: Whether its LLM is asked; else it is of sizes alone, on the meta device, and no weight of it is read.
            The other parts are the same. (What is untrained of them is drawn after the LLM's rows: without
            `settings.weights` it is built all the same.)

    Raises:
        InputError: A part is missing or does not fit, or this machine cannot run it in its precision.
    """
    with_llm = with_llm or settings.random_weights or settings.weights is None
    stated = settings.precision.llm if dtype is None and with_llm else None
    quantised = None if stated in DTYPES else stated
    if quantised:
        require_quantisation(quantised, pick_device(), DTYPES[settings.dtype])
    precision = _precision(settings, dtype)
    built = _build_untrained if settings.random_weights else partial(_build_from_files, with_llm=with_llm)
    model, processor = built(settings, precision)
    if quantised:
        merge_lora(model)
        quantise_llm(model, quantised, pick_device())
    return model, processor


def _precision(settings: ModelSettings, dtype: torch.dtype | None) -> dict[str, torch.dtype]:
    """Of each part as it is built; an LLM that will be quantised is built in the others' precision."""
    stated = {part: name if name in DTYPES else settings.dtype for part, name in settings.precision}
    return {part: dtype or DTYPES[name] for part, name in stated.items()}


def _build_from_files(
    settings: ModelSettings, precision: dict[str, torch.dtype], with_llm: bool
) -> tuple[SalmonnForConditionalGeneration, SalmonnProcessor]:
    if missing := missing_parts(settings):
        raise missing_error(missing)
    llm = (load_pretrained if with_llm else shaped_as)(AutoModelForCausalLM, locate(settings.llm), precision["llm"])
    with read_by_libraries(locate(settings.encoder), "not a Whisper"):
        encoder = WhisperConfig.from_pretrained(locate(settings.encoder), trust_remote_code=False)
    beats = beats_settings(resolve(settings.beats)) if settings.beats else None
    tokenizer = load_tokenizer(settings.llm)
    with read_by_libraries(f"{locate(settings.encoder)} and {locate(settings.llm)}", "no parts of one model"):
        model, processor = _put_together(settings, encoder, beats, llm, tokenizer, precision)
    load_encoder(model.encoder, locate(settings.encoder))
    if settings.beats:
        load_exactly(model.beats, beats_tensors(resolve(settings.beats)), settings.beats)
    if settings.weights:
        load_trained_part(model, resolve(settings.weights))
    return model, processor


def _build_untrained(
    settings: ModelSettings, precision: dict[str, torch.dtype]
) -> tuple[SalmonnForConditionalGeneration, SalmonnProcessor]:
    """The same at random weights, from nothing but the recipe's `shapes`."""
    if settings.shapes is None:
        raise InputError(
            "--random-weights: the recipe states no teacher.shapes, as configs/kd_1b.json does, "
            "and its encoder and LLM are not on this machine"
        )
    with read_by_libraries("teacher.shapes.encoder"):
        encoder = WhisperConfig(**settings.shapes.encoder)
    _refuse_unknown(settings.shapes.encoder, WhisperConfig(), "teacher.shapes.encoder")
    beats = settings.shapes.beats if settings.beats else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        llm = untrained_llm(settings.shapes.llm, precision["llm"], "teacher.shapes.llm")
        tokenizer = stand_in_tokenizer(settings.end_symbol, llm.config.vocab_size)
        return _put_together(settings, encoder, beats, llm, tokenizer, precision)


def shapes_of_files(settings: ModelSettings) -> dict[str, Any] | None:
    """The parts' sizes as their files on this machine state them (`ShapeSettings`); None where they are not here."""
    places = [locate(settings.encoder), locate(settings.llm)]
    if settings.beats or not all((place / "config.json").is_file() for place in places):
        return None
    try:
        encoder = WhisperConfig.from_pretrained(places[0], trust_remote_code=False)
        llm = AutoConfig.from_pretrained(places[1], trust_remote_code=False)
    except (OSError, ValueError):
        return None
    return {"encoder": sizes(encoder, "model_type"), "llm": sizes(llm)}


def sizes(config: PretrainedConfig, *but: str) -> dict[str, Any]:
    """What a configuration says other than its class does, without what is no size."""
    but += ("architectures", "dtype", "transformers_version")
    known = type(config)().to_dict()
    return {name: value for name, value in config.to_diff_dict().items() if name in known and name not in but}


def untrained_llm(shapes: dict[str, Any], dtype: torch.dtype, key: str) -> PreTrainedModel:
    """A language model of these published sizes, at random weights.

    Raises:
        InputError: The sizes are not those of a model that is known; names the recipe's `key`.
    """
    with read_by_libraries(key):
        config = AutoConfig.for_model(**shapes)
        _refuse_unknown(shapes, type(config)(), key)
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)


def _refuse_unknown(shapes: dict[str, Any], known: PretrainedConfig, key: str) -> None:
    if unknown := sorted(shapes.keys() - known.to_dict().keys() - {"rope_theta", "rope_scaling"}):
        raise InputError(f"{key}: no size of such a model: {', '.join(unknown)}")


def _put_together(
    settings: ModelSettings,
    encoder: WhisperConfig,
    beats: BeatsSettings | None,
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    precision: dict[str, torch.dtype],
) -> tuple[SalmonnForConditionalGeneration, SalmonnProcessor]:
    """A model around the LLM; all else of it is untrained."""
    end = tokenizer.eos_token_id
    if settings.end_symbol is not None:
        end = tokenizer.convert_tokens_to_ids(settings.end_symbol)
        if end is None or end == tokenizer.unk_token_id:
            raise InputError(f"teacher.end_symbol: '{settings.end_symbol}' is no token of {settings.llm}")
    if llm.config.vocab_size < len(tokenizer) - 1:
        raise InputError(
            f"{settings.llm}: its tokenizer has {len(tokenizer) - 1} tokens, the model {llm.config.vocab_size}: "
            "they are not of one model; fetch both again"
        )
    needed = max(len(tokenizer), tokenizer.pad_token_id + 1)
    add_rows(llm, needed - llm.config.vocab_size)
    lora: dict[str, Any] | None = None
    if settings.lora:
        lora = settings.lora.model_dump() | {"target_modules": list(settings.lora.target_modules)}
    config = SalmonnConfig(
        encoder_config=encoder,
        beats_config=beats.model_dump() if beats else None,
        llm_config=AutoConfig.for_model(**llm.config.to_dict()),
        qformer=settings.qformer.model_dump(),
        window_frames=settings.window_frames,
        window_stride=settings.window_stride,
        margin_s=settings.margin_s,
        reference_padding=settings.reference_padding,
        lora=lora,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=end,
        prompt=settings.prompt.model_dump(),
    )
    with default_dtype(precision["encoder"]):
        model = SalmonnForConditionalGeneration(config, llm)
    model.connector.to(precision["connector"])
    if model.beats is not None:
        model.beats.to(precision["beats"])
    model.llm.to(precision["llm"])  # adapters too
    return model.eval(), SalmonnProcessor(tokenizer, config)


@torch.no_grad()
def add_rows(llm: PreTrainedModel, number: int) -> None:
    """Enlarges the vocabulary by rows that are the mean of the others: of no effect on what is written (Hewitt 2021).

    Without chance, so that a teacher is the same however often it is built.
    """
    if number <= 0:
        return
    llm.resize_token_embeddings(llm.config.vocab_size + number, mean_resizing=False)
    for weight in {
        id(of.weight): of.weight for of in (llm.get_input_embeddings(), llm.get_output_embeddings())
    }.values():
        weight[-number:] = weight[:-number].mean(0, dtype=torch.float32).to(weight.dtype)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """New parameters are made in this precision at once, without a copy in fp32 first."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def weights_hash(settings: ModelSettings) -> str:
    """A hash over the teacher's files and every setting that changes what it computes."""
    # Sizes that the files state themselves; without files they are all there is.
    left_out = {"encoder", "beats", "llm", "weights", "sources"} | (set() if settings.random_weights else {"shapes"})
    tree = settings.model_dump(exclude=left_out)
    return hash_of([tree, [known_sha256(path) for path in hashed_files(settings)]])


def hashed_files(settings: ModelSettings) -> list[Path]:
    """The teacher's weight files, and the configurations of its encoder and LLM."""
    if settings.random_weights:
        return []
    files = [path for name in (settings.encoder, settings.llm) for path in model_files(locate(name))]
    return files + [resolve(name) for name in (settings.beats, settings.weights) if name]
