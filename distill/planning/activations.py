"""Bytes that autograd keeps of a micro-batch for the backward pass, from what each layer computes.

Korthikanti et al. 2022 ("Reducing Activation Recomputation in Large Transformer Models", section 4.1) count 34 s b h +
5 a s^2 b bytes of a transformer layer in 16 bits. Here the same is counted tensor by tensor, as these layers differ:
attention keeps no scores (its fused kernels keep queries, keys, values, output, and one number a head and position),
there is no dropout in most, gates and RMS norms are others, and where a weight is frozen its input is not kept. With
activation checkpointing (section 4.2 there) a layer keeps its input alone, and one layer at a time is computed again.
"""

from dataclasses import dataclass

from torch import nn

from data.errors import InputError
from distill.planning.clips import MicroBatch
from distill.planning.linears import Sizes, kept_inputs
from teacher.connector import Connector
from teacher.encoder import SpeechEncoder
from teacher.model import SalmonnForConditionalGeneration
from teacher.stack import StackConnector

_FP32 = 4
_INDEX = 8


@dataclass(frozen=True)
class Kept:
    """Bytes of a part that has layers.

    Attributes:
        layers: Of each layer, where nothing is computed again.
        inputs: Of each layer's input.
        around: Of what is outside the layers.
        working: Of the gradients that are there at a time in a layer's backward pass.
    """

    layers: tuple[int, ...] = ()
    inputs: tuple[int, ...] = ()
    around: int = 0
    working: int = 0

    def all(self, *, again: bool, moved: bool = False) -> int:
        """Bytes of the part.

        Args:
            again: Whether layers are computed again in the backward pass.
            moved: Whether their inputs are moved to the CPU.
        """
        if not again:
            return sum(self.layers) + self.around
        return (0 if moved else sum(self.inputs)) + max(self.layers, default=0) + self.around


def needs_gradient(module: nn.Module | None) -> bool:
    """Whether something of a module is trained."""
    return module is not None and any(parameter.requires_grad for parameter in module.parameters())


def of_encoder(encoder: SpeechEncoder, batch: MicroBatch, sizes: Sizes) -> Kept:
    """Whisper's encoder; nothing where it is frozen, as nothing before it has a gradient."""
    if not needs_gradient(encoder):
        return Kept()
    e, rows, width = sizes.element, batch.clips * batch.frames, encoder.layer_norm.weight.numel()
    layers = []
    for layer in encoder.layers:
        attention, inner = layer.self_attn, layer.fc1.out_features
        readers = [attention.q_proj, attention.k_proj, attention.v_proj]
        row = 2 * _norm(width, e) + kept_inputs(readers, width, sizes) + _attended(4 * width, attention.num_heads, e)
        row += kept_inputs([attention.out_proj], width, sizes, there=not sizes.copied)
        row += kept_inputs([layer.fc1], width, sizes) + inner * e + kept_inputs([layer.fc2], inner, sizes)
        mask = batch.clips * batch.frames**2 * e if encoder.masked else 0  # the kernel's, of numbers
        layers.append(rows * row + mask)
    mels = encoder.conv1.in_channels
    trained = encoder.conv1.weight.requires_grad, encoder.conv2.weight.requires_grad
    # Two frames before the second convolution, which has stride 2; GELU keeps its input.
    front = 2 * mels * trained[0] + 2 * width * (any(trained) + trained[1]) + width * any(trained)
    around = rows * (front * e + _norm(width, e))
    return Kept(
        tuple(layers), (rows * width * e,) * len(layers), around, 3 * rows * encoder.layers[0].fc1.out_features * e
    )


def of_connector(connector: Connector | StackConnector, batch: MicroBatch, sizes: Sizes, *, flows: bool) -> Kept:
    """The Q-Former over windows, or a gated MLP over frames side by side.

    Args:
        connector: Its modules.
        batch: Whose windows.
        sizes: Of elements.
        flows: Whether its input gets a gradient.
    """
    if not (flows or needs_gradient(connector)):
        return Kept()
    e, windows, frames = sizes.element, batch.clips * batch.windows, connector.window_frames
    if isinstance(connector, StackConnector):
        row = _stacked(connector, sizes, flows=flows)
        return Kept(around=windows * row, working=3 * windows * connector.linear_2.in_features * e)
    config = connector.qformer.config
    width, speech = config.hidden_size, connector.ln_speech.weight.numel()
    sound = 0 if connector.ln_audio is None else connector.ln_audio.weight.numel()
    p, heads = (config.hidden_dropout_prob and sizes.mask), config.num_attention_heads
    layers = []
    for layer in connector.qformer.encoder.layer:
        own, cross = layer.attention, layer.crossattention
        # Self-attention of one query to itself; cross-attention to the frames of its window.
        row = _attended(2 * width + 2 * frames * width, heads, e)
        row += kept_inputs([cross.output.dense], width, sizes, there=True) + _norm(width, e) + width * p
        if layers or needs_gradient(connector):  # else the first layer's query is a constant
            row += kept_inputs(_three(own.attention), width, sizes) + _attended(4 * width, heads, e)
            row += kept_inputs([own.output.dense], width, sizes, there=True) + _norm(width, e) + width * p
            row += kept_inputs([cross.attention.query], width, sizes)
        inner = layer.intermediate_query.dense.out_features
        row += kept_inputs([layer.intermediate_query.dense], width, sizes) + inner * e
        row += kept_inputs([layer.output_query.dense], inner, sizes) + _norm(width, e) + width * p
        layers.append(windows * row)
    readers = [of for layer in connector.qformer.encoder.layer for of in _three(layer.crossattention.attention)[1:]]
    around = windows * frames * kept_inputs(readers, speech + sound, sizes)
    around += batch.clips * batch.frames * (_norm(speech, e) + (_norm(sound, e) if sound else 0))
    around += windows * (kept_inputs([connector.proj], width, sizes) + 2 * _INDEX)
    return Kept(tuple(layers), (windows * width * e,) * len(layers), around, 2 * windows * frames * width * e)


