"""A SALMONN without BEATs, computed the plain way from transformers' own models: fixtures for the parity check."""

import json
import shutil

import soundfile
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import (
    AutoTokenizer,
    BertConfig,
    LlamaForCausalLM,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)
from transformers.models.bert.modeling_bert import BertEncoder

from tests.released import released_salmonn

WINDOW = 17  # frames of a third of a second
PROMPT = "<Speech><SpeechHere></Speech> transcribe"


def write_fixture(folder, llm, sounds, *, mel_bins, width, heads):
    """A fixture folder (see `teacher/parity.py`) of untrained weights, with what they give on (wave, text) pairs."""
    torch.manual_seed(mel_bins)
    shutil.copytree(llm, folder / "llm")
    whisper = WhisperModel(
        WhisperConfig(
            num_mel_bins=mel_bins,
            d_model=width,
            encoder_layers=2,
            encoder_attention_heads=heads,
            encoder_ffn_dim=2 * width,
            decoder_layers=1,
            decoder_attention_heads=heads,
            decoder_ffn_dim=width,
            vocab_size=60,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )
    ).eval()
    whisper.save_pretrained(folder / "whisper")
    extractor = WhisperFeatureExtractor(feature_size=mel_bins)
    extractor.save_pretrained(folder / "whisper")
    bert = BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        is_decoder=True,
        add_cross_attention=True,
        attn_implementation="eager",
    )
    qformer = _wide(BertEncoder, bert, width).eval()
    language, tokenizer = LlamaForCausalLM.from_pretrained(folder / "llm").eval(), AutoTokenizer.from_pretrained(llm)
    size, pad = language.config.hidden_size, language.config.vocab_size
    language.resize_token_embeddings(pad + 1)  # the row of [PAD]: the mean of the others

    def norm(of):
        return {"weight": 1 + 0.1 * torch.randn(of), "bias": 0.1 * torch.randn(of)}

    norms = {"connector.ln_speech": norm(width), "connector.qformer.layernorm": norm(32)}
    query, projection = torch.randn(1, 1, 32), torch.nn.Linear(32, size)
    lora = {
        f"model.layers.{i}.self_attn.{name}_proj": (torch.randn(4, size) * 0.2, torch.randn(out, 4) * 0.2)
        for i in range(language.config.num_hidden_layers)
        for name, out in (("q", size), ("v", size * language.config.num_key_value_heads // 4))
    }
    trained = {f"{name}.{part}": value for name, parts in norms.items() for part, value in parts.items()}
    trained |= {f"connector.proj.{name}": value.detach() for name, value in projection.named_parameters()}
    trained["connector.query"] = query
    for key, value in qformer.state_dict().items():
        # The branch of a query has feed-forward weights of its own.
        key = key.replace(".intermediate.", ".intermediate_query.")
        if ".attention." not in key and ".crossattention." not in key:
            key = key.replace(".output.", ".output_query.")
        trained[f"connector.qformer.encoder.{key.replace('.self.', '.attention.')}"] = value
    for name, (a, b) in lora.items():
        trained |= {f"llm.{name}.lora_A.default.weight": a, f"llm.{name}.lora_B.default.weight": b}
    torch.save({"model": released_salmonn(trained), "epoch": 0}, folder / "salmonn.pth")
    for name, (a, b) in lora.items():
        language.get_submodule(name).weight.data += 8 / 4 * b @ a
    language.requires_grad_(False)

    @torch.no_grad()
    def compute(wave, text):
        spectrogram = extractor(wave, sampling_rate=16_000, return_tensors="pt").input_features
        states = whisper.encoder(spectrogram).last_hidden_state
        heard = F.layer_norm(states, (width,), *norms["connector.ln_speech"].values())
        windows = torch.stack([heard[0, at : at + WINDOW] for at in range(0, 1500 - WINDOW + 1, WINDOW)])
        asked = F.layer_norm(query, (32,), *norms["connector.qformer.layernorm"].values(), eps=1e-12)
        tokens = projection(qformer(asked.expand(len(windows), 1, 32), encoder_hidden_states=windows)[0])[None, :, 0]

        def embedded(words):
            ids = tokenizer(words, add_special_tokens=False).input_ids
            return language.get_input_embeddings()(torch.tensor([ids], dtype=torch.long)), ids

        before, after = (f"USER: {PROMPT}\nASSISTANT:").split("<SpeechHere>")
        start = language.get_input_embeddings()(torch.tensor([[tokenizer.bos_token_id]]))
        prompt = torch.cat([start, embedded(before)[0], tokens, embedded(after)[0]], 1)
        told, ids = embedded(text + tokenizer.eos_token)
        embeds = torch.cat([prompt, told], 1)
        labels = torch.tensor([[-100] * prompt.shape[1] + ids])
        out = language(inputs_embeds=embeds, labels=labels)
        stages = {
            "spectrogram": spectrogram[..., :600],
            "whisper": states[:, ::25],
            "audio_tokens": tokens,
            "inputs_embeds": embeds,
            "labels": labels,
            "logits": out.logits[..., :pad],
            "loss": out.loss.reshape(1),
        }
        for beams in (1, 4):
            stages[f"generate_beam{beams}"] = language.generate(
                inputs_embeds=prompt,
                attention_mask=torch.ones(prompt.shape[:2]),
                max_new_tokens=24,
                num_beams=beams,
                do_sample=False,
                pad_token_id=pad,
            )
        return stages

    expected = {}
    (folder / "audio").mkdir()
    for number, (wave, text) in enumerate(sounds):
        soundfile.write(folder / "audio" / f"{number}.wav", wave, 16_000, subtype="FLOAT")
        stages = compute(wave, text)
        expected |= {f"s{number}.{name}": value.detach().clone().contiguous() for name, value in stages.items()}
    save_file(expected, folder / "expected.safetensors")
    rows = [{"path": f"audio/{i}.wav", "text": text, "task": "asr"} for i, (_, text) in enumerate(sounds)]
    settings = {
        "end_sym": tokenizer.eos_token,
        "lora": True,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
        "lora_rank": 4,
        "num_speech_query_token": 1,
        "prompt_template": "USER: {}\nASSISTANT:",
        "prompts": {"asr": PROMPT},
        "qformer_layers": 2,
        "second_per_window": 0.333333,
        "second_stride": 0.333333,
        "use_speech_Qformer": True,
        "window_level_Qformer": True,
    }
    (folder / "qformer").mkdir()
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48}
    for path, content in (("samples.json", {"annotation": rows}), ("model.json", settings)):
        (folder / path).write_text(json.dumps(content))
    (folder / "qformer" / "config.json").write_text(json.dumps(sizes))


def _wide(encoder, config, width):
    """A BERT whose cross-attention hears states of another width, as BLIP-2's does."""
    model = encoder(config)
    for layer in model.layer:
        for name in ("key", "value"):
            setattr(layer.crossattention.self, name, torch.nn.Linear(width, config.hidden_size))
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.3)
            torch.nn.init.normal_(module.bias, std=0.1)
    return model
