import numpy as np
import pytest

from distill.recipe import read_recipe
from distill.sizes import AUDIO_S, beside, operations
from student.shrink import shrink
from teacher.processor import SalmonnProcessor


def test_operations_are_those_of_the_products(tiny_teacher):
    model, processor = tiny_teacher
    found = operations(model, processor, "transcribe")
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
    assert len(lines) == 9 and student.training
    ratio = float(next(line for line in lines if line.startswith("encoder, GFLOP")).split()[-2])
    assert 0.4 < ratio < 0.7  # one of two layers, and the convolutions
