"""SALMONN: a speech encoder, a connector and a language model. Teacher and student are both this class.

Letters: B clips, T sequence positions, M mel bins, N audio tokens of all clips, H LLM width, V vocabulary.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    PreTrainedModel,
    StoppingCriteria,
)
from transformers.generation.streamers import BaseStreamer
from transformers.modeling_outputs import CausalLMOutput

from data.errors import InputError
from data.sound.features import Features
from teacher.beats import BeatsEncoder, BeatsSettings
from teacher.config import SalmonnConfig
from teacher.connector import AudioStates, Connector
from teacher.encoder import SpeechEncoder, encoder_frames
from teacher.low_rank import on_factors
from teacher.stack import StackConnector
from teacher.transformers_insides import one_text_a_row
from teacher.weights import share_weights


@dataclass
class Batch:
    """Clips with their prompts and, in training, texts.

    Args:
        features: What the encoders hear.
        input_ids_BT: Token ids; an attended `[PAD]` is a place for one audio token.
        attention_mask_BT: 1 at real positions (right-padded in training, left-padded for generation).
        audio_N: Where its audio tokens go: flat row indices into (B*T), clip after clip.
        labels_BT: Ids to be predicted *at* their own position (shifted by the loss), -100 elsewhere; None to generate.
        rows_N: Where the model predicts a supervised id: flat row indices into (B*T), clip after clip.
        labels_N: These ids.
        texts: The ids of each clip's text; they stay on the host.
    """

    features: Features
    input_ids_BT: Tensor
    attention_mask_BT: Tensor
    audio_N: Tensor
    labels_BT: Tensor | None = None
    rows_N: Tensor | None = None
    labels_N: Tensor | None = None
    texts: tuple[list[int], ...] = ()

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""

        def moved(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(device, non_blocking=True)

        *tensors, texts = list(vars(self).values())[1:]
        return Batch(self.features.to(device), *map(moved, tensors), texts)


class SalmonnForConditionalGeneration(PreTrainedModel):
    """Hears mono 16 kHz audio and writes text (Tang et al. 2024, "SALMONN")."""

    config_class = SalmonnConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: SalmonnConfig, llm: PreTrainedModel | None = None) -> None:
        """Makes a model.

        Args:
            config: Its shape.
            llm: The pretrained language model, taken as it is; None makes an untrained one.
        """
        super().__init__(config)
        # In 30 s of which the clip is a part Whisper hears the silence too, as it was trained.
        masked = config.margin_s is not None
        self.encoder = SpeechEncoder(config.encoder_config, masked=masked, ranks=config.encoder_ranks)
        beats = BeatsSettings(**config.beats_config) if config.beats_config else None
        self.beats = BeatsEncoder(beats) if beats else None
        self.llm = llm or AutoModelForCausalLM.from_config(config.llm_config, trust_remote_code=False)
        if llm is not None:
            for module in llm.modules():
                module._is_hf_initialized = True  # post_init below makes up the weights of every other module
        self.connector = _connector(config, beats.encoder_embed_dim if beats else 0)
        self.post_init()
        for part, lora in config.adapted.items():
            _require_named(part, getattr(self, part), lora["target_modules"])
            # After post_init, which initialises every linear layer of the LLM: an update has to start at zero.
            try:
                inject_adapter_in_model(LoraConfig(**on_factors(lora, getattr(self, part))), getattr(self, part))
            except ValueError as error:
                reason = str(error).splitlines()[0]
                raise InputError(f"LoRA of the {part}: {reason}; name linear layers that it has") from error
        if isinstance(self.llm.get_output_embeddings(), LoraLayer):
            raise InputError(
                "LoRA of the llm: its head is one with the loss and cannot have one; leave it out of target_modules (a "
                "student's head is trained whole by train_embeddings)"
            )

    def _init_weights(self, module: nn.Module) -> None:
        # Every part initialises itself as its own library does; SALMONN adds nothing of its own.
        return

    def save_pretrained(self, save_directory: str | Path, *options: object, **named: object) -> None:
        """As transformers', for everyone who may read the folder."""
        super().save_pretrained(save_directory, *options, **named)
        share_weights(save_directory)

    def get_input_embeddings(self) -> nn.Embedding:
        """The LLM's token embeddings."""
        return self.llm.get_input_embeddings()

    def encode(self, features: Features) -> AudioStates:
        """The encoders' states of a batch of clips."""
        speech_BTD = self.encoder(features.mel_BMT, features.mel_frames_B)
        frames_B = encoder_frames(features.mel_frames_B)
        if self.beats is None:
            return AudioStates(speech_BTD, frames_B)
        return AudioStates(speech_BTD, frames_B, *self.hear_sounds(features))

    def hear_sounds(self, features: Features) -> tuple[Tensor, Tensor]:
        """BEATs' states of a batch of clips, and how many of each are heard."""
        _, length, bins = features.fbank_BTF.shape
        sound_frames_B = self.beats.frames(features.fbank_frames_B, bins)
        if self.config.reference_padding:
            whole = self.beats.frames(length, bins)
            part = length // whole
            sound_frames_B = ((features.fbank_frames_B + part - 1) // part).clamp(max=whole)
        sound_BTD = self.beats(features.fbank_BTF, sound_frames_B)
        if self.config.reference_padding:
            # What BEATs says past a clip's end is heard.
            sound_frames_B = torch.full_like(sound_frames_B, whole)
        return sound_BTD, sound_frames_B

    def audio_tokens(self, batch: Batch) -> Tensor:
        """The connector's tokens (N, H) of all clips, one clip after the other."""
        return self.connector(self.encode(batch.features))

    def embed(self, batch: Batch, audio_NH: Tensor) -> Tensor:
        """Token embeddings (B, T, H) with the audio tokens in their places."""
        embeds_BTH = self.get_input_embeddings()(batch.input_ids_BT)
        flat_TH = embeds_BTH.flatten(0, 1).index_copy(0, batch.audio_N, audio_NH.to(embeds_BTH.dtype))
        return flat_TH.unflatten(0, embeds_BTH.shape[:2])

    def hidden(self, batch: Batch, audio_NH: Tensor | None = None) -> Tensor:
        """The LLM's last hidden states (B, T, H), before the head: the loss selects its rows and applies the head."""
        if audio_NH is None:
            audio_NH = self.audio_tokens(batch)
        decoder = self.llm.get_decoder()
        # Causal and right-padded, no real position sees padding: without a mask attention runs its fast kernels.
        mask_BT = None if batch.labels_BT is not None else batch.attention_mask_BT
        embeds_BTH = self.embed(batch, audio_NH)
        with one_text_a_row():
            return decoder(inputs_embeds=embeds_BTH, attention_mask=mask_BT, use_cache=False).last_hidden_state

    def forward(self, batch: Batch) -> CausalLMOutput:
        """Logits (B, T, V), and the mean cross-entropy where the batch has labels."""
        logits_BTV = self.llm.get_output_embeddings()(self.hidden(batch))
        loss = None
        if batch.labels_BT is not None:
            logits_NV = logits_BTV.flatten(0, 1)[batch.rows_N]
            loss = nn.functional.cross_entropy(logits_NV.float(), batch.labels_N)
        return CausalLMOutput(loss=loss, logits=logits_BTV)

    @torch.no_grad()
    def generate(
        self,
        batch: Batch,
        audio_NH: Tensor | None = None,
        *,
        stopping_criteria: list[StoppingCriteria] | None = None,
        logits_processor: list[LogitsProcessor] | None = None,
        streamer: BaseStreamer | None = None,
        **options: object,
    ) -> object:
        """New token ids after each left-padded prompt, by transformers' `generate`.

        The options alone say how: nothing is taken from the generation_config.json of the LLM's folder, which a
        student does not have, nor a teacher that was saved as one model.

        Args:
            batch: The prompts.
            audio_NH: Their audio tokens, where they are there already.
            stopping_criteria: Further ones.
            logits_processor: Further ones.
            streamer: Gets the ids as they are written.
            options: Of a `GenerationConfig`; greedy search if not given.
        """
        embeds_BTH = self.embed(batch, self.audio_tokens(batch) if audio_NH is None else audio_NH)
        ends = {"pad_token_id": self.config.pad_token_id, "eos_token_id": self.config.eos_token_id}
        # What is not stated would be filled from here.
        self.llm.generation_config = GenerationConfig()
        return self.llm.generate(
            inputs_embeds=embeds_BTH,
            attention_mask=batch.attention_mask_BT,
            generation_config=GenerationConfig(**ends | {"do_sample": False} | options),
            stopping_criteria=stopping_criteria,
            logits_processor=logits_processor,
            streamer=streamer,
        )


AutoModel.register(SalmonnConfig, SalmonnForConditionalGeneration)


def _connector(config: SalmonnConfig, sound_width: int) -> Connector | StackConnector:
    widths = config.encoder_config.d_model, config.llm_config.hidden_size
    if config.stack:
        return StackConnector(*widths, config.window_frames, config.stack["width"])
    return Connector(*widths, config.qformer, config.window_frames, config.window_stride, sound_width)


def merge_lora(model: SalmonnForConditionalGeneration) -> None:
    """Folds the LoRA updates into the parts' own weights, in place; the model is then without adapters.

    A quantised LLM keeps them: rounding the sum again would lose what was learnt.
    """
    quantised = getattr(model.llm, "is_quantized", False)
    for part in ("encoder", "beats", "connector", "llm"):
        of = getattr(model, part)
        if of is None or (part == "llm" and quantised):
            continue
        for name, layer in list(of.named_modules()):
            if isinstance(layer, LoraLayer):
                layer.merge()
                setattr(of.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], layer.get_base_layer())
        for attribute in ("peft_config", "_hf_peft_config_loaded"):
            vars(of).pop(attribute, None)
    model.config.part_lora = {}
    if not quantised:
        model.config.lora = None


def _require_named(part: str, module: nn.Module, targets: list[str]) -> None:
    """Refuses a name of LoRA's that no layer has; peft passes over it where another name has one."""
    names = {name for name, _ in module.named_modules()}
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise InputError(f"LoRA of the {part}: no layer is called '{target}'; name linear layers that it has")
