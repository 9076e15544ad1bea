"""A smaller SALMONN made from a bigger one: layers left out, a slimmer connector, the rest copied."""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from transformers import PreTrainedModel

from data.errors import InputError
from data.settings import Settings
from student.earlier import model_folder
from student.low_rank import lower_rank
from student.neurons import keep_neurons, stack_of
from teacher.config import SalmonnConfig
from teacher.low_rank import ranks_of
from teacher.model import Batch, SalmonnForConditionalGeneration, merge_lora
from teacher.settings import LoraSettings, QFormerSettings, StackSettings
from teacher.weights import copy_exactly, load_exactly, load_pretrained


class StudentSettings(Settings):
    """What the student keeps of the teacher (or of `base`), and what of it is trained."""

    base: str | None = Field(
        None,
        description="model folder of an earlier run, which is cut instead of the teacher: what is said here of the "
        "teacher's shape is then its own, and layers count in it; it is still the teacher that is distilled from",
    )
    encoder_layers: Annotated[int, Field(ge=1)] | tuple[int, ...] | None = Field(
        None, description="encoder layers kept, counted from 0; or how many, see layer_choice; null: all"
    )
    encoder_ffn: int | None = Field(
        None,
        ge=1,
        description="width of the encoder's feed-forward layers: the neurons stay whose activations have the greatest "
        "norm on some training clips; null: as the teacher",
    )
    encoder_rank: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="two factors in the place of each linear layer of the encoder: the share of the variance of its "
        "outputs on some training clips that stays at least (such as 0.99), or the rank; a layer of which they would "
        "not be smaller stays whole; null: all do",
    )
    llm: str | None = Field(
        None,
        description="another pretrained LLM, folder or hub name, of the teacher's vocabulary (or see "
        "train.kd.vocabulary); null: the teacher's",
    )
    llm_shapes: dict[str, Any] | None = Field(None, description="keys of its configuration, for --random-weights")
    # Advice only, as teacher.sources.
    llm_source: str | None = Field(
        None, exclude=True, description="how to get student.llm, told to the person; {place} is where it goes"
    )
    llm_layers: Annotated[int, Field(ge=1)] | tuple[int, ...] | None = Field(
        None, description="LLM layers kept, counted from 0; or how many, see layer_choice; null: all"
    )
    llm_ffn: int | None = Field(
        None,
        ge=1,
        description="width of the LLM's feed-forward layers: the neurons stay that do most on some training clips, by "
        "the norm of their activations, over prompt, audio tokens and text, times that of their weights in the last "
        "linear; null: as the teacher",
    )
    layer_choice: Literal["even", "ranked"] | None = Field(
        None,
        description="which layers a number keeps: evenly spaced ones, first and last among them (ruins an LLM that is "
        "not trained for long); or all but the block that turns the teacher's states least (angular distance)",
    )
    calibration_clips: int = Field(32, ge=1, description="training clips on which layers are ranked, and neurons")
    connector: Literal["qformer", "stack"] = Field(
        "qformer",
        description="from encoder states to audio tokens: the window-level Q-Former, or some frames side by side and a "
        "gated MLP (Ultravox's), which llama.cpp can run",
    )
    qformer: QFormerSettings | None = Field(None, description="sizes of the student's Q-Former, where it has one")
    stack: StackSettings | None = Field(None, description="sizes of connector 'stack'")
    qformer_layers: tuple[int, ...] = Field((), description="Q-Former layers copied where shapes allow")
    window_frames: int | None = Field(
        None, ge=1, description="encoder frames (20 ms) heard by one query; null: as the teacher"
    )
    window_stride: int | None = Field(None, ge=1, description="encoder frames between windows; null: as the teacher")
    beats: bool = Field(False, description="keep the teacher's BEATs; false: sounds are heard by Whisper alone")
    margin_s: float | None = Field(0.5, ge=0, description="silence heard after a clip, seconds; null: pad to 30 s")
    reference_padding: bool = Field(
        False, description="margin_s null: all of the 30 s become audio tokens, as in llama.cpp; false: the clip alone"
    )
    lora: LoraSettings | None = Field(None, description="LoRA on the LLM; null: its layers are trained in full")
    part_lora: dict[Literal["encoder", "beats", "connector"], LoraSettings] = Field(
        {}, description="LoRA on other parts; a part without one is trained in full"
    )
    weights: str | None = Field(
        None, description="a trained student of the same shape to start from; null: the teacher"
    )
    train_embeddings: bool = Field(
        False, description="train the token embeddings and the head too, where the LLM is trained (also beside LoRA)"
    )

    @model_validator(mode="after")
    def _keys_fit_together(self) -> "StudentSettings":
        if self.layer_choice is None and (isinstance(self.encoder_layers, int) or isinstance(self.llm_layers, int)):
            raise ValueError("layer_choice: where layers are a number, say which: 'even' or 'ranked'")
        if self.llm and self.llm_ffn:
            raise ValueError("llm_ffn: neurons of another LLM cannot be ranked; leave it out, or llm")
        if self.llm and self.base:
            raise ValueError("base: it has its own LLM, which is cut; leave llm out, or base")
        if self.reference_padding and self.margin_s is not None:
            raise ValueError(
                "reference_padding: it goes with 30 s that are heard; set margin_s to null, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _one_connector(self) -> "StudentSettings":
        other = "stack" if self.connector == "qformer" else "qformer"
        if getattr(self, other):
            raise ValueError(
                f"{other}: the connector is '{self.connector}'; leave this out, or set connector '{other}'"
            )
        if self.connector == "qformer" and self.qformer is None:
            raise ValueError("qformer: its sizes are missing")
        if self.connector == "stack":
            told = {"qformer_layers": self.qformer_layers, "window_frames": self.window_frames}
            told |= {"window_stride": self.window_stride, "beats": self.beats}
            if odd := [name for name, value in told.items() if value]:
                raise ValueError(f"{odd[0]}: connector 'stack' has none, only stack.frames; leave it out")
        return self


def layers_kept(wanted: int | tuple[int, ...] | None, available: int, what: str) -> tuple[int, ...]:
    """The numbers of the layers that are kept: as listed, so many evenly spaced ones, or all.

    Raises:
        InputError: The list names a layer twice, out of order, or one that is not there; or the number is too large.
    """
    if wanted is None:
        return tuple(range(available))
    if isinstance(wanted, int):
        if wanted > available:
            raise InputError(f"student.{what}: {wanted} layers of {available} cannot be kept; name fewer")
        return tuple(round(i * (available - 1) / max(wanted - 1, 1)) for i in range(wanted))
    kept = wanted
    if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= available:
        raise InputError(
            f"student.{what}: {list(kept)} must name layers of 0 to {available - 1}, each once, in rising order"
        )
    return kept


def shrink(
    teacher: SalmonnForConditionalGeneration,
    settings: StudentSettings,
    seed: int = 0,
    llm: PreTrainedModel | None = None,
    neurons: dict[str, list[torch.Tensor]] | None = None,
    heard: Iterable[tuple[Batch, torch.Tensor]] | None = None,
) -> SalmonnForConditionalGeneration:
    """Builds the student; the teacher's LoRA is folded into the copied LLM weights first.

    Args:
        teacher: The trained teacher, or the model that `settings.base` names; left as it is.
        settings: What is kept.
        seed: Of the initialisation of what cannot be copied.
        llm: The language model that `settings.llm` names (`student.llm.other_llm`); None: the teacher's own.
        neurons: By part ("encoder", "llm") and layer of the teacher's, the feed-forward neurons that stay, in rising
            order (`student.neurons.neuron_importance` ranks them); of a part that is not there: all.
        heard: Clips on which `encoder_rank` finds what each layer needs (see `student.low_rank.lower_rank`).

    Raises:
        InputError: A layer list does not fit the teacher.
    """
    # Where another LLM comes in, the teacher's own is not copied only to be dropped.
    source = copy.deepcopy(teacher, {} if llm is None else {id(teacher.llm): copy.deepcopy(llm)})
    merge_lora(source)
    _require_qformer(settings, source.config)
    llm_layers = _cut(source, settings, neurons := neurons or {}, heard)
    config = _shape(teacher.config, settings, source, llm_layers, neurons)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = SalmonnForConditionalGeneration(config).to(teacher.dtype)
    for part in ("encoder", "llm", "beats"):
        if getattr(student, part) is not None:
            _copy_part(getattr(student, part), getattr(source, part).state_dict(), part)
    connector = _renumbered(source.connector.state_dict(), settings.qformer_layers)
    if student.beats is None and source.beats is not None:
        connector = _for_speech_alone(connector, student.config.encoder_config.d_model)
    _copy_where_shapes_allow(student.connector, connector)
    if settings.weights:
        _start_from(student, model_folder("student.weights", settings.weights))
    return student


def _require_qformer(settings: StudentSettings, teacher: SalmonnConfig) -> None:
    """Refuses Q-Former layers that are not there, do not fit, or would mean something else."""
    ours, theirs, kept = settings.qformer, teacher.qformer, settings.qformer_layers
    if ours is None:
        return
    if kept:
        if theirs is None:
            raise InputError("student.qformer_layers: student.base has no Q-Former whose layers stay; leave them out")
        layers_kept(kept, theirs["layers"], "qformer_layers")
    if len(kept) > ours.layers:
        raise InputError(
            f"student.qformer_layers: {list(kept)} are more than the student's Q-Former has ({ours.layers}); name fewer"
        )
    if kept and ours.width == theirs["width"] and ours.heads != theirs["heads"]:
        raise InputError(
            f"student.qformer.heads: {ours.heads}, but the teacher's Q-Former has {theirs['heads']} of the same width "
            "in all; the heads of qformer_layers would mean something else: keep their number, or leave that key out"
        )


def _cut(
    source: SalmonnForConditionalGeneration,
    settings: StudentSettings,
    neurons: dict[str, list[torch.Tensor]],
    heard: Iterable[tuple[Batch, torch.Tensor]] | None,
) -> tuple[int, ...]:
    """Leaves layers and neurons out, and lowers the encoder's rank, in place; which layers of the LLM stay."""
    encoder_layers = layers_kept(settings.encoder_layers, len(source.encoder.layers), "encoder_layers")
    llm_layers = layers_kept(settings.llm_layers, source.llm.config.num_hidden_layers, "llm_layers")
    for part, kept in neurons.items():
        keep_neurons(stack_of(source, part), part, kept)
    source.encoder.layers = nn.ModuleList(source.encoder.layers[i] for i in encoder_layers)
    if settings.encoder_rank:
        lower_rank(source.encoder.eval(), settings.encoder_rank, heard)
    decoder = source.llm.get_decoder()
    decoder.layers = nn.ModuleList(decoder.layers[i] for i in llm_layers)
    for index, layer in enumerate(decoder.layers):
        # The key-value cache files each layer's keys under its number.
        layer.self_attn.layer_idx = index
    return llm_layers


def _shape(
    teacher: SalmonnConfig,
    settings: StudentSettings,
    source: SalmonnForConditionalGeneration,
    llm_layers: tuple[int, ...],
    neurons: dict[str, list[torch.Tensor]],
) -> SalmonnConfig:
    """The student's configuration: the teacher's, with what was cut of `source` and what the settings say."""
    values = teacher.to_dict()
    values["encoder_config"]["encoder_layers"] = len(source.encoder.layers)
    if "encoder" in neurons:
        values["encoder_config"]["encoder_ffn_dim"] = len(neurons["encoder"][0])
    values["encoder_ranks"] = ranks_of(source.encoder)
    values["llm_config"] = source.llm.config.to_dict()
    values["llm_config"]["num_hidden_layers"] = len(llm_layers)
    if "llm" in neurons:
        values["llm_config"]["intermediate_size"] = len(neurons["llm"][0])
    if kinds := values["llm_config"].get("layer_types"):
        values["llm_config"]["layer_types"] = [kinds[i] for i in llm_layers]
    values |= _connector_shape(settings, values)
    values["margin_s"] = settings.margin_s
    values["reference_padding"] = settings.reference_padding
    if settings.beats and not values["beats_config"]:
        whose = "student.base" if settings.base else "the teacher"
        raise InputError(f"student.beats: {whose} has no BEATs to keep; set it to false")
    if not settings.beats:
        values["beats_config"] = None
    if "beats" in settings.part_lora and not settings.beats:
        raise InputError("student.part_lora: the student has no beats; keep it with student.beats, or leave that out")
    # As it is read from a file: lists, no tuples.
    values["lora"] = settings.lora and settings.lora.model_dump(mode="json")
    values["part_lora"] = {part: lora.model_dump(mode="json") for part, lora in settings.part_lora.items()}
    return SalmonnConfig(**values)


def _connector_shape(settings: StudentSettings, before: dict) -> dict:
    if settings.connector == "stack":
        stack = settings.stack or StackSettings()
        windows = dict.fromkeys(("window_frames", "window_stride"), stack.frames)
        return {"qformer": None, "stack": {"width": stack.width}, **windows}
    windows = {key: getattr(settings, key) or before[key] for key in ("window_frames", "window_stride")}
    return {"qformer": settings.qformer.model_dump(), "stack": None, **windows}


def _start_from(student: SalmonnForConditionalGeneration, folder: Path) -> None:
    """Takes over the weights of an earlier run's model."""
    earlier = load_pretrained(SalmonnForConditionalGeneration, folder, student.dtype)
    if earlier.config.adapted != student.config.adapted:
        merge_lora(earlier)
    own = student.state_dict()
    tensors = earlier.state_dict()
    if student.config.adapted and not earlier.config.adapted:
        # New adapters start at zero effect on the merged weights; every other weight must be there.
        adapters = {key: value for key, value in own.items() if ".lora_" in key}
        bases = {key.replace(".base_layer.", "."): key for key in own if ".base_layer." in key}
        tensors = {bases.get(key, key): value for key, value in tensors.items()} | adapters
    load_exactly(student, tensors, str(folder))


def _renumbered(tensors: dict[str, torch.Tensor], kept: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """The connector's tensors with the kept Q-Former layers counted anew, and the others left out."""
    prefix = "qformer.encoder.layer."
    out = {}
    for key, value in tensors.items():
        if key.startswith(prefix):
            number, _, rest = key.removeprefix(prefix).partition(".")
            if int(number) in kept:
                out[f"{prefix}{kept.index(int(number))}.{rest}"] = value
        else:
            out[key] = value
    return out


def _for_speech_alone(tensors: dict[str, torch.Tensor], speech_width: int) -> dict[str, torch.Tensor]:
    """The connector's tensors where keys and values see Whisper's states, the first columns, and no more BEATs'."""
    seen = (".crossattention.attention.key.weight", ".crossattention.attention.value.weight")
    return {key: value[:, :speech_width] if key.endswith(seen) else value for key, value in tensors.items()}


def _copy_part(module: nn.Module, tensors: dict[str, torch.Tensor], part: str) -> None:
    """Copies a part that is kept, every tensor of which must be there; new adapters are left as they were made."""
    own = {key.replace(".base_layer.", "."): value for key, value in module.state_dict().items() if ".lora_" not in key}
    copy_exactly(own, tensors, f"the {part} that the student's is made of")


@torch.no_grad()
def _copy_where_shapes_allow(module: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    for key, own in module.state_dict().items():
        value = tensors.get(key.replace(".base_layer.", "."))
        if value is not None and value.shape == own.shape:
            own.copy_(value)


def set_trainable(model: SalmonnForConditionalGeneration, parts: set[str], *, embeddings: bool = False) -> None:
    """Freezes what is not trained: a part with LoRA trains only its adapters; positions stay as they are."""
    for name, parameter in model.named_parameters():
        part = name.split(".")[0]
        wanted = part in parts and name != "encoder.embed_positions.weight"
        if part in model.config.adapted:
            wanted &= ".lora_" in name
        parameter.requires_grad_(wanted)
    for ends in (model.llm.get_input_embeddings(), model.llm.get_output_embeddings()):
        ends.weight.requires_grad_(embeddings and "llm" in parts)
