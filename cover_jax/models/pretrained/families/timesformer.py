"""TimeSformer: the authors' names, and Hugging Face's. These have all names of a ViT and more."""

import dataclasses

from cover_jax.models.pretrained.families.vit import HF_EMBEDDINGS, HF_VIT, TIMM_VIT

TIMESFORMER = dataclasses.replace(
    TIMM_VIT,
    title="official TimeSformer",
    signature="blocks.0.temporal_norm1.weight",
    embeddings={**TIMM_VIT.embeddings, "time_embed": "time_embed"},
    layers={
        **TIMM_VIT.layers,
        "temporal_norm": ("temporal_norm1",),
        "time/qkv": ("temporal_attn.qkv",),
        "time/out": ("temporal_attn.proj",),
        "temporal_fc": ("temporal_fc",),
    },
    layer_scales={},
    unused={},
    pixels=((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),  # timesformer/config/defaults.py
)

HF_TIMESFORMER = dataclasses.replace(
    HF_VIT,
    title="Hugging Face TimeSformer",
    prefixes=("", "timesformer."),
    signature="encoder.layer.0.temporal_layernorm.weight",
    embeddings={**HF_EMBEDDINGS, "time_embed": "embeddings.time_embeddings"},
    layers={
        **HF_VIT.layers,
        "space/qkv": ("attention.attention.qkv",),
        "temporal_norm": ("temporal_layernorm",),
        "time/qkv": ("temporal_attention.attention.qkv",),
        "time/out": ("temporal_attention.output.dense",),
        "temporal_fc": ("temporal_dense",),
    },
    unused={},
    pixels=TIMESFORMER.pixels,
    layer_norm_eps=1e-6,
)

FAMILIES = (TIMESFORMER, HF_TIMESFORMER)
