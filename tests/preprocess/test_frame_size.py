"""The canvas that follows the model, and how much frames are enlarged."""

import re

import numpy as np
import pytest

from cover_jax.preprocess import frame_size
from tests.helpers import small

WIDE, SMALL, TALL = (720, 1280), (256, 456), (910, 512)  # height, width


def config(size_px: int = 448, canvas_px=(0, 0), **augment):
    found = small.config(model__variant="mu/8", model__size_px=size_px)
    for dataset in found.datasets.values():
        dataset.canvas_px = canvas_px
        dataset.augment.update(augment)
    return found


def stored(*sizes, evaluated=None) -> dict:
    """Sizes of the records of `video`; `images` has none that can be read."""
    shapes = np.int32(sizes)
    none = np.zeros((0, 2), np.int32)
    return {"video": (shapes, shapes if evaluated is None else np.int32(evaluated)), "images": (none, none)}


@pytest.mark.parametrize(("size_px", "sizes", "augment", "canvas_px"), [
    (448, [WIDE] * 4, {}, (512, 910)),  # shrunk to 8/7 of the model's size
    (224, [WIDE] * 4, {}, (256, 455)),
    (448, [SMALL] * 4, {}, (256, 456)),  # as stored: the host enlarges nothing
    (448, [TALL] * 4, {}, (910, 512)),
    (448, [WIDE] * 3 + [TALL] * 3, {}, (910, 910)),  # no kind of frame loses rows
    (448, [WIDE] * 19 + [TALL], {}, (512, 910)),  # but a rare one does
    (448, [WIDE] * 4, {"crop": "scale", "crop_range": (1.0, 1.25)}, (560, 996)),  # up to the largest zoom
])  # fmt: skip
def test_the_canvas_holds_what_the_model_needs_of_what_is_stored(size_px, sizes, augment, canvas_px):
    found = frame_size.with_canvases(config(size_px, **augment), stored(*sizes))
    assert found.datasets.video.canvas_px == canvas_px


def test_without_a_record_the_canvas_is_16_to_9():
    for sizes in ({}, stored(WIDE)):
        assert frame_size.with_canvases(config(448), sizes).datasets.images.canvas_px == (512, 911)


def test_a_given_canvas_stays_and_the_config_is_not_changed():
    given = config(448, canvas_px=(20, 30))
    assert frame_size.with_canvases(given, stored(WIDE)) is given
    following = config(448)
    frame_size.with_canvases(following, stored(WIDE))
    assert following.datasets.video.canvas_px == (0, 0)


def enlargement(settings, sizes, prepared_px=None) -> frame_size.Enlargement:
    resolved = frame_size.with_canvases(settings, sizes)
    found = frame_size.enlargements(resolved, sizes, {"video": prepared_px})
    assert list(found) == ["video"]  # nothing is known of the other
    return found["video"]


def test_frames_of_256_rows_are_enlarged_for_448_px_and_it_is_said_what_to_do():
    """The figures of configs/cover_l.py until 0.2.0."""
    found = enlargement(config(448, crop="area", crop_range=(0.3, 1.0)), stored(SMALL), prepared_px=256)
    assert found.evaluation == pytest.approx(1.75)
    assert found.train == pytest.approx(448 / np.sqrt(0.44 * 256 * 456), rel=0.03)
    assert found.line("k400") == (
        f"WARNING: k400: median enlargement {found.train:.3g} in training, 1.75 in evaluation: prepare again with "
        "--short_side_px=512, or lower config.model.size_px"
    )


def test_frames_of_512_rows_are_not():
    found = enlargement(config(448, crop="area", crop_range=(0.3, 1.0)), stored((512, 910)), prepared_px=512)
    assert found.evaluation == pytest.approx(448 / 512) and found.train < 1 and not found.remedy
    assert found.line("k400") == f"k400: median enlargement {found.train:.3g} in training, 0.875 in evaluation"


def test_each_dataset_is_measured_as_its_split_and_its_crop_are():
    found = enlargement(config(224, crop="none"), stored(WIDE, SMALL, SMALL, evaluated=[(128, 200)]))
    assert found.train == pytest.approx(224 / 256) and found.evaluation == pytest.approx(224 / 128)
    settings = config(224, crop="none")
    settings.datasets.video.eval_split = ""
    found = enlargement(settings, stored(SMALL))
    assert found.evaluation is None and "in evaluation" not in found.line("video")


@pytest.mark.parametrize(("size_px", "canvas_px", "sizes", "prepared_px", "remedy"), [
    (448, (256, 456), [WIDE], 512, r"raise config\.datasets\.video\.canvas_px=\(256, 456\), to which"),
    (448, (0, 0), [SMALL], 256, "prepare again with --short_side_px=512"),
    (448, (0, 0), [(240, 320)], 256, "no more pixels than a median of 240 rows or columns: lower config.model.size_px"),
    (448, (0, 0), [SMALL], None, "no more pixels than a median of 256 rows"),
    (224, (0, 0), [SMALL], 256, None),
])  # fmt: skip
def test_the_remedy_is_of_what_keeps_the_pixels_away(size_px, canvas_px, sizes, prepared_px, remedy):
    found = enlargement(config(size_px, canvas_px, crop="none"), stored(*sizes), prepared_px)
    if remedy is None:
        assert not found.remedy
    else:
        assert re.search(remedy, found.remedy), found.remedy
