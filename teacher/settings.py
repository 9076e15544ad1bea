"""What a recipe says of its teacher: the parts, their sizes, and how they are put together."""

from typing import Any, Literal

from pydantic import Field, model_validator

from data.settings import Settings
from teacher.beats import BeatsSettings

Dtype = Literal["fp32", "bf16", "fp16"]
Quantisation = Literal["int8", "int4", "bnb_int8", "bnb_nf4"]


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


class StackSettings(Settings):
    """Sizes of a `StackConnector`."""

    frames: int = Field(10, ge=1, description="encoder frames (20 ms) side by side in one audio token")
    width: int = Field(768, ge=1, description="width of the MLP, behind its gate")


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


class PrecisionSettings(Settings):
    """Precision of single parts where it is not `dtype`, when the teacher is built from its parts to cache or score."""

    encoder: Dtype | None = Field(None, description="of Whisper; null: dtype")
    beats: Dtype | None = Field(None, description="of BEATs; null: dtype")
    connector: Dtype | None = Field(None, description="of norms, Q-Former and projection; null: dtype")
    llm: Dtype | Quantisation | None = Field(
        None,
        description="of the language model; int8 and int4 by torchao, bnb_int8 and bnb_nf4 by bitsandbytes, its "
        "LoRA folded in first; null: dtype",
    )


class ShapeSettings(Settings):
    """Published layer sizes of the parts, from which they are built untrained where nothing was downloaded."""

    encoder: dict[str, Any] = Field(description="keys of a WhisperConfig")
    beats: BeatsSettings = BeatsSettings()
    llm: dict[str, Any] = Field(description="keys of the language model's configuration, model_type among them")


class ModelSettings(Settings):
    """The teacher's parts."""

    encoder: str = Field(description="a Whisper: its folder ({cache} is the cache folder) or hub name")
    beats: str | None = Field(None, description="a BEATs checkpoint (.pt); null: sounds are heard by Whisper alone")
    llm: str = Field(description="a decoder-only language model with its tokenizer: folder or hub name")
    weights: str | None = Field(
        None,
        description="connector, LoRA and all else trained: our safetensors, or a released SALMONN's .pth; null: none",
    )
    # Advice only: it is no part of what was run, so a saved recipe and the cache's identity leave it out.
    sources: dict[Literal["encoder", "beats", "llm", "weights"], str] = Field(
        {},
        exclude=True,
        description="how to get a missing part, told to the person; {place} is where it goes, {folder} its folder",
    )
    shapes: ShapeSettings | None = Field(
        None, description="the parts' sizes, for --random-weights; null: those of their files, where they are here"
    )
    random_weights: bool = Field(
        False, description="build the parts untrained, to try memory and speed; what --random-weights sets"
    )
    dtype: Dtype = Field("bf16", description="precision of caching and scoring")
    precision: PrecisionSettings = PrecisionSettings()
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

    def precision_shown(self) -> str:
        """The precision of the model, and of the parts that have another one."""
        other = [f"{part} {name}" for part, name in self.precision if name not in (None, self.dtype)]
        return ", ".join([self.dtype, *other])
