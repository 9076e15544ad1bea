"""Operations beside those that torch counts on a real pass."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from distill.planning.clips import micro_batch
from distill.planning.linears import Work
from distill.planning.operations import asked_work, connector_work, encoder_work, llm_work
from teacher.processor import Clip
from tests.conftest import sound
from tests.distill.planning.test_activations import LORA, SECONDS, STACK, TEXT, student  # noqa: F401 (a fixture)


def counted(what):
    # Fused attention is not counted on a CPU; its plain form is matrix products.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        out = what()
    return out, counter.get_total_flops()


@pytest.mark.parametrize("trained", [("encoder", "connector", "llm"), ("connector",), ("llm",)], ids="+".join)
@pytest.mark.parametrize("changes", [[], [LORA], STACK], ids=["plain", "lora", "stack"])
def test_operations_are_those_that_torch_counts(student, changes, trained):  # noqa: F811
    model, processor = student(trained, changes)
    batch = processor([Clip(sound(s, i), "transcribe", TEXT) for i, s in enumerate(SECONDS)])
    ids, prompt = len(processor.text_ids(TEXT)), len(processor.prompt_ids("transcribe", 0))
    planned = micro_batch(model.config, len(SECONDS), max(SECONDS), ids, prompt)
    states, encoder = counted(lambda: model.encode(batch.features))
    audio_NH, connector = counted(lambda: model.connector(states))
    head = model.llm.get_output_embeddings()
    loss, llm = counted(lambda: head(model.hidden(batch, audio_NH).flatten(0, 1)[batch.rows_N]).sum())
    heard = "encoder" in trained
    own = [
        encoder_work(model.encoder, planned),
        connector_work(model.connector, planned, flows=heard),
        llm_work(model, planned, flows=heard or "connector" in trained),
    ]
    for of, found in zip(own, (encoder, connector, llm), strict=True):
        assert of.forward == pytest.approx(found, rel=0.001)
    _, backward = counted(loss.backward)
    # The gradients of the first layer's input, which nothing asks for, are counted here where the LLM is trained alone.
    assert sum(own, Work()).backward == pytest.approx(backward, rel=0.01 if trained != ("llm",) else 0.1)
    again = encoder_work(model.encoder, planned, again=True)
    assert (0 < again.again < again.forward) == heard and again.forward == own[0].forward


def test_a_frozen_teacher_costs_one_pass(tiny_salmonn):
    model, processor = tiny_salmonn()
    batch = processor([Clip(sound(2.9, i), "transcribe", TEXT) for i in range(2)])
    ids, prompt = len(processor.text_ids(TEXT)), len(processor.prompt_ids("transcribe", 0))
    planned = micro_batch(model.config, 2, 2.9, ids, prompt)
    model.requires_grad_(False)
    with torch.no_grad():
        logits, found = counted(
            lambda: model.llm.get_output_embeddings()(model.hidden(batch).flatten(0, 1)[batch.rows_N])
        )
    work = asked_work(model, planned, llm=True)
    assert planned.patches == model.beats.frames(int(batch.features.fbank_frames_B[0]), 128)
    assert work.forward == pytest.approx(found, rel=0.01) and len(logits) == 2 * ids
    assert work.all == work.forward > asked_work(model, planned, llm=False).forward
