"""Published models as initial values of this model's parameters: `load`, then `fill`.

A source is a file or folder, local or gs://, or hf://ORG/REPO[@REVISION][/FILE]. Its model family is recognised by the
names of its tensors (`registry.WEIGHT_FAMILIES` lists the families), also inside of what a model is saved in, such as
torch.compile, DataParallel or Lightning. Formats are .npz, .safetensors and `torch.save`, whole or in shards. No code
in a file is ever run.

From an image model, temporal attention and its norm start as copies of the spatial ones. `temporal_fc` and the time
embedding keep their initial values from `config.model.temporal_init` and `time_embed_std`. These are zeros by default,
so the model starts as the image model on each frame (facebookresearch/TimeSformer, timesformer/models/helpers.py).

Logits equal those of the source's own code if `config.model.gelu`, `layer_norm_eps`, `pixel_mean` and `pixel_std` have
the source's values. The report names those that differ. google-research's ViT uses flax's default GELU, the tanh
approximation (vit_jax/models_vit.py). timm and Hugging Face run the same weights with the exact GELU.
"""

# S tokens of a frame with CLS, T frames, D width, C classes

import dataclasses
import math
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from cover_jax.models import variants
from cover_jax.models.heads import HeadSpec
from cover_jax.models.pretrained import embeddings, resize, sources, tensor_names
from cover_jax.models.pretrained.class_names import match_names
from cover_jax.models.pretrained.errors import PretrainedError, refuse_unreadable
from cover_jax.models.pretrained.families import recognise

# Names of GELU in Hugging Face (ACT2FN in transformers/activations.py) and timm -> config.model.gelu.
_GELUS = {
    "gelu": "exact",
    "gelu_python": "exact",
    "gelu_new": "tanh",
    "gelu_fast": "tanh",
    "gelu_accurate": "tanh",
    "gelu_pytorch_tanh": "tanh",
    "gelu_python_tanh": "tanh",
    "gelu_tanh": "tanh",
    "quick_gelu": "quick",
}
# What a config.json may state -> the one value of it that this model has.
_SUPPORTED = {
    "attention_type": "divided_space_time", "qkv_bias": True, "global_pool": "token", "class_token": True,
    "use_swiglu_ffn": False, "qk_norm": False, "fc_norm": False,
}  # fmt: skip
_CLIP_HEAD_WIDTH = 64  # open_clip/model.py, CLIPVisionCfg
_TIMM_LAYERS = {"norm_layer", "mlp_layer", "attn_layer", "block_fn", "embed_layer"}


