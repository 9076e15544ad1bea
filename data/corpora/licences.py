"""Under which licence a corpus is, by its name in the rows, as far as that is known here."""

_SOUNDS = "GPL-2+ (Tux Paint stamps)"
_GAME = "its own: may be distributed and changed, not sold by itself"
_KNOWN = {
    "asterisk": "CC-BY-SA-3.0",
    "asterisk_chain": "CC-BY-SA-3.0",
    "queen": _GAME,
    "queen_joe": _GAME,
    "synthetic_piper": "voice CC0",
    "synthetic_flite": "voices BSD-style",
    "synthetic_espeak": "made with eSpeak NG, GPL-3+",
    "tuxpaint_words": _SOUNDS,
    "mixtures": _SOUNDS,
    "librispeech": "CC-BY-4.0",
    "musicnet": "CC-BY-4.0",
}
UNKNOWN = "not known here: see its source"


def licence_of(corpus: str) -> str:
    """The licence of a corpus."""
    return _KNOWN.get(corpus, UNKNOWN)
