"""Where and when a model looks: attention rollout (arXiv 2005.00928) through divided space-time attention.

Assumption: each attention outputs half of the token itself (residual branch) and half of the tokens that its heads
attend to on average. MLPs and projections are ignored. The rollout goes back from the CLS token after the last block to
the first block, and gives the share of CLS that comes from each patch of each frame. All classification heads read the
same CLS token, so the result is the same for all of them.
"""

from collections.abc import Sequence
from typing import Any

import av
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from ml_collections import ConfigDict
from PIL import Image, ImageDraw, ImageFont

from cover_jax.models import attention, cover, timesformer, variants
from cover_jax.models.kernels.divided_attention import Axis
from cover_jax.preprocess import crop

# B batch, T frames, H height, W width, N patches of a frame, G registers and CLS, S = N + G tokens of a frame, CLS
# last, C colours; h, w patches of a column and of a row; L blocks

LEAST_SIDE_PX = 256  # of the drawn frames' shorter side; smaller frames are enlarged
BAR_PART = 8  # the bars below the picture, one per frame with the frame's share, have at most this part of its height
TEXT_PART, LEAST_TEXT_PX = 20, 13  # height of a line of text: this part of the frame's height, at least so many pixels
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


def draw(
    frames_THWC: np.ndarray, shares_Thw: np.ndarray, box: crop.Box, captions: Sequence[Sequence[str]]
) -> np.ndarray:
    """A clip's frames, bright where the model looks, above one bar per frame.

    Brightness and bars are relative to the maximum of the clip. What the model does not see is as dark as what it does
    not look at. The white bar belongs to the frame that is shown.

    Args:
        frames_THWC: at their own size. Small ones are enlarged by a whole number, so that the captions can be read.
        shares_Thw: the share of each patch (`rollout`).
        box: the part of the frames that the model sees, in their pixels.
        captions: lines of text per frame. A line that is too long is cut.

    Returns:
        uint8 [T, height, width, 3]: the frames' height and width, rounded up to even numbers, and the bars below.
    """
    factor = -(-LEAST_SIDE_PX // min(frames_THWC.shape[1:3]))
    frames_THWC = repeat(frames_THWC, "t h w c -> t (h i) (w j) c", i=factor, j=factor)
    box = crop.Box(*(side * factor for side in box))
    heat_Thw = shares_Thw / shares_Thw.max()
    of_frames_T = shares_Thw.sum(axis=(1, 2))
    height, width = frames_THWC.shape[1:3]
    bars_T = np.round(of_frames_T / of_frames_T.max() * (height // BAR_PART)).astype(int)
    drawn = []
    for t, (frame, heat, lines) in enumerate(zip(frames_THWC, heat_Thw, captions, strict=True)):
        picture = _captioned(_shaded(frame, heat, box), lines)
        drawn.append(np.concatenate([picture, _bars(bars_T, t, height // BAR_PART, width)]))
    return np.pad(np.stack(drawn), [(0, 0), *((0, side % 2) for side in drawn[0].shape[:2]), (0, 0)])


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


def _shaded(frame_HWC: np.ndarray, heat_hw: np.ndarray, box: crop.Box) -> np.ndarray:
    """The frame, dark outside of the box, and in it as bright as the heat, which covers the box."""
    top, left, height, width = (round(float(side)) for side in box)
    heat = Image.fromarray(heat_hw.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    light_HW = np.full(frame_HWC.shape[:2], SHADE, np.float32)
    light_HW[top : top + height, left : left + width] += (1 - SHADE) * np.asarray(heat)
    return np.round(frame_HWC * light_HW[..., None]).astype(np.uint8)


def _captioned(frame_HWC: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """The frame with white lines on black at its top left."""
    image, size_px = Image.fromarray(frame_HWC), max(LEAST_TEXT_PX, frame_HWC.shape[0] // TEXT_PART)
    pen, font, margin = ImageDraw.Draw(image), ImageFont.load_default(size_px), size_px // 3
    top = 0
    for line in lines:
        shown = line
        while len(shown) > 1 and pen.textlength(shown, font) > image.width - 2 * margin:
            shown = f"{shown.removesuffix('...')[:-1]}..."
        bottom, right = top + size_px + margin, pen.textlength(shown, font) + 2 * margin
        pen.rectangle((0, top, right, bottom), fill="black")
        pen.text((margin, top + margin // 2), shown, fill="white", font=font)
        top = bottom
    return np.asarray(image)


def _bars(heights_T: np.ndarray, shown: int, height: int, width: int) -> np.ndarray:
    """A strip [height, width, 3] with bars that start at its lower edge."""
    frame_W = np.arange(width) * len(heights_T) // width
    filled_HW = np.arange(height)[::-1, None] < heights_T[frame_W]
    level_HW = filled_HW * np.where(frame_W == shown, 255, 110)
    return repeat(level_HW.astype(np.uint8), "h w -> h w c", c=3)
