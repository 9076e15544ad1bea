"""What the teacher cache holds of one clip, and the identity that says which teacher it was."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np

from data.cache.targets import FEATURES, TARGETS, Feature, SparseTargets, Target
from data.hashing import canonical, hash_of

FORMAT_VERSION = 3
"""3: sounds are heard otherwise (mp3, lengths), texts end at their own cap, the identity knows sounds and texts."""


@dataclass(frozen=True, eq=False)
class CachedRow:
    """One clip: what the teacher was asked, what it wrote, and its distributions over the texts."""

    id: str
    task: str = field(metadata={"help": "what was asked for: asr, aac, ..."})
    prompt: str = field(metadata={"help": "the instruction's wording used"})
    reference: str | None = None
    hypothesis: str | None = None
    hypothesis_logp: float | None = None
    """Mean log-probability of the hypothesis's tokens."""
    hypothesis_ended: bool | None = None
    """Whether the teacher ended it; False where it was cut at the cap."""
    hypothesis_wer: float | None = None
    """Against the reference; None where there is no reference."""
    targets: Mapping[Target, SparseTargets] = field(default_factory=dict)
    features: Mapping[Feature, np.ndarray] = field(default_factory=dict)
    """float16 [T, D]: what the teacher's encoder and connector made of the clip, where that is cached."""
    sound: str = ""
    """Fingerprint of the clip's file (`data.sound.headers`); empty where it was not known, as in shards before it.

    It is the size and 12 KiB of the content, so it survives a copy as times of change do not, and it is compared row
    by row when a clip is heard beside its targets: nobody reads a million files before that, a clip that was mended is
    cached beside the others, and what was replaced is refused alone.
    """

    def __post_init__(self):
        for name, known in (("targets", TARGETS), ("features", FEATURES)):
            if unknown := set(getattr(self, name)) - set(known):
                raise ValueError(f"row {self.id!r}: {name} are for {known}, not {sorted(unknown)}")

    def sha256(self) -> bytes:
        """A digest of everything that the teacher was asked and gave."""
        apart = ("targets", "features", "sound")
        texts = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in apart}
        arrays = {
            f"{name}.{part}": getattr(self.targets[name], part)
            for name in TARGETS
            if name in self.targets
            for part in ("token_ids", "ids", "half", "counts")
        }
        texts |= {f"{name}.draws": targets.draws for name, targets in self.targets.items()}
        arrays |= {name: self.features[name] for name in FEATURES if name in self.features}
        digest = hashlib.sha256(canonical(texts))
        for name, array in arrays.items():
            digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.digest()


UNTEXTED = "untexted "
"""Begins the identity of texts that were written for the rows without one in the annotation alone."""


@dataclass(frozen=True)
class CacheIdentity:
    """What a cache was made from; each part a hash (see `hash_of`). Two caches with the same parts are the same."""

    teacher: str
    """The teacher's configuration and weights."""
    tokenizer: str
    prompts: str
    """The prompt set, its template included."""
    audio: str
    """The list of clips and how they are read."""
    targets: str
    """Which texts, which cut."""
    hypotheses: str = ""
    """How the teacher's own texts are written; empty where they are not, behind `UNTEXTED` where of some rows alone."""
    sounds: str = ""
    """The content of the clips' files; empty where not known, as over an annotation file (see `CachedRow.sound`)."""
    format_version: int = FORMAT_VERSION

    def sha256(self) -> str:
        """One hash of all parts, carried by every shard."""
        return hash_of({f.name: getattr(self, f.name) for f in fields(self)})

    def differences(self, other: "CacheIdentity") -> list[str]:
        """The names of the parts in which `other` differs."""
        return [f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name)]

    def serves(self, other: "CacheIdentity", *, to_read: bool = False) -> bool:
        """Whether a cache of this is one of `other`: the same, as far as both know their sounds.

        Args:
            other: What is asked for.
            to_read: Whether it is read alone: then it may have texts where none, or fewer, are asked for.
        """
        allowed = set() if self.sounds and other.sounds else {"sounds"}
        if to_read and other.hypotheses in ("", UNTEXTED + self.hypotheses):
            allowed.add("hypotheses")
        return set(self.differences(other)) <= allowed