@dataclasses.dataclass(frozen=True)
class LoadedWeights:
    """The parameters read from a source.

    Attributes:
        params: path (as in `cover.Params`, joined by "/") -> float32 array, for every parameter in the source.
        class_names: of the source's own classifier, in order; empty if unknown.
        report: lines for people: what was loaded, changed, left out, and kept as initialised.
        unused: tensor of the source that was not read -> why it is not needed.
    """

    params: dict[str, np.ndarray]
    class_names: tuple[str, ...]
    report: tuple[str, ...]
    unused: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the files of a source say of its model.

    Attributes:
        family: its title, for people.
        is_video: whether it has attention over time.
        variant: "SIZE/PATCH".
        size_px: side of the square that its position embedding is for.
        num_frames: length of its time embedding; 1 for an image model.
        settings: keys of `config.model` that change what it computes -> its values, without the sizes above.
        class_names: of its classifier, in order; empty if its files have none.
        num_classes: outputs of its classifier; 0: it has none.
        assumed: a line per size or setting that its files do not state, or that is not as in its files.
    """

    family: str
    is_video: bool
    variant: str
    size_px: int
    num_frames: int
    settings: dict[str, object]
    class_names: tuple[str, ...]
    num_classes: int
    assumed: tuple[str, ...]


@refuse_unreadable
def inspect(source: str, opened: sources.Opened) -> Facts:
    """What a source's files say of its model.

    Args:
        source: its name, for messages.
        opened: from `sources.open_source`.

    Raises:
        PretrainedError: the model family is unknown, no variant has its sizes, or this model cannot compute it.
    """
    try:
        family, read = recognise.recognise(opened.tensors)
        config = _flat(opened)
        _check_config(config)
        if family.patch_axes == embeddings.TUBELET_AXES:
            raise PretrainedError(
                f"is a {family.title}, whose logits and features this model does not compute; "
                f"config.model.init_from={source} starts from it"
            )
        sizes, settings = _sizes(family, read, config), _settings(family, config)
        if (variant := _variant_of(sizes)) is None:
            raise PretrainedError(_right_variant(sizes))
        given, changed = embeddings.read_embeddings(family, read, config)
        stated = {key: value for key, value in settings.items() if value is not None}
        return Facts(
            family=family.title,
            is_video=family.is_video,
            variant=variant,
            size_px=math.isqrt(given["pos_embed"].shape[1] - 1) * variants.parse(variant).patch_px,
            num_frames=given["time_embed"].shape[1] if "time_embed" in given else 1,
            settings=stated | _layers(family, read),
            class_names=_class_names(config),
            num_classes=_num_classes(family, read),
            assumed=(*_check_sizes(sizes, variant), *_unstated(settings), *changed),
        )
    except PretrainedError as error:
        raise PretrainedError(f"{source}: {error}{_model_type(opened)}") from error


def _num_classes(family: tensor_names.Family, read: tensor_names.Reader) -> int:
    """Outputs of the classifier that reads the CLS feature; 0: there is none."""
    root = read.at_root() if family.head_at_root else read
    if not family.head or not root.matches(rf"{re.escape(family.head)}[./]bias$"):
        return 0
    if before := read.matches(r"pre_logits[./]"):
        raise PretrainedError(f"has a layer {before[0][0]} between CLS feature and classifier, which is not supported")
    return int(family.layout.linear(root, family.head)["bias"].size)


@refuse_unreadable
def load(
    source: str,
    model: ConfigDict,
    class_names: Mapping[str, Sequence[str]],
    opened: sources.Opened | None = None,
    head_specs: Mapping[str, HeadSpec] = types.MappingProxyType({}),
) -> LoadedWeights:
    """Reads pretrained weights for the model of a config.

    A linear head is copied from the source's classifier, row by row by class name, if the classifier has all its
    classes.

    Args:
        source: as in this module's docstring.
        model: `config.model`, as in configs/common.py.
        class_names: head name -> its classes, in order.
        opened: the source, if it is opened already.
        head_specs: head name -> what it is; one that is not named is of the kind `model.head`.

    Raises:
        PretrainedError: the source cannot be read, its model family is unknown, its sizes differ from
            `model.variant`, or it has a tensor that would be lost silently.
    """
    opened = opened or sources.open_source(source)
    try:
        family, read = recognise.recognise(opened.tensors)
        config = _flat(opened)
        _check_config(config)
        settings = _settings(family, config)
        untold = [*_check_sizes(_sizes(family, read, config), model.variant), *_unstated(settings)]
        _check_layers(family, read, model)
        backbone, resized = _backbone(family, read, config, model)
        names = _class_names(config)
        kinds = {head: (head_specs.get(head) or HeadSpec.of(model)).kind for head in class_names}
        linear = {head: classes for head, classes in class_names.items() if kinds[head] == "linear"}
        heads = _heads(family, read, names, linear)
        unused = recognise.reasons(family, read)
    except PretrainedError as error:
        raise PretrainedError(f"{source}: {error}{_model_type(opened)}") from error
    report = [
        f"initialised from {source}: {family.title}, {read.num_taken} of {len(opened.tensors.names)} tensors taken",
        *untold,
        *resized,
        *([] if family.is_video else ["temporal attention and its norm: copies of the spatial ones"]),
        *(f"not taken: {name}: {why}" for name, why in unused.items()),
        *(f"not read: {name}" for name in opened.tensors.set_aside),
        *_head_lines(heads, class_names, names),
        *setting_lines(settings, model),
    ]
    return LoadedWeights(backbone | heads, names, tuple(report), unused)


def fill(params: dict[str, Any], loaded: LoadedWeights) -> tuple[dict[str, Any], list[str]]:
    """Replaces parameters by the loaded arrays, each with the sharding of the parameter that it replaces.

    Returns:
        The new parameters, and the paths that keep their initial values.

    Raises:
        PretrainedError: the shapes of an array and its parameter differ, or an array has no parameter here.
    """
    kept = []
    paths = traverse_util.flatten_dict(params, sep="/")
    if homeless := sorted(loaded.params.keys() - paths.keys()):
        raise PretrainedError(f"{homeless[0]}: in the source, but not in this model ({len(homeless)} such arrays)")

    def put(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name not in loaded.params:
            kept.append(name)
            return leaf
        array = loaded.params[name]
        if array.shape != leaf.shape:
            raise PretrainedError(f"{name}: {array.shape} in the source, {leaf.shape} in this model")
        return jax.make_array_from_callback(array.shape, leaf.sharding, array.__getitem__)

    return jax.tree_util.tree_map_with_path(put, params), kept


def _check_config(config: dict[str, Any]) -> None:
    """Refuses settings in a config.json of Hugging Face or timm that this model does not support."""
    model_args = _section(config, "model_args")
    for key, right in _SUPPORTED.items():
        value = config.get(key, model_args.get(key, right))
        if value != right:
            raise PretrainedError(f"its config.json has {key}={value!r}; this model is {key}={right!r}")
    for key, value in model_args.items():
        if key in _TIMM_LAYERS and value is not None:
            raise PretrainedError(f"its config.json has model_args.{key}={value!r}: this model's layers are timm's own")


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    """A section of config.json; {} if it has no such section."""
    section = config.get(name) or {}
    if not isinstance(section, dict):
        raise PretrainedError(f"its config.json has {name}={section!r}, which is not an object")
    return section


def _flat(opened: sources.Opened) -> dict[str, Any]:
    """The settings of all files beside the weights, with the names of Hugging Face's config of an image model."""
    config = {**opened.config, **_section(opened.config, "vision_config")}
    for key in ("mean", "std"):
        given = _section(config, "pretrained_cfg").get(key) or opened.preprocessor.get(f"image_{key}")
        given = given or _section(opened.open_clip, "preprocess_cfg").get(key)
        config[f"pixel_{key}"] = given and _channels(key, given)
    clip = _section(opened.open_clip, "model_cfg")
    if clip:
        vision = _section(clip, "vision_cfg")
        config["hidden_act"] = "quick_gelu" if clip.get("quick_gelu") else "gelu"
        config["num_attention_heads"] = vision.get("width", 0) // vision.get("head_width", _CLIP_HEAD_WIDTH) or None
    if "quickgelu" in str(config.get("architecture")):  # a name of timm
        config["hidden_act"] = "quick_gelu"
    return config


