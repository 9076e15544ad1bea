"""Checkpoints written as others released them, from models of ours."""

import torch

from teacher.weights import is_trained_part

SIZES = {
    "embed_dim": 16,
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 4,
    "conv_pos": 8,
    "conv_pos_groups": 4,
    "num_buckets": 32,
    "max_distance": 40,
}
CFG = SIZES | {"input_patch_size": 16, "conv_bias": False, "deep_norm": True}
CFG |= {"layer_norm_first": False, "activation_fn": "gelu", "dropout": 0.1, "predictor_class": 527}


def trained_part(model):
    """The connector and the LoRA updates of a model."""
    return {key: value for key, value in model.state_dict().items() if is_trained_part(key)}


def released_beats(model):
    """A BEATs state dictionary as it is published."""
    tensors = {"predictor.weight": torch.zeros(527, 32)}
    for key, value in model.state_dict().items():
        if key.startswith("pos_conv.weight"):
            scale = value.norm(dim=(0, 1), keepdim=True)
            tensors |= {"encoder.pos_conv.0.weight_g": scale, "encoder.pos_conv.0.weight_v": 3 * value}
        elif key.startswith("relative_bias"):
            for layer in range(len(model.layers)):
                tensors[f"encoder.layers.{layer}.self_attn.relative_attention_bias.weight"] = value
        else:
            inside = key.startswith(("layers.", "pos_conv.", "input_norm."))
            name = key.replace("input_norm.", "layer_norm.").replace("pos_conv.", "pos_conv.0.")
            tensors[f"encoder.{name}" if inside else name] = value
    return tensors


def released_salmonn(trained):
    """A trained part under the names of a released SALMONN."""
    names = {
        "connector.query": "speech_query_tokens",
        "connector.ln_": "ln_",
        "connector.qformer.layernorm.": "speech_Qformer.bert.embeddings.LayerNorm.",
        "connector.qformer.encoder.": "speech_Qformer.bert.encoder.",
        "connector.proj.": "speech_llama_proj.",
        "llm.": "llama_model.base_model.model.",
    }
    tensors = {
        "speech_Qformer.bert.embeddings.position_ids": torch.arange(512)[None],
        "llama_model.base_model.model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
    }
    for key, value in trained.items():
        ours = next(name for name in names if key.startswith(name))
        theirs = names[ours] + key.removeprefix(ours).replace("attention.attention.", "attention.self.")
        tensors[theirs] = value
    return tensors
