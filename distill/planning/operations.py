"""Floating-point operations of a micro-batch, by part: products of linear layers and convolutions, and attention.

As PaLM counts them (Chowdhery et al. 2022, appendix B): norms, activations and softmax are left out, the causal half of
the scores is not. A frozen part has no weights' gradients, and no gradients at all where nothing before it is trained.
"""

from torch import nn

from distill.planning.activations import needs_gradient
from distill.planning.clips import MicroBatch
from distill.planning.linears import Work, attention_work, whole_linears, work_of
from teacher.beats import BeatsEncoder
from teacher.connector import Connector
from teacher.encoder import SpeechEncoder
from teacher.model import SalmonnForConditionalGeneration
from teacher.stack import StackConnector


def encoder_work(encoder: SpeechEncoder, batch: MicroBatch, *, again: bool = False) -> Work:
    """Whisper's encoder."""
    flows, rows = needs_gradient(encoder), batch.clips * batch.frames
    width, done = encoder.layer_norm.weight.numel(), Work()
    for conv, of, given in (
        (encoder.conv1, 2 * rows, False),
        (encoder.conv2, rows, encoder.conv1.weight.requires_grad),
    ):
        forward = 2.0 * of * conv.in_channels * conv.out_channels * conv.kernel_size[0]
        done += Work(forward, forward * (given + conv.weight.requires_grad))
    layers = _layers(encoder.layers, rows, flows=flows)
    for _ in encoder.layers:
        layers += attention_work(batch.clips, batch.frames, batch.frames, width, flows=flows)
    return done + _again(layers, again and flows)


def beats_work(beats: BeatsEncoder, batch: MicroBatch) -> Work:
    """BEATs, frozen: what it costs to be asked."""
    config, rows = beats.config, batch.clips * batch.patches
    conv, width = beats.pos_conv, config.encoder_embed_dim
    forward = 2.0 * rows * beats.patch_embedding.weight.numel() + 2.0 * rows * conv.weight.numel()
    done = Work(forward) + _layers([beats.post_extract_proj], rows, flows=False)
    for layer in beats.layers:
        own = [of for of in whole_linears(layer) if of is not layer.self_attn.grep_linear]
        done += sum((work_of(of, rows, flows=False) for of in own), Work())
        heads = rows * config.encoder_attention_heads
        done += work_of(layer.self_attn.grep_linear, heads, flows=False)
        done += attention_work(batch.clips, batch.patches, batch.patches, width, flows=False)
    return Work(done.forward)


def connector_work(
    connector: Connector | StackConnector, batch: MicroBatch, *, flows: bool, again: bool = False
) -> Work:
    """The Q-Former: a query for each window, keys and values for each of its frames; or a gated MLP."""
    windows, frames = batch.clips * batch.windows, connector.window_frames
    if isinstance(connector, StackConnector):
        first = work_of(connector.linear_1, windows, flows=flows or needs_gradient(connector.norm_pre))
        return first + work_of(connector.linear_2, windows, flows=flows or needs_gradient(connector))
    flows, width = flows or needs_gradient(connector), connector.qformer.config.hidden_size
    layers = Work()
    for layer in connector.qformer.encoder.layer:
        cross = layer.crossattention.attention
        for of in (cross.key, cross.value):
            layers += work_of(of, windows * frames, flows=flows)
        unused = {cross.key, cross.value, *_of(layer, "intermediate"), *_of(layer, "output")}
        for of in whole_linears(layer):
            if of not in unused:
                layers += work_of(of, windows, flows=flows)
        layers += attention_work(windows, 1, 1, width, flows=flows) + attention_work(
            windows, 1, frames, width, flows=flows
        )
    return _again(layers, again and flows) + work_of(connector.proj, windows, flows=flows)


def llm_work(
    model: SalmonnForConditionalGeneration, batch: MicroBatch, *, flows: bool, again: bool = False, head: bool = True
) -> Work:
    """The language model, with its head at the supervised positions.

    Args:
        model: Whose.
        batch: Whose positions.
        flows: Whether its input gets a gradient.
        again: Whether its layers are computed again.
        head: Whether its head is asked.
    """
    rows, decoder = batch.clips * batch.positions, model.llm.get_decoder()
    flows = flows or needs_gradient(model.llm)
    layers = _layers(decoder.layers, rows, flows=flows)
    for layer in decoder.layers:
        width = layer.self_attn.q_proj.out_features
        layers += attention_work(batch.clips, batch.positions, batch.positions, width, flows=flows)
    done = _again(layers, again and flows)
    if head:
        done += work_of(model.llm.get_output_embeddings(), batch.clips * batch.texts, flows=flows)
    return done


def asked_work(model: SalmonnForConditionalGeneration, batch: MicroBatch, *, llm: bool) -> Work:
    """A frozen teacher: one pass, without a gradient."""
    done = encoder_work(model.encoder, batch) + connector_work(model.connector, batch, flows=False)
    if model.beats is not None:
        done += beats_work(model.beats, batch)
    if llm:
        done += llm_work(model, batch, flows=False)
    return Work(done.forward)


def _layers(layers: nn.ModuleList | list[nn.Module], rows: int, *, flows: bool) -> Work:
    linears = [of for layer in layers for of in ([layer] if isinstance(layer, nn.Linear) else whole_linears(layer))]
    return sum((work_of(of, rows, flows=flows) for of in linears), Work())


def _again(layers: Work, again: bool) -> Work:
    return Work(layers.forward, layers.backward, layers.forward * again)


def _of(layer: nn.Module, name: str) -> list[nn.Module]:
    """Linear layers that are there for text, which no one asks."""
    return [*whole_linears(getattr(layer, name))] if hasattr(layer, name) else []
