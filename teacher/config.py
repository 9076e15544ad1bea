"""The shape of a SALMONN, teacher or student: everything that is needed to build it without weights."""

from transformers import AutoConfig, PretrainedConfig, WhisperConfig


class SalmonnConfig(PretrainedConfig):
    """Configuration of `SalmonnForConditionalGeneration`.

    Args:
        encoder_config: The Whisper encoder's shape (a `WhisperConfig` or its dictionary).
        encoder_ranks: Ranks of those of the encoder's linear layers that are of low rank, by name.
        beats_config: The BEATs encoder's shape (see `BeatsSettings`), or None where there is none.
        llm_config: The language model's shape (any decoder-only transformers configuration).
        qformer: Q-Former sizes: `layers`, `width`, `heads`, `feed_forward`; None where there is none.
        stack: Of a `StackConnector` in its place: `width`; its frames are those of a window. None where there is none.
        window_frames: Encoder frames (20 ms each) heard by one query; 17 in SALMONN (0.33 s).
        window_stride: Encoder frames between the starts of neighbouring windows.
        margin_s: Seconds of silence the encoder hears after the clip; None pads to Whisper's 30 s window.
        reference_padding: Exactly as the released SALMONN computes (and llama.cpp, of a `StackConnector`): all 30 s
            become audio tokens, and in a batch BEATs is heard past a clip's end. Else only the clip becomes tokens,
            whatever it is batched with.
        lora: peft LoRA settings of the LLM (`r`, `lora_alpha`, `lora_dropout`, `target_modules`), or None.
        part_lora: The same of other parts, by name (`encoder`, `beats`, `connector`).
        pad_token_id: The `[PAD]` row added to the tokenizer; where attended, it is a place for an audio token.
        eos_token_id: The end symbol that closes every supervised text.
        prompt: How an instruction and the audio are laid out (see `SalmonnProcessor`).
    """

    model_type = "salmonn"
    sub_configs = {"encoder_config": WhisperConfig, "llm_config": AutoConfig}  # noqa: RUF012 (transformers' protocol)

    def __init__(
        self,
        encoder_config: WhisperConfig | dict | None = None,
        llm_config: PretrainedConfig | dict | None = None,
        beats_config: dict | None = None,
        encoder_ranks: dict[str, int] | None = None,
        qformer: dict | None = None,
        stack: dict | None = None,
        window_frames: int = 17,
        window_stride: int = 17,
        margin_s: float | None = None,
        reference_padding: bool = False,
        lora: dict | None = None,
        part_lora: dict | None = None,
        pad_token_id: int | None = None,
        eos_token_id: int | None = None,
        prompt: dict | None = None,
        **kwargs: object,
    ) -> None:
        if isinstance(encoder_config, dict):
            encoder_config = WhisperConfig(**encoder_config)
        if isinstance(llm_config, dict):
            llm_config = AutoConfig.for_model(**llm_config)
        self.encoder_config = encoder_config or WhisperConfig()
        self.llm_config = llm_config or AutoConfig.for_model("llama")
        self.beats_config = beats_config
        self.encoder_ranks = encoder_ranks or {}
        self.stack = stack
        self.qformer = None if stack else qformer or {"layers": 2, "width": 768, "heads": 12, "feed_forward": 3072}
        self.window_frames = window_frames
        self.window_stride = window_stride
        self.margin_s = margin_s
        self.reference_padding = reference_padding
        self.lora = lora
        self.part_lora = part_lora or {}
        self.prompt = prompt or {"template": "USER: {}\nASSISTANT:", "audio": "<Speech><SpeechHere></Speech> {}"}
        super().__init__(pad_token_id=pad_token_id, eos_token_id=eos_token_id, **kwargs)

    @property
    def adapted(self) -> dict[str, dict]:
        """The LoRA settings of each part that has one."""
        return self.part_lora | ({"llm": self.lora} if self.lora else {})

    def get_text_config(self, *_: object, **__: object) -> PretrainedConfig:
        """The LLM's configuration: `generate` sizes its key-value cache by it."""
        return self.llm_config


AutoConfig.register(SalmonnConfig.model_type, SalmonnConfig)
