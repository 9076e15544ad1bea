"""Corpora as they are distributed, one module each, and lists of clips in other forms.

A new one is a module with `NAME`, `LAYOUT` and `entries()` (see `entry.py`) and its name in the tuple below.
"""

from data.corpora import (
    annotation,
    audiocaps,
    clotho,
    gigaspeech,
    huggingface,
    librispeech,
    musicnet,
    table,
    wavcaps,
)
from data.corpora.entry import Corpus, Entry

CORPORA: dict[str, Corpus] = {
    corpus.NAME: corpus
    for corpus in (
        *(librispeech, gigaspeech, wavcaps, audiocaps, clotho, musicnet),
        *(annotation, table, huggingface),
    )
}

__all__ = ["CORPORA", "Corpus", "Entry"]
