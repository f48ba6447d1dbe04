"""Image towers of CLIP (arXiv 2103.00020): OpenAI's and open_clip's names, Hugging Face's, and timm's.

All have a norm before the first block and no bias in the patch embedding. OpenAI trained with the quick GELU, most
models of open_clip with the exact one, and the names of the tensors are the same.
"""

import dataclasses

from cover_jax.models.pretrained.families.vit import TIMM_VIT
from cover_jax.models.pretrained.tensor_names import Family, PackedLayout, TorchLayout

# OpenAI's preprocessing: clip/clip.py of openai/CLIP.
CLIP_PIXELS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_PROJECTION = "projects CLS into the space that CLIP shares with text, for no head of this model"
_TEXT = "of the text tower"

HF_CLIP = Family(
    title="Hugging Face CLIP",
    layout=TorchLayout(),
    prefixes=("", "vision_model."),
    signature="pre_layrnorm.weight",  # the name is misspelt there
    embeddings={"cls_token": "embeddings.class_embedding", "pos_embed": "embeddings.position_embedding.weight"},
    patch_embed="embeddings.patch_embedding",
    patch_bias=False,
    pre_norm="pre_layrnorm",
    norm="post_layernorm",
    head="",
    block="encoder.layers.{}.",
    layers={
        "spatial_norm": ("layer_norm1",),
        "space/qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "space/out": ("self_attn.out_proj",),
        "mlp_norm": ("layer_norm2",),
        "mlp/fc1": ("mlp.fc1",),
        "mlp/fc2": ("mlp.fc2",),
    },
    unused={r"embeddings\.position_ids$": "counts the positions"},
    outside={r"visual_projection\.": _PROJECTION, r"(text_model|text_projection)\.|logit_scale$": _TEXT},
    pixels=CLIP_PIXELS,
    gelu="quick",
    layer_norm_eps=1e-5,
)

OPENAI_CLIP = Family(
    title="CLIP of OpenAI or open_clip",
    layout=PackedLayout(),
    prefixes=("", "visual."),
    signature="transformer.resblocks.0.attn.in_proj_weight",
    embeddings={"cls_token": "class_embedding", "pos_embed": "positional_embedding"},
    patch_embed="conv1",
    patch_bias=False,
    pre_norm="ln_pre",
    norm="ln_post",
    head="",
    block="transformer.resblocks.{}.",
    layers={
        "spatial_norm": ("ln_1",),
        "space/qkv": ("attn.in_proj",),
        "space/out": ("attn.out_proj",),
        "mlp_norm": ("ln_2",),
        "mlp/fc1": ("mlp.c_fc",),
        "mlp/fc2": ("mlp.c_proj",),
    },
    layer_scales={"space/out": "ls_1.gamma", "mlp/fc2": "ls_2.gamma"},
    unused={r"proj$": _PROJECTION},
    outside={
        r"(transformer|token_embedding|ln_final|text)\.|(positional_embedding|text_projection|attn_mask)$": _TEXT,
        r"(logit_scale|logit_bias|input_resolution|context_length|vocab_size)$": "of CLIP, not of its image tower",
    },
    pixels=CLIP_PIXELS,
    gelu="",
    layer_norm_eps=1e-5,
)

TIMM_CLIP = dataclasses.replace(
    TIMM_VIT,
    title="timm ViT with a norm before its blocks (CLIP)",
    signature="norm_pre.weight",
    pre_norm="norm_pre",
    pixels=CLIP_PIXELS,
    gelu="",
    layer_norm_eps=1e-5,  # torch's default, which timm/models/vision_transformer.py names for these models
)

FAMILIES = (HF_CLIP, OPENAI_CLIP, TIMM_CLIP)
