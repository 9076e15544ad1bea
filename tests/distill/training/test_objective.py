"""The losses of a micro-batch against plain PyTorch over whole logits."""

import pytest
import torch
from torch.nn import functional as F

from distill.losses.ctc import CtcHead
from distill.losses.matching import FeatureMatching, MatchSettings
from distill.losses.settings import DivergenceSettings, KdSettings, LossWeights
from distill.losses.signals import SparseSignal
from distill.models.frozen import FrozenTeacher
from distill.recipe.stages import OnPolicySettings
from distill.training.objective import Example, Objective, texts_of
from student.shrink import StudentSettings, shrink
from teacher.processor import MAX_TEXT_TOKENS, Clip
from teacher.settings import QFormerSettings

SPREADS = {"encoder": [20.0], "audio_tokens": [3.0]}
TEXTS = ["press one", "your call is important to us", "a dog"]
STUDENT = StudentSettings(
    encoder_layers=(1,),
    llm_layers=(0, 1, 3),
    qformer=QFormerSettings(layers=1, width=32, heads=2, feed_forward=64, dropout=0.0),
    qformer_layers=(0,),
    margin_s=0.1,
)


@pytest.fixture
def student(tiny_teacher):
    return shrink(tiny_teacher[0], STUDENT)


def example_of(processor, waves, texts=TEXTS, seed=0):
    batch = processor([Clip(wave, "transcribe", text) for wave, text in zip(waves, texts, strict=True)])
    positions = int((batch.labels_BT != -100).sum())
    logp_NV = (3 * torch.randn(positions, 301, generator=torch.Generator().manual_seed(seed))).log_softmax(1)
    ids_NV = torch.arange(301).expand_as(logp_NV)  # the whole vocabulary is kept
    return Example(batch, SparseSignal(ids_NV, logp_NV, torch.zeros(positions), largest_id=300))


@pytest.fixture
def example(tiny_teacher, waves):
    return example_of(tiny_teacher[1], waves)


@pytest.fixture
def objective(tiny_teacher, student, example):
    teacher, _ = tiny_teacher
    ids = sorted(set(example.batch.labels_BT.flatten().tolist()) - {-100, teacher.config.eos_token_id})
    torch.manual_seed(0)
    ctc = CtcHead(student.get_input_embeddings().weight, ids)
    matching = FeatureMatching(student, teacher.config, MatchSettings())
    matching.spreads = SPREADS
    return Objective(student, KdSettings(temperature=2.0), ctc, FrozenTeacher(teacher), matching)


def test_units_are_counted_before_the_computation(example, student, tiny_teacher):
    texts = [tiny_teacher[1].text_ids(text) for text in TEXTS]
    assert example.counts(student) == {
        "tokens": sum(map(len, texts)),
        "distilled": sum(map(len, texts)),
        "ctc_tokens": sum(len(text) - 1 for text in texts),
        "kept_mass": sum(map(len, texts)),
        "frames": (110 + 280 + 174) // 2,
        "windows": 55 // 8 + 140 // 8 + 87 // 8,
        "columns": 0,
        "texts": 3,
        "ended": 3,
    }


def test_a_text_that_was_cut_is_all_text_to_ctc(student, tiny_teacher, waves):
    processor = tiny_teacher[1]
    texts = ["b" * length for length in (MAX_TEXT_TOKENS + 9, MAX_TEXT_TOKENS, 3)]
    batch = processor([Clip(wave, "transcribe", text) for wave, text in zip(waves, texts, strict=True)])
    own = texts_of(batch.texts, processor.config.eos_token_id)
    assert [len(text) for text in own] == [MAX_TEXT_TOKENS, MAX_TEXT_TOKENS, 3]
    assert Example(batch).counts(student)["tokens"] == 2 * MAX_TEXT_TOKENS + 1 + 4


