"""Writes golden/google_vit.npz: google-research's ViT on random weights, for `test_pretrained.py`.

    git clone https://github.com/google-research/vision_transformer
    python tests/models/make_google_vit_golden.py --clone=vision_transformer

Needs flax and numpy. The weights stand in the file under the names that the files of gs://vit_models have (flax before
Linen numbered a module's children in one row), and are read as vit_jax/checkpoint.py does; what begins with "golden/"
is input and output. Made with commit c6de1e5.
"""

import argparse
import importlib
import pathlib
import sys

import flax
import jax
import ml_collections
import numpy as np
from flax.training import checkpoints

jax.config.update("jax_enable_x64", True)

GOLDEN = pathlib.Path(__file__).parent / "golden" / "google_vit.npz"
SIDE_PX, PATCH_PX, CLASSES = 12, 4, 5
WIDTH, DEPTH, HEADS, MLP = 32, 2, 4, 64
BEFORE_LINEN = {
    "/MultiHeadDotProductAttention_0/": "/MultiHeadDotProductAttention_1/",
    "/LayerNorm_1/": "/LayerNorm_2/",
    "/MlpBlock_0/": "/MlpBlock_3/",
}


def reference_model(models_vit, classifier: str):
    """`classifier`: "token" for logits, "token_unpooled" for the final tokens."""
    transformer = {"num_layers": DEPTH, "mlp_dim": MLP, "num_heads": HEADS, "dropout_rate": 0.0}
    return models_vit.VisionTransformer(
        num_classes=CLASSES if classifier == "token" else 0,
        patches=ml_collections.ConfigDict({"size": (PATCH_PX, PATCH_PX)}),
        transformer=transformer | {"attention_dropout_rate": 0.0},
        hidden_size=WIDTH,
        classifier=classifier,
    )


def randomise(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Values that matter: no zero bias, no unit scale, activations of order 1."""
    values = rng.standard_normal(shape)
    if name.endswith("kernel"):
        axes_out = 2 if "/query/" in name or "/key/" in name or "/value/" in name else 1
        return values / np.sqrt(np.prod(shape[:-axes_out]))
    return 0.3 * values + name.endswith("scale")


def file_name(name: str) -> str:
    for new, old in BEFORE_LINEN.items():
        name = name.replace(new, old)
    return name


def golden(models_vit) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, SIDE_PX, SIDE_PX, 3)).astype(np.float32)
    model = reference_model(models_vit, "token")
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))["params"]
    flat = flax.traverse_util.flatten_dict(shapes, sep="/")
    weights = {
        file_name(name): randomise(name, leaf.shape, rng).astype(np.float32) for name, leaf in sorted(flat.items())
    }
    wide = {name: array.astype(np.float64) for name, array in weights.items()}
    variables = {"params": checkpoints.convert_pre_linen(flax.traverse_util.unflatten_dict(wide, sep="/"))}
    logits = model.apply(variables, images.astype(np.float64), train=False)
    unpooled = reference_model(models_vit, "token_unpooled")
    tokens = unpooled.apply(variables, images.astype(np.float64), train=False)
    outputs = {"golden/frames": images[:, None], "golden/logits": logits, "golden/tokens": tokens}
    return weights | {name: np.asarray(array, np.float32) for name, array in outputs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clone", type=pathlib.Path, required=True, help="clone of vision_transformer")
    parser.add_argument("--out", type=pathlib.Path, default=GOLDEN, help="file to write")
    args = parser.parse_args()
    sys.path.insert(0, str(args.clone))
    np.savez_compressed(args.out, **golden(importlib.import_module("vit_jax.models_vit")))
    print(f"{args.out}: {args.out.stat().st_size} bytes, flax {flax.__version__}")


if __name__ == "__main__":
    main()
