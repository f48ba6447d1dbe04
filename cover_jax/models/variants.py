"""Sizes of the backbone, and their names in configs."""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Variant:
    """Shape of one backbone: `width`, `mlp_dim` and `patch_px` are sizes, `depth` and `num_heads` counts."""

    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    patch_px: int


# name: (width, depth, num_heads, mlp_dim)
SIZES = {
    "mu": (64, 3, 4, 256),  # this project's choice, for laptops
    "nu": (128, 3, 4, 512),  # the same, twice as wide
    "Ti": (192, 12, 3, 768),  # DeiT, arXiv 2012.12877, table 1
    "S": (384, 12, 6, 1536),  # DeiT, arXiv 2012.12877, table 1
    "B": (768, 12, 12, 3072),  # ViT, arXiv 2010.11929, table 1
    "L": (1024, 24, 16, 4096),  # ViT, arXiv 2010.11929, table 1
    "H": (1280, 32, 16, 5120),  # ViT, arXiv 2010.11929, table 1
    "g": (1408, 40, 16, 6144),  # Scaling Vision Transformers, arXiv 2106.04560, table 2
}


def parse(name: str) -> Variant:
    """The variant "SIZE/PATCH", for example "L/16": a size of `SIZES` and the side of a patch in pixels.

    Raises:
        ValueError: the size is unknown, or the patch is not a positive integer.
    """
    match = re.fullmatch(r"([^/]+)/([1-9]\d*)", name)
    if match is None or match[1] not in SIZES:
        raise ValueError(
            f"model.variant: {name!r} is not SIZE/PATCH with SIZE one of {', '.join(SIZES)} "
            "and PATCH a positive number of pixels, for example 'L/16'"
        )
    width, depth, num_heads, mlp_dim = SIZES[match[1]]
    return Variant(width, depth, num_heads, mlp_dim, patch_px=int(match[2]))
