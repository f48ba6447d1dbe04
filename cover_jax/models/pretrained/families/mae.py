"""Masked autoencoders (arXiv 2111.06377) with their decoder: the authors' names, and Hugging Face's.

The encoder alone has the names of a ViT and is read as one.
"""

import dataclasses

from cover_jax.models.pretrained.families.vit import HF_VIT, TIMM_VIT
from cover_jax.models.pretrained.tensor_names import IMAGENET_PIXELS

_DECODER = "of the decoder, which is for pre-training only"

HF_MAE = dataclasses.replace(
    HF_VIT,
    title="Hugging Face MAE",
    prefixes=("vit.",),
    also=("decoder.decoder_embed.weight",),
    head="",
    unused={},
    outside={r"decoder\.": _DECODER},
    pixels=IMAGENET_PIXELS,
)

OFFICIAL_MAE = dataclasses.replace(
    TIMM_VIT,
    title="official MAE",
    also=("decoder_embed.weight",),
    head="",
    unused={r"decoder_": _DECODER, r"mask_token$": _DECODER},
    pixels=IMAGENET_PIXELS,
)

FAMILIES = (HF_MAE, OFFICIAL_MAE)
