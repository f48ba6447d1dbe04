"""Writes golden/families/{open_clip,timm_clip}/ and expected_clip.npz: CLIP's image towers by the code of others.

    pip install torch==2.13.0 safetensors numpy pillow
    pip download --no-deps open_clip_torch==3.3.0 timm==1.0.31 && unzip '*.whl'
    PYTHONPATH=. python -m tests.models.make_clip_golden --packages=.

For `test_families.py`. Both packages need torchvision, but not for these towers: it is replaced by empty modules.
"""

import argparse
import importlib
import json
import pathlib
import sys
import types
import unittest.mock
from functools import partial

import numpy as np
import torch
from safetensors.torch import save_file

from tests.models.make_families_golden import DEPTH, GOLDEN, HEADS, PATCH_PX, SIDE_PX, WIDTH, randomise


def without_torchvision(packages: pathlib.Path) -> None:
    """Makes the packages importable: open_clip without its __init__, which imports all of it."""
    sys.path.insert(0, str(packages))
    names = ("", ".ops", ".ops.misc", ".transforms", ".transforms.functional", ".datasets", ".datasets.folder")
    for name in names:
        sys.modules[f"torchvision{name}"] = unittest.mock.MagicMock(__spec__=None)
    sys.modules["open_clip"] = types.ModuleType("open_clip")
    sys.modules["open_clip"].__path__ = [str(packages / "open_clip")]


def open_clip(pixels: torch.Tensor, folder: pathlib.Path) -> torch.Tensor:
    """A tower of open_clip with the exact GELU and LayerScale, inside of a CLIP; the CLS features before `proj`."""
    code = importlib.import_module("open_clip.transformer")
    sizes = {"image_size": SIDE_PX, "patch_size": PATCH_PX, "width": WIDTH, "layers": DEPTH, "heads": HEADS}
    visual = code.VisionTransformer(**sizes, mlp_ratio=4.0, ls_init_value=0.1, output_dim=8)
    visual = randomise(visual, np.random.default_rng(1))
    seen: list[torch.Tensor] = []
    visual.ln_post.register_forward_hook(lambda _, args, found: seen.append(found))
    visual(pixels)
    folder.mkdir(parents=True)
    tensors = {f"visual.{name}": tensor.half().contiguous() for name, tensor in visual.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    model_cfg = {"vision_cfg": {"width": WIDTH, "head_width": WIDTH // HEADS}}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg}))
    (features,) = seen
    return features[:, 0] if features.ndim == 3 else features


def timm_clip(pixels: torch.Tensor, folder: pathlib.Path) -> torch.Tensor:
    """A tower of timm, as vit_base_patch16_clip_quickgelu_224 sets it up."""
    code = importlib.import_module("timm.models.vision_transformer")
    sizes = {"img_size": SIDE_PX, "patch_size": PATCH_PX, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
    norm = partial(torch.nn.LayerNorm, eps=1e-5)
    model = code.VisionTransformer(**sizes, pre_norm=True, norm_layer=norm, act_layer="quick_gelu", num_classes=0)
    model = randomise(model, np.random.default_rng(2))
    features = model.forward_head(model.forward_features(pixels), pre_logits=True)
    folder.mkdir(parents=True)
    save_file({name: tensor.half().contiguous() for name, tensor in model.state_dict().items()},
              folder / "model.safetensors")  # fmt: skip
    about = {"architecture": "vit_base_patch16_clip_quickgelu_224", "model_args": {"act_layer": "quick_gelu",
             "num_heads": HEADS}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(about))
    return features


@torch.no_grad()
def write(out: pathlib.Path) -> None:
    """Both towers, and what they give for the same frames."""
    frames = np.random.default_rng(0).standard_normal((2, 1, SIDE_PX, SIDE_PX, 3)).astype(np.float32)
    pixels = torch.from_numpy(frames[:, 0].transpose(0, 3, 1, 2)).double()
    expected = {make.__name__: make(pixels, out / make.__name__).numpy() for make in (open_clip, timm_clip)}
    found = {name: array.astype(np.float32) for name, array in expected.items()}
    np.savez_compressed(out / "expected_clip.npz", frames=frames, **found)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=pathlib.Path, required=True, help="folder with open_clip/ and timm/")
    parser.add_argument("--out", type=pathlib.Path, default=GOLDEN, help="folder in which they are made")
    args = parser.parse_args()
    without_torchvision(args.packages)
    write(args.out)


if __name__ == "__main__":
    main()
