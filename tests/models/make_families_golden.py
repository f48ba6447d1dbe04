"""Writes golden/families/: models of torch libraries on random weights, each with what its own code computes.

    pip install torch==2.13.0 transformers==5.24.0 safetensors numpy
    pip download --no-deps openai-clip==1.0.1 && tar xf openai-clip-1.0.1.tar.gz
    python tests/models/make_families_golden.py --clip=openai-clip-1.0.1

For `test_families.py`. Weights are float16 values, and the models compute in float64.
"""

import argparse
import importlib.util
import json
import pathlib
import sys
import types

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

GOLDEN = pathlib.Path(__file__).parent / "golden" / "families"
SIDE_PX, PATCH_PX, TUBELET, TIMES = 12, 4, 2, 3
WIDTH, DEPTH, HEADS, MLP, REGISTERS = 16, 2, 2, 32, 3
SIZES = {
    "image_size": SIDE_PX, "patch_size": PATCH_PX, "hidden_size": WIDTH, "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
}  # fmt: skip


def randomise(model: torch.nn.Module, rng: np.random.Generator) -> torch.nn.Module:
    """Values that matter: no zero bias, no unit scale, activations of order 1; float16 values, kept in float64."""
    model = model.double().eval()
    for name, parameter in sorted(model.named_parameters()):
        values = rng.standard_normal(parameter.shape)
        if "norm" in name or "ln_" in name:
            values = 0.2 * values + name.endswith("weight")
        elif name.endswith("weight") and parameter.ndim > 1:
            values = values / np.sqrt(parameter[0].numel())
        else:
            values = 0.3 * values
        parameter.data = torch.from_numpy(np.asarray(values).astype(np.float16).astype(np.float64))
    return model


def save(model: torch.nn.Module, folder: pathlib.Path) -> None:
    model.half().save_pretrained(folder)


def hf_clip(frames, folder, rng):
    config = transformers.CLIPVisionConfig(**SIZES, intermediate_size=MLP, projection_dim=8)
    model = randomise(transformers.CLIPVisionModelWithProjection(config), rng)
    features = model.vision_model(pixel_values=frames[:, 0]).pooler_output
    save(model, folder)
    return features


