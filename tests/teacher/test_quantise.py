import json
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from data.errors import InputError
from distill.models.loading import parameter_counts, part_bytes
from distill.recipe.reading import read_recipe
from teacher.build import build_teacher
from teacher.processor import Clip
from teacher.quantise import (
    RowwiseInt8,
    linear_by_bitsandbytes,
    quantise_llm,
    replace_linear,
    require_quantisation,
    stored_bytes,
)
from tests.teacher.test_build import SHAPES

CPU = torch.device("cpu")
WIDE = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "initializer_range": 0.1}
# Optional (requirements-quantise.txt): where it is missing, only its absence can be tested.
with_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")


@pytest.fixture
def build(tiny_recipe):
    """A function that builds an untrained teacher whose LLM is wide enough for groups of 64."""

    def build(*overrides, **llm):
        shapes = SHAPES | {"llm": SHAPES["llm"] | WIDE | llm}
        own = ["teacher.random_weights=true", "teacher.dtype=bf16", f"teacher.shapes={json.dumps(shapes)}"]
        return build_teacher(read_recipe(tiny_recipe, [*own, *overrides]).teacher)

    return build


def test_an_unknown_quantisation_and_a_missing_library_are_named(monkeypatch):
    with pytest.raises(InputError, match="quantisation 'int3': none of int8, int4, bnb_int8, bnb_nf4"):
        require_quantisation("int3", CPU)
    monkeypatch.setattr("teacher.quantise.find_spec", lambda _: None)
    for name, library in (("int8", "torchao"), ("bnb_nf4", "bitsandbytes")):
        message = rf"{name}: the package {library} is not installed; pip install -r requirements-quantise.txt"
        with pytest.raises(InputError, match=message):
            require_quantisation(name, CPU)


