"""Which layers a model needs least, by how little they turn its hidden states on a few clips.

Shapes: N positions (frames, or supervised positions, of all calibration clips), D width.
"""

from collections.abc import Iterable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from teacher.connector import within
from teacher.model import Batch, SalmonnForConditionalGeneration, supervised


@torch.no_grad()
def layer_states(model: SalmonnForConditionalGeneration, batches: Iterable[Batch]) -> dict[str, list[Tensor]]:
    """What goes into each layer of the speech encoder and of the LLM, and what comes out of the last.

    Args:
        model: In evaluation mode.
        batches: Clips with their texts.

    Returns:
        For "encoder" and "llm" one float32 (N, D) more than there are layers: frames of the clips, and the positions
        at which their texts are predicted.
    """
    layers = {"encoder": model.encoder.layers, "llm": model.llm.get_decoder().layers}
    kept: dict[str, list[list[Tensor]]] = {part: [[] for _ in range(len(of) + 1)] for part, of in layers.items()}
    for batch in batches:
        seen: dict[str, list[Tensor]] = {part: [] for part in layers}
        with ExitStack() as hooks:
            for part, of in layers.items():
                for layer in of:
                    hooks.enter_context(_watched(layer, seen[part]))
            states = model.encode(batch.features)
            model.hidden(batch, model.connector(states))
        rows, _ = supervised(batch.labels_BT)
        for part, states_BTD in seen.items():
            for place, of_BTD in zip(kept[part], states_BTD, strict=True):
                chosen = of_BTD.flatten(0, 1)[rows]
                if part == "encoder":
                    chosen = of_BTD[within(states.frames_B, of_BTD.shape[1])]
                place.append(chosen.float())
    return {part: [torch.cat(place) for place in places] for part, places in kept.items()}


def block_distances(states: list[Tensor], length: int) -> Tensor:
    """How far each block of `length` layers turns the states: the mean angle over pi (Gromov et al. 2024, equation 7).

    Args:
        states: Of all layers' inputs and the last one's output, each (N, D).
        length: Layers of a block; at most as many as there are.

    Returns:
        One distance for each layer at which a block can begin; of single layers it is their own ranking.
    """
    pairs = zip(states[: len(states) - length], states[length:], strict=True)
    cosines = [nn.functional.cosine_similarity(before, after, dim=1).clamp(-1, 1) for before, after in pairs]
    return torch.stack([cosine.arccos().mean() / torch.pi for cosine in cosines])


def without_least_needed_block(states: list[Tensor], keep: int) -> tuple[int, ...]:
    """The layers that stay where the block that turns the states least is left out.

    The first layer and the last always stay: what they do to the states' scale and direction nothing else does.
    """
    layers = len(states) - 1
    drop = layers - keep
    if drop <= 0:
        return tuple(range(layers))
    distances = block_distances(states, drop)
    inner = distances[1:-1] if keep >= 2 else distances
    start = int(inner.argmin()) + (1 if keep >= 2 else 0)
    return tuple(i for i in range(layers) if not start <= i < start + drop)


class _watched:
    """Notes a layer's input, and the output of what is then the last, for as long as the context lasts."""

    def __init__(self, layer: nn.Module, seen: list[Tensor]) -> None:
        self.layer, self.seen = layer, seen

    def __enter__(self) -> None:
        def note(_: nn.Module, given: tuple, keywords: dict, out: Tensor | tuple) -> None:
            before = given[0] if given else keywords["hidden_states"]
            after = out[0] if isinstance(out, tuple) else out
            self.seen[:] = [*self.seen[:-1], before.detach(), after.detach()]

        self.handle = self.layer.register_forward_hook(note, with_kwargs=True)

    def __exit__(self, *_: object) -> None:
        self.handle.remove()
