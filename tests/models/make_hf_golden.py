"""Writes golden/timesformer_hf.npz: Hugging Face's TimeSformer on random weights, for `test_hf_parity.py`.

    pip install torch==2.13.0 transformers numpy
    python tests/models/make_hf_golden.py

Weights and gradients are stored under this project's names. Running it again gives the same bytes.
"""

import argparse
import pathlib

import numpy as np
import torch
import transformers

GOLDEN = pathlib.Path(__file__).parent / "golden" / "timesformer_hf.npz"
BATCH, FRAMES, SIDE_PX, PATCH_PX, CLASSES = 2, 3, 12, 4, 5
WIDTH, DEPTH, HEADS, MLP = 32, 2, 4, 64


def reference_model() -> transformers.TimesformerForVideoClassification:
    """In float64, so that the difference that the test sees is this project's alone."""
    config = transformers.TimesformerConfig(
        image_size=SIDE_PX,
        patch_size=PATCH_PX,
        num_frames=FRAMES,
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=MLP,
        num_labels=CLASSES,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attention_type="divided_space_time",
    )
    return transformers.TimesformerForVideoClassification(config).double().eval()


def randomise(model: torch.nn.Module, rng: np.random.Generator) -> None:
    """Gives every tensor values that matter: no zero bias, no unit scale, activations of order 1."""
    for name, parameter in sorted(model.named_parameters()):
        values = rng.standard_normal(parameter.shape)
        if "norm" in name:
            values = 0.2 * values + name.endswith("weight")
        elif parameter.ndim == 2 or parameter.ndim == 4:
            values = values / np.sqrt(parameter[0].numel())
        else:
            values = 0.3 * values
        # Rounded to float32, in which they are stored.
        parameter.data = torch.from_numpy(values.astype(np.float32).astype(np.float64))


def linear(tensors: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {"kernel": tensors[f"{name}.weight"].T, "bias": tensors[f"{name}.bias"]}


def norm(tensors: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {"scale": tensors[f"{name}.weight"], "bias": tensors[f"{name}.bias"]}


def attention(tensors: dict[str, np.ndarray], name: str) -> dict[str, dict]:
    return {"qkv": linear(tensors, f"{name}.attention.qkv"), "out": linear(tensors, f"{name}.output.dense")}


def block(tensors: dict[str, np.ndarray], index: int) -> dict[str, dict]:
    prefix = f"timesformer.encoder.layer.{index}"
    return {
        "temporal_norm": norm(tensors, f"{prefix}.temporal_layernorm"),
        "time": attention(tensors, f"{prefix}.temporal_attention"),
        "temporal_fc": linear(tensors, f"{prefix}.temporal_dense"),
        "spatial_norm": norm(tensors, f"{prefix}.layernorm_before"),
        "space": attention(tensors, f"{prefix}.attention"),
        "mlp_norm": norm(tensors, f"{prefix}.layernorm_after"),
        "mlp": {
            "fc1": linear(tensors, f"{prefix}.intermediate.dense"),
            "fc2": linear(tensors, f"{prefix}.output.dense"),
        },
    }


def patch_embed(tensors: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """A convolution [out, channel, row, column] as a linear layer from (row, column, channel)."""
    kernel = tensors[f"{name}.weight"].transpose(2, 3, 1, 0).reshape(-1, WIDTH)
    return {"kernel": kernel, "bias": tensors[f"{name}.bias"]}


def flatten(tree: dict, prefix: str) -> dict[str, np.ndarray]:
    flat = {}
    for name, value in tree.items():
        path = f"{prefix}/{name}"
        flat |= flatten(value, path) if isinstance(value, dict) else {path: value}
    return flat


def named(tensors: dict[str, np.ndarray], root: str) -> dict[str, np.ndarray]:
    """Hugging Face's tensors under this project's paths, blocks stacked, the head called "golden"."""
    embeddings = "timesformer.embeddings"
    blocks = [flatten(block(tensors, index), f"{root}/backbone/blocks") for index in range(DEPTH)]
    backbone = {
        "patch_embed": patch_embed(tensors, f"{embeddings}.patch_embeddings.projection"),
        "cls_token": tensors[f"{embeddings}.cls_token"],
        "pos_embed": tensors[f"{embeddings}.position_embeddings"],
        "time_embed": tensors[f"{embeddings}.time_embeddings"],
        "norm": norm(tensors, "timesformer.layernorm"),
    }
    flat = flatten({"backbone": backbone, "heads": {"golden": linear(tensors, "classifier")}}, root)
    return flat | {path: np.stack([leaves[path] for leaves in blocks]) for path in blocks[0]}


def golden() -> dict[str, np.ndarray]:
    """Frames, labels, logits, loss, and under params/ and grads/ every tensor."""
    rng = np.random.default_rng(0)
    model = reference_model()
    randomise(model, rng)
    frames = rng.standard_normal((BATCH, FRAMES, SIDE_PX, SIDE_PX, 3)).astype(np.float32)
    labels = np.array([1, 4], np.int32)
    pixels = torch.from_numpy(frames.transpose(0, 1, 4, 2, 3)).double()
    output = model(pixel_values=pixels)
    loss = torch.nn.functional.cross_entropy(output.logits, torch.from_numpy(labels).long())
    loss.backward()
    arrays = {"frames": frames, "labels": labels, "logits": output.logits.detach().numpy(), "loss": loss.item()}
    arrays |= named({name: tensor.detach().numpy() for name, tensor in model.named_parameters()}, "params")
    arrays |= named({name: tensor.grad.numpy() for name, tensor in model.named_parameters()}, "grads")
    return {name: as_float32(array) for name, array in arrays.items()}


def as_float32(array: np.ndarray | float) -> np.ndarray:
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=GOLDEN, help="file to write")
    out = parser.parse_args().out
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out, **golden())
    print(f"{out}: {out.stat().st_size} bytes, torch {torch.__version__}, transformers {transformers.__version__}")


if __name__ == "__main__":
    main()