def hf_dinov2_registers(frames, folder, rng):
    config = transformers.Dinov2WithRegistersConfig(**SIZES, mlp_ratio=MLP // WIDTH, num_register_tokens=REGISTERS)
    model = randomise(transformers.Dinov2WithRegistersModel(config), rng)
    features = model(pixel_values=frames[:, 0]).last_hidden_state[:, 0]
    save(model, folder)
    return features


def hf_mae(frames, folder, rng):
    config = transformers.ViTMAEConfig(
        **SIZES, intermediate_size=MLP, mask_ratio=0.0, decoder_hidden_size=8, decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2, decoder_intermediate_size=8,
    )  # fmt: skip
    model = randomise(transformers.ViTMAEForPreTraining(config), rng)
    features = model.vit(pixel_values=frames[:, 0]).last_hidden_state[:, 0]  # with no patch masked
    save(model, folder)
    return features


def hf_vivit(frames, folder, rng):
    """On a still clip as short as one tubelet, whose positions are those in the middle of a longer clip."""
    config = transformers.VivitConfig(
        **SIZES, intermediate_size=MLP, num_frames=TIMES * TUBELET, tubelet_size=[TUBELET, PATCH_PX, PATCH_PX]
    )
    model = randomise(transformers.VivitForVideoClassification(config), rng).vivit
    short = transformers.VivitModel(transformers.VivitConfig(**{**config.to_dict(), "num_frames": TUBELET})).double()
    weights = dict(model.state_dict())
    cls, patches = weights["embeddings.position_embeddings"].split([1, TIMES * 9], dim=1)
    weights["embeddings.position_embeddings"] = torch.cat([cls, patches[:, 9:18]], dim=1)
    weights |= {name: tensor for name, tensor in short.state_dict().items() if name.startswith("pooler.")}
    short.load_state_dict(weights)
    features = short.eval()(pixel_values=frames[:, [0] * TUBELET]).last_hidden_state[:, 0]
    save(model, folder)
    return features


def hf_videomae(frames, folder, rng):
    """Its encoder on the tokens of a still clip with a CLS of zeros before them; it has none itself."""
    config = transformers.VideoMAEConfig(
        **SIZES, intermediate_size=MLP, num_frames=TUBELET, tubelet_size=TUBELET, use_mean_pooling=False,
        decoder_hidden_size=8, decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=8,
    )  # fmt: skip
    model = randomise(transformers.VideoMAEForPreTraining(config), rng)
    videomae = model.videomae
    tokens = videomae.embeddings(frames[:, [0] * TUBELET], None)
    tokens = torch.cat([torch.zeros_like(tokens[:, :1]), tokens], dim=1)
    encoded = videomae.encoder(tokens)
    features = videomae.layernorm(encoded.last_hidden_state)[:, 0]
    save(model, folder)
    return features


def openai_clip(frames, folder, rng, clip: pathlib.Path):
    """OpenAI's image tower inside of a whole CLIP, as a TorchScript program, which is how OpenAI publishes it."""
    model = _openai_tower(clip, rng)
    features = model.visual.ln_post(_before_the_last_norm(model.visual, frames[:, 0]))
    folder.mkdir(parents=True)
    scripted = torch.jit.trace_module(model.half(), {"encode_image": frames[:1, 0].half()})
    scripted.save(str(folder / "scripted.pt"))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    model_cfg = {"quick_gelu": True, "vision_cfg": {"width": WIDTH, "head_width": WIDTH // HEADS}}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg}))
    return features


def _openai_tower(clip: pathlib.Path, rng) -> torch.nn.Module:
    spec = importlib.util.spec_from_file_location("clip_model", clip / "clip" / "model.py")
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)

    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.visual = code.VisionTransformer(SIDE_PX, PATCH_PX, WIDTH, DEPTH, HEADS, output_dim=8)
            self.token_embedding = torch.nn.Embedding(3, 8)
            self.ln_final = torch.nn.LayerNorm(8)
            self.logit_scale = torch.nn.Parameter(torch.ones([]))

        def encode_image(self, image):
            return self.visual(image)

    return randomise(Whole(), rng)


def _before_the_last_norm(visual, images):
    """What `VisionTransformer.forward` gives to its last norm."""
    seen = []
    handle = visual.ln_post.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    visual.ln_post.forward = types.MethodType(torch.nn.LayerNorm.forward, visual.ln_post)  # theirs computes in float32
    for block in visual.transformer.resblocks:
        for norm in (block.ln_1, block.ln_2):
            norm.forward = types.MethodType(torch.nn.LayerNorm.forward, norm)
    visual.ln_pre.forward = types.MethodType(torch.nn.LayerNorm.forward, visual.ln_pre)
    visual(images)
    handle.remove()
    return seen[0]


@torch.no_grad()
def write(out: pathlib.Path, clip: pathlib.Path) -> None:
    out.mkdir(parents=True)
    frames = np.random.default_rng(0).standard_normal((2, 1, SIDE_PX, SIDE_PX, 3)).astype(np.float32)
    pixels = torch.from_numpy(frames.transpose(0, 1, 4, 2, 3)).double()
    expected = {"frames": frames}
    makers = (hf_clip, hf_dinov2_registers, hf_mae, hf_vivit, hf_videomae)
    for number, make in enumerate(makers, 1):
        expected[make.__name__] = make(pixels, out / make.__name__, np.random.default_rng(number)).numpy()
    expected["openai_clip"] = openai_clip(pixels, out / "openai_clip", np.random.default_rng(9), clip).numpy()
    np.savez_compressed(out / "expected.npz", **{name: array.astype(np.float32) for name, array in expected.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=pathlib.Path, required=True, help="folder of openai-clip's source")
    parser.add_argument("--out", type=pathlib.Path, default=GOLDEN, help="folder to make")
    args = parser.parse_args()
    write(args.out, args.clip)
    for path in sorted(args.out.rglob("*.*")):
        print(f"{path}: {path.stat().st_size} bytes", file=sys.stdout)


if __name__ == "__main__":
    main()
