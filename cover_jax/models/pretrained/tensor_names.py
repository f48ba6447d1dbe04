"""Who calls what by which name: one table a family of checkpoints, from this project's paths to theirs."""

# D width, H heads, K head_dim, M any other size

import dataclasses
import re
from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np
from einops import rearrange

from cover_jax.models.pretrained.errors import PretrainedError
from cover_jax.models.pretrained.weight_files import Tensors

Arrays = dict[str, np.ndarray]
Pixels = tuple[tuple[float, float, float], tuple[float, float, float]]  # mean and standard deviation of each channel
IMAGENET_PIXELS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF_PIXELS = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Reader:
    """Tensors under a prefix, as float32; remembers which were taken."""

    def __init__(self, tensors: Tensors, prefix: str):
        self._tensors, self._prefix = tensors, prefix
        self._taken: set[str] = set()
        self._names = frozenset(tensors.names)

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._names

    def __call__(self, name: str) -> np.ndarray:
        """The tensor under the prefix and `name`.

        Raises:
            PretrainedError: there is none, or it is not of numbers.
        """
        full = self._prefix + name
        if full not in self._names:
            raise PretrainedError(f"lacks the tensor {full}")
        self._taken.add(full)
        array = self._tensors.read(full)
        if array.dtype.kind not in "fiub" and array.dtype != ml_dtypes.bfloat16:
            raise PretrainedError(f"{full}: an array of {array.dtype}, not of numbers")
        return array.astype(np.float32)

    def at_root(self) -> "Reader":
        """The same tensors without the prefix."""
        root = Reader(self._tensors, "")
        root._taken = self._taken
        return root

    def matches(self, pattern: str) -> list[re.Match[str]]:
        """Matches `pattern` at the start of a name, after the prefix."""
        return [match for name in self._names if (match := re.compile(re.escape(self._prefix) + pattern).match(name))]

    @property
    def num_taken(self) -> int:
        """Number of tensors that were read."""
        return len(self._taken)

    @property
    def left(self) -> list[str]:
        """Names of tensors that were not read."""
        return sorted(self._names - self._taken)


class TorchLayout:
    """Linear weights [out, in], convolutions [out, channel, row, column]."""

    def patch_px(self, read: Reader, name: str) -> int:
        """The side of a patch, from the convolution `name` that embeds patches."""
        return int(read(f"{name}.weight").shape[-1])

    def num_heads(self, read: Reader, name: str) -> int | None:
        """None: the tensors do not state it, because their axes join heads and head_dim."""
        return None

    def patches(self, read: Reader, name: str) -> Arrays:
        """The convolution `name` as this project's kernel [pixels and channels of a patch, D] and bias [D]."""
        kernel = rearrange(read(f"{name}.weight"), "d c p q -> (p q c) d")
        return {"kernel": kernel, "bias": read(f"{name}.bias")}

    def norm(self, read: Reader, name: str) -> Arrays:
        """Scale and bias [D] of the layer norm `name`."""
        return {"scale": read(f"{name}.weight"), "bias": read(f"{name}.bias")}

    def linear(self, read: Reader, *names: str) -> Arrays:
        """One layer, or several side by side: query, key and value."""
        return {
            "kernel": np.concatenate([read(f"{name}.weight").T for name in names], axis=1),
            "bias": np.concatenate([read(f"{name}.bias") for name in names]),
        }


class FlaxLayout:
    """Kernels [in, out], those of attention with heads and head_dim apart, convolutions [row, column, channel, out]."""

    def patch_px(self, read: Reader, name: str) -> int:
        """The side of a patch, from the convolution `name` that embeds patches."""
        return int(read(f"{name}/kernel").shape[0])

    def num_heads(self, read: Reader, name: str) -> int | None:
        """Number of attention heads, from the projection `name` of one block."""
        return int(read(f"{name}/kernel").shape[1])

    def patches(self, read: Reader, name: str) -> Arrays:
        """The convolution `name` as this project's kernel [pixels and channels of a patch, D] and bias [D]."""
        kernel = rearrange(read(f"{name}/kernel"), "p q c d -> (p q c) d")
        return {"kernel": kernel, "bias": read(f"{name}/bias")}

    def norm(self, read: Reader, name: str) -> Arrays:
        """Scale and bias [D] of the layer norm `name`."""
        return {"scale": read(f"{name}/scale"), "bias": read(f"{name}/bias")}

    def linear(self, read: Reader, *names: str) -> Arrays:
        """One layer, or several side by side: query, key and value [D, H, K]; the output's kernel is [H, K, D]."""
        join = "h k d -> (h k) d" if names[0].endswith("/out") else "d h k -> d (h k)"
        kernels = [read(f"{name}/kernel") for name in names]
        return {
            "kernel": np.concatenate([k if k.ndim == 2 else rearrange(k, join) for k in kernels], axis=1),
            "bias": np.concatenate([read(f"{name}/bias").ravel() for name in names]),
        }


