"""What the table of a model family says (`Family`), and how its tensors are read: `families` has the tables."""

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
    """Tensors under a prefix, as float32; remembers which were taken.

    Args:
        tensors: of the whole file.
        prefix: before the family's names.
        wrapping: the first part of the prefix: what the model was saved inside of, such as "module.".
    """

    def __init__(self, tensors: Tensors, prefix: str, wrapping: str = ""):
        self._tensors, self._prefix, self.wrapping = tensors, prefix, wrapping
        self._taken: set[str] = set()
        self._names = frozenset(tensors.names)

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._names

    def __call__(self, name: str) -> np.ndarray:
        """The tensor under the prefix and `name`.

        Raises:
            PretrainedError: there is none, or it is not of numbers, or one of them is not finite.
        """
        full = self._prefix + name
        if full not in self._names:
            raise PretrainedError(f"lacks the tensor {full}")
        self._taken.add(full)
        array = self._tensors.read(full)
        if array.dtype.kind not in "fiub" and array.dtype != ml_dtypes.bfloat16:
            raise PretrainedError(f"{full}: an array of {array.dtype}, not of numbers")
        with np.errstate(over="ignore"):  # float64 that float32 cannot hold becomes infinite
            values = array.astype(np.float32)
        if num_bad := values.size - int(np.isfinite(values).sum()):
            raise PretrainedError(f"{full}: {num_bad} of its {values.size} values are not finite in float32")
        return values

    def num_axes(self, name: str) -> int:
        """Number of axes of a tensor, which does not count as taken."""
        return self._tensors.read(self._prefix + name).ndim

    def at_root(self) -> "Reader":
        """The same tensors without the family's prefix."""
        root = Reader(self._tensors, self.wrapping, self.wrapping)
        root._taken = self._taken
        return root

    def local_name(self, name: str) -> str | None:
        """A tensor's name without the prefix; None if it does not have the prefix."""
        return name.removeprefix(self._prefix) if name.startswith(self._prefix) else None

    def outer_name(self, name: str) -> str | None:
        """A tensor's name without the wrapping; None if it has a prefix of the family after it."""
        inside = self._prefix != self.wrapping and name.startswith(self._prefix)
        return None if inside else name.removeprefix(self.wrapping)

    @property
    def taken_names(self) -> frozenset[str]:
        """Names of the tensors that were read, without the prefix."""
        return frozenset(name.removeprefix(self._prefix) for name in self._taken)

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

    def patches(self, read: Reader, name: str, has_bias: bool) -> Arrays:
        """The convolution `name` as this project's kernel [pixels and channels of a patch, D] and bias [D].

        The kernels of a tubelet's frames are summed: a still clip gives what it gave. Without a bias, it is zero.
        """
        kernel = read(f"{name}.weight")
        kernel = kernel.sum(axis=2) if kernel.ndim == 5 else kernel
        bias = read(f"{name}.bias") if has_bias else np.zeros(len(kernel), np.float32)
        return {"kernel": rearrange(kernel, "d c p q -> (p q c) d"), "bias": bias}

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

    def patches(self, read: Reader, name: str, has_bias: bool) -> Arrays:
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


class PackedLayout(TorchLayout):
    """torch's `nn.MultiheadAttention`: query, key and value are one tensor, `in_proj_weight`."""

    def linear(self, read: Reader, *names: str) -> Arrays:
        """One layer; that of query, key and value has other names."""
        name = names[0]
        if not name.endswith("in_proj"):
            return super().linear(read, *names)
        return {"kernel": read(f"{name}_weight").T, "bias": read(f"{name}_bias")}


class NoKeyBiasLayout(TorchLayout):
    """Query and value have biases, `q_bias` and `v_bias` beside the weights, and keys have none (BEiT, VideoMAE)."""

    def linear(self, read: Reader, *names: str) -> Arrays:
        """One layer, or query, key and value, in one tensor or in three."""
        attention, _, last = names[0].rpartition(".")
        if last not in ("qkv", "query"):
            return super().linear(read, *names)
        query, value = (read(f"{attention}.{name}_bias") for name in "qv")
        kernel = np.concatenate([read(f"{name}.weight").T for name in names], axis=1)
        return {"kernel": kernel, "bias": np.concatenate([query, np.zeros_like(query), value])}


@dataclasses.dataclass(frozen=True)
class Family:
    """One model family of checkpoints.

    Attributes:
        title: name of the family, for people.
        layout: order of its axes.
        prefixes: possible common prefixes of its names. Wrappings before them, such as "module.", are found anyway.
        signature: a name, after the prefix, that only this family has.
        also: further names, with or without the prefix, that this family has.
        patch_axes: axes of the convolution that embeds patches: 5 for tubelets of several frames.
        embeddings: this project's name -> the family's name, for arrays outside the blocks that are used unchanged.
        patch_embed, norm: names of these two layers.
        head: name of the classifier that reads the CLS feature; "": none.
        head_at_root: the head's name has no prefix.
        block: prefix of the names of block {}.
        layers: this project's path in a block -> the family's names; several are joined. If there is no temporal
            attention, it becomes a copy of the spatial attention.
        layer_scales: path of a layer -> name of the vector that scales its output, if a file has one.
        pre_norm: name of the norm before the first block, if a file has one.
        registers: name of the register tokens, if a file has any.
        patch_bias: whether that convolution has a bias. With a `pre_norm` in the file, it has none.
        unused: pattern of names that this model does not use -> why they are not needed. Without the prefix.
        outside: the same for names that do not have the prefix.
        norm_at_root: the name of `norm` has no prefix.
        pixels: mean and standard deviation for the pixels that it was trained with, if the family has fixed ones.
        gelu, layer_norm_eps: as in `config.model`; a config.json may override them. gelu "": the names do not say it.
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
    also: tuple[str, ...] = ()
    patch_axes: int = 4
    patch_bias: bool = True
    pre_norm: str = ""
    registers: str = ""
    outside: Mapping[str, str] = dataclasses.field(default_factory=dict)
    norm_at_root: bool = False

    @property
    def is_video(self) -> bool:
        """Whether its models have attention over time."""
        return "time/qkv" in self.layers

    def has_pre_norm(self, read: Reader) -> bool:
        """Whether the file has a norm before the first block."""
        return bool(self.pre_norm) and f"{self.pre_norm}.weight" in read

    def fits(self, read: Reader) -> bool:
        """Whether a file has the names by which this family is known."""
        kernel = f"{self.patch_embed}/kernel" if isinstance(self.layout, FlaxLayout) else f"{self.patch_embed}.weight"
        names_fit = kernel in read and all(name in read or name in read.at_root() for name in self.also)
        return names_fit and read.num_axes(kernel) == self.patch_axes

    def read_ends(self, read: Reader) -> Arrays:
        """The arrays before and after the blocks but the embeddings, under this project's paths."""
        has_pre_norm = self.has_pre_norm(read)
        layers = {
            "patch_embed": self.layout.patches(read, self.patch_embed, self.patch_bias and not has_pre_norm),
            "norm": self.layout.norm(read.at_root() if self.norm_at_root else read, self.norm),
        }
        if has_pre_norm:
            layers["pre_norm"] = self.layout.norm(read, self.pre_norm)
        return {f"{path}/{leaf}": array for path, layer in layers.items() for leaf, array in layer.items()}

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
