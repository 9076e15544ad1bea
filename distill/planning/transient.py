"""Bytes of what comes and goes in a step beside the activations: the loss, matched features, texts being written."""

import inspect

from distill.losses.fused import fused_loss
from distill.losses.matching import FeatureMatching
from distill.planning.clips import MicroBatch
from teacher.model import SalmonnForConditionalGeneration

_FP32, _FP64 = 4, 8
_CUT_ROWS = 256
_DEFAULTS = inspect.signature(fused_loss).parameters
CHUNK, BLOCK = (_DEFAULTS[name].default for name in ("chunk_rows", "block_rows"))


def loss_bytes(
    model: SalmonnForConditionalGeneration, batch: MicroBatch, element: int, *, asked: int = 0, spans: bool = False
) -> int:
    """Head and loss in one (`distill/losses/fused.py`): logits of a chunk, of a block in fp32, gradients of the rows.

    Args:
        model: The student.
        batch: Whose supervised positions.
        element: Bytes of a hidden state.
        asked: Bytes of an element of a teacher's logits, where one is asked beside; else 0.
        spans: Whether its vocabulary is another one.
    """
    head = model.llm.get_output_embeddings().weight
    V, D = head.shape
    N = batch.clips * batch.texts
    chunk, block = min(N, CHUNK), min(N, BLOCK)
    found = chunk * V * element + N * D * (_FP32 + 2 * element)
    if element != _FP32:
        found += block * V * _FP32
    if asked:  # its logits of the chunk, and both distributions of a block
        found += chunk * V * asked + 3 * block * V * _FP32
    if spans:
        found += block * V * _FP32
    return found + (V * D * (_FP32 + element) if head.requires_grad else 0)


def matched_bytes(
    student: SalmonnForConditionalGeneration,
    teacher: SalmonnForConditionalGeneration,
    matching: FeatureMatching,
    batch: MicroBatch,
    asked: MicroBatch,
    element: int,
    names: set[str],
) -> int:
    """Features that are matched: the teacher's, both sides' real rows, and their difference in fp32.

    Args:
        student: The student.
        teacher: The teacher.
        matching: What is matched.
        batch: As the student gets it.
        asked: As the teacher gets it.
        element: Bytes of a state.
        names: The features.
    """
    row, given = 2 * element + 2 * _FP32, 0
    found = 0
    if "encoder" in names:
        width, pairs = teacher.config.encoder_config.d_model, len(matching.layers["encoder"][0])
        given += asked.clips * asked.frames * width * pairs
        found += batch.clips * batch.frames * width * pairs * row
    if "beats" in names:
        width, columns = matching.project["beats"].out_features, batch.clips * batch.frames // matching.column
        given += asked.clips * asked.patches * teacher.config.beats_config["encoder_embed_dim"]
        found += columns * (width * row + matching.project["beats"].in_features * element)
    if "audio_tokens" in names:
        found += batch.clips * batch.windows * teacher.config.llm_config.hidden_size * row
    if "hidden" in names:
        width, pairs = teacher.config.llm_config.hidden_size, len(matching.layers["hidden"][0])
        found += batch.clips * batch.texts * width * pairs * row
    return found + given * element


def writing_bytes(
    model: SalmonnForConditionalGeneration, batch: MicroBatch, element: int, *, beams: int = 1, drawn: bool = False
) -> int:
    """Texts being written: keys and values of each beam, its logits and their logarithms.

    Args:
        model: That writes.
        batch: Clips; their `texts` are the most tokens of one.
        element: Bytes of an element.
        beams: Of each clip.
        drawn: Whether texts are drawn, by noise of their own.
    """
    config, rows = model.config.llm_config, batch.clips * beams
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    channels = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = 2 * config.num_hidden_layers * heads * channels * batch.positions * element
    logits = config.vocab_size * (element + 3 * _FP32)
    return rows * (keys + logits) + (2 * config.vocab_size * _FP64 if drawn else 0)


def targets_bytes(teacher: SalmonnForConditionalGeneration, batch: MicroBatch, element: int) -> int:
    """A batch's targets being cut: all logits, and some rows of them in fp32 and fp64 (`data/cache/targets.py`)."""
    V, N = teacher.config.llm_config.vocab_size, batch.clips * batch.texts
    return N * V * element + min(N, _CUT_ROWS) * V * (2 * _FP32)
