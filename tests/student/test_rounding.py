"""Weights rounded as llama.cpp stores them, and an LLM that is trained so."""

import copy

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from transformers import LlamaConfig, LlamaForCausalLM

from data.errors import InputError
from distill.recipe.reading import read_recipe
from student.device.llm_gguf import write_llm
from student.rounding import RoundedLinear, as_q4_0, train_rounded
from tests.student.device.test_llm_gguf import folded, read_again  # noqa: F401 (a fixture)

ROUNDED = "train.rounded_llm=q4_0"


def stored(weight: np.ndarray) -> np.ndarray:
    kind = GGMLQuantizationType.Q4_0
    return gguf.dequantize(gguf.quantize(weight, kind), kind)


@given(arrays.arrays(np.float32, (3, 64), elements=st.floats(-4, 4, width=16)))
def test_rounded_weights_are_those_of_a_file_bit_for_bit(weight):
    assert np.array_equal(as_q4_0(torch.from_numpy(weight)).numpy(), stored(weight))


def test_rounding_is_done_in_32_bits_whatever_the_weights_have():
    weight = torch.randn(8, 96, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = torch.from_numpy(stored(weight.float().numpy()))
    assert torch.equal(as_q4_0(weight), expected.bfloat16())
    assert (expected - weight).abs().max() > 0.05


def test_the_gradient_is_that_of_the_rounded_layer():
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 5).double()
    plain = copy.deepcopy(linear)
    with torch.no_grad():
        plain.weight.copy_(as_q4_0(linear.weight))
    linear.__class__ = RoundedLinear
    inputs = [torch.randn(7, 64, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    inputs[1].data.copy_(inputs[0])
    outs = [of(hidden) for of, hidden in zip((linear, plain), inputs, strict=True)]
    assert torch.equal(*outs)
    for out in outs:
        out.square().sum().backward()
    assert torch.equal(linear.weight.grad, plain.weight.grad) and torch.equal(inputs[0].grad, inputs[1].grad)


@pytest.fixture
def wide() -> LlamaForCausalLM:
    """A Llama whose rows are whole blocks."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=400, tie_word_embeddings=True, **sizes)).eval()


def test_an_llm_that_is_trained_so_computes_what_is_read_from_its_file(wide, folded, tmp_path):  # noqa: F811
    names = list(wide.state_dict())
    write_llm(wide, folded[1].tokenizer, 1, "q4_0", tmp_path)
    kinds = {of.name: of.tensor_type.name for of in gguf.GGUFReader(tmp_path / "llm.gguf").tensors}
    assert kinds.pop("token_embd.weight") == "Q8_0"
    assert {kind for name, kind in kinds.items() if "norm" not in name} == {"Q4_0"}
    train_rounded(wide)
    assert list(wide.state_dict()) == names
    again = read_again(tmp_path)
    with torch.no_grad():  # embeddings and head, which are trained as they are
        wide.get_input_embeddings().weight.copy_(again.get_input_embeddings().weight)
        ids = torch.arange(200).view(4, 50)
        assert (wide(input_ids=ids).logits - again(input_ids=ids).logits).abs().max() < 1e-4


def test_what_has_no_whole_blocks_is_refused():
    sizes = {"hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2}
    llm = LlamaForCausalLM(LlamaConfig(vocab_size=9, **sizes))
    with pytest.raises(InputError, match=r"train\.rounded_llm: no layer"):
        train_rounded(llm)


def test_adapters_are_refused(tiny_recipe):
    with pytest.raises(InputError, match=r"train\.rounded_llm: .* student\.lora null"):
        read_recipe(tiny_recipe, [ROUNDED, 'student.lora={"target_modules": ["q_proj"]}'])
