"""Hugging Face's TimeSformer in torch, with this project's weights: the training step that `model` compares with."""

import contextlib
from collections.abc import Callable

import numpy as np
import torch
import transformers
from einops import rearrange
from ml_collections import ConfigDict
from transformers.models.timesformer import modeling_timesformer

from cover_jax.models import variants
from cover_jax.models.pretrained import hugging_face_export


class FusedAttention(modeling_timesformer.TimesformerSelfAttention):
    """Theirs by `scaled_dot_product_attention`, which their class does not know."""

    def forward(self, hidden_states, output_attentions=False):
        query, key, value = rearrange(self.qkv(hidden_states), "b s (c h k) -> c b h s k", c=3, h=self.num_heads)
        attended = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        return (rearrange(attended, "b h s k -> b s (h k)"),)


def build(params: dict, head: str, model: ConfigDict, num_classes: int) -> torch.nn.Module:
    """Their model with the tensors that `export --format=hugging_face` would write, every one of them."""
    about = hugging_face_export.config(model, [str(index) for index in range(num_classes)], None)
    built = transformers.TimesformerForVideoClassification(transformers.TimesformerConfig(**about))
    tensors = hugging_face_export.tensors(params, head, variants.parse(model.variant).patch_px)
    built.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in tensors.items()})
    return built.train()


def fuse(model: torch.nn.Module) -> torch.nn.Module:
    """The same model with fused attention, compiled."""
    for module in model.modules():
        if isinstance(module, modeling_timesformer.TimesformerSelfAttention):
            module.__class__ = FusedAttention
    return torch.compile(model)


def make_step(model: torch.nn.Module, frames_BTHWC: np.ndarray, label_B: np.ndarray, device: str) -> Callable:
    """A training step at learning rate 0, which waits for its end and returns the logits, as a function of nothing.

    On "cuda" activations are bfloat16 and parameters float32; on "cpu" everything is float32.
    """
    pixels = torch.from_numpy(rearrange(frames_BTHWC, "b t h w c -> b t c h w").copy()).to(device)
    labels = torch.from_numpy(label_B).long().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    precision = torch.autocast(device, torch.bfloat16) if device == "cuda" else contextlib.nullcontext()

    def step() -> np.ndarray:
        optimizer.zero_grad()
        with precision:
            logits = model(pixel_values=pixels).logits.float()
        torch.nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return logits.detach().cpu().numpy()

    return step
