"""CTC of audio tokens against the LLM's own token embeddings: teaches a connector to speak the LLM's language.

Letters: N audio tokens of all clips, B clips, W most windows of a clip, H LLM width, C CTC classes.
"""

from operator import eq

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence


class CtcHead(nn.Module):
    """Scores an audio token by its cosine to each token embedding, times a learned scale; plus a learned blank.

    The loss is CTC (Graves et al. 2006). The classes are the ids that occur in the training texts, so the softmax
    costs a tenth of the vocabulary's. Embeddings are copied and frozen: the tokens come to the LLM, not it to them.

    Args:
        embeddings_VH: The LLM's token embeddings.
        token_ids: Ids of the classes, without repeats.
    """

    def __init__(self, embeddings_VH: Tensor, token_ids: list[int]) -> None:
        super().__init__()
        ids = torch.tensor(token_ids)
        classes_CH = nn.functional.normalize(embeddings_VH.detach()[ids].float(), dim=-1)
        class_of_V = torch.full((len(embeddings_VH),), -1)
        class_of_V[ids] = torch.arange(1, len(ids) + 1)
        self.register_buffer("classes_CH", classes_CH, persistent=False)
        self.register_buffer("class_of_V", class_of_V, persistent=False)
        self.blank_H = nn.Parameter(torch.randn(embeddings_VH.shape[1]) * 0.02)
        self.log_scale = nn.Parameter(torch.tensor([2.3]))  # e^2.3 = 10: cosines alone are too flat a softmax

    def log_probs(self, audio_NH: Tensor) -> Tensor:
        """Log-probabilities (N, C + 1) in float32; class 0 is the blank."""
        classes = torch.cat([self.blank_H[None].to(self.classes_CH.dtype), self.classes_CH])
        classes = torch.cat([nn.functional.normalize(classes[:1].float(), dim=-1), classes[1:].float()])
        audio_NH = nn.functional.normalize(audio_NH.float(), dim=-1)
        # Products in the model's own precision (as its head would), the softmax in float32.
        product = audio_NH.to(self.blank_H.dtype) @ classes.to(self.blank_H.dtype).T
        return (product.float() * self.log_scale.float().exp()).log_softmax(dim=-1)

    def forward(self, audio_NH: Tensor, windows_B: Tensor, texts: list[list[int]]) -> Tensor:
        """Sum of the CTC losses over the clips that have room for their text (see `has_room`).

        Args:
            audio_NH: Audio tokens of all clips, clip after clip.
            windows_B: How many each clip has, on the host.
            texts: The ids of each clip's text, without its end symbol.
        """
        possible = [i for i, text in enumerate(texts) if has_room(text, int(windows_B[i]))]
        # A part of the graph whatever the batch: ranks that reduce gradients together must all have them.
        nothing = 0.0 * (audio_NH.sum() + self.blank_H.sum() + self.log_scale.sum()).float()
        if not possible:
            return nothing
        log_probs = self.log_probs(audio_NH).split(windows_B.tolist())
        ids_N = torch.tensor([token for i in possible for token in texts[i]]).to(audio_NH.device, non_blocking=True)
        return nothing + nn.functional.ctc_loss(
            pad_sequence([log_probs[i] for i in possible]),
            self.class_of_V[ids_N],
            windows_B[possible],
            torch.tensor([len(texts[i]) for i in possible]),
            reduction="sum",
            zero_infinity=True,
        )

    @torch.no_grad()
    def decode(self, audio_NH: Tensor, windows_B: Tensor) -> list[list[int]]:
        """The best path of each clip as token ids: repeats merged, blanks dropped."""
        ids_C = torch.cat([torch.tensor([-1], device=self.class_of_V.device), self._ids()])
        out = []
        for best in self.log_probs(audio_NH).argmax(-1).split(windows_B.tolist()):
            path = torch.unique_consecutive(best)
            out.append(ids_C[path[path > 0]].tolist())
        return out

    def _ids(self) -> Tensor:
        order = self.class_of_V.clone()
        kept = (order > 0).nonzero()[:, 0]
        return kept[order[kept].argsort()]


def has_room(text: list[int], windows: int) -> bool:
    """Whether CTC can align a text: a window for each token, and one for the blank between two that are alike."""
    return 0 < len(text) + sum(map(eq, text[1:], text)) <= windows