def _stacked(connector: StackConnector, sizes: Sizes, *, flows: bool) -> int:
    """Of one token of a gated MLP over frames side by side."""
    stacked, width = connector.linear_1.in_features, connector.linear_2.in_features
    inner_flows = flows or needs_gradient(connector.norm_pre) or needs_gradient(connector.linear_1)
    row = 2 * _INDEX * flows + _plain_rms_norm(connector.norm_pre, sizes, flows=flows)
    row += kept_inputs([connector.linear_1], stacked, sizes)
    row += 3 * width * sizes.element * inner_flows  # value, gate, and the gate's SiLU
    row += _plain_rms_norm(connector.norm_mid, sizes, flows=inner_flows)
    return row + kept_inputs([connector.linear_2], width, sizes)


def of_llm(model: SalmonnForConditionalGeneration, batch: MicroBatch, sizes: Sizes, *, flows: bool) -> Kept:
    """The language model up to its last hidden states (the head is one with the loss).

    Args:
        model: Whose.
        batch: Whose positions.
        sizes: Of elements.
        flows: Whether its input gets a gradient.

    Raises:
        InputError: Its layers are not built as those of Llama.
    """
    if not (flows or needs_gradient(model.llm)):
        return Kept()
    e, rows, decoder = sizes.element, batch.clips * batch.positions, model.llm.get_decoder()
    width, layers, inner = model.config.llm_config.hidden_size, [], 0
    for layer in decoder.layers:
        attention, mlp = layer.self_attn, layer.mlp
        if not hasattr(mlp, "gate_proj") or not hasattr(attention, "o_proj"):
            raise InputError(f"no plan for an LLM of type {model.llm.config.model_type}: its layers are not Llama's")
        readers = [attention.q_proj, attention.k_proj, attention.v_proj]
        queries, keys, values = (of.out_features for of in readers)
        inner = mlp.gate_proj.out_features
        norms = [of for of in layer.children() if hasattr(of, "weight") and of.weight.ndim == 1]
        inner_flows = flows or bool(layers)  # of an LLM that is trained alone the first layer's input has no gradient
        row = sum(_rms_norm(of, e, flows=inner_flows or of is not norms[0]) for of in norms)
        row += kept_inputs(readers, width, sizes, flows=inner_flows)
        row += _attended(2 * queries + keys + values, queries // attention.head_dim, e)
        row += kept_inputs([attention.o_proj], queries, sizes, there=True)
        # The gate's input and output, and what it is multiplied by.
        row += kept_inputs([mlp.gate_proj, mlp.up_proj], width, sizes) + 3 * inner * e
        row += kept_inputs([mlp.down_proj], inner, sizes)
        layers.append(rows * row)
    around = rows * _rms_norm(decoder.norm, e)
    return Kept(tuple(layers), (rows * width * e,) * len(layers), around, 3 * rows * inner * e)


def passing(model: SalmonnForConditionalGeneration, batch: MicroBatch, element: int, *, llm: bool) -> int:
    """Bytes that a pass without a gradient has at a time, at most: of the widest layer of its widest part.

    Args:
        model: Frozen.
        batch: As it gets it.
        element: Bytes of an element.
        llm: Whether its LLM is asked.
    """
    encoder, found = model.encoder, []
    width, inner = encoder.layer_norm.weight.numel(), encoder.layers[0].fc1.out_features
    found.append(batch.clips * batch.frames * (3 * width + 2 * inner) * element)
    found.append(batch.clips * batch.frames * 6 * width * element)
    if model.beats is not None:
        beats = model.beats.config
        # Scores' bias, scaled by a gate and masked: two of them at a time, and what attention aligns.
        bias = batch.clips * beats.encoder_attention_heads * batch.patches**2
        rows = batch.clips * batch.patches * (2 * beats.encoder_ffn_embed_dim + 4 * beats.encoder_embed_dim)
        found.append((3 * bias + rows) * element)
    if llm:
        config = model.config.llm_config
        found.append(batch.clips * batch.positions * (3 * config.hidden_size + 3 * config.intermediate_size) * element)
    return max(found)


def _attended(width: int, heads: int, element: int) -> int:
    """Queries, keys, values and output, and the log-sum-exp of each head."""
    return width * element + heads * _FP32


def _norm(width: int, element: int) -> int:
    """A layer norm keeps its input, mean and deviation."""
    return width * element + 2 * _FP32


def _rms_norm(norm: nn.Module, element: int, *, flows: bool = True) -> int:
    """Transformers' RMS norm computes in fp32: it keeps its input so, the root, and, if trained, what it scales."""
    width = norm.weight.numel()
    return flows * (width + 1) * _FP32 + (width * element if norm.weight.requires_grad else 0)


def _plain_rms_norm(norm: nn.RMSNorm, sizes: Sizes, *, flows: bool) -> int:
    """PyTorch's: input and root; on a CPU, where it is no kernel of its own, in fp32, and what it scales too."""
    width, learns = norm.weight.numel(), norm.weight.requires_grad
    if not sizes.copied:
        return (flows or learns) * (width * sizes.element + _FP32)
    return flows * (width + 1) * _FP32 + learns * width * _FP32


def _three(attention: nn.Module) -> list[nn.Module]:
    return [attention.query, attention.key, attention.value]