def test_the_losses_are_those_of_plain_pytorch(objective, example, student, tiny_teacher):
    teacher, _ = tiny_teacher
    batch = example.batch
    counts = {
        "tokens": 50.0,
        "distilled": 50.0,
        "ctc_tokens": 40.0,
        "frames": 300.0,
        "windows": 70.0,
    }  # of a larger step
    weights = LossWeights(ce=0.3, kd=0.7, ctc=0.2, encoder=0.5, audio_tokens=0.4)
    loss, parts = objective(example, weights, counts)

    rows, labels_N = batch.rows_N, batch.labels_N
    logits_NV = student(batch).logits.flatten(0, 1)[rows]
    p_NV = (example.signal.logp_NK / 2).softmax(-1)
    frames_B = (batch.features.mel_frames_B + 1) // 2
    both = [m.encoder(batch.features.mel_BMT, batch.features.mel_frames_B) for m in (student, teacher)]
    audio_NH = student.audio_tokens(batch)
    texts = [tiny_teacher[1].text_ids(text)[:-1] for text in TEXTS]

    def relative(a, b, name):
        return ((a - b) ** 2).sum() / SPREADS[name][0]

    expected = {
        "ce": F.cross_entropy(logits_NV, labels_N, reduction="sum"),
        "kd": F.kl_div((logits_NV / 2).log_softmax(-1), p_NV, reduction="sum"),
        "ctc": objective.ctc(audio_NH, student.connector.windows(frames_B), texts),
        "encoder": relative(*(torch.cat([s[:n] for s, n in zip(x, frames_B, strict=True)]) for x in both), "encoder"),
        "audio_tokens": relative(audio_NH, teacher.audio_tokens(batch), "audio_tokens"),
    }
    for name, value in expected.items():
        torch.testing.assert_close(parts[name], value.detach(), atol=1e-3, rtol=1e-4, msg=name)
    assert parts["correct"] == (logits_NV.argmax(-1) == labels_N).sum()
    assert parts["agreement"] == (logits_NV.argmax(-1) == p_NV.argmax(-1)).sum()
    total = (0.3 * expected["ce"] + 0.7 * 2**2 * expected["kd"]) / 50 + 0.2 * expected["ctc"] / 40
    total = total + 0.5 * expected["encoder"] / 300 + 0.4 * expected["audio_tokens"] / 70
    torch.testing.assert_close(loss, total, atol=1e-4, rtol=1e-4)

    student.zero_grad()
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    assert all(parameter.grad is None for parameter in teacher.parameters())
    student.zero_grad()
    total.backward()
    assert {name.split(".")[0] for name in gradients} == {"encoder", "connector", "llm"}
    for name, parameter in student.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("name", ["ce", "kd", "ctc", "encoder", "audio_tokens"])
def test_a_loss_of_weight_zero_is_not_computed(objective, example, student, name):
    called = []
    student.llm.register_forward_hook(lambda *_: called.append("llm"))
    student.llm.get_decoder().register_forward_hook(lambda *_: called.append("llm"))
    _, parts = objective(example, LossWeights(**{name: 1.0}), example.counts(student))
    own = {"ce": {"ce", "correct"}, "kd": {"ce", "correct", "kd", "agreement"}}.get(name, {name})
    assert set(parts) == own
    assert bool(called) == (name in ("ce", "kd"))


def test_micro_batches_add_up_to_the_batch(objective, student, tiny_teacher, waves):
    whole = example_of(tiny_teacher[1], waves)
    counts = whole.counts(student)
    weights = LossWeights(ce=0.5, kd=0.5, ctc=0.1, encoder=0.3, audio_tokens=0.2)
    loss, _ = objective(whole, weights, counts)
    total, start = 0.0, 0
    for wave, text in zip(waves, TEXTS, strict=True):
        part = example_of(tiny_teacher[1], [wave], [text])
        end = start + len(part.signal)
        part.signal = whole.signal.rows(start, end)
        total, start = total + objective(part, weights, counts)[0], end
    torch.testing.assert_close(total, loss, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("top", [None, 400])
def test_own_texts_are_judged_by_the_teacher_and_their_ends_weighed(objective, student, tiny_teacher, waves, top):
    teacher, processor = tiny_teacher
    cut, *whole = map(processor.text_ids, TEXTS)
    batch = processor.lay_out(processor.features(waves), ["transcribe"] * 3, [cut[:-1], *whole])
    example = Example(batch, on_policy=OnPolicySettings(end_weight=3.0, top=top))
    counts = example.counts(student)
    assert (counts["texts"], counts["ended"]) == (3, 2)
    kd = DivergenceSettings(divergence="reverse_kl")
    loss, sums = objective(example, LossWeights(kd=0.5), counts, kd)
    rows, labels = batch.rows_N, batch.labels_N
    logq_NV, logp_NV = (of(batch).logits.flatten(0, 1)[rows].log_softmax(1) for of in (student, teacher))
    each_N = F.kl_div(logp_NV, logq_NV, log_target=True, reduction="none").sum(1)
    expected = (each_N * torch.where(labels == 1, 3.0, 1.0)).sum()
    torch.testing.assert_close(sums["kd"], expected.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss, 0.5 * expected / counts["tokens"], rtol=1e-4, atol=1e-5)
    k = 32 if top is None else 301
    likely = [of_NV.topk(k, 1).indices.tolist() for of_NV in (logq_NV, logp_NV)]
    shared = sum(len(set(a) & set(b)) / k for a, b in zip(*likely, strict=True))
    assert float(sums["overlap"]) == pytest.approx(shared)


def test_kept_states_stand_for_the_encoder(objective, example, student):
    weights, counts = LossWeights(ce=1.0), example.counts(student)
    with torch.no_grad():
        kept = Example(example.batch, None, student.encode(example.batch.features))
    torch.testing.assert_close(objective(kept, weights, counts)[0], objective(example, weights, counts)[0])


def test_the_frozen_teacher_is_no_part_of_the_module(objective, student):
    assert {name.split(".")[0] for name, _ in objective.named_parameters()} == {"student", "ctc"}
