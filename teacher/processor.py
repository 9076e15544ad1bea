"""From waves, instructions and texts to a batch, and from ids back to text."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerBase

from data.batches import batches_by_length
from data.errors import InputError
from data.rows.manifest import durations_of
from data.rows.row import Row
from data.sound.audio import load_clip
from data.sound.features import HOP, WINDOW_S, Features, fbank, log_mel
from teacher.config import SalmonnConfig
from teacher.connector import windows_of
from teacher.encoder import encoder_frames
from teacher.model import Batch
from teacher.weights import read_by_libraries

_AUDIO = "<SpeechHere>"
MAX_TEXT_TOKENS = 300


def heard_seconds(lengths_s: Sequence[float] | np.ndarray, margin_s: float | None) -> np.ndarray:
    """Seconds that an encoder hears of clips of these lengths; without a margin of its own always 30."""
    return np.minimum(np.maximum(lengths_s, 1.0) + (WINDOW_S if margin_s is None else margin_s), WINDOW_S)


@dataclass(frozen=True)
class Clip:
    """One clip as the model gets it: mono 16 kHz samples, the instruction, and the text to learn (None: generate)."""

    wave: np.ndarray
    instruction: str
    text: str | None = None


class SalmonnProcessor:
    """Prompt layout, tokenisation and features for one configuration.

    The sequence is BOS, the prompt before the audio, audio tokens, the prompt after, then text and end symbol;
    prompt pieces are tokenised each alone, without special tokens, as the released SALMONNs were trained. What a person
    wrote is plain text: a `[PAD]` or `</s>` within it makes no place for an audio token, and ends nothing.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: SalmonnConfig) -> None:
        self.tokenizer, self.config = tokenizer, config
        # One of its own: whether special tokens are split is a state of the tokenizer, which threads share.
        self._text_tokenizer = copy.deepcopy(tokenizer)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: object) -> "SalmonnProcessor":
        """The processor that was saved beside a model.

        Args:
            folder: The model's, or its name on the hub.
            options: Of the hub: `revision`, `token`, `cache_dir`, ...; `AutoProcessor` hands them on.

        Raises:
            InputError: Its files are missing or broken.
        """
        options = {name: of for name, of in options.items() if name not in ("_from_auto", "trust_remote_code")}
        with read_by_libraries(folder, "no tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options)
            return cls(tokenizer, SalmonnConfig.from_pretrained(folder, trust_remote_code=False, **options))

    def save_pretrained(self, folder: str | Path) -> None:
        """Saves the tokenizer; all else stands in the model's configuration."""
        self.tokenizer.save_pretrained(folder)

    def seconds(self, rows: Sequence[Row]) -> np.ndarray:
        """Seconds that the encoder hears of each row's clip: at least 1, the margin with it, at most 30."""
        return heard_seconds(durations_of(rows), self.config.margin_s)

    def decoded(self, rows: Sequence[Row], max_seconds: float) -> Iterator[tuple[list[int], list[np.ndarray]]]:
        """Batches of rows of like length, the longest first: their indices, and their clips' samples.

        Args:
            rows: Any.
            max_seconds: Padded audio seconds of a batch.

        Raises:
            InputError: A clip cannot be read; names the file.
        """
        for indices in batches_by_length(self.seconds(rows), max_seconds):
            yield indices, [load_clip(rows[i]) for i in indices]

    def audio_slots(self, mel_frames: int) -> int:
        """Audio tokens of a clip of so many mel frames."""
        return windows_of(encoder_frames(mel_frames), self.config.window_frames, self.config.window_stride)

    def text_ids(self, text: str) -> list[int]:
        """A text's ids and the end symbol; of a longer one than 300 tokens these, and no end: it does not end there."""
        (ids,) = self._plain_ids([text])
        return ids[:MAX_TEXT_TOKENS] if len(ids) > MAX_TEXT_TOKENS else [*ids, self.config.eos_token_id]

    def text_lengths(self, texts: Iterable[str]) -> Iterator[int]:
        """The number of each text's ids as `text_ids` gives them; tokenised many at a time, which is faster."""
        texts = iter(texts)
        while some := list(islice(texts, 4096)):
            lengths = map(len, self._plain_ids(some))
            yield from (MAX_TEXT_TOKENS if length > MAX_TEXT_TOKENS else length + 1 for length in lengths)

    def prompt_ids(self, instruction: str, slots: int) -> list[int]:
        """BOS, the prompt, and `[PAD]` in each place of an audio token."""
        before, after = self.prompt_pieces
        ids = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        ids += self._piece_ids(before, instruction)
        ids += [self.config.pad_token_id] * slots
        return ids + self._piece_ids(after, instruction)

    @property
    def prompt_pieces(self) -> tuple[str, str]:
        """The prompt before the audio tokens and after them, each with `{}` where the instruction comes in, or none."""
        prompt = self.config.prompt
        # Not str.format: a prompt may hold braces of its own.
        before, _, after = prompt["template"].replace("{}", prompt["audio"]).partition(_AUDIO)
        return before, after

    def _piece_ids(self, piece: str, instruction: str) -> list[int]:
        """A piece of the prompt, whose special tokens are such, with the instruction, whose are plain text."""

        def ids_of(text: str) -> list[int]:
            return self.tokenizer(text, add_special_tokens=False).input_ids

        ids, (first, *others) = ids_of(piece.replace("{}", instruction)), map(ids_of, piece.split("{}"))
        if sum(map(self._is_special, ids)) == sum(map(self._is_special, chain(first, *others))):
            return ids
        # Apart, where it must be: at its ends a token may go over what is around it.
        (inside,) = self._plain_ids([instruction])
        return [*first, *(i for other in others for i in (*inside, *other))]

    def _is_special(self, token: int) -> bool:
        return token in self._special

    @cached_property
    def _special(self) -> set[int]:
        added = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return added | self._signs.keys()

    @cached_property
    def _signs(self) -> dict[int, str]:
        """`[PAD]` and the end symbol, where the tokenizer knows them for more than words."""
        known = {*self.tokenizer.added_tokens_decoder, *self.tokenizer.all_special_ids}
        signs = known & {self.config.pad_token_id, self.config.eos_token_id}
        return {i: self.tokenizer.convert_ids_to_tokens(i) for i in signs}

    def _plain_ids(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, none of them special."""
        found = self._text_tokenizer(texts, add_special_tokens=False, split_special_tokens=True).input_ids
        for text, ids in zip(texts, found, strict=True):
            for i, sign in self._signs.items():
                if i in ids and sign in text:  # a tokenizer that has its sign among its words, as Unigram ones do
                    raise InputError(
                        f"'{text[:60]}' holds {sign}, which this tokenizer cannot take as text; take it out"
                    )
        return found

    def features(self, waves: list[np.ndarray]) -> Features:
        """What this model's encoders hear of mono 16 kHz clips."""
        config = self.config
        mel_bins = config.encoder_config.num_mel_bins
        features = Features(*log_mel(waves, mel_bins=mel_bins, margin_s=config.margin_s))
        if config.margin_s is None and not config.reference_padding:
            frames_B = torch.tensor([self._heard_frames(len(wave)) for wave in waves])
            features.mel_frames_B = frames_B.minimum(features.mel_frames_B)
        if config.beats_config:
            features.fbank_BTF, features.fbank_frames_B = fbank(waves, reference_padding=config.reference_padding)
        return features

    def hears_like(self, other: SalmonnConfig) -> bool:
        """Whether a clip's features and its place in the prompt are those of another model."""
        names = ("margin_s", "reference_padding", "beats_config", "window_frames", "window_stride")
        same = all(getattr(self.config, name) == getattr(other, name) for name in names)
        return same and self.config.encoder_config.num_mel_bins == other.encoder_config.num_mel_bins

    def _heard_frames(self, samples: int) -> int:
        """Mel frames of a clip, filled up to whole windows from the silence after it."""
        window, stride = self.config.window_frames, self.config.window_stride
        frames = encoder_frames(-(-samples // HOP))
        return 2 * (window + max(-(-(frames - window) // stride), 0) * stride)

    def __call__(self, clips: list[Clip]) -> Batch:
        """A batch: right-padded with labels where the clips have texts, left-padded for generation where not."""
        features = self.features([clip.wave for clip in clips])
        return self.lay_out(features, [clip.instruction for clip in clips], [clip.text for clip in clips])

    def lay_out(
        self, features: Features, instructions: Sequence[str], texts: Sequence[str | list[int] | None]
    ) -> Batch:
        """The batch of clips whose features are already there; a text may be ids, which are taken as they are."""
        prompts = [
            self.prompt_ids(instruction, self.audio_slots(frames))
            for instruction, frames in zip(instructions, features.mel_frames_B.tolist(), strict=True)
        ]
        training = texts[0] is not None
        endings = [self.text_ids(text) if isinstance(text, str) else text or [] for text in texts]
        length = max(len(p) + len(t) for p, t in zip(prompts, endings, strict=True))
        ids_BT = torch.full((len(prompts), length), self.config.pad_token_id)
        mask_BT = torch.zeros_like(ids_BT)
        labels_BT = torch.full_like(ids_BT, -100)
        for row, (prompt, ending) in enumerate(zip(prompts, endings, strict=True)):
            real = len(prompt) + len(ending)
            at = slice(0, real) if training else slice(length - real, length)
            ids_BT[row, at] = torch.tensor(prompt + ending)
            mask_BT[row, at] = 1
            if training:
                labels_BT[row, len(prompt) : real] = torch.tensor(ending)
        audio_N = ((ids_BT == self.config.pad_token_id) & mask_BT.bool()).flatten().nonzero()[:, 0]
        if not training:
            return Batch(features, ids_BT, mask_BT, audio_N)
        rows_N, labels_N = supervised(labels_BT)
        return Batch(features, ids_BT, mask_BT, audio_N, labels_BT, rows_N, labels_N, tuple(endings))

    def decode(self, ids_BT: Tensor) -> list[str]:
        """Texts of generated ids: cut at the end symbol, specials dropped, lower-case."""
        texts = []
        for ids in ids_BT.tolist():
            end = ids.index(self.config.eos_token_id) if self.config.eos_token_id in ids else len(ids)
            texts.append(self.tokenizer.decode(ids[:end], skip_special_tokens=True).strip().lower())
        return texts


AutoProcessor.register(SalmonnConfig, SalmonnProcessor)


def supervised(labels_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Where the model predicts a supervised id: flat row indices into (B*T), and the ids, clip after clip."""
    targets_BT = labels_BT.roll(-1, dims=1)
    targets_BT[:, -1] = -100
    rows = (targets_BT.flatten() != -100).nonzero()[:, 0]
    return rows, targets_BT.flatten()[rows]
