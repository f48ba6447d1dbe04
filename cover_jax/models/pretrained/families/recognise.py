"""Finds the model family of a file by the names of its tensors, inside whatever the model was saved in."""

import functools
import importlib
import re
from collections.abc import Mapping

from cover_jax.models import registry
from cover_jax.models.pretrained.errors import PretrainedError
from cover_jax.models.pretrained.tensor_names import Family, Reader
from cover_jax.models.pretrained.weight_files import Tensors

# Parts of a name that torch's wrappers put anywhere in it: torch.compile, FSDP, activation checkpoints, Lightning.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
# Parts of a wrapping that mark one of several copies of a model, the least wanted last.
_COPIES = (("ema", "model_ema", "ema_model", "momentum_encoder", "target_encoder"), ("student", "online"))
# Checked first: some of these models also have the names of a family.
_OTHERS = {
    r".*\.(weights_in|w12)\.": "a ViT with SwiGLU layers; this model's MLP is two layers around a GELU",
    r".*\.attn\.(q|k)_norm\.": "a ViT that normalises queries and keys, which this model does not",
    r".*(conv_root|patch_embed\.backbone)": "a hybrid of ResNet and ViT",
    r"MixerBlock_0/": "an MLP-Mixer",
    r"params/.*encoderblock": "a big_vision checkpoint, whose names and training state differ from google-research ViT",
    r"(.*\.)?layers\.0\.blocks\.0\.": "a Swin or another model of several stages",
    r"(.*\.)?layer1\.0\.conv1\.": "a ResNet",
    r".*relative_position_(bias|index)": "a model with relative positions, which this model does not have",
}
# What no family fits.
_UNREAD = {
    r"(.*\.)?(vision_model|visual|vision_tower)\.": "a CLIP-like model whose image tower is no ViT with a CLS token",
    r"(.*\.)?fc_norm\.": "a ViT whose classifier reads the mean of the patches; this model's heads read CLS",
    r"videomae\.": "a VideoMAE without its last norm",
}
_OF_TRAINING = (
    r"(dino_head|ibot_head|heads?|fc|projector|projection_head|predictor|prototypes|criterion|loss|loss_fn)\."
)
_COUNTER = r"(n_averaged|num_updates|initted|step)$"  # of averaged copies


@functools.cache
def families() -> tuple[Family, ...]:
    """The families of `registry.WEIGHT_FAMILIES`, in their order."""
    folder = "cover_jax.models.pretrained.families"
    modules = (importlib.import_module(f"{folder}.{name}") for name in registry.WEIGHT_FAMILIES)
    return tuple(family for module in modules for family in module.FAMILIES)


def recognise(tensors: Tensors) -> tuple[Family, Reader]:
    """The family of the tensors' names, and a reader with their prefix.

    Raises:
        PretrainedError: it is none of `families`, or several models are in the file. The message names the model, or
            some of its tensors.
    """
    tensors = unwrapped(tensors)
    _refuse(_OTHERS, tensors)
    for family in families():
        # The longest prefix first, so that a wrapping does not end with the family's own prefix.
        for prefix in sorted(family.prefixes, key=len, reverse=True):
            suffix = prefix + family.signature
            matches = filter(None, map(re.compile(rf"(|.*[./]){re.escape(suffix)}").fullmatch, tensors.names))
            readers = [Reader(tensors, match[1] + prefix, match[1]) for match in matches]
            if fitting := [read for read in readers if family.fits(read)]:
                return family, _best_copy(fitting)
    _refuse(_UNREAD, tensors)
    names = ", ".join(tensors.names[:3]) + (", ..." if tensors.names[3:] else "")
    raise PretrainedError(f"is not of a known model family; its tensors are {names or 'none at all'}; {_known()}")


def unwrapped(tensors: Tensors) -> Tensors:
    """The tensors without the names of wrappers that may stand anywhere in a name."""
    names = {".".join(part for part in name.split(".") if part not in _WRAPPERS): name for name in tensors.names}
    if len(names) < len(tensors.names):
        twice = next(name for name in tensors.names if name not in names.values())
        raise PretrainedError(f"has the tensor {twice} a second time, inside or outside of a wrapper")
    return Tensors(tuple(names), lambda name: tensors.read(names[name]), tensors.set_aside)


def reasons(family: Family, read: Reader) -> dict[str, str]:
    """Tensors that were not read -> the reason why they are not needed.

    Raises:
        PretrainedError: one of them is not known.
    """
    head = {}
    if family.head:
        head[rf"{re.escape(family.head)}[./]"] = "a classifier with other classes than the heads here"
    inside = {**family.unused, **({} if family.head_at_root else head)}
    outside = {**family.outside, **(head if family.head_at_root else {})}
    outside |= {_OF_TRAINING: "a head or loss of its training, outside of the model", _COUNTER: "a counter"}
    taken, found = read.taken_names, {}
    for name in read.left:
        local, outer = read.local_name(name), read.outer_name(name)
        why = _first(inside, local) or _first(outside, outer)
        if not why and local is None:
            why = _of_a_copy(taken, outside, name)
        if not why:
            raise PretrainedError(f"has a tensor {name} that a {family.title} does not have, so it is another model")
        found[name] = why
    return found


def _first(patterns: Mapping[str, str], name: str | None) -> str:
    return next((why for pattern, why in patterns.items() if name is not None and re.match(pattern, name)), "")


def _of_a_copy(taken: frozenset[str], outside: Mapping[str, str], name: str) -> str:
    """Why a tensor is not needed that has the name of one that was read, or of a head, in another wrapping; or ""."""
    parts = name.split(".")
    endings = [".".join(parts[start:]) for start in range(1, len(parts))]
    if any(ending in taken for ending in endings):
        return "of another copy of the model"
    return next(filter(None, (_first(outside, ending) for ending in endings)), "")


def _best_copy(readers: list[Reader]) -> Reader:
    """The one copy of a model that is wanted most.

    Raises:
        PretrainedError: there are several.
    """

    def rank(read: Reader) -> int:
        parts = set(re.split(r"[./]", read.wrapping))
        return next((place for place, names in enumerate(_COPIES, 1) if parts & set(names)), 0)

    best = [read for read in readers if rank(read) == min(map(rank, readers))]
    if len(best) > 1:
        names = ", ".join(read.wrapping or "names without a prefix" for read in best)
        raise PretrainedError(f"has several models in it, {names}; save one of them")
    return best[0]


def _refuse(others: dict[str, str], tensors: Tensors) -> None:
    for pattern, what in others.items():
        if (name := next(filter(re.compile(pattern).match, tensors.names), None)) is not None:
            raise PretrainedError(f"is {what} (it has a tensor {name}); {_known()}")


def _known() -> str:
    return f"what can be read: {', '.join(family.title for family in families())}"
