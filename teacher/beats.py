"""BEATs (Chen et al. 2022, "BEATs: Audio Pre-Training with Acoustic Tokenizers"): the encoder of sounds and music.

Letters: B clips, T fbank frames (10 ms), F mel bins, P patches, D width, A heads, C channels of a head, N layers.
"""

import math

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from data.settings import Settings


class BeatsSettings(Settings):
    """Sizes of a BEATs encoder, under the names that its checkpoints use; the defaults are the published model."""

    embed_dim: int = Field(512, ge=1, description="width of a patch embedding")
    encoder_layers: int = Field(12, ge=1, description="transformer layers")
    encoder_embed_dim: int = Field(768, ge=1, description="width of the layers")
    encoder_ffn_embed_dim: int = Field(3072, ge=1, description="width of the feed-forward layers")
    encoder_attention_heads: int = Field(12, ge=1, description="attention heads")
    input_patch_size: int = Field(16, ge=1, description="side of a square patch of the spectrogram, frames and bins")
    conv_pos: int = Field(128, ge=1, description="kernel of the convolutional positional embedding, patches")
    conv_pos_groups: int = Field(16, ge=1, description="its groups")
    num_buckets: int = Field(320, ge=4, description="buckets of the relative position bias")
    max_distance: int = Field(800, ge=1, description="distance from which all positions share a bucket, patches")
    deep_norm: bool = Field(True, description="residuals scaled by (2 N)^0.25 (Wang et al. 2022)")
    conv_bias: bool = Field(False, description="bias of the patch embedding")


def relative_buckets(length: int, buckets: int, max_distance: int, device: torch.device) -> Tensor:
    """T5's bucket (Raffel et al. 2020) of each key's distance from each query, both directions: int64 (P, P)."""
    positions = torch.arange(length, device=device)
    distance_PP = positions[None, :] - positions[:, None]
    half = buckets // 2
    exact = half // 2
    ahead_PP = (distance_PP > 0).long() * half
    distance_PP = distance_PP.abs()
    far_PP = exact + (
        torch.log(distance_PP.float().clamp(min=1) / exact) / math.log(max_distance / exact) * (half - exact)
    ).long().clamp(max=half - exact - 1)
    return ahead_PP + torch.where(distance_PP < exact, distance_PP, far_PP)


