"""Where and when a model looks: attention rollout (arXiv 2005.00928) through divided space-time attention.

Assumption: each attention outputs half of the token itself (residual branch) and half of the tokens that its heads
attend to on average. MLPs and projections are ignored. The rollout goes back from the CLS token after the last block to
the first block, and gives the share of CLS that comes from each patch of each frame. All classification heads read the
same CLS token, so the result is the same for all of them.
"""

from typing import Any

import av
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from ml_collections import ConfigDict
from PIL import Image

from cover_jax.models import attention, cover, timesformer, variants
from cover_jax.models.kernels.divided_attention import Axis

# B batch, T frames, H height, W width, N patches of a frame, G registers and CLS, S = N + G tokens of a frame, CLS
# last, C colours; h, w patches of a column and of a row; L blocks

SIDE_PX = 256  # of the drawn pictures; views are resized to it
BAR_PX = 32  # height of the bars below the picture: one bar per frame, with the frame's share
SHADE = 0.25  # brightness of what is not looked at
SHOWN_FPS = 2  # slow enough to look at each frame
_SCORES = {"time": "bqshk,btshk->bshqt", "space": "btqhk,btshk->bthqs"}  # queries first


class _Recorder:
    """Computes attention like the form of a config, and records the probabilities."""

    def __init__(self, model: ConfigDict):
        variant = variants.parse(model.variant)
        self._num_heads = variant.num_heads
        self._own = attention.own_form(model.attention, variant.num_heads, variant.width // variant.num_heads)
        self._seen: dict[str, jax.Array] = {}

    def order_columns(self, projection: jax.Array) -> jax.Array:
        """Returns the columns unchanged."""
        return projection

    def __call__(self, qkv_BTSC: jax.Array, axis: Axis) -> jax.Array:
        """Attention along one axis. Records its probabilities."""
        if self._own is not None:
            self._seen[axis] = self._own.probabilities(qkv_BTSC, axis)
            return self._own(qkv_BTSC, axis)
        self._seen[axis] = probabilities(qkv_BTSC, self._num_heads, axis)
        return attention.attend(qkv_BTSC, self._num_heads, axis)

    def take(self) -> dict[str, jax.Array]:
        """The probabilities recorded since the last call, by axis. For a single frame, "time" is always 1."""
        seen, self._seen = self._seen, {}
        return seen


def probabilities(qkv_BTSC: jax.Array, num_heads: int, axis: Axis) -> jax.Array:
    """The mean over heads of attention's float32 probabilities, [B, S, T, T] ("time") or [B, T, S, S] ("space")."""
    query, key, _ = rearrange(qkv_BTSC, "b t s (c h k) -> c b t s h k", c=3, h=num_heads)
    scores = jnp.einsum(_SCORES[axis], query, key, preferred_element_type=jnp.float32)
    return jax.nn.softmax(scores * query.shape[-1] ** -0.5, axis=-1).mean(axis=2)


def trace(backbone: dict, model: ConfigDict, frames_BTHWC: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """CLS features [B, D], and the attention of each block: "time" [L, B, N, T, T], "space" [L, B, T, S, S].

    Args:
        backbone: its parameters.
        model: `config.model`.
        frames_BTHWC: normalised.
    """
    recorder = _Recorder(model)
    module: Any = cover.make_backbone(model, recorder).bind(backbone)  # a TimeSformer

    def step(tokens, block):
        return block(tokens, jnp.zeros(()), None), recorder.take()

    tokens = module.with_registers(*module.embed(frames_BTHWC))
    after, seen = jax.lax.scan(step, tokens, timesformer.cast_matrices(module.blocks, module.config.dtype))
    return module.norm(after.cls_BD), seen


def rollout(seen: dict[str, jax.Array], registers: int = 0) -> jax.Array:
    """The share of each patch in CLS, [B, T, N]. The remainder to 1 is that of the initial CLS and registers.

    Args:
        seen: the attention of each block, as `trace` returns it.
        registers: the model's number of register tokens.
    """
    _, batch, frames, num_tokens, _ = seen["space"].shape
    num_patches = num_tokens - 1 - registers

    def back(shares, seen):
        shared_BG, x_BTN = shares
        # CLS and a register after the block are the means of their copies, one per frame.
        x_BTS = jnp.concatenate([x_BTN, repeat(shared_BG / frames, "b g -> b t g", t=frames)], axis=-1)
        from_BTS = jnp.einsum("btq,btqs->bts", x_BTS, seen["space"])
        shared_BG = (shared_BG + from_BTS[..., num_patches:].sum(axis=1)) / 2
        x_BTN = (x_BTN + from_BTS[..., :num_patches]) / 2
        if "time" in seen:
            x_BTN = (x_BTN + jnp.einsum("bqn,bnqt->btn", x_BTN, seen["time"])) / 2
        return (shared_BG, x_BTN), None

    cls_BG = jnp.zeros((batch, 1 + registers)).at[:, -1].set(1)
    return jax.lax.scan(back, (cls_BG, jnp.zeros((batch, frames, num_patches))), seen, reverse=True)[0][1]


def draw(frames_THWC: np.ndarray, shares_Thw: np.ndarray) -> np.ndarray:
    """A clip's frames, bright where the model looks, above one bar per frame: uint8 [T, 256 + 32, 256, 3].

    Brightness and bars are relative to the maximum of the clip. The white bar belongs to the frame that is shown.
    """
    heat_Thw = shares_Thw / shares_Thw.max()
    of_frames_T = shares_Thw.sum(axis=(1, 2))
    bars_T = np.round(of_frames_T / of_frames_T.max() * BAR_PX).astype(int)
    clip = zip(frames_THWC, heat_Thw, strict=True)
    return np.stack([np.concatenate([_shaded(*pair), _bars(bars_T, t)]) for t, pair in enumerate(clip)])


def write(path: str, pictures_THWC: np.ndarray) -> None:
    """Writes a video. The file extension of the path selects the format.

    Raises:
        ValueError: the extension is not that of a video format.
        OSError: the file cannot be written.
    """
    with av.open(path, "w") as container:
        stream = container.add_stream(container.default_video_codec, rate=SHOWN_FPS)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = pictures_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in pictures_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _shaded(frame_HWC: np.ndarray, heat_hw: np.ndarray) -> np.ndarray:
    size = (SIDE_PX, SIDE_PX)
    light = np.asarray(Image.fromarray(heat_hw.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    picture = np.asarray(Image.fromarray(frame_HWC).resize(size, Image.Resampling.BILINEAR))
    return np.round(picture * (SHADE + (1 - SHADE) * light)[..., None]).astype(np.uint8)


def _bars(heights_T: np.ndarray, shown: int) -> np.ndarray:
    """A strip [BAR_PX, SIDE_PX, 3] with bars that start at its lower edge."""
    frame_W = np.arange(SIDE_PX) * len(heights_T) // SIDE_PX
    filled_HW = np.arange(BAR_PX)[::-1, None] < heights_T[frame_W]
    level_HW = filled_HW * np.where(frame_W == shown, 255, 110)
    return repeat(level_HW.astype(np.uint8), "h w -> h w c", c=3)
