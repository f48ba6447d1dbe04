"""Writes golden/pretrained/: models of torch libraries on random weights, each saved by its own code.

    git clone https://github.com/facebookresearch/TimeSformer
    pip install torch==2.13.0 transformers==5.23.0 timm==1.0.31 safetensors numpy einops
    python tests/models/make_torch_golden.py --clone=TimeSformer

For `test_pretrained.py`; hf_vit_other was made with transformers 5.24.0.

The official TimeSformer is of commit a5ef29a; what it imports and does not need for a
forward pass (fvcore's registry, a module that torch has dropped) is stood in for.
"""

import argparse
import collections.abc
import importlib
import json
import pathlib
import sys
import types

import numpy as np
import timm
import torch
import transformers
from safetensors.torch import save_file

GOLDEN = pathlib.Path(__file__).parent / "golden" / "pretrained"
FRAMES, SIDE_PX, PATCH_PX, CLASSES = 3, 12, 4, 5
WIDTH, DEPTH, HEADS, MLP = 32, 2, 4, 64
CLASS_NAMES = ["ash", "bob", "cup", "dip", "eel"]


def randomise(model: torch.nn.Module, rng: np.random.Generator) -> torch.nn.Module:
    """Values that matter: no zero bias, no unit scale, activations of order 1; float32 values, kept in float64."""
    model = model.double().eval()
    for name, parameter in sorted(model.named_parameters()):
        values = rng.standard_normal(parameter.shape)
        if "norm" in name:
            values = 0.2 * values + name.endswith("weight")
        elif name.endswith("weight"):
            values = values / np.sqrt(parameter[0].numel())
        else:
            values = 0.3 * values
        parameter.data = torch.from_numpy(values.astype(np.float32).astype(np.float64))
    return model


def hugging_face_config(config_class, **more):
    return config_class(
        image_size=SIDE_PX,
        patch_size=PATCH_PX,
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(CLASS_NAMES)),
        **more,
    )


def hf_vit(frames, folder, rng) -> dict:
    config = hugging_face_config(transformers.ViTConfig, intermediate_size=MLP, layer_norm_eps=1e-6)
    model = randomise(transformers.ViTForImageClassification(config), rng)
    tokens = model.vit(pixel_values=frames[:, 0]).last_hidden_state
    outputs = {"tokens": tokens, "logits": model(pixel_values=frames[:, 0]).logits}
    model.float().save_pretrained(folder)
    return outputs


def hf_vit_other(frames, folder, rng) -> dict:
    """Another activation, and an epsilon that matters."""
    config = hugging_face_config(
        transformers.ViTConfig, intermediate_size=MLP, layer_norm_eps=1e-2, hidden_act="gelu_new"
    )
    model = randomise(transformers.ViTForImageClassification(config), rng)
    outputs = {"logits": model(pixel_values=frames[:, 0]).logits}
    model.float().save_pretrained(folder)
    return outputs