def _channels(key: str, given: object) -> tuple[float, ...]:
    """A value per channel from what a file says: one number is that of all three. `key` is "mean" or "std"."""
    values = given if isinstance(given, list | tuple) else [given]
    values = [*values] * 3 if len(values) == 1 else values
    if len(values) != 3 or not all(isinstance(one, int | float) and math.isfinite(one) for one in values):
        raise PretrainedError(f"its files have {key}={given!r} of the pixels: must be one number, or one per channel")
    if key == "std" and min(values) <= 0:
        raise PretrainedError(f"its files have std={given!r} of the pixels: must be greater than 0")
    return tuple(map(float, values))


def _model_type(opened: sources.Opened) -> str:
    """What the source itself says it is, for an error; "" if it does not."""
    named = opened.config.get("model_type") or opened.config.get("architecture")
    return f"; its config.json calls it {named!r}" if isinstance(named, str) else ""


def _settings(family: tensor_names.Family, config: dict[str, Any]) -> dict[str, object]:
    """Keys of `config.model` that change what a model computes but no shapes -> the source's values, None: unknown."""
    name = config.get("hidden_act") or _section(config, "model_args").get("act_layer")
    if name is not None and name not in _GELUS:
        raise PretrainedError(f"its config.json has the activation {name!r}; this model's are {', '.join(_GELUS)}")
    mean, std = family.pixels or (None, None)
    return {
        "gelu": (_GELUS[name] if name else family.gelu) or None,
        "layer_norm_eps": config.get("layer_norm_eps", family.layer_norm_eps),
        "pixel_mean": config["pixel_mean"] or mean,
        "pixel_std": config["pixel_std"] or std,
    }


def _unstated(settings: Mapping[str, object]) -> list[str]:
    """A line on the settings that neither the source nor its family states."""
    unknown = [f"config.model.{key}" for key, value in settings.items() if value is None]
    return [f"the source does not state {', '.join(unknown)}: they stay as the config has them"] if unknown else []


def _sizes(family: tensor_names.Family, read: tensor_names.Reader, config: dict[str, Any]) -> dict[str, int | None]:
    """The fields of `variants.Variant` as the source states them; None: it does not."""
    block = family.block.format(0)
    norm = family.layout.norm(read.at_root() if family.norm_at_root else read, family.norm)
    found = {
        "width": norm["scale"].size,
        "depth": 1 + max(int(match[1]) for match in read.matches(re.escape(family.block).replace(r"\{\}", r"(\d+)"))),
        "num_heads": family.layout.num_heads(read, block + family.layers["space/qkv"][0]),
        "mlp_dim": family.layout.linear(read, block + family.layers["mlp/fc1"][0])["bias"].size,
        "patch_px": family.layout.patch_px(read, family.patch_embed),
    }
    stated = config.get("num_attention_heads") or _section(config, "model_args").get("num_heads")
    found["num_heads"] = found["num_heads"] or stated
    return found


def _check_sizes(found: dict[str, int | None], variant_name: str) -> list[str]:
    """Refuses the sizes of another variant. Returns one line per size that the source does not state."""
    expected = dataclasses.asdict(variants.parse(variant_name))
    wrong = [f"{key} {size}, not {expected[key]}" for key, size in found.items() if size not in (None, expected[key])]
    if wrong:
        raise PretrainedError(f"is not {variant_name}: {', '.join(wrong)}; {_right_variant(found)}")
    unknown = [key for key, size in found.items() if size is None]
    return [f"the source does not state {key}; assuming {expected[key]} ({variant_name})" for key in unknown]


