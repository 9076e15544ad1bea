"""What the teacher's cache takes on the disk, in the format of `data/cache/files.py`."""

import math

from distill.planning.clips import Clips, MicroBatch, micro_batch
from teacher.cache import CacheSettings
from teacher.config import SalmonnConfig

KEPT = 11.0
"""Ids a position that the mini teacher's cache holds on average (`scripts/inspect_cache.py` tells those of another)."""
_LOGP, _COUNT, _CHARACTER, _ROW = 0.95, 0.85, 0.6, 35.0
"""Bytes of a log-probability, a count, a character of a text and the rest of a row as they are compressed: measured on
1,536 rows of the mini teacher's cache. Ids have no pattern: their bits are left, 15.6 of 49,152 ids in 1.95 bytes."""
_CHARACTERS_A_TOKEN = 4.0


def cache_bytes(settings: CacheSettings, teacher: SalmonnConfig, clips: Clips, kept: float = KEPT) -> dict[str, float]:
    """Bytes of a cache's `targets`, `texts` and `features`.

    Args:
        settings: What is cached.
        teacher: Its shape.
        clips: Of which rows.
        kept: Ids kept a position, on average.
    """
    rows, tokens = float(clips.number.sum()), float(clips.tokens @ clips.number)
    an_id = math.log2(teacher.llm_config.vocab_size) / 8
    kept = min(kept, settings.draws if settings.method == "sampled" else settings.top_k)
    # "untexted": whether rows lack a text is not known here, and none of them has both then.
    texts = 2 if settings.writes_texts and settings.hypotheses != "untexted" else 1
    targets = texts if len(settings.targets) > 1 else 1
    found = {
        "targets": targets * tokens * (an_id + _COUNT + kept * (an_id + _LOGP)),
        "texts": texts * tokens * _CHARACTERS_A_TOKEN * _CHARACTER + rows * _ROW,
    }
    if settings.features:
        batches = [micro_batch(teacher, 1, s, 0, 0) for s in clips.seconds.tolist()]
        each = [sum(_numbers(name, teacher, batch) for name in settings.features) for batch in batches]
        found["features"] = 2.0 * sum(n * of for n, of in zip(clips.number.tolist(), each, strict=True))
    return found


def _numbers(feature: str, teacher: SalmonnConfig, batch: MicroBatch) -> int:
    """Of a clip's feature, each of which is stored in 16 bits."""
    if feature == "encoder":
        whole = teacher.margin_s is not None or teacher.reference_padding
        frames = batch.frames if whole else batch.windows * teacher.window_stride
        return frames * teacher.encoder_config.d_model
    if feature == "audio_tokens":
        return batch.windows * teacher.llm_config.hidden_size
    return batch.patches * teacher.beats_config["encoder_embed_dim"]