def hf_dinov2(frames, folder, rng) -> dict:
    config = hugging_face_config(transformers.Dinov2Config, mlp_ratio=MLP // WIDTH, layer_norm_eps=1e-6)
    model = randomise(transformers.Dinov2Model(config), rng)
    outputs = {"tokens": model(pixel_values=frames[:, 0]).last_hidden_state}
    model.float().save_pretrained(folder)
    return outputs


def hf_timesformer(frames, folder, rng) -> dict:
    config = hugging_face_config(transformers.TimesformerConfig, intermediate_size=MLP, num_frames=FRAMES)
    model = randomise(transformers.TimesformerForVideoClassification(config), rng)
    outputs = {"logits": model(pixel_values=frames).logits}
    model.float().save_pretrained(folder)
    return outputs


def timm_vit(frames, folder, rng) -> dict:
    model = timm.models.VisionTransformer(
        img_size=SIDE_PX, patch_size=PATCH_PX, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, mlp_ratio=MLP / WIDTH,
        num_classes=CLASSES, init_values=1.0,
    )  # fmt: skip
    model = randomise(model, rng)
    outputs = {"tokens": model.forward_features(frames[:, 0]), "logits": model(frames[:, 0])}
    folder.mkdir()
    save_file(model.float().state_dict(), folder / "model.safetensors")
    pretrained_cfg = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    config = {"architecture": "none", "label_names": CLASS_NAMES, "pretrained_cfg": pretrained_cfg}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return outputs


def official_vit(clone: pathlib.Path):
    """timesformer.models.vit, without the packages' own imports."""
    for name in ("timesformer", "timesformer.models"):
        package = types.ModuleType(name)
        package.__path__ = [str(clone.joinpath(*name.split(".")))]
        sys.modules[name] = package
    registry = types.SimpleNamespace(register=lambda: lambda thing: thing)
    sys.modules["timesformer.models.build"] = types.SimpleNamespace(MODEL_REGISTRY=registry)
    sys.modules["torch._six"] = types.SimpleNamespace(container_abcs=collections.abc)
    return importlib.import_module("timesformer.models.vit")


def official_timesformer(frames, file, rng, clone) -> dict:
    """Saved as its utils/checkpoint.py does."""
    vit = official_vit(clone)
    model = torch.nn.Module()
    model.model = vit.VisionTransformer(
        img_size=SIDE_PX, patch_size=PATCH_PX, num_classes=CLASSES, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS,
        mlp_ratio=MLP / WIDTH, qkv_bias=True, num_frames=FRAMES,
        norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6),
    )  # fmt: skip
    model = randomise(model, rng)
    outputs = {"logits": model.model(frames.transpose(1, 2))}
    model.float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = {"epoch": 3, "model_state": model.state_dict(), "optimizer_state": optimizer.state_dict(), "cfg": "A: 1\n"}
    torch.save(state, file)
    return outputs


def resized() -> dict[str, np.ndarray]:
    """A position embedding of 4 x 4 patches, and torch's bicubic resize of it to 3 x 3 and 7 x 7."""
    rng = np.random.default_rng(1)
    embedding = rng.standard_normal((1, 17, 4))
    grid = torch.from_numpy(embedding[:, 1:].reshape(1, 4, 4, 4)).permute(0, 3, 1, 2)
    found = {"resize/4": embedding}
    for size in (3, 7):
        new = torch.nn.functional.interpolate(grid, size=(size, size), mode="bicubic", align_corners=False)
        patches = new.permute(0, 2, 3, 1).reshape(1, size * size, 4).numpy()
        found[f"resize/{size}"] = np.concatenate([embedding[:, :1], patches], axis=1)
    return found


@torch.no_grad()
def write(out: pathlib.Path, clone: pathlib.Path) -> None:
    out.mkdir(parents=True)
    rng = np.random.default_rng(0)
    frames = rng.standard_normal((2, FRAMES, SIDE_PX, SIDE_PX, 3)).astype(np.float32)
    pixels = torch.from_numpy(frames.transpose(0, 1, 4, 2, 3)).double()
    expected = {"frames": frames, **resized()}
    for make in (hf_vit, hf_dinov2, hf_timesformer, timm_vit):
        outputs = make(pixels, out / make.__name__, rng)
        expected |= {f"{make.__name__}/{name}": tensor.numpy() for name, tensor in outputs.items()}
    outputs = hf_vit_other(pixels, out / "hf_vit_other", np.random.default_rng(2))
    expected |= {f"hf_vit_other/{name}": tensor.numpy() for name, tensor in outputs.items()}
    outputs = official_timesformer(pixels, out / "timesformer.pyth", rng, clone)
    expected |= {f"timesformer/{name}": tensor.numpy() for name, tensor in outputs.items()}
    np.savez_compressed(out / "expected.npz", **{name: array.astype(np.float32) for name, array in expected.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clone", type=pathlib.Path, required=True, help="clone of TimeSformer")
    parser.add_argument("--out", type=pathlib.Path, default=GOLDEN, help="folder to make")
    args = parser.parse_args()
    write(args.out, args.clone)
    for path in sorted(args.out.rglob("*.*")):
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