class _Attention(nn.Module):
    """Self-attention with a position bias that a gate on the query scales (BEATs, section 3.1; WavLM, eq. 3-6)."""

    def __init__(self, config: BeatsSettings) -> None:
        super().__init__()
        width, heads = config.encoder_embed_dim, config.encoder_attention_heads
        self.heads = heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.grep_linear = nn.Linear(width // heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, heads, 1, 1))

    def forward(self, hidden_BPD: Tensor, bias_APP: Tensor, mask_B11P: Tensor | None) -> Tensor:
        def split(x_BPD: Tensor) -> Tensor:
            return x_BPD.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        q_BAPC, k_BAPC, v_BAPC = (split(f(hidden_BPD)) for f in (self.q_proj, self.k_proj, self.v_proj))
        update_BAP, reset_BAP = self.grep_linear(q_BAPC).unflatten(-1, (2, 4)).sum(-1).sigmoid().unbind(-1)
        gate_BAP1 = update_BAP[..., None] * (reset_BAP[..., None] * self.grep_a - 1) + 2
        bias_BAPP = gate_BAP1 * bias_APP
        if mask_B11P is not None:
            bias_BAPP = bias_BAPP.masked_fill(~mask_B11P, -math.inf)
        out_BAPC = functional.scaled_dot_product_attention(q_BAPC, k_BAPC, v_BAPC, attn_mask=bias_BAPP)
        return self.out_proj(out_BAPC.transpose(1, 2).flatten(2))


class _Layer(nn.Module):
    def __init__(self, config: BeatsSettings) -> None:
        super().__init__()
        width = config.encoder_embed_dim
        self.self_attn = _Attention(config)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = (
            nn.Linear(width, config.encoder_ffn_embed_dim),
            nn.Linear(config.encoder_ffn_embed_dim, width),
        )
        self.final_layer_norm = nn.LayerNorm(width)
        self.residual = (2 * config.encoder_layers) ** 0.25 if config.deep_norm else 1.0

    def forward(self, hidden_BPD: Tensor, bias_APP: Tensor, mask_B11P: Tensor | None) -> Tensor:
        attended_BPD = self.self_attn(hidden_BPD, bias_APP, mask_B11P)
        hidden_BPD = self.self_attn_layer_norm(self.residual * hidden_BPD + attended_BPD)
        return self.final_layer_norm(self.residual * hidden_BPD + self.fc2(functional.gelu(self.fc1(hidden_BPD))))


class BeatsEncoder(nn.Module):
    """Fbank features to states; without the classifier that fine-tuned checkpoints carry.

    A patch of 16 x 16 becomes one state, the eight of a 160 ms column one after the other: 50 states a second.
    """

    def __init__(self, config: BeatsSettings) -> None:
        super().__init__()
        self.config = config
        width, side = config.encoder_embed_dim, config.input_patch_size
        self.patch_embedding = nn.Conv2d(1, config.embed_dim, side, stride=side, bias=config.conv_bias)
        self.layer_norm = nn.LayerNorm(config.embed_dim)
        self.post_extract_proj = nn.Identity()
        if config.embed_dim != width:
            self.post_extract_proj = nn.Linear(config.embed_dim, width)
        self.pos_conv = nn.Conv1d(
            width, width, config.conv_pos, padding=config.conv_pos // 2, groups=config.conv_pos_groups
        )
        self.input_norm = nn.LayerNorm(width)
        # One table for all layers; each layer's gate scales it.
        self.relative_bias = nn.Embedding(config.num_buckets, config.encoder_attention_heads)
        self.layers = nn.ModuleList([_Layer(config) for _ in range(config.encoder_layers)])

    def frames(self, fbank_frames: Tensor | int, bins: int) -> Tensor | int:
        """States of so many fbank frames: whole patches only."""
        side = self.config.input_patch_size
        return fbank_frames // side * (bins // side)

    def columns(self, states_BPD: Tensor, bins: int) -> Tensor:
        """States of the patches of each column side by side: (B, columns, patches of a column x D)."""
        return states_BPD.unflatten(1, (-1, bins // self.config.input_patch_size)).flatten(2)

    def forward(self, fbank_BTF: Tensor, frames_B: Tensor) -> Tensor:
        """Encodes normalised fbank features.

        Args:
            fbank_BTF: Features, of at least one patch.
            frames_B: States of each clip that are real; later ones are not attended to. On the host.

        Returns:
            States (B, P, D).
        """
        x_BDTF = self.patch_embedding(fbank_BTF[:, None].to(self.patch_embedding.weight.dtype))
        hidden_BPD = self.post_extract_proj(self.layer_norm(x_BDTF.flatten(2).transpose(1, 2)))
        length = hidden_BPD.shape[1]
        mask_B11P = None
        if not bool((frames_B >= length).all()):
            real_BP = (torch.arange(length) < frames_B[:, None]).to(hidden_BPD.device, non_blocking=True)
            hidden_BPD = hidden_BPD * real_BP[..., None]
            mask_B11P = real_BP[:, None, None]
        # An even kernel gives one output too many.
        positions_BDP = self.pos_conv(hidden_BPD.transpose(1, 2))[..., :length]
        hidden_BPD = self.input_norm(hidden_BPD + functional.gelu(positions_BDP).transpose(1, 2))
        buckets_PP = relative_buckets(length, self.config.num_buckets, self.config.max_distance, hidden_BPD.device)
        bias_APP = self.relative_bias(buckets_PP).permute(2, 0, 1)
        for layer in self.layers:
            hidden_BPD = layer(hidden_BPD, bias_APP, mask_B11P)
        return hidden_BPD
