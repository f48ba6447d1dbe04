"""A model as a Hugging Face TimeSformer: its tensors and config.json. `loader.load` reads them back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from einops import rearrange
from flax import traverse_util
from ml_collections import ConfigDict

from cover_jax.models import variants
from cover_jax.models.pretrained.errors import PretrainedError
from cover_jax.models.pretrained.families.timesformer import HF_TIMESFORMER
from cover_jax.models.pretrained.tensor_names import Arrays

_PREFIX = "timesformer."
# Section of preprocessor_config.json for what Hugging Face has no key for: which frames and views the head is for.
OWN_SECTION = "cover_jax"
# The keys of config.model that a Hugging Face TimeSformer has. Others must have their defaults.
HELD = {"variant", "size_px", "num_frames", "head", "gelu", "layer_norm_eps", "pixel_mean", "pixel_std"}


def tensors(params: dict[str, Any], head: str, patch_px: int) -> Arrays:
    """Arrays under the names of `TimesformerForVideoClassification`, float32.

    Args:
        params: of the whole model, as `cover.Functional.init` gives them, on the host.
        head: the head that becomes the classifier.
        patch_px: side of a patch in pixels.

    Raises:
        PretrainedError: the head is not linear. Hugging Face's classifier is linear.
    """
    if "kernel" not in params["heads"][head]:
        raise PretrainedError(
            f"head {head}: is not linear (config.datasets.{head}.head.kind, config.model.head): a Hugging Face "
            "TimeSformer needs a linear one; --format=jax and --format=saved_model take any"
        )
    backbone, family = params["backbone"], HF_TIMESFORMER
    flat = {_PREFIX + name: np.asarray(backbone[path]) for path, name in family.embeddings.items()}
    flat |= _layer(_PREFIX + family.norm, backbone["norm"]) | _layer(family.head, params["heads"][head])
    kernel = rearrange(np.asarray(backbone["patch_embed"]["kernel"]), "(p q c) d -> d c p q", p=patch_px, q=patch_px)
    flat[f"{_PREFIX}{family.patch_embed}.weight"] = kernel
    flat[f"{_PREFIX}{family.patch_embed}.bias"] = np.asarray(backbone["patch_embed"]["bias"])
    layers = traverse_util.flatten_dict(backbone["blocks"], is_leaf=lambda _, node: "bias" in node, sep="/")
    for path, (name,) in family.layers.items():
        for index in range(len(layers[path]["bias"])):
            of_block = {leaf: array[index] for leaf, array in layers[path].items()}
            flat |= _layer(_PREFIX + family.block.format(index) + name, of_block)
    return {name: np.ascontiguousarray(array) for name, array in flat.items()}


def _layer(name: str, leaves: dict[str, np.ndarray]) -> Arrays:
    weight = leaves["kernel"].T if "kernel" in leaves else leaves["scale"]
    return {f"{name}.weight": np.asarray(weight), f"{name}.bias": np.asarray(leaves["bias"])}


def config(model: ConfigDict, class_names: Sequence[str], problem_type: str | None) -> dict[str, Any]:
    """Hugging Face's config.json of a model and of its one head: its classes, and its problem_type if it states one."""
    variant = variants.parse(model.variant)
    return {
        "architectures": ["TimesformerForVideoClassification"],
        "model_type": "timesformer",
        "attention_type": "divided_space_time",
        "image_size": model.size_px,
        "patch_size": variant.patch_px,
        "num_channels": 3,
        "num_frames": model.num_frames,
        "hidden_size": variant.width,
        "num_hidden_layers": variant.depth,
        "num_attention_heads": variant.num_heads,
        "intermediate_size": variant.mlp_dim,
        "hidden_act": {"exact": "gelu", "tanh": "gelu_pytorch_tanh", "quick": "quick_gelu"}[model.gelu],
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "qkv_bias": True,
        "layer_norm_eps": model.layer_norm_eps,
        "id2label": {str(index): name for index, name in enumerate(class_names)},
        **({"problem_type": problem_type} if problem_type else {}),
        "label2id": {name: index for index, name in enumerate(class_names)},
        "dtype": "float32",
    }


def preprocessor_config(model: ConfigDict, crop_share: float) -> dict[str, Any]:
    """preprocessor_config.json: shorter side resized, centre crop of `size_px`, normalised as in training.

    Args:
        model: `config.model`.
        crop_share: side of the crop, in units of the shorter side.
    """
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": round(model.size_px / crop_share)},
        "do_center_crop": True,
        "crop_size": {"height": model.size_px, "width": model.size_px},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(model.pixel_mean),
        "image_std": list(model.pixel_std),
    }
