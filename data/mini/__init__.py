"""What the mini recipe is made of, one module each: `splits()` plans its clips, and each clip renders its sound.

A new one is a module with `splits()` (see `clips.py`) and a line in `corpora()`.
"""

from data.mini.clips import AAC, ASR, Clip, Splits


def corpora() -> dict[str, Splits]:
    """All corpora by name, with what is said in held-out speech taken out of the training clips."""
    # Imported here: the modules need decoders that a reader of annotations does not.
    from data.mini import asterisk, mixtures, pico, queen, sky, sphinx, synthetic, tuxpaint

    modules = (asterisk, sky, sphinx, pico, queen, tuxpaint, synthetic, mixtures)
    found = {module.NAME: module.splits() for module in modules}
    valid = {clip.text for splits in found.values() for clip in splits.valid if clip.task == ASR}
    test = {clip.text for splits in found.values() for clip in splits.test if clip.task == ASR}
    for splits in found.values():
        splits.valid = _without(splits.valid, test)
        splits.train = _without(splits.train, test | valid)
        splits.extra = _without(splits.extra, test | valid)
    return found


def _without(clips: list[Clip], texts: set[str]) -> list[Clip]:
    return [clip for clip in clips if clip.task != ASR or clip.text not in texts]


__all__ = ["AAC", "ASR", "Clip", "Splits", "corpora"]
