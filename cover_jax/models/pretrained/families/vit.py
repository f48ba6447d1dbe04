"""Vision transformers of google-research, timm and Hugging Face."""

from cover_jax.models.pretrained.tensor_names import HALF_PIXELS, Family, FlaxLayout, TorchLayout

GOOGLE_VIT = Family(
    title="google-research ViT or AugReg",
    layout=FlaxLayout(),
    prefixes=("", "opt/target/"),
    signature="Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel",
    embeddings={"cls_token": "cls", "pos_embed": "Transformer/posembed_input/pos_embedding"},
    patch_embed="embedding",
    norm="Transformer/encoder_norm",
    head="head",
    block="Transformer/encoderblock_{}/",
    layers={
        "spatial_norm": ("LayerNorm_0",),
        "space/qkv": tuple(f"MultiHeadDotProductAttention_1/{name}" for name in ("query", "key", "value")),
        "space/out": ("MultiHeadDotProductAttention_1/out",),
        "mlp_norm": ("LayerNorm_2",),
        "mlp/fc1": ("MlpBlock_3/Dense_0",),
        "mlp/fc2": ("MlpBlock_3/Dense_1",),
    },
    unused={
        r"pre_logits/": "a layer between CLS feature and head",
    },
    outside={r"opt/state/": "the optimizer's state"},
    pixels=HALF_PIXELS,
    gelu="tanh",  # flax's default, in vit_jax/models_vit.py
)

TIMM_VIT = Family(
    title="timm ViT",
    layout=TorchLayout(),
    prefixes=("",),
    signature="blocks.0.norm1.weight",
    embeddings={"cls_token": "cls_token", "pos_embed": "pos_embed"},
    patch_embed="patch_embed.proj",
    norm="norm",
    head="head",
    block="blocks.{}.",
    layers={
        "spatial_norm": ("norm1",),
        "space/qkv": ("attn.qkv",),
        "space/out": ("attn.proj",),
        "mlp_norm": ("norm2",),
        "mlp/fc1": ("mlp.fc1",),
        "mlp/fc2": ("mlp.fc2",),
    },
    registers="reg_token",
    layer_scales={"space/out": "ls1.gamma", "mlp/fc2": "ls2.gamma"},
    unused={
        r"pre_logits\.": "a layer between CLS feature and head",
        r"mask_token$": "stands for masked patches, in pre-training only",
        r"head_dist\.": "the distillation token's head",
    },
)

HF_EMBEDDINGS = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
HF_QKV = tuple(f"attention.attention.{name}" for name in ("query", "key", "value"))

HF_VIT = Family(
    title="Hugging Face ViT",
    layout=TorchLayout(),
    prefixes=("", "vit."),
    signature="encoder.layer.0.layernorm_before.weight",
    embeddings=HF_EMBEDDINGS,
    patch_embed="embeddings.patch_embeddings.projection",
    norm="layernorm",
    head="classifier",
    block="encoder.layer.{}.",
    layers={
        "spatial_norm": ("layernorm_before",),
        "space/qkv": HF_QKV,
        "space/out": ("attention.output.dense",),
        "mlp_norm": ("layernorm_after",),
        "mlp/fc1": ("intermediate.dense",),
        "mlp/fc2": ("output.dense",),
    },
    unused={
        r"pooler\.": "a layer after the CLS feature, for other heads",
        r"embeddings\.mask_token$": "stands for masked patches, in pre-training only",
    },
    pixels=HALF_PIXELS,
    layer_norm_eps=1e-12,  # transformers/models/vit/configuration_vit.py
    head_at_root=True,
)

FAMILIES = (TIMM_VIT, HF_VIT, GOOGLE_VIT)
