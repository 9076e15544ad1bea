"""Which layers a model needs least, by its hidden states on a few clips.

Shapes: B clips, N positions (frames, or supervised positions, of a batch), D width.
"""

from collections.abc import Iterable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from teacher.connector import within
from teacher.model import Batch, SalmonnForConditionalGeneration


@torch.no_grad()
def block_distances(
    model: SalmonnForConditionalGeneration, batches: Iterable[tuple[Batch, Tensor]], lengths: dict[str, int]
) -> dict[str, Tensor]:
    """How far each block of layers turns the hidden states: the mean angle over pi (Gromov et al. 2024, equation 7).

    Args:
        model: In evaluation mode.
        batches: Clips with their texts, and the encoder frames B of each clip itself, without padding.
        lengths: Layers of a block, by part: "encoder" (over the clips' frames), "llm" (over the positions at which
            their texts are predicted).

    Returns:
        By part, one distance for each layer at which a block can begin.
    """
    layers = {"encoder": model.encoder.layers, "llm": model.llm.get_decoder().layers}
    sums, positions = (
        {part: torch.zeros(len(layers[part]) - lengths[part] + 1) for part in lengths},
        dict.fromkeys(lengths, 0),
    )
    for batch, frames_B in batches:
        batch, frames_B = batch.to(model.device), frames_B.to(model.device)
        seen: dict[str, list[Tensor]] = {part: [] for part in lengths}
        with ExitStack() as hooks:
            for part in lengths:
                for layer in layers[part]:
                    hooks.enter_context(_watched(layer, seen[part]))
            states = model.encode(batch.features)
            if "llm" in lengths:
                model.hidden(batch, model.connector(states))
        for part, length in lengths.items():
            if part == "llm":
                chosen = [of_BTD.flatten(0, 1)[batch.rows_N] for of_BTD in seen[part]]
            else:
                chosen = [of_BTD[within(frames_B, of_BTD.shape[1])] for of_BTD in seen[part]]
            sums[part] += angles(chosen, length).sum(1).cpu()
            positions[part] += len(chosen[0])
    return {part: sums[part] / positions[part] / torch.pi for part in lengths}


def angles(states: list[Tensor], length: int) -> Tensor:
    """The angle (blocks, N) between what goes into each block of `length` layers and what comes out of it.

    Args:
        states: All layers' inputs and the last one's output, each (N, D).
        length: Layers of a block.
    """
    pairs = zip(states[: len(states) - length], states[length:], strict=True)
    cosines = [nn.functional.cosine_similarity(before.float(), after.float(), dim=1) for before, after in pairs]
    return torch.stack(cosines).clamp(-1, 1).arccos()


def least_needed(distances: Tensor, layers: int) -> tuple[int, ...]:
    """The layers that stay where the block of least distance is left out.

    Where two or more stay, the first layer and the last are among them.

    Args:
        distances: Of the blocks that can be left out, by the layer at which they begin: one more than layers stay.
        layers: How many there are.
    """
    keep = len(distances) - 1
    edge = 1 if keep >= 2 else 0
    start = edge + int(distances[edge : len(distances) - edge].argmin())
    return tuple(i for i in range(layers) if not start <= i < start + layers - keep)


class _watched:
    """Notes a layer's input, and the output of what is then the last, for as long as the context lasts."""

    def __init__(self, layer: nn.Module, seen: list[Tensor]) -> None:
        self.layer, self.seen = layer, seen

    def __enter__(self) -> None:
        def note(_: nn.Module, given: tuple, keywords: dict, out: Tensor | tuple) -> None:
            before = given[0] if given else keywords["hidden_states"]
            after = out[0] if isinstance(out, tuple) else out
            self.seen[:] = [*self.seen[:-1], before, after]

        self.handle = self.layer.register_forward_hook(note, with_kwargs=True)

    def __exit__(self, *_: object) -> None:
        self.handle.remove()