@dataclasses.dataclass(frozen=True)
class Family:
    """One model family of checkpoints.

    Attributes:
        title: name of the family, for people.
        layout: order of its axes.
        prefixes: possible common prefixes of all names.
        signature: a name that only this family has.
        embeddings: this project's name -> the family's name, for arrays outside the blocks that are used unchanged.
        patch_embed, norm: names of these two layers.
        head: name of the classifier that reads the CLS feature; "": none.
        head_at_root: the head's name has no prefix.
        block: prefix of the names of block {}.
        layers: this project's path in a block -> the family's names; several are joined. If there is no temporal
            attention, it becomes a copy of the spatial attention.
        layer_scales: path of a layer -> name of the vector that scales its output, if a file has one.
        unused: pattern of names that this model does not use -> why they are not needed.
        pixels: mean and standard deviation for the pixels that it was trained with, if the family has fixed ones.
        gelu, layer_norm_eps: as in `config.model`; a config.json may override them.
    """

    title: str
    layout: TorchLayout | FlaxLayout
    prefixes: tuple[str, ...]
    signature: str
    embeddings: Mapping[str, str]
    patch_embed: str
    norm: str
    head: str
    block: str
    layers: Mapping[str, tuple[str, ...]]
    layer_scales: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unused: Mapping[str, str] = dataclasses.field(default_factory=dict)
    pixels: Pixels | None = None
    gelu: str = "exact"
    layer_norm_eps: float = 1e-6
    head_at_root: bool = False

    @property
    def is_video(self) -> bool:
        """Whether its models have attention over time."""
        return "time/qkv" in self.layers

    def read_block(self, read: Reader, index: int) -> Arrays:
        """One block's arrays under this project's paths."""
        prefix = self.block.format(index)
        block: Arrays = {}
        for path, names in self.layers.items():
            make: Callable[..., Arrays] = self.layout.norm if path.endswith("norm") else self.layout.linear
            leaves = make(read, *(prefix + name for name in names))
            scale = self.layer_scales.get(path)
            if scale is not None and prefix + scale in read:
                # x + gamma * (h W + b) is x + h (W diag(gamma)) + gamma b.
                leaves = {leaf: array * read(prefix + scale) for leaf, array in leaves.items()}
            block |= {f"{path}/{leaf}": array for leaf, array in leaves.items()}
        return block if self.is_video else block | _temporal_copies(block)


def _temporal_copies(block: Arrays) -> Arrays:
    """Copies temporal attention and its norm from the spatial ones: facebookresearch/TimeSformer, models/helpers.py."""
    copies = {path.replace("space/", "time/"): array for path, array in block.items() if path.startswith("space/")}
    return copies | {f"temporal_norm/{leaf}": block[f"spatial_norm/{leaf}"] for leaf in ("scale", "bias")}


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
        r"opt/state/": "the optimizer's state",
    },
    pixels=HALF_PIXELS,
    gelu="tanh",  # flax's default, in vit_jax/models_vit.py
)

TIMM_VIT = Family(
    title="timm ViT",
    layout=TorchLayout(),
    prefixes=("", "model.", "module."),
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
    layer_scales={"space/out": "ls1.gamma", "mlp/fc2": "ls2.gamma"},
    unused={
        r"pre_logits\.": "a layer between CLS feature and head",
        r"mask_token$": "stands for masked patches, in pre-training only",
        r"(module\.)?head_dist\.": "the distillation token's head",
    },
)

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

_HF_EMBEDDINGS = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
_HF_QKV = tuple(f"attention.attention.{name}" for name in ("query", "key", "value"))

