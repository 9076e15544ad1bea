"""The language model's GGUF file, read again by transformers."""

import gguf
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from data.errors import InputError
from student.device import llm_gguf, quantiser
from student.device.llm_gguf import write_llm
from student.device.vocabulary import vocabulary_of
from teacher.model import merge_lora

TEXTS = ["USER: what's 42 times 7?\nASSISTANT:", "  two  spaces\n\nand a dog's bark", "é, ß and 今日"]


@pytest.fixture
def folded(tiny_teacher):
    """The tiny teacher with its LoRA folded in, and its processor."""
    model, processor = tiny_teacher
    merge_lora(model)
    return model.eval(), processor


def read_again(folder):
    return AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=llm_gguf.FILE, dtype=torch.float32, trust_remote_code=False
    ).eval()


def test_what_is_read_again_computes_the_same(folded, tmp_path):
    model, processor = folded
    write_llm(model.llm, processor.tokenizer, processor.config.eos_token_id, "f16", tmp_path)
    ids = torch.arange(200).view(4, 50)
    with torch.no_grad():
        for parameter in model.llm.parameters():
            if parameter.ndim > 1:  # as they are stored
                parameter.copy_(parameter.half())
        expected, found = model.llm(input_ids=ids).logits, read_again(tmp_path)(input_ids=ids).logits
    assert (found - expected).abs().max() < 1e-4
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, gguf_file=llm_gguf.FILE, trust_remote_code=False)
    for text in TEXTS:
        own = processor.tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer(text, add_special_tokens=False).input_ids == own


def test_rows_that_are_no_whole_blocks_stay_in_16_bits(folded, tmp_path):
    model, processor = folded
    write_llm(model.llm, processor.tokenizer, processor.config.eos_token_id, "q8_0", tmp_path)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / llm_gguf.FILE).tensors}
    assert kinds["blk.0.ffn_down.weight"] == "Q8_0"  # rows of 96
    assert kinds["blk.0.ffn_up.weight"] == "F16"  # rows of 48
    assert kinds["blk.0.attn_norm.weight"] == "F32" and "output.weight" not in kinds


def test_llama_3_has_the_factors_of_its_rotary_frequencies(folded, tmp_path):
    rope = {"rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    llm = LlamaForCausalLM(LlamaConfig(vocab_size=400, rope_parameters=rope, **sizes))
    write_llm(llm, folded[1].tokenizer, 1, "f16", tmp_path)
    factors = next(
        of.data for of in gguf.GGUFReader(tmp_path / llm_gguf.FILE).tensors if of.name == "rope_freqs.weight"
    )
    assert factors[0] == pytest.approx(1.0) and factors[-1] == pytest.approx(8.0) and len(factors) == 16


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [(Qwen2Config, {}, "of the kind 'qwen2'"), (LlamaConfig, {"attention_bias": True}, "with attention_bias")],
)
def test_another_llm_is_refused(tmp_path, kind, change, said):
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    llm = AutoModelForCausalLM.from_config(kind(vocab_size=9, **sizes, **change), trust_remote_code=False)
    with pytest.raises(InputError, match=said):
        write_llm(llm, None, 1, "f16", tmp_path)


def test_another_tokenizer_is_refused():
    pieces = Tokenizer(models.Unigram([("a", 0.0), ("b", -1.0)]))
    with pytest.raises(InputError, match="no byte-level BPE"):
        vocabulary_of(PreTrainedTokenizerFast(tokenizer_object=pieces), 2)


def test_q4_k_m_without_llama_cpp_is_a_line(folded, tmp_path, monkeypatch):
    monkeypatch.setattr(llm_gguf, "find_spec", lambda name: None)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=r"q4_k_m: llama\.cpp quantises"):
        write_llm(folded[0].llm, folded[1].tokenizer, 1, "q4_k_m", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_llama_cpp_quantises(folded, tmp_path):
    pytest.importorskip("llama_cpp")
    model, processor = folded
    write_llm(model.llm, processor.tokenizer, processor.config.eos_token_id, "q4_k_m", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [llm_gguf.FILE]
    reader = gguf.GGUFReader(tmp_path / "out" / llm_gguf.FILE)
    assert reader.fields["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_Q4_K_M
    with pytest.raises(InputError, match="quantiser failed"):
        quantiser.quantise(tmp_path / "none.gguf", tmp_path / "out.gguf")
