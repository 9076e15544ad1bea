"""A SALMONN from released parts: a Whisper encoder, a language model, and the trained part between them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    WhisperConfig,
)

from data.cache import hash_of
from data.errors import InputError
from data.paths import file_sha256, resolve
from data.settings import Settings
from teacher.config import SalmonnConfig
from teacher.model import SalmonnForConditionalGeneration
from teacher.processor import SalmonnProcessor
from teacher.released import beats_settings, beats_tensors
from teacher.weights import load_encoder, load_exactly, load_pretrained, load_trained_part, locate, weight_files

PAD_TOKEN = "[PAD]"


class QFormerSettings(Settings):
    """Sizes of the Q-Former."""

    layers: int = Field(2, ge=1, description="transformer layers, each with cross-attention to the window")
    width: int = Field(768, ge=1, description="hidden width")
    heads: int = Field(12, ge=1, description="attention heads; divides width")
    feed_forward: int = Field(3072, ge=1, description="width of the feed-forward layer")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout probability in training")

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> "QFormerSettings":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class LoraSettings(Settings):
    """Low-rank updates of the LLM (Hu et al. 2021), by peft."""

    r: int = Field(8, ge=1, description="rank")
    lora_alpha: int = Field(32, ge=1, description="scale: updates are multiplied by alpha / r")
    lora_dropout: float = Field(0.1, ge=0, lt=1, description="dropout probability in training")
    target_modules: tuple[str, ...] = Field(("q_proj", "v_proj"), description="linear layers that get an update")


class PromptSettings(Settings):
    """How audio and instruction are laid out."""

    template: str = Field("USER: {}\nASSISTANT:", description="turn template; {} is the audio and the instruction")
    audio: str = Field(
        "<Speech><SpeechHere></Speech> {}", description="<SpeechHere> is the audio, {} the instruction of the task"
    )

    @model_validator(mode="after")
    def _has_its_places(self) -> "PromptSettings":
        for text, place in ((self.template, "{}"), (self.audio, "{}"), (self.audio, "<SpeechHere>")):
            if text.count(place) != 1:
                raise ValueError(f"'{text}' must hold {place} once")
        return self


class ModelSettings(Settings):
    """The teacher's parts."""

    encoder: str = Field(description="a Whisper: its folder ({cache} is the cache folder) or hub name")
    beats: str | None = Field(None, description="a BEATs checkpoint (.pt); null: sounds are heard by Whisper alone")
    llm: str = Field(description="a decoder-only language model with its tokenizer: folder or hub name")
    weights: str | None = Field(
        None,
        description="connector and LoRA: our safetensors, or a released SALMONN's .pth; null: untrained",
    )
    # Advice only: it is no part of what was run, so a saved recipe and the cache's identity leave it out.
    sources: dict[Literal["encoder", "beats", "llm", "weights"], str] = Field(
        {},
        exclude=True,
        description="how to get a missing part, told to the person; {place} is where it goes, {folder} its folder",
    )
    dtype: Literal["fp32", "bf16", "fp16"] = Field("bf16", description="precision of caching and scoring")
    qformer: QFormerSettings = QFormerSettings()
    window_frames: int = Field(17, ge=1, description="encoder frames (20 ms) heard by one query")
    window_stride: int = Field(17, ge=1, description="encoder frames between windows")
    margin_s: float | None = Field(None, ge=0, description="silence heard after a clip, seconds; null: pad to 30 s")
    reference_padding: bool = Field(
        False, description="hear all of the 30 s padding, exactly as the released SALMONNs were trained and run"
    )
    lora: LoraSettings | None = LoraSettings()
    prompt: PromptSettings = PromptSettings()
    end_symbol: str | None = Field(None, description="token that ends a text; null: the tokenizer's end of sequence")


def missing_parts(settings: ModelSettings) -> list[str]:
    """What of a teacher this machine lacks: which part, where it is looked for, and how to get it."""
    missing = []
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
        "\n  ".join(["the recipe needs files that are not on this machine:", *missing])
        + "\nTo try without them: --config configs/kd_mini.json (bash scripts/setup.sh fetches its weights and sounds)"
    )


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The LLM's tokenizer with the `[PAD]` token that SALMONN adds."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(locate(name))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{locate(name)}: no tokenizer that can be read ({reason}); fetch it again") from error
    tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    return tokenizer


def build_teacher(
    settings: ModelSettings, dtype: torch.dtype = torch.float32
) -> tuple[SalmonnForConditionalGeneration, SalmonnProcessor]:
    """Puts the parts together: pretrained encoder and LLM, connector and LoRA untrained or from `settings.weights`.

    Raises:
        InputError: A part is missing or does not fit.
    """
    if missing := missing_parts(settings):
        raise missing_error(missing)
    tokenizer = load_tokenizer(settings.llm)
    end = tokenizer.eos_token_id
    if settings.end_symbol is not None:
        end = tokenizer.convert_tokens_to_ids(settings.end_symbol)
        if end is None or end == tokenizer.unk_token_id:
            raise InputError(f"teacher.end_symbol: '{settings.end_symbol}' is no token of {settings.llm}")
    llm = load_pretrained(AutoModelForCausalLM, locate(settings.llm), dtype)
    llm.resize_token_embeddings(max(len(tokenizer), llm.config.vocab_size), mean_resizing=False)
    lora: dict[str, Any] | None = None
    if settings.lora:
        lora = settings.lora.model_dump() | {"target_modules": list(settings.lora.target_modules)}
    config = SalmonnConfig(
        encoder_config=WhisperConfig.from_pretrained(locate(settings.encoder)),
        beats_config=beats_settings(resolve(settings.beats)).model_dump() if settings.beats else None,
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
    with default_dtype(dtype):
        model = SalmonnForConditionalGeneration(config, llm)
    load_encoder(model.encoder, locate(settings.encoder))
    if settings.beats:
        load_exactly(model.beats, beats_tensors(resolve(settings.beats)), settings.beats)
    if settings.weights:
        load_trained_part(model, resolve(settings.weights))
    return model.to(dtype).eval(), SalmonnProcessor(tokenizer, config)


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
    """A hash over the teacher's weight files and every setting that changes what it computes."""
    files = [path for name in (settings.encoder, settings.llm) for path in weight_files(locate(name))]
    files += [resolve(name) for name in (settings.beats, settings.weights) if name]
    tree = settings.model_dump(exclude={"encoder", "beats", "llm", "weights", "sources"})
    return hash_of([tree, [file_sha256(path) for path in files]])
