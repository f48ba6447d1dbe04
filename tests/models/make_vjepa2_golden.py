"""Writes golden/vjepa2_probe.npz: V-JEPA 2's attentive probe on random weights, by its own code.

    git clone https://github.com/facebookresearch/vjepa2
    pip install torch==2.13.0 timm numpy
    PYTHONPATH=vjepa2 python tests/models/make_vjepa2_golden.py

For `test_heads.py`. The clone is of commit c2963a4. The weights are float32 values; the logits were computed in
float64.
"""

import pathlib

import numpy as np
import torch
from src.models.attentive_pooler import AttentiveClassifier

GOLDEN = pathlib.Path(__file__).parent / "golden" / "vjepa2_probe.npz"
CLIPS, FRAMES, PATCHES, WIDTH, DEPTH, HEADS, CLASSES = 2, 3, 4, 8, 3, 2, 5


def main() -> None:
    rng = np.random.default_rng(0)
    probe = AttentiveClassifier(embed_dim=WIDTH, num_heads=HEADS, depth=DEPTH, num_classes=CLASSES).double().eval()
    for name, parameter in sorted(probe.named_parameters()):
        values = rng.standard_normal(parameter.shape) * (0.5 if parameter.ndim > 1 else 0.3) + ("norm" in name)
        parameter.data = torch.from_numpy(values.astype(np.float32).astype(np.float64))
    tokens = rng.standard_normal((CLIPS, FRAMES * PATCHES, WIDTH)).astype(np.float32)
    with torch.no_grad():
        logits = probe(torch.from_numpy(tokens).double()).numpy()
    weights = {name: parameter.data.numpy().astype(np.float32) for name, parameter in probe.named_parameters()}
    np.savez_compressed(GOLDEN, tokens=tokens.reshape(CLIPS, FRAMES, PATCHES, WIDTH), logits=logits, **weights)


if __name__ == "__main__":
    main()