def test_int4_on_a_gpu_that_cannot_is_refused_before_anything_is_loaded(monkeypatch):
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr("teacher.quantise.find_spec", lambda _: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    with pytest.raises(InputError, match=r"int4: on a GPU it takes bfloat16, not float16; set teacher\.dtype"):
        require_quantisation("int4", gpu, torch.float16)
    with pytest.raises(InputError, match=r"int4: takes compute capability 8\.0, this GPU has 7\.0; take bnb_nf4"):
        require_quantisation("int4", gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    require_quantisation("int4", gpu)
    require_quantisation("int8", gpu, torch.float16)
    require_quantisation("int4", CPU, torch.float32)


@pytest.mark.skipif(find_spec("torchao") is not None, reason="torchao is installed")
def test_a_recipe_that_asks_for_it_is_refused_before_anything_is_built(build):
    with pytest.raises(InputError, match="int4: the package torchao is not installed"):
        build("teacher.precision.llm=int4")


def test_full_precision_weights_take_what_they_are_wide():
    assert stored_bytes(torch.zeros(3, 5)) == 60 and stored_bytes(nn.Parameter(torch.zeros(7).bfloat16())) == 14


@with_torchao
@pytest.mark.parametrize(("name", "bits", "apart"), [("int8", 8 + 40 / 64, 0.02), ("int4", 4 + 32 / 64, 0.25)])
def test_the_decoder_takes_fewer_bytes_and_says_about_the_same(build, waves, name, bits, apart):
    (whole, processor), (packed, _) = build(), build(f"teacher.precision.llm={name}")
    linear = sum(m.weight.numel() for m in whole.llm.get_decoder().modules() if type(m) is nn.Linear)
    layers = [m for m in packed.llm.get_decoder().modules() if isinstance(m, nn.Linear | RowwiseInt8)]
    assert sum(stored_bytes(layer.weight) for layer in layers) == pytest.approx(linear * bits / 8, rel=0.05)
    before, after = part_bytes(whole), part_bytes(packed)
    assert {part for part in before if before[part] != after[part]} == {"llm"}
    batch = processor([Clip(wave, "transcribe") for wave in waves])
    with torch.no_grad():
        expected, found = whole(batch).logits.float(), packed(batch).logits.float()
    real = batch.attention_mask_BT.bool()
    assert 0 < (found - expected)[real].norm() / expected[real].norm() < apart
    assert packed.generate(batch, max_new_tokens=4).shape[0] == len(waves)


@pytest.mark.parametrize(("name", "bits", "apart"), [("bnb_int8", 8 + 32 / 64, 0.03), ("bnb_nf4", 4.5, 0.5)])
def test_bitsandbytes_packs_the_decoder_on_a_cpu(build, waves, name, bits, apart):
    pytest.importorskip("bitsandbytes")
    (whole, processor), (packed, _) = (
        build("teacher.lora=null"),
        build("teacher.lora=null", f"teacher.precision.llm={name}"),
    )
    layers = [m for m in whole.llm.get_decoder().modules() if type(m) is nn.Linear]
    linear = sum(layer.weight.numel() for layer in layers)
    saved = part_bytes(whole)["llm"] - part_bytes(packed)["llm"]
    code = 16 * 4 * len(layers) if name == "bnb_nf4" else 0  # each layer keeps the sixteen values of NF4
    assert saved + code == pytest.approx(linear * (16 - bits) / 8, rel=0.05)
    before = part_bytes(packed)
    batch = processor([Clip(wave, "transcribe") for wave in waves])
    with torch.no_grad():
        expected, found = whole(batch).logits.float(), packed(batch).logits.float()
    real = batch.attention_mask_BT.bool()
    assert 0 < (found - expected)[real].norm() / expected[real].norm() < apart
    assert packed.generate(batch, max_new_tokens=4).shape[0] == len(waves)
    assert parameter_counts(packed) == parameter_counts(whole)
    # Four bits are laid out anew, with some more scales, where the CPU has a kernel for them.
    assert part_bytes(packed)["llm"] == pytest.approx(before["llm"], rel=0.05 if name == "bnb_nf4" else 0)


def test_outlying_features_stay_in_16_bits():
    """LLM.int8(), and not only eight bits: one large feature does not cost the others their precision."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    layer = nn.Linear(64, 48, dtype=torch.bfloat16).eval()
    states = torch.randn(5, 64, dtype=torch.bfloat16)
    states[:, 3] *= 60
    packed = linear_by_bitsandbytes(layer, "bnb_int8")
    assert type(packed) is bitsandbytes.nn.Linear8bitLt and not packed.training
    with torch.no_grad():
        expected, found = layer(states), packed(states)
        packed.state.threshold = 0.0
        rounded = packed(states)
    off, off_without = ((out - expected).norm() / expected.norm() for out in (found, rounded))
    assert off < 0.01 and off_without > 2 * off


@with_torchao
@pytest.mark.parametrize("rows", [1, 7, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_for_int8_computes_what_torchao_does(rows, dtype):
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(96, 40, dtype=dtype), nn.Linear(40, 24, bias=False, dtype=dtype))
    quantize_(decoder, Int8WeightOnlyConfig(set_inductor_config=False))
    states = torch.randn(2, rows, 96, dtype=dtype)
    expected = decoder(states)
    replace_linear(decoder, RowwiseInt8)
    assert all(type(layer) is RowwiseInt8 for layer in decoder)
    torch.testing.assert_close(decoder(states), expected, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("rows", [7, 200])
def test_large_states_do_not_overflow_in_half_precision(rows):
    generator = torch.Generator().manual_seed(0)
    packed = torch.randint(-127, 128, (8, 2048), generator=generator, dtype=torch.int8)
    weight = SimpleNamespace(qdata=packed, scale=torch.full((8, 1), 1e-3))
    layer = RowwiseInt8(SimpleNamespace(in_features=2048, out_features=8, weight=weight, bias=None))
    states = (50 * torch.randn(rows, 2048, generator=generator)).half()
    expected = states.float() @ (packed * weight.scale).T
    torch.testing.assert_close(layer(states).float(), expected, atol=0.5, rtol=0.01)


@with_torchao
def test_a_layer_that_no_group_fits_is_not_passed_over(build):
    model, _ = build("teacher.lora=null", intermediate_size=72)
    with pytest.raises(InputError, match="int4: a layer 72 wide is no multiple of 32"):
        quantise_llm(model, "int4", CPU)
    quantise_llm(model, "int8", CPU)
