"""DINOv2, with and without registers: the authors' names, and Hugging Face's."""

import dataclasses

from cover_jax.models.pretrained.families.vit import HF_VIT, TIMM_VIT
from cover_jax.models.pretrained.tensor_names import IMAGENET_PIXELS

HF_DINOV2 = dataclasses.replace(
    HF_VIT,
    title="Hugging Face DINOv2",
    prefixes=("", "dinov2.", "dinov2_with_registers."),
    signature="encoder.layer.0.norm1.weight",
    head="",
    layers={
        **HF_VIT.layers,
        "spatial_norm": ("norm1",),
        "mlp_norm": ("norm2",),
        "mlp/fc1": ("mlp.fc1",),
        "mlp/fc2": ("mlp.fc2",),
    },
    registers="embeddings.register_tokens",
    layer_scales={"space/out": "layer_scale1.lambda1", "mlp/fc2": "layer_scale2.lambda1"},
    unused={
        r"classifier\.": "reads CLS and the mean of the patches, which no head of this model does",
        r"embeddings\.mask_token$": "stands for masked patches, in pre-training only",
    },
    pixels=IMAGENET_PIXELS,
    layer_norm_eps=1e-6,
)

OFFICIAL_DINOV2 = dataclasses.replace(
    TIMM_VIT,
    title="official DINOv2",
    signature="mask_token",
    head="",
    registers="register_tokens",
    unused={
        r"mask_token$": "stands for masked patches, in pre-training only",
        r"linear_head\.": "reads CLS and the mean of the patches, which no head of this model does",
    },
    pixels=IMAGENET_PIXELS,
)

FAMILIES = (HF_DINOV2, OFFICIAL_DINOV2)
