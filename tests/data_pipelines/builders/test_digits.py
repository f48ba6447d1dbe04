import numpy as np
import pytest

from data_pipelines.builders import digits
from data_pipelines.media import media_file
from data_pipelines.stream import pipeline, records
from data_pipelines.stream.host_tf import tf

OPPOSITES = [("left", "right"), ("up", "down"), ("clockwise", "anticlockwise"), ("grow", "shrink")]


def _poses(name, seed=0):
    return digits.moving_poses(name, np.random.default_rng(seed))


def _steps(poses):
    """Changes from frame to frame."""
    return np.diff(poses, axis=0)


def test_train_and_validation_share_no_digit_image():
    train, validation = (digits.digit_images(split)[0] for split in ("train", "validation"))
    assert len(train) + len(validation) == 1797
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in validation}


def test_each_digit_has_a_fifth_of_its_images_in_validation():
    train, validation = (np.bincount(digits.digit_images(split)[1]) for split in ("train", "validation"))
    np.testing.assert_allclose(validation / (train + validation), 0.2, atol=0.004)


def test_prepared_splits_share_no_digit_image(digits_dir):
    def hashes(config, split):
        shards = tf.data.TFRecordDataset(list(records.open_split(f"digits/{config}", split, digits_dir).paths))
        feature = {"source_sha256": tf.io.FixedLenFeature((), tf.string)}
        return {tf.io.parse_single_example(record, feature)["source_sha256"].numpy() for record in shards}

    train, validation = (
        set.union(*(hashes(config, split) for config in digits.CLIPS)) for split in ("train", "validation")
    )
    assert train and validation and not train & validation


@pytest.mark.parametrize(("name", "opposite"), OPPOSITES + [pair[::-1] for pair in OPPOSITES])
def test_a_motion_played_backwards_is_its_opposite(name, opposite):
    backwards, direction = _steps(_poses(name)[::-1]), np.array(digits.MOTIONS[opposite])
    np.testing.assert_array_equal(np.sign(np.round(backwards, 9)), np.tile(direction, (len(backwards), 1)))


def test_a_mirrored_left_is_a_right():
    digit = digits.digit_images("train")[0][0]
    poses = _poses("left")
    mirrored = digits.render(digit, poses)[:, :, ::-1]
    as_right = poses * (1, -1, -1, 1)  # x and angle change their sign
    assert (np.sign(np.round(_steps(as_right), 9)) == digits.MOTIONS["right"]).all()
    np.testing.assert_allclose(mirrored, digits.render(digit[:, ::-1], as_right), atol=1)


@pytest.mark.parametrize(("name", "opposite"), OPPOSITES)
def test_only_the_order_of_frames_tells_a_motion_from_its_opposite(name, opposite):
    """The same draws give the same frames, in the opposite order, about the same middle."""
    backwards = _poses(opposite)[::-1]
    np.testing.assert_allclose(_poses(name), backwards, atol=1e-12)


@pytest.mark.parametrize("name", digits.MOTIONS)
def test_a_moving_digit_can_be_seen_in_every_frame(name):
    digit = digits.digit_images("train")[0][0]
    ink = [digits.render(digit, _poses(name, seed)).sum(axis=(1, 2, 3)).min() for seed in range(50)]
    assert min(ink) > 0.1 * digits.render(digit, np.zeros((1, 4))).sum()


def test_drifting_digits_stay_whole():
    largest = np.hypot(*np.full(2, digits.DIGIT_PX)) * 2 ** digits.DRIFT_RANGE[3] / 2
    assert (digits.DRIFT_RANGE[:2] + largest * np.cos(np.pi / 4 - digits.DRIFT_RANGE[2]) < digits.CANVAS_PX).all()
    digit = np.ones((digits.DIGIT_PX, digits.DIGIT_PX))
    ink = [digits.render(digit, digits.drifting_poses(8, np.random.default_rng(seed))).sum() for seed in range(20)]
    assert min(ink) > 0.4 * max(ink)


def test_rendering_in_the_middle_gives_the_digit_back():
    digit = digits.digit_images("train")[0][3]
    (frame,) = digits.render(digit, np.zeros((1, 4)))
    np.testing.assert_array_equal(frame[4:12, 4:12, 0], np.round(255 * digit))
    assert frame.sum() == 3 * np.round(255 * digit).sum()


def test_turning_is_anticlockwise_for_growing_angles():
    stroke = np.zeros((8, 8))
    stroke[3:5, 4:] = 1  # points to the right
    (turned,) = digits.render(stroke, np.array([[0, 0, np.pi / 2, 0]]))
    assert turned[4:8, 7:9].sum() > 0.9 * turned.sum()  # points up


def test_the_same_bytes_every_time():
    def clip():
        images, labels = digits.digit_images("train")
        name, poses = digits.draw("motion", 3, labels[5], np.random.default_rng(1))
        return name, [media_file.encode_jpeg(frame) for frame in digits.render(images[5], poses)]

    assert clip() == clip()


@pytest.mark.parametrize(
    ("config", "num_frames", "modality", "num_classes"),
    [("appearance", 8, "video", 10), ("motion", 8, "video", 8), ("images", 1, "image", 10)],
)
def test_all_three_read_like_any_other_dataset(digits_dir, dataset, config, num_frames, modality, num_classes):
    split = records.open_split(f"digits/{config}", "train", digits_dir)
    assert (split.modality, len(split.class_names)) == (modality, num_classes)
    dataset.num_frames, dataset.canvas_px = num_frames, (16, 16)
    with pipeline.train_stream(split, dataset, name=config, seed=0, first_batch=0) as stream:
        batch = next(stream)
    assert batch["frames"].shape == (8, num_frames, 16, 16, 3)
    assert batch["weight"].all() and batch["frames"].max() > 200
    assert (batch["label"] < num_classes).all()
