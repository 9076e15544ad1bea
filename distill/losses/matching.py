"""Feature matching: what the student's encoder, connector and LLM make of a clip, held against the teacher's.

Letters: B clips, T frames or positions, C columns of 160 ms, N rows (frames, audio tokens or supervised positions of
all clips), P patches of a column, D/H widths.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from data.errors import InputError
from data.sound.features import FBANK_BINS
from distill.losses.distances import between_windows, column_frames, distance, mean_of_columns
from distill.losses.settings import LAST, MatchSettings, Pairs
from teacher.beats import BeatsSettings
from teacher.config import SalmonnConfig
from teacher.connector import real
from teacher.model import Batch, SalmonnForConditionalGeneration


@contextmanager
def outputs_of(layers: nn.ModuleList, norm: nn.Module, wanted: Iterable[int]) -> Iterator[dict[int, Tensor]]:
    """Notes what the wanted layers give for as long as the context lasts.

    As what goes into the next one, or into the norm after the last: where activations are computed again in the
    backward pass, a layer's own output comes without a gradient at first.
    """
    seen: dict[int, Tensor] = {}

    def note(number: int, _: nn.Module, given: tuple, keywords: dict) -> None:
        states = given[0] if given else keywords["hidden_states"]
        # An alias: where inputs of layers are moved to the CPU, DeepSpeed empties the very tensor that goes in.
        seen[number] = states.view_as(states)

    following = [*layers[1:], norm]
    hooks = [
        following[number].register_forward_pre_hook(partial(note, number), with_kwargs=True)
        for number in set(wanted) - {LAST}
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@dataclass
class TeacherFeatures:
    """What the teacher made of a batch, as far as it was asked for.

    Args:
        encoder: Its encoder states (B, T, D), for each pair of layers.
        audio_NH: Its audio tokens of the frames that the student has, in the teacher's windows.
        beats_BCD: BEATs' states, those of a column's patches side by side.
        columns_B: How many of them each clip has, where they come from the cache.
        hidden: Its LLM's hidden states (N, H) at the supervised positions, for each pair of layers.
        hidden_BTH: Its LLM's last hidden states.
    """

    encoder: list[Tensor] = field(default_factory=list)
    audio_NH: Tensor | None = None
    beats_BCD: Tensor | None = None
    columns_B: Tensor | None = None
    hidden: list[Tensor] = field(default_factory=list)
    hidden_BTH: Tensor | None = None

    def to(self, device: torch.device | str) -> "TeacherFeatures":
        """The same features on another device, in float32; their counts where they are, on the host.

        They become float32 there: as they are cached, half as much goes over the bus. What stands there for several
        pairs of layers is moved once.
        """
        there: dict[int, Tensor] = {}

        def moved(value: list[Tensor] | Tensor | None) -> list[Tensor] | Tensor | None:
            if isinstance(value, list):
                return [moved(one) for one in value]
            if value is not None and id(value) not in there:
                there[id(value)] = value.to(device, non_blocking=True).float()
            return None if value is None else there[id(value)]

        return replace(self, **{name: moved(value) for name, value in vars(self).items() if name != "columns_B"})


class FeatureMatching(nn.Module):
    """The feature losses. Where widths differ, a learned projection takes the student's rows to the teacher's width.

    (As TinyBERT's, Jiao et al. 2020, equation 8.) Projections are trained beside the student, stand in its checkpoints
    and are no part of the model that is exported. BEATs' states always have one: it says where in the encoder's states
    the student, which has no BEATs, keeps what BEATs would tell it.

    `spreads` says for each feature, and each pair of layers, what a relative distance is measured in
    (`distill.training.spreads` measures it).

    Args:
        student: The model that is trained.
        teacher_config: The teacher's configuration.
        settings: What is matched how.
        names: The features that a stage matches.

    Raises:
        InputError: A layer is named that is not there.
    """

    def __init__(
        self,
        student: SalmonnForConditionalGeneration,
        teacher_config: SalmonnConfig,
        settings: MatchSettings,
        names: set[str] = frozenset(),
    ) -> None:
        super().__init__()
        own = student.config
        self.settings = settings
        self.spreads: dict[str, list[float]] = {}
        self.windows = [(config.window_frames, config.window_stride) for config in (teacher_config, own)]
        depths = {
            "encoder": [config.encoder_config.encoder_layers for config in (own, teacher_config)],
            "hidden": [config.llm_config.num_hidden_layers for config in (own, teacher_config)],
        }
        self.layers = {name: _by_side(name, getattr(settings, f"{name}_layers"), of) for name, of in depths.items()}
        self.project = nn.ModuleDict()
        llms = [config.llm_config.hidden_size for config in (own, teacher_config)]
        if llms[0] != llms[1]:
            projected = ["audio_tokens"] if "audio_tokens" in names else []
            projected += [f"hidden_{i}" for i in range(len(settings.hidden_layers))] if "hidden" in names else []
            self.project.update({name: nn.Linear(*llms) for name in projected})
        if "beats" in names:
            beats = BeatsSettings(**teacher_config.beats_config)
            self.column, patches = column_frames(beats.input_patch_size), FBANK_BINS // beats.input_patch_size
            self.project["beats"] = nn.Linear(own.encoder_config.d_model, patches * beats.encoder_embed_dim)

    @torch.no_grad()
    def answer(
        self, teacher: SalmonnForConditionalGeneration, batch: Batch, frames_B: Tensor, names: set[str], llm: bool
    ) -> TeacherFeatures:
        """What the teacher makes of a batch, in one pass through those of its parts that are needed.

        Args:
            teacher: In evaluation mode.
            batch: The clips and texts as the teacher gets them.
            frames_B: Encoder frames that the student has of each clip.
            names: The features that are matched now.
            llm: Whether its LLM is asked, for hidden states or for distributions.
        """
        out, features = TeacherFeatures(), batch.features
        with outputs_of(
            teacher.encoder.layers, teacher.encoder.layer_norm, self.layers["encoder"][1] if "encoder" in names else ()
        ) as seen:
            if llm or "audio_tokens" in names:
                states = teacher.encode(features)
                seen[LAST], sound_BPD = states.speech_BTD, states.sound_BTD
            else:
                if "encoder" in names:
                    seen[LAST] = teacher.encoder(features.mel_BMT, features.mel_frames_B)
                if "beats" in names:
                    sound_BPD, _ = teacher.hear_sounds(features)
        if "encoder" in names:
            out.encoder = [seen[layer] for layer in self.layers["encoder"][1]]
        if "beats" in names:
            out.beats_BCD = teacher.beats.columns(sound_BPD, FBANK_BINS)
        if llm:
            out.hidden_BTH, out.hidden = self.hidden_states(teacher, 1, batch, teacher.connector(states))
        if "audio_tokens" in names:
            # Cut to the frames that the student has.
            states.speech_BTD, states.frames_B = states.speech_BTD[:, : int(frames_B.max())], frames_B
            out.audio_NH = teacher.connector(states)
        return out

    def hidden_states(
        self, model: SalmonnForConditionalGeneration, side: int, batch: Batch, audio_NH: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The LLM's last hidden states (B, T, H), and those of the matched layers at the supervised positions (N, H).

        Args:
            model: Student (side 0) or teacher (side 1).
            side: Which of a pair's layers are its own.
            batch: As this model gets it.
            audio_NH: Its audio tokens.
        """
        layers, decoder = self.layers["hidden"][side], model.llm.get_decoder()
        with outputs_of(decoder.layers, decoder.norm, layers) as seen:
            seen[LAST] = model.hidden(batch, audio_NH)
        return seen[LAST], [seen[layer].flatten(0, 1)[batch.rows_N] for layer in layers]

    def targets(self, teacher: TeacherFeatures, frames_B: Tensor, columns_B: Tensor | None) -> dict[str, list[Tensor]]:
        """The teacher's rows that the student's are held against, by feature, for each pair of layers.

        Args:
            teacher: What it made of a batch.
            frames_B: Encoder frames that the student has of each clip.
            columns_B: Columns of BEATs' states that are matched.
        """
        rows = {
            "encoder": [real(states_BTD, frames_B) for states_BTD in teacher.encoder],
            "hidden": teacher.hidden,
        }
        if teacher.audio_NH is not None:
            rows["audio_tokens"] = [self._at_own_times(teacher.audio_NH, frames_B)]
        if teacher.beats_BCD is not None:
            rows["beats"] = [real(teacher.beats_BCD, columns_B)]
        return rows

    def encoder(self, own: list[Tensor], teacher: list[Tensor], frames_B: Tensor) -> Tensor:
        """Sum over the clips' frames, without padding, of the mean distance of the pairs' states (B, T, D)."""
        own, teacher = ([real(states_BTD, frames_B) for states_BTD in side] for side in (own, teacher))
        return self._distance("encoder", own, teacher)

    def audio_tokens(self, own_NH: Tensor, teacher_NH: Tensor, frames_B: Tensor) -> Tensor:
        """Sum over the student's windows of the distance to the teacher's tokens, taken at the same times."""
        teacher_NH = self._at_own_times(teacher_NH, frames_B)
        return self._distance("audio_tokens", [self._projected("audio_tokens", own_NH)], [teacher_NH])

    def hidden(self, own: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """Sum over supervised positions of the mean distance of the pairs' states (N, H)."""
        return self._distance("hidden", [self._projected(f"hidden_{i}", one) for i, one in enumerate(own)], teacher)

    def beats(self, own_BTD: Tensor, teacher_BCD: Tensor, columns_B: Tensor) -> Tensor:
        """Sum over the clips' columns of the distance of what is projected from the student's mean state in each."""
        own_ND = real(mean_of_columns(own_BTD, self.column), columns_B)
        return self._distance("beats", [self._projected("beats", own_ND)], [real(teacher_BCD, columns_B)])

    def _distance(self, name: str, own: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """The mean over the pairs of the sum over their rows."""
        kind = getattr(self.settings, name)
        spreads = self.spreads[name] if kind == "relative" else [None] * len(own)
        return torch.stack([distance(*of, kind, in_) for *of, in_ in zip(own, teacher, spreads, strict=True)]).mean()

    def _at_own_times(self, teacher_NH: Tensor, frames_B: Tensor) -> Tensor:
        if self.windows[0] == self.windows[1]:
            return teacher_NH
        return between_windows(teacher_NH, frames_B, *self.windows)

    def _projected(self, name: str, rows_ND: Tensor) -> Tensor:
        if name not in self.project:
            return rows_ND
        return self.project[name](rows_ND.to(self.project[name].weight.dtype))


def _by_side(name: str, pairs: Pairs, depths: list[int]) -> list[tuple[int, ...]]:
    """The student's layers of some pairs, and the teacher's."""
    sides = [tuple(side) for side in zip(*pairs, strict=True)]
    for whose, layers, depth in zip(("student", "teacher"), sides, depths, strict=True):
        if wrong := [layer for layer in layers if not LAST <= layer < depth]:
            raise InputError(
                f"train.match.{name}_layers: the {whose} has no layer {wrong[0]} there; name 0 to {depth - 1}, or -1"
            )
    return sides
