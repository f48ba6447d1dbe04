"""Video models that embed tubelets of several frames and attend over space and time at once: ViViT and VideoMAE.

They are read as image models: spatial attention, and temporal attention as a copy of it. The kernels of a tubelet's
frames are summed, and the position embedding is that of the middle of the clip. So this model starts as theirs on a
still clip as short as one tubelet. VideoMAE has no CLS token and averages its patches; CLS starts anew here.
"""

import dataclasses

from cover_jax.models.pretrained.families.vit import HF_VIT, TIMM_VIT
from cover_jax.models.pretrained.tensor_names import IMAGENET_PIXELS, NoKeyBiasLayout

_DECODER = "of the decoder, which is for pre-training only"
_MEAN = "reads the mean of the patches, which no head of this model does"

HF_VIVIT = dataclasses.replace(
    HF_VIT,
    title="Hugging Face ViViT",
    prefixes=("", "vivit."),
    patch_axes=5,
    gelu="tanh",  # gelu_fast in transformers/models/vivit/configuration_vivit.py
    layer_norm_eps=1e-6,
)

HF_VIDEOMAE = dataclasses.replace(
    HF_VIT,
    title="Hugging Face VideoMAE",
    layout=NoKeyBiasLayout(),
    prefixes=("", "videomae."),
    signature="encoder.layer.0.attention.attention.q_bias",
    also=("layernorm.weight",),
    patch_axes=5,
    embeddings={},
    head="",
    unused={},
    outside={r"(decoder|encoder_to_decoder)\.|mask_token$": _DECODER},
    pixels=IMAGENET_PIXELS,
)

HF_VIDEOMAE_CLASSIFIER = dataclasses.replace(
    HF_VIDEOMAE,
    title="Hugging Face VideoMAE with a classifier",
    also=("fc_norm.weight",),
    norm="fc_norm",
    norm_at_root=True,
    outside={r"classifier\.": _MEAN},
)

VIDEOMAE = dataclasses.replace(
    TIMM_VIT,
    title="official VideoMAE",
    layout=NoKeyBiasLayout(),
    signature="blocks.0.attn.q_bias",
    also=("norm.weight",),
    patch_axes=5,
    embeddings={},
    head="",
    registers="",
    unused={},
    outside=HF_VIDEOMAE.outside,
    pixels=IMAGENET_PIXELS,
)

VIDEOMAE_CLASSIFIER = dataclasses.replace(
    VIDEOMAE,
    title="official VideoMAE with a classifier",
    also=("fc_norm.weight",),
    norm="fc_norm",
    unused={r"head\.": _MEAN},
)

# VideoMAE comes before ViViT, because it has all names of a ViViT.
FAMILIES = (HF_VIDEOMAE, HF_VIDEOMAE_CLASSIFIER, VIDEOMAE, VIDEOMAE_CLASSIFIER, HF_VIVIT)