HF_VIT = Family(
    title="Hugging Face ViT",
    layout=TorchLayout(),
    prefixes=("", "vit."),
    signature="encoder.layer.0.layernorm_before.weight",
    embeddings=_HF_EMBEDDINGS,
    patch_embed="embeddings.patch_embeddings.projection",
    norm="layernorm",
    head="classifier",
    block="encoder.layer.{}.",
    layers={
        "spatial_norm": ("layernorm_before",),
        "space/qkv": _HF_QKV,
        "space/out": ("attention.output.dense",),
        "mlp_norm": ("layernorm_after",),
        "mlp/fc1": ("intermediate.dense",),
        "mlp/fc2": ("output.dense",),
    },
    unused={
        r"(vit\.)?pooler\.": "a layer after the CLS feature, for other heads",
        r"(vit\.)?embeddings\.mask_token$": "stands for masked patches, in pre-training only",
    },
    pixels=HALF_PIXELS,
    layer_norm_eps=1e-12,  # transformers/models/vit/configuration_vit.py
    head_at_root=True,
)

HF_TIMESFORMER = dataclasses.replace(
    HF_VIT,
    title="Hugging Face TimeSformer",
    prefixes=("", "timesformer."),
    signature="encoder.layer.0.temporal_layernorm.weight",
    embeddings={**_HF_EMBEDDINGS, "time_embed": "embeddings.time_embeddings"},
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

HF_DINOV2 = dataclasses.replace(
    HF_VIT,
    title="Hugging Face DINOv2",
    prefixes=("", "dinov2."),
    signature="encoder.layer.0.norm1.weight",
    head="",
    layers={
        **HF_VIT.layers,
        "spatial_norm": ("norm1",),
        "mlp_norm": ("norm2",),
        "mlp/fc1": ("mlp.fc1",),
        "mlp/fc2": ("mlp.fc2",),
    },
    layer_scales={"space/out": "layer_scale1.lambda1", "mlp/fc2": "layer_scale2.lambda1"},
    unused={
        r"classifier\.": "reads CLS and the mean of the patches, which no head of this model does",
        r"(dinov2\.)?embeddings\.mask_token$": "stands for masked patches, in pre-training only",
    },
    pixels=IMAGENET_PIXELS,
    layer_norm_eps=1e-6,
)

# TimeSformer comes before ViT, because it has all names of a ViT and more.
FAMILIES = (TIMESFORMER, TIMM_VIT, HF_TIMESFORMER, HF_VIT, HF_DINOV2, GOOGLE_VIT)

# Checked first: some of these models also have the signature of a family.
_KNOWN_OTHERS = {
    r"(.*\.)?(register_tokens|reg_token)$": "a ViT with register tokens, which this model has no place for",
    r".*\.(weights_in|w12)\.": "a ViT with SwiGLU layers; this model's MLP is two layers around a GELU",
    r".*\.attn\.(q|k)_norm\.": "a ViT that normalises queries and keys, which this model does not",
    r"(.*\.)?(norm_pre|pre_layernorm|pre_layrnorm)\.": "a CLIP-like ViT with a norm before its blocks",
    r".*(conv_root|patch_embed\.backbone)": "a hybrid of ResNet and ViT",
    r"(vision_model|visual|vision_tower)\.": "a CLIP-like model of images and text",
    r"MixerBlock_0/": "an MLP-Mixer",
    r"params/.*encoderblock": "a big_vision checkpoint, whose names and training state differ from google-research ViT",
    r"videomae\.": "a VideoMAE, which attends over space and time at once",
    r"vivit\.": "a ViViT",
    r"(.*\.)?layers\.0\.blocks\.0\.": "a Swin or another model of several stages",
    r"(.*\.)?layer1\.0\.conv1\.": "a ResNet",
}


def recognise(tensors: Tensors) -> tuple[Family, Reader]:
    """The family of the tensors' names, and a reader with their prefix.

    Raises:
        PretrainedError: it is none of `FAMILIES`. The message names the model, or some of its tensors.
    """
    for pattern, what in _KNOWN_OTHERS.items():
        if (name := next(filter(re.compile(pattern).match, tensors.names), None)) is not None:
            raise PretrainedError(f"is {what} (it has a tensor {name}); {_known()}")
    for family in FAMILIES:
        for prefix in family.prefixes:
            if prefix + family.signature in tensors.names:
                return family, Reader(tensors, prefix)
    names = ", ".join(tensors.names[:3]) + (", ..." if tensors.names[3:] else "")
    raise PretrainedError(f"is not of a known model family; its tensors are {names or 'none at all'}; {_known()}")


def _known() -> str:
    return f"what can be read: {', '.join(family.title for family in FAMILIES)}"