def _layers(family: tensor_names.Family, read: tensor_names.Reader) -> dict[str, object]:
    """Keys of `config.model` for layers beside the blocks -> the source's values."""
    return {"pre_norm": family.has_pre_norm(read), "registers": embeddings.num_registers(family, read)}


def _check_layers(family: tensor_names.Family, read: tensor_names.Reader, model: ConfigDict) -> None:
    """Refuses a model with other layers than the source has beside its blocks."""
    if wrong := {key: value for key, value in _layers(family, read).items() if value != model[key]}:
        has = ", ".join(f"{key}={value!r}" for key, value in wrong.items())
        use = " ".join(f"--config.model.{key}={value}" for key, value in wrong.items())
        raise PretrainedError(f"is a {family.title} with {has}; use {use}")


def _right_variant(found: dict[str, int | None]) -> str:
    if variant := _variant_of(found):
        return f"use config.model.variant='{variant}'"
    sizes = ", ".join(f"{key} {size}" for key, size in found.items() if size is not None)
    return f"no variant has these sizes: {sizes} (cover_jax/models/variants.py)"


def _variant_of(found: dict[str, int | None]) -> str | None:
    keys = ("width", "depth", "num_heads", "mlp_dim")
    for size, numbers in variants.SIZES.items():
        if all(found[key] in (None, number) for key, number in zip(keys, numbers, strict=True)):
            return f"{size}/{found['patch_px']}"
    return None


def _backbone(
    family: tensor_names.Family, read: tensor_names.Reader, config: dict[str, Any], model: ConfigDict
) -> tuple[tensor_names.Arrays, list[str]]:
    """All arrays of the backbone under this project's paths, and one line per array that is not as it was."""
    variant = variants.parse(model.variant)
    blocks = [family.read_block(read, index) for index in range(variant.depth)]
    arrays = {f"blocks/{path}": np.stack([block[path] for block in blocks]) for path in blocks[0]}
    num_patches = (model.size_px // variant.patch_px) ** 2
    given, lines = embeddings.read_embeddings(family, read, config, num_patches)
    resized, more = resize.embeddings(given, model)
    arrays |= family.read_ends(read) | resized
    return {f"backbone/{path}": array for path, array in arrays.items()}, [*lines, *more]


def _class_names(config: dict[str, Any]) -> tuple[str, ...]:
    """Class names from Hugging Face's `id2label` or timm's `label_names`."""
    labels = config.get("id2label") or config.get("label_names") or {}
    try:
        labels = dict(enumerate(labels)) if isinstance(labels, list) else labels
        return tuple(str(name) for _, name in sorted(labels.items(), key=lambda item: int(item[0])))
    except (AttributeError, TypeError, ValueError) as error:
        raise PretrainedError(f"its config.json has class names that are not NUMBER: NAME: {error}") from error


def _heads(
    family: tensor_names.Family,
    read: tensor_names.Reader,
    names: Sequence[str],
    class_names: Mapping[str, Sequence[str]],
) -> tensor_names.Arrays:
    """Parameters of the heads whose classes are all in the source's own classifier."""
    rows = {head: match_names(names, classes) for head, classes in class_names.items()}
    wanted = {head: [row for row in order if row is not None] for head, order in rows.items() if None not in order}
    if not wanted or not family.head:
        return {}
    own = family.layout.linear(read.at_root() if family.head_at_root else read, family.head)
    if len(own["bias"]) != len(names):
        raise PretrainedError(f"its classifier has {len(own['bias'])} classes, its config.json names {len(names)}")
    return {f"heads/{head}/{leaf}": own[leaf][..., order] for head, order in wanted.items() for leaf in own}


def _head_lines(
    heads: tensor_names.Arrays, class_names: Mapping[str, Sequence[str]], names: Sequence[str]
) -> list[str]:
    lines = []
    for head, classes in class_names.items():
        if f"heads/{head}/kernel" in heads:
            lines.append(f"head {head}: taken over, all {len(classes)} classes by name")
        elif names:
            num_shared = len(classes) - match_names(names, classes).count(None)
            shared = f"{num_shared} of its {len(classes)} classes"
            lines.append(f"head {head}: new; {shared} are among the source's {len(names)}")
    return lines


def setting_lines(own: Mapping[str, object], model: ConfigDict) -> list[str]:
    """One line per key of `config.model` whose value differs from the settings that the weights were trained with."""

    def plain(value: object) -> object:
        return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value

    return [
        f"config.model.{key}={plain(model[key])!r}: the source has {plain(value)!r}"
        for key, value in own.items()
        if value is not None and plain(value) != plain(model[key])
    ]
