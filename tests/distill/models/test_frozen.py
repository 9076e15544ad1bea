"""A teacher in memory against the cache that it would write."""

import copy

import numpy as np
import pytest
import torch

from data.cache.reader import CacheReader
from distill.losses.settings import LossWeights
from distill.models.frozen import FrozenTeacher, frozen_teacher
from distill.recipe.reading import read_recipe
from distill.recipe.rows import read_rows
from distill.training.examples import Examples
from distill.training.objective import Objective
from student.shrink import shrink
from teacher.build import add_rows, build_teacher
from teacher.model import merge_lora
from teacher.processor import Clip, SalmonnProcessor

NO_CTC = "train.stages.1.losses.ctc=0"


@pytest.fixture
def teacher(tiny_teacher):
    merge_lora(tiny_teacher[0])
    return FrozenTeacher(tiny_teacher[0])


def test_its_distributions_are_those_of_the_whole_logits(teacher, tiny_teacher, waves):
    model, processor = tiny_teacher
    texts = ["press one", "your call is important to us", "a dog"]
    batch = processor([Clip(wave, "transcribe", text) for wave, text in zip(waves, texts, strict=True)])
    logits_BTV = model(batch).logits
    expected_NV = torch.cat(
        [of_TV[:-1][row_T[1:] != -100] for of_TV, row_T in zip(logits_BTV, batch.labels_BT, strict=True)]
    )
    made = []
    model.llm.get_output_embeddings().register_forward_hook(lambda *_: made.append("all positions"))
    with teacher.signal(batch, 301) as signal:
        assert len(signal) == len(expected_NV) and not signal.hidden_ND.requires_grad
        torch.testing.assert_close(signal.rows(0, 5).logits_NV, expected_NV[:5], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(signal.rows(5, 100).logits_NV, expected_NV[5:], atol=1e-5, rtol=1e-5)
        assert signal.rows(0, 100).top1_N().tolist() == expected_NV.argmax(1).tolist()
    assert not made and not any(parameter.requires_grad for parameter in model.parameters())


def test_what_is_untrained_of_it_is_that_of_which_the_student_is_cut_whenever_it_is_loaded(tiny_recipe):
    recipe = read_recipe(tiny_recipe, ["teacher.weights=null", "seed=3"])
    torch.manual_seed(recipe.seed)  # as distill/train.py begins
    model, _ = build_teacher(recipe.teacher, torch.float32)
    for state in (5, 6):  # of a rank, or of a run that goes on
        torch.manual_seed(state)
        query = frozen_teacher(recipe, "without_llm").model.connector.query
        assert torch.equal(query, model.connector.query)
        after = torch.rand(1)
        assert torch.equal(after, torch.rand(1, generator=torch.Generator().manual_seed(state)))


# The student hears as the teacher does, or less of the silence after a clip; or pads the vocabulary with more rows.
@pytest.mark.parametrize(("margin_s", "padding"), [(0.1, 0), (0.05, 0), (0.1, 19)])
def test_its_loss_and_gradient_are_those_of_a_cache_that_keeps_the_whole_vocabulary(
    tiny_recipe, fill_tiny_cache, teacher, tiny_teacher, tmp_path, margin_s, padding
):
    teacher_processor = tiny_teacher[1]
    whole = [NO_CTC, f"student.margin_s={margin_s}", "cache.top_p=1", "cache.top_k=1000", "cache.min_p=0"]
    folder, _ = fill_tiny_cache(f"cache.folder={tmp_path}/all", *whole[2:], model=teacher.model)
    cached, asked = (read_recipe(tiny_recipe, [*whole, f"train.teacher={name}"]) for name in ("cache", "memory"))
    assert asked.in_memory(asked.train.stages[1]) == "whole" and not asked.trains_from_cache
    llm = copy.deepcopy(teacher.model.llm)
    add_rows(llm, padding)
    student = shrink(teacher.model, cached.student, 0, llm).eval()
    assert student.config.llm_config.vocab_size == 301 + padding
    own = SalmonnProcessor(teacher_processor.tokenizer, student.config)
    rows, weights, found = read_rows(cached, cached.data.train), LossWeights(ce=0.3, kd=0.7), []
    for examples, objective in (
        (Examples(cached, own, rows, CacheReader(folder)), Objective(student, cached.train.kd)),
        (
            Examples(asked, own, rows, None, None if own.hears_like(teacher_processor.config) else teacher_processor),
            Objective(student, asked.train.kd, teacher=teacher),
        ),
    ):
        example = examples([2, 0, 5], weights)
        loss, sums = objective(example, weights, example.counts(student))
        student.zero_grad()
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
        found.append((loss.item(), {name: float(value) for name, value in sums.items()}, gradients))
    (loss, sums, gradients), (asked_loss, asked_sums, asked_gradients) = found
    # The cache rounds a probability to 2e-4, and a logarithm to 1/16.
    assert asked_loss == pytest.approx(loss, rel=2e-3) and asked_sums == pytest.approx(sums, rel=1e-2)
    norm = np.sqrt(sum(float(g.square().sum()) for g in gradients.values()))
    apart = np.sqrt(sum(float((g - asked_gradients[name]).square().sum()) for name, g in gradients.items()))
    assert norm > 0 and apart < 5e-3 * norm
