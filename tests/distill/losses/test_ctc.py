"""CTC against its definition: the sum over all paths that collapse to the text."""

import itertools
import math

import pytest
import torch

from distill.losses.ctc import CtcHead, has_room

V, H = 9, 6
CLASSES = [2, 3, 5, 8]


@pytest.fixture
def head():
    torch.manual_seed(0)
    head = CtcHead(torch.randn(V, H), CLASSES)
    with torch.no_grad():
        head.blank_H.normal_()
    return head


def audio(N, seed=1):
    return torch.randn(N, H, generator=torch.Generator().manual_seed(seed))


def by_all_paths(log_probs_NC, classes):
    """-log of the summed probability of every path that, repeats merged and blanks dropped, is `classes`."""
    total = 0.0
    for path in itertools.product(range(log_probs_NC.shape[1]), repeat=len(log_probs_NC)):
        collapsed = [c for c, _ in itertools.groupby(path) if c]
        if collapsed == classes:
            total += math.exp(sum(log_probs_NC[n, c].item() for n, c in enumerate(path)))
    return -math.log(total)


def test_log_probs_are_a_softmax_over_scaled_cosines(head):
    audio_NH = audio(5)
    rows = torch.cat([head.blank_H[None], head.classes_CH])
    cosines = torch.nn.functional.cosine_similarity(audio_NH[:, None], rows[None], dim=-1)
    expected = (cosines * head.log_scale.exp()).log_softmax(-1)
    torch.testing.assert_close(head.log_probs(audio_NH), expected, atol=1e-5, rtol=1e-5)


def test_the_loss_is_the_sum_over_paths(head):
    windows, texts = [4, 5, 3], [[3, 8], [5, 5, 2], [8]]
    audio_NH = audio(sum(windows))
    loss = head(audio_NH, torch.tensor(windows), texts)
    parts = head.log_probs(audio_NH).split(windows)
    expected = sum(
        by_all_paths(part, [CLASSES.index(token) + 1 for token in text])
        for part, text in zip(parts, texts, strict=True)
    )
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_clips_without_room_are_left_out(head):
    # Two tokens in one window; a repeat without room for its blank; no text.
    windows = torch.tensor([1, 2, 3, 4])
    texts = [[3, 8], [5, 5], [], [3, 8]]
    assert [has_room(text, int(n)) for text, n in zip(texts, windows, strict=True)] == [False, False, False, True]
    audio_NH = audio(10).requires_grad_()
    loss = head(audio_NH, windows, texts)
    torch.testing.assert_close(loss, head(audio_NH[6:], windows[3:], texts[3:]))
    loss.backward()
    assert not audio_NH.grad[:6].any() and audio_NH.grad[6:].any()


def test_where_no_clip_has_room_the_loss_is_zero_and_still_has_a_gradient(head):
    audio_NH = audio(1).requires_grad_()
    loss = head(audio_NH, torch.tensor([1]), [[3, 8]])
    loss.backward()
    # Ranks reduce gradients together: each parameter must have one.
    assert loss == 0 and not audio_NH.grad.any() and head.blank_H.grad is not None and head.log_scale.grad is not None


def test_the_best_path_is_decoded(head):
    rows = torch.cat([head.blank_H[None].detach(), head.classes_CH])
    path = [1, 1, 0, 1, 3, 3, 0, 4, 2]  # classes; 0 is the blank
    assert head.decode(rows[path], torch.tensor([7, 2])) == [[2, 2, 5], [8, 3]]


def test_embeddings_are_copied_and_fixed(head):
    assert {name for name, _ in head.named_parameters()} == {"blank_H", "log_scale"}
    assert not head.state_dict().keys() - {"blank_H", "log_scale"}
