"""The weights of the tiny SALMONN; apart from the rest of it, as this takes PyTorch and transformers."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, WhisperConfig, WhisperModel

from distill.chaos.tiny import SENTENCES, teacher_section
from teacher.build import build_teacher
from teacher.settings import ModelSettings
from teacher.weights import save_trained_part


def write_weights(folder: Path) -> None:
    """whisper/ and llm/ (with its tokenizer) as Hugging Face folders, and trained.safetensors: all of random weights.

    The LoRA of the trained part does something, as after training.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whisper = WhisperConfig(
            d_model=32,
            num_mel_bins=80,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_layers=1,
            decoder_attention_heads=2,
            decoder_ffn_dim=64,
            vocab_size=60,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )
        WhisperModel(whisper).save_pretrained(folder / "whisper")
        tokenizer = _tokenizer()
        tokenizer.save_pretrained(folder / "llm")
        llama = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.3,  # the usual 0.02 gives logits so flat that tests of them would pass by chance
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=1,
        )
        LlamaForCausalLM(llama).save_pretrained(folder / "llm")
        model, _ = build_teacher(ModelSettings.model_validate_json(json.dumps(teacher_section(folder))))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".lora_B." in name:
                    parameter.normal_(std=0.2)
        save_trained_part(model.state_dict(), folder / "trained.safetensors", torch.float32)


def _tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")
