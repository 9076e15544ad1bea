import numpy as np
import pytest

from distill.models.loading import parameter_counts
from distill.models.sizes import AUDIO_S, beside, operations
from distill.models.students import student_of
from distill.recipe.reading import read_recipe
from student.shrink import shrink
from teacher.processor import Clip, SalmonnProcessor


def test_operations_are_those_of_the_products(tiny_teacher):
    model, processor = tiny_teacher
    found = operations(model.config, processor, "transcribe")
    frames, width, mels = 50 * AUDIO_S + 5, 32, 80
    convolutions = 2 * (2 * frames) * 3 * mels * width + 2 * frames * 3 * width * width
    layer = 2 * frames * (4 * width * width + 2 * width * model.config.encoder_config.encoder_ffn_dim)
    attention = 2 * 2 * frames * frames * width
    assert found["encoder"] == pytest.approx(convolutions + 2 * (layer + attention), rel=0.01)
    tokens = len(processor.prompt_ids("transcribe", frames // 8))
    llm = model.config.llm_config
    products = sum(
        np.prod(weight.shape) for name, weight in model.llm.named_parameters() if "layers" in name and weight.ndim == 2
    )
    attention = 4 * 2 * 2 * tokens * tokens * llm.hidden_size
    assert found["llm"] == pytest.approx(2 * tokens * products + attention + 2 * llm.hidden_size * 301, rel=0.05)
    assert not model.training


def test_the_student_stands_beside_the_teacher(tiny_recipe, tiny_teacher):
    teacher, processor = tiny_teacher
    student = shrink(teacher, read_recipe(tiny_recipe).student).train()
    own = SalmonnProcessor(processor.tokenizer, student.config)
    lines = beside({"teacher": (teacher, processor), "student": (student, own)}, "transcribe").splitlines()
    assert lines[0].split() == ["teacher", "student", "ratio"]
    assert len(lines) == 14 and student.training
    one, of = (next(line.split() for line in lines if line.startswith(f"llm, {unit}")) for unit in ("M ", "MB"))
    assert float(of[-3]) == pytest.approx(2 * float(one[-3]), abs=0.2)
    ratio = float(next(line for line in lines if line.startswith("encoder, GFLOP")).split()[-2])
    assert 0.4 < ratio < 0.7  # one of two layers, and the convolutions


def test_a_student_of_other_shapes_is_counted_as_it_is(tiny_recipe, tiny_teacher):
    teacher, processor = tiny_teacher
    shapes = [
        "student.encoder_ffn=16",
        "student.window_frames=20",
        "student.window_stride=16",
        "student.qformer.width=16",
    ]
    student = student_of(read_recipe(tiny_recipe, shapes), teacher, processor)
    counted = parameter_counts(student)
    layer = 4 * 32 * 32 + 3 * 32 + (32 * 16 + 16) + (16 * 32 + 32) + 4 * 32
    convolutions = 80 * 32 * 3 + 32 + 32 * 32 * 3 + 32
    assert counted["encoder"] == layer + convolutions + 1500 * 32 + 2 * 32
    own = SalmonnProcessor(processor.tokenizer, student.config)
    plain = shrink(teacher, read_recipe(tiny_recipe).student)
    flops, before = (operations(model.config, of, "transcribe") for model, of in ((student, own), (plain, processor)))
    frames = 50 * AUDIO_S + 5
    assert before["encoder"] - flops["encoder"] == 2 * frames * 2 * 32 * (64 - 16)
    windows = (frames - 20) // 16 + 1
    assert len(own.prompt_ids("transcribe", windows)) == int(
        own([Clip(np.zeros(160_000), "transcribe")]).attention_mask_BT.sum()
    )
    assert flops["llm"] < before["llm"]
