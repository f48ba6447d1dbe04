"""Names of variants, and the size of each."""

import math

import jax
import pytest

from cover_jax.models import cover, variants
from tests.models import small

# Parameters at 224 px and 8 frames, patch 16, without a head.
PARAMETERS = {
    "mu": 275_264,
    "nu": 968_320,
    "Ti": 7_753_920,
    "S": 30_548_352,
    "B": 121_258_752,
    "L": 429_310_976,
    "H": 893_359_360,
    "g": 1_408_269_696,
}


def count(model) -> int:
    params = jax.eval_shape(cover.functional(model, {}).init, jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def by_hand(variant: variants.Variant, num_patches: int, num_frames: int) -> int:
    width, hidden = variant.width, variant.mlp_dim
    attention = (3 * width * width + 3 * width) + (width * width + width)
    block = 2 * attention + (width * width + width) + (2 * width * hidden + hidden + width) + 3 * 2 * width
    patches = 3 * variant.patch_px**2 * width + width
    embeddings = width + (num_patches + 1) * width + num_frames * width
    return variant.depth * block + patches + embeddings + 2 * width


def test_parse():
    assert variants.parse("L/14") == variants.Variant(width=1024, depth=24, num_heads=16, mlp_dim=4096, patch_px=14)


@pytest.mark.parametrize("name", ["L", "XL/16", "l/16", "L/0", "L/-1", "L/16/2", "/16", "L/ 16", "L/1.5", ""])
def test_parse_refuses_and_lists_what_exists(name):
    with pytest.raises(ValueError, match=r"model\.variant.*mu, nu, Ti, S, B, L, H, g"):
        variants.parse(name)


@pytest.mark.parametrize("size", variants.SIZES)
def test_heads_divide_the_width(size):
    variant = variants.parse(f"{size}/16")
    assert variant.width % variant.num_heads == 0


@pytest.mark.parametrize("size", variants.SIZES)
def test_parameter_count(size):
    found = count(small.config(variant=f"{size}/16", size_px=224, num_frames=8))
    assert found == by_hand(variants.parse(f"{size}/16"), 14 * 14, 8) == PARAMETERS[size]


def test_parameter_count_of_cover_l():
    """429.9 M: ViT-L/16 at 448 px and 16 frames; others list CoVeR with its heads at 431 M (arXiv 2211.09552)."""
    found = count(small.config(variant="L/16", size_px=448, num_frames=16))
    assert round(found / 1e6, 1) == 429.9


def test_parameter_count_of_timesformer():
    """TimeSformer, arXiv 2102.05095, table 2: 121.4 M, at 224 px and 8 frames; a head of 400 classes is 0.3 M of it."""
    head = 400 * 768 + 400
    found = count(small.config(variant="B/16", size_px=224, num_frames=8)) + head
    assert abs(found / 1e6 - 121.4) < 0.2
